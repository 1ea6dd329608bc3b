import http from 'node:http'
import https from 'node:https'
import net, { type AddressInfo } from 'node:net'
import type { RelayNode } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { DerpClient, type DerpClientInput, type DerpClientOutput, DerpServer, type DerpServerOptions } from '@meshwright/derp'
import { afterEach, expect, test } from 'vitest'
import { suspendAwareClock } from './clock.ts'
import { attachDerpServer, type DerpService, type DerpServiceOptions, verifyByUrl } from './derp-accept.ts'
import { metacertPem, selfSignedCertificate } from './derp-certificate.ts'
import { dialDerp, type DerpConnection, type DerpDialOptions } from './derp-dial.ts'
import { drive, type Driver } from './drive.ts'
import { systemRandom } from './random.ts'

const clock = suspendAwareClock()
const cleanup: (() => void)[] = []
afterEach(() => {
  for (const each of cleanup.splice(0).reverse()) each()
})

interface Relay {
  readonly node: RelayNode
  readonly server: DerpServer
  readonly service: DerpService
  readonly certificate: { readonly cert: string; readonly pin: string }
}

async function startRelay(kind: 'plain' | 'tls' | 'metacert', options: Partial<DerpServerOptions> = {}, more: Partial<DerpServiceOptions> = {}): Promise<Relay> {
  const privateKey = NodePrivateKey.generate(systemRandom)
  const server = new DerpServer({ privateKey, random: systemRandom, ...options })
  const certificate = selfSignedCertificate(['relay.test', '127.0.0.1'])
  const cert = kind === 'metacert' ? certificate.cert + metacertPem(server.publicKey) : certificate.cert
  const web = kind === 'plain' ? http.createServer() : https.createServer({ cert, key: certificate.key })
  const service = attachDerpServer(web, server, { clock, ...more })
  web.on('request', (request, response) => {
    if (!service.handleRequest(request, response)) response.writeHead(200).end('home')
  })
  await new Promise<void>((resolve) => web.listen(0, '127.0.0.1', resolve))
  cleanup.push(() => {
    service.close()
    web.close()
  })
  const derpPort = (web.address() as AddressInfo).port
  return { server, service, certificate, node: { name: '1a', regionId: 1, hostName: '127.0.0.1', ipv6: 'none', derpPort } }
}

interface Client {
  readonly key: NodePrivateKey
  readonly machine: DerpClient
  readonly connection: DerpConnection
  readonly driver: Driver<DerpClientInput>
  until<T extends DerpClientOutput['type']>(type: T): Promise<Extract<DerpClientOutput, { type: T }>>
}

async function connect(relay: Relay, options: Partial<DerpDialOptions> = {}, node: Partial<RelayNode> = { certName: relay.certificate.pin }): Promise<Client> {
  const connection = await dialDerp({ node: { ...relay.node, ...node }, ...options })
  cleanup.push(() => connection.close())
  const key = NodePrivateKey.generate(systemRandom)
  const machine = new DerpClient({ privateKey: key, random: systemRandom })
  const seen: DerpClientOutput[] = []
  const waiting: { type: string; resolve: (output: never) => void }[] = []
  const driver: Driver<DerpClientInput> = drive<DerpClientInput, DerpClientOutput>(machine, clock, (output) => {
    if (output.type === 'write') return connection.write(output.bytes)
    if (output.type === 'close') return connection.close()
    const at = waiting.findIndex((each) => each.type === output.type)
    if (at >= 0) waiting.splice(at, 1)[0]?.resolve(output as never)
    else seen.push(output)
  })
  cleanup.push(() => driver.stop())
  driver.feed({ type: 'opened', ...(connection.serverKey && { serverKey: connection.serverKey }) })
  connection.start({
    bytes: (bytes) => driver.feed({ type: 'bytes', bytes }),
    writable: () => driver.feed({ type: 'writable' }),
    closed: () => driver.feed({ type: 'closed' }),
  })
  return {
    key,
    machine,
    connection,
    driver,
    until: (type) =>
      new Promise((resolve) => {
        const at = seen.findIndex((each) => each.type === type)
        if (at >= 0) resolve(seen.splice(at, 1)[0] as never)
        else waiting.push({ type, resolve })
      }),
  }
}

