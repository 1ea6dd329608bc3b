import { PROTOCOL_TCP, PROTOCOL_UDP, TCP_ACK, TCP_PSH } from '@meshwright/ip'
import { fold16, type RowMemory, swap16 } from './row-cutter.ts'
import { encodePlainVnetHeader, encodeRowVnetHeader, VNET_GSO_TCPV4, VNET_GSO_TCPV6, VNET_GSO_UDP, VNET_HEADER_BYTES } from './vnet-header.ts'

/** Flows that are joined at the same time. */
export const JOINER_ROWS = 16
/** Room for the longest row, with its header and what a copy may overwrite behind it. */
export const JOINER_ROW_BYTES = 65_664
const MAX_SEGMENTS = 64
const MAX_ROW_BYTES = 65_535
const VALID = 0xffff

/** Takes what is to be written to the TUN device: `length` bytes at `at`, a vnet header first where the device has them. */
export type TunWriter = (at: number, length: number) => void

/** One row that is being put together. */
class Row {
  readonly at: number
  isTcp = false
  isIpv4 = false
  transport = 0
  headers = 0
  /** Payload of all segments but the last. */
  payload = 0
  segments = 0
  length = 0
  nextSequence = 0
  push = false

  constructor(at: number) {
    this.at = at
  }
}

/**
 * Joins packets of one flow that follow each other into rows, which the kernel takes in one piece (as its own generic receive offload
 * does: net/ipv4/tcp_offload.c, udp_offload.c of Linux): TCP segments with payload, continuing sequence numbers and equal headers, and
 * UDP datagrams of equal headers and lengths; the last of a row may be shorter. A packet joins only when its checksum is right. All
 * else is written alone, as it is. Within a flow nothing overtakes anything.
 *
 * Up to {@link JOINER_ROWS} flows at the same time; `flush` ends all rows.
 */
export class RowJoiner {
  /** Rows of more than one packet that were written, and the packets in them. */
  rows = 0
  joinedPackets = 0
  /** Whether TCP and UDP are joined; a kernel that refuses a kind of row has it switched off. */
  joinsTcp: boolean
  joinsUdp: boolean
  readonly #memory: RowMemory
  readonly #write: TunWriter
  readonly #vnet: number
  readonly #all: readonly Row[]
  readonly #open: Row[] = []
  readonly #free: Row[]
  // The packet at hand.
  #isTcp = false
  #isIpv4 = false
  #transport = 0
  #headers = 0
  #total = 0

  /**
   * @param at where `JOINER_ROWS` times `JOINER_ROW_BYTES` are free for rows
   * @param hasVnetHeader whether the device takes vnet headers; without them nothing is joined
   */
  constructor(memory: RowMemory, at: number, hasVnetHeader: boolean, write: TunWriter) {
    this.#memory = memory
    this.#write = write
    this.#vnet = hasVnetHeader ? VNET_HEADER_BYTES : 0
    this.joinsTcp = hasVnetHeader
    this.joinsUdp = hasVnetHeader
    this.#all = Array.from({ length: JOINER_ROWS }, (_, i) => new Row(at + i * JOINER_ROW_BYTES + 16))
    this.#free = [...this.#all].reverse()
  }

