import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import http from 'node:http'
import http2 from 'node:http2'
import net, { type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { Duplex } from 'node:stream'
import { CAPABILITY_VERSION, formatHandshakeHeader, MapChunkReader, NOISE_HANDSHAKE_HEADER, NOISE_UPGRADE, NoiseInitiator } from '@meshwright/control-protocol'
import { utf8Decode } from '@meshwright/core'
import { MachinePrivateKey } from '@meshwright/crypto'
import { fetchControlKey, nodeCryptoProvider, systemRandom } from '@meshwright/runtime-node/control'
import { afterEach, describe, expect, test } from 'vitest'
import { createWebSocketStream, WebSocket } from 'ws'
import { NoiseStream } from '../../../packages/runtime-node/src/noise-stream.ts'
import { ask } from './cli/client.ts'
import { freePort } from '../../demo/src/free-port.ts'
import { writeConfigForTests } from './config-for-tests.ts'
import { type RunningServer, startServer } from './serve.ts'

// The server through real sockets, as nodes reach it, with a client that does what no decent one does.
const MEGABYTE = 1_048_576
const WIDE_OPEN = '{"acls":[{"action":"accept","src":["*"],"dst":["*:*"]}],"ssh":[{"action":"check","src":["autogroup:member"],"dst":["autogroup:self"],"users":["root"]}]}'
const cleanups: (() => void | Promise<void>)[] = []

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

interface Answer {
  readonly status: number
  readonly headers: http2.IncomingHttpHeaders
  readonly text: string
}

/** One control connection, for any request. */
class Wire {
  readonly machine: MachinePrivateKey
  readonly #session: http2.ClientHttp2Session

  constructor(machine: MachinePrivateKey, session: http2.ClientHttp2Session) {
    this.machine = machine
    this.#session = session
  }

  request(method: string, target: string, body?: unknown, authority = 'unused'): http2.ClientHttp2Stream {
    const stream = this.#session.request({ ':method': method, ':path': target, ':authority': authority, ':scheme': 'https' }, { endStream: body === undefined })
    stream.on('error', () => undefined) // `close` follows
    if (body !== undefined) stream.end(Buffer.isBuffer(body) ? body : JSON.stringify(body))
    return stream
  }

  ask(method: string, target: string, body?: unknown, authority?: string): Promise<Answer> {
    const stream = this.request(method, target, body, authority)
    return new Promise((resolve, reject) => {
      let headers: http2.IncomingHttpHeaders & { readonly ':status'?: number | undefined } = {}
      let text = ''
      stream.setEncoding('utf8')
      stream.on('response', (given) => (headers = given))
      stream.on('data', (more: string) => (text += more))
      stream.on('close', () => (headers[':status'] === undefined ? reject(new Error(`${target}: no answer (code ${stream.rstCode})`)) : resolve({ status: headers[':status'], headers, text })))
    })
  }

  /** Opens a poll; gives the frames as they come. */
  poll(nodeKey: string): { readonly frames: string[]; readonly ended: Promise<unknown>; readonly stream: http2.ClientHttp2Stream } {
    const stream = this.request('POST', '/machine/map', { Version: CAPABILITY_VERSION, NodeKey: nodeKey, DiscoKey: `discokey:${'12'.repeat(32)}`, Stream: true, KeepAlive: true })
    const reader = new MapChunkReader()
    const frames: string[] = []
    stream.on('data', (bytes: Buffer) => {
      reader.push(new Uint8Array(bytes))
      for (let json = reader.next(); json !== undefined; json = reader.next()) frames.push(utf8Decode(json))
    })
    return { frames, ended: once(stream, 'close'), stream }
  }

  close(): void {
    this.#session.destroy()
  }
}

interface Site {
  readonly server: RunningServer
  readonly url: string
  readonly socket: string
  /** A user's auth key. */
  authKey(more?: object): Promise<string>
  dial(machine?: MachinePrivateKey, options?: { readonly through?: string; readonly webSocket?: boolean; readonly method?: string; readonly forwardedFor?: string }): Promise<Wire>
}

async function site(lines = ''): Promise<Site> {
  const folder = mkdtempSync(path.join(tmpdir(), 'meshwright-wire-'))
  cleanups.push(() => rmSync(folder, { recursive: true, force: true }))
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  const config = writeConfigForTests(folder, port, { lines })
  const server = await startServer(config, { allowLoopbackEndpoints: false })
  cleanups.push(() => server.stop())
  const socket = `${folder}/control.sock`
  await ask(socket, { command: 'createUser', name: 'alice' })
  await ask(socket, { command: 'setPolicy', policy: WIDE_OPEN })
  const serverKey = await fetchControlKey({ url })
  return {
    server,
    url,
    socket,
    async authKey(more = {}) {
      const { preAuthKey } = await ask(socket, { command: 'createAuthKey', userId: 1, ...more })
      return (preAuthKey as { key: string }).key
    },
    async dial(machine = MachinePrivateKey.generate(systemRandom), { through = url, webSocket = false, method = 'POST', forwardedFor } = {}) {
      const channel = new NoiseInitiator({ provider: nodeCryptoProvider, random: systemRandom, machineKey: machine, serverKey, version: CAPABILITY_VERSION })
      const raw = webSocket ? await dialWebSocket(through, channel.initiation) : await dialUpgrade(through, channel.initiation, method, forwardedFor)
      const stream = new NoiseStream(raw, channel)
      const established = new Promise((resolve, reject) => stream.once('established', resolve).once('error', reject))
      stream.begin(new Uint8Array(0))
      await established
      const session = http2.connect('http://unused', { createConnection: () => stream, settings: { initialWindowSize: 65_535 } })
      session.on('error', () => undefined)
      cleanups.push(() => session.destroy())
      return new Wire(machine, session)
    },
  }
}

async function dialUpgrade(url: string, initiation: Uint8Array, method: string, forwardedFor: string | undefined): Promise<Duplex> {
  const headers = { Upgrade: NOISE_UPGRADE, Connection: 'upgrade', [NOISE_HANDSHAKE_HEADER]: formatHandshakeHeader(initiation), ...(forwardedFor !== undefined && { 'X-Forwarded-For': forwardedFor }) }
  return new Promise((resolve, reject) => {
    const request = http.request(new URL('/ts2021', url), { method, headers, agent: false })
    request.once('error', reject)
    request.once('response', (response) => reject(new Error(`status ${String(response.statusCode)}`)))
    request.once('upgrade', (_response, socket, head) => {
      if (head.length > 0) socket.unshift(head)
      resolve(socket)
    })
    request.end()
  })
}

async function dialWebSocket(url: string, initiation: Uint8Array): Promise<Duplex> {
  const query = new URLSearchParams({ [NOISE_HANDSHAKE_HEADER]: formatHandshakeHeader(initiation) })
  const socket = new WebSocket(`${url.replace('http', 'ws')}/ts2021?${query.toString()}`, [NOISE_UPGRADE])
  const stream = createWebSocketStream(socket)
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject))
  return stream
}

