import { DONE, DROPPED, type Instant, type PacketBatch } from '@meshwright/core'
import type { NodePublicKey } from '@meshwright/crypto'
import { type Endpoint, formatEndpoint, isServiceAddress, PacketView } from '@meshwright/ip'
import type { DataPath } from '@meshwright/mesh'
import { classifyDatagram, type Path } from '@meshwright/nat-traversal'
import type { LaneDoors, LaneEngine, LaneRow, Opened } from '../dataplane/lane-engine.ts'
import { type UdpPath, udpPathTo } from '../dataplane/socket-address.ts'
import { EngineHost, type EngineHostDoors } from './engine-host.ts'
import type { ToEngine } from './engine-messages.ts'

/** Paths to endpoints that are remembered; more begin anew. */
const MAX_KNOWN_PATHS = 4_096
/** 100.100.100.100 */
const SERVICE_IPV4_NUMBER = 0x64646464
/** Of fd7a:115c:a1e0::/48. */
const ULA_FIRST_BYTE = 0xfd
const NOBODY = { peerOf: (): undefined => undefined }
const NOTHING = [] as const

/** What the lane owes to doors that it is only lent. */
type Owed = { readonly to: UdpPath | undefined; readonly bytes: Uint8Array }

/**
 * The engine of a mesh node on a lane: packet filter, router and path finder decide about each packet where it lies. Disco and STUN come
 * by the same socket; what a relay carries, and what the node itself must see, is posted to the node's thread.
 */
export class MeshLane implements LaneEngine<NodePublicKey> {
  readonly host: EngineHost
  readonly #post: EngineHostDoors['post']
  readonly #view: PacketView = new PacketView()
  readonly #paths: Map<string, UdpPath> = new Map()
  /** The same by the path finder's own objects, one for each place: no text is made for packets to peers that take turns. */
  readonly #pathsByEndpoint: WeakMap<Endpoint, UdpPath> = new WeakMap()
  readonly #origins: WeakMap<UdpPath, DataPath> = new WeakMap()
  readonly #owed: Owed[] = []
  // The path of the last peer at this time: asked for twice for each row.
  #pathFor: { readonly now: Instant; readonly peer: NodePublicKey; readonly path: Path } | undefined

  constructor(doors: Omit<EngineHostDoors, 'send' | 'deliver'>) {
    this.#post = doors.post
    this.host = new EngineHost({
      ...doors,
      send: (bytes, to) => this.#owed.push({ to: this.#udpPath(to), bytes }),
      deliver: (bytes) => this.#owed.push({ to: undefined, bytes }),
    })
  }

  /** Takes a message of the node's thread; settle the lane after it. */
  take(now: Instant, message: ToEngine): void {
    this.#pathFor = undefined
    this.host.take(now, message)
  }

  ownerOf(now: Instant, memory: Uint8Array, at: number, length: number, packets: number): NodePublicKey | undefined {
    const { engine } = this.host
    const view = this.#view
    if (engine === undefined || !view.at(memory, at, length)) return undefined
    if (isForService(view)) {
      if (this.host.mayTell()) this.#post({ type: 'service', bytes: memory.slice(at, at + length) })
      return undefined
    }
    return engine.plane.ownerOf(now, memory, at, length, packets)
  }

  seal(now: Instant, peer: NodePublicKey, batch: PacketBatch): number {
    const plane = this.host.engine?.plane
    if (plane === undefined) return 0
    plane.noteSent(now, peer, batch.count)
    this.#pathFor = undefined
    return plane.device.seal(now, peer, batch)
  }

  pathOf(now: Instant, peer: NodePublicKey): UdpPath | undefined {
    const path = this.#path(now, peer)
    if (path.type !== 'direct' && path.type !== 'both') return undefined
    if (this.host.engine?.udpBlocked !== false) return undefined
    return this.#udpPath(path.endpoint)
  }

  sent(path: UdpPath, bytes: number, datagrams: number): void {
    this.host.engine?.plane.noteCarried(path.endpoint.ip.family === 4 ? 'ipv4' : 'ipv6', bytes, datagrams)
  }

  notSent(now: Instant, peer: NodePublicKey, datagrams: number): void {
    const { type } = this.#path(now, peer)
    if (type === 'none') this.host.engine?.plane.noteWithoutPath(datagrams)
    else if (type !== 'relay') this.host.engine?.noteBlocked(datagrams)
  }

