import { PROTOCOL_TCP, PROTOCOL_UDP, TCP_CWR, TCP_FIN, TCP_PSH } from '@meshwright/ip'
import type { Sums } from './sum-module.ts'
import { VNET_GSO_TCPV4, VNET_GSO_TCPV6, VNET_GSO_UDP, type VnetHeader } from './vnet-header.ts'

const TCP_MIN_HEADER_BYTES = 20
const UDP_HEADER_BYTES = 8
/** Of the longest IPv4 or TCP header. */
const MAX_HEADER_BYTES = 60
/** IPv6 with extension headers, and TCP: more than any real packet has. */
const MAX_HEADERS_BYTES = 256
/** On the last segment only. */
const LAST_FLAGS = TCP_FIN | TCP_PSH

/** The memory that rows lie in, and who sums its bytes. */
export interface RowMemory {
  readonly bytes: Uint8Array
  readonly view: DataView
  readonly sums: Sums
}

/** Two bytes the other way round: a number of the wire as sums of the machine's byte order have it. */
export function swap16(value: number): number {
  return ((value & 255) << 8) | ((value >> 8) & 255)
}

/** Folds a sum of some 16-bit words to 16 bits. */
export function fold16(sum: number): number {
  const once = (sum & 0xffff) + (sum >>> 16)
  return (once & 0xffff) + (once >>> 16)
}

/**
 * Completes the checksum of one packet that the kernel left to the device: the field holds the sum of the pseudo header already.
 * `false`, and nothing changed, when the header points out of the packet.
 */
export function completeChecksum({ view, sums }: RowMemory, at: number, length: number, start: number, offset: number): boolean {
  if (start >= length || start + offset + 2 > length) return false
  const checksum = ~sums.sum(at + start, length - start) & 0xffff
  view.setUint16(at + start + offset, checksum === 0 ? 0xffff : checksum, true)
  return true
}

/**
 * Cuts a row of TCP or UDP, as the kernel hands it over in one piece, into the packets that it stands for (what a network card does:
 * net/ipv4/tcp_offload.c and udp_offload.c of Linux): each gets the headers, its own lengths, IPv4 identification, TCP sequence number
 * and checksums; CWR stays on the first, FIN and PSH on the last.
 *
 * `look` checks a row and changes nothing, `prepare` makes it ready where it lies; `plan` does both. Then `cut` writes as many of its packets
 * at a time as there is room for.
 */
export class RowCutter {
  /** How many packets the row is. */
  segments = 0
  /** Length of all packets but the last. */
  packetBytes = 0
  /** Length of the last one. */
  lastPacketBytes = 0
  readonly #memory: RowMemory
  #at = 0
  #headers = 0
  #transport = 0
  #isIpv4 = false
  #isTcp = false
  #payload = 0
  #id = 0
  #sequence = 0
  #flags = 0
  /** Sums of what is the same in all packets. */
  #ipSum = 0
  #transportSum = 0

  constructor(memory: RowMemory) {
    this.#memory = memory
  }

  /** Looks at the row of `length` bytes at `at` and makes it ready; `false`, and nothing changed, when it is none that can be cut. */
  plan(at: number, length: number, header: VnetHeader): boolean {
    if (!this.look(at, length, header)) return false
    this.prepare(at)
    return true
  }

