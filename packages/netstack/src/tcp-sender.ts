import { after, type Instant } from '@meshwright/core'
import { Congestion, type CongestionSnapshot } from './congestion.ts'
import { RttEstimator } from './rtt-estimator.ts'
import { type Delivery, Scoreboard } from './scoreboard.ts'
import { type ChunkPool, SendBuffer } from './send-buffer.ts'

/** RFC 8985 section 7.2: what a receiver may wait with its acknowledgment when only one segment is out. Most wait less than the first. */
const USUAL_DELAYED_ACK_MS = 50
const WORST_DELAYED_ACK_MS = 200
const LEAST_PROBE_TIMEOUT_MS = 10
const MAX_PERSIST_MS = 60_000
const DUPLICATE_ACKS = 3
/** The first limit of the send buffer; it grows to what two windows need. */
const FIRST_BUFFER_BYTES = 131_072

/** What a sender may use, in bytes and attempts. */
export interface SenderLimits {
  readonly maxBufferBytes: number
  /** Timeouts in a row before the connection is given up. */
  readonly maxRetries: number
  /** Memory for what is written. */
  readonly chunks?: ChunkPool
}

/** Writes one data segment into a packet: `[start, start + length)` of the stream, and FIN behind it. */
export type EmitData = (start: number, length: number, fin: boolean, push: boolean) => void

/** Which wait the loss timer stands for. */
type TimerKind = 'retransmit' | 'probe' | 'reorder' | 'persist'

/**
 * The sending half of a connection: buffer, window, losses, congestion. Positions count from the initial sequence number (SYN is 0, the
 * first byte 1) and never wrap.
 */
export class TcpSender {
  readonly buffer: SendBuffer
  readonly rtt: RttEstimator = new RttEstimator()
  readonly congestion: Congestion
  /** First unacknowledged position. */
  una = 1
  /** Next position to send. */
  nxt = 1
  /** Right edge of the peer's window. */
  windowEdge = 1
  /** The largest window the peer ever offered. */
  maxWindow = 0
  sackPermitted = false
  readonly #board: Scoreboard = new Scoreboard()
  readonly #delivery: Delivery = { bytes: 0, rtt: -1, repeatedAt: -1, duplicate: false }
  readonly #limits: SenderLimits
  #bufferLimit: number
  #mss: number
  #finQueued = false
  #due: Instant | undefined
  #kind: TimerKind = 'retransmit'
  #persistBackoff = 0
  #unanswered = 0
  /** Why the window is held: not, by losses being repaired, or after a timeout. */
  #mode: 'open' | 'recovery' | 'loss' = 'open'
  #recoveryPoint = 0
  // Proportional rate reduction (RFC 6937).
  #prrDelivered = 0
  #prrOut = 0
  #prrStart = 0
  #prrBudget = 0
  #duplicateAcks = 0
  /** The peer acknowledges in duplicate and says nothing of what it has. */
  #blocksMissing = false
  // When the first piece of this episode was sent again, and what to go back to should that prove needless (Eifel, RFC 3522, 4015).
  #repeatedAt: Instant | undefined
  #before: CongestionSnapshot | undefined
  #tailProbeEnd = -1
  #tailProbeRepeats = false
  #tailProbeAt = 0
  #ackDelay = USUAL_DELAYED_ACK_MS
  #lastSentAt = 0
  #forceOne = false
  #windowLimited = false

  constructor(mss: number, limits: SenderLimits) {
    this.#mss = mss
    this.#limits = limits
    this.buffer = new SendBuffer(1, limits.chunks)
    this.#bufferLimit = Math.min(FIRST_BUFFER_BYTES, limits.maxBufferBytes)
    this.congestion = new Congestion(mss, limits.maxBufferBytes)
  }

  get due(): Instant | undefined {
    return this.#due
  }

  get inFlight(): number {
    return this.#board.inFlight
  }

