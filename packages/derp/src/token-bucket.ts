import { after, type Instant } from '@meshwright/core'

/** A token bucket that may go into debt: what has been taken beyond the burst must be waited for. */
export class TokenBucket {
  readonly #perMs: number
  readonly #burst: number
  #tokens: number
  #at: Instant

  /** @param perSecond tokens that flow in; @param burst the most it holds, full at the start */
  constructor(now: Instant, perSecond: number, burst: number) {
    this.#perMs = perSecond / 1000
    this.#burst = burst
    this.#tokens = burst
    this.#at = now
  }

  /** Takes tokens if that many are there. */
  tryTake(now: Instant, count: number): boolean {
    this.#refill(now)
    if (this.#tokens < count) return false
    this.#tokens -= count
    return true
  }

  /** Takes tokens in any case; gives the instant when the debt is paid, or `undefined` when there is none. */
  take(now: Instant, count: number): Instant | undefined {
    this.#refill(now)
    this.#tokens -= count
    return this.#tokens >= 0 ? undefined : after(now, Math.ceil(-this.#tokens / this.#perMs))
  }

  #refill(now: Instant): void {
    if (now <= this.#at) return
    this.#tokens = Math.min(this.#burst, this.#tokens + (now - this.#at) * this.#perMs)
    this.#at = now
  }
}
