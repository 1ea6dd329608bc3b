/** So many at once, and so many in every second after that. */
export class RateLimit {
  readonly #burst: number
  readonly #perMs: number
  #left: number
  #at = Number.NEGATIVE_INFINITY

  constructor(burst: number, perSecond: number) {
    this.#burst = burst
    this.#perMs = perSecond / 1_000
    this.#left = burst
  }

  /** Whether one more is allowed now; if so, it counts. */
  allows(nowMs: number): boolean {
    if (this.#at !== Number.NEGATIVE_INFINITY) this.#left = Math.min(this.#burst, this.#left + (nowMs - this.#at) * this.#perMs)
    this.#at = nowMs
    if (this.#left < 1) return false
    this.#left -= 1
    return true
  }
}
