/** A sent piece of the stream that is not acknowledged yet. */
export interface SentPiece {
  start: number
  /** Behind the last position, FIN included. */
  end: number
  /** When it was sent last. */
  sentAt: number
  retransmitted: boolean
  state: 'flying' | 'sacked' | 'lost'
  /** Neighbours in order of sending; only flying pieces are in that list. */
  earlier: SentPiece | undefined
  later: SentPiece | undefined
}

interface Range {
  start: number
  end: number
}

/** What one acknowledgment told. */
export interface Delivery {
  /** Bytes newly known to have arrived. */
  bytes: number
  /** Round trip of a piece sent only once (Karn); -1: none. */
  rtt: number
  /** When the latest of the acknowledged pieces that were sent more than once left last; -1: there is none. */
  repeatedAt: number
  /** True when a SACK block repeated what had already arrived (RFC 2883). */
  duplicate: boolean
}

/** RFC 5681, RFC 8985 section 3.3: reordering below this is not waited for once so much has overtaken. */
const DUPLICATE_THRESHOLD = 3
const REORDER_PERSIST_RECOVERIES = 16
const MAX_REORDER_FACTOR = 8
const MAX_RANGES = 512

/**
 * What is in flight: which pieces arrived (SACK, RFC 2018), and which are lost, by the time of sending (RACK, RFC 8985 section 6.2).
 * Every step costs O(pieces that change): flying pieces stand in a list in order of sending.
 */
export class Scoreboard {
  #pieces: SentPiece[] = []
  #head = 0
  #oldest: SentPiece | undefined
  #newest: SentPiece | undefined
  readonly #lost: SentPiece[] = []
  #lostHead = 0
  #sacked: Range[] = []
  #sackedPieces = 0
  #inFlight = 0
  // RACK.xmit_ts, end_seq, rtt, and the reordering window's factors.
  #rackSentAt = -1
  #rackEnd = -1
  #rackRtt = 0
  #leastRtt = 0
  /** When what is being acknowledged was sent, by the peer's echo. */
  #echoAt: number = Number.POSITIVE_INFINITY
  #furthest = 0
  #reorderingSeen = false
  #reorderFactor = 1
  #reorderPersist = 0

  /** Bytes believed to be on the way. */
  get inFlight(): number {
    return this.#inFlight
  }

  /** True when nothing waits for an acknowledgment. */
  get empty(): boolean {
    return this.#head === this.#pieces.length
  }

  /** The first unacknowledged piece. */
  get first(): SentPiece | undefined {
    return this.#pieces[this.#head]
  }

  /** The last unacknowledged piece. */
  get last(): SentPiece | undefined {
    return this.empty ? undefined : this.#pieces[this.#pieces.length - 1]
  }

  get sackedPieces(): number {
    return this.#sackedPieces
  }

  /** How many pieces wait for an acknowledgment. */
  get size(): number {
    return this.#pieces.length - this.#head
  }

  /** The highest position known to have arrived. */
  get furthest(): number {
    return this.#furthest
  }

  /** A new piece left at the end. */
  sent(now: number, start: number, end: number): void {
    const piece: SentPiece = { start, end, sentAt: now, retransmitted: false, state: 'flying', earlier: undefined, later: undefined }
    this.#pieces.push(piece)
    this.#link(piece)
  }

  /** A piece left again. */
  resent(now: number, piece: SentPiece): void {
    if (piece.state === 'flying') this.#unlink(piece)
    piece.state = 'flying'
    piece.sentAt = now
    piece.retransmitted = true
    this.#link(piece)
  }

  /** The oldest piece that is lost and not sent again. */
  nextLost(): SentPiece | undefined {
    for (; this.#lostHead < this.#lost.length; this.#lostHead += 1) {
      const piece = this.#lost[this.#lostHead]
      // A piece may have been acknowledged while it waited, or be here twice.
      if (piece !== undefined && piece.state === 'lost') return piece
    }
    this.#lost.length = 0
    this.#lostHead = 0
    return undefined
  }

