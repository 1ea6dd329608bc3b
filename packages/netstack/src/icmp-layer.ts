import { after, type Instant, instant } from '@meshwright/core'
import { Ip } from '@meshwright/ip'
import { addWords, complementSum, foldSum, pseudoHeaderSum } from './checksum.ts'
import { DeadlineHeap, type Scheduled } from './deadline-heap.ts'
import { type IpPacket, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP } from './ip-packet.ts'
import { NetstackError, type PingId, pingId } from './netstack-io.ts'
import { isMartianSource, isMulticast, type StackContext } from './stack-context.ts'
import type { TcpLayer } from './tcp-layer.ts'
import type { UdpLayer } from './udp-layer.ts'

const ECHO_REPLY_V4 = 0
const UNREACHABLE_V4 = 3
const FRAGMENTATION_NEEDED = 4
const ECHO_REQUEST_V4 = 8
const UNREACHABLE_V6 = 1
const TOO_BIG_V6 = 2
const ECHO_REQUEST_V6 = 128
const ECHO_REPLY_V6 = 129
const PORT_UNREACHABLE_V4 = 3
const PORT_UNREACHABLE_V6 = 4
const MAX_PINGS = 1024
/** RFC 1812 section 4.3.2.3 and RFC 4443 section 2.4 (c): how long an error may be. */
const MAX_ERROR_V4 = 576
const MAX_ERROR_V6 = 1280
const LEAST_MTU_V4 = 552
const LEAST_MTU_V6 = 1280

interface Ping extends Scheduled {
  readonly id: PingId
  readonly to: Ip
  readonly sequence: number
  readonly sentAt: Instant
}

/**
 * ICMP (RFC 792) and ICMPv6 (RFC 4443) of a host: answers and sends echoes, tells TCP and UDP what the network says of their packets.
 *
 * | offset | size | field (big-endian)                                         |
 * | ------ | ---- | ---------------------------------------------------------- |
 * | 0      | 1    | type                                                       |
 * | 1      | 1    | code                                                       |
 * | 2      | 2    | checksum                                                   |
 * | 4      | 2    | echo: identifier; else 0 (ICMPv6 too big: MTU in 4 bytes)  |
 * | 6      | 2    | echo: sequence; ICMP fragmentation needed: MTU             |
 * | 8      |      | echo: data; errors: the packet they are about              |
 */
export class IcmpLayer {
  readonly #context: StackContext
  readonly #tcp: TcpLayer
  readonly #udp: UdpLayer
  readonly #identifier: number
  readonly #pings: Map<number, Ping> = new Map()
  readonly #timers: DeadlineHeap<Ping> = new DeadlineHeap()
  #sequence = 0

  constructor(context: StackContext, tcp: TcpLayer, udp: UdpLayer) {
    this.#context = context
    this.#tcp = tcp
    this.#udp = udp
    this.#identifier = new DataView(context.random(2).buffer).getUint16(0)
  }

  get due(): Instant | undefined {
    return this.#timers.due
  }

