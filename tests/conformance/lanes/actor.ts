import { type Instant, instant } from '@meshwright/core'
import { type CryptoProvider, DiscoPrivateKey, type NodePrivateKey, type NodePublicKey } from '@meshwright/crypto'
import { type Endpoint, formatEndpoint, IpSet, type Prefix } from '@meshwright/ip'
import { type AppliedMap, type DataPlaneConfig, Engine, type EngineOptions, type NodeEngine } from '@meshwright/mesh'
import type { FilterRule } from '@meshwright/packet-filter'
import type { WireGuardDevice, WireGuardPath } from '@meshwright/wireguard'
import type { UapiPeerChange } from '@meshwright/wireguard/text'
import { MemoryKernel } from '../../../packages/runtime-node/src/dataplane/memory-kernel.ts'
import { type LaneArena, MemoryLane } from '../../../packages/runtime-node/src/dataplane/memory-lane.ts'
import { RowCutter } from '../../../packages/runtime-node/src/dataplane/row-cutter.ts'
import { decodeSocketAddress, encodeSocketAddress, type UdpPath, udpPathTo } from '../../../packages/runtime-node/src/dataplane/socket-address.ts'
import { TunnelEngine } from '../../../packages/runtime-node/src/dataplane/tunnel-engine.ts'
import { decodeVnetHeader, emptyVnetHeader, VNET_HEADER_BYTES } from '../../../packages/runtime-node/src/dataplane/vnet-header.ts'
import { MemoryMeshLane } from '../../../packages/runtime-node/src/mesh-lane/memory-mesh-lane.ts'
import { fromPortable } from '../../../packages/runtime-node/src/mesh-lane/portable-values.ts'
import { RemoteEngine } from '../../../packages/runtime-node/src/mesh-lane/remote-engine.ts'

const MTU = 1420
const WALL = 1_600_000_000_000
const EVERYTHING: readonly FilterRule[] = [{ SrcIPs: ['*'], DstPorts: [{ IP: '*', Ports: { First: 0, Last: 65_535 } }] }]

/** A peer as a lane is told of it. */
export interface LanePeer {
  readonly publicKey: NodePublicKey
  readonly endpoint: Endpoint
  readonly presharedKey?: Uint8Array
  readonly allowed: readonly Prefix[]
}

/** A datagram that left a lane. */
export interface Sent {
  readonly to: Endpoint | undefined
  readonly bytes: Uint8Array
}

/** What a lane is made of: scripted randomness by length, a wall clock that is set, and time that the case lets pass. */
export interface ActorOptions {
  readonly provider: CryptoProvider
  readonly key: NodePrivateKey
  /** The memory that lanes in it take turns with; none for those without. */
  readonly arena: LaneArena | undefined
}

/**
 * One lane with its engine between a TUN device and a network that are arrays: golden data goes in as the kernel would give it, and what
 * comes out is what the kernel would be given.
 */
export abstract class LaneActor {
  readonly key: NodePrivateKey
  wall: number = WALL
  now: Instant = instant(1_000)
  protected readonly outgoing: Sent[] = []
  protected readonly delivered: Uint8Array[] = []
  readonly #scripted: Map<number, Uint8Array[]> = new Map()
  #next = 0

  constructor(key: NodePrivateKey) {
    this.key = key
  }

  /** The WireGuard device in it. */
  abstract get device(): Pick<WireGuardDevice<WireGuardPath>, 'connect' | 'sendKeepalive' | 'noteLag' | 'peerStatus'>
  /** Makes these its peers, under these rules for packets that come in where the lane has a filter. */
  abstract know(peers: readonly LanePeer[], filter?: Pick<DataPlaneConfig, 'rules' | 'local' | 'capabilities'>): void
  /** A row of datagrams of one sender arrives, each `segmentBytes` long but the last. */
  abstract row(from: Endpoint, bytes: Uint8Array, segmentBytes: number): void
  /** Programs of this computer send packets, all at once. */
  abstract packets(packets: readonly Uint8Array[]): void
  /** Lets what is owed be done. */
  abstract settle(): void
  abstract endpointOf(peer: NodePublicKey): string | undefined
  /** Lets time pass. */
  abstract at(ms: number): void

  /** The next random bytes of these lengths. */
  script(...values: readonly Uint8Array[]): void {
    for (const value of values) this.#scripted.set(value.length, [...(this.#scripted.get(value.length) ?? []), value])
  }

  datagram(from: Endpoint, bytes: Uint8Array): void {
    this.row(from, bytes, bytes.length)
  }

