import { MeshwrightError } from '@meshwright/core'
import type { Ip } from './address.ts'
import { addToChecksum, checksum, finishChecksum, pseudoHeaderSum } from './checksum.ts'
import type { Endpoint } from './endpoint.ts'
import { IPV4_HEADER_BYTES, IPV6_HEADER_BYTES } from './packet-view.ts'
import {
  ICMPV4_ECHO_REPLY,
  ICMPV4_ECHO_REQUEST,
  ICMPV6_ECHO_REPLY,
  ICMPV6_ECHO_REQUEST,
  PROTOCOL_ICMPV4,
  PROTOCOL_ICMPV6,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
} from './protocol-numbers.ts'

const EMPTY = new Uint8Array(0)
const MAX_PACKET_BYTES = 65_535

/** What every packet builder takes beside addresses. */
export interface IpOptions {
  /** TTL or Hop Limit, 0 to 255; default 64. */
  readonly hopLimit?: number
  /** Identification of an IPv4 packet, 16 bits; default 0. Ignored for IPv6. */
  readonly id?: number
  /** The Don't Fragment bit of IPv4; default true. */
  readonly dontFragment?: boolean
  /** Type of Service or Traffic Class byte (DSCP and ECN); default 0. */
  readonly trafficClass?: number
}

/** A bare IP packet: what it carries and between whom. */
export interface IpPacket extends IpOptions {
  readonly src: Ip
  readonly dst: Ip
  /** Protocol number of the payload. */
  readonly protocol: number
  /** Copied into the packet. */
  readonly payload: Uint8Array
}

/** A UDP datagram. */
export interface UdpPacket extends IpOptions {
  readonly src: Endpoint
  readonly dst: Endpoint
  readonly payload: Uint8Array
}

/** A TCP segment. */
export interface TcpPacket extends IpOptions {
  readonly src: Endpoint
  readonly dst: Endpoint
  /** Sequence number, unsigned 32 bits. */
  readonly sequence: number
  /** Acknowledgment number, unsigned 32 bits; default 0. */
  readonly acknowledgment?: number
  /** `TCP_SYN | TCP_ACK` and so on. */
  readonly flags: number
  /** Window field, 16 bits, unscaled; default 65535. */
  readonly window?: number
  /** Option bytes; padded with zeros to a multiple of four, at most 40. */
  readonly options?: Uint8Array
  readonly payload?: Uint8Array
}

/** An ICMP message of the family of its addresses. */
export interface IcmpPacket extends IpOptions {
  readonly src: Ip
  readonly dst: Ip
  readonly type: number
  readonly code: number
  /** The four bytes behind the checksum, as an unsigned number; default 0. */
  readonly rest?: number
  readonly payload?: Uint8Array
}

/** An echo ("ping") message. */
export interface IcmpEcho extends IpOptions {
  readonly src: Ip
  readonly dst: Ip
  readonly kind: 'request' | 'reply'
  /** 16 bits, names the sender's conversation. */
  readonly identifier: number
  /** 16 bits, counts its messages. */
  readonly sequence: number
  readonly payload?: Uint8Array
}

/** A whole IP packet with a correct header checksum. @throws IP_PACKET for addresses of two families or more than 65,535 bytes */
export function encodeIpPacket(packet: IpPacket): Uint8Array {
  const [bytes, at] = begin(packet.src, packet.dst, packet.protocol, packet.payload.length, packet)
  bytes.set(packet.payload, at)
  return bytes
}

/** A UDP datagram in an IP packet, checksums filled in (RFC 768). @throws IP_PACKET as {@link encodeIpPacket} */
export function encodeUdpPacket(packet: UdpPacket): Uint8Array {
  const length = 8 + packet.payload.length
  const [bytes, at] = begin(packet.src.ip, packet.dst.ip, PROTOCOL_UDP, length, packet)
  const view = new DataView(bytes.buffer)
  view.setUint16(at, packet.src.port)
  view.setUint16(at + 2, packet.dst.port)
  view.setUint16(at + 4, length)
  bytes.set(packet.payload, at + 8)
  // Zero would mean "no checksum": its twin stands for it.
  view.setUint16(at + 6, transportChecksum(bytes, packet.src.ip, PROTOCOL_UDP, at, length) || 0xffff)
  return bytes
}

