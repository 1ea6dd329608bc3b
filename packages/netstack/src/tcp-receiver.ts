import { after, type Instant } from '@meshwright/core'

const FIRST_CAPACITY_BYTES = 131_072
/** The most pieces kept out of order: each costs an object beside its bytes. */
const MAX_STORED_PIECES = 8192
const MAX_STORED_RANGES = 256
/** SACK blocks beside timestamps (RFC 2018 section 3). */
const MAX_SACK_BLOCKS = 3

interface StoredRange {
  start: number
  end: number
  readonly pieces: Uint8Array[]
  /** When it last grew: the newest is reported first. */
  stamp: number
}

/** Takes bytes of the stream in order; `owned` bytes may be kept, others must be copied. */
export type Deliver = (bytes: Uint8Array, owned: boolean) => void

/**
 * The receiving half of a connection: what has come, what is missing, and how much more may come. Positions count from the peer's initial
 * sequence number (SYN is 0, the first byte 1) and never wrap.
 */
export class TcpReceiver {
  /** Next position expected. */
  nxt = 1
  /** Right edge of the window as advertised; it never moves back. */
  edge = 1
  /** What the window is cut to on the wire. */
  windowShift = 0
  /** True once FIN and everything before it has come. */
  finished = false
  #finAt = -1
  /** The position that the last acknowledgment named. */
  #toldAt = -1
  #capacity: number
  readonly #maximum: number
  #unconsumed = 0
  #ranges: StoredRange[] = []
  #stored = 0
  #stamp = 0
  #duplicateStart = 0
  #duplicateEnd = 0
  // Growth of the window with what the application takes in a round trip.
  #measureDue: Instant | undefined
  #measured = 0

  constructor(maximum: number) {
    this.#maximum = maximum
    this.#capacity = Math.min(FIRST_CAPACITY_BYTES, maximum)
  }

  /** Delivered and not consumed, in bytes. */
  get unconsumed(): number {
    return this.#unconsumed
  }

  /** True when something came out of order: acknowledgments must go at once. */
  get hasHoles(): boolean {
    return this.#ranges.length > 0
  }