  ping(now: Instant, to: Ip, bytes: Uint8Array, timeoutMs: number, from: Ip | undefined): PingId {
    if (this.#pings.size >= MAX_PINGS) throw new NetstackError('NETSTACK_FLOWS_EXHAUSTED', `all ${MAX_PINGS} pings are under way`)
    const source = from ?? this.#context.sourceFor(to)
    if (source.family !== to.family)
      throw new NetstackError('NETSTACK_NO_SOURCE', `${source.key} cannot reach ${to.key}: the families differ`)
    do this.#sequence = (this.#sequence + 1) & 0xffff
    while (this.#pings.has(this.#sequence))
    const ping: Ping = { id: pingId(this.#context.nextId()), to, sequence: this.#sequence, sentAt: now, heapIndex: -1, heapDue: 0 }
    this.#pings.set(ping.sequence, ping)
    this.#timers.set(ping, after(now, Math.max(1, timeoutMs)))
    this.#send(
      source.bytes,
      to.bytes,
      to.family === 4 ? ECHO_REQUEST_V4 : ECHO_REQUEST_V6,
      0,
      ((this.#identifier << 16) | ping.sequence) >>> 0,
      bytes,
    )
    return ping.id
  }

  /** Answers an `echoRequest` in the name of the address it went to. */
  answerEcho(from: Ip, to: Ip, identifier: number, sequence: number, bytes: Uint8Array): void {
    this.#send(to.bytes, from.bytes, from.family === 4 ? ECHO_REPLY_V4 : ECHO_REPLY_V6, 0, ((identifier << 16) | sequence) >>> 0, bytes)
  }

  receive(now: Instant, packet: IpPacket): void {
    const { view, payloadAt, end, family } = packet
    if (end - payloadAt < 8) return this.#context.drop('malformed')
    const sum = addWords(family === 6 ? packet.pseudoSum() : 0, view, payloadAt, end)
    if (foldSum(sum) !== 0xffff) return this.#context.drop('checksum')
    const type = view.getUint8(payloadAt)
    const code = view.getUint8(payloadAt + 1)
    const word = view.getUint32(payloadAt + 4)
    const body = packet.bytes.subarray(payloadAt + 8, end)
    if (type === (family === 4 ? ECHO_REQUEST_V4 : ECHO_REQUEST_V6)) return this.#receiveRequest(packet, word, body)
    if (type === (family === 4 ? ECHO_REPLY_V4 : ECHO_REPLY_V6)) return this.#receiveReply(now, packet, word, body)
    const isError = family === 4 ? type === UNREACHABLE_V4 : type === UNREACHABLE_V6 || type === TOO_BIG_V6
    if (!isError) return this.#context.drop('protocol')
    const tooBig = family === 4 ? code === FRAGMENTATION_NEEDED : type === TOO_BIG_V6
    const announced = family === 4 ? word & 0xffff : word
    const mtu = tooBig ? Math.max(announced, family === 4 ? LEAST_MTU_V4 : LEAST_MTU_V6) : undefined
    this.#receiveError(now, family, code, body, mtu)
  }

  /** Tells the sender of a datagram that nobody listens; not for multicast, and not too often. */
  refuseUdp(now: Instant, packet: IpPacket): void {
    this.#context.drop('closed-port')
    const source = packet.source()
    if (isMulticast(packet.destination()) || isMartianSource(source) || !this.#context.mayAnswer(now)) return
    const ipv4 = packet.family === 4
    const quoted = packet.bytes.subarray(0, Math.min(packet.end, ipv4 ? MAX_ERROR_V4 - 28 : MAX_ERROR_V6 - 48))
    this.#send(
      packet.destination(),
      source,
      ipv4 ? UNREACHABLE_V4 : UNREACHABLE_V6,
      ipv4 ? PORT_UNREACHABLE_V4 : PORT_UNREACHABLE_V6,
      0,
      quoted,
    )
  }

  handleTimeout(now: Instant): void {
    for (let ping = this.#timers.peek(); ping !== undefined && instant(ping.heapDue) <= now; ping = this.#timers.peek())
      this.#fail(ping, 'timeout')
  }

  #receiveRequest(packet: IpPacket, word: number, body: Uint8Array): void {
    const to = packet.destination()
    if (this.#context.isLocal(to)) {
      return this.#send(to, packet.source(), packet.family === 4 ? ECHO_REPLY_V4 : ECHO_REPLY_V6, 0, word, body)
    }
    const fromIp = Ip.fromBytes(packet.source())
    const toIp = Ip.fromBytes(to)
    if (isMulticast(to) || fromIp === undefined || toIp === undefined) return this.#context.drop('not-local')
    this.#context.outbox.push({
      type: 'echoRequest',
      from: fromIp,
      to: toIp,
      identifier: word >>> 16,
      sequence: word & 0xffff,
      bytes: body.slice(),
    })
  }

  #receiveReply(now: Instant, packet: IpPacket, word: number, body: Uint8Array): void {
    const ping = this.#pings.get(word & 0xffff)
    const from = Ip.fromBytes(packet.source())
    if (ping === undefined || from === undefined || word >>> 16 !== this.#identifier || !ping.to.equals(from))
      return this.#context.drop('stale')
    this.#forget(ping)
    this.#context.outbox.push({ type: 'echoReply', ping: ping.id, from, rttMs: now - ping.sentAt, bytes: body.slice() })
  }

  /** `quoted` is the start of a packet that we sent, perhaps: whoever forges it must know ports and numbers. */
  #receiveError(now: Instant, family: 4 | 6, code: number, quoted: Uint8Array, mtu: number | undefined): void {
    const view = new DataView(quoted.buffer, quoted.byteOffset, quoted.byteLength)
    const headerLength = family === 4 ? (quoted.length > 0 ? (view.getUint8(0) & 15) * 4 : 0) : 40
    if (headerLength < 20 || quoted.length < headerLength + 8 || view.getUint8(0) >> 4 !== family) return this.#context.drop('malformed')
    const protocol = view.getUint8(family === 4 ? 9 : 6)
    const local = family === 4 ? quoted.subarray(12, 16) : quoted.subarray(8, 24)
    const remote = family === 4 ? quoted.subarray(16, 20) : quoted.subarray(24, 40)
    const localPort = view.getUint16(headerLength)
    const remotePort = view.getUint16(headerLength + 2)
    if (protocol === PROTOCOL_TCP)
      return this.#tcp.unreachable(now, local, localPort, remote, remotePort, view.getUint32(headerLength + 4), mtu)
    const localIp = Ip.fromBytes(local)
    const remoteIp = Ip.fromBytes(remote)
    if (localIp === undefined || remoteIp === undefined || mtu !== undefined) return
    if (protocol === PROTOCOL_UDP) {
      const port = code === (family === 4 ? PORT_UNREACHABLE_V4 : PORT_UNREACHABLE_V6)
      const prohibited = family === 4 ? code === 9 || code === 10 || code === 13 : code === 1 || code === 5 || code === 6
      return this.#udp.unreachable(
        localIp,
        localPort,
        { ip: remoteIp, port: remotePort },
        port ? 'port' : prohibited ? 'prohibited' : 'host',
      )
    }
    if (protocol !== (family === 4 ? PROTOCOL_ICMP : PROTOCOL_ICMPV6)) return this.#context.drop('protocol')
    const ping = this.#pings.get(view.getUint16(headerLength + 6))
    if (ping !== undefined && view.getUint16(headerLength + 4) === this.#identifier && ping.to.equals(remoteIp))
      this.#fail(ping, 'unreachable')
  }

  #fail(ping: Ping, reason: 'timeout' | 'unreachable'): void {
    this.#forget(ping)
    this.#context.outbox.push({ type: 'echoFailed', ping: ping.id, reason })
  }

  #forget(ping: Ping): void {
    this.#pings.delete(ping.sequence)
    this.#timers.set(ping, undefined)
  }

  #send(source: Uint8Array, destination: Uint8Array, type: number, code: number, word: number, body: Uint8Array): void {
    const protocol = source.length === 4 ? PROTOCOL_ICMP : PROTOCOL_ICMPV6
    const message = new Uint8Array(8 + body.length)
    const view = new DataView(message.buffer)
    view.setUint16(0, (type << 8) | code)
    view.setUint32(4, word)
    message.set(body, 8)
    const sum = protocol === PROTOCOL_ICMPV6 ? pseudoHeaderSum(source, destination, protocol) + message.length : 0
    view.setUint16(2, complementSum(addWords(sum, view, 0, message.length)))
    for (const packet of this.#context.builder.packets(source, destination, protocol, message, this.#context.settings.mtu))
      this.#context.packet(packet)
  }
}