/** A TCP segment in an IP packet, checksums filled in (RFC 9293). @throws IP_PACKET as {@link encodeIpPacket}, and for too many options */
export function encodeTcpPacket(packet: TcpPacket): Uint8Array {
  const options = packet.options ?? EMPTY
  const payload = packet.payload ?? EMPTY
  const headerLength = 20 + ((options.length + 3) & ~3)
  if (headerLength > 60) throw new MeshwrightError('IP_PACKET', `TCP has room for 40 bytes of options, not ${options.length}`)
  const length = headerLength + payload.length
  const [bytes, at] = begin(packet.src.ip, packet.dst.ip, PROTOCOL_TCP, length, packet)
  const view = new DataView(bytes.buffer)
  view.setUint16(at, packet.src.port)
  view.setUint16(at + 2, packet.dst.port)
  view.setUint32(at + 4, packet.sequence)
  view.setUint32(at + 8, packet.acknowledgment ?? 0)
  view.setUint8(at + 12, (headerLength / 4) << 4)
  view.setUint8(at + 13, packet.flags)
  view.setUint16(at + 14, packet.window ?? 65_535)
  bytes.set(options, at + 20)
  bytes.set(payload, at + headerLength)
  view.setUint16(at + 16, transportChecksum(bytes, packet.src.ip, PROTOCOL_TCP, at, length))
  return bytes
}

/** An ICMP (RFC 792) or ICMPv6 (RFC 4443) message in an IP packet, checksums filled in. @throws IP_PACKET as {@link encodeIpPacket} */
export function encodeIcmpPacket(packet: IcmpPacket): Uint8Array {
  const payload = packet.payload ?? EMPTY
  const length = 8 + payload.length
  const protocol = packet.src.family === 4 ? PROTOCOL_ICMPV4 : PROTOCOL_ICMPV6
  const [bytes, at] = begin(packet.src, packet.dst, protocol, length, packet)
  const view = new DataView(bytes.buffer)
  view.setUint8(at, packet.type)
  view.setUint8(at + 1, packet.code)
  view.setUint32(at + 4, packet.rest ?? 0)
  bytes.set(payload, at + 8)
  view.setUint16(at + 2, packet.src.family === 4 ? checksum(bytes, at, length) : transportChecksum(bytes, packet.src, protocol, at, length))
  return bytes
}

/** An echo request or reply of the addresses' family. @throws IP_PACKET as {@link encodeIpPacket} */
export function encodeIcmpEcho(echo: IcmpEcho): Uint8Array {
  const request = echo.kind === 'request'
  const type = echo.src.family === 4 ? (request ? ICMPV4_ECHO_REQUEST : ICMPV4_ECHO_REPLY) : request ? ICMPV6_ECHO_REQUEST : ICMPV6_ECHO_REPLY
  return encodeIcmpPacket({ ...echo, type, code: 0, rest: (((echo.identifier & 0xffff) << 16) | (echo.sequence & 0xffff)) >>> 0 })
}

/** Writes the IP header of a fresh packet; gives the packet and where its payload begins. */
function begin(src: Ip, dst: Ip, protocol: number, payloadLength: number, options: IpOptions): [Uint8Array, number] {
  if (src.family !== dst.family) throw new MeshwrightError('IP_PACKET', 'source and destination are of two families')
  const headerLength = src.family === 4 ? IPV4_HEADER_BYTES : IPV6_HEADER_BYTES
  const total = headerLength + payloadLength
  if ((src.family === 4 ? total : payloadLength) > MAX_PACKET_BYTES) throw new MeshwrightError('IP_PACKET', `${total} bytes do not fit one IP packet`)
  const bytes = new Uint8Array(total)
  const view = new DataView(bytes.buffer)
  const trafficClass = (options.trafficClass ?? 0) & 255
  if (src.family === 4) {
    view.setUint8(0, 0x45)
    view.setUint8(1, trafficClass)
    view.setUint16(2, total)
    view.setUint16(4, options.id ?? 0)
    view.setUint16(6, options.dontFragment === false ? 0 : 0x4000)
    view.setUint8(8, options.hopLimit ?? 64)
    view.setUint8(9, protocol)
    bytes.set(src.bytes, 12)
    bytes.set(dst.bytes, 16)
    view.setUint16(10, checksum(bytes, 0, IPV4_HEADER_BYTES))
  } else {
    view.setUint32(0, ((6 << 28) | (trafficClass << 20)) >>> 0)
    view.setUint16(4, payloadLength)
    view.setUint8(6, protocol)
    view.setUint8(7, options.hopLimit ?? 64)
    bytes.set(src.bytes, 8)
    bytes.set(dst.bytes, 24)
  }
  return [bytes, headerLength]
}

function transportChecksum(bytes: Uint8Array, src: Ip, protocol: number, at: number, length: number): number {
  const srcOffset = src.family === 4 ? 12 : 8
  const pseudo = pseudoHeaderSum(src.family, bytes, srcOffset, srcOffset + src.bytes.length, protocol, length)
  return finishChecksum(addToChecksum(bytes, at, length, pseudo))
}
