import type { Ip } from './address.ts'
import { encodeIcmpPacket, encodeTcpPacket } from './packet-builder.ts'
import type { PacketView } from './packet-view.ts'
import {
  ICMPV4_ECHO_REPLY,
  ICMPV4_ECHO_REQUEST,
  ICMPV4_UNREACHABLE,
  ICMPV6_ECHO_REPLY,
  ICMPV6_ECHO_REQUEST,
  ICMPV6_PACKET_TOO_BIG,
  ICMPV6_UNREACHABLE,
  PROTOCOL_TCP,
  TCP_ACK,
  TCP_FIN,
  TCP_RST,
  TCP_SYN,
} from './protocol-numbers.ts'
import { isMulticast, isUnspecified } from './tailscale-ranges.ts'

/** Why a packet could not be delivered. */
export type UnreachableReason = 'network' | 'host' | 'protocol' | 'port' | 'prohibited'

/** Codes of ICMP type 3 (RFC 792, RFC 1812 section 5.2.7.1) and of ICMPv6 type 1 (RFC 4443 section 3.1), by reason. */
const CODES: Readonly<Record<UnreachableReason, readonly [ipv4: number, ipv6: number]>> = {
  network: [0, 0],
  host: [1, 3],
  protocol: [2, 3],
  port: [3, 4],
  prohibited: [13, 1],
}
const FRAGMENTATION_NEEDED_CODE = 4
/** RFC 1812 section 4.3.2.3: an ICMP error stays within 576 bytes. RFC 4443 section 2.4 (c): within the least IPv6 MTU. */
const MAX_ERROR_BYTES_IPV4 = 576
const MAX_ERROR_BYTES_IPV6 = 1280
/** Fields of ICMPv4 type 12 and others that report errors: never answered with an error (RFC 1122 section 3.2.2). */
const ERROR_TYPES_IPV4: ReadonlySet<number> = new Set([3, 4, 5, 11, 12])

/**
 * "Destination unreachable" for a packet, quoting its beginning; `undefined` where the rules forbid an answer (later fragments, ICMP
 * errors, multicast or unspecified addresses: RFC 1122 section 3.2.2, RFC 4443 section 2.4).
 * @param from who says so; default: the packet's destination
 */
export function replyUnreachable(view: PacketView, reason: UnreachableReason, from?: Ip): Uint8Array | undefined {
  return view.family === 4 ? icmpError(view, ICMPV4_UNREACHABLE, CODES[reason][0], 0, from) : icmpError(view, ICMPV6_UNREACHABLE, CODES[reason][1], 0, from)
}

/** "Fragmentation needed" (RFC 1191) or "packet too big" (RFC 4443): tells the sender the largest packet that fits. As {@link replyUnreachable}. */
export function replyPacketTooBig(view: PacketView, mtu: number, from?: Ip): Uint8Array | undefined {
  return view.family === 4
    ? icmpError(view, ICMPV4_UNREACHABLE, FRAGMENTATION_NEEDED_CODE, mtu & 0xffff, from)
    : icmpError(view, ICMPV6_PACKET_TOO_BIG, 0, mtu >>> 0, from)
}

/** The reset that refuses a TCP segment (RFC 9293 section 3.5.2); `undefined` for a reset, a fragment and for what is not TCP. */
export function replyTcpReset(view: PacketView): Uint8Array | undefined {
  if (!view.valid || view.protocol !== PROTOCOL_TCP || view.isFragment || (view.tcpFlags & TCP_RST) !== 0) return undefined
  const src = view.dstEndpoint()
  const dst = view.srcEndpoint()
  if (src === undefined || dst === undefined || isMulticast(src.ip) || isMulticast(dst.ip)) return undefined
  const header = new DataView(view.memory.buffer, view.memory.byteOffset + view.transportOffset, 20)
  if ((view.tcpFlags & TCP_ACK) !== 0) return encodeTcpPacket({ src, dst, sequence: header.getUint32(8), flags: TCP_RST, window: 0 })
  const consumed = view.payloadLength + ((view.tcpFlags & TCP_SYN) === 0 ? 0 : 1) + ((view.tcpFlags & TCP_FIN) === 0 ? 0 : 1)
  return encodeTcpPacket({ src, dst, sequence: 0, acknowledgment: (header.getUint32(4) + consumed) >>> 0, flags: TCP_RST | TCP_ACK, window: 0 })
}

/** The answer to an echo request: same identifier, sequence and data; `undefined` for anything else. */
export function replyEcho(view: PacketView): Uint8Array | undefined {
  const request = view.family === 4 ? ICMPV4_ECHO_REQUEST : ICMPV6_ECHO_REQUEST
  if (view.icmpType !== request || view.icmpCode !== 0 || view.isFragment || view.transportLength < 8) return undefined
  const src = view.dst()
  const dst = view.src()
  if (src === undefined || dst === undefined || isMulticast(src) || isMulticast(dst) || isUnspecified(dst)) return undefined
  const at = view.transportOffset
  const rest = new DataView(view.memory.buffer, view.memory.byteOffset + at + 4, 4).getUint32(0)
  const payload = view.memory.subarray(at + 8, at + view.transportLength)
  return encodeIcmpPacket({ src, dst, type: view.family === 4 ? ICMPV4_ECHO_REPLY : ICMPV6_ECHO_REPLY, code: 0, rest, payload })
}

function icmpError(view: PacketView, type: number, code: number, rest: number, from: Ip | undefined): Uint8Array | undefined {
  if (!view.valid || view.isLaterFragment) return undefined
  const isError = view.family === 4 ? ERROR_TYPES_IPV4.has(view.icmpType) : view.icmpType >= 0 && view.icmpType < 128
  const src = from ?? view.dst()
  const destination = view.dst()
  const dst = view.src()
  if (isError || src === undefined || dst === undefined || destination === undefined || src.family !== dst.family) return undefined
  // Path MTU discovery for multicast is the one case that RFC 4443 lets through; we have no use for it.
  if (isMulticast(destination) || isMulticast(dst) || isUnspecified(dst)) return undefined
  const room = view.family === 4 ? MAX_ERROR_BYTES_IPV4 - 20 - 8 : MAX_ERROR_BYTES_IPV6 - 40 - 8
  const quoted = view.packet().subarray(0, room)
  return encodeIcmpPacket({ src, dst, type, code, rest, payload: quoted })
}