test.each(['plain', 'tls', 'metacert'] as const)('two clients reach each other through a relay: %s', async (kind) => {
  const relay = await startRelay(kind)
  const a = await connect(relay, { plainHttp: kind === 'plain' })
  const b = await connect(relay, { plainHttp: kind === 'plain' })
  await Promise.all([a.until('connected'), b.until('connected')])
  expect(a.connection.serverKey === undefined).toBe(kind !== 'metacert')
  expect(a.connection.tlsVersion).toBe(kind === 'plain' ? undefined : 'TLSv1.3')
  a.driver.act((now) => a.machine.send(now, b.key.publicKey(), Buffer.from('hello')))
  const packet = await b.until('packet')
  expect(Buffer.from(packet.packet).toString()).toBe('hello')
  expect(packet.source.equals(a.key.publicKey())).toBe(true)
  a.connection.close()
  expect((await b.until('peerGone')).reason).toBe(0)
})

test('a flood through a relay is bounded, and what is delivered is in order', async () => {
  const relay = await startRelay('plain')
  const [a, b] = [await connect(relay, { plainHttp: true }), await connect(relay, { plainHttp: true })]
  await Promise.all([a.until('connected'), b.until('connected')])
  let last = -1
  let count = 0
  const done = (async (): Promise<void> => {
    while (last < 3999) {
      const { packet } = await b.until('packet')
      const number = new DataView(packet.buffer, packet.byteOffset).getUint32(0)
      expect(number).toBeGreaterThan(last)
      last = number
      count += 1
    }
  })()
  for (let i = 0; i < 4000; i += 1) {
    const packet = new Uint8Array(1400)
    new DataView(packet.buffer).setUint32(0, i)
    a.driver.act((now) => a.machine.send(now, b.key.publicKey(), packet))
    if (i % 100 === 0) await new Promise(setImmediate)
  }
  await done
  const lost = a.machine.stats().dropped['queue-full'] + relay.server.stats().dropped.queue_head.other.packets
  expect(count + lost).toBe(4000)
  expect(relay.server.stats().queuedBytes).toBe(0)
})

test('a certificate is taken by its pin, by a trusted root, by another name or for tests, and refused otherwise', async () => {
  const relay = await startRelay('metacert')
  const ca = relay.certificate.cert
  const byRoot = await connect(relay, { ca }, {})
  await byRoot.until('connected')
  expect(byRoot.connection.serverKey?.equals(relay.server.publicKey)).toBe(true)
  await (await connect(relay, { ca }, { certName: 'relay.test' })).until('connected')
  await (await connect(relay, {}, { insecureForTests: true })).until('connected')
  const refused: [Partial<DerpDialOptions>, Partial<RelayNode>][] = [
    [{}, {}],
    [{ ca }, { certName: 'other.test' }],
    [{ ca }, { certName: `sha256-raw:${'00'.repeat(32)}` }],
    [{ ca }, { certName: 'sha256-raw:' }],
  ]
  for (const [options, node] of refused) await expect(connect(relay, options, node)).rejects.toMatchObject({ code: 'DERP_DIAL_CERTIFICATE' })
})

