import { concatBytes, instant } from '@meshwright/core'
import { NodePrivateKey, type NodePublicKey } from '@meshwright/crypto'
import { type Endpoint, parseEndpoint, parseIp } from '@meshwright/ip'
import { drain, machineLaws, SeededRandom, VirtualClock } from '@meshwright/testkit'
import { beforeEach, expect, test } from 'vitest'
import {
  decodeFrame, DerpClient, type DerpFrame, DerpServer, type DerpServerInput, type DerpServerOptions, type DerpServerOutput, encodeFrame, formatDerpMetrics,
  FrameReader, sealClientInfo,
} from './index.ts'

const random = new SeededRandom(11)
const serverKey = NodePrivateKey.generate(random.bytes)
const keys = Array.from({ length: 4 }, () => NodePrivateKey.generate(random.bytes))
const MESH_KEY = random.bytes(32)
const ip = parseIp('192.0.2.7')
if (ip === undefined) throw new Error('address')
const from = { ip, port: 4660 }

let clock: VirtualClock
beforeEach(() => {
  clock = new VirtualClock(0)
})

/** A server and what it has told each connection. */
class Relay {
  readonly server: DerpServer
  readonly events: DerpServerOutput[] = []
  readonly #readers: Map<number, FrameReader> = new Map()
  readonly #frames: Map<number, DerpFrame[]> = new Map()

  constructor(options: Partial<DerpServerOptions> = {}) {
    this.server = new DerpServer({ privateKey: serverKey, random: new SeededRandom(5).bytes, ...options })
  }

  feed(input: DerpServerInput): this {
    this.server.handleInput(clock.now, input)
    return this.settle()
  }

  settle(): this {
    for (const output of drain(this.server)) {
      if (output.type !== 'write') this.events.push(output)
      else this.#frames.get(output.conn)?.push(...this.#decode(output.conn, output.bytes))
    }
    return this
  }

  accept(conn: number, notIdeal = false, source: Endpoint | undefined = from): this {
    this.#readers.set(conn, new FrameReader(() => 1 << 20))
    this.#frames.set(conn, [])
    return this.feed({ type: 'accepted', conn, ...(source !== undefined && { from: source }), notIdeal })
  }

  /** A client that has passed the handshake and whose transport takes everything. */
  client(conn: number, key: NodePrivateKey | undefined, more: { meshKey?: Uint8Array; canAckPings?: boolean; isProber?: boolean } = {}): this {
    this.accept(conn).send(conn, introduction(key, more)).feed({ type: 'writable', conn })
    this.told(conn)
    return this
  }

  send(conn: number, ...frames: readonly Uint8Array[]): this {
    return this.feed({ type: 'bytes', conn, bytes: concatBytes(...frames) })
  }

  /** What a connection was told since it was last asked. */
  told(conn: number): DerpFrame[] {
    return this.#frames.get(conn)?.splice(0) ?? []
  }

  passTime(ms: number): this {
    const until = instant(clock.now + ms)
    for (let due = this.server.pollTimeout(); due !== undefined && due <= until; due = this.server.pollTimeout()) {
      clock.advanceTo(due)
      this.server.handleTimeout(clock.now)
      this.settle()
    }
    clock.advanceTo(until)
    return this
  }

  #decode(conn: number, bytes: Uint8Array): DerpFrame[] {
    const reader = this.#readers.get(conn)
    const frames: DerpFrame[] = []
    reader?.push(bytes)
    for (let raw = reader?.next(); raw !== undefined; raw = reader?.next()) {
      const frame = decodeFrame(raw.code, raw.payload)
      if (frame !== undefined) frames.push(frame)
    }
    return frames
  }
}

function publicKey(i: number): NodePublicKey {
  const key = keys[i]
  if (key === undefined) throw new Error('no such key')
  return key.publicKey()
}

function introduction(key: NodePrivateKey | undefined, more: { meshKey?: Uint8Array; canAckPings?: boolean; isProber?: boolean } = {}): Uint8Array {
  if (key === undefined) throw new Error('no such key')
  const info = { version: 2, canAckPings: true, isProber: false, ...more }
  return encodeFrame({ type: 'clientInfo', key: key.publicKey(), box: sealClientInfo(key, serverKey.publicKey(), info, random.bytes) ?? new Uint8Array(0) })
}