  packet(bytes: Uint8Array): void {
    this.packets([bytes])
  }

  takeSent(): Sent[] {
    return this.outgoing.splice(0)
  }

  takeDelivered(): Uint8Array[] {
    return this.delivered.splice(0)
  }

  protected random(length: number): Uint8Array {
    const value = this.#scripted.get(length)?.shift()
    if (value !== undefined) return value
    this.#next += 1
    return Uint8Array.from({ length }, (_, i) => (this.#next * 31 + i * 7) & 255)
  }
}

/** Makes a lane of one kind. */
export type MakeActor = (options: ActorOptions) => LaneActor

/** The engine of meshwright-wg on the event loop: packet by packet. */
class PortableTunnel extends LaneActor {
  readonly #engine: TunnelEngine<UdpPath>

  constructor({ provider, key }: ActorOptions) {
    super(key)
    this.#engine = new TunnelEngine<UdpPath>({ name: 'portable', pathTo: udpPathTo, provider, mtu: MTU, random: (length) => this.random(length), wallClock: () => this.wall, stopwatch: false })
    this.#engine.change(this.now, { type: 'privateKey', key })
  }

  get device(): LaneActor['device'] {
    return this.#engine.device
  }

  know(peers: readonly LanePeer[]): void {
    for (const peer of peers) this.#engine.change(this.now, changeFor(peer))
    this.settle()
  }

  row(from: Endpoint, bytes: Uint8Array, segmentBytes: number): void {
    for (const each of cut(bytes, segmentBytes)) this.#engine.device.handleInput(this.now, { type: 'datagram', bytes: each, from: udpPathTo(from) })
    this.settle()
  }

  packets(packets: readonly Uint8Array[]): void {
    for (const bytes of packets) {
      const owner = this.#engine.ownerOf(bytes, 0, bytes.length)
      if (owner !== undefined) this.#engine.device.handleInput(this.now, { type: 'packet', peer: owner.publicKey, bytes })
    }
    this.settle()
  }

  settle(): void {
    const { device } = this.#engine
    for (let output = device.pollOutput(); output !== undefined; output = device.pollOutput()) {
      if (output.type === 'transmit') this.outgoing.push({ to: output.to?.endpoint, bytes: output.bytes })
      else if (output.type !== 'packet') this.#engine.note(output)
      else if (this.#engine.admits(this.now, output.peer, output.bytes, 0, output.bytes.length)) this.delivered.push(output.bytes)
    }
    this.delivered.push(...this.#engine.takeReleased())
  }

  endpointOf(peer: NodePublicKey): string | undefined {
    return this.#engine.device.pathOf(peer)?.id
  }

  at(ms: number): void {
    this.now = instant(ms)
    this.#engine.device.handleTimeout(this.now)
    this.settle()
  }
}

/** What lanes over a {@link MemoryKernel} share: their kernel's arrays. */
abstract class KernelActor extends LaneActor {
  protected abstract get lane(): MemoryLane | MemoryMeshLane
  readonly #arena: LaneArena
  readonly #hasVnetHeader: boolean

  constructor(key: NodePrivateKey, arena: LaneArena | undefined, hasVnetHeader: boolean) {
    super(key)
    if (arena === undefined) throw new Error('this lane needs an arena')
    this.#arena = arena
    this.#hasVnetHeader = hasVnetHeader
  }

  protected listen(kernel: MemoryKernel): void {
    kernel.onSend = (to, { bytes, segmentBytes }) => {
      const place = decodeSocketAddress(new DataView(to.buffer, to.byteOffset, to.length), 0, to.length)
      for (const each of cut(bytes, segmentBytes === 0 ? bytes.length : segmentBytes)) this.outgoing.push({ to: place, bytes: each.slice() })
    }
  }

  row(from: Endpoint, bytes: Uint8Array, segmentBytes: number): void {
    const address = encodeSocketAddress(from)
    if (this.lane.context.offloads.gro && segmentBytes < bytes.length) this.lane.kernel.udpIn.push({ from: address, bytes, segmentBytes, trafficClass: 0 })
    else for (const each of cut(bytes, segmentBytes)) this.lane.kernel.udpIn.push({ from: address, bytes: each, segmentBytes: 0, trafficClass: 0 })
    this.#run()
  }

  packets(packets: readonly Uint8Array[]): void {
    for (const packet of packets) {
      const bytes = new Uint8Array((this.#hasVnetHeader ? VNET_HEADER_BYTES : 0) + packet.length)
      bytes.set(packet, bytes.length - packet.length)
      this.lane.kernel.tunIn.push(bytes)
    }
    this.#run()
  }

  at(ms: number): void {
    this.now = instant(ms)
    this.lane.now = this.now
    this.#run()
  }

  settle(): void {
    this.lane.lane.settle(this.now)
    this.#run()
  }

  #run(): void {
    this.lane.now = this.now
    this.lane.run()
    for (const bytes of this.lane.kernel.tunOut?.splice(0) ?? []) this.delivered.push(...this.#unjoined(bytes))
  }

  /** The packets that a writing stands for. */
  #unjoined(bytes: Uint8Array): Uint8Array[] {
    if (!this.#hasVnetHeader) return [bytes]
    const header = emptyVnetHeader()
    decodeVnetHeader(new DataView(bytes.buffer, bytes.byteOffset), 0, header)
    const packet = bytes.subarray(VNET_HEADER_BYTES)
    if (header.kind === 0) return [packet]
    // What the lane does not hold between its turns is room for this.
    const { map, bytes: memory } = this.#arena
    const cutter = new RowCutter(this.#arena)
    memory.set(packet, map.in)
    if (!cutter.plan(map.in, packet.length, header)) throw new Error('a row that no kernel would take was written')
    return Array.from({ length: cutter.segments }, (_, i) => {
      cutter.cut(i, i + 1, map.cut, 0)
      return memory.slice(map.cut, map.cut + (i === cutter.segments - 1 ? cutter.lastPacketBytes : cutter.packetBytes))
    })
  }
}

/** The engine of meshwright-wg on the worker's lane. */
class WorkerTunnel extends KernelActor {
  protected readonly lane: MemoryLane

  constructor({ provider, key, arena }: ActorOptions, offloads: boolean) {
    super(key, arena, offloads)
    this.lane = new MemoryLane({ provider, key, arena, mtu: MTU, hasVnetHeader: offloads, gso: offloads, random: (length) => this.random(length), wallClock: () => this.wall })
    this.listen(this.lane.kernel)
  }

  get device(): LaneActor['device'] {
    return this.lane.engine.device
  }

  know(peers: readonly LanePeer[]): void {
    this.lane.now = this.now
    this.lane.change(...peers.map(changeFor))
    this.settle()
  }

  endpointOf(peer: NodePublicKey): string | undefined {
    return this.lane.engine.device.pathOf(peer)?.id
  }
}

/** What a map says of these peers: their paths are their endpoints, since without a disco key none is looked for. */
function mapOf(peers: readonly LanePeer[], filter: Pick<DataPlaneConfig, 'rules' | 'local' | 'capabilities'> | undefined): AppliedMap {
  return {
    warnings: [],
    paths: peers.map(({ publicKey, endpoint }) => ({ nodeKey: publicKey, endpoints: [endpoint] })),
    plane: {
      peers: peers.map(({ publicKey }) => publicKey),
      routes: peers.flatMap(({ publicKey, allowed }) => allowed.map((prefix) => ({ prefix, peer: publicKey.text }))),
      rules: filter?.rules ?? EVERYTHING,
      local: filter?.local ?? IpSet.everything,
      capabilities: filter?.capabilities,
    },
  }
}

function engineOptions(key: NodePrivateKey, more: Pick<EngineOptions, 'random' | 'wallClock' | 'provider'>): EngineOptions {
  const discoKey = DiscoPrivateKey.generate((length) => new Uint8Array(length).fill(7))
  return { ...more, stopwatch: () => 0, privateKey: key, discoKey, mtu: MTU, allowLoopback: false, blockUdp: false, nextLink: () => 1 }
}

function tellPresharedKeys(now: Instant, engine: Engine, peers: readonly LanePeer[]): void {
  // No map has any; the golden handshakes do.
  for (const { publicKey, presharedKey } of peers) if (presharedKey !== undefined) engine.plane.device.setPeer(now, { publicKey, presharedKey })
}

function endpointIn(now: Instant, engine: Engine, peer: NodePublicKey): string | undefined {
  const path = engine.paths.pathFor(now, peer)
  return path.type === 'direct' ? formatEndpoint(path.endpoint) : undefined
}

/** The engine of a mesh node on the event loop. */
class PortableMesh extends LaneActor {
  readonly #engine: Engine

  constructor({ provider, key }: ActorOptions) {
    super(key)
    this.#engine = new Engine(engineOptions(key, { provider, random: (length) => this.random(length), wallClock: () => this.wall }))
  }

  get device(): LaneActor['device'] {
    return this.#engine.plane.device
  }

  know(peers: readonly LanePeer[], filter?: Pick<DataPlaneConfig, 'rules' | 'local' | 'capabilities'>): void {
    this.#engine.apply(this.now, mapOf(peers, filter))
    tellPresharedKeys(this.now, this.#engine, peers)
    this.settle()
  }

  row(from: Endpoint, bytes: Uint8Array, segmentBytes: number): void {
    for (const each of cut(bytes, segmentBytes)) this.#engine.handleInput(this.now, { type: 'datagram', bytes: each.slice(), from })
    this.settle()
  }

  packets(packets: readonly Uint8Array[]): void {
    for (const bytes of packets) this.#engine.handleInput(this.now, { type: 'packet', bytes })
    this.settle()
  }

  settle(): void {
    this.#engine.settle(this.now)
    for (let output = this.#engine.pollOutput(); output !== undefined; output = this.#engine.pollOutput()) {
      if (output.type === 'datagram') this.outgoing.push({ to: output.to, bytes: output.bytes })
      else if (output.type === 'deliver' || output.type === 'tsmp') this.delivered.push(output.bytes)
    }
  }

  endpointOf(peer: NodePublicKey): string | undefined {
    return endpointIn(this.now, this.#engine, peer)
  }

  at(ms: number): void {
    this.now = instant(ms)
    this.#engine.handleTimeout(this.now)
    this.settle()
  }
}

/** The engine of a mesh node on the worker's lane, told by messages as by its node's thread. */
class WorkerMesh extends KernelActor {
  protected readonly lane: MemoryMeshLane
  readonly #node: NodeEngine

  constructor({ provider, key, arena }: ActorOptions) {
    super(key, arena, true)
    const [random, wallClock] = [(length: number): Uint8Array => this.random(length), (): number => this.wall]
    this.lane = new MemoryMeshLane({ provider, arena, random, wallClock, mtu: MTU })
    this.listen(this.lane.kernel)
    this.#node = new RemoteEngine(1, engineOptions(key, { random, wallClock }), (message) => this.lane.take(message))
  }

  get device(): LaneActor['device'] {
    return this.#engine.plane.device
  }

  know(peers: readonly LanePeer[], filter?: Pick<DataPlaneConfig, 'rules' | 'local' | 'capabilities'>): void {
    this.lane.now = this.now
    this.#node.apply(this.now, mapOf(peers, filter))
    tellPresharedKeys(this.now, this.#engine, peers)
    this.settle()
  }

  override takeDelivered(): Uint8Array[] {
    for (const message of this.lane.posted.splice(0)) {
      if (message.type !== 'outputs') continue
      for (const output of fromPortable(message.outputs)) if (output.type === 'deliver' || output.type === 'tsmp') this.delivered.push(output.bytes)
    }
    return super.takeDelivered()
  }

  endpointOf(peer: NodePublicKey): string | undefined {
    return endpointIn(this.now, this.#engine, peer)
  }

  get #engine(): Engine {
    const { engine } = this.lane.mesh.host
    if (engine === undefined) throw new Error('there is no engine')
    return engine
  }
}

function changeFor({ publicKey, presharedKey, endpoint, allowed }: LanePeer): UapiPeerChange {
  return { type: 'peer', publicKey, remove: false, updateOnly: false, replaceAllowedIps: true, allowedIps: allowed.map((prefix) => ({ prefix, remove: false })), endpoint, ...(presharedKey !== undefined && { presharedKey }) }
}

function cut(bytes: Uint8Array, segmentBytes: number): Uint8Array[] {
  return Array.from({ length: Math.ceil(bytes.length / segmentBytes) }, (_, i) => bytes.subarray(i * segmentBytes, (i + 1) * segmentBytes))
}

/** Every lane: its name, whether it needs memory that is shared with native code, whether it is a mesh node's with a packet filter. */
export const LANES: readonly { readonly name: string; readonly needsArena: boolean; readonly isMesh: boolean; readonly make: MakeActor }[] = [
  { name: 'event loop', needsArena: false, isMesh: false, make: (options) => new PortableTunnel(options) },
  { name: 'worker', needsArena: true, isMesh: false, make: (options) => new WorkerTunnel(options, true) },
  { name: 'worker without offloads', needsArena: true, isMesh: false, make: (options) => new WorkerTunnel(options, false) },
  { name: "mesh node's event loop", needsArena: false, isMesh: true, make: (options) => new PortableMesh(options) },
  { name: "mesh node's worker", needsArena: true, isMesh: true, make: (options) => new WorkerMesh(options) },
]