test('a relay that is away, refuses, or says nothing has an error that says so', async () => {
  const silent = net.createServer((socket) => cleanup.push(() => socket.destroy()))
  const web = http.createServer((_request, response) => response.writeHead(404).end())
  for (const each of [silent, web]) await new Promise<void>((resolve) => each.listen(0, '127.0.0.1', resolve))
  cleanup.push(() => silent.close(), () => web.close())
  const node = (server: net.Server): RelayNode => ({ name: 'x', regionId: 1, hostName: '127.0.0.1', derpPort: (server.address() as AddressInfo).port })
  await expect(dialDerp({ node: node(web), plainHttp: true })).rejects.toMatchObject({ code: 'DERP_DIAL_REFUSED', message: 'relay x (127.0.0.1) answered with HTTP status 404' })
  await expect(dialDerp({ node: node(silent), plainHttp: true, timeoutMs: 50 })).rejects.toMatchObject({ code: 'DERP_DIAL_TIMEOUT' })
  await expect(dialDerp({ node: node(silent), timeoutMs: 50 })).rejects.toMatchObject({ code: 'DERP_DIAL_TIMEOUT' })
  await expect(dialDerp({ node: { ...node(silent), derpPort: 1 }, plainHttp: true })).rejects.toMatchObject({ code: 'DERP_DIAL_UNREACHABLE' })
  await expect(dialDerp({ node: { ...node(silent), ipv4: 'none' }, plainHttp: true })).rejects.toMatchObject({ code: 'DERP_DIAL_UNREACHABLE' })
  await expect(dialDerp({ node: node(silent), plainHttp: true, signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'DERP_DIAL_ABORTED' })
})

test('a client that admission refuses is closed without a frame', async () => {
  const relay = await startRelay('plain', { admission: true }, { verify: ({ source }) => Promise.resolve(source === '192.0.2.1') })
  const client = await connect(relay, { plainHttp: true })
  expect(await client.until('failed')).toEqual({ type: 'failed', code: 'closed' })
  expect(client.machine.state).toBe('closed')
})

test('the admission endpoint is asked as a real relay asks', async () => {
  let answer = '{"Allow":true}'
  const bodies: string[] = []
  const web = http.createServer((request, response) => {
    request.on('data', (chunk: Buffer) => bodies.push(chunk.toString()))
    request.on('end', () => response.writeHead(answer === '' ? 500 : 200).end(answer))
  })
  await new Promise<void>((resolve) => web.listen(0, '127.0.0.1', resolve))
  cleanup.push(() => web.close())
  const url = `http://127.0.0.1:${(web.address() as AddressInfo).port}/verify`
  const nodeKey = NodePrivateKey.generate(systemRandom).publicKey()
  const ask = verifyByUrl(url, true)
  expect(await ask({ nodeKey, source: '192.0.2.1' })).toBe(true)
  expect(JSON.parse(bodies[0] ?? '')).toEqual({ NodePublic: nodeKey.text, Source: '192.0.2.1' })
  for (answer of ['{"Allow":false}', '', '{"Allow":1}', ' '.repeat(5000)]) expect(await ask({ nodeKey }).catch(() => false)).toBe(false)
  expect(await verifyByUrl('http://127.0.0.1:1/', true)({ nodeKey })).toBe(true)
  expect(await verifyByUrl('http://127.0.0.1:1/', false)({ nodeKey })).toBe(false)
})

test('the other paths of a relay are answered, and other upgrades are not touched', async () => {
  const relay = await startRelay('plain')
  const at = (path: string): string => `http://127.0.0.1:${relay.node.derpPort}${path}`
  const probe = await fetch(at('/derp/probe'))
  expect([probe.status, probe.headers.get('access-control-allow-origin')]).toEqual([200, '*'])
  expect((await fetch(at('/derp/latency-check'), { method: 'POST' })).status).toBe(405)
  expect((await fetch(at('/derp'))).status).toBe(426)
  const none = await fetch(at('/generate_204'), { headers: { 'X-Tailscale-Challenge': 'ts_a.b' } })
  expect([none.status, none.headers.get('x-tailscale-response')]).toEqual([204, 'response ts_a.b'])
  expect(await (await fetch(at('/'))).text()).toBe('home')
  const status = await new Promise((resolve) => {
    http.get(at('/else'), { headers: { Connection: 'Upgrade', Upgrade: 'x' } }, (response) => resolve(response.statusCode)).end()
  })
  expect(status).toBe(404)
})

// The server hands a socket over with its request: nobody listens for its errors then, or ends it, unless who took it does.
const REFUSED = ['/elsewhere', '/derp/probe']
const upgradeOf = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: relay.test\r\nUpgrade: DERP\r\nConnection: upgrade\r\n\r\n`

test.each(REFUSED)('an upgrade that leads nowhere and is reset before its answer harms nobody: %s', async (path) => {
  const { node } = await startRelay('plain')
  for (let i = 0; i < 20; i += 1) {
    await new Promise<void>((resolve) => {
      const socket = net.connect(node.derpPort ?? 0, '127.0.0.1', () => {
        socket.write(upgradeOf(path), () => {
          socket.resetAndDestroy()
          resolve()
        })
      })
    })
  }
  const response = await fetch(`http://127.0.0.1:${node.derpPort}/`)
  expect(await response.text()).toBe('home')
})

test.each(REFUSED)('who asks for an upgrade that leads nowhere is told so, and does not stay: %s', async (path) => {
  const { node } = await startRelay('plain')
  const socket = net.connect({ port: node.derpPort ?? 0, host: '127.0.0.1', allowHalfOpen: true })
  cleanup.push(() => socket.destroy())
  socket.on('error', () => undefined) // a reset is an end too
  const parts: Buffer[] = []
  socket.on('data', (bytes: Buffer) => parts.push(bytes))
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
  socket.write(upgradeOf(path))
  // It never ends its own side: it goes on writing, as long as somebody takes it.
  const writing = setInterval(() => socket.write('more'), 50)
  cleanup.push(() => clearInterval(writing))
  await closed
  expect(Buffer.concat(parts).toString()).toMatch(/^HTTP\/1\.1 \d{3} /)
})
