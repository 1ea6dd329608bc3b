import { randomBytes } from 'node:crypto'
import http from 'node:http'
import net from 'node:net'
import type { Duplex } from 'node:stream'
import { instant } from '@meshwright/core'
import { NOISE_HANDSHAKE_HEADER, NoiseResponder, parseHandshakeHeader } from '@meshwright/control-protocol'
import { MachinePrivateKey } from '@meshwright/crypto'
import { type RunningNode, startMeshNode } from '@meshwright/runtime-node'
import { nodeCryptoProvider, systemRandom } from '@meshwright/runtime-node/control'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Lab } from '../interop/lab-process.ts'
import { type Json, LiarControl, wireNode } from './liar-control.ts'

// The channel between our node and a control server that lies before anything is said in it: the key, the HTTP upgrade, Noise and its
// records. A real node with real sockets; while it is lied to, the map that it has stays in force as it is.
const lab = new Lab()
const control = new LiarControl()
let node: RunningNode
let dials = 0
const FRIEND_KEY = `nodekey:${randomBytes(32).toString('hex')}`
const RULES: readonly Json[] = [{ SrcIPs: ['100.64.0.2'], DstPorts: [{ IP: '100.64.0.1', Ports: { First: 22, Last: 22 } }] }]

beforeAll(async () => {
  await control.start()
  control.connected = () => void (dials += 1)
  control.map = (poll) => poll.send({ Node: wireNode(1, 'victim', poll.request.NodeKey), Peers: [wireNode(2, 'friend', FRIEND_KEY)], PacketFilters: { '*': null, base: RULES }, Domain: 'liar.test', DERPMap: { Regions: {} } })
  node = await startMeshNode({ controlUrl: control.url, hostname: 'victim', authKey: 'any' })
  await node.ready()
})

afterAll(async () => {
  await node?.close()
  await lab.stop()
  await control.stop()
})

const health = (pattern: RegExp): Promise<string> => lab.until(`health says ${String(pattern)}`, () => node.status().health.find((line) => pattern.test(line)), 20_000)

/** Lies, waits until the health says so, and sees that nothing else has changed; then the server is honest again. */
async function lie(set: () => void, told: RegExp): Promise<void> {
  const before = { dials, registered: control.registrations }
  set()
  control.hangUp()
  const line = await health(told)
  expect(line.length).toBeLessThan(1_000)
  expect(line).not.toMatch(/\p{Cc}/u) // control characters
  const { peers } = node.status()
  expect(peers.map((peer) => peer.nodeKey.text)).toEqual([FRIEND_KEY]) // the map is in force as it was
  expect(node.networkMap()?.packetFilter.length).toBe(1)
  expect(control.registrations).toBe(before.registered)
  expect(dials - before.dials).toBeLessThan(25)
  control.key = undefined
  control.upgrade = undefined
  node.up()
  await lab.until('an honest server is heard again', () => node.status().health.length === 0 && control.pollOf('victim') !== undefined)
}

const page = (status: number, body: string | Uint8Array, headers: http.OutgoingHttpHeaders = {}) => (response: http.ServerResponse): void => void response.writeHead(status, headers).end(body)
const keyOf = (key: string): string => JSON.stringify({ legacyPublicKey: `mkey:${'0'.repeat(64)}`, publicKey: key })

/** What `GET /key` says, and what people read then. */
const KEYS: readonly (readonly [string, (response: http.ServerResponse) => void, RegExp])[] = [
  ['no JSON', page(200, '<html>'), /\/key does not name a Noise key/],
  ['half a JSON', page(200, '{"publicKey":"mkey:'), /\/key does not name a Noise key/],
  ['a key that is none', page(200, keyOf('mkey:xyz')), /\/key does not name a Noise key/],
  ['a key of zeros', page(200, keyOf(`mkey:${'0'.repeat(64)}`)), /\/key does not name a Noise key/],
  ['a small-order point', page(200, keyOf(`mkey:01${'0'.repeat(62)}`)), /is not a usable X25519 key/],
  ['a node key', page(200, keyOf(`nodekey:${'1'.repeat(64)}`)), /\/key does not name a Noise key/],
  ['a legacy key alone', page(200, JSON.stringify({ legacyPublicKey: `mkey:${'2'.repeat(64)}` })), /\/key does not name a Noise key/],
  ['64 hexadecimal digits, as old servers did', page(200, '3'.repeat(64)), /\/key does not name a Noise key/],
  ['a megabyte', page(200, Buffer.alloc(1_048_576, 0x20)), /the answer is too long/],
  ['status 500 and paint', page(500, '\u001b[2Jbroken'), /\/key answered with status 500: .*broken/],
  ['a way to elsewhere', page(302, '', { location: 'http://127.0.0.1:1/key' }), /\/key answered with status 302/],
  ['another key at each call', (response) => page(200, keyOf(MachinePrivateKey.generate(systemRandom).publicKey().text))(response), /shows another key than before|does not hold the key that it published|during the handshake|refused the handshake|no Noise channel/],
]

