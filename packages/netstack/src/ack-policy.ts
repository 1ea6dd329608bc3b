import { after, type Instant } from '@meshwright/core'

/** So many segments are acknowledged at once while the sender's window is small: at the start, and after losses. */
const QUICK_ACKS = 8
const QUICK_ACKS_AFTER_LOSS = 16
const LEAST_DELAY_MS = 2
/** For so many segments after a loss acknowledgments are not joined. */
const CAREFUL_SEGMENTS = 512
/** So many segments are acknowledged at once even while more of them wait to be taken in. */
const MOST_SEGMENTS = 16

/**
 * When an acknowledgment is due: at once, with the second segment, or after a short wait (RFC 9293 section 3.8.6.3). What the second segment
 * makes due leaves as soon as time passes, so segments that came together are answered together: one acknowledgment for what the network
 * delivered in one go (as kernels with receive offload do; RFC 3449 section 5.2.3 on stretched acknowledgments).
 *
 * Where packets are lost acknowledgments are, too. Were the only one for a whole window among them, the sender would wait for a timeout: so
 * after a loss each second segment is answered by itself (RFC 5681 section 4.2).
 */
export class AckPolicy {
  /** One must leave with the next flush. */
  now = false
  #due: Instant | undefined
  #segments = 0
  #quick = QUICK_ACKS
  #careful = 0

  get due(): Instant | undefined {
    return this.#due
  }

  /**
   * A segment came in order; true: an acknowledgment must leave before more is taken in.
   * @param mostMs the longest wait; a quarter of the round trip is enough for an answer to carry it, and more would be felt
   */
  inOrder(now: Instant, mostMs: number, roundTripMs: number): boolean {
    this.#segments += 1
    if (this.#careful > 0) this.#careful -= 1
    if (this.#quick > 0) {
      this.#quick -= 1
      this.now = true
    } else if (this.#segments >= MOST_SEGMENTS) this.now = true
    else if (this.#segments >= 2) this.#due = now
    else this.#due ??= after(now, Math.min(Math.max(roundTripMs / 4, LEAST_DELAY_MS), mostMs))
    return this.#careful > 0 && this.#segments >= 2
  }

  /** Something was lost: the sender begins with a small window again, and each acknowledgment that waits keeps it small. */
  lossSeen(): void {
    this.now = true
    this.#quick = QUICK_ACKS_AFTER_LOSS
    this.#careful = CAREFUL_SEGMENTS
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