const packet = (to: number, bytes: Uint8Array): Uint8Array => encodeFrame({ type: 'sendPacket', destination: publicKey(to), packet: bytes })
const disco = (fill = 0): Uint8Array => Uint8Array.from({ length: 62 }, (_, i) => [0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac][i] ?? fill)

test('a client and the server shake hands and packets arrive under the proven key of the sender', () => {
  const relay = new Relay().client(1, keys[0]).client(2, keys[1])
  relay.send(1, packet(1, Uint8Array.of(7, 8)))
  expect(relay.told(2)).toEqual([{ type: 'recvPacket', source: publicKey(0), packet: Uint8Array.of(7, 8) }])
  expect(relay.server.stats()).toMatchObject({ connections: 2, localClients: 2, received: { other: { packets: 1, bytes: 2 } }, sent: { other: { packets: 1, bytes: 2 } } })
})

test('our own client understands our own server', () => {
  const relay = new Relay()
  const client = new DerpClient({ privateKey: keys[0] ?? serverKey, random: random.bytes, preferred: true })
  client.handleInput(clock.now, { type: 'opened' })
  relay.server.handleInput(clock.now, { type: 'accepted', conn: 1 })
  for (let moved = true; moved; ) {
    moved = false
    for (const output of drain(relay.server)) if (output.type === 'write') (moved = true), client.handleInput(clock.now, { type: 'bytes', bytes: output.bytes })
    for (const output of drain(client)) if (output.type === 'write') (moved = true), relay.server.handleInput(clock.now, { type: 'bytes', conn: 1, bytes: output.bytes })
  }
  expect(client.state).toBe('connected')
  expect(relay.server.stats().homeConnections).toBe(1)
})

test('packets to oneself and empty packets are delivered', () => {
  const relay = new Relay().client(1, keys[0])
  relay.send(1, packet(0, new Uint8Array(0)))
  expect(relay.told(1)).toEqual([{ type: 'recvPacket', source: publicKey(0), packet: new Uint8Array(0) }])
})

test.each<[string, Uint8Array, string]>([
  ['a preference of two bytes', Uint8Array.of(7, 0, 0, 0, 2, 0, 0), 'frame-invalid'],
  ['a preference of none', Uint8Array.of(7, 0, 0, 0, 0), 'frame-invalid'],
  ['watching without the mesh key', encodeFrame({ type: 'watchConns' }), 'not-privileged'],
  ['forwarding without the mesh key', encodeFrame({ type: 'forwardPacket', source: serverKey.publicKey(), destination: serverKey.publicKey(), packet: Uint8Array.of(1) }), 'not-privileged'],
  ['closing a peer without the mesh key', encodeFrame({ type: 'closePeer', peer: serverKey.publicKey() }), 'not-privileged'],
  ['a ping of 7 bytes', encodeFrame({ type: 'ping', data: new Uint8Array(7) }), 'frame-invalid'],
  ['a ping of 1001 bytes', encodeFrame({ type: 'ping', data: new Uint8Array(1001) }), 'frame-invalid'],
  ['a packet without whole key', Uint8Array.of(4, 0, 0, 0, 1, 0), 'frame-invalid'],
  ['a packet over 64 KiB', Uint8Array.of(4, 0, 1, 0, 33), 'frame-invalid'],
])('%s closes the connection', (_name, frame, reason) => {
  const relay = new Relay().client(1, keys[0]).send(1, frame)
  expect(relay.events.at(-2) ?? relay.events.at(-1)).toMatchObject({ type: 'close', conn: 1, reason })
  expect(relay.server.stats().connections).toBe(0)
})

test('unknown frames of any length are passed over', () => {
  const relay = new Relay().client(1, keys[0])
  relay.send(1, encodeFrame({ type: 'unknown', code: 0x7f, payload: new Uint8Array(300_000) }), encodeFrame({ type: 'ping', data: new Uint8Array(10) }))
  expect(relay.told(1)).toEqual([{ type: 'pong', data: new Uint8Array(8) }])
})