  /** Bytes the window could be now. */
  get room(): number {
    return Math.max(0, this.#capacity - this.#unconsumed)
  }

  /** True when the window may be opened by enough to tell the peer at once (RFC 9293 section 3.8.6.2.2). */
  windowOpened(segmentSize: number): boolean {
    if (this.#windowHolds) return false
    const gain = this.nxt + this.room - this.edge
    return gain >= Math.min(2 * segmentSize, this.#capacity / 2)
  }

  /**
   * Behind a hole the window stays as it was told while plenty of it is left: an acknowledgment with another window is no duplicate (RFC 5681
   * section 2), and senders that count duplicates (gVisor, whatever has no SACK) would wait for a timeout instead of repairing the loss.
   */
  get #windowHolds(): boolean {
    const last = this.#ranges[this.#ranges.length - 1]
    return last !== undefined && this.nxt === this.#toldAt && (this.edge - last.end) * 4 >= this.#capacity
  }

  /** The window field for an acknowledgment that leaves now; moves the edge. */
  advertise(segmentSize: number, scaled: boolean): number {
    const shift = scaled ? this.windowShift : 0
    const unit = 2 ** shift
    if (this.#windowHolds) return Math.min(Math.floor((this.edge - this.nxt) / unit), 0xffff)
    this.#toldAt = this.nxt
    // A window below a segment is offered as none, unless it already was larger: silly windows help nobody.
    const room = this.room
    let edge = this.nxt + (room < Math.min(segmentSize, this.#capacity / 2) ? 0 : room)
    if (edge < this.edge) edge = this.edge
    const field = Math.min(Math.floor((edge - this.nxt) / unit), 0xffff)
    this.edge = Math.max(this.edge, this.nxt + field * unit)
    return field
  }

  /** The application is done with `bytes` of what it got. */
  consumed(now: Instant, bytes: number, rtt: number): void {
    this.#unconsumed = Math.max(0, this.#unconsumed - bytes)
    this.#measured += bytes
    if (this.#measureDue === undefined) {
      this.#measureDue = after(now, Math.max(rtt, 1))
      this.#measured = 0
    } else if (now >= this.#measureDue) {
      // Twice what a round trip brought lets the sender double, as its slow start does.
      if (this.#measured * 2 > this.#capacity)
        this.#capacity = Math.min(this.#maximum, Math.max(this.#capacity, Math.ceil(this.#measured * 2.5)))
      this.#measureDue = after(now, Math.max(rtt, 1))
      this.#measured = 0
    }
  }

  /**
   * Takes payload at `start`; what fits and is new is delivered in order or kept.
   * @returns `in-order` when the stream went on without a hole, `filled` when it went on into stored bytes, `stored` when bytes wait
   * behind a hole, `duplicate` when nothing was new, `refused` when nothing fits
   */
  accept(start: number, payload: Uint8Array, fin: boolean, deliver: Deliver): 'in-order' | 'filled' | 'stored' | 'duplicate' | 'refused' {
    let from = start
    let bytes = payload
    if (fin && this.#finAt < 0 && start + payload.length >= this.nxt && start + payload.length <= this.edge)
      this.#finAt = start + payload.length
    if (from < this.nxt) {
      const end = Math.min(from + bytes.length, this.nxt)
      this.#noteDuplicate(from, end)
      bytes = bytes.subarray(end - from)
      from = end
    }
    const limit = this.#finAt >= 0 ? Math.min(this.edge, this.#finAt) : this.edge
    if (from + bytes.length > limit) bytes = bytes.subarray(0, Math.max(0, limit - from))
    if (bytes.length === 0) {
      this.#takeFin()
      return this.finished ? 'in-order' : payload.length === 0 ? (fin ? 'stored' : 'in-order') : start < this.nxt ? 'duplicate' : 'refused'
    }
    if (from > this.nxt) return this.#store(from, bytes)
    this.nxt = from + bytes.length
    this.#unconsumed += bytes.length
    deliver(bytes, false)
    const filled = this.#ranges.length > 0 && this.#drainStored(deliver)
    this.#takeFin()
    return filled ? 'filled' : 'in-order'
  }

  /** SACK blocks for the next acknowledgment as positions: a duplicate first (RFC 2883), then the newest ranges. */
  sackEdges(): number[] {
    const edges: number[] = []
    if (this.#duplicateEnd > this.#duplicateStart) {
      edges.push(this.#duplicateStart, this.#duplicateEnd)
      this.#duplicateEnd = this.#duplicateStart
    }
    if (this.#ranges.length === 0) return edges
    const newest = this.#ranges.length === 1 ? this.#ranges : [...this.#ranges].sort((a, b) => b.stamp - a.stamp)
    for (let i = 0; i < newest.length && edges.length < MAX_SACK_BLOCKS * 2; i += 1) {
      const range = newest[i]
      if (range !== undefined) edges.push(range.start, range.end)
    }
    return edges
  }

  /** True when a duplicate waits to be reported. */
  get hasDuplicate(): boolean {
    return this.#duplicateEnd > this.#duplicateStart
  }

  /** Forgets stored bytes: the connection is over. */
  clear(): void {
    this.#ranges = []
    this.#stored = 0
  }

  #noteDuplicate(start: number, end: number): void {
    if (end <= start) return
    this.#duplicateStart = start
    this.#duplicateEnd = end
  }

  #takeFin(): void {
    if (this.#finAt < 0 || this.nxt !== this.#finAt || this.finished) return
    this.finished = true
    this.nxt += 1
    this.edge = Math.max(this.edge, this.nxt)
    this.#ranges = []
  }

  #store(start: number, payload: Uint8Array): 'stored' | 'duplicate' | 'refused' {
    this.#stamp += 1
    let from = start
    let bytes = payload
    let at = this.#ranges.length
    while (at > 0 && (this.#ranges[at - 1]?.start ?? 0) > from) at -= 1
    const before = this.#ranges[at - 1]
    if (before !== undefined && before.end > from) {
      const covered = Math.min(before.end, from + bytes.length) - from
      this.#noteDuplicate(from, from + covered)
      before.stamp = this.#stamp
      bytes = bytes.subarray(covered)
      from += covered
      if (bytes.length === 0) return 'duplicate'
    }
    const end = from + bytes.length
    // Whatever the piece overlaps behind its start is replaced: ranges wholly inside go, the next one cuts the piece's end.
    let next = this.#ranges[at]
    while (next !== undefined && next.end <= end) {
      this.#stored -= next.pieces.length
      this.#ranges.splice(at, 1)
      next = this.#ranges[at]
    }
    if (next !== undefined && next.start < end) bytes = bytes.subarray(0, next.start - from)
    if (this.#stored >= MAX_STORED_PIECES) return 'refused'
    const joinsBefore = before !== undefined && before.end === from
    const joined = next !== undefined && next.start === from + bytes.length ? next : undefined
    if (!joinsBefore && joined === undefined && this.#ranges.length >= MAX_STORED_RANGES) return 'refused'
    const kept = bytes.slice()
    this.#stored += 1
    if (joinsBefore) {
      before.pieces.push(kept)
      before.end += kept.length
      before.stamp = this.#stamp
      if (joined !== undefined) {
        for (const piece of joined.pieces) before.pieces.push(piece)
        before.end = joined.end
        this.#ranges.splice(at, 1)
      }
    } else if (joined !== undefined) {
      joined.pieces.unshift(kept)
      joined.start = from
      joined.stamp = this.#stamp
    } else {
      this.#ranges.splice(at, 0, { start: from, end: from + kept.length, pieces: [kept], stamp: this.#stamp })
    }
    return 'stored'
  }

  #drainStored(deliver: Deliver): boolean {
    let filled = false
    for (let range = this.#ranges[0]; range !== undefined && range.start <= this.nxt; range = this.#ranges[0]) {
      this.#ranges.shift()
      this.#stored -= range.pieces.length
      let at = range.start
      for (const piece of range.pieces) {
        const skip = this.nxt - at
        at += piece.length
        if (skip >= piece.length) continue
        const fresh = skip > 0 ? piece.subarray(skip) : piece
        this.nxt += fresh.length
        this.#unconsumed += fresh.length
        filled = true
        deliver(fresh, true)
      }
    }
    return filled
  }
}