const HEAD = 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\r\n'

/** A responder of ours, among whose records a script may put its own. */
function respond(request: http.IncomingMessage): { readonly first: Buffer; send(bytes: Uint8Array): Buffer } {
  const given = request.headers[NOISE_HANDSHAKE_HEADER.toLowerCase()]
  const initiation = (typeof given === 'string' ? parseHandshakeHeader(given) : undefined) ?? expect.fail('no initiation')
  const channel = new NoiseResponder({ provider: nodeCryptoProvider, random: systemRandom, machineKey: control.machineKey, earlyPayload: false })
  const now = instant(performance.now())
  const drained = (): Buffer => {
    const parts: Uint8Array[] = []
    for (let output = channel.pollOutput(); output !== undefined; output = channel.pollOutput()) if (output.type === 'transmit') parts.push(output.bytes)
    return Buffer.concat(parts)
  }
  channel.handleInput(now, { type: 'initiation', bytes: initiation })
  const first = drained()
  return {
    first,
    send: (bytes) => {
      channel.send(now, bytes)
      return drained()
    },
  }
}

const frame = (type: number, length: number, body: Uint8Array = new Uint8Array(0)): Buffer => Buffer.concat([Buffer.from([type, length >> 8, length & 255]), body])
const early = (json: string, announced: number = json.length): Buffer => {
  const length = Buffer.alloc(4)
  length.writeUInt32BE(announced >>> 0)
  return Buffer.concat([Buffer.from([0xff, 0xff, 0xff, 0x54, 0x53]), length, Buffer.from(json)])
}
const channelOf = (make: (channel: ReturnType<typeof respond>) => Buffer) => (request: http.IncomingMessage, socket: Duplex): void => {
  const channel = respond(request)
  socket.write(Buffer.concat([Buffer.from(HEAD), channel.first, make(channel)]))
}
const CHANNEL = /no Noise channel to|is not authentic|closed|failed|reset|cannot be read|too long|Protocol error|control server/