test('the first frame must be an introduction that opens, within 10 s', () => {
  const relay = new Relay().accept(1).send(1, encodeFrame({ type: 'watchConns' }))
  expect(relay.events).toEqual([{ type: 'close', conn: 1, reason: 'client-info-invalid' }])
  const forged = introduction(keys[0])
  forged[60] = (forged[60] ?? 0) ^ 1
  expect(relay.accept(2).send(2, forged).events.at(-1)).toEqual({ type: 'close', conn: 2, reason: 'client-info-invalid' })
  relay.accept(3).feed({ type: 'writable', conn: 3 }).passTime(10_000)
  expect(relay.events.at(-1)).toEqual({ type: 'close', conn: 3, reason: 'handshake-timeout' })
})

test('with admission a client waits for the answer, and what it sent meanwhile is not lost', () => {
  const relay = new Relay({ admission: true }).accept(1).send(1, introduction(keys[0]), encodeFrame({ type: 'ping', data: new Uint8Array(8) }))
  relay.told(1)
  expect(relay.events).toEqual([
    { type: 'pause', conn: 1 },
    { type: 'verify', conn: 1, nodeKey: publicKey(0), from },
  ])
  relay.feed({ type: 'verified', conn: 1, allow: true })
  expect(relay.events.slice(2).map((each) => each.type)).toEqual(['resume', 'peerConnected'])
  expect(relay.told(1).map((each) => each.type)).toEqual(['serverInfo', 'pong'])
})

test('a client that is refused, or about whom nobody answers, is closed without a frame', () => {
  const relay = new Relay({ admission: true }).accept(1).accept(2)
  relay.told(1)
  relay.send(1, introduction(keys[0])).feed({ type: 'writable', conn: 1 }).feed({ type: 'verified', conn: 1, allow: false })
  expect(relay.events.at(-1)).toEqual({ type: 'close', conn: 1, reason: 'denied' })
  expect(relay.told(1)).toEqual([])
  relay.send(2, introduction(keys[1])).feed({ type: 'writable', conn: 2 }).passTime(10_000)
  expect(relay.events.at(-1)).toEqual({ type: 'close', conn: 2, reason: 'handshake-timeout' })
})

test('keepalives come every 60 to 65 s, and a client that answers no ping is closed', () => {
  const relay = new Relay().client(1, keys[0])
  const seen: [number, string][] = []
  for (let s = 1; s <= 400 && relay.server.stats().connections > 0; s += 1) {
    relay.passTime(1000).feed({ type: 'writable', conn: 1 })
    for (const frame of relay.told(1)) seen.push([s, frame.type])
  }
  expect(seen.map(([, type]) => type)).toEqual(['keepAlive', 'ping', 'keepAlive', 'ping', 'keepAlive'])
  const first = seen[0]?.[0] ?? 0
  expect(first).toBeGreaterThanOrEqual(60)
  expect(first).toBeLessThanOrEqual(66)
  expect(relay.events.at(-2)).toEqual({ type: 'close', conn: 1, reason: 'silent' })
})

test('a quiet client that answers pings stays', () => {
  const relay = new Relay().client(1, keys[0])
  for (let s = 0; s < 1200; s += 1) {
    relay.passTime(1000).feed({ type: 'writable', conn: 1 })
    for (const frame of relay.told(1)) if (frame.type === 'ping') relay.send(1, encodeFrame({ type: 'pong', data: frame.data }))
  }
  expect(relay.server.stats().connections).toBe(1)
})

test('who asks for an absent peer by disco is told, three times and then once a second; other packets are dropped silently', () => {
  const relay = new Relay().client(1, keys[0])
  relay.send(1, packet(3, Uint8Array.of(1)), packet(3, disco().slice(0, 61)))
  expect(relay.told(1)).toEqual([])
  for (let i = 0; i < 10; i += 1) relay.send(1, packet(3, disco()))
  expect(relay.told(1)).toEqual(Array<DerpFrame>(3).fill({ type: 'peerGone', peer: publicKey(3), reason: 1 }))
  relay.passTime(1000).send(1, packet(3, disco()), packet(3, disco()))
  expect(relay.told(1)).toHaveLength(1)
  expect(relay.server.stats().dropped.unknown_dest).toEqual({ disco: { packets: 12, bytes: 744 }, other: { packets: 2, bytes: 62 } })
})

