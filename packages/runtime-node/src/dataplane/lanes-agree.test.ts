import { type Instant, instant } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { encodeTcpPacket, encodeUdpPacket, type Endpoint, type Ip, parseIp, parsePrefix, TCP_ACK } from '@meshwright/ip'
import { SeededRandom } from '@meshwright/testkit'
import { WireGuardDevice, type WireGuardOutput } from '@meshwright/wireguard'
import type { UapiPeerChange } from '@meshwright/wireguard/text'
import { expect, test } from 'vitest'
import { nodeCryptoProvider } from '../node-crypto.ts'
import { wasmCryptoProvider } from '../wasm-crypto.ts'
import { MemoryLane } from './memory-lane.ts'
import { RowCutter, type RowMemory } from './row-cutter.ts'
import { encodeSocketAddress, type UdpPath, udpPathTo } from './socket-address.ts'
import { sumsFor } from './sum-module.ts'
import { TunnelEngine } from './tunnel-engine.ts'
import { decodeVnetHeader, emptyVnetHeader, encodeRowVnetHeader, VNET_GSO_TCPV4, VNET_GSO_UDP, VNET_HEADER_BYTES } from './vnet-header.ts'

// One node on two lanes: rows through the worker's, and the pure machine packet by packet. Both get the same traffic of 100 peers, from one
// seed, and must send the same datagrams, deliver the same packets and count the same.
const PEERS = 100
const STEPS = 180
/** No multiple of it is a whole millisecond. */
const TICK_MS = Math.SQRT2 / 100
const OWN = ip('10.0.0.1')
const wallClock = (now: Instant): number => 1_767_225_600_000 + now

function ip(text: string): Ip {
  const parsed = parseIp(text)
  if (parsed === undefined) throw new Error(text)
  return parsed
}

function wasm(bytes: number) {
  const provider = wasmCryptoProvider(nodeCryptoProvider, bytes)
  if (provider === undefined) throw new Error('no WebAssembly SIMD')
  return provider
}

/** The pure machine: one datagram, one packet at a time. */
class Reference {
  readonly engine: TunnelEngine<UdpPath>
  readonly delivered: Uint8Array[] = []
  readonly sent: string[] = []
  readonly roamed: string[] = []
  now: Instant = instant(1_000)

  constructor(key: NodePrivateKey) {
    this.engine = new TunnelEngine({ name: 'r', pathTo: udpPathTo, provider: nodeCryptoProvider, random: new SeededRandom(7).bytes, wallClock: () => wallClock(this.now), stopwatch: false })
    this.engine.change(this.now, { type: 'privateKey', key })
  }

  packet(bytes: Uint8Array): void {
    const owner = this.engine.ownerOf(bytes, 0, bytes.length)
    if (owner !== undefined) this.engine.device.handleInput(this.now, { type: 'packet', peer: owner.publicKey, bytes })
    this.settle()
  }

  datagram(bytes: Uint8Array, from: Endpoint): void {
    this.engine.device.handleInput(this.now, { type: 'datagram', bytes, from: udpPathTo(from) })
    this.settle()
  }

  settle(): void {
    const { device } = this.engine
    for (let output = device.pollOutput(); output !== undefined; output = device.pollOutput()) {
      if (output.type === 'transmit') this.sent.push(line(output.to?.socketAddress, output.bytes))
      else if (output.type === 'packet') {
        if (this.engine.admits(this.now, output.peer, output.bytes, 0, output.bytes.length)) this.delivered.push(output.bytes)
      } else {
        this.engine.note(output)
        if (output.type === 'roamed') this.roamed.push(`${output.peer.text} ${output.path.id}`)
      }
    }
    this.delivered.push(...this.engine.takeReleased())
  }
}

/** One of the 100: a device of its own, at a place that changes. */
class Remote {
  readonly key: NodePrivateKey
  readonly device: WireGuardDevice
  readonly index: number
  readonly out: Uint8Array[] = []
  readonly history: { readonly bytes: Uint8Array; readonly segmentBytes: number }[] = []
  place: Endpoint
  next = 0

