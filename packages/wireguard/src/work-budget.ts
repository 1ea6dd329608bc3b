import type { Instant } from '@meshwright/core'

/**
 * A bound on the time that one kind of work may take: a leaky bucket of milliseconds. It leaks at `share`, so over any longer time no
 * more than that share of it goes into the work, after a burst of `burstMs`.
 */
export class WorkBudget {
  readonly #share: number
  readonly #burstMs: number
  #spentMs = 0
  #at = -Infinity

  /** @param share of the time, above 0 to 1 @param burstMs work that may come at once */
  constructor(share: number, burstMs: number) {
    this.#share = share
    this.#burstMs = burstMs
  }

  /** Whether there is time left for one more piece of work. */
  allows(now: Instant): boolean {
    this.#leak(now)
    return this.#spentMs < this.#burstMs
  }

  /** Notes what a piece of work has cost. One that was far too long (the machine slept in it) counts as the whole burst. */
  spend(now: Instant, ms: number): void {
    this.#leak(now)
    this.#spentMs = Math.min(this.#spentMs + ms, 2 * this.#burstMs)
  }

  #leak(now: Instant): void {
    this.#spentMs = Math.max(0, this.#spentMs - (now - this.#at) * this.#share)
    this.#at = now
  }
}
