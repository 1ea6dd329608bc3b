import { type Instant, instant, type RelayMap } from '@meshwright/core'
import { type CryptoProvider, DiscoPrivateKey, NodePrivateKey } from '@meshwright/crypto'
import type { WasmProvider } from '@meshwright/crypto/wasm'
import { DerpServer } from '@meshwright/derp'
import { encodeTcpPacket, encodeUdpPacket, type Endpoint, formatEndpoint, IpSet, TCP_ACK } from '@meshwright/ip'
import { type AppliedMap, Engine, type EngineInput, type EngineOptions, type EngineOutput, type NodeEngine } from '@meshwright/mesh'
import { SeededRandom } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { endpoint, ip, must, prefix } from '../../test/values.ts'
import { nodeCryptoProvider } from '../node-crypto.ts'
import { wasmCryptoProvider } from '../wasm-crypto.ts'
import { RowCutter, type RowMemory } from '../dataplane/row-cutter.ts'
import { decodeSocketAddress, encodeSocketAddress } from '../dataplane/socket-address.ts'
import { sumsFor } from '../dataplane/sum-module.ts'
import { decodeVnetHeader, emptyVnetHeader, encodeRowVnetHeader, VNET_GSO_TCPV4, VNET_GSO_UDP, VNET_HEADER_BYTES } from '../dataplane/vnet-header.ts'
import { MemoryMeshLane } from './memory-mesh-lane.ts'
import { RemoteEngine } from './remote-engine.ts'

// One mesh node twice: on the fast lane, told by messages and fed with rows, and as the portable lane has it, packet by packet. Both get the
// same traffic of 100 peers from one seed, directly and by a relay, with disco in between, under policies that change; they must send the
// same datagrams and relay frames, deliver the same packets and count the same.
const PEERS = 100
const STEPS = 120
/** Peers from here on have no UDP: all theirs goes by the relay. */
const FIRST_RELAYED = 71
const ALLOWED_PORT = 9
const NOW_AND_THEN_PORT = 10
const DENIED_PORT = 11
/** No multiple of it is a whole millisecond. */
const TICK_MS = Math.SQRT2 / 100
const WALL = 1_767_225_600_000
const LINKS = 1_000_000

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64')

const NODE_PLACE = endpoint('198.51.100.1:41641')
const OWN = ip('100.64.1.0')
const relays: RelayMap = { regions: new Map([[1, { id: 1, code: 'one', name: 'One', nodes: [{ name: '1a', regionId: 1, hostName: 'one.test' }] }]]) }
let now: Instant = instant(1_000)
const wallClock = (): number => WALL + now

function keysOf(index: number): { readonly node: NodePrivateKey; readonly disco: DiscoPrivateKey } {
  const random = new SeededRandom(1_000 + index).bytes
  return { node: NodePrivateKey.generate(random), disco: DiscoPrivateKey.generate(random) }
}

function optionsOf(index: number, random: SeededRandom, more: Partial<EngineOptions> = {}): EngineOptions {
  let link = index === 0 ? LINKS : 0
  const keys = keysOf(index)
  return { random: random.bytes, wallClock, provider: nodeCryptoProvider, stopwatch: () => 0, privateKey: keys.node, discoKey: keys.disco, mtu: 1280, allowLoopback: false, blockUdp: false, nextLink: () => (link += 1), ...more }
}

/** A relay that the node and all its peers are connected with: connection 0 is the node's. */
class Relay {
  readonly #server = new DerpServer({ privateKey: NodePrivateKey.generate(new SeededRandom(9).bytes), random: new SeededRandom(4).bytes })
  readonly #owners: Map<number, { readonly conn: number; readonly onBytes: (bytes: Uint8Array) => void }> = new Map()
  #conns = 0

  /** A connection of one of them, in the place of the one before. */
  open(owner: number, onBytes: (bytes: Uint8Array) => void): void {
    const old = this.#owners.get(owner)
    if (old !== undefined) this.#server.handleInput(now, { type: 'closed', conn: old.conn })
    this.#conns += 1
    this.#owners.set(owner, { conn: this.#conns, onBytes })
    this.#server.handleInput(now, { type: 'accepted', conn: this.#conns })
    this.#drain()
  }

