/** RFC 9438 section 4.1. */
const CUBIC_C = 0.4
const CUBIC_BETA = 0.7
/** RFC 9438 section 4.3. */
const CUBIC_ALPHA = (3 * (1 - CUBIC_BETA)) / (1 + CUBIC_BETA)
/** RFC 6928. */
const INITIAL_WINDOW_SEGMENTS = 10
const LEAST_WINDOW_SEGMENTS = 2
/** HyStart++ (RFC 9406 section 4.3). */
const HYSTART_MIN_DELAY_MS = 4
const HYSTART_MAX_DELAY_MS = 16
const HYSTART_SAMPLES = 8
const CSS_GROWTH_DIVISOR = 4
const CSS_ROUNDS = 5

/** The state before a reduction. */
export interface CongestionSnapshot {
  readonly window: number
  readonly threshold: number
  readonly windowMax: number
}

/** CUBIC congestion control (RFC 9438) with HyStart++ slow start (RFC 9406). Windows in bytes, times in milliseconds. */
export class Congestion {
  /** How many bytes may be in flight. */
  window: number
  #threshold = Number.POSITIVE_INFINITY
  #mss: number
  readonly #maximum: number
  #epochStart: number | undefined
  #windowMax = 0
  #origin = 0
  #k = 0
  #renoWindow = 0
  #priorWindow = 0
  // HyStart++: round trips of this round and the last, and how many rounds of conservative slow start are left.
  #roundEnd = 0
  #lastRoundRtt = Number.POSITIVE_INFINITY
  #roundRtt = Number.POSITIVE_INFINITY
  #roundSamples = 0
  #cssRounds = 0
  #cssBaseRtt = 0

  /** @param maximum the window never exceeds it */
  constructor(mss: number, maximum: number) {
    this.#mss = mss
    this.#maximum = maximum
    this.window = mss * INITIAL_WINDOW_SEGMENTS
  }

  get threshold(): number {
    return this.#threshold
  }

  get slowStart(): boolean {
    return this.window < this.#threshold
  }

  /** The path takes smaller (or larger) segments now; an unused window starts anew. */
  setSegmentSize(mss: number, unused: boolean): void {
    this.#mss = mss
    if (unused) this.window = mss * INITIAL_WINDOW_SEGMENTS
  }

  /** @param una first unacknowledged position; @param nxt next position to send: they mark rounds */
  onRoundTrip(una: number, nxt: number, rtt: number): void {
    if (!this.slowStart) return
    if (una >= this.#roundEnd) {
      this.#roundEnd = nxt
      this.#lastRoundRtt = this.#roundRtt
      this.#roundRtt = Number.POSITIVE_INFINITY
      this.#roundSamples = 0
      if (this.#cssRounds > 0) {
        this.#cssRounds -= 1
        if (this.#cssRounds === 0) {
          this.#threshold = this.window
          return
        }
      }
    }
    this.#roundRtt = Math.min(this.#roundRtt, rtt)
    this.#roundSamples += 1
    if (this.#roundSamples < HYSTART_SAMPLES) return
    if (this.#cssRounds > 0) {
      if (this.#roundRtt < this.#cssBaseRtt) this.#cssRounds = 0
      return
    }
    if (this.#lastRoundRtt === Number.POSITIVE_INFINITY) return
    const slack = Math.min(Math.max(this.#lastRoundRtt / 8, HYSTART_MIN_DELAY_MS), HYSTART_MAX_DELAY_MS)
    if (this.#roundRtt >= this.#lastRoundRtt + slack) {
      this.#cssRounds = CSS_ROUNDS
      this.#cssBaseRtt = this.#roundRtt
    }
  }

  /** New bytes were acknowledged outside of recovery while the window was in use. */
  onAcknowledged(now: number, bytes: number, smoothedRtt: number): void {
    if (this.slowStart) {
      const growth = this.#cssRounds > 0 ? bytes / CSS_GROWTH_DIVISOR : bytes
      this.window = Math.min(this.window + growth, Math.max(this.#threshold, this.window), this.#maximum)
      return
    }
    if (this.#epochStart === undefined) this.#beginEpoch(now)
    const t = (now - (this.#epochStart ?? now) + smoothedRtt) / 1000
    const target = Math.min(Math.max(this.#origin + CUBIC_C * this.#mss * (t - this.#k) ** 3, this.window), this.window * 1.5)
    const alpha = this.#renoWindow >= this.#priorWindow ? 1 : CUBIC_ALPHA
    this.#renoWindow += (alpha * this.#mss * bytes) / this.window
    this.window += ((target - this.window) / this.window) * bytes
    this.window = Math.min(Math.max(this.window, this.#renoWindow), this.#maximum)
  }

  /** Loss was found: the new window and threshold. `inFlight` is what was out. */
  onLoss(): void {
    this.#priorWindow = this.window
    // Fast convergence (section 4.7): leave room to newcomers.
    this.#windowMax = this.window < this.#windowMax ? (this.window * (1 + CUBIC_BETA)) / 2 : this.window
    this.#threshold = Math.max(this.window * CUBIC_BETA, LEAST_WINDOW_SEGMENTS * this.#mss)
    this.window = this.#threshold
    this.#epochStart = undefined
    this.#cssRounds = 0
  }

  /** A retransmission timeout: one segment, then slow start (RFC 5681 section 3.1). */
  onTimeout(first: boolean): void {
    if (first) this.onLoss()
    this.window = this.#mss
    this.#epochStart = undefined
  }

  /** What {@link restore} needs to take a reduction back. */
  get snapshot(): CongestionSnapshot {
    return { window: this.window, threshold: this.#threshold, windowMax: this.#windowMax }
  }

  /** The loss that reduced the window was none (RFC 4015 section 3.2). */
  restore(snapshot: CongestionSnapshot): void {
    this.window = Math.max(this.window, snapshot.window)
    this.#threshold = snapshot.threshold
    this.#windowMax = snapshot.windowMax
    this.#epochStart = undefined
  }

  /** Nothing was sent for a timeout: RFC 5681 section 4.1. */
  onIdle(): void {
    this.window = Math.min(this.window, INITIAL_WINDOW_SEGMENTS * this.#mss)
    this.#epochStart = undefined
  }

  #beginEpoch(now: number): void {
    this.#epochStart = now
    this.#renoWindow = this.window
    if (this.window < this.#windowMax) {
      this.#k = Math.cbrt((this.#windowMax - this.window) / (CUBIC_C * this.#mss))
      this.#origin = this.#windowMax
    } else {
      this.#k = 0
      this.#origin = this.window
    }
  }
}