  constructor(index: number, node: NodePrivateKey, clock: () => Instant) {
    this.index = index
    const random = new SeededRandom(1_000 + index).bytes
    this.key = NodePrivateKey.generate(random)
    this.place = { ip: ip(`192.0.2.${index}`), port: 5_000 + index }
    this.device = new WireGuardDevice({ random, provider: nodeCryptoProvider, wallClock: () => wallClock(clock()), privateKey: this.key })
    this.device.setPeer(clock(), { publicKey: node.publicKey(), path: { id: 'node', cookieBytes: new Uint8Array(6) } })
  }

  get address(): Ip {
    return ip(`10.0.1.${this.index}`)
  }

  drain(): Uint8Array[] {
    const found: Uint8Array[] = []
    for (let output: WireGuardOutput | undefined = this.device.pollOutput(); output !== undefined; output = this.device.pollOutput()) if (output.type === 'transmit') found.push(output.bytes)
    return found
  }
}

function line(to: Uint8Array | undefined, bytes: Uint8Array): string {
  return `${Buffer.from(to ?? []).toString('hex')} ${Buffer.from(bytes).toString('base64')}`
}

/** What was written to the device, cut into the packets that it stands for; identification is the cutter's to count. */
function unjoined(memory: RowMemory, written: readonly Uint8Array[]): string[] {
  const cutter = new RowCutter(memory)
  const header = emptyVnetHeader()
  return written.flatMap((bytes) => {
    decodeVnetHeader(new DataView(bytes.buffer, bytes.byteOffset), 0, header)
    const packet = bytes.subarray(VNET_HEADER_BYTES)
    if (header.kind === 0) return [plain(packet)]
    memory.bytes.set(packet, 64)
    expect(cutter.plan(64, packet.length, header)).toBe(true)
    return Array.from({ length: cutter.segments }, (_, i) => {
      cutter.cut(i, i + 1, 80_000, 0)
      return plain(memory.bytes.slice(80_000, 80_000 + (i === cutter.segments - 1 ? cutter.lastPacketBytes : cutter.packetBytes)))
    })
  })
}

/** The same lines, whatever their order; says the first difference only. */
function same(own: string[], other: string[]): void {
  own.sort()
  other.sort()
  const at = own.findIndex((each, i) => each !== other[i])
  expect([own.length, at < 0 ? '' : own[at]]).toEqual([other.length, at < 0 ? '' : other[at]])
}

function plain(packet: Uint8Array): string {
  return Buffer.from(packet.map((byte, i) => (i === 4 || i === 5 || i === 10 || i === 11 ? 0 : byte))).toString('base64')
}