  relay(now: Instant, peer: NodePublicKey, batch: PacketBatch): void {
    const { engine } = this.host
    const path = this.#path(now, peer)
    if (engine === undefined || (path.type !== 'relay' && path.type !== 'both')) return
    let [datagrams, bytes] = [0, 0]
    for (let slot = 0; slot < batch.count; slot += 1) {
      if (batch.verdict[slot] !== DONE) continue
      datagrams += 1
      bytes += batch.targetLength[slot] ?? 0
    }
    engine.plane.noteCarried('relay', bytes, datagrams)
    engine.relays.sendBatch(now, path.region, peer, batch)
  }

  open(now: Instant, from: UdpPath, batch: PacketBatch): Opened {
    const { engine } = this.host
    if (engine === undefined || engine.udpBlocked) {
      batch.verdict.fill(DROPPED, 0, batch.count)
      engine?.noteBlocked(batch.count)
      return NOBODY
    }
    return engine.plane.open(now, this.#origin(from), batch)
  }

  takeRelayed(): readonly LaneRow[] {
    const { engine } = this.host
    const rows = engine?.takeRelayed() ?? NOTHING
    if (engine === undefined || rows.length === 0) return NOTHING
    this.#pathFor = undefined
    return rows.map(({ from, datagrams }) => ({ datagrams, open: (now, batch) => engine.plane.open(now, from, batch) }))
  }

  foreign(now: Instant, from: UdpPath, datagram: Uint8Array): boolean {
    // Where UDP is blocked, `open` drops and counts them all.
    const { engine } = this.host
    if (engine === undefined || engine.udpBlocked) return false
    const kind = classifyDatagram(datagram)
    if (kind !== 'disco' && kind !== 'stun') return false
    this.#pathFor = undefined
    engine.handleInput(now, { type: 'datagram', bytes: datagram.slice(), from: from.endpoint })
    return true
  }

  admits(now: Instant, peer: NodePublicKey, memory: Uint8Array, at: number, length: number): boolean {
    const verdict = this.host.engine?.plane.admits(now, peer, memory, at, length)
    if (verdict === undefined) return false
    if (verdict === 'deliver' && !this.host.isForNode(memory, at, length)) return true
    this.host.tell({ type: verdict, bytes: memory.slice(at, at + length), peer })
    return false
  }

  settle(now: Instant, doors: LaneDoors): void {
    this.host.settle(now)
    if (this.#owed.length === 0) return
    for (const { to, bytes } of this.#owed.splice(0)) {
      if (to === undefined) doors.deliver(bytes)
      else doors.send(to, bytes, 0)
    }
  }

  handleTimeout(now: Instant): void {
    this.#pathFor = undefined
    this.host.engine?.handleTimeout(now)
  }

  pollTimeout(): Instant | undefined {
    return this.host.engine?.pollTimeout()
  }

  #path(now: Instant, peer: NodePublicKey): Path {
    const last = this.#pathFor
    if (last !== undefined && last.now === now && last.peer === peer) return last.path
    const path = this.host.engine?.paths.pathFor(now, peer) ?? { type: 'none' }
    this.#pathFor = { now, peer, path }
    return path
  }

  #udpPath(endpoint: Endpoint): UdpPath {
    const last = this.#pathsByEndpoint.get(endpoint)
    if (last !== undefined) return last
    const id = formatEndpoint(endpoint)
    let path = this.#paths.get(id)
    if (path === undefined) {
      if (this.#paths.size >= MAX_KNOWN_PATHS) this.#paths.clear()
      path = udpPathTo(endpoint)
      this.#paths.set(id, path)
    }
    this.#pathsByEndpoint.set(endpoint, path)
    return path
  }

  #origin(from: UdpPath): DataPath {
    let origin = this.#origins.get(from)
    if (origin === undefined) {
      origin = { id: from.id, cookieBytes: from.cookieBytes, via: { type: 'direct', endpoint: from.endpoint } }
      this.#origins.set(from, origin)
    }
    return origin
  }
}

// Without an object for each packet: only what begins like such an address is looked at as one.
function isForService(view: PacketView): boolean {
  if (view.family === 4) return view.dstIpv4 === SERVICE_IPV4_NUMBER
  if (view.memory[view.dstOffset] !== ULA_FIRST_BYTE) return false
  const to = view.dst()
  return to !== undefined && isServiceAddress(to)
}