  /** Takes the packet at `at`, whole and of the length that its header says; the 16 bytes before it may be overwritten. */
  add(at: number, length: number): void {
    if (!this.#parse(at, length)) return this.#addOther(at, length)
    const row = this.#rowOf(at)
    if (row !== undefined) {
      if (this.#append(row, at)) return
      this.#finish(row)
    }
    if (!this.#isJoinable(at) || !this.#begin(at)) this.#writeAlone(at, length)
  }

  /** Ends all rows, in the order in which they began. */
  flush(): void {
    while (this.#open.length > 0) {
      const [first] = this.#open
      if (first !== undefined) this.#finish(first)
    }
  }

  /** Reads what rows are told apart by; `false` for all that is never part of one, and of no flow that is. */
  #parse(at: number, length: number): boolean {
    const { view } = this.#memory
    const version = view.getUint8(at) >> 4
    if (version === 4) {
      // No options, no fragments.
      if (length < 28 || view.getUint8(at) !== 0x45 || (view.getUint16(at + 6) & 0x3fff) !== 0) return false
      this.#isIpv4 = true
      this.#transport = 20
      this.#isTcp = view.getUint8(at + 9) === PROTOCOL_TCP
      if (!this.#isTcp && view.getUint8(at + 9) !== PROTOCOL_UDP) return false
    } else {
      if (version !== 6 || length < 48) return false
      this.#isIpv4 = false
      this.#transport = 40
      this.#isTcp = view.getUint8(at + 6) === PROTOCOL_TCP
      if (!this.#isTcp && view.getUint8(at + 6) !== PROTOCOL_UDP) return false
    }
    if (this.#isTcp ? !this.joinsTcp : !this.joinsUdp) return false
    const header = at + this.#transport
    if (this.#isTcp && length < this.#transport + 20) return false
    this.#headers = this.#transport + (this.#isTcp ? (view.getUint8(header + 12) >> 4) * 4 : 8)
    this.#total = length
    return !this.#isTcp || this.#headers >= this.#transport + 20
  }

  /** The open row of the packet's flow. */
  #rowOf(at: number): Row | undefined {
    const { view } = this.#memory
    const words = this.#isIpv4 ? 2 : 8
    const addresses = this.#isIpv4 ? 12 : 8
    for (const row of this.#open) {
      if (row.isTcp !== this.#isTcp || row.isIpv4 !== this.#isIpv4) continue
      let same = view.getUint32(row.at + row.transport) === view.getUint32(at + row.transport) // both ports
      for (let i = 0; same && i < words; i += 1) same = view.getUint32(row.at + addresses + 4 * i) === view.getUint32(at + addresses + 4 * i)
      if (same) return row
    }
    return undefined
  }

  /** Whether the packet at hand may begin a row or be part of one, its checksum aside. */
  #isJoinable(at: number): boolean {
    const { view } = this.#memory
    const header = at + this.#transport
    if (this.#headers >= this.#total) return false
    if (this.#isTcp) return (view.getUint8(header + 13) & ~TCP_PSH) === TCP_ACK && view.getUint16(header + 18) === 0
    return view.getUint16(header + 4) === this.#total - this.#transport && view.getUint16(header + 6) !== 0
  }

  #begin(at: number): boolean {
    if (this.#open.length === JOINER_ROWS && this.#open[0] !== undefined) this.#finish(this.#open[0])
    const row = this.#free.pop()
    if (row === undefined) return false
    const { view, sums } = this.#memory
    const [headers, total] = [this.#headers, this.#total]
    sums.copySum(row.at, at, headers)
    if (fold16(sums.copySum(row.at + headers, at + headers, total - headers) + this.#headerSum(at)) !== VALID) {
      this.#free.push(row)
      return false
    }
    row.isTcp = this.#isTcp
    row.isIpv4 = this.#isIpv4
    row.transport = this.#transport
    row.headers = headers
    row.payload = total - headers
    row.segments = 1
    row.length = total
    row.push = false
    if (row.isTcp) {
      const header = at + row.transport
      row.nextSequence = (view.getUint32(header + 4) + row.payload) >>> 0
      row.push = (view.getUint8(header + 13) & TCP_PSH) !== 0
    }
    this.#open.push(row)
    // Nothing can follow a PSH.
    if (row.push) this.#finish(row)
    return true
  }

  /** Joins the packet to the row; `false` when it does not continue it. Then the row is as it was. */
  #append(row: Row, at: number): boolean {
    if (!this.#continues(row, at)) return false
    const { view, sums } = this.#memory
    const payload = this.#total - row.headers
    const sum = sums.copySum(row.at + row.length, at + row.headers, payload) + this.#headerSum(at)
    if (fold16(sum) !== VALID) return false
    row.length += payload
    row.segments += 1
    if (row.isTcp) {
      row.nextSequence = (row.nextSequence + payload) >>> 0
      row.push = (view.getUint8(at + row.transport + 13) & TCP_PSH) !== 0
    }
    if (payload < row.payload || row.push || row.segments === MAX_SEGMENTS || row.length + row.payload > MAX_ROW_BYTES) this.#finish(row)
    return true
  }

  #continues(row: Row, at: number): boolean {
    const { view } = this.#memory
    const payload = this.#total - this.#headers
    if (this.#headers !== row.headers || payload <= 0 || payload > row.payload || row.length + payload > MAX_ROW_BYTES || !this.#isJoinable(at)) return false
    if (row.isIpv4) {
      // Version and class; Don't Fragment; hop limit.
      if (view.getUint16(row.at) !== view.getUint16(at) || view.getUint16(row.at + 6) !== view.getUint16(at + 6) || view.getUint16(row.at + 8) !== view.getUint16(at + 8)) return false
    } else if (view.getUint32(row.at) !== view.getUint32(at) || view.getUint16(row.at + 6) !== view.getUint16(at + 6)) return false
    if (!row.isTcp) return true
    const [own, other] = [row.at + row.transport, at + row.transport]
    if (view.getUint32(other + 4) !== row.nextSequence || view.getUint32(own + 8) !== view.getUint32(other + 8)) return false
    // Length of the header, flags but PSH, window.
    if (((view.getUint32(own + 12) ^ view.getUint32(other + 12)) & ~(TCP_PSH << 16)) !== 0) return false
    for (let option = 20; option < row.headers - row.transport; option += 4) if (view.getUint32(own + option) !== view.getUint32(other + option)) return false
    return true
  }

  /** Sum of the packet's pseudo header and transport header, checksum field included: with that of the payload it must give 0xffff. */
  #headerSum(at: number): number {
    const { sums } = this.#memory
    const transport = this.#transport
    const addresses = this.#isIpv4 ? sums.sum(at + 12, 8) : sums.sum(at + 8, 32)
    return addresses + swap16(this.#isTcp ? PROTOCOL_TCP : PROTOCOL_UDP) + swap16(this.#total - transport) + sums.sum(at + transport, this.#headers - transport)
  }

  /** Writes a row that can grow no more. */
  #finish(row: Row): void {
    const at = this.#open.indexOf(row)
    if (at >= 0) this.#open.splice(at, 1)
    this.#free.push(row)
    if (row.segments === 1) return this.#writeAlone(row.at, row.length)
    const { view, sums } = this.#memory
    const [start, header, length] = [row.at, row.at + row.transport, row.length]
    let addresses: number
    if (row.isIpv4) {
      view.setUint16(start + 2, length)
      view.setUint16(start + 10, 0)
      view.setUint16(start + 10, ~sums.sum(start, 20) & 0xffff, true)
      addresses = sums.sum(start + 12, 8)
    } else {
      view.setUint16(start + 4, length - 40)
      addresses = sums.sum(start + 8, 32)
    }
    const pseudo = fold16(addresses + swap16(row.isTcp ? PROTOCOL_TCP : PROTOCOL_UDP) + swap16(length - row.transport))
    if (row.isTcp) {
      if (row.push) view.setUint8(header + 13, view.getUint8(header + 13) | TCP_PSH)
      view.setUint16(header + 16, pseudo, true)
    } else {
      view.setUint16(header + 4, length - row.transport)
      view.setUint16(header + 6, pseudo, true)
    }
    const kind = row.isTcp ? (row.isIpv4 ? VNET_GSO_TCPV4 : VNET_GSO_TCPV6) : VNET_GSO_UDP
    encodeRowVnetHeader(view, start - VNET_HEADER_BYTES, kind, row.headers, row.payload, row.transport, row.isTcp ? 16 : 6)
    this.rows += 1
    this.joinedPackets += row.segments
    this.#write(start - VNET_HEADER_BYTES, length + VNET_HEADER_BYTES)
  }

  /** What is no TCP or UDP overtakes nothing of its flow; but fragments may be parts of one. */
  #addOther(at: number, length: number): void {
    if (this.#open.length > 0) this.flush()
    this.#writeAlone(at, length)
  }

  #writeAlone(at: number, length: number): void {
    if (this.#vnet > 0) encodePlainVnetHeader(this.#memory.view, at - VNET_HEADER_BYTES)
    this.#write(at - this.#vnet, length + this.#vnet)
  }
}