test('who has heard from a peer is told once when it leaves the region, others are not', () => {
  const relay = new Relay().client(1, keys[0]).client(2, keys[1]).client(3, keys[2])
  relay.send(1, packet(1, Uint8Array.of(1)), packet(1, Uint8Array.of(2)))
  relay.told(2)
  relay.feed({ type: 'closed', conn: 1 })
  expect(relay.told(2)).toEqual([{ type: 'peerGone', peer: publicKey(0), reason: 0 }])
  expect(relay.told(3)).toEqual([])
})

test('of duplicates the one that spoke last receives, and the region loses the peer with the last of them', () => {
  const relay = new Relay().client(1, keys[0]).client(2, keys[0]).client(3, keys[1])
  relay.send(1, packet(1, Uint8Array.of(0))).told(3)
  relay.feed({ type: 'closed', conn: 99 })
  relay.send(3, packet(0, Uint8Array.of(1)))
  expect([relay.told(1).length, relay.told(2).length]).toEqual([1, 0])
  relay.send(2, encodeFrame({ type: 'notePreferred', preferred: true })).send(3, packet(0, Uint8Array.of(2)))
  expect([relay.told(1).length, relay.told(2).length]).toEqual([0, 1])
  relay.feed({ type: 'closed', conn: 2 })
  expect(relay.told(3)).toEqual([])
  relay.send(3, packet(0, Uint8Array.of(3)))
  expect(relay.told(1)).toHaveLength(1)
  relay.feed({ type: 'closed', conn: 1 })
  expect(relay.told(3)).toEqual([{ type: 'peerGone', peer: publicKey(0), reason: 0 }])
})

test('a destination that takes nothing holds 32 packets of a kind, drops the oldest, and is closed after 2 s', () => {
  const relay = new Relay({ windowBytes: 1000 }).client(1, keys[0]).client(2, keys[1])
  relay.feed({ type: 'writable', conn: 1 })
  for (let i = 0; i < 200; i += 1) relay.send(1, packet(1, new Uint8Array(1000).fill(i)))
  for (let i = 0; i < 40; i += 1) relay.send(1, packet(1, disco(i)))
  const stats = relay.server.stats()
  expect(stats.queuedBytes).toBe(32 * 1037 + 32 * 99)
  expect(stats.dropped.queue_head).toEqual({ disco: { packets: 8, bytes: 496 }, other: { packets: 167, bytes: 167_000 } })
  expect(relay.told(2)).toHaveLength(1)
  relay.feed({ type: 'writable', conn: 2 })
  const next = relay.told(2).map((each) => (each.type === 'recvPacket' ? [each.packet.length, each.packet[20]] : []))
  expect(next).toEqual([[62, 8], [1000, 168]])
  relay.passTime(2000)
  expect(relay.events.filter((each) => each.type === 'close')).toEqual([{ type: 'close', conn: 2, reason: 'write-timeout' }])
  expect(relay.server.stats().dropped.gone_disconnected.other.packets).toBe(31)
})

test('a transport that takes a little now and then is slow, not dead', () => {
  const relay = new Relay({ windowBytes: 5000 }).client(1, keys[0]).client(2, keys[1])
  relay.feed({ type: 'writable', conn: 1 })
  for (let i = 0; i < 40; i += 1) relay.send(1, packet(1, new Uint8Array(1000)))
  const before = relay.told(2).length
  for (let i = 0; i < 10; i += 1) relay.passTime(1900).feed({ type: 'writable', conn: 2, bytes: 1037 })
  expect(relay.told(2)).toHaveLength(10)
  expect(before).toBe(5)
  expect(relay.passTime(2000).events.at(-2)).toEqual({ type: 'close', conn: 2, reason: 'write-timeout' })
})