  write(owner: number, bytes: Uint8Array): void {
    this.#server.handleInput(now, { type: 'bytes', conn: must(this.#owners.get(owner)).conn, bytes })
    this.#drain()
  }

  /** Lets its time pass. */
  pass(): void {
    const at = this.#server.pollTimeout()
    if (at === undefined || at > now) return
    this.#server.handleTimeout(now)
    this.#drain()
  }

  #drain(): void {
    for (let output = this.#server.pollOutput(); output !== undefined; output = this.#server.pollOutput()) {
      if (output.type !== 'write') continue
      const { conn, bytes } = output
      this.#server.handleInput(now, { type: 'writable', conn })
      for (const owner of this.#owners.values()) if (owner.conn === conn) owner.onBytes(Uint8Array.from(bytes))
    }
  }
}

/** What one of the two did in a step, in words that may be sorted: within a row, a lane sends what a handshake needs behind its packets. */
class Acts {
  readonly #lines: string[] = []
  readonly #written: Map<number, Buffer> = new Map()

  say(output: EngineOutput): void {
    if (output.type === 'datagram') this.#lines.push(`datagram ${formatEndpoint(output.to)} ${hex(output.bytes)}`)
    else if (output.type === 'relayWrite') this.#written.set(output.link, Buffer.concat([this.#written.get(output.link) ?? Buffer.alloc(0), output.bytes]))
    else if (output.type === 'relayDial' || output.type === 'relayClose') this.#lines.push(`${output.type} ${output.link}`)
    else if (output.type === 'stun' || output.type === 'tsmp') this.#lines.push(`${output.type} ${hex(output.bytes)}`)
    // How often a node is told to look is the lane's own business.
    else if (output.type !== 'changed' && output.type !== 'deliver') this.#lines.push(output.type)
  }

  datagram(to: Endpoint, bytes: Uint8Array): void {
    this.#lines.push(`datagram ${formatEndpoint(to)} ${hex(bytes)}`)
  }

  packet(packet: Uint8Array): void {
    // Identification is the cutter's to count.
    this.#lines.push(`packet ${hex(packet.map((byte, i) => (i === 4 || i === 5 || i === 10 || i === 11 ? 0 : byte)))}`)
  }

  take(): string[] {
    const lines = [...this.#lines.splice(0), ...[...this.#written].flatMap(([link, bytes]) => framesIn(bytes).map((frame) => `relayed ${link} ${hex(frame)}`))].sort()
    this.#written.clear()
    return lines
  }
}

/** One of the 100: an engine of its own, at a place that changes. */
class Remote {
  readonly index: number
  readonly engine: Engine
  readonly history: { readonly bytes: Uint8Array; readonly segmentBytes: number }[] = []
  readonly out: Uint8Array[] = []
  place: Endpoint
  next = 0

  constructor(index: number, relay: Relay, provider: CryptoProvider) {
    this.index = index
    this.place = endpoint(`192.0.2.${index}:${5_000 + index}`)
    this.engine = new Engine(optionsOf(index, new SeededRandom(2_000 + index), { blockUdp: index >= FIRST_RELAYED, provider }))
    this.engine.setRelayMap(now, relays)
    this.engine.setHome(now, 1)
    const keys = keysOf(0)
    this.engine.apply(now, {
      warnings: [],
      paths: [{ nodeKey: keys.node.publicKey(), discoKey: keys.disco.publicKey(), endpoints: [NODE_PLACE], homeRegion: 1 }],
      plane: { peers: [keys.node.publicKey()], routes: [{ prefix: prefix('100.64.1.0/32'), peer: keys.node.publicKey().text }], rules: [{ SrcIPs: ['*'], DstPorts: [{ IP: '*', Ports: { First: 0, Last: 65_535 } }] }], local: IpSet.from([prefix(`${this.address}/32`)]) },
    })
    this.drain(relay)
  }

  get address(): string {
    return `100.64.0.${this.index}`
  }