/** What the upgrade says, and what people read then. */
const UPGRADES: readonly (readonly [string, (request: http.IncomingMessage, socket: Duplex) => void, RegExp])[] = [
  ['a page', (_request, socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi'), /answered with status 200 instead of switching protocols/],
  ['status 403', (_request, socket) => socket.end('HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n'), /answered with status 403 instead of switching protocols/],
  ['a switch to something else', (_request, socket) => void socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n'), /switched to another protocol/],
  ['headers without end', (_request, socket) => void socket.write(`HTTP/1.1 101 Switching Protocols\r\nX: ${'a'.repeat(200_000)}`), /cannot reach .*Header overflow/i],
  ['no HTTP', (_request, socket) => socket.end(randomBytes(500)), /cannot reach/],
  ['the end', (_request, socket) => void socket.destroy(), /cannot reach/],
  ['early data that is noise', (_request, socket) => void socket.write(Buffer.concat([Buffer.from(HEAD), randomBytes(200)])), /no Noise channel to/],
  ['a handshake of another server', (_request, socket) => void socket.write(Buffer.concat([Buffer.from(HEAD), frame(2, 48, randomBytes(48))])), /does not hold the key that it published, or something stands between/],
  ['an error frame that paints', (_request, socket) => void socket.write(Buffer.concat([Buffer.from(HEAD), frame(3, 20, Buffer.from('\u001b[2J go away now!!!'.padEnd(20).slice(0, 20)))])), /refused the handshake/],
  ['a frame of 65,535 bytes', (_request, socket) => void socket.write(Buffer.concat([Buffer.from(HEAD), frame(2, 65_535)])), /a frame of more than 4096 bytes/],
  ['a record of no byte', channelOf(() => frame(4, 0)), CHANNEL],
  ['a record of one byte', channelOf(() => frame(4, 1, randomBytes(1))), CHANNEL],
  ['a record of 65,535 bytes', channelOf(() => frame(4, 65_535, randomBytes(65_535))), CHANNEL],
  ['the same record twice', channelOf((channel) => {
    const record = channel.send(early('{}'))
    return Buffer.concat([record, record])
  }), CHANNEL],
  ['the handshake twice', channelOf((channel) => channel.first), CHANNEL],
  ['an early payload of 4 GiB', channelOf((channel) => channel.send(early('{}', 0xffff_ffff))), /early payload of the control server is too long/],
  ['an early payload that is no JSON', channelOf((channel) => channel.send(early('{"nodeKeyChallenge":'))), /early payload of the control server cannot be read/],
  ['an early payload with a challenge that is none', channelOf((channel) => channel.send(early('{"nodeKeyChallenge":7}'))), /early payload of the control server cannot be read/],
  ['no HTTP/2 inside', channelOf((channel) => Buffer.concat([channel.send(early('{}')), channel.send(randomBytes(3_000))])), CHANNEL],
  ['HTTP/1.1 inside', channelOf((channel) => Buffer.concat([channel.send(early('{}')), channel.send(Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n'))])), CHANNEL],
]

describe('our node under a control server that lies about its key', () => {
  test.each(KEYS)('%s', async (_name, answer, told) => lie(() => (control.key = answer), told))

  test('another key that it does hold: without a certificate the first of this run holds, and the health says what to do', async () => {
    const other = new LiarControl()
    await other.start()
    const through = (request: http.IncomingMessage, socket: Duplex): void => {
      const to = net.connect(Number(new URL(other.url).port), '127.0.0.1', () => {
        const lines = [`${request.method ?? ''} ${request.url ?? ''} HTTP/1.1`]
        for (let index = 0; index < request.rawHeaders.length; index += 2) lines.push(`${request.rawHeaders[index] ?? ''}: ${request.rawHeaders[index + 1] ?? ''}`)
        to.write(`${lines.join('\r\n')}\r\n\r\n`)
        to.pipe(socket)
        socket.pipe(to)
      })
      to.on('error', () => socket.destroy())
      socket.on('close', () => to.destroy())
    }
    await lie(() => {
      control.key = page(200, keyOf(other.machineKey.publicKey().text))
      control.upgrade = through
    }, /shows another key than before \(.*\)\. If the server was set up anew, start this node again; else somebody stands between/)
    expect(other.asked).toEqual([]) // nothing was told to it
    await other.stop()
  })
})

describe('our node under a control server whose channel lies', () => {
  test.each(UPGRADES)('%s', async (_name, answer, told) => lie(() => (control.upgrade = answer), told))
})

describe('our node under a control server that has it ask elsewhere', () => {
  test('no ping makes it open a connection to anybody: those inside the channel keep their path alone, all others are not answered', async () => {
    let asked = 0
    const bystander = http.createServer((_request, response) => {
      asked += 1
      response.end()
    })
    await new Promise<void>((resolve) => bystander.listen(0, '127.0.0.1', resolve))
    const address = bystander.address()
    const url = `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}`
    const before = control.asked.length
    const pings: readonly Json[] = [
      { URL: `${url}/plain` }, { URL: `${url}/c2n`, Types: 'c2n', Payload: Buffer.from('GET /logs HTTP/1.1\r\n\r\n').toString('base64') }, { URL: `${url}/disco`, Types: 'disco', IP: '100.64.0.2' },
      { URL: 'http://169.254.169.254/latest/meta-data/' }, { URL: 'file:///etc/passwd' }, { URL: 'gopher://127.0.0.1:1/x', URLIsNoise: true }, { URL: '', URLIsNoise: true }, { URL: `${url}/machine/x?y=1#z`, URLIsNoise: true },
    ]
    const answered = (): readonly string[] => control.asked.slice(before).filter((each) => !/^POST \/machine\/(map|register)$/.test(each))
    await lab.until('the one inside the channel is answered there', () => {
      for (const PingRequest of pings) control.pollOf('victim')?.send({ KeepAlive: true, PingRequest }) // a poll may just have been replaced
      return answered().length > 0
    })
    await new Promise((resolve) => setTimeout(resolve, 300))
    expect([...new Set(answered())]).toEqual(['HEAD /machine/x?y=1'])
    expect(asked).toBe(0)
    bystander.close()
    expect(node.status().held['control-requests']).toBeLessThanOrEqual(32)
  })
})
