import { after, type Instant, instant } from '@meshwright/core'
import { type Endpoint, formatEndpoint, Ip } from '@meshwright/ip'
import { addWords, complementSum, foldSum, pseudoHeaderSum } from './checksum.ts'
import { DeadlineHeap, type Scheduled } from './deadline-heap.ts'
import { type IpPacket, PROTOCOL_UDP } from './ip-packet.ts'
import { type FlowId, flowId, NetstackError, type UdpId, udpId } from './netstack-io.ts'
import { checkPort, isMulticast, type StackContext } from './stack-context.ts'

const HEADER_BYTES = 8
const MAX_PAYLOAD_BYTES = 65_535 - 40 - HEADER_BYTES
const MAX_FLOWS = 4096
const FLOW_IDLE_MS = 120_000
const DNS_PORT = 53
const DNS_FLOW_IDLE_MS = 30_000

interface Socket {
  readonly id: UdpId
  readonly ip: Ip | undefined
  readonly port: number
}

/** A datagram flow taken over in promiscuous mode. */
interface DatagramFlow extends Scheduled {
  readonly id: FlowId
  readonly key: string
  readonly local: Endpoint
  readonly remote: Endpoint
}

/**
 * All UDP of a stack (RFC 768): bound sockets, and flows of others in promiscuous mode.
 *
 * | offset | size | field (big-endian)            |
 * | ------ | ---- | ----------------------------- |
 * | 0      | 2    | source port                   |
 * | 2      | 2    | destination port              |
 * | 4      | 2    | length, header included       |
 * | 6      | 2    | checksum; 0: none (IPv4 only) |
 */
export class UdpLayer {
  readonly #context: StackContext
  readonly #ports: Map<number, Socket[]> = new Map()
  readonly #sockets: Map<number, Socket> = new Map()
  readonly #flows: Map<string, DatagramFlow> = new Map()
  readonly #flowsById: Map<number, DatagramFlow> = new Map()
  readonly #timers: DeadlineHeap<DatagramFlow> = new DeadlineHeap()

  constructor(context: StackContext) {
    this.#context = context
  }

  get due(): Instant | undefined {
    return this.#timers.due
  }

