import { earlier, type Instant, instant, type Machine, type RandomSource } from '@meshwright/core'
import type { Endpoint, Ip } from '@meshwright/ip'
import { flowStatus } from './flow-status.ts'
import { IcmpLayer } from './icmp-layer.ts'
import { decodeIpPacket, IpPacket, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP } from './ip-packet.ts'
import type {
  FlowId,
  FlowStatus,
  KeepAlive,
  ListenerId,
  NetstackCounters,
  NetstackInput,
  NetstackOptions,
  NetstackOutput,
  PingId,
  UdpId,
} from './netstack-io.ts'
import { Reassembly } from './reassembly.ts'
import { isMartianSource, isMulticast, StackContext } from './stack-context.ts'
import type { TcpConnection } from './tcp-connection.ts'
import { TcpLayer } from './tcp-layer.ts'
import { UdpLayer } from './udp-layer.ts'

const PING_TIMEOUT_MS = 5_000

/**
 * A host's TCP/IP in user space: TCP (RFC 9293), UDP, ICMP echo and errors over IP packets, for nodes without a TUN device.
 *
 * Feed packets and commands, then drain: what several events cause together (acknowledgments, segments of many small writes, pieces of
 * received data) is joined at the first `pollOutput` that follows.
 */
export class Netstack implements Machine<NetstackInput, NetstackOutput> {
  readonly #context: StackContext
  readonly #tcp: TcpLayer
  readonly #udp: UdpLayer
  readonly #icmp: IcmpLayer
  readonly #reassembly: Reassembly = new Reassembly()
  readonly #packet: IpPacket = new IpPacket()
  #now: Instant = instant(0)

  /** @param random initial sequence numbers, ports, identifiers: unpredictable in production */
  constructor(random: RandomSource, options: NetstackOptions = {}) {
    this.#context = new StackContext(random, options)
    this.#tcp = new TcpLayer(this.#context)
    this.#udp = new UdpLayer(this.#context)
    this.#icmp = new IcmpLayer(this.#context, this.#tcp, this.#udp)
  }

  // The machine.

  handleInput(now: Instant, input: NetstackInput): void {
    this.receive(now, input.bytes)
  }