test('two lanes, 100 peers, valid, forged, replayed, denied, rekeying, roaming: the same datagrams, packets and counters', () => {
  const random = new SeededRandom(42)
  const pick = (most: number): number => {
    const [high = 0, low = 0] = random.bytes(2)
    return (high * 256 + low) % most
  }
  const node = NodePrivateKey.generate(random.bytes)
  const provider = wasm(8 * 1024 * 1024)
  const spare = provider.instance.allocate(200_000)
  const spareMemory: RowMemory = { bytes: spare, view: new DataView(spare.buffer, spare.byteOffset, spare.length), sums: sumsFor(provider, spare.byteOffset) }
  const laneRoamed: string[] = []
  const lane: MemoryLane = new MemoryLane({ provider, key: node, random: new SeededRandom(7).bytes, wallClock: () => wallClock(lane.now), onOutput: (output) => void (output.type === 'roamed' && laneRoamed.push(`${output.peer.text} ${output.path.id}`)) })
  const reference = new Reference(node)
  const remotes = Array.from({ length: PEERS }, (_, i) => new Remote(i + 1, node, () => reference.now))
  const laneSent: string[] = []
  const toRemotes: { readonly to: Uint8Array; readonly bytes: Uint8Array }[] = []
  let rows = 0
  lane.kernel.onSend = (to, { bytes, segmentBytes }) => {
    const step = segmentBytes === 0 ? bytes.length : segmentBytes
    if (segmentBytes > 0) rows += 1
    for (let at = 0; at < bytes.length; at += step) {
      const datagram = bytes.slice(at, at + step)
      laneSent.push(line(to, datagram))
      toRemotes.push({ to, bytes: datagram })
    }
  }
  // No two peers at the same moment: whose timer fires first of two that are due together is nobody's promise.
  const tick = (): void => {
    const now = instant(reference.now + TICK_MS)
    lane.now = now
    reference.now = now
  }
  const configure = (change: UapiPeerChange): void => {
    tick()
    lane.change(change)
    reference.engine.change(reference.now, change)
    reference.settle()
  }
  const changeFor = (remote: Remote, more: Partial<UapiPeerChange> = {}): UapiPeerChange => {
    const prefix = parsePrefix(`10.0.1.${remote.index}/32`)
    if (prefix === undefined) throw new Error('prefix')
    return { type: 'peer', publicKey: remote.key.publicKey(), remove: false, updateOnly: false, replaceAllowedIps: true, allowedIps: [{ prefix, remove: false }], endpoint: remote.place, ...more }
  }
  const arrive = (from: Endpoint, bytes: Uint8Array, segmentBytes: number): void => {
    tick()
    lane.kernel.udpIn.push({ from: encodeSocketAddress(from), bytes, segmentBytes: segmentBytes < bytes.length ? segmentBytes : 0, trafficClass: 0 })
    lane.run()
    for (let at = 0; at < bytes.length; at += segmentBytes) reference.datagram(bytes.subarray(at, Math.min(bytes.length, at + segmentBytes)), from)
  }
  let delivered = 0
  const settle = (): void => {
    for (let round = 0; round < 12; round += 1) {
      same(laneSent.splice(0), reference.sent.splice(0))
      const laneDelivered = unjoined(spareMemory, lane.kernel.tunOut?.splice(0) ?? [])
      delivered += laneDelivered.length
      same(laneDelivered, reference.delivered.splice(0).map(plain))
      const moving = toRemotes.splice(0)
      for (const { to, bytes } of moving) {
        tick()
        const remote = remotes.find(({ place }) => Buffer.from(encodeSocketAddress(place)).equals(to))
        remote?.device.handleInput(reference.now, { type: 'datagram', bytes, from: { id: 'node', cookieBytes: new Uint8Array(6) } })
      }
      let moved = moving.length
      for (const remote of remotes) {
        for (const bytes of remote.drain()) {
          moved += 1
          arrive(remote.place, bytes, bytes.length)
        }
      }
      if (moved === 0) return
    }
  }
  const wait = (ms: number): void => {
    const until = reference.now + ms
    for (let due = reference.engine.device.pollTimeout() ?? until; ; due = reference.engine.device.pollTimeout() ?? until) {
      const now = instant(Math.max(reference.now, Math.min(due, until)))
      lane.now = now
      reference.now = now
      lane.run()
      reference.engine.device.handleTimeout(now)
      reference.settle()
      if (due >= until) break
    }
    for (const { device } of remotes) device.handleTimeout(reference.now)
    settle()
  }
  /** Datagrams of one peer under one length, as a row. */
  const rowFrom = (remote: Remote, count: number, source: Ip): { readonly bytes: Uint8Array; readonly segmentBytes: number } | undefined => {
    const size = 40 + pick(1_000)
    const isTcp = pick(2) === 0
    for (let i = 0; i < count; i += 1) {
      const ends = { src: { ip: source, port: 1 + pick(2) }, dst: { ip: OWN, port: 9 } }
      const payload = new Uint8Array(size).fill(pick(256))
      const packet = isTcp ? encodeTcpPacket({ ...ends, src: { ip: source, port: 1 }, sequence: remote.next, flags: TCP_ACK, payload }) : encodeUdpPacket({ ...ends, payload })
      remote.next += size
      remote.device.handleInput(reference.now, { type: 'packet', peer: node.publicKey(), bytes: packet })
    }
    const datagrams = remote.drain().filter((bytes) => bytes[0] === 4)
    const [first] = datagrams
    if (first === undefined || datagrams.some((bytes) => bytes.length !== first.length)) return undefined
    return { bytes: Uint8Array.from(Buffer.concat(datagrams)), segmentBytes: first.length }
  }
  const dropsOf = (engine: TunnelEngine<UdpPath>): Record<string, number> => Object.fromEntries([...engine.status(reference.now).drops].sort())

  for (const remote of remotes) configure(changeFor(remote))
  for (const remote of remotes) {
    tick()
    const hello = encodeUdpPacket({ src: { ip: OWN, port: 1 }, dst: { ip: remote.address, port: 2 }, payload: new Uint8Array(10) })
    lane.kernel.tunIn.push(withHeader(hello))
    lane.run()
    reference.packet(hello)
  }
  settle()
  for (let step = 0; step < STEPS; step += 1) {
    const remote = remotes[pick(PEERS)]
    if (remote === undefined) throw new Error('no peer')
    const what = pick(12)
    tick()
    if (what < 5) {
      // Valid; now and then one of the row was changed on its way, or comes from an address that is another's.
      const other = remotes[pick(PEERS)] ?? remote
      const row = rowFrom(remote, 1 + pick(20), what === 4 ? other.address : remote.address)
      if (row !== undefined) {
        remote.history.push(row)
        const bytes = row.bytes.slice()
        if (what === 3) {
          const at = pick(bytes.length)
          bytes[at] = (bytes[at] ?? 0) ^ (1 << pick(8))
        }
        arrive(remote.place, bytes, row.segmentBytes)
      }
    } else if (what === 5) {
      const old = remote.history[pick(Math.max(1, remote.history.length))]
      if (old !== undefined) arrive(remote.place, old.bytes, old.segmentBytes)
    } else if (what === 6) {
      arrive({ ip: ip('203.0.113.9'), port: 7 }, random.bytes(1 + pick(300)), 100_000)
    } else if (what === 7) {
      remote.place = { ip: ip(`198.51.100.${1 + pick(200)}`), port: 1_024 + step }
      const row = rowFrom(remote, 1, remote.address)
      if (row !== undefined) arrive(remote.place, row.bytes, row.segmentBytes)
    } else if (what < 10) {
      outbound(remote.address, pick(2) === 0 ? 'tcp' : 'udp', 1 + pick(40), 48 + pick(1_200))
    } else if (what === 10) {
      // To nobody: alone, or as a row.
      outbound(ip('10.9.9.9'), step % 2 === 0 ? 'tcp' : 'udp', 1 + (step % 8), 700, 350)
    } else if (pick(3) === 0) {
      configure(changeFor(remote, { remove: true }))
      configure(changeFor(remote))
    } else {
      wait(pick(4) === 0 ? 125_000 : 3_000)
    }
    settle()
  }
  expect(dropsOf(lane.engine)).toEqual(dropsOf(reference.engine))
  expect(lane.engine.drops).toEqual(reference.engine.drops)
  expect(lane.engine.status(lane.now).peers).toMatchObject(reference.engine.status(reference.now).peers.map(({ path, ...peer }) => ({ ...peer, path: { id: path?.id } })))
  // All of it happened.
  expect(laneRoamed).toEqual(reference.roamed)
  expect(laneRoamed.length).toBeGreaterThan(3)
  expect(lane.engine.status(lane.now).peers.filter(({ handshakesCompleted }) => handshakesCompleted > 1).length).toBeGreaterThan(5)
  expect(Object.keys(dropsOf(lane.engine))).toEqual(expect.arrayContaining(['packet-auth', 'packet-replay', 'unknown-index']))
  expect(lane.engine.drops.wrongSource).toBeGreaterThan(3)
  expect(lane.engine.drops.noRoute).toBeGreaterThan(3)
  expect(rows).toBeGreaterThan(20)
  expect(lane.lane.joined.packets).toBeGreaterThan(50)
  expect(delivered).toBeGreaterThan(300)

  function outbound(to: Ip, kind: 'tcp' | 'udp', count: number, size: number, last: number = 1 + pick(size)): void {
    const bytes = Uint8Array.from({ length: (count - 1) * size + last }, (_, i) => i & 255)
    const ends = { src: { ip: OWN, port: 1 }, dst: { ip: to, port: 2 } }
    const make = (payload: Uint8Array, i: number): Uint8Array => (kind === 'tcp' ? encodeTcpPacket({ ...ends, sequence: i * size, flags: TCP_ACK, payload, id: i }) : encodeUdpPacket({ ...ends, payload, id: i }))
    const whole = withHeader(make(bytes, 0))
    encodeRowVnetHeader(new DataView(whole.buffer), 0, kind === 'tcp' ? VNET_GSO_TCPV4 : VNET_GSO_UDP, 0, size, 20, kind === 'tcp' ? 16 : 6)
    lane.kernel.tunIn.push(whole)
    lane.run()
    for (let i = 0; i * size < bytes.length; i += 1) reference.packet(make(bytes.subarray(i * size, (i + 1) * size), i))
  }
}, 180_000)

function withHeader(packet: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(VNET_HEADER_BYTES + packet.length)
  bytes.set(packet, VNET_HEADER_BYTES)
  return bytes
}
