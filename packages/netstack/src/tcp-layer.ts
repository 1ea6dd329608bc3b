import { type Instant, instant } from '@meshwright/core'
import { type Endpoint, Ip } from '@meshwright/ip'
import { DeadlineHeap } from './deadline-heap.ts'
import { FlowSecrets } from './flow-secrets.ts'
import { FlowTable } from './flow-table.ts'
import type { IpPacket, PacketBuilder } from './ip-packet.ts'
import {
  type CloseReason,
  type FlowId,
  flowId,
  type ListenerId,
  listenerId,
  NetstackError,
  type NetstackOutput,
  type NetstackSettings,
} from './netstack-io.ts'
import { checkPort, isMulticast, type StackContext } from './stack-context.ts'
import { TcpConnection } from './tcp-connection.ts'
import type { TcpHost } from './tcp-host.ts'
import type { ChunkPool } from './send-buffer.ts'
import { tcpPath, writeResetFor } from './tcp-output.ts'
import { ACK, decodeTcpSegment, RST, SYN, TcpSegment } from './tcp-segment.ts'

const DATA_SLAB_BYTES = 65_536
/** One client may hold at most this part of all waiting attempts. */
const HELD_SHARE = 2 / 3

interface Listener {
  readonly id: ListenerId
  readonly port: number
  /** `undefined`: every local address. */
  readonly ip: Ip | undefined
}

/** A `data` output that grows until it is drained. */
class DataOutput {
  readonly type = 'data'
  readonly flow: FlowId
  bytes: Uint8Array

  constructor(flow: FlowId, bytes: Uint8Array) {
    this.flow = flow
    this.bytes = bytes
  }
}

/** All TCP of a stack: listeners, connections by four-tuple and by id, and their timers. */
export class TcpLayer implements TcpHost<TcpConnection> {
  readonly #context: StackContext
  readonly #table: FlowTable
  readonly #secrets: FlowSecrets
  readonly #flows: Map<number, TcpConnection> = new Map()
  readonly #timers: DeadlineHeap<TcpConnection> = new DeadlineHeap()
  readonly #listeners: Map<number, Listener[]> = new Map()
  readonly #byId: Map<number, Listener> = new Map()
  readonly #halfOpen: Set<TcpConnection> = new Set()
  readonly #timeWait: Set<TcpConnection> = new Set()
  readonly #held: Map<string, number> = new Map()
  readonly #accepted: Set<TcpConnection> = new Set()
  readonly #segment: TcpSegment = new TcpSegment()
  #dirty: TcpConnection[] = []
  #slab: Uint8Array = new Uint8Array(0)
  #slabAt = 0
  #lastData: DataOutput | undefined
  #heldCount = 0

  constructor(context: StackContext) {
    this.#context = context
    this.#secrets = new FlowSecrets(context.random)
    this.#table = new FlowTable(new DataView(context.random(4).buffer).getInt32(0))
  }

  get builder(): PacketBuilder {
    return this.#context.builder
  }

  get chunks(): ChunkPool {
    return this.#context.chunks
  }

  get settings(): NetstackSettings {
    return this.#context.settings
  }

  get due(): Instant | undefined {
    return this.#timers.due
  }

  get flowCount(): number {
    return this.#table.size
  }

  // Commands.