  /**
   * As `handleInput` with a packet, without the object. The bytes are read during the call only.
   * @param isOwn this stack has sent it, to itself; else a packet that says so is a lie
   */
  receive(now: Instant, bytes: Uint8Array, isOwn: boolean = false): void {
    this.#now = now
    this.#context.received += 1
    const packet = this.#packet
    if (!decodeIpPacket(bytes, packet)) return this.#context.drop('malformed')
    const source = packet.source()
    if (isMartianSource(source) || (!isOwn && this.#context.isLocal(source))) return this.#context.drop('martian')
    if (!this.#context.settings.promiscuous && !this.#context.isLocal(packet.destination())) return this.#context.drop('not-local')
    if (!packet.fragment) return this.#dispatch(now, packet)
    const whole = this.#reassembly.add(now, packet)
    if (whole === undefined) return this.#context.drop('fragment')
    if (decodeIpPacket(whole, packet) && !packet.fragment) this.#dispatch(now, packet)
    else this.#context.drop('malformed')
  }

  handleTimeout(now: Instant): void {
    const due = this.pollTimeout()
    if (due === undefined || now < due) return
    this.#now = now
    this.#tcp.flush(now)
    this.#tcp.handleTimeout(now)
    this.#udp.handleTimeout(now)
    this.#icmp.handleTimeout(now)
    this.#reassembly.expire(now)
  }

  pollOutput(): NetstackOutput | undefined {
    let output = this.#context.outbox.poll()
    if (output === undefined && this.#tcp.flush(this.#now)) output = this.#context.outbox.poll()
    if (output?.type === 'data') this.#tcp.drained(output)
    return output
  }

  /**
   * Says that the bytes of every `packet` output so far have been read: their memory is written again from now on. Whoever never says so
   * owns them for good. Nothing happens while outputs wait.
   */
  recycle(): void {
    if (this.#context.outbox.size === 0) this.#context.builder.recycle()
  }

  pollTimeout(): Instant | undefined {
    return earlier(earlier(this.#tcp.due, this.#udp.due), earlier(this.#icmp.due, this.#reassembly.due))
  }

  // TCP.

  /**
   * Opens a connection; `opened` or `closed` follows. Bytes may be written at once.
   * @throws NETSTACK_NO_SOURCE, NETSTACK_PORT_INVALID, NETSTACK_ADDRESS_IN_USE, NETSTACK_PORTS_EXHAUSTED, NETSTACK_FLOWS_EXHAUSTED
   */
  connectTcp(now: Instant, to: Endpoint, from?: { readonly ip?: Ip; readonly port?: number }): FlowId {
    this.#now = now
    return this.#tcp.connect(now, to, from)
  }

  /**
   * Accepts connections to a port (`any`: a free one of the ephemeral range), of one own address or of all: each comes as `opened` with
   * this id. @throws NETSTACK_ADDRESS_IN_USE, NETSTACK_PORT_INVALID
   */
  listenTcp(port: number | 'any', ip?: Ip): ListenerId {
    return this.#tcp.listen(port, ip)
  }

  /** Where a listener listens. */
  listenerAddress(listener: ListenerId): { readonly ip: Ip | undefined; readonly port: number } | undefined {
    return this.#tcp.listenerAddress(listener)
  }

  /** Accepts no more; open flows stay. */
  closeListener(listener: ListenerId): void {
    this.#tcp.closeListener(listener)
  }

  /** Queues bytes (copied); gives how many were taken. After fewer than offered, `writable` tells when to go on. */
  write(now: Instant, flow: FlowId, bytes: Uint8Array): number {
    const connection = this.#command(now, flow)
    return connection === undefined ? 0 : connection.write(bytes)
  }

  /** How many bytes `write` would take now. */
  writeSpace(flow: FlowId): number {
    return this.#tcp.flow(flow)?.sender.free ?? 0
  }

  /** Opens the receive window by bytes of `data` that the application is done with. */
  consumed(now: Instant, flow: FlowId, bytes: number): void {
    this.#command(now, flow)?.consumed(now, bytes)
  }

  /** Ends our direction after everything written; the other goes on. */
  shutdownWrite(now: Instant, flow: FlowId): void {
    this.#command(now, flow)?.shutdownWrite()
  }

  /** Ends both directions: what was written is delivered, what still comes is answered with a reset. UDP flows are forgotten. */
  close(now: Instant, flow: FlowId): void {
    if (!this.#udp.closeFlow(flow)) this.#command(now, flow)?.close(now)
  }

  /** Resets the connection now. */
  abort(now: Instant, flow: FlowId): void {
    if (!this.#udp.closeFlow(flow)) this.#command(now, flow)?.abort(now)
  }

  /** Sets or ends keep-alive probes of a flow. */
  setKeepAlive(now: Instant, flow: FlowId, keepAlive: KeepAlive | undefined): void {
    this.#command(now, flow)?.setKeepAlive(now, keepAlive)
  }

  /** Lets an `incoming` connection open; `opened` follows. */
  accept(now: Instant, flow: FlowId): void {
    const connection = this.#command(now, flow)
    if (connection !== undefined) this.#tcp.accept(now, connection)
  }

  /** Turns an `incoming` flow down: with a reset, or without a word. */
  refuse(now: Instant, flow: FlowId, how: 'reset' | 'drop' = 'reset'): void {
    if (this.#udp.closeFlow(flow)) return
    const connection = this.#command(now, flow)
    if (how === 'reset') connection?.abort(now)
    else connection?.drop('aborted')
  }

  /** What a flow is like; `undefined` once it is over for the application. */
  flowStatus(flow: FlowId): FlowStatus | undefined {
    const connection = this.#tcp.flow(flow)
    return connection && flowStatus(connection)
  }

  // UDP.

  /** Binds a UDP socket to a port (`any`: a free one), of one own address or of all. @throws NETSTACK_ADDRESS_IN_USE, NETSTACK_PORT_INVALID */
  bindUdp(port: number | 'any' = 'any', ip?: Ip): UdpId {
    return this.#udp.bind(port, ip)
  }

  udpAddress(socket: UdpId): { readonly ip: Ip | undefined; readonly port: number } | undefined {
    return this.#udp.address(socket)
  }

  /** Sends a datagram, in fragments where it exceeds the MTU. @throws NETSTACK_UNKNOWN_ID, NETSTACK_NO_SOURCE, NETSTACK_DATAGRAM_TOO_LONG */
  sendUdp(now: Instant, socket: UdpId, to: Endpoint, bytes: Uint8Array, from?: Ip): void {
    this.#now = now
    this.#udp.send(socket, to, bytes, from)
  }

  closeUdp(socket: UdpId): void {
    this.#udp.close(socket)
  }

  /** Sends a datagram back on an `incoming` UDP flow; false when that is over. */
  sendDatagram(now: Instant, flow: FlowId, bytes: Uint8Array): boolean {
    this.#now = now
    return this.#udp.sendOnFlow(now, flow, bytes)
  }

  // ICMP.

  /** Pings; `echoReply` or `echoFailed` follows. @throws NETSTACK_NO_SOURCE, NETSTACK_FLOWS_EXHAUSTED */
  ping(now: Instant, to: Ip, options: { readonly bytes?: Uint8Array; readonly timeoutMs?: number; readonly from?: Ip } = {}): PingId {
    this.#now = now
    return this.#icmp.ping(now, to, options.bytes ?? new Uint8Array(0), options.timeoutMs ?? PING_TIMEOUT_MS, options.from)
  }

  /** Answers an `echoRequest` output. */
  answerEcho(request: {
    readonly from: Ip
    readonly to: Ip
    readonly identifier: number
    readonly sequence: number
    readonly bytes: Uint8Array
  }): void {
    this.#icmp.answerEcho(request.from, request.to, request.identifier, request.sequence, request.bytes)
  }

  // The host.

  /** Replaces the own addresses. Flows of addresses that are gone stay until they end. */
  setLocalAddresses(addresses: readonly Ip[]): void {
    this.#context.setAddresses(addresses)
  }

  get counters(): NetstackCounters {
    return { received: this.#context.received, sent: this.#context.sent, dropped: new Map(this.#context.dropped) }
  }

  /** How many TCP flows are kept, TIME-WAIT included. */
  get flowCount(): number {
    return this.#tcp.flowCount
  }

  /** Fragmented packets that are not complete, 64 at most. */
  get fragmentCount(): number {
    return this.#reassembly.count
  }

  #dispatch(now: Instant, packet: IpPacket): void {
    if (packet.protocol === PROTOCOL_TCP) return this.#tcp.receive(now, packet)
    if (packet.protocol === PROTOCOL_UDP) {
      if (!this.#udp.receive(now, packet)) this.#icmp.refuseUdp(now, packet)
      return
    }
    const icmp = packet.family === 4 ? PROTOCOL_ICMP : PROTOCOL_ICMPV6
    if (packet.protocol === icmp && !isMulticast(packet.source())) this.#icmp.receive(now, packet)
    else this.#context.drop('protocol')
  }

  #command(now: Instant, flow: FlowId): TcpConnection | undefined {
    this.#now = now
    const connection = this.#tcp.flow(flow)
    if (connection !== undefined) this.#tcp.touch(connection)
    return connection
  }
}