  /** Performs what it owes; datagrams for the node are left in `out`. */
  drain(relay: Relay): void {
    for (let output = this.engine.pollOutput(); output !== undefined; output = this.engine.pollOutput()) {
      if (output.type === 'datagram') this.out.push(output.bytes)
      else if (output.type === 'relayWrite') {
        relay.write(this.index, output.bytes)
        this.engine.handleInput(now, { type: 'relay', input: { type: 'writable', link: output.link } })
      } else if (output.type === 'relayDial') {
        const { link } = output
        this.engine.handleInput(now, { type: 'relay', input: { type: 'opened', link } })
        relay.open(this.index, (bytes) => {
          this.engine.handleInput(now, { type: 'relay', input: { type: 'bytes', link, bytes } })
          this.drain(relay)
        })
      }
    }
  }
}

/** A lane with its engine's other half, a relay, and memory for rows beside the lane's own. */
function laneAndRemote(): { readonly provider: WasmProvider; readonly memory: RowMemory; readonly relay: Relay; readonly lane: MemoryMeshLane; readonly remote: RemoteEngine } {
  const provider = must(wasmCryptoProvider(nodeCryptoProvider, 8 * 1024 * 1024))
  const spare = provider.instance.allocate(200_000)
  const memory: RowMemory = { bytes: spare, view: new DataView(spare.buffer, spare.byteOffset, spare.length), sums: sumsFor(provider, spare.byteOffset) }
  const relay = new Relay()
  const lane: MemoryMeshLane = new MemoryMeshLane({ provider, random: new SeededRandom(7).bytes, wallClock })
  const remote: RemoteEngine = new RemoteEngine(1, optionsOf(0, new SeededRandom(0)), (message) => lane.take(message))
  return { provider, memory, relay, lane, remote }
}

test('a mesh node on both lanes, 100 peers, directly and by relay: the same datagrams, frames, packets and counters', () => {
  const random = new SeededRandom(42)
  const pick = (most: number): number => {
    const [high = 0, low = 0] = random.bytes(2)
    return (high * 256 + low) % most
  }
  const { provider, memory, relay, lane, remote } = laneAndRemote()
  const portable = new Engine(optionsOf(0, new SeededRandom(7)))
  const [laneActs, portableActs] = [new Acts(), new Acts()]
  const toRemotes: { readonly to: string; readonly bytes: Uint8Array }[] = []
  const frames: Uint8Array[] = []
  let [rows, delivered, relayedFrames] = [0, 0, 0]
  lane.kernel.onSend = (to, { bytes, segmentBytes }) => {
    const place = must(decodeSocketAddress(new DataView(to.buffer, to.byteOffset, to.length), 0, to.length))
    const step = segmentBytes === 0 ? bytes.length : segmentBytes
    if (segmentBytes > 0) rows += 1
    for (let at = 0; at < bytes.length; at += step) {
      const datagram = bytes.slice(at, at + step)
      laneActs.datagram(place, datagram)
      toRemotes.push({ to: formatEndpoint(place), bytes: datagram })
    }
  }
  // No two peers at the same moment: whose timer fires first of two that are due together is nobody's promise.
  const tick = (ms: number = TICK_MS): void => {
    now = instant(now + ms)
    lane.now = now
  }
  const linkInput = (input: Extract<EngineInput, { readonly type: 'relay' }>['input']): void => both((engine) => engine.handleInput(now, { type: 'relay', input }))
  const both = (act: (engine: NodeEngine) => void): void => {
    act(remote)
    act(portable)
  }
  /** Both have done the same; what the relay and the network get of it is on its way. */
  const compare = (): void => {
    for (const message of lane.posted.splice(0)) if (message.type !== 'service') remote.receive(message)
    for (let output = remote.pollOutput(); output !== undefined; output = remote.pollOutput()) {
      laneActs.say(output)
      if (output.type === 'relayWrite') frames.push(output.bytes)
      if (output.type === 'relayDial') {
        const { link } = output
        pending.push(() => {
          relay.open(0, (bytes) => pending.push(() => linkInput({ type: 'bytes', link, bytes })))
          linkInput({ type: 'opened', link })
        })
      }
      if (output.type === 'relayWrite') pending.push(() => linkInput({ type: 'writable', link: output.link }))
    }
    for (const packet of unjoined(memory, lane.kernel.tunOut?.splice(0) ?? [])) {
      delivered += 1
      laneActs.packet(packet)
    }
    for (let output = portable.pollOutput(); output !== undefined; output = portable.pollOutput()) {
      portableActs.say(output)
      if (output.type === 'deliver') portableActs.packet(output.bytes)
    }
    const [own, other] = [laneActs.take(), portableActs.take()]
    const at = own.findIndex((each, i) => each !== other[i])
    expect([own.length, at < 0 ? '' : own[at]]).toEqual([other.length, at < 0 ? '' : other[at]])
  }
  const pending: (() => void)[] = []
  const due = (): void => {
    const at = portable.pollTimeout()
    if (at !== undefined && at <= now) portable.handleTimeout(now)
  }
  const arrive = (from: Endpoint, bytes: Uint8Array, segmentBytes: number): void => {
    tick()
    lane.kernel.udpIn.push({ from: encodeSocketAddress(from), bytes, segmentBytes: segmentBytes < bytes.length ? segmentBytes : 0, trafficClass: 0 })
    lane.run()
    for (let at = 0; at < bytes.length; at += segmentBytes) portable.handleInput(now, { type: 'datagram', bytes: bytes.slice(at, Math.min(bytes.length, at + segmentBytes)), from })
    due()
    compare()
  }
  const remotes = Array.from({ length: PEERS }, (_, i) => new Remote(i + 1, relay, provider))
  const settle = (): void => {
    for (let round = 0; round < 40; round += 1) {
      compare()
      const [moving, acts, written] = [toRemotes.splice(0), pending.splice(0), frames.splice(0)]
      for (const act of acts) {
        tick()
        act()
        compare()
      }
      for (const bytes of written) {
        relayedFrames += 1
        relay.write(0, bytes)
      }
      for (const { to, bytes } of moving) {
        tick()
        const at = remotes.find(({ place }) => formatEndpoint(place) === to)
        at?.engine.handleInput(now, { type: 'datagram', bytes, from: NODE_PLACE })
      }
      let moved = moving.length + acts.length + written.length
      for (const each of remotes) {
        each.drain(relay)
        for (const bytes of each.out.splice(0)) {
          moved += 1
          arrive(each.place, bytes, bytes.length)
        }
      }
      if (moved + pending.length === 0) return
    }
    throw new Error('it does not settle')
  }
  const wait = (ms: number): void => {
    const until = now + ms
    for (;;) {
      const next = portable.pollTimeout() ?? until
      expect(lane.mesh.pollTimeout()).toBe(portable.pollTimeout())
      if (next > until) break
      tick(Math.max(0, next - now))
      lane.run()
      due()
      relay.pass()
      settle()
    }
    tick(Math.max(TICK_MS, until - now))
    relay.pass()
    for (const { engine } of remotes) engine.handleTimeout(now)
    settle()
  }
  const appliedOf = (open: boolean, without: number): AppliedMap => {
    const known = remotes.filter(({ index }) => index !== without)
    const ports = open ? [ALLOWED_PORT, NOW_AND_THEN_PORT] : [ALLOWED_PORT]
    return {
      warnings: [],
      paths: known.map((each) => {
        const keys = keysOf(each.index)
        return { nodeKey: keys.node.publicKey(), discoKey: keys.disco.publicKey(), endpoints: each.index < FIRST_RELAYED ? [each.place] : [], homeRegion: 1 }
      }),
      plane: {
        peers: known.map(({ index }) => keysOf(index).node.publicKey()),
        routes: known.map(({ index, address }) => ({ prefix: prefix(`${address}/32`), peer: keysOf(index).node.publicKey().text })),
        rules: [{ SrcIPs: ['100.64.0.0/24'], DstPorts: ports.map((port) => ({ IP: '*', Ports: { First: port, Last: port } })) }],
        local: IpSet.from([prefix('100.64.1.0/32')]),
      },
    }
  }
  const command = (act: (engine: NodeEngine) => void): void => {
    tick()
    both(act)
    due()
    settle()
  }
  /** Packets of one peer under one length; directly they come as a row. */
  const speak = (from: Remote, count: number, source: string, port: number): { readonly bytes: Uint8Array; readonly segmentBytes: number } | undefined => {
    const size = 40 + pick(1_000)
    const isTcp = pick(2) === 0
    for (let i = 0; i < count; i += 1) {
      const ends = { src: { ip: ip(source), port: 1 }, dst: { ip: OWN, port } }
      const payload = new Uint8Array(size).fill(pick(256))
      const packet = isTcp ? encodeTcpPacket({ ...ends, sequence: from.next, flags: TCP_ACK, payload }) : encodeUdpPacket({ ...ends, payload })
      from.next += size
      tick()
      from.engine.handleInput(now, { type: 'packet', bytes: packet })
    }
    from.drain(relay)
    const datagrams = from.out.filter((bytes) => bytes[0] === 4)
    const [first] = datagrams
    if (first === undefined || datagrams.some((bytes) => bytes.length !== first.length)) return undefined
    for (const bytes of datagrams) from.out.splice(from.out.indexOf(bytes), 1)
    return { bytes: Uint8Array.from(Buffer.concat(datagrams)), segmentBytes: first.length }
  }
  const outbound = (to: string, kind: 'tcp' | 'udp', count: number, size: number): void => {
    tick()
    const bytes = Uint8Array.from({ length: (count - 1) * size + 1 + pick(size) }, (_, i) => i & 255)
    const ends = { src: { ip: OWN, port: 1 }, dst: { ip: ip(to), port: 2 } }
    const make = (payload: Uint8Array, i: number): Uint8Array => (kind === 'tcp' ? encodeTcpPacket({ ...ends, sequence: i * size, flags: TCP_ACK, payload, id: i }) : encodeUdpPacket({ ...ends, payload, id: i }))
    const whole = withHeader(make(bytes, 0))
    encodeRowVnetHeader(new DataView(whole.buffer), 0, kind === 'tcp' ? VNET_GSO_TCPV4 : VNET_GSO_UDP, 0, size, 20, kind === 'tcp' ? 16 : 6)
    lane.kernel.tunIn.push(whole)
    lane.run()
    for (let i = 0; i * size < bytes.length; i += 1) portable.handleInput(now, { type: 'packet', bytes: make(bytes.subarray(i * size, (i + 1) * size), i) })
    due()
    compare()
  }

  let [isOpen, gone] = [true, 0]
  let latest: { readonly bytes: Uint8Array; readonly segmentBytes: number } | undefined
  command((engine) => engine.setRelayMap(now, relays))
  command((engine) => engine.setHome(now, 1))
  command((engine) => engine.setSelfEndpoints(now, [NODE_PLACE]))
  command((engine) => engine.apply(now, appliedOf(isOpen, gone)))
  for (const each of remotes) {
    outbound(each.address, 'udp', 1, 10)
    settle()
  }
  for (let step = 0; step < STEPS; step += 1) {
    // Some talk much, so that their paths and sessions live on.
    const from = must(remotes[pick(4) === 0 ? pick(PEERS) : pick(5) === 0 ? FIRST_RELAYED + pick(3) : pick(8)])
    const what = pick(16)
    tick()
    // The path is found first: then rows go directly.
    if (what < 6 || (what > 8 && what < 12)) {
      outbound(from.address, 'udp', 1, 10)
      settle()
    }
    if (what < 6) {
      // Valid; denied by the policy in force or by all; one of the row changed on its way; from an address that is another's.
      const source = what === 4 ? must(remotes[pick(PEERS)]).address : from.address
      const row = speak(from, 1 + pick(20), source, what === 5 ? DENIED_PORT : what === 2 ? NOW_AND_THEN_PORT : ALLOWED_PORT)
      if (row !== undefined) {
        from.history.push(row)
        latest = row
        const bytes = row.bytes.slice()
        const at = pick(bytes.length)
        if (what === 3) bytes[at] = (bytes[at] ?? 0) ^ (1 << pick(8))
        arrive(from.place, bytes, row.segmentBytes)
      }
    } else if (what === 6) {
      // Of a moment ago, or of a session that may be over.
      const old = pick(2) === 0 ? latest : from.history[pick(Math.max(1, from.history.length))]
      if (old !== undefined) arrive(from.place, old.bytes, old.segmentBytes)
    } else if (what === 7) {
      // Of nobody: noise, noise that begins as disco, a STUN answer.
      const bytes = random.bytes(24 + pick(300))
      const head = must([[], [0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac], [1, 1, 0, (bytes.length - 20) & 252, 0x21, 0x12, 0xa4, 0x42]][pick(3)])
      bytes.set(head)
      arrive(endpoint('203.0.113.9:7'), bytes, 100_000)
    } else if (what === 8 && from.index < FIRST_RELAYED) {
      from.place = endpoint(`198.51.100.${2 + pick(200)}:${1_024 + step}`)
      const row = speak(from, 1, from.address, ALLOWED_PORT)
      if (row !== undefined) arrive(from.place, row.bytes, row.segmentBytes)
      command((engine) => engine.ping(now, keysOf(from.index).node.publicKey(), step))
    } else if (what < 12) {
      outbound(from.address, pick(2) === 0 ? 'tcp' : 'udp', 1 + pick(40), 48 + pick(1_100))
    } else if (what === 12) {
      // To nobody: alone, or as a row.
      outbound('100.64.0.200', pick(2) === 0 ? 'tcp' : 'udp', 1 + pick(8), 48 + pick(1_100))
    } else if (what === 13) {
      isOpen = !isOpen
      gone = pick(PEERS + 1)
      command((engine) => engine.apply(now, appliedOf(isOpen, gone)))
    } else {
      wait(pick(6) === 0 ? 125_000 : 2_000)
    }
    settle()
  }
  const own = must(lane.mesh.host.engine)
  expect(own.drops(now)).toEqual(portable.drops(now))
  expect(own.traffic()).toEqual(portable.traffic())
  expect(own.plane.device.status(now).peers.map(({ publicKey, ...peer }) => [publicKey.text, peer])).toMatchObject(portable.plane.device.status(now).peers.map(({ publicKey, path, ...peer }) => [publicKey.text, { ...peer, path: path?.id === undefined ? undefined : { id: path.id } }]))
  for (const { index } of remotes) expect(own.explain(now, keysOf(index).node.publicKey())).toEqual(portable.explain(now, keysOf(index).node.publicKey()))
  // What was refused of peers' packets is remembered alike; of its own, a row that goes to nobody is one entry.
  const refused = (engine: Engine): readonly string[] => engine.denied().flatMap(({ at, direction, reason, peer, length, bytes }) => (direction === 'in' ? [`${at} ${reason} ${peer?.text} ${length} ${hex(bytes)}`] : []))
  const [ownRefused, otherRefused] = [refused(own), refused(portable)]
  const remembered = Math.min(ownRefused.length, otherRefused.length)
  expect(ownRefused.slice(-remembered)).toEqual(otherRefused.slice(-remembered))
  expect(remembered).toBeGreaterThan(10)
  // All of it happened.
  expect(Object.keys(own.drops(now))).toEqual(expect.arrayContaining(['filter-in', 'wrong-source', 'no-peer', 'wireguard-packet-auth', 'wireguard-packet-replay']))
  expect([rows > 3, lane.lane.joined.packets > 20, delivered > 200, relayedFrames > 100]).toEqual([true, true, true, true])
}, 240_000)

test('what a relay brings at once is opened in rows, and segments of one flow enter as one row', () => {
  const SEGMENTS = 40
  now = instant(1_000)
  const { provider, memory, relay, lane, remote } = laneAndRemote()
  const peer = new Remote(FIRST_RELAYED, relay, provider)
  const keys = keysOf(peer.index)
  const arrived: Uint8Array[] = []
  let dialled = 0
  /** What the relay has for the node comes as one piece. */
  const settle = (): void => {
    for (let busy = true; busy; ) {
      busy = false
      for (const message of lane.posted.splice(0)) if (message.type !== 'service') remote.receive(message)
      for (let output = remote.pollOutput(); output !== undefined; output = remote.pollOutput()) {
        if (output.type === 'relayDial') {
          dialled = output.link
          relay.open(0, (bytes) => void arrived.push(bytes))
          remote.handleInput(now, { type: 'relay', input: { type: 'opened', link: dialled } })
        } else if (output.type === 'relayWrite') relay.write(0, output.bytes)
        busy = true
      }
      if (arrived.length === 0) continue
      remote.handleInput(now, { type: 'relay', input: { type: 'bytes', link: dialled, bytes: Uint8Array.from(Buffer.concat(arrived.splice(0))) } })
      busy = true
    }
  }
  const send = (packet: Uint8Array): void => {
    peer.engine.handleInput(now, { type: 'packet', bytes: packet })
    peer.drain(relay)
  }
  remote.setRelayMap(now, relays)
  remote.setHome(now, 1)
  remote.apply(now, {
    warnings: [],
    paths: [{ nodeKey: keys.node.publicKey(), discoKey: keys.disco.publicKey(), endpoints: [], homeRegion: 1 }],
    plane: { peers: [keys.node.publicKey()], routes: [{ prefix: prefix(`${peer.address}/32`), peer: keys.node.publicKey().text }], rules: [{ SrcIPs: ['*'], DstPorts: [{ IP: '*', Ports: { First: ALLOWED_PORT, Last: ALLOWED_PORT } }] }], local: IpSet.from([prefix('100.64.1.0/32')]) },
  })
  settle()
  const ends = { src: { ip: ip(peer.address), port: 1 }, dst: { ip: OWN, port: ALLOWED_PORT } }
  send(encodeUdpPacket({ ...ends, payload: new Uint8Array(10) }))
  settle()
  expect(unjoined(memory, must(lane.kernel.tunOut).splice(0)).length).toBe(1)
  const packets = Array.from({ length: SEGMENTS }, (_, i) => encodeTcpPacket({ ...ends, sequence: i * 1_000, flags: TCP_ACK, payload: new Uint8Array(1_000).fill(i) }))
  for (const packet of packets) send(packet)
  settle()
  const written = must(lane.kernel.tunOut).splice(0)
  expect(written.length).toBe(1)
  const payloads = (each: readonly Uint8Array[]): readonly string[] => each.map((packet) => hex(packet.subarray(40)))
  expect(payloads(unjoined(memory, written))).toEqual(payloads(packets))
  expect(must(lane.mesh.host.engine).traffic().received.relay.datagrams).toBeGreaterThan(SEGMENTS)
  // More than a row has room for, and much of it for somebody else.
  for (let i = 0; i < 300; i += 1) send(encodeUdpPacket({ src: ends.src, dst: { ip: OWN, port: i % 3 === 0 ? DENIED_PORT : ALLOWED_PORT }, payload: Uint8Array.of(i >> 8, i) }))
  settle()
  expect(unjoined(memory, must(lane.kernel.tunOut).splice(0)).map((packet) => ((packet[28] ?? 0) << 8) | (packet[29] ?? 0))).toEqual(Array.from({ length: 300 }, (_, i) => i).filter((i) => i % 3 !== 0))
  expect(must(lane.mesh.host.engine).drops(now)['filter-in']).toBe(100)
})

/** The frames of a relay (type, length, payload); one piece where there are none, at a connection's beginning. */
function framesIn(bytes: Uint8Array): Uint8Array[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const found: Uint8Array[] = []
  let at = 0
  for (; at + 5 <= bytes.length && at + 5 + view.getUint32(at + 1) <= bytes.length; at += 5 + view.getUint32(at + 1)) found.push(bytes.subarray(at, at + 5 + view.getUint32(at + 1)))
  return at === bytes.length ? found : [bytes]
}

/** What was written to the device, cut into the packets that it stands for. */
function unjoined(memory: RowMemory, written: readonly Uint8Array[]): Uint8Array[] {
  const cutter = new RowCutter(memory)
  const header = emptyVnetHeader()
  return written.flatMap((bytes) => {
    decodeVnetHeader(new DataView(bytes.buffer, bytes.byteOffset), 0, header)
    const packet = bytes.subarray(VNET_HEADER_BYTES)
    if (header.kind === 0) return [packet]
    memory.bytes.set(packet, 64)
    expect(cutter.plan(64, packet.length, header)).toBe(true)
    return Array.from({ length: cutter.segments }, (_, i) => {
      cutter.cut(i, i + 1, 80_000, 0)
      return memory.bytes.slice(80_000, 80_000 + (i === cutter.segments - 1 ? cutter.lastPacketBytes : cutter.packetBytes))
    })
  })
}

function withHeader(packet: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(VNET_HEADER_BYTES + packet.length)
  bytes.set(packet, VNET_HEADER_BYTES)
  return bytes
}