  bind(port: number | 'any', ip: Ip | undefined): UdpId {
    const number = port === 'any' ? this.#context.ephemeralPort((candidate) => !this.#ports.has(candidate)) : port
    checkPort(number, 1)
    const others = this.#ports.get(number) ?? []
    if (others.some((other) => (other.ip === undefined ? ip === undefined : ip !== undefined && other.ip.equals(ip)))) {
      throw new NetstackError('NETSTACK_ADDRESS_IN_USE', `UDP port ${number} is already bound`)
    }
    const socket: Socket = { id: udpId(this.#context.nextId()), ip, port: number }
    this.#ports.set(number, [...others, socket])
    this.#sockets.set(socket.id, socket)
    return socket.id
  }

  address(id: UdpId): { readonly ip: Ip | undefined; readonly port: number } | undefined {
    const socket = this.#sockets.get(id)
    return socket && { ip: socket.ip, port: socket.port }
  }

  close(id: UdpId): void {
    const socket = this.#sockets.get(id)
    if (socket === undefined) return
    this.#sockets.delete(id)
    const left = (this.#ports.get(socket.port) ?? []).filter((other) => other !== socket)
    if (left.length === 0) this.#ports.delete(socket.port)
    else this.#ports.set(socket.port, left)
  }

  /** @throws NETSTACK_UNKNOWN_ID, NETSTACK_NO_SOURCE, NETSTACK_DATAGRAM_TOO_LONG, NETSTACK_PORT_INVALID */
  send(id: UdpId, to: Endpoint, bytes: Uint8Array, from: Ip | undefined): void {
    const socket = this.#sockets.get(id)
    if (socket === undefined) throw new NetstackError('NETSTACK_UNKNOWN_ID', `no UDP socket ${id} is open`)
    checkPort(to.port, 1)
    const source = from ?? socket.ip ?? this.#context.sourceFor(to.ip)
    if (source.family !== to.ip.family)
      throw new NetstackError('NETSTACK_NO_SOURCE', `${source.key} cannot reach ${to.ip.key}: the families differ`)
    this.#transmit({ ip: source, port: socket.port }, to, bytes)
  }

  /** Sends to the peer of an incoming flow; false when the flow is over. */
  sendOnFlow(now: Instant, id: FlowId, bytes: Uint8Array): boolean {
    const flow = this.#flowsById.get(id)
    if (flow === undefined) return false
    this.#refresh(now, flow)
    this.#transmit(flow.local, flow.remote, bytes)
    return true
  }

  /** Ends an incoming flow; its next datagram would open another. */
  closeFlow(id: FlowId): boolean {
    const flow = this.#flowsById.get(id)
    if (flow === undefined) return false
    this.#timers.set(flow, undefined)
    this.#flows.delete(flow.key)
    this.#flowsById.delete(id)
    return true
  }

  /** Takes one datagram; false when nobody claims it (an ICMP error is due). */
  receive(now: Instant, packet: IpPacket): boolean {
    const { view, payloadAt, end } = packet
    const length = end - payloadAt >= HEADER_BYTES ? view.getUint16(payloadAt + 4) : 0
    if (length < HEADER_BYTES || length > end - payloadAt) {
      this.#context.drop('malformed')
      return true
    }
    const checksum = view.getUint16(payloadAt + 6)
    const sum = addWords(packet.pseudoSum() - (end - payloadAt) + length, view, payloadAt, payloadAt + length)
    if (checksum === 0 ? packet.family === 6 : foldSum(sum) !== 0xffff) {
      this.#context.drop('checksum')
      return true
    }
    const fromPort = view.getUint16(payloadAt)
    const toPort = view.getUint16(payloadAt + 2)
    const fromIp = Ip.fromBytes(packet.source())
    const toIp = Ip.fromBytes(packet.destination())
    if (fromIp === undefined || toIp === undefined || toPort === 0) return true
    const bytes = packet.bytes.slice(payloadAt + HEADER_BYTES, payloadAt + length)
    const from: Endpoint = { ip: fromIp, port: fromPort }
    const local: Endpoint = { ip: toIp, port: toPort }
    const ours = this.#context.isLocal(toIp.bytes)
    const socket = ours ? this.#socketFor(toIp, toPort) : undefined
    if (socket !== undefined) {
      this.#context.outbox.push({ type: 'udp', socket: socket.id, from, local, bytes })
      return true
    }
    if (isMulticast(toIp.bytes)) {
      this.#context.drop('not-local')
      return true
    }
    if (ours ? !this.#context.settings.offerUnclaimed : !this.#context.settings.promiscuous) return false
    this.#receiveOnFlow(now, local, from, bytes)
    return true
  }

  /** An ICMP error quotes a datagram of ours. */
  unreachable(local: Ip, localPort: number, remote: Endpoint, reason: 'port' | 'host' | 'prohibited'): void {
    const socket = this.#socketFor(local, localPort)
    if (socket !== undefined) this.#context.outbox.push({ type: 'refused', socket: socket.id, remote, reason })
  }

  handleTimeout(now: Instant): void {
    for (let flow = this.#timers.peek(); flow !== undefined && instant(flow.heapDue) <= now; flow = this.#timers.peek()) {
      this.closeFlow(flow.id)
      this.#context.outbox.push({ type: 'closed', flow: flow.id, reason: 'timeout' })
    }
  }

  #receiveOnFlow(now: Instant, local: Endpoint, remote: Endpoint, bytes: Uint8Array): void {
    const key = `${formatEndpoint(local)} ${formatEndpoint(remote)}`
    let flow = this.#flows.get(key)
    if (flow === undefined) {
      if (this.#flows.size >= MAX_FLOWS) return this.#context.drop('flows-full')
      flow = { id: flowId(this.#context.nextId()), key, local, remote, heapIndex: -1, heapDue: 0 }
      this.#flows.set(key, flow)
      this.#flowsById.set(flow.id, flow)
      this.#context.outbox.push({ type: 'incoming', protocol: 'udp', flow: flow.id, local, remote })
    }
    this.#refresh(now, flow)
    this.#context.outbox.push({ type: 'datagram', flow: flow.id, bytes })
  }

  #refresh(now: Instant, flow: DatagramFlow): void {
    this.#timers.set(flow, after(now, flow.local.port === DNS_PORT ? DNS_FLOW_IDLE_MS : FLOW_IDLE_MS))
  }

  #socketFor(ip: Ip, port: number): Socket | undefined {
    const sockets = this.#ports.get(port)
    return sockets?.find((socket) => socket.ip?.equals(ip) === true) ?? sockets?.find((socket) => socket.ip === undefined)
  }

  #transmit(from: Endpoint, to: Endpoint, bytes: Uint8Array): void {
    if (bytes.length > MAX_PAYLOAD_BYTES) {
      throw new NetstackError('NETSTACK_DATAGRAM_TOO_LONG', `a datagram holds at most ${MAX_PAYLOAD_BYTES} bytes, not ${bytes.length}`)
    }
    const payload = new Uint8Array(HEADER_BYTES + bytes.length)
    const view = new DataView(payload.buffer)
    view.setUint16(0, from.port)
    view.setUint16(2, to.port)
    view.setUint16(4, payload.length)
    payload.set(bytes, HEADER_BYTES)
    const sum = pseudoHeaderSum(from.ip.bytes, to.ip.bytes, PROTOCOL_UDP) + payload.length
    // A sum of zero is sent as its other form: zero means none (RFC 768).
    view.setUint16(6, complementSum(addWords(sum, view, 0, payload.length)) || 0xffff)
    for (const packet of this.#context.builder.packets(from.ip.bytes, to.ip.bytes, PROTOCOL_UDP, payload, this.#context.settings.mtu))
      this.#context.packet(packet)
  }
}