  /** Whether the row of `length` bytes at `at` can be cut: lengths that contradict each other cannot, above all. */
  look(at: number, length: number, header: VnetHeader): boolean {
    const { view } = this.#memory
    this.segments = 0
    const isTcp = header.kind === VNET_GSO_TCPV4 || header.kind === VNET_GSO_TCPV6
    if ((!isTcp && header.kind !== VNET_GSO_UDP) || header.segmentBytes === 0 || length < 28) return false
    const version = view.getUint8(at) >> 4
    const isIpv4 = version === 4
    if ((isIpv4 && header.kind === VNET_GSO_TCPV6) || (version !== 6 && !isIpv4) || (!isIpv4 && header.kind === VNET_GSO_TCPV4)) return false
    const transport = isIpv4 ? (view.getUint8(at) & 15) * 4 : header.checksumStart
    if (transport < (isIpv4 ? 20 : 40) || transport + (isTcp ? TCP_MIN_HEADER_BYTES : UDP_HEADER_BYTES) > length) return false
    if (isIpv4 && view.getUint8(at + 9) !== (isTcp ? PROTOCOL_TCP : PROTOCOL_UDP)) return false
    const transportHeader = isTcp ? (view.getUint8(at + transport + 12) >> 4) * 4 : UDP_HEADER_BYTES
    if (transportHeader < (isTcp ? TCP_MIN_HEADER_BYTES : UDP_HEADER_BYTES) || transportHeader > MAX_HEADER_BYTES) return false
    const headers = transport + transportHeader
    if (headers >= length || headers > MAX_HEADERS_BYTES) return false
    this.#headers = headers
    this.#transport = transport
    this.#isIpv4 = isIpv4
    this.#isTcp = isTcp
    this.#payload = header.segmentBytes
    this.segments = Math.ceil((length - headers) / header.segmentBytes)
    this.packetBytes = this.segments === 1 ? length : headers + header.segmentBytes
    this.lastPacketBytes = length - (this.segments - 1) * header.segmentBytes
    return true
  }

  /** Makes the row that was looked at last ready to be cut, where it is now. */
  prepare(at: number): void {
    this.#at = at
    this.#prepareSums()
  }

  /** Writes the packets `from` to `to` (not included), `stride` bytes apart, the first one at `target`. Up to 15 bytes behind each are overwritten. */
  cut(from: number, to: number, target: number, stride: number): void {
    const { view, sums } = this.#memory
    const [at, headers, payload, last] = [this.#at, this.#headers, this.#payload, this.segments - 1]
    const transport = this.#transport
    for (let i = from, place = target; i < to; i += 1, place += stride) {
      const length = i === last ? this.lastPacketBytes : this.packetBytes
      const transportBytes = length - transport
      sums.copySum(place, at, headers)
      let sum = sums.copySum(place + headers, at + headers + i * payload, length - headers) + this.#transportSum + swap16(transportBytes)
      if (this.#isIpv4) {
        const id = (this.#id + i) & 0xffff
        view.setUint16(place + 2, length)
        view.setUint16(place + 4, id)
        view.setUint16(place + 10, ~fold16(this.#ipSum + swap16(length) + swap16(id)) & 0xffff, true)
      } else {
        view.setUint16(place + 4, length - 40)
      }
      const header = place + transport
      if (this.#isTcp) {
        const sequence = (this.#sequence + i * payload) >>> 0
        let flags = this.#flags
        if (i > 0) flags &= ~TCP_CWR
        if (i < last) flags &= ~LAST_FLAGS
        view.setUint32(header + 4, sequence)
        view.setUint8(header + 13, flags)
        sum += swap16(sequence >>> 16) + swap16(sequence & 0xffff) + (flags << 8)
        view.setUint16(header + 16, ~fold16(sum) & 0xffff, true)
      } else {
        view.setUint16(header + 4, transportBytes)
        const checksum = ~fold16(sum + swap16(transportBytes)) & 0xffff
        view.setUint16(header + 6, checksum === 0 ? 0xffff : checksum, true)
      }
    }
  }

  // What changes from packet to packet counts as zero.
  #prepareSums(): void {
    const { view, sums } = this.#memory
    const at = this.#at
    const header = at + this.#transport
    if (this.#isIpv4) {
      this.#id = view.getUint16(at + 4)
      view.setUint16(at + 2, 0)
      view.setUint32(at + 4, view.getUint32(at + 4) & 0xffff)
      view.setUint16(at + 10, 0)
      this.#ipSum = sums.sum(at, this.#transport)
    }
    const addresses = this.#isIpv4 ? sums.sum(at + 12, 8) : sums.sum(at + 8, 32)
    if (this.#isTcp) {
      this.#sequence = view.getUint32(header + 4)
      this.#flags = view.getUint8(header + 13)
      view.setUint32(header + 4, 0)
      view.setUint8(header + 13, 0)
      view.setUint16(header + 16, 0)
    } else {
      view.setUint16(header + 4, 0)
      view.setUint16(header + 6, 0)
    }
    this.#transportSum = addresses + swap16(this.#isTcp ? PROTOCOL_TCP : PROTOCOL_UDP) + sums.sum(header, this.#headers - this.#transport)
  }
}
