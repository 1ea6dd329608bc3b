import { addWords, complementSum, foldSum } from './checksum.ts'

export const PROTOCOL_ICMP = 1
export const PROTOCOL_TCP = 6
export const PROTOCOL_UDP = 17
export const PROTOCOL_ICMPV6 = 58

const IPV6_HOP_BY_HOP = 0
const IPV6_ROUTING = 43
const IPV6_FRAGMENT = 44
const IPV6_DESTINATION_OPTIONS = 60
const MAX_EXTENSION_HEADERS = 8
const HOP_LIMIT = 64
const MORE_FRAGMENTS_V4 = 0x2000
const DONT_FRAGMENT = 0x4000

/** Where the parts of one IP packet stand inside its bytes: offsets only, nothing is copied. Reused from packet to packet. */
export class IpPacket {
  bytes: Uint8Array = new Uint8Array(0)
  view: DataView = new DataView(this.bytes.buffer)
  family: 4 | 6 = 4
  /** Offset of the source address. */
  sourceAt = 0
  /** Offset of the destination address. */
  destinationAt = 0
  /** 4 or 16. */
  addressLength = 4
  /** Protocol of the payload, behind all IPv6 extension headers. */
  protocol = 0
  /** Offset of the payload (of the fragment's part of it). */
  payloadAt = 0
  /** Offset behind the last byte that the IP header claims. */
  end = 0
  /** True when it is a part of a datagram. */
  fragment = false
  fragmentOffset = 0
  moreFragments = false
  fragmentId = 0

  source(): Uint8Array {
    return this.bytes.subarray(this.sourceAt, this.sourceAt + this.addressLength)
  }

  destination(): Uint8Array {
    return this.bytes.subarray(this.destinationAt, this.destinationAt + this.addressLength)
  }

  payload(): Uint8Array {
    return this.bytes.subarray(this.payloadAt, this.end)
  }

  /** Sum of the pseudo-header of the payload. */
  pseudoSum(): number {
    const sum = addWords(this.protocol, this.view, this.sourceAt, this.sourceAt + this.addressLength)
    return addWords(sum + (this.end - this.payloadAt), this.view, this.destinationAt, this.destinationAt + this.addressLength)
  }
}

/** Reads the IP headers of a packet into `into` (RFC 791, RFC 8200); false when they are broken, cut off or their checksum is wrong. */
export function decodeIpPacket(bytes: Uint8Array, into: IpPacket): boolean {
  if (bytes.length < 20) return false
  into.bytes = bytes
  into.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  into.fragment = false
  into.fragmentOffset = 0
  into.moreFragments = false
  into.fragmentId = 0
  const version = into.view.getUint8(0) >> 4
  return version === 4 ? decodeIpv4(into) : version === 6 ? decodeIpv6(into) : false
}

function decodeIpv4(packet: IpPacket): boolean {
  const { view } = packet
  const headerLength = (view.getUint8(0) & 15) * 4
  const total = view.getUint16(2)
  if (headerLength < 20 || total < headerLength || total > packet.bytes.length) return false
  if (foldSum(addWords(0, view, 0, headerLength)) !== 0xffff) return false
  const flags = view.getUint16(6)
  packet.family = 4
  packet.addressLength = 4
  packet.sourceAt = 12
  packet.destinationAt = 16
  packet.protocol = view.getUint8(9)
  packet.payloadAt = headerLength
  packet.end = total
  packet.fragmentOffset = (flags & 0x1fff) * 8
  packet.moreFragments = (flags & MORE_FRAGMENTS_V4) !== 0
  packet.fragment = packet.moreFragments || packet.fragmentOffset > 0
  packet.fragmentId = view.getUint16(4)
  return true
}

function decodeIpv6(packet: IpPacket): boolean {
  const { view } = packet
  if (packet.bytes.length < 40) return false
  const end = 40 + view.getUint16(4)
  if (end > packet.bytes.length) return false
  packet.family = 6
  packet.addressLength = 16
  packet.sourceAt = 8
  packet.destinationAt = 24
  packet.end = end
  let next = view.getUint8(6)
  let at = 40
  for (let headers = 0; headers <= MAX_EXTENSION_HEADERS; headers += 1) {
    if (next === IPV6_HOP_BY_HOP || next === IPV6_ROUTING || next === IPV6_DESTINATION_OPTIONS) {
      if (at + 8 > end) return false
      // A routing header with segments left asks us to forward: this is a host.
      if (next === IPV6_ROUTING && view.getUint8(at + 3) !== 0) return false
      const length = (view.getUint8(at + 1) + 1) * 8
      next = view.getUint8(at)
      at += length
      if (at > end) return false
      continue
    }
    if (next === IPV6_FRAGMENT && !packet.fragment) {
      if (at + 8 > end) return false
      const word = view.getUint16(at + 2)
      packet.fragmentOffset = word & 0xfff8
      packet.moreFragments = (word & 1) !== 0
      packet.fragmentId = view.getUint32(at + 4)
      // "Atomic fragments" (RFC 6946) are whole packets.
      packet.fragment = packet.moreFragments || packet.fragmentOffset > 0
      next = view.getUint8(at)
      at += 8
      if (!packet.fragment) continue
    }
    packet.protocol = next
    packet.payloadAt = at
    return true
  }
  return false
}

const SLAB_BYTES = 65_536
/** Slabs that are kept to be written again. */
const MAX_KEPT_SLABS = 8

