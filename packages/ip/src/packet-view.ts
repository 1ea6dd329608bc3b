import type { PacketBatch } from '@meshwright/core'
import { Ip, type IpFamily } from './address.ts'
import { addToChecksum, finishChecksum, pseudoHeaderSum } from './checksum.ts'
import type { Endpoint } from './endpoint.ts'
import { ipv4ToNumber } from './ip-set.ts'
import {
  formatProtocol,
  PROTOCOL_HOP_BY_HOP,
  PROTOCOL_ICMPV4,
  PROTOCOL_ICMPV6,
  PROTOCOL_IGMP,
  PROTOCOL_IPV6_FRAGMENT,
  PROTOCOL_RESERVED,
  PROTOCOL_SCTP,
  PROTOCOL_TCP,
  PROTOCOL_TSMP,
  PROTOCOL_UDP,
  TCP_ACK,
  TCP_SYN,
} from './protocol-numbers.ts'

/** Least total length of anything that can be an IP packet. */
export const IPV4_HEADER_BYTES = 20
export const IPV6_HEADER_BYTES = 40
/** A later fragment that begins before this many bytes could rewrite the transport header that was judged (RFC 1858). */
export const MIN_LATER_FRAGMENT_OFFSET_BYTES = 80

const FRAGMENT_HEADER_BYTES = 8
const NOTHING = new Uint8Array(0)

/**
 * One IP packet's headers, read in place: nothing is copied, nothing allocated, so one view serves any number of packets. Point it with
 * {@link PacketView.at}; everything it says is valid until the memory changes or it is pointed elsewhere.
 *
 * What it steps over and what it refuses is the node's security boundary and follows tailscale/tailscale:net/packet/packet.go: IPv4
 * options are skipped; of the IPv6 extension headers only a Fragment header directly after the fixed header is; behind any other one
 * `protocol` is that header's number and there are no ports. A packet that is cut off, whose transport header is not all there, or a
 * later fragment that begins within the first 80 bytes is not decodable.
 */
export class PacketView {
  #memory: Uint8Array = NOTHING
  #offset = 0
  #length = 0
  #valid = false
  #family: IpFamily | 0 = 0
  #totalLength = 0
  #protocol = 0
  #transportOffset = 0
  #payloadOffset = 0
  #srcPort = 0
  #dstPort = 0
  #tcpFlags = 0
  #fragmentOffset = 0
  #moreFragments = false
  #fragmentId = 0

  /**
   * Points the view at `length` bytes of `memory` from `offset`. Never throws: `false` when they are not a decodable IP packet, and
   * then only `memory`, `offset`, `length` and `valid` mean anything.
   */
  at(memory: Uint8Array, offset: number = 0, length: number = memory.length - offset): boolean {
    this.#memory = memory
    this.#offset = offset
    this.#length = length
    this.#family = 0
    this.#totalLength = 0
    this.#protocol = 0
    this.#srcPort = 0
    this.#dstPort = 0
    this.#tcpFlags = 0
    this.#fragmentOffset = 0
    this.#moreFragments = false
    this.#fragmentId = 0
    this.#transportOffset = offset
    this.#payloadOffset = offset
    this.#valid = false
    if (offset < 0 || length < IPV4_HEADER_BYTES || offset + length > memory.length) return false
    const version = memory[offset]! >>> 4
    this.#valid = version === 4 ? this.#decodeIpv4(memory, offset, length) : version === 6 ? this.#decodeIpv6(memory, offset, length) : false
    return this.#valid
  }

  /** Points the view at the source bytes of a slot. */
  atSlot(batch: PacketBatch, slot: number): boolean {
    return this.at(batch.memory, batch.offset[slot] ?? -1, batch.length[slot] ?? 0)
  }

  /** Points the view at the result bytes of a slot. */
  atResult(batch: PacketBatch, slot: number): boolean {
    return this.at(batch.memory, batch.target[slot] ?? -1, batch.targetLength[slot] ?? 0)
  }

  /** True when the bytes are a decodable packet. */
  get valid(): boolean {
    return this.#valid
  }

  /** The memory that the packet lies in; the caller's. */
  get memory(): Uint8Array {
    return this.#memory
  }

