import { type Instant, instant } from '@meshwright/core'
import { type Allowance, FairShare, type FairShareLimits } from './fair-share.ts'

/** So long a turn goes on with the work of those who are trusted; of strangers it does one piece. */
const TURN_MS = 0.25

/** What a gate measures time with and waits for its turn by. */
export interface Turns {
  now(): number
  /** Calls `run` when everything that is ready now has been served, and `done` when all that `run` has set going at once is done as well. */
  next(run: () => void, done: () => void): void
  later(ms: number, run: () => void): void
}

const REAL: Turns = {
  now: () => performance.now(),
  next: (run, done) => {
    // Two of one turn: between them Node runs what the first has put off (ticks and microtasks), and nothing else.
    setImmediate(run)
    setImmediate(done)
  },
  later: (ms, run) => void setTimeout(run, ms).unref(),
}

/**
 * Shares out the time of the thread that strangers want of a server: all work that they can cause goes through here, cut into pieces of a
 * fraction of a millisecond. A turn of the event loop does one piece of a stranger's work, at most, and serves everything else that is ready
 * before the next; its time is measured, and while those who are known have work, strangers get a share of it ({@link FairShare}).
 */
export class Gate {
  readonly #share: FairShare<() => void>
  readonly #turns: Turns
  /** A turn is coming, or the time when one may begin. */
  #armed: 'turn' | 'wait' | undefined
  #due: Instant = instant(0)
  #besideMs = 0

  constructor(limits: FairShareLimits = {}, turns: Turns = REAL) {
    this.#share = new FairShare(limits)
    this.#turns = turns
  }

  /** How many pieces of work wait. */
  get size(): number {
    return this.#share.size
  }

  /** Puts a piece of work in, for an address or a machine; `work` must not throw. */
  add(source: string, work: () => void): void {
    this.#share.add(this.#now(), source, work)
    this.#arm()
  }

  /** What the piece of work that is being done costs beside what is measured of it, because it sets something going that comes later. */
  beside(ms: number): void {
    this.#besideMs += ms
  }

  /** From here on a source is trusted with an allowance; `false`: it was already, and keeps what it has used. */
  trust(source: string, allowance: Allowance): boolean {
    return this.#share.trust(this.#now(), source, allowance)
  }

  /** Gives strangers time back: somebody whose arrival was charged to them has turned out to be known. */
  refund(ms: number): void {
    this.#share.refund(this.#now(), ms)
  }

  /** Calls `run` so many milliseconds later, unless nothing else keeps the process alive. */
  later(ms: number, run: () => void): void {
    this.#turns.later(ms, run)
  }

  /** Who is known has work: strangers get their share alone for a while. */
  busy(): void {
    this.#share.busy(this.#now())
  }

  /** Whether work for somebody who is known may be done at once, beside the gate: then strangers get out of the way for a while. */
  admits(source: string): boolean {
    const now = this.#now()
    this.#share.busy(now)
    return this.#share.trusts(now, source)
  }

  /** Does work for somebody who is known at once, if their allowance lasts, and charges what it costs; `false`: it does not, and nothing was done. */
  atOnce(source: string, besideMs: number, work: () => void): boolean {
    if (!this.admits(source)) return false
    const begun = this.#now()
    work()
    this.#share.spent(this.#now(), source, this.#now() - begun + besideMs)
    return true
  }

  /** What work beside the gate has cost, in milliseconds. */
  spent(source: string, ms: number): void {
    this.#share.spent(this.#now(), source, ms)
  }

  #arm(): void {
    if (this.#armed === 'turn') return
    const now = this.#now()
    const due = this.#share.nextAt(now)
    if (due === undefined) return
    if (due <= now) {
      this.#armed = 'turn'
      return this.#turn()
    }
    if (this.#armed === 'wait' && this.#due <= due) return
    this.#armed = 'wait'
    this.#due = due
    this.#turns.later(due - now, () => {
      // Somebody who need not wait may have come meanwhile: then this wait is over, and was set anew behind their turn.
      if (this.#armed === 'wait' && this.#due === due) this.#again()
    })
  }

  #again(): void {
    this.#armed = undefined
    this.#arm()
  }

  #turn(): void {
    let begun: Instant | undefined
    this.#turns.next(
      () => {
        const until = this.#turns.now() + TURN_MS
        for (let now = this.#now(); ; now = this.#now()) {
          if (begun !== undefined) {
            if (now >= until || !this.#share.isTrustedNext(now)) return // charged when all that it set going is done
            this.#charge(now, begun)
          }
          const work = this.#share.next(now)
          begun = work && now
          if (work === undefined) return
          work()
        }
      },
      () => {
        if (begun !== undefined) this.#charge(this.#now(), begun)
        this.#again()
      },
    )
  }

  #charge(now: Instant, begun: Instant): void {
    this.#share.charge(now, now - begun + this.#besideMs)
    this.#besideMs = 0
  }

  #now(): Instant {
    return instant(this.#turns.now())
  }
}