const freshKey = (): string => `nodekey:${randomBytes(32).toString('hex')}`
const registration = (NodeKey: string, AuthKey?: string, more = {}): object => ({ Version: CAPABILITY_VERSION, NodeKey, Hostinfo: { Hostname: 'n' }, ...(AuthKey !== undefined && { Auth: { AuthKey } }), ...more })
const lite = (NodeKey: string): object => ({ Version: CAPABILITY_VERSION, NodeKey, OmitPeers: true, Endpoints: ['192.0.2.7:41641'] })

/** A node that is registered, and its connection. */
async function joined(here: Site): Promise<{ readonly wire: Wire; readonly nodeKey: string }> {
  const [wire, nodeKey] = [await here.dial(), freshKey()]
  expect(JSON.parse((await wire.ask('POST', '/machine/register', registration(nodeKey, await here.authKey()))).text)).toMatchObject({ Error: '', MachineAuthorized: true })
  return { wire, nodeKey }
}

describe('connections', () => {
  test('one machine key may hold several at once, and its requests may come in any order and on any of them', async () => {
    const here = await site()
    const machine = MachinePrivateKey.generate(systemRandom)
    const [first, second, third] = [await here.dial(machine), await here.dial(machine), await here.dial(machine)]
    const nodeKey = freshKey()
    expect((await second.ask('POST', '/machine/map', lite(nodeKey))).status).toBe(404) // before it is registered
    await third.ask('POST', '/machine/register', registration(nodeKey, await here.authKey()))
    expect((await second.ask('POST', '/machine/map', lite(nodeKey))).status).toBe(200) // an update before any poll
    const poll = first.poll(nodeKey)
    await expect.poll(() => poll.frames.length, { timeout: 30_000 }).toBe(1)
    third.close()
    expect((await second.ask('POST', '/machine/map', lite(nodeKey))).status).toBe(200)
    const other = await joined(here)
    await other.wire.ask('POST', '/machine/map', lite(other.nodeKey))
    await expect.poll(() => poll.frames.join(''), { timeout: 30_000 }).toContain(other.nodeKey)
  })

  test('a second poll of a node is served, the first ends, and the node stays online', async () => {
    const here = await site()
    const { wire, nodeKey } = await joined(here)
    const first = wire.poll(nodeKey)
    await expect.poll(() => first.frames.length, { timeout: 30_000 }).toBe(1)
    const second = (await here.dial(wire.machine)).poll(nodeKey)
    await first.ended
    await expect.poll(() => second.frames.length, { timeout: 30_000 }).toBe(1)
    const { nodes } = await ask(here.socket, { command: 'listNodes' })
    expect(nodes).toMatchObject([{ online: true }])
  })

  test('a client that does not read for a while is told the sum of what it missed, and holds up nobody', async () => {
    const here = await site('tuning: {batch_change_delay: 2ms}\n')
    const [idle, busy, third] = [await joined(here), await joined(here), await joined(here)]
    const [polls, others] = [idle.wire.poll(idle.nodeKey), third.wire.poll(third.nodeKey)]
    // One frame, or two: that the third one came may be told in a frame of its own.
    await expect.poll(() => polls.frames.length, { timeout: 30_000 }).toBeGreaterThanOrEqual(1)
    polls.stream.pause()
    const update = (round: number): Promise<Answer> => busy.wire.ask('POST', '/machine/map', { ...lite(busy.nodeKey), Endpoints: Array.from({ length: 60 }, (_, n) => `198.51.${round % 250}.${n}:${10_000 + round}`) })
    for (let round = 0; round < 300; round += 1) await update(round)
    await expect.poll(() => others.frames.join(''), { timeout: 30_000 }).toContain(':10299"')
    polls.stream.resume()
    await expect.poll(() => polls.frames.join(''), { timeout: 30_000 }).toContain(':10299"')
    // Far less than a frame for each change: some 80 kB stood in buffers, then nothing more was made for it.
    expect(polls.frames.length).toBeLessThan(others.frames.length / 2)
  })

  test('paths alone decide: whatever stands as the authority', async () => {
    const here = await site()
    const wire = await here.dial()
    for (const authority of ['unused', '127.0.0.1', `127.0.0.1:${new URL(here.url).port}`, 'another.example']) expect((await wire.ask('GET', '/machine/whoami', undefined, authority)).text).toContain(wire.machine.publicKey().text)
  })

  test('a GET may have a body; the connection goes on', async () => {
    const here = await site()
    const { wire, nodeKey } = await joined(here)
    for (const call of ['init/begin', 'bootstrap', 'sync/offer', 'affected-sigs']) {
      const answer = await wire.ask('GET', `/machine/tka/${call}`, { Version: CAPABILITY_VERSION, NodeKey: nodeKey })
      expect([answer.status, answer.text]).toEqual([501, 'tailnet lock is not available on this control server\n'])
    }
    expect((await wire.ask('POST', '/machine/map', lite(nodeKey))).status).toBe(200)
  })

  test('a WebSocket by GET, and a plain upgrade by GET, are as good as an upgrade by POST', async () => {
    const here = await site()
    for (const options of [{ webSocket: true }, { method: 'GET' }]) {
      const [wire, nodeKey] = [await here.dial(undefined, options), freshKey()]
      await wire.ask('POST', '/machine/register', registration(nodeKey, await here.authKey()))
      const poll = wire.poll(nodeKey)
      await expect.poll(() => poll.frames.length, { timeout: 30_000 }).toBe(1)
      expect(poll.frames[0]).toContain(nodeKey)
    }
  })

  test('behind a proxy that speaks plain HTTP the quota counts the addresses of clients', async () => {
    const here = await site('trusted_proxies: [127.0.0.1/32]\n')
    const proxy = async (client: string): Promise<string> => {
      const server = http.createServer()
      server.on('upgrade', (request: http.IncomingMessage, socket: Duplex, head: Buffer) => {
        const { host: _, ...headers } = request.headers
        const onward = http.request(new URL(request.url ?? '/', here.url), { method: request.method ?? 'GET', headers: { ...headers, 'x-forwarded-for': `9.9.9.9, ${client}` }, agent: false })
        onward.on('upgrade', (response, upstream, more) => {
          socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: ${String(response.headers.upgrade)}\r\nConnection: upgrade\r\n\r\n`)
          socket.write(more)
          upstream.write(head)
          upstream.pipe(socket).pipe(upstream)
          for (const end of [upstream, socket]) end.on('error', () => end.destroy())
        })
        onward.end()
      })
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
      cleanups.push(() => void server.close())
      return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    }
    const wires = [await here.dial(undefined, { through: await proxy('198.51.100.1') }), await here.dial(undefined, { through: await proxy('198.51.100.2') })]
    const [greedy, modest] = wires
    const statuses = await Promise.all(Array.from({ length: 65 }, async () => (await greedy?.ask('POST', '/machine/register', registration(freshKey())))?.status))
    expect(statuses.filter((status) => status === 429)).toHaveLength(1)
    expect((await modest?.ask('POST', '/machine/register', registration(freshKey())))?.status).toBe(200)
  })
})

describe('limits', () => {
  test('a body of 1 MiB is read, one byte more is not', async () => {
    const here = await site()
    const { wire } = await joined(here)
    const stranger = await here.dial()
    const body = (bytes: number): Buffer => Buffer.concat([Buffer.from('{"Padding":"'), Buffer.alloc(bytes - 14, 'x'), Buffer.from('"}')])
    expect((await wire.ask('POST', '/machine/register', body(MEGABYTE))).status).toBe(400) // read, and not a registration
    expect((await wire.ask('POST', '/machine/register', body(MEGABYTE + 1))).status).toBe(413)
    expect((await stranger.ask('POST', '/machine/register', body(MEGABYTE))).status).toBe(400)
    expect((await stranger.ask('POST', '/machine/register', body(MEGABYTE + 1))).status).toBe(413)
    expect((await wire.ask('GET', '/machine/whoami')).status).toBe(200)
    expect((await fetch(`${here.url}/verify`, { method: 'POST', body: 'x'.repeat(4097) })).status).toBe(413)
  })

  test('one address has 64 logins that wait, all together a number that is set; 429 says when to come again', async () => {
    const here = await site('tuning: {register_cache_max_entries: 1024}\n')
    const wire = await here.dial()
    const answers = await Promise.all(Array.from({ length: 70 }, () => wire.ask('POST', '/machine/register', registration(freshKey()))))
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(64)
    for (const { status, headers, text } of answers.filter((answer) => answer.status !== 200)) expect([status, headers['retry-after'], text]).toEqual([429, '30', 'too many logins wait for approval: try again later'])
  })

  test('1,024 logins wait at most: while all are held the next hears 429, and one that nobody holds any more gives way', async () => {
    const here = await site('trusted_proxies: [127.0.0.1/32]\n')
    const held: http2.ClientHttp2Stream[] = []
    for (let client = 0; client < 16; client += 1) {
      const wire = await here.dial(undefined, { forwardedFor: `198.51.100.${client}` })
      const keys = Array.from({ length: 64 }, freshKey)
      const answers = await Promise.all(keys.map((nodeKey) => wire.ask('POST', '/machine/register', registration(nodeKey))))
      for (const [i, { status, text }] of answers.entries()) {
        expect(status).toBe(200)
        const { AuthURL } = JSON.parse(text) as { readonly AuthURL: string }
        held.push(wire.request('POST', '/machine/register', registration(keys[i] ?? '', undefined, { Followup: AuthURL })))
      }
      // That the server has taken them: a later request of the connection, whose body comes behind theirs, is answered.
      expect((await wire.ask('POST', '/machine/map', lite(freshKey()))).status).toBe(404)
    }
    const late = await here.dial(undefined, { forwardedFor: '203.0.113.1' })
    const knock = (): Promise<Answer> => late.ask('POST', '/machine/register', registration(freshKey()))
    await expect.poll(async () => (await knock()).status, { timeout: 30_000 }).toBe(429)
    const refused = await knock()
    expect([refused.status, refused.headers['retry-after'], refused.text]).toEqual([429, '30', 'too many logins wait for approval: try again later'])
    held[0]?.close(http2.constants.NGHTTP2_CANCEL)
    await expect.poll(async () => (await knock()).status, { timeout: 30_000 }).toBe(200)
  })

  test('key texts and numbers are checked before anything is looked up', async () => {
    const here = await site()
    const { wire, nodeKey } = await joined(here)
    const bad = ['', 'nodekey:', `nodekey:${'0'.repeat(63)}`, `nodekey:${'g'.repeat(64)}`, `mkey:${'1'.repeat(64)}`, `nodekey:${'1'.repeat(65)}`, 7, { a: 1 }]
    for (const NodeKey of bad) {
      for (const target of ['/machine/register', '/machine/map', '/machine/feature/query', '/machine/audit-log']) {
        const { status, text } = await wire.ask('POST', target, { Version: CAPABILITY_VERSION, Feature: 'serve', Action: 'x', NodeKey })
        expect([target, status]).toEqual([target, 400])
        expect(text).toContain('NodeKey')
      }
    }
    expect((await wire.ask('POST', '/machine/register', registration(`nodekey:${'0'.repeat(64)}`))).status).toBe(400)
    for (const numbers of ['99999999999999999999/to/1', '1/to/18446744073709551616', '-1/to/1', '1.5/to/1', 'a/to/b', '1/to/']) expect((await wire.ask('GET', `/machine/ssh/action/${numbers}?local_user=root`)).status).toBe(404)
    expect((await wire.ask('GET', `/machine/ssh/action/1/to/1?local_user=${encodeURIComponent('root\u001b[2J')}`)).status).toBe(400)
    expect((await wire.ask('POST', '/machine/map', { ...lite(nodeKey), DiscoKey: 'discokey:zz' })).status).toBe(400)
  })

  test('on every route a node key works only from the device that brought it, and a stranger hears what he would hear of an unknown key', async () => {
    const here = await site()
    const { nodeKey } = await joined(here)
    const stranger = await here.dial()
    const routes: readonly (readonly [string, string, (NodeKey: string) => object | undefined])[] = [
      ['POST', '/machine/map', (NodeKey) => ({ Version: CAPABILITY_VERSION, NodeKey, Stream: true })],
      ['POST', '/machine/map', lite],
      ['POST', '/machine/map', (NodeKey) => ({ Version: CAPABILITY_VERSION, NodeKey })],
      ['POST', '/machine/feature/query', (NodeKey) => ({ Feature: 'serve', NodeKey })],
      ['POST', '/machine/audit-log', (NodeKey) => ({ Version: CAPABILITY_VERSION, NodeKey, Action: 'DISCONNECT_NODE', Details: '' })],
      ['POST', '/machine/register', (NodeKey) => registration(NodeKey, undefined, { Expiry: '1970-01-01T00:02:03Z' })],
      ['POST', '/machine/set-dns', (NodeKey) => ({ Version: CAPABILITY_VERSION, NodeKey, Name: '_acme-challenge.n.lab.test', Type: 'TXT', Value: 'x' })],
      ['POST', '/machine/id-token', (NodeKey) => ({ CapVersion: CAPABILITY_VERSION, NodeKey, Audience: 'x' })],
      ['PATCH', '/machine/set-device-attr', (NodeKey) => ({ Version: CAPABILITY_VERSION, NodeKey, Update: {} })],
      ['GET', '/machine/tka/sync/offer', (NodeKey) => ({ Version: CAPABILITY_VERSION, NodeKey })],
      ['POST', '/machine/update-health', (NodeKey) => ({ NodeKey, Subsys: 'x', Error: 'y' })],
    ]
    for (const [method, target, body] of routes) {
      const [known, unknown] = [await stranger.ask(method, target, body(nodeKey)), await stranger.ask(method, target, body(freshKey()))]
      expect([target, known.status, known.text]).toEqual([target, unknown.status, unknown.text])
      if (target === '/machine/map' || target.startsWith('/machine/feature') || target.startsWith('/machine/audit')) expect(known.status).toBe(404)
    }
    // A device that does hold the node may ask about its sessions; no other may, whatever number it names.
    for (const target of ['1/to/1', '1/to/2', '2/to/1']) expect((await stranger.ask('GET', `/machine/ssh/action/${target}?local_user=root`)).status).toBe(404)
    expect((await stranger.ask('HEAD', '/machine/ping-response?id=00')).status).toBe(404)
    const registered = JSON.parse((await stranger.ask('POST', '/machine/register', registration(nodeKey, await here.authKey()))).text) as { readonly Error: string }
    expect(registered.Error).toBe('this node key belongs to another device')
    // As the key that it says it had before, it makes a node of its own, and takes nothing over.
    const [fresh, AuthKey] = [freshKey(), await here.authKey()]
    expect(JSON.parse((await stranger.ask('POST', '/machine/register', registration(fresh, AuthKey, { OldNodeKey: nodeKey }))).text)).toMatchObject({ Error: '', MachineAuthorized: true })
    const { nodes: both } = await ask(here.socket, { command: 'listNodes' })
    expect(both).toMatchObject([{ nodeKey, expiry: null }, { nodeKey: fresh }])
    await ask(here.socket, { command: 'deleteNode', id: Number((both as readonly { readonly id: string }[])[1]?.id) })
    const { nodes } = await ask(here.socket, { command: 'listNodes' })
    expect(nodes).toMatchObject([{ nodeKey, expiry: null }])
  })

  test('a one-off key lets exactly one in of 200 tries at once from 20 devices', async () => {
    const here = await site()
    const [AuthKey, wires] = [await here.authKey(), await Promise.all(Array.from({ length: 20 }, () => here.dial()))]
    const answers = await Promise.all(wires.flatMap((wire) => Array.from({ length: 10 }, () => wire.ask('POST', '/machine/register', registration(freshKey(), AuthKey)))))
    const errors = answers.map(({ text }) => (JSON.parse(text) as { readonly Error: string }).Error)
    expect(errors.filter((error) => error === '')).toHaveLength(1)
    expect(new Set(errors.filter((error) => error !== ''))).toEqual(new Set(['authkey already used']))
    expect(((await ask(here.socket, { command: 'listNodes' }))['nodes'] as unknown[]).length).toBe(1)
  })

  test('a connection that never shakes hands is closed', async () => {
    const here = await site()
    const silent = net.connect(Number(new URL(here.url).port), '127.0.0.1')
    silent.write(`POST /ts2021 HTTP/1.1\r\nHost: x\r\nUpgrade: ${NOISE_UPGRADE}\r\nConnection: upgrade\r\n${NOISE_HANDSHAKE_HEADER}: AAAA\r\n\r\n`)
    const [bytes] = (await once(silent, 'data')) as [Buffer]
    expect(bytes.toString()).toMatch(/^HTTP\/1\.1 400 /)
    await once(silent, 'close')
  })
})
