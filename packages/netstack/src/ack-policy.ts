import { after, type Instant } from '@meshwright/core'

/** So many segments are acknowledged at once at the start, while the sender's window is small. */
const QUICK_ACKS = 8
/** So many segments are acknowledged at once even while more of them wait to be taken in. */
const MOST_SEGMENTS = 16

/**
 * When an acknowledgment is due: at once, with the second segment, or after a short wait (RFC 9293 section 3.8.6.3). What the second segment
 * makes due leaves as soon as time passes, so segments that came together are answered together: one acknowledgment for what the network
 * delivered in one go (as kernels with receive offload do; RFC 3449 section 5.2.3 on stretched acknowledgments).
 */
export class AckPolicy {
  /** One must leave with the next flush. */
  now = false
  #due: Instant | undefined
  #segments = 0
  #quick = QUICK_ACKS

  get due(): Instant | undefined {
    return this.#due
  }

  /** A segment came in order. */
  inOrder(now: Instant, delayMs: number): void {
    this.#segments += 1
    if (this.#quick > 0) {
      this.#quick -= 1
      this.now = true
    } else if (this.#segments >= MOST_SEGMENTS) this.now = true
    else if (this.#segments >= 2) this.#due = now
    else this.#due ??= after(now, delayMs)
  }

  /** Everything so far has been acknowledged by a segment that left. @param more SACK blocks must still follow */
  sent(more: boolean): void {
    this.#segments = 0
    this.#due = undefined
    if (!more) this.now = false
  }

  handleTimeout(now: Instant): void {
    if (this.#due === undefined || now < this.#due) return
    this.#due = undefined
    this.now = true
  }

  stop(): void {
    this.now = false
    this.#due = undefined
  }
}
