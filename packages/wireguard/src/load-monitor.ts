import type { Instant } from '@meshwright/core'
import { UNDER_LOAD_STICKY_MS } from './constants.ts'

/** Decides whether a device is under load, so that handshakes cost a round trip with a cookie first. */
export interface LoadMonitor {
  /** A handshake message with a valid mac1 has arrived: true when it must be treated as under load. */
  handshakeArrived(now: Instant): boolean
  /** Milliseconds of work that a handshake message has cost, or by which the caller's event loop is late. */
  worked(now: Instant, ms: number): void
  /** Whether it is under load; changes nothing. */
  isUnderLoad(now: Instant): boolean
}

/** Settings of the default {@link LoadMonitor}. */
export interface HandshakeLoadOptions {
  /** Handshake messages a second that are no load (default 100). */
  readonly messagesPerSecond?: number
  /** How many may come at once (default 200). */
  readonly burst?: number
  /** Share of the time that handshakes may take, 0 to 1 (default 0.25). */
  readonly timeShare?: number
  /** Over how many milliseconds that share is taken (default 200): a quarter of them spent at once is load. */
  readonly windowMs?: number
}

/**
 * Under load when handshake messages come faster than a rate, or when they took more than a share of the last moments: two leaky
 * buckets. The state lasts a second after it was last true, as in the kernel. Other implementations watch the length of a queue, which
 * a single thread does not have; what it has is packets of sessions that wait while it computes, so the window is short.
 */
export class HandshakeLoadMonitor implements LoadMonitor {
  readonly #rate: number
  readonly #burst: number
  readonly #timeShare: number
  readonly #workLimitMs: number
  #messages = 0
  #workMs = 0
  #at = -Infinity
  #underLoadUntil = -Infinity

  constructor(options: HandshakeLoadOptions = {}) {
    this.#rate = options.messagesPerSecond ?? 100
    this.#burst = options.burst ?? 200
    this.#timeShare = options.timeShare ?? 0.25
    this.#workLimitMs = (options.windowMs ?? 200) * this.#timeShare
  }

  handshakeArrived(now: Instant): boolean {
    this.#leak(now)
    this.#messages = Math.min(this.#messages + 1, this.#burst + 1)
    this.#judge(now)
    return this.isUnderLoad(now)
  }

  worked(now: Instant, ms: number): void {
    this.#leak(now)
    this.#workMs = Math.min(this.#workMs + ms, 2 * this.#workLimitMs)
    this.#judge(now)
  }

  isUnderLoad(now: Instant): boolean {
    return now < this.#underLoadUntil
  }

  #leak(now: Instant): void {
    const elapsed = now - this.#at
    this.#at = now
    this.#messages = Math.max(0, this.#messages - (elapsed * this.#rate) / 1000)
    this.#workMs = Math.max(0, this.#workMs - elapsed * this.#timeShare)
  }

  #judge(now: Instant): void {
    if (this.#messages > this.#burst || this.#workMs > this.#workLimitMs) this.#underLoadUntil = now + UNDER_LOAD_STICKY_MS
  }
}