  /** True when all that was written, and FIN where queued, has been acknowledged. */
  get allAcknowledged(): boolean {
    return this.una === this.end
  }

  get finQueued(): boolean {
    return this.#finQueued
  }

  /** Position behind everything there is to send. */
  get end(): number {
    return this.buffer.tail + (this.#finQueued ? 1 : 0)
  }

  /** How many more bytes `write` takes. */
  get free(): number {
    return Math.max(0, this.#bufferLimit - this.buffer.size)
  }

  /** True when a waiting writer should be woken: a third is free, so that it does not wake for every segment. */
  get writable(): boolean {
    return this.free * 3 >= this.#bufferLimit
  }

  get segmentSize(): number {
    return this.#mss
  }

  /** The path carries only (or again) segments of this size. */
  setSegmentSize(mss: number): void {
    this.#mss = mss
    this.congestion.setSegmentSize(mss, this.nxt === 1)
  }

  /** The packet too big was ours: what is out will not arrive. */
  retransmitSmaller(now: Instant): void {
    const first = this.#board.first
    if (first === undefined || first.end - first.start <= this.#mss) return
    this.#board.markAllLost()
    this.#arm(now)
  }

  /** Copies as many of the bytes as fit; gives how many. */
  write(bytes: Uint8Array): number {
    if (this.#finQueued) return 0
    const length = Math.min(this.free, bytes.length)
    if (length > 0) this.buffer.append(length === bytes.length ? bytes : bytes.subarray(0, length))
    return length
  }

  /** Nothing more will be written: FIN follows the last byte. */
  finish(): void {
    this.#finQueued = true
  }

  /** Takes the peer's window. */
  setWindow(now: Instant, edge: number): void {
    const opened = edge > this.windowEdge
    this.windowEdge = edge
    this.maxWindow = Math.max(this.maxWindow, edge - this.una)
    if (opened && this.#kind === 'persist') {
      this.#persistBackoff = 0
      this.#unanswered = 0
      this.#due = undefined
    } else if (this.#kind === 'persist') this.#unanswered = 0
    if (this.#due === undefined) this.#arm(now)
  }

  /**
   * Takes an acknowledgment.
   * @param ack position acknowledged, `una` to `nxt`; @param edges SACK blocks as positions; @param duplicate true when by RFC 5681 it
   * counts as a duplicate acknowledgment; @param echoRtt round trip by timestamps, -1 when unknown
   */
  acknowledge(now: Instant, ack: number, edges: readonly number[], duplicate: boolean, echoRtt: number): void {
    const advanced = ack > this.una
    const flightBefore = this.#board.inFlight
    const delivery = this.#delivery
    this.#board.acknowledge(now, ack, this.nxt, this.sackPermitted ? edges : [], delivery, echoRtt)
    if (advanced) {
      this.una = ack
      this.buffer.release(Math.min(ack, this.buffer.tail))
      this.#unanswered = 0
      this.#tuneBuffer()
    }
    // An echo older than the last repetition tells how long the acknowledgment was missing, not how long the path is.
    const echoCounts = advanced && Math.floor(now) - echoRtt >= Math.floor(delivery.repeatedAt)
    const sample = delivery.rtt >= 0 ? delivery.rtt : echoCounts ? echoRtt : -1
    if (sample >= 0) {
      this.rtt.sample(now, sample)
      this.rtt.resetBackoff() // not before: Karn's rule
      this.congestion.onRoundTrip(this.una, this.nxt, sample)
    }
    if (advanced) this.#undoNeedless(now, echoRtt)
    this.#settleTailProbe(now, ack, advanced, delivery, echoRtt)
    if (edges.length > 0) this.#blocksMissing = false
    // gVisor tells no blocks once it has sent FIN: then its duplicates are what there is to go by.
    else if (duplicate && this.#board.sackedPieces === 0) this.#blocksMissing = true
    if (!this.sackPermitted || this.#blocksMissing) this.#newReno(advanced, duplicate)
    const wait = this.sackPermitted ? this.#board.detectLost(now, this.#mode !== 'open', this.rtt.least, this.rtt.smoothed ?? 0) : 0
    if (this.#mode === 'open' && this.#board.nextLost() !== undefined) this.#enterRecovery(flightBefore)
    else if (this.#mode !== 'open' && ack >= this.#recoveryPoint) this.#leaveRecovery()
    if (this.#mode === 'recovery') this.#reduceProportionally(delivery.bytes)
    else if (delivery.bytes > 0 && (this.#windowLimited || this.#mode === 'loss')) {
      this.congestion.onAcknowledged(now, delivery.bytes, this.rtt.smoothed ?? 0)
    }
    if (wait > 0) this.#set('reorder', after(now, Math.max(wait, 1)))
    // RFC 8985 section 7.2: only news puts a probe off. Each segment of a peer that talks all the time acknowledges, and tells nothing.
    else if (advanced || this.#due === undefined || this.#kind === 'reorder' || (this.#kind === 'probe' && delivery.bytes > 0)) this.#arm(now)
  }

  /** Sends whatever windows allow. */
  send(now: Instant, emit: EmitData): void {
    if (this.#board.empty && this.nxt > 1 && now - this.#lastSentAt > this.rtt.timeout) this.congestion.onIdle()
    let sent = false
    for (let piece = this.#board.nextLost(); piece !== undefined; piece = this.#board.nextLost()) {
      if (!this.#forceOne && this.#allowance() <= 0) break
      this.#board.split(piece, this.#mss)
      this.#emitPiece(now, piece.start, piece.end, emit)
      this.#board.resent(now, piece)
      if (this.#mode !== 'open') this.#repeatedAt ??= now
      this.#forceOne = false
      sent = true
    }
    this.#windowLimited = false
    while (this.nxt < this.end) {
      const room = this.windowEdge - this.nxt
      const left = this.buffer.tail - this.nxt
      const length = Math.min(left, room, this.#mss)
      const fin = this.#finQueued && length === left
      // RFC 9293 section 3.8.6.2.1 without Nagle's rule: no silly windows, but the last piece goes at once.
      const whole = length === this.#mss || length === left || length * 2 >= this.maxWindow
      if (length < 0 || (length === 0 && !fin) || (!whole && !this.#forceOne)) break
      if (!this.#forceOne && this.#allowance() < Math.min(length, this.#mss)) {
        this.#windowLimited = true
        break
      }
      const end = this.nxt + length + (fin ? 1 : 0)
      this.#emitPiece(now, this.nxt, end, emit)
      this.#board.sent(now, this.nxt, end)
      this.nxt = end
      this.#forceOne = false
      sent = true
    }
    this.#forceOne = false
    if (sent) this.#lastSentAt = now
    if (this.#allowance() < this.#mss) this.#windowLimited = true
    // A running retransmission timer is not pushed back by sending (RFC 6298 (5.1)).
    if (this.#due === undefined || (sent && (this.#kind === 'probe' || this.#kind === 'persist'))) this.#arm(now)
  }

  /**
   * The timer came due. Gives `probe` when an empty segment must ask for the window, `dead` when the peer has been silent for too long,
   * `ok` otherwise; `send` must follow.
   */
  handleTimeout(now: Instant): 'ok' | 'probe' | 'dead' {
    if (this.#due === undefined || now < this.#due) return 'ok'
    const kind = this.#kind
    this.#due = undefined
    if (kind === 'reorder') {
      const flight = this.#board.inFlight
      const wait = this.#board.detectLost(now, this.#mode !== 'open', this.rtt.least, this.rtt.smoothed ?? 0)
      if (this.#mode === 'open' && this.#board.nextLost() !== undefined) this.#enterRecovery(flight)
      if (wait > 0) this.#set('reorder', after(now, Math.max(wait, 1)))
      else this.#arm(now)
      return 'ok'
    }
    if (kind === 'probe') {
      this.#probeTail(now)
      return 'ok'
    }
    this.#unanswered += 1
    if (this.#unanswered > this.#limits.maxRetries) return 'dead'
    if (kind === 'persist') {
      this.#persistBackoff = Math.min(this.#persistBackoff + 1, 16)
      const usable = Math.min(this.windowEdge - this.nxt, this.buffer.tail - this.nxt)
      if (usable > 0) this.#forceOne = true
      this.#armPersist(now)
      return usable > 0 ? 'ok' : 'probe'
    }
    this.#board.markAllLost()
    if (this.#mode === 'open') this.#begin()
    this.congestion.onTimeout(this.#mode !== 'loss')
    this.#mode = 'loss'
    this.#recoveryPoint = this.nxt
    this.#tailProbeEnd = -1
    this.#duplicateAcks = 0
    this.rtt.backOff()
    this.#forceOne = true
    this.#set('retransmit', after(now, this.rtt.timeout))
    return 'ok'
  }

  /** Forgets everything: the connection is over. */
  clear(): void {
    this.buffer.clear()
    this.#board.clear()
    this.#due = undefined
  }

  #emitPiece(now: Instant, start: number, end: number, emit: EmitData): void {
    const tail = this.buffer.tail
    const fin = end > tail
    emit(start, Math.min(end, tail) - start, fin, end >= tail)
    if (this.#mode === 'recovery') {
      this.#prrOut += end - start
      this.#prrBudget -= end - start
    }
    this.#lastSentAt = now
  }

  /** How many more bytes congestion control lets out. */
  #allowance(): number {
    return this.#mode === 'recovery' ? this.#prrBudget : this.congestion.window - this.#board.inFlight
  }

  #enterRecovery(flight: number): void {
    this.#begin()
    this.#mode = 'recovery'
    this.#recoveryPoint = this.nxt
    this.congestion.onLoss()
    this.#prrDelivered = 0
    this.#prrOut = 0
    this.#prrStart = Math.max(flight, 1)
    this.#prrBudget = 0
    this.#forceOne = true // Fast retransmit goes at once, whatever the budget.
  }

  #begin(): void {
    this.#before = this.congestion.snapshot
    this.#repeatedAt = undefined
  }

  /**
   * An acknowledgment of something sent before the first repetition, or of all that seemed lost before any repetition left: the original was
   * late, not lost. Everything is taken back. (gVisor takes the first segments of a connection out of order.)
   */
  #undoNeedless(now: Instant, echoRtt: number): void {
    if (this.#mode === 'open' || this.#before === undefined) return
    if (this.#repeatedAt === undefined) {
      if (this.#mode !== 'recovery' || this.#board.nextLost() !== undefined) return
    } else if (echoRtt < 0 || Math.floor(now) - echoRtt >= Math.floor(this.#repeatedAt)) return
    this.congestion.restore(this.#before)
    this.#board.undo()
    this.#mode = 'open'
    this.#duplicateAcks = 0
    this.#before = undefined
  }

  #leaveRecovery(): void {
    if (this.#mode === 'recovery') this.congestion.window = Math.max(this.congestion.threshold, this.#mss)
    this.#mode = 'open'
    this.#duplicateAcks = 0
    this.#board.recoveryEnded()
  }

  /** RFC 6937 section 3.1, with the slow-start reduction bound. */
  #reduceProportionally(delivered: number): void {
    this.#prrDelivered += delivered
    const flight = this.#board.inFlight
    const target = this.congestion.threshold
    if (flight > target) {
      this.#prrBudget = Math.ceil((this.#prrDelivered * target) / this.#prrStart) - this.#prrOut
    } else {
      const limit = Math.max(this.#prrDelivered - this.#prrOut, delivered) + this.#mss
      this.#prrBudget = Math.min(target - flight, limit)
    }
  }

  /** Peers without SACK: three duplicate acknowledgments, then one loss for each partial one (RFC 6582). */
  #newReno(advanced: boolean, duplicate: boolean): void {
    const first = this.#board.first
    if (advanced) {
      this.#duplicateAcks = 0
      if (this.#mode === 'recovery' && this.una < this.#recoveryPoint && first !== undefined) this.#board.markLost(first)
      return
    }
    if (!duplicate) return
    this.#duplicateAcks += 1
    if (this.#duplicateAcks === DUPLICATE_ACKS && this.#mode === 'open' && first !== undefined) this.#board.markLost(first)
    // Each duplicate says that one segment left the path: without SACK only its size can be credited.
    else if (this.#mode === 'recovery') this.#delivery.bytes += this.#mss
  }

  #settleTailProbe(now: Instant, ack: number, advanced: boolean, delivery: Delivery, echoRtt: number): void {
    if (this.#tailProbeEnd < 0 || ack < this.#tailProbeEnd) return
    // By the echo the acknowledgment answers what left before the probe: nothing was lost, and not all peers say so by DSACK (gVisor does not).
    const original = advanced && echoRtt >= 0 && Math.floor(now) - echoRtt < Math.floor(this.#tailProbeAt)
    // This peer waits longer than others.
    if (this.#tailProbeRepeats && (delivery.duplicate || original)) this.#ackDelay = WORST_DELAYED_ACK_MS
    if (!this.#tailProbeRepeats || delivery.duplicate || original) this.#tailProbeEnd = -1
    else if (ack > this.#tailProbeEnd) {
      // RFC 8985 section 7.4: the probe itself repaired a loss, which must not go unpaid.
      this.#tailProbeEnd = -1
      if (this.#mode === 'open') this.congestion.onLoss()
    } else if (!advanced && delivery.bytes === 0) this.#tailProbeEnd = -1
  }

  /** RFC 8985 section 7.3: new data if there is any, else the last piece once more. */
  #probeTail(now: Instant): void {
    const last = this.#board.last
    if (last === undefined) return
    const fresh = this.nxt < this.buffer.tail && this.windowEdge > this.nxt
    if (fresh) {
      this.#tailProbeRepeats = false
    } else {
      this.#tailProbeRepeats = true
      this.#board.markLost(last)
    }
    this.#tailProbeEnd = this.nxt
    this.#tailProbeAt = now
    this.#forceOne = true
    this.#set('retransmit', after(now, this.rtt.timeout))
  }

  #tuneBuffer(): void {
    const wanted = Math.min(Math.ceil(this.congestion.window * 2), this.#limits.maxBufferBytes)
    if (wanted > this.#bufferLimit) this.#bufferLimit = wanted
  }

  #arm(now: Instant): void {
    if (!this.#board.empty) {
      const rto = this.rtt.timeout
      const smoothed = this.rtt.smoothed
      const mayProbe =
        this.sackPermitted && this.#mode === 'open' && smoothed !== undefined && this.#tailProbeEnd < 0 && this.#board.sackedPieces === 0
      if (mayProbe) {
        const wait = Math.max(2 * smoothed, LEAST_PROBE_TIMEOUT_MS) + (this.#board.size === 1 ? this.#ackDelay : 0)
        if (wait < rto) return this.#set('probe', after(now, wait))
      }
      return this.#set('retransmit', after(now, rto))
    }
    if (this.nxt < this.end && this.windowEdge - this.nxt < this.#mss) {
      if (this.#kind !== 'persist' || this.#due === undefined) this.#armPersist(now)
      return
    }
    this.#due = undefined
  }

  #armPersist(now: Instant): void {
    if (this.#kind !== 'persist') this.#persistBackoff = 0
    this.#set('persist', after(now, Math.min(this.rtt.timeout * 2 ** this.#persistBackoff, MAX_PERSIST_MS)))
  }

  #set(kind: TimerKind, due: Instant): void {
    this.#kind = kind
    this.#due = due
  }
}