test('after a jam everything queued comes out in order, both kinds in turn', () => {
  const relay = new Relay({ windowBytes: 100 }).client(1, keys[0]).client(2, keys[1])
  relay.send(1, packet(1, new Uint8Array(200)))
  for (let i = 0; i < 10; i += 1) relay.send(1, packet(1, new Uint8Array(70).fill(i)), packet(1, disco(i)))
  relay.told(2)
  const order: number[] = []
  for (let i = 0; i < 20; i += 1) {
    relay.feed({ type: 'writable', conn: 2 })
    for (const frame of relay.told(2)) if (frame.type === 'recvPacket') order.push(frame.packet[50] ?? -1)
  }
  expect(order).toEqual(Array.from({ length: 20 }, (_, i) => Math.floor(i / 2)))
})

test('above its receive limit a client is not read, then read again, and nothing is dropped', () => {
  const relay = new Relay({ receiveLimit: { bytesPerSecond: 10_000, burstBytes: 1 } }).client(1, keys[0]).client(2, keys[1])
  for (let i = 0; i < 80; i += 1) relay.send(1, packet(1, new Uint8Array(1000))).feed({ type: 'writable', conn: 2 })
  expect(relay.told(2)).toHaveLength(80)
  expect(relay.events.filter((each) => each.type === 'pause')).toHaveLength(1)
  relay.passTime(5000)
  expect(relay.events.at(-1)).toEqual({ type: 'resume', conn: 1 })
})

test('a watcher is told of everyone, itself included, then of changes', () => {
  const relay = new Relay({ meshKey: MESH_KEY }).client(1, keys[0]).client(2, keys[1], { meshKey: MESH_KEY })
  relay.send(2, encodeFrame({ type: 'watchConns' }))
  expect(relay.told(2)).toEqual([
    { type: 'peerPresent', peer: publicKey(0), from, flags: 1 },
    { type: 'peerPresent', peer: publicKey(1), from, flags: 2 },
  ])
  relay.client(3, keys[2], { isProber: true }).client(4, keys[2]).feed({ type: 'closed', conn: 3 }).feed({ type: 'closed', conn: 4 })
  expect(relay.told(2)).toEqual([
    { type: 'peerPresent', peer: publicKey(2), from, flags: 4 },
    { type: 'peerPresent', peer: publicKey(2), from, flags: 1 },
    { type: 'peerGone', peer: publicKey(2), reason: 0 },
  ])
})

test('a wrong mesh key makes an ordinary client', () => {
  const relay = new Relay({ meshKey: MESH_KEY }).client(1, keys[0], { meshKey: new Uint8Array(32) })
  relay.send(1, encodeFrame({ type: 'watchConns' }))
  expect(relay.server.stats().closed).toEqual({ 'not-privileged': 1 })
})

test('another relay may forward packets and close peers; a forwarded packet is not forwarded again', () => {
  const relay = new Relay({ meshKey: MESH_KEY, admission: true }).client(1, keys[3], { meshKey: MESH_KEY })
  relay.accept(2).send(2, introduction(keys[0])).feed({ type: 'verified', conn: 2, allow: true }).told(2)
  relay.server.addForwarder(clock.now, 5, publicKey(2))
  const forward = (to: number): Uint8Array => encodeFrame({ type: 'forwardPacket', source: publicKey(1), destination: publicKey(to), packet: Uint8Array.of(1) })
  relay.send(1, forward(0), forward(2))
  expect(relay.told(2)).toEqual([{ type: 'recvPacket', source: publicKey(1), packet: Uint8Array.of(1) }])
  expect(relay.server.stats().dropped.unknown_dest_on_fwd.other.packets).toBe(1)
  relay.send(1, encodeFrame({ type: 'closePeer', peer: publicKey(0) }))
  expect(relay.events).toContainEqual({ type: 'close', conn: 2, reason: 'closed-by-request' })
})

test('packets for a peer behind another relay go to the first link that knows it', () => {
  const relay = new Relay().client(1, keys[0])
  relay.server.addForwarder(clock.now, 5, publicKey(1))
  relay.server.addForwarder(clock.now, 6, publicKey(1))
  relay.send(1, packet(1, Uint8Array.of(1)))
  expect(relay.events.at(-1)).toEqual({ type: 'forward', link: 5, source: publicKey(0), destination: publicKey(1), packet: Uint8Array.of(1) })
  relay.server.removeLink(clock.now, 5)
  relay.send(1, packet(1, Uint8Array.of(1)))
  expect(relay.events.at(-1)).toMatchObject({ link: 6 })
  relay.server.removeForwarder(clock.now, 6, publicKey(1))
  relay.send(1, packet(1, disco()))
  expect(relay.told(1)).toEqual([{ type: 'peerGone', peer: publicKey(1), reason: 1 }])
})

