import { randomBytes } from 'node:crypto'
import http from 'node:http'
import type net from 'node:net'
import { Duplex } from 'node:stream'
import { NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import { DerpServer, encodeFrame, encodePacketFrame, FRAME_RECV_PACKET } from '@meshwright/derp'
import { attachDerpServer, suspendAwareClock, systemRandom } from '@meshwright/runtime-node'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { NodeRig } from './node-rig.ts'

// Our node whose only way to others is a relay that lies: an honest one in between, into whose streams a script speaks.
const linux = process.platform === 'linux'
const rig = new NodeRig({ blockUdp: true })

/** A relay that relays, and says more than it should. */
class LiarRelay {
  readonly #http: http.Server = http.createServer()
  readonly #sockets: Set<net.Socket> = new Set()
  /** Everything that was said to clients, by connection: for replays. */
  readonly #said: Map<net.Socket, Buffer[]> = new Map()
  readonly #service = attachDerpServer(undefined, new DerpServer({ privateKey: NodePrivateKey.generate(systemRandom), random: systemRandom }), { clock: suspendAwareClock() })
  /** Instead of the honest answer to an upgrade. */
  answer: ((socket: net.Socket) => void) | undefined
  dials = 0
  port = 0

  async start(): Promise<void> {
    this.#http.on('upgrade', (request, socket: net.Socket, head) => {
      this.dials += 1
      this.#sockets.add(socket)
      socket.on('error', () => undefined)
      socket.once('close', () => {
        this.#sockets.delete(socket)
        this.#said.delete(socket)
      })
      if (this.answer !== undefined) return this.answer(socket)
      const said: Buffer[] = []
      this.#said.set(socket, said)
      this.#service.handleUpgrade(request, heard(socket, said), head)
    })
    await new Promise<void>((resolve) => this.#http.listen(0, '127.0.0.1', resolve))
    const address = this.#http.address()
    this.port = typeof address === 'object' && address !== null ? address.port : 0
  }

  /** Says bytes to everybody, between honest frames. */
  say(...all: readonly Uint8Array[]): void {
    for (const socket of this.#sockets) for (const bytes of all) socket.write(bytes)
  }

  /** Says again what was said after the handshake. */
  replay(): number {
    let bytes = 0
    for (const [socket, said] of this.#said) {
      const again = said.slice(3)
      for (const each of again) {
        bytes += each.length
        socket.write(each)
      }
    }
    return bytes
  }

  hangUp(): void {
    for (const socket of this.#sockets) socket.destroy()
  }

  pause(on: boolean): void {
    for (const socket of this.#sockets) if (on) socket.pause()
    else socket.resume()
  }

  stop(): void {
    this.hangUp()
    this.#service.close()
    this.#http.close()
  }
}

/** A stream that is the socket, and keeps what is written to it. */
function heard(socket: net.Socket, said: Buffer[]): Duplex {
  const through = new Duplex({
    read: () => void socket.resume(),
    write(bytes: Buffer, _encoding, done) {
      said.push(Buffer.from(bytes))
      socket.write(bytes, () => done())
    },
    final: (done) => void socket.end(() => done()),
    destroy(error, done) {
      socket.destroy()
      done(error)
    },
  })
  socket.on('data', (bytes) => void through.push(bytes))
  socket.once('close', () => through.destroy())
  return through
}

const relay = new LiarRelay()

beforeAll(async () => {
  if (!linux) return
  await relay.start()
  await rig.start({ '900': { RegionID: 900, RegionCode: 'liar', RegionName: 'Liar', Nodes: [{ Name: '900a', RegionID: 900, HostName: '127.0.0.1', IPv4: '127.0.0.1', IPv6: 'none', DERPPort: relay.port, STUNPort: -1, InsecureForTests: true, CertName: 'plain-http' }] } })
})

afterAll(async () => {
  await rig.stop()
  relay.stop()
})

const stranger = (): Uint8Array => randomBytes(32)
const nodeKey = (): NodePublicKey => NodePrivateKey.generate(systemRandom).publicKey()
const raw = (type: number, length: number, payload: Uint8Array = new Uint8Array(0)): Uint8Array => {
  const head = Buffer.alloc(5)
  head.writeUInt8(type)
  head.writeUInt32BE(length, 1)
  return Buffer.concat([head, payload])
}

const FRAMES: readonly (readonly [string, () => readonly Uint8Array[]])[] = [
  ['a frame of 4 GiB', () => [raw(5, 0xffff_ffff)]],
  ['a packet of a megabyte', () => [raw(5, 1_048_575, Buffer.alloc(1_048_575))]],
  ['frames of every type, empty, short and long', () => Array.from({ length: 256 }, (_, type) => [0, 1, 7, 32, 33, 300].map((length) => raw(type, length, randomBytes(length)))).flat()],
  ['another server key, after the handshake', () => [encodeFrame({ type: 'serverKey', key: nodeKey() })]],
  ['server facts that cannot be opened', () => [encodeFrame({ type: 'serverInfo', box: randomBytes(200) })]],
  ['packets of strangers: noise, WireGuard and disco by the look of them', () => Array.from({ length: 3_000 }, (_, i) => encodePacketFrame(FRAME_RECV_PACKET, stranger(), i % 3 === 0 ? randomBytes(148) : i % 3 === 1 ? Buffer.concat([Buffer.from([1, 0, 0, 0]), randomBytes(144)]) : Buffer.concat([Buffer.from('5453f09f92ac', 'hex'), randomBytes(120)])))],
  ['packets in the name of our peer and of ourselves', () => ['friend', 'victim'].flatMap((name) => Array.from({ length: 1_000 }, (_, i) => encodePacketFrame(FRAME_RECV_PACKET, Buffer.from((rig.control.nodes.get(name)?.NodeKey ?? '').slice(8), 'hex'), i % 2 === 0 ? Buffer.concat([Buffer.from([4, 0, 0, 0]), randomBytes(60)]) : Buffer.concat([Buffer.from([1, 0, 0, 0]), randomBytes(144)]))))],
  ['peers that come and go, a hundred thousand times', () => Array.from({ length: 50_000 }, () => { const peer = nodeKeyOf(randomBytes(32)); return [encodeFrame({ type: 'peerPresent', peer }), encodeFrame({ type: 'peerGone', peer, reason: 1 })] }).flat()],
  ['our peer is gone, again and again', () => Array.from({ length: 1_000 }, () => encodeFrame({ type: 'peerGone', peer: nodeKeyOf(Buffer.from((rig.control.nodes.get('friend')?.NodeKey ?? '').slice(8), 'hex')), reason: 0 }))],
  ['pings by the hundred thousand', () => Array.from({ length: 100_000 }, () => encodeFrame({ type: 'ping', data: Buffer.alloc(8) }))],
  ['a restart in 49 days', () => [encodeFrame({ type: 'restarting', reconnectInMs: 0xffff_ffff, tryForMs: 0xffff_ffff })]],
]

function nodeKeyOf(bytes: Uint8Array): NodePublicKey {
  return NodePublicKey.parse(`nodekey:${Buffer.from(bytes).toString('hex')}`) ?? expect.fail('no key')
}

describe.runIf(linux)('our node behind a relay that lies', () => {
  test.each(FRAMES)('%s', async (_name, frames) => {
    relay.say(...frames())
    await rig.unharmed()
  })

  test('everything that was said, said again: no connection is made twice', async () => {
    await rig.unharmed()
    const before = rig.served
    expect(relay.replay()).toBeGreaterThan(500)
    relay.replay()
    await new Promise((resolve) => setTimeout(resolve, 500))
    expect(rig.served).toBe(before)
    await rig.unharmed()
  })

  test('a health text that paints on the terminal is shown without paint, and goes away', async () => {
    relay.say(encodeFrame({ type: 'health', text: `\u001b[2J\u001b]0;owned\u0007 ${'h'.repeat(100_000)}` }))
    const line = await rig.health(/home relay \(liar\) says that it has a problem/)
    expect(line.length).toBeLessThan(1_000)
    expect(line).not.toMatch(/\p{Cc}/u) // control characters
    relay.say(encodeFrame({ type: 'health', text: '' }))
    await rig.unharmed()
  })

  test('a relay that reads nothing: what waits for it is bounded', async () => {
    relay.pause(true)
    await rig.letsIn(rig.openPort)
    for (let turn = 0; turn < 20; turn += 1) relay.say(Buffer.concat(Array.from({ length: 10_000 }, () => encodeFrame({ type: 'ping', data: Buffer.alloc(8) }))))
    relay.pause(false)
    await rig.unharmed()
  })

  const ANSWERS: readonly (readonly [string, (socket: net.Socket) => void])[] = [
    ['closes at once', (socket) => void socket.destroy()],
    ['never answers', () => undefined],
    ['answers with a page', (socket) => void socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi')],
    ['answers with headers without end', (socket) => void socket.write(`HTTP/1.1 101 Switching Protocols\r\nX: ${'a'.repeat(2_000_000)}`)],
    ['leads elsewhere', (socket) => void socket.end('HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n')],
    ['greets with a key of zeros', (socket) => void socket.write(Buffer.concat([Buffer.from('HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n'), raw(1, 40, Buffer.concat([Buffer.from('DERP🔑'), Buffer.alloc(32)]))]))],
    ['greets with packets', (socket) => void socket.write(Buffer.concat([Buffer.from('HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n'), ...Array.from({ length: 100 }, () => encodePacketFrame(FRAME_RECV_PACKET, stranger(), randomBytes(1_000)))]))],
  ]

  test.each(ANSWERS)('a relay that %s is not hammered, and the health says what is wrong', async (_name, answer) => {
    relay.answer = answer
    relay.hangUp()
    const before = relay.dials
    await rig.health(/The home relay \(liar\) cannot be reached: .*tried again/)
    expect(relay.dials - before).toBeLessThan(30)
    relay.answer = undefined
    relay.hangUp()
    await rig.unharmed()
  })
})