/**
 * Builds outgoing packets one behind the other in slabs of 64 KiB, so that a packet costs no allocation of its own. A packet's memory is
 * not written again once it has been finished, unless whoever got it says so by `recycle`: till then it is theirs.
 */
export class PacketBuilder {
  memory: Uint8Array = new Uint8Array(SLAB_BYTES)
  view: DataView = new DataView(this.memory.buffer)
  #start = 0
  #end = 0
  #fragmentId: number
  /** Who never recycles keeps nothing. */
  #recycles = false
  readonly #written: Uint8Array[] = []
  readonly #free: Uint8Array[] = []

  /** @param fragmentId first identification of packets that may be fragmented */
  constructor(fragmentId: number) {
    this.#fragmentId = fragmentId >>> 0
  }

  /** Writes the IP header of an unfragmented packet; gives the offset in `memory` at which `payloadLength` bytes are now to be written. */
  begin(source: Uint8Array, destination: Uint8Array, protocol: number, payloadLength: number): number {
    const family = source.length === 4 ? 4 : 6
    const headerLength = family === 4 ? 20 : 40
    const start = this.#take(headerLength + payloadLength)
    if (family === 4) this.#ipv4Header(start, source, destination, protocol, payloadLength, DONT_FRAGMENT, 0)
    else this.#ipv6Header(start, source, destination, protocol, payloadLength)
    return start + headerLength
  }

  /** The packet that was begun last. */
  finish(): Uint8Array {
    return this.memory.subarray(this.#start, this.#end)
  }

  /** A whole packet of a payload whose checksum is already right. */
  packet(source: Uint8Array, destination: Uint8Array, protocol: number, payload: Uint8Array): Uint8Array {
    const at = this.begin(source, destination, protocol, payload.length)
    this.memory.set(payload, at)
    return this.finish()
  }

  /** As {@link packet}, cut into fragments where it exceeds the MTU (RFC 791 section 3.2, RFC 8200 section 4.5). */
  packets(source: Uint8Array, destination: Uint8Array, protocol: number, payload: Uint8Array, mtu: number): Uint8Array[] {
    const ipv4 = source.length === 4
    if (payload.length + (ipv4 ? 20 : 40) <= mtu) return [this.packet(source, destination, protocol, payload)]
    this.#fragmentId = (this.#fragmentId + 1) >>> 0
    const part = (mtu - (ipv4 ? 20 : 48)) & ~7
    const packets: Uint8Array[] = []
    for (let offset = 0; offset < payload.length; offset += part) {
      const piece = payload.subarray(offset, offset + part)
      const more = offset + part < payload.length
      const start = this.#take(piece.length + (ipv4 ? 20 : 48))
      if (ipv4) {
        this.#ipv4Header(
          start,
          source,
          destination,
          protocol,
          piece.length,
          (more ? MORE_FRAGMENTS_V4 : 0) | (offset >> 3),
          this.#fragmentId & 0xffff,
        )
        this.memory.set(piece, start + 20)
      } else {
        this.#ipv6Header(start, source, destination, IPV6_FRAGMENT, piece.length + 8)
        this.view.setUint16(start + 40, protocol << 8)
        this.view.setUint16(start + 42, offset | (more ? 1 : 0))
        this.view.setUint32(start + 44, this.#fragmentId)
        this.memory.set(piece, start + 48)
      }
      packets.push(this.finish())
    }
    return packets
  }

  /** All packets so far have been read: their memory is used again. */
  recycle(): void {
    for (const slab of this.#written.splice(0)) if (this.#free.length < MAX_KEPT_SLABS) this.#free.push(slab)
    this.#end = 0
    this.#recycles = true
  }

  #take(length: number): number {
    let start = (this.#end + 3) & ~3
    if (start + length > this.memory.length) {
      if (this.#recycles && this.memory.length === SLAB_BYTES && this.#written.length < MAX_KEPT_SLABS) this.#written.push(this.memory)
      this.memory = (length <= SLAB_BYTES ? this.#free.pop() : undefined) ?? new Uint8Array(Math.max(SLAB_BYTES, length))
      this.view = new DataView(this.memory.buffer)
      start = 0
    }
    this.#start = start
    this.#end = start + length
    return start
  }

  #ipv4Header(
    at: number,
    source: Uint8Array,
    destination: Uint8Array,
    protocol: number,
    payloadLength: number,
    fragmentBits: number,
    id: number,
  ): void {
    const { view } = this
    view.setUint16(at, 0x4500)
    view.setUint16(at + 2, 20 + payloadLength)
    view.setUint16(at + 4, id)
    view.setUint16(at + 6, fragmentBits)
    view.setUint16(at + 8, (HOP_LIMIT << 8) | protocol)
    view.setUint16(at + 10, 0)
    this.memory.set(source, at + 12)
    this.memory.set(destination, at + 16)
    view.setUint16(at + 10, complementSum(addWords(0, view, at, at + 20)))
  }

  #ipv6Header(at: number, source: Uint8Array, destination: Uint8Array, protocol: number, payloadLength: number): void {
    const { view } = this
    view.setUint32(at, 0x6000_0000)
    view.setUint16(at + 4, payloadLength)
    view.setUint16(at + 6, (protocol << 8) | HOP_LIMIT)
    this.memory.set(source, at + 8)
    this.memory.set(destination, at + 24)
  }
}