test('problems and restarts are announced to all clients', () => {
  const relay = new Relay().client(1, keys[0]).accept(2)
  relay.told(2)
  relay.server.announceHealth(clock.now, 'unwell')
  relay.server.announceRestart(clock.now, 1, 2)
  expect(relay.settle().told(1)).toEqual([
    { type: 'health', text: 'unwell' },
    { type: 'restarting', reconnectInMs: 1, tryForMs: 2 },
  ])
  expect(relay.told(2)).toEqual([])
})

test('more connections than allowed are closed at once, and metrics carry the names of a real relay', () => {
  const relay = new Relay({ maxConnections: 1 }).client(1, keys[0]).accept(2)
  expect(relay.events.at(-1)).toEqual({ type: 'close', conn: 2, reason: 'too-many-connections' })
  const text = formatDerpMetrics(relay.server.stats())
  expect(text).toContain('derp_accepts 2\n')
  expect(text).toContain('derp_packets_dropped{reason="queue_head",kind="other"} 0\n')
})

const gaveWay = (relay: Relay): readonly number[] => relay.events.flatMap((event) => (event.type === 'close' && event.reason === 'gave-way' ? [event.conn] : []))

test('of one address only so many wait to be let in: its oldest gives way to its newest, and who is in or comes from elsewhere stays', () => {
  const elsewhere = parseEndpoint('198.51.100.1:9')
  const relay = new Relay({ maxNewcomers: 8 }).client(1, keys[0]).accept(2, false, elsewhere)
  for (let conn = 10; conn < 20; conn += 1) relay.accept(conn)
  expect(gaveWay(relay)).toEqual([10, 11, 12, 13, 14, 15])
  relay.send(2, introduction(keys[1])).send(19, introduction(keys[2]))
  expect(relay.server.peers().length).toBe(3)
  // Who is let in, and who leaves, makes room.
  relay.accept(20).feed({ type: 'closed', conn: 16 }).accept(21)
  expect(gaveWay(relay)).toEqual([10, 11, 12, 13, 14, 15])
})

test.each(['2001:db8:0:1::', '203.0.113.'])('all together are bounded too, whoever they are; a /64 of IPv6 is one source: %s', (prefix) => {
  const relay = new Relay({ maxNewcomers: 8 })
  for (let conn = 1; conn <= 10; conn += 1) relay.accept(conn, false, parseEndpoint(prefix.includes(':') ? `[${prefix}${conn}]:9` : `${prefix}${conn}:9`))
  expect(gaveWay(relay)).toEqual(prefix.includes(':') ? [1, 2, 3, 4, 5, 6] : [1, 2])
})

test('of all together the oldest of the address with the most gives way, and who has one connection stays', () => {
  const relay = new Relay({ maxNewcomers: 4 }).accept(1, false, parseEndpoint('198.51.100.1:9'))
  for (const [conn, host] of [[2, 2], [3, 3], [4, 2], [5, 3], [6, 2], [7, 3]] as const) relay.accept(conn, false, parseEndpoint(`203.0.113.${host}:${conn}`))
  expect(gaveWay(relay)).toEqual([2, 4, 3])
  relay.send(1, introduction(keys[1]))
  expect(relay.server.peers().length).toBe(1)
})

test('unless it is told otherwise, a relay has 1,024 connections of one address that it has not let in', () => {
  const relay = new Relay()
  for (let conn = 1; conn <= 1_026; conn += 1) relay.accept(conn)
  expect(gaveWay(relay)).toEqual([1, 2])
})