  /** Cuts a piece so that at most `length` bytes of it are in the first part (the path's MTU fell). */
  split(piece: SentPiece, length: number): void {
    const at = this.#indexOf(piece.start)
    if (this.#pieces[at] !== piece || piece.end - piece.start <= length) return
    const rest: SentPiece = { ...piece, start: piece.start + length, earlier: undefined, later: undefined }
    piece.end = rest.start
    this.#pieces.splice(at + 1, 0, rest)
    if (piece.state === 'lost') this.#lost.splice(this.#lostHead + 1, 0, rest)
    else if (piece.state === 'flying') {
      this.#inFlight -= rest.end - rest.start
      this.#link(rest)
    }
  }

  /**
   * Takes an acknowledgment of everything before `una` and of SACK blocks (positions; left and right edges).
   * @param nxt next position to send: blocks beyond it are lies
   * @param echoRtt round trip by timestamps, -1 when unknown
   */
  acknowledge(now: number, una: number, nxt: number, edges: readonly number[], delivery: Delivery, echoRtt: number = -1): void {
    this.#echoAt = echoRtt < 0 ? Number.POSITIVE_INFINITY : Math.floor(now) - echoRtt
    delivery.bytes = 0
    delivery.rtt = -1
    delivery.repeatedAt = -1
    delivery.duplicate = false
    for (let piece = this.first; piece !== undefined && piece.start < una; piece = this.first) {
      if (piece.end > una) {
        this.#trim(piece, una, delivery)
        break
      }
      this.#head += 1
      if (piece.retransmitted) delivery.repeatedAt = Math.max(delivery.repeatedAt, piece.sentAt)
      if (piece.state === 'sacked') this.#sackedPieces -= 1
      else this.#arrived(now, piece, delivery, true)
    }
    // What waited behind a hole arrived long before: its time tells of the hole, not of the path (Karn's rule for the whole row).
    if (delivery.repeatedAt >= 0) delivery.rtt = -1
    if (this.#head > 1024 && this.#head * 2 > this.#pieces.length) {
      this.#pieces = this.#pieces.slice(this.#head)
      this.#head = 0
    } else if (this.empty) {
      this.#pieces.length = 0
      this.#head = 0
    }
    while (this.#sacked[0] !== undefined && this.#sacked[0].end <= una) this.#sacked.shift()
    for (let i = 0; i + 1 < edges.length; i += 2) {
      const start = edges[i] ?? 0
      const end = edges[i + 1] ?? 0
      if (end <= start || end > nxt) continue
      if (i === 0 && (end <= una || (edges.length > 3 && start >= (edges[2] ?? 0) && end <= (edges[3] ?? 0)))) {
        delivery.duplicate = true
        if (end <= una) continue
      }
      if (start < una) continue
      this.#sack(now, start, end, delivery)
    }
    if (una > this.#furthest) this.#furthest = una
    if (delivery.duplicate) this.#widenReordering()
  }

  /**
   * Finds losses by time (RACK); gives the milliseconds until the next piece would count as lost, 0 when none is in doubt.
   * @param minRtt least and @param smoothedRtt smoothed round trip
   */
  detectLost(now: number, inRecovery: boolean, minRtt: number, smoothedRtt: number): number {
    const impatient = !this.#reorderingSeen && (inRecovery || this.#sackedPieces >= DUPLICATE_THRESHOLD)
    const window = impatient ? 0 : Math.min((minRtt / 4) * this.#reorderFactor, smoothedRtt)
    for (let piece = this.#oldest; piece !== undefined; piece = this.#oldest) {
      if (piece.sentAt > this.#rackSentAt || (piece.sentAt === this.#rackSentAt && piece.end >= this.#rackEnd)) return 0
      const remaining = piece.sentAt + this.#rackRtt + window - now
      if (remaining > 0) return remaining
      this.markLost(piece)
    }
    return 0
  }

  /** Counts a flying piece as lost. */
  markLost(piece: SentPiece): void {
    if (piece.state !== 'flying') return
    this.#unlink(piece)
    piece.state = 'lost'
    this.#lost.push(piece)
  }

  /** After a timeout: whatever has not arrived is lost. A receiver that took back what it had sacked (RFC 2018 section 8) loses our trust. */
  markAllLost(): void {
    const reneged = this.first?.state === 'sacked'
    if (reneged) {
      this.#sacked = []
      this.#sackedPieces = 0
    }
    this.#lost.length = 0
    this.#lostHead = 0
    for (let i = this.#head; i < this.#pieces.length; i += 1) {
      const piece = this.#pieces[i]
      if (piece === undefined || (piece.state === 'sacked' && !reneged)) continue
      if (piece.state === 'flying') this.#unlink(piece)
      piece.state = 'lost'
      this.#lost.push(piece)
    }
  }

  /** Nothing was lost after all: what was not sent again is still on the way, and this path reorders. */
  undo(): void {
    for (let i = this.#pieces.length - 1; i >= this.#head; i -= 1) {
      const piece = this.#pieces[i]
      if (piece === undefined || piece.state !== 'lost') continue
      // Older than all that flies: in front of the list in order of sending.
      piece.state = 'flying'
      piece.later = this.#oldest
      if (this.#oldest === undefined) this.#newest = piece
      else this.#oldest.earlier = piece
      this.#oldest = piece
      this.#inFlight += piece.end - piece.start
    }
    this.#lost.length = 0
    this.#lostHead = 0
    this.#reorderingSeen = true
    this.#widenReordering()
  }

  /** A recovery ended: reordering seen long ago is forgotten. */
  recoveryEnded(): void {
    if (this.#reorderPersist > 0) this.#reorderPersist -= 1
    if (this.#reorderPersist === 0) this.#reorderFactor = 1
  }

  /** Forgets everything. */
  clear(): void {
    this.#pieces = []
    this.#head = 0
    this.#oldest = undefined
    this.#newest = undefined
    this.#lost.length = 0
    this.#lostHead = 0
    this.#sacked = []
    this.#sackedPieces = 0
    this.#inFlight = 0
  }

  #widenReordering(): void {
    this.#reorderFactor = Math.min(this.#reorderFactor + 1, MAX_REORDER_FACTOR)
    this.#reorderPersist = REORDER_PERSIST_RECOVERIES
  }

  #trim(piece: SentPiece, una: number, delivery: Delivery): void {
    const bytes = una - piece.start
    if (piece.state === 'flying') this.#inFlight -= bytes
    if (piece.state !== 'sacked') delivery.bytes += bytes
    piece.start = una
  }

  #sack(now: number, start: number, end: number, delivery: Delivery): void {
    // Ranges that the block touches are joined; what lay between them is news.
    let from = this.#sacked.length
    while (from > 0 && (this.#sacked[from - 1]?.end ?? 0) >= start) from -= 1
    let to = from
    const joined: Range = { start, end }
    let at = start
    const news: Range[] = []
    for (let range = this.#sacked[to]; range !== undefined && range.start <= end; range = this.#sacked[to]) {
      if (range.start > at) news.push({ start: at, end: range.start })
      at = Math.max(at, range.end)
      joined.start = Math.min(joined.start, range.start)
      joined.end = Math.max(joined.end, range.end)
      to += 1
    }
    if (at < end) news.push({ start: at, end })
    if (news.length === 0 || (to === from && this.#sacked.length >= MAX_RANGES)) return
    this.#sacked.splice(from, to - from, joined)
    for (const part of news) {
      for (let i = this.#indexOf(part.start); i < this.#pieces.length; i += 1) {
        const piece = this.#pieces[i]
        if (piece === undefined || piece.start >= part.end) break
        if (piece.state === 'sacked' || piece.start < joined.start || piece.end > joined.end) continue
        this.#arrived(now, piece, delivery, false)
        piece.state = 'sacked'
        this.#sackedPieces += 1
      }
    }
  }

  /** @param acknowledged by the acknowledgment's number, not only by a block */
  #arrived(now: number, piece: SentPiece, delivery: Delivery, acknowledged: boolean): void {
    delivery.bytes += piece.end - piece.start
    if (piece.state === 'flying') this.#unlink(piece)
    piece.state = 'sacked'
    const rtt = now - piece.sentAt
    if (!piece.retransmitted) {
      delivery.rtt = delivery.rtt < 0 ? rtt : Math.min(delivery.rtt, rtt)
      this.#leastRtt = this.#leastRtt === 0 ? rtt : Math.min(this.#leastRtt, rtt)
      if (piece.end < this.#furthest) this.#reorderingSeen = true
    }
    if (piece.end > this.#furthest) this.#furthest = piece.end
    // RFC 8985 section 6.2 step 2: an answer too early for the retransmission belongs to the first sending. Behind a hole echoes stand
    // still (RFC 7323 section 4.3), so they tell nothing of what only a block reports.
    if (piece.retransmitted && (rtt < this.#leastRtt || (acknowledged && this.#echoAt < Math.floor(piece.sentAt)))) return
    if (piece.sentAt > this.#rackSentAt || (piece.sentAt === this.#rackSentAt && piece.end > this.#rackEnd)) {
      this.#rackSentAt = piece.sentAt
      this.#rackEnd = piece.end
      this.#rackRtt = rtt
    }
  }

  /** Index of the piece that holds `position`, or of the first behind it. */
  #indexOf(position: number): number {
    let low = this.#head
    let high = this.#pieces.length
    while (low < high) {
      const middle = (low + high) >> 1
      if ((this.#pieces[middle]?.end ?? 0) <= position) low = middle + 1
      else high = middle
    }
    return low
  }

  #link(piece: SentPiece): void {
    piece.earlier = this.#newest
    piece.later = undefined
    if (this.#newest === undefined) this.#oldest = piece
    else this.#newest.later = piece
    this.#newest = piece
    this.#inFlight += piece.end - piece.start
  }

  #unlink(piece: SentPiece): void {
    if (piece.earlier === undefined) this.#oldest = piece.later
    else piece.earlier.later = piece.later
    if (piece.later === undefined) this.#newest = piece.earlier
    else piece.later.earlier = piece.earlier
    piece.earlier = undefined
    piece.later = undefined
    this.#inFlight -= piece.end - piece.start
  }
}
