import type { Instant, PacketBatch } from '@meshwright/core'
import { PEER_ROW_BYTES, PEER_ROW_MARGIN_BYTES, PEER_ROWS } from './peer-row-size.ts'
import { MAX_UDP_PAYLOAD_BYTES, MAX_UDP_SEGMENTS } from './linux-abi.ts'

const HEADER_BYTES = 16

/** Datagrams for one peer, put one behind the other. */
export class PeerRow {
  readonly at: number
  readonly batch: PacketBatch
  owner: object | undefined
  trafficClass = 0
  /** Bytes from one datagram to the next. */
  stride = 0
  /** Bytes of the datagrams so far. */
  bytes = 0

  constructor(at: number, batch: PacketBatch) {
    this.at = at
    this.batch = batch
  }

  /** Where the next packet is to be written: its datagram's header comes before it. */
  get place(): number {
    return this.at + this.bytes + HEADER_BYTES
  }
}

/** Seals and sends the row's batch. */
export type RowSealer = (now: Instant, row: PeerRow) => void

/**
 * Rows of datagrams for several peers at a time: what the TUN device gives in turns for many becomes one system call for each of them.
 * Within a peer nothing overtakes anything. A row ends when it is full, when a shorter datagram closes it (the kernel cuts a row into
 * pieces of one length of which only the last may be shorter), and when `flush` says so.
 */
export class PeerRows {
  readonly #seal: RowSealer
  readonly #open: PeerRow[] = []
  readonly #free: PeerRow[]
  #most = 0

  /**
   * @param batch makes a batch over the memory
   * @param at where `PEER_ROWS` times `PEER_ROW_BYTES` are free
   */
  constructor(batch: () => PacketBatch, at: number, seal: RowSealer) {
    this.#seal = seal
    this.#free = Array.from({ length: PEER_ROWS }, (_, i) => new PeerRow(at + (PEER_ROWS - 1 - i) * PEER_ROW_BYTES + PEER_ROW_MARGIN_BYTES, batch()))
  }

  /**
   * Where the next packet is best read to: where it belongs if it goes to the same peer as the one before. Behind it there is room for a
   * packet of any length; `undefined` when there is not, since rows of several peers are open.
   */
  get place(): number | undefined {
    if (this.#open.length > 1) return undefined
    return (this.#open[0] ?? this.#free[this.#free.length - 1])?.place
  }

  /**
   * A row for `count` packets whose datagrams are `stride` bytes apart, at most as many as fit an empty row. Write them to `place`, each
   * `stride` behind the one before, add their slots to `batch`, then call `filled`.
   */
  rowFor(now: Instant, owner: object, trafficClass: number, count: number, stride: number): PeerRow {
    let row: PeerRow | undefined
    for (let i = this.#open.length - 1; i >= 0; i -= 1) {
      const each = this.#open[i]
      if (each?.owner !== owner) continue
      row = each
      break
    }
    if (row !== undefined) {
      const fits = row.trafficClass === trafficClass && row.batch.count + count <= MAX_UDP_SEGMENTS && row.bytes + count * stride <= MAX_UDP_PAYLOAD_BYTES
      if (fits && (row.stride === stride || (count === 1 && stride < row.stride))) return row
      this.#finish(now, row)
    } else if (this.#free.length === 0 && this.#open[0] !== undefined) {
      this.#finish(now, this.#open[0])
    }
    row = this.#free.pop()
    if (row === undefined) throw new RangeError('no row is free') // one was finished right before
    row.owner = owner
    row.trafficClass = trafficClass
    row.stride = stride
    this.#open.push(row)
    if (this.#open.length > this.#most) this.#most = this.#open.length
    return row
  }

  /** For how many peers rows were put together at the same time, at most, since this was last asked. */
  takeMost(): number {
    const most = this.#most
    this.#most = this.#open.length
    return most
  }

  /** So many bytes of datagrams were written; a row that can take no more is sent. `isLast`: nothing may follow them. */
  filled(now: Instant, row: PeerRow, bytes: number, isLast: boolean): void {
    row.bytes += bytes
    if (isLast || row.batch.count >= MAX_UDP_SEGMENTS || row.bytes + row.stride > MAX_UDP_PAYLOAD_BYTES) this.#finish(now, row)
  }

  /** Sends what there is, in the order in which rows began. */
  flush(now: Instant): void {
    while (this.#open.length > 0) {
      const [first] = this.#open
      if (first !== undefined) this.#finish(now, first)
    }
  }

  #finish(now: Instant, row: PeerRow): void {
    const at = this.#open.indexOf(row)
    if (at >= 0) this.#open.splice(at, 1)
    if (row.batch.count > 0) this.#seal(now, row)
    row.batch.reset()
    row.owner = undefined
    row.bytes = 0
    this.#free.push(row)
  }
}