  /** Where the packet begins in the memory. */
  get offset(): number {
    return this.#offset
  }

  /** How many bytes the view was given; `totalLength` may be less (padding follows then). */
  get length(): number {
    return this.#length
  }

  /** 4 or 6; 0 when the bytes are neither. */
  get family(): IpFamily | 0 {
    return this.#family
  }

  /** Length of the packet by its own header, in bytes, never beyond `length`. */
  get totalLength(): number {
    return this.#totalLength
  }

  /** Bytes from the packet's start to its transport header. */
  get headerLength(): number {
    return this.#transportOffset - this.#offset
  }

  /** Protocol number of what the IP header (and an IPv6 Fragment header) carries. */
  get protocol(): number {
    return this.#protocol
  }

  /** Position of the source address in the memory: 4 or 16 bytes. */
  get srcOffset(): number {
    return this.#offset + (this.#family === 4 ? 12 : 8)
  }

  /** Position of the destination address in the memory: 4 or 16 bytes. */
  get dstOffset(): number {
    return this.#offset + (this.#family === 4 ? 16 : 24)
  }

  /** Source port of TCP, UDP or SCTP, else 0. */
  get srcPort(): number {
    return this.#srcPort
  }

  /** Destination port of TCP, UDP or SCTP, else 0. */
  get dstPort(): number {
    return this.#dstPort
  }

  /** All eight flags of TCP, else 0. */
  get tcpFlags(): number {
    return this.#tcpFlags
  }

  /** True for a TCP segment that asks for a new connection: SYN without ACK. */
  get isTcpSyn(): boolean {
    return this.#protocol === PROTOCOL_TCP && (this.#tcpFlags & (TCP_SYN | TCP_ACK)) === TCP_SYN && this.#fragmentOffset === 0
  }

  /** True for ICMP of the packet's own family, in an unfragmented packet or first fragment. */
  get isIcmp(): boolean {
    return this.#protocol === (this.#family === 4 ? PROTOCOL_ICMPV4 : PROTOCOL_ICMPV6) && this.#fragmentOffset === 0 && this.#valid
  }