test('who waits for the answer of admission may have sent 128 KiB more, and is left when it sends on', () => {
  const relay = new Relay({ admission: true }).accept(1).send(1, introduction(keys[0])).send(1, new Uint8Array(131_072))
  expect(relay.events.filter((event) => event.type === 'close')).toEqual([])
  relay.send(1, new Uint8Array(1))
  expect(relay.events.at(-1)).toEqual({ type: 'close', conn: 1, reason: 'frame-invalid' })
})

test('who waits for the answer of admission waits to be let in, and may give way', () => {
  const relay = new Relay({ maxNewcomers: 2, admission: true }).accept(1).send(1, introduction(keys[0])).accept(2)
  expect(gaveWay(relay)).toEqual([1])
  relay.feed({ type: 'verified', conn: 1, allow: true })
  expect(relay.server.stats()).toMatchObject({ connections: 1, localClients: 0 })
})

test('an introduction may have 16 KiB, a longer one is not waited for', () => {
  const header = (length: number): Uint8Array => Uint8Array.of(2, 0, 0, length >> 8, length & 255)
  const relay = new Relay().accept(1).send(1, header(16_384)).accept(2)
  expect(relay.events).toEqual([])
  relay.send(2, header(16_385))
  expect(relay.events).toEqual([{ type: 'close', conn: 2, reason: 'client-info-invalid' }])
})

test('a flood from thousands of keys that come and go leaves nothing behind', () => {
  const relay = new Relay().client(1, keys[0])
  const box = sealClientInfo(keys[1] ?? serverKey, serverKey.publicKey(), { version: 2, canAckPings: true, isProber: false }, random.bytes)
  expect(box).toBeDefined()
  for (let conn = 2; conn < 202; conn += 1) {
    const key = NodePrivateKey.generate(random.bytes)
    relay.accept(conn).send(conn, introduction(key), packet(0, disco())).feed({ type: 'closed', conn })
    relay.feed({ type: 'writable', conn: 1 })
  }
  expect(relay.server.stats()).toMatchObject({ connections: 1, localClients: 1, queuedBytes: 0, peerGoneDisconnected: 200 })
})

const introductions = keys.map((key) => introduction(key))
const meshIntroduction = introduction(keys[3], { meshKey: MESH_KEY })

test('it keeps the laws of machines', () => {
  let next = 100
  machineLaws<DerpServerInput, DerpServerOutput>({
    make: (source) => {
      next = 100
      return new DerpServer({ privateKey: serverKey, random: source.bytes, meshKey: MESH_KEY, admission: true, windowBytes: 2000, queueDepth: 4 })
    },
    exercise: (machine, now) => {
      introductions.slice(0, 3).forEach((bytes, conn) => {
        machine.handleInput(now, { type: 'accepted', conn })
        machine.handleInput(now, { type: 'bytes', conn, bytes })
        machine.handleInput(now, { type: 'verified', conn, allow: true })
      })
      machine.handleInput(now, { type: 'accepted', conn: 3 })
      machine.handleInput(now, { type: 'bytes', conn: 3, bytes: concatBytes(meshIntroduction, encodeFrame({ type: 'watchConns' })) })
    },
    arbitraryInput: (source) => {
      const conn = source.below(5)
      const kind = source.below(20)
      if (kind === 0) return { type: 'accepted', conn: (next += 1) }
      if (kind === 1) return { type: 'writable', conn }
      if (kind === 2) return source.chance(0.1) ? { type: 'closed', conn } : { type: 'verified', conn, allow: source.chance(0.5) }
      if (kind === 3 && source.chance(0.1)) return { type: 'bytes', conn, bytes: source.bytes(source.below(60)) }
      const code = source.pick([0x04, 0x04, 0x04, 0x07, 0x0a, 0x10, 0x12, 0x13, 0x7f])
      const payload = code === 0x04 ? concatBytes(publicKey(source.below(4)).bytes, source.bytes(source.below(900))) : code === 0x07 ? Uint8Array.of(1) : source.bytes(code === 0x10 ? 0 : 70)
      return { type: 'bytes', conn, bytes: encodeFrame({ type: 'unknown', code, payload }) }
    },
    memory: { size: (machine) => (machine instanceof DerpServer ? machine.stats().queuedBytes : 0), bound: 5 * 8 * 1000 },
    inputs: 400,
  })
})
