import { after, type Instant } from '@meshwright/core'

const FIRST_WAIT_MS = 1_000
const LONGEST_WAIT_MS = 60_000

/** The tries to open a connection: how long each waits for its answer (RFC 6298 section 2.1 and 5.5), and what the first says of the way. */
export class SynAttempts {
  #failed = 0
  #firstAt: Instant

  constructor(now: Instant) {
    this.#firstAt = now
  }

  /** A SYN or SYN-ACK goes out; gives when the next is due. */
  sent(now: Instant): Instant {
    if (this.#failed === 0) this.#firstAt = now
    return after(now, Math.min(FIRST_WAIT_MS * 2 ** this.#failed, LONGEST_WAIT_MS))
  }

  /** The last one was not answered in time; true when that was one more than `retries`. */
  failed(retries: number): boolean {
    this.#failed += 1
    return this.#failed > retries
  }

  /** Begins anew, as with another kind of segment. */
  restart(): void {
    this.#failed = 0
  }

  /** How long the answer took; `undefined` when nobody can say to which of several it was one (Karn's rule, RFC 6298 section 3). */
  roundTripMs(now: Instant): number | undefined {
    return this.#failed === 0 ? now - this.#firstAt : undefined
  }
}