  /** ICMP type, or -1 when it is not ICMP. */
  get icmpType(): number {
    return this.isIcmp ? (this.#memory[this.#transportOffset] ?? -1) : -1
  }

  /** ICMP code, or -1 when it is not ICMP. */
  get icmpCode(): number {
    return this.isIcmp ? (this.#memory[this.#transportOffset + 1] ?? -1) : -1
  }

  /** Where the transport header begins in the memory. */
  get transportOffset(): number {
    return this.#transportOffset
  }

  /** Bytes of transport header and payload that this packet holds. */
  get transportLength(): number {
    return this.#offset + this.#totalLength - this.#transportOffset
  }

  /** Where the payload of TCP, UDP, SCTP or ICMP begins in the memory; for all else where the transport begins. */
  get payloadOffset(): number {
    return this.#payloadOffset
  }

  /** Bytes from `payloadOffset` to the end of the packet. */
  get payloadLength(): number {
    return this.#offset + this.#totalLength - this.#payloadOffset
  }

  /** Where this fragment's bytes belong, in bytes from the start of the transport header; 0 for whole packets. */
  get fragmentOffset(): number {
    return this.#fragmentOffset
  }

  /** True when more fragments of the same packet follow. */
  get moreFragments(): boolean {
    return this.#moreFragments
  }

  /** Identification that all fragments of a packet share: 16 bits in IPv4, 32 in IPv6; 0 in IPv6 without a Fragment header. */
  get fragmentId(): number {
    return this.#fragmentId
  }

  /** True for any part of a packet that was cut into fragments. */
  get isFragment(): boolean {
    return this.#moreFragments || this.#fragmentOffset !== 0
  }

  /** True for every fragment but the first: there is no transport header in it. */
  get isLaterFragment(): boolean {
    return this.#fragmentOffset !== 0
  }

  /** Hops left: TTL of IPv4, Hop Limit of IPv6. */
  get hopLimit(): number {
    return this.#memory[this.#offset + (this.#family === 4 ? 8 : 7)] ?? 0
  }

  /** Source address of an IPv4 packet as an unsigned 32-bit number; 0 otherwise. */
  get srcIpv4(): number {
    return this.#family === 4 ? ipv4ToNumber(this.#memory, this.#offset + 12) : 0
  }

  /** Destination address of an IPv4 packet as an unsigned 32-bit number; 0 otherwise. */
  get dstIpv4(): number {
    return this.#family === 4 ? ipv4ToNumber(this.#memory, this.#offset + 16) : 0
  }

  /** The source address as a value of its own; `undefined` when the packet is not decodable. */
  src(): Ip | undefined {
    return this.#family === 0 ? undefined : Ip.fromBytesAt(this.#memory, this.srcOffset, this.#family)
  }

  /** The destination address as a value of its own; `undefined` when the packet is not decodable. */
  dst(): Ip | undefined {
    return this.#family === 0 ? undefined : Ip.fromBytesAt(this.#memory, this.dstOffset, this.#family)
  }

  /** Source address and port as a value of its own; `undefined` when the packet is not decodable. */
  srcEndpoint(): Endpoint | undefined {
    const ip = this.src()
    return ip && { ip, port: this.#srcPort }
  }

  /** Destination address and port as a value of its own; `undefined` when the packet is not decodable. */
  dstEndpoint(): Endpoint | undefined {
    const ip = this.dst()
    return ip && { ip, port: this.#dstPort }
  }

  /** The whole packet, padding cut off: a view of the memory. */
  packet(): Uint8Array {
    return this.#memory.subarray(this.#offset, this.#offset + (this.#valid ? this.#totalLength : this.#length))
  }

  /** The payload: a view of the memory. */
  payload(): Uint8Array {
    return this.#memory.subarray(this.#payloadOffset, this.#payloadOffset + Math.max(0, this.payloadLength))
  }

  /** True when the IPv4 header checksum is right; IPv6 has none. */
  get headerChecksumOk(): boolean {
    return this.#family !== 4 || finishChecksum(addToChecksum(this.#memory, this.#offset, this.headerLength)) === 0
  }

  /**
   * True when the checksum of TCP, UDP, ICMP or ICMPv6 is right, or is absent as UDP over IPv4 allows (RFC 768). Other protocols have
   * none that we know: true. Only whole packets can be checked: false for fragments.
   */
  get transportChecksumOk(): boolean {
    if (this.#family === 0 || this.isFragment) return false
    const length = this.transportLength
    const field = this.#protocol === PROTOCOL_UDP ? 6 : this.#protocol === PROTOCOL_TCP ? 16 : this.isIcmp ? 2 : -1
    if (field < 0) return true
    const at = this.#transportOffset + field
    if (this.#protocol === PROTOCOL_UDP && this.#memory[at] === 0 && this.#memory[at + 1] === 0) return this.#family === 4
    const pseudo =
      this.#protocol === PROTOCOL_ICMPV4 ? 0 : pseudoHeaderSum(this.#family, this.#memory, this.srcOffset, this.dstOffset, this.#protocol, length)
    return finishChecksum(addToChecksum(this.#memory, this.#transportOffset, length, pseudo)) === 0
  }

  /** For people: `tcp 100.64.0.1:5000 > 100.64.0.2:22 (60 bytes)`. */
  toString(): string {
    const src = this.src()
    const dst = this.dst()
    if (!this.#valid || src === undefined || dst === undefined) return `not an IP packet (${this.#length} bytes)`
    const ports = this.#protocol === PROTOCOL_TCP || this.#protocol === PROTOCOL_UDP || this.#protocol === PROTOCOL_SCTP
    const end = (ip: Ip, port: number): string => (!ports || this.isLaterFragment ? ip.key : ip.family === 4 ? `${ip.key}:${port}` : `[${ip.key}]:${port}`)
    return `${formatProtocol(this.#protocol)} ${end(src, this.#srcPort)} > ${end(dst, this.#dstPort)} (${this.#totalLength} bytes)`
  }

  #decodeIpv4(memory: Uint8Array, offset: number, length: number): boolean {
    const headerLength = (memory[offset]! & 15) << 2
    const totalLength = u16(memory, offset + 2)
    if (headerLength < IPV4_HEADER_BYTES || totalLength > length || headerLength > totalLength) return false
    this.#family = 4
    this.#totalLength = totalLength
    this.#protocol = memory[offset + 9]!
    this.#transportOffset = offset + headerLength
    this.#fragmentId = u16(memory, offset + 4)
    const flags = u16(memory, offset + 6)
    return this.#decodeFragment(memory, (flags & 0x2000) !== 0, (flags & 0x1fff) * 8)
  }

  #decodeIpv6(memory: Uint8Array, offset: number, length: number): boolean {
    if (length < IPV6_HEADER_BYTES) return false
    const totalLength = IPV6_HEADER_BYTES + u16(memory, offset + 4)
    if (totalLength > length) return false
    this.#family = 6
    this.#totalLength = totalLength
    this.#protocol = memory[offset + 6]!
    this.#transportOffset = offset + IPV6_HEADER_BYTES
    if (this.#protocol === PROTOCOL_HOP_BY_HOP) return false
    if (this.#protocol !== PROTOCOL_IPV6_FRAGMENT) return this.#decodeTransport(memory)
    if (totalLength < IPV6_HEADER_BYTES + FRAGMENT_HEADER_BYTES) return false
    const at = this.#transportOffset
    this.#protocol = memory[at]!
    this.#fragmentId = (u16(memory, at + 4) << 16) >>> 0
    this.#fragmentId = (this.#fragmentId | u16(memory, at + 6)) >>> 0
    this.#transportOffset = at + FRAGMENT_HEADER_BYTES
    const flags = u16(memory, at + 2)
    return this.#decodeFragment(memory, (flags & 1) !== 0, flags & 0xfff8)
  }

  #decodeFragment(memory: Uint8Array, more: boolean, fragmentOffset: number): boolean {
    this.#moreFragments = more
    this.#fragmentOffset = fragmentOffset
    this.#payloadOffset = this.#transportOffset
    // Of a later fragment the protocol says nothing: there is no header of it here.
    if (fragmentOffset !== 0) return fragmentOffset >= MIN_LATER_FRAGMENT_OFFSET_BYTES
    if (this.#protocol === PROTOCOL_HOP_BY_HOP || this.#protocol === PROTOCOL_RESERVED) return false
    if (more && this.#protocol === PROTOCOL_TSMP && this.#family === 4) return false
    return this.#decodeTransport(memory)
  }

  /** Reads ports and flags; false when the transport header is not all there. */
  #decodeTransport(memory: Uint8Array): boolean {
    const at = this.#transportOffset
    const available = this.#offset + this.#totalLength - at
    this.#payloadOffset = at
    switch (this.#protocol) {
      case PROTOCOL_TCP: {
        if (available < 20) return false
        this.#srcPort = u16(memory, at)
        this.#dstPort = u16(memory, at + 2)
        this.#tcpFlags = memory[at + 13]!
        // A data offset that lies cannot widen access: ports and flags stand at fixed places. The payload is then empty.
        const headerLength = (memory[at + 12]! >>> 4) * 4
        this.#payloadOffset = at + (headerLength < 20 || headerLength > available ? available : headerLength)
        return true
      }
      case PROTOCOL_UDP:
        if (available < 8) return false
        this.#srcPort = u16(memory, at)
        this.#dstPort = u16(memory, at + 2)
        this.#payloadOffset = at + 8
        return true
      case PROTOCOL_SCTP:
        if (available < 12) return false
        this.#srcPort = u16(memory, at)
        this.#dstPort = u16(memory, at + 2)
        this.#payloadOffset = at + 12
        return true
      case PROTOCOL_ICMPV4:
      case PROTOCOL_ICMPV6:
        if (available < 4) return false
        this.#payloadOffset = at + 4
        return true
      case PROTOCOL_IGMP:
        return available >= 8
      case PROTOCOL_TSMP:
        return available >= 7
      default:
        return this.#protocol !== PROTOCOL_RESERVED
    }
  }
}

/** A new view pointed at the source bytes of a slot; the fast path points one view again and again with {@link PacketView.atSlot}. */
export function packetView(batch: PacketBatch, slot: number): PacketView {
  const view = new PacketView()
  view.atSlot(batch, slot)
  return view
}

/** Reads two bytes that the caller has checked to be there. */
function u16(memory: Uint8Array, at: number): number {
  return (memory[at]! << 8) | memory[at + 1]!
}