  connect(now: Instant, to: Endpoint, from: { readonly ip?: Ip; readonly port?: number } | undefined): FlowId {
    checkPort(to.port, 1)
    const local = from?.ip ?? this.#context.sourceFor(to.ip)
    if (local.family !== to.ip.family)
      throw new NetstackError('NETSTACK_NO_SOURCE', `${local.key} cannot reach ${to.ip.key}: the families differ`)
    if (!this.#makeRoom())
      throw new NetstackError('NETSTACK_FLOWS_EXHAUSTED', `all ${this.settings.maxFlows} flows are in use`, { remedy: 'close flows first' })
    if (from?.port !== undefined) checkPort(from.port, 1)
    const port =
      from?.port ??
      this.#context.ephemeralPort((candidate) => this.#table.isFree(local, candidate, to.ip, to.port) && !this.#listeners.has(candidate))
    const known = this.#table.find(local.bytes, port, to.ip.bytes, to.port)
    if (known?.state === 'time-wait') this.#discard(known)
    else if (known !== undefined)
      throw new NetstackError('NETSTACK_ADDRESS_IN_USE', `port ${port} already has a flow to ${to.ip.key} port ${to.port}`)
    const path = tcpPath(local, port, to.ip, to.port)
    return this.#add(new TcpConnection(now, this, this.#nextFlow(), path, undefined, this.#secrets.start(now, path), undefined, false)).id
  }

  listen(port: number | 'any', ip: Ip | undefined): ListenerId {
    const number = port === 'any' ? this.#context.ephemeralPort((candidate) => !this.#listeners.has(candidate)) : port
    checkPort(number, 1)
    const others = this.#listeners.get(number) ?? []
    const clash = others.some((other) => (other.ip === undefined ? ip === undefined : ip !== undefined && other.ip.equals(ip)))
    if (clash) throw new NetstackError('NETSTACK_ADDRESS_IN_USE', `port ${number} is already listened on`)
    const listener: Listener = { id: listenerId(this.#context.nextId()), port: number, ip }
    this.#listeners.set(number, [...others, listener])
    this.#byId.set(listener.id, listener)
    return listener.id
  }

  listenerAddress(id: ListenerId): { readonly ip: Ip | undefined; readonly port: number } | undefined {
    const listener = this.#byId.get(id)
    return listener && { ip: listener.ip, port: listener.port }
  }

  closeListener(id: ListenerId): void {
    const listener = this.#byId.get(id)
    if (listener === undefined) return
    this.#byId.delete(id)
    const left = (this.#listeners.get(listener.port) ?? []).filter((other) => other !== listener)
    if (left.length === 0) this.#listeners.delete(listener.port)
    else this.#listeners.set(listener.port, left)
    for (const flow of [...this.#halfOpen]) if (flow.listener === id) this.#discard(flow)
  }

  /** The flow, or `undefined` once it is over. @throws NETSTACK_UNKNOWN_ID for a number never given out */
  flow(id: FlowId): TcpConnection | undefined {
    const flow = this.#flows.get(id)
    if (flow === undefined && !this.#context.wasIssued(id)) throw new NetstackError('NETSTACK_UNKNOWN_ID', `no flow ${id} was ever opened`)
    return flow
  }

  accept(now: Instant, flow: TcpConnection): void {
    if (flow.state !== 'held') return
    flow.waiting = false
    this.#release(flow)
    this.#accepted.add(flow)
    flow.accept(now)
    this.#halfOpen.add(flow)
    this.touch(flow)
  }

  /** Marks a flow for `flush`. */
  touch(flow: TcpConnection): void {
    if (flow.dirty) return
    flow.dirty = true
    this.#dirty.push(flow)
  }

  // Packets.

  receive(now: Instant, packet: IpPacket): void {
    const segment = this.#segment
    if (!decodeTcpSegment(packet.view, packet.payloadAt, packet.end, packet.pseudoSum(), segment)) return this.#context.drop('checksum')
    const local = packet.destination()
    const remote = packet.source()
    const known = this.#table.find(local, segment.destinationPort, remote, segment.sourcePort)
    if (known !== undefined && !known.mayBeReplacedBy(segment)) {
      known.receive(now, segment, packet.bytes)
      return this.touch(known)
    }
    if (known !== undefined) this.#discard(known)
    if (isMulticast(local) || segment.sourcePort === 0) return this.#context.drop('martian')
    if ((segment.flags & (SYN | ACK | RST)) === SYN && segment.destinationPort > 0 && this.#open(now, local, remote, segment)) return
    if (this.#context.isLocal(local) || (segment.flags & SYN) === 0) this.#refuse(now, local, remote, segment)
  }

  /** An ICMP error quotes one of our segments. `mtu` is set when the path carries less. */
  unreachable(
    now: Instant,
    local: Uint8Array,
    localPort: number,
    remote: Uint8Array,
    remotePort: number,
    sequence: number,
    mtu: number | undefined,
  ): void {
    const flow = this.#table.find(local, localPort, remote, remotePort)
    if (flow === undefined || !flow.quotes(sequence)) return
    if (mtu !== undefined) flow.setPathMtu(now, mtu)
    else if (flow.state === 'syn-sent') flow.drop('unreachable') // RFC 5927: an open flow survives any ICMP error
    this.touch(flow)
  }

  // Time.

  handleTimeout(now: Instant): void {
    for (let flow = this.#timers.peek(); flow !== undefined && instant(flow.heapDue) <= now; flow = this.#timers.peek()) {
      flow.handleTimeout(now)
      this.#settle(now, flow)
    }
  }

  /** Sends what is due on all flows touched since the last call; true when there was any. */
  flush(now: Instant): boolean {
    if (this.#dirty.length === 0) return false
    const dirty = this.#dirty
    this.#dirty = []
    for (const flow of dirty) if (flow.dirty) this.#settle(now, flow)
    return true
  }

  /** An output has been drained: it cannot grow any more. */
  drained(output: NetstackOutput): void {
    if (output === this.#lastData) this.#lastData = undefined
  }

  // What connections tell (TcpHost).

  packet(bytes: Uint8Array): void {
    this.#context.packet(bytes)
  }

  opened(flow: TcpConnection): void {
    const { path } = flow
    const ends = { local: { ip: path.local, port: path.localPort }, remote: { ip: path.remote, port: path.remotePort } }
    this.#context.outbox.push(
      flow.listener === undefined
        ? { type: 'opened', flow: flow.id, ...ends }
        : { type: 'opened', flow: flow.id, listener: flow.listener, ...ends },
    )
    this.#halfOpen.delete(flow)
    this.#accepted.delete(flow)
  }

  data(flow: TcpConnection, bytes: Uint8Array, owned: boolean): void {
    if (owned || bytes.length > DATA_SLAB_BYTES) {
      this.#lastData = undefined // what follows stands behind this
      this.#context.outbox.push({ type: 'data', flow: flow.id, bytes: owned ? bytes : bytes.slice() })
      return
    }
    if (this.#slabAt + bytes.length > this.#slab.length) {
      this.#slab = new Uint8Array(DATA_SLAB_BYTES)
      this.#slabAt = 0
      this.#lastData = undefined
    }
    const at = this.#slabAt
    this.#slab.set(bytes, at)
    this.#slabAt = at + bytes.length
    const last = this.#lastData
    if (last !== undefined && last.flow === flow.id && last.bytes.byteOffset + last.bytes.length === at) {
      last.bytes = this.#slab.subarray(last.bytes.byteOffset, this.#slabAt)
      return
    }
    const output = new DataOutput(flow.id, this.#slab.subarray(at, this.#slabAt))
    this.#lastData = output
    this.#context.outbox.push(output)
  }

  ended(flow: TcpConnection): void {
    this.#lastData = undefined
    this.#context.outbox.push({ type: 'ended', flow: flow.id })
  }

  writable(flow: TcpConnection): void {
    this.#context.outbox.push({ type: 'writable', flow: flow.id })
  }

  closed(flow: TcpConnection, reason: CloseReason): void {
    this.#lastData = undefined
    // Whoever listens never heard of an attempt that did not open; who accepted a held one did.
    const silent = this.#halfOpen.has(flow) && !this.#accepted.has(flow)
    if (!silent) this.#context.outbox.push({ type: 'closed', flow: flow.id, reason })
    this.#flows.delete(flow.id)
    if (flow.state === 'time-wait') this.#timeWait.add(flow)
    this.touch(flow)
  }

  // Inside.

  /** Opens a flow for a SYN; false when nobody wants it. */
  #open(now: Instant, local: Uint8Array, remote: Uint8Array, segment: TcpSegment): boolean {
    const ours = this.#context.isLocal(local)
    const listener = ours ? this.#listenerFor(local, segment.destinationPort) : undefined
    const offer = listener === undefined && (ours ? this.settings.offerUnclaimed : this.settings.promiscuous)
    if (listener === undefined && !offer) return false
    const localIp = Ip.fromBytes(local)
    const remoteIp = Ip.fromBytes(remote)
    if (localIp === undefined || remoteIp === undefined) return false
    if (!this.#makeRoom() || (offer && !this.#mayHold(remoteIp))) {
      this.#context.drop('flows-full')
      return true
    }
    if (!offer && this.#halfOpen.size >= this.settings.maxHalfOpen) {
      for (const oldest of this.#halfOpen) {
        this.#discard(oldest)
        break
      }
      this.#context.drop('half-open-full')
    }
    const path = tcpPath(localIp, segment.destinationPort, remoteIp, segment.sourcePort)
    const flow = new TcpConnection(now, this, this.#nextFlow(), path, listener?.id, this.#secrets.start(now, path), segment, offer)
    this.#add(flow)
    if (!offer) {
      this.#halfOpen.add(flow)
      return true
    }
    flow.waiting = true
    this.#held.set(remoteIp.key, (this.#held.get(remoteIp.key) ?? 0) + 1)
    this.#heldCount += 1
    this.#context.outbox.push({
      type: 'incoming',
      protocol: 'tcp',
      flow: flow.id,
      local: { ip: localIp, port: segment.destinationPort },
      remote: { ip: remoteIp, port: segment.sourcePort },
    })
    return true
  }

  #mayHold(remote: Ip): boolean {
    return (
      this.#heldCount < this.settings.maxHalfOpen && (this.#held.get(remote.key) ?? 0) < Math.max(1, this.settings.maxHalfOpen * HELD_SHARE)
    )
  }

  /** A held flow is held no more. */
  #release(flow: TcpConnection): void {
    const key = flow.path.remote.key
    const left = (this.#held.get(key) ?? 1) - 1
    if (left > 0) this.#held.set(key, left)
    else this.#held.delete(key)
    this.#heldCount -= 1
  }

  #refuse(now: Instant, local: Uint8Array, remote: Uint8Array, segment: TcpSegment): void {
    this.#context.drop('closed-port')
    const localIp = Ip.fromBytes(local)
    const remoteIp = Ip.fromBytes(remote)
    if (localIp === undefined || remoteIp === undefined || (segment.flags & RST) !== 0 || !this.#context.mayAnswer(now)) return
    const reset = writeResetFor(this.builder, tcpPath(localIp, segment.destinationPort, remoteIp, segment.sourcePort), segment)
    if (reset !== undefined) this.packet(reset)
  }

  #listenerFor(local: Uint8Array, port: number): Listener | undefined {
    const listeners = this.#listeners.get(port)
    if (listeners === undefined) return undefined
    const bound = listeners.find(
      (listener) => listener.ip?.bytes.every((byte, i) => byte === local[i]) === true && listener.ip.bytes.length === local.length,
    )
    return bound ?? listeners.find((listener) => listener.ip === undefined)
  }

  #nextFlow(): FlowId {
    return flowId(this.#context.nextId())
  }

  #add(flow: TcpConnection): TcpConnection {
    this.#table.add(flow)
    this.#flows.set(flow.id, flow)
    this.touch(flow)
    return flow
  }

  /** Makes room for one more flow at the cost of the oldest in TIME-WAIT; false when there is none. */
  #makeRoom(): boolean {
    if (this.#table.size < this.settings.maxFlows) return true
    for (const oldest of this.#timeWait) {
      this.#discard(oldest)
      return true
    }
    return false
  }

  /** Flushes a flow and sets its timer, or removes what is closed. */
  #settle(now: Instant, flow: TcpConnection): void {
    flow.flush(now)
    if (flow.state !== 'closed') return this.#timers.set(flow, flow.due)
    this.#remove(flow)
  }

  #discard(flow: TcpConnection): void {
    flow.drop('aborted')
    this.#remove(flow)
  }

  #remove(flow: TcpConnection): void {
    flow.dirty = false
    this.#timers.set(flow, undefined)
    if (flow.waiting) {
      flow.waiting = false
      this.#release(flow)
    }
    this.#table.remove(flow)
    this.#flows.delete(flow.id)
    this.#halfOpen.delete(flow)
    this.#timeWait.delete(flow)
    this.#accepted.delete(flow)
  }
}
