/** RFC 6298 (2.1). */
const INITIAL_RTO_MS = 1_000
/** RFC 6298 (2.4) says 1 s; Linux and gVisor use 200 ms, and so do we: the floor of the variance term does the rest. */
const MIN_RTO_MS = 200
/** RFC 6298 (2.5). */
const MAX_RTO_MS = 60_000
/** Least variance, so that a steady path does not time out on one late delayed acknowledgment. */
const MIN_VARIANCE_MS = 50
/** The least round trip is forgotten after this time: paths change. */
const MIN_RTT_WINDOW_MS = 300_000

/** Round trip times and what follows from them (RFC 6298); the caller keeps Karn's rule: no sample of a segment sent twice. */
export class RttEstimator {
  #smoothed: number | undefined
  #variance = 0
  #least = Number.POSITIVE_INFINITY
  #leastAt = 0
  #latest = 0
  #backoff = 0

  /** Smoothed round trip in milliseconds; `undefined` before the first sample. */
  get smoothed(): number | undefined {
    return this.#smoothed
  }

  /** The least round trip of the last minutes; infinite before the first sample. */
  get least(): number {
    return this.#least
  }

  /** The last sample. */
  get latest(): number {
    return this.#latest
  }

  /** The retransmission timeout in milliseconds, backed off. */
  get timeout(): number {
    const base = this.#smoothed === undefined ? INITIAL_RTO_MS : this.#smoothed + Math.max(4 * this.#variance, MIN_VARIANCE_MS)
    return Math.min(Math.max(base, MIN_RTO_MS) * 2 ** this.#backoff, MAX_RTO_MS)
  }

  /** How many timeouts in a row. */
  get backoff(): number {
    return this.#backoff
  }

  sample(now: number, ms: number): void {
    const rtt = Math.max(ms, 0)
    this.#latest = rtt
    if (rtt <= this.#least || now - this.#leastAt > MIN_RTT_WINDOW_MS) {
      this.#least = rtt
      this.#leastAt = now
    }
    if (this.#smoothed === undefined) {
      this.#smoothed = rtt
      this.#variance = rtt / 2
      return
    }
    this.#variance = 0.75 * this.#variance + 0.25 * Math.abs(this.#smoothed - rtt)
    this.#smoothed = 0.875 * this.#smoothed + 0.125 * rtt
  }

  /** A timeout passed: doubles the next (5.5). */
  backOff(): void {
    this.#backoff = Math.min(this.#backoff + 1, 16)
  }

  /** New data was acknowledged. */
  resetBackoff(): void {
    this.#backoff = 0
  }
}
