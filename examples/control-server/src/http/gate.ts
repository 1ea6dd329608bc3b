import { FairShare } from '@meshwright/control-server'
import { type Instant, instant } from '@meshwright/core'

/** What an address is trusted with from which a registered machine came: a thousand reconnections at once. */
const SITE_ALLOWANCE = { atOnceMs: 1_000, share: 0.05 }
/** What a registered machine may cost: far more than any client asks for. */
const MACHINE_ALLOWANCE = { atOnceMs: 200, share: 0.1 }

/** What the way from its first connection to the proof of its key costs a registered machine that is not known here yet, roughly. */
const ARRIVAL_MS = 2

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
  later: (ms, run) => void setTimeout(run, ms),
}

/**
 * All work that strangers can cause goes through here: handshakes, requests, and every few hundred bytes of what they say on a connection.
 * A turn of the event loop does one piece of it, at most, and serves the connections of known machines before the next; its time is
 * measured, and while known machines have work, strangers get a tenth of it ({@link FairShare}). Who turns out to be a registered machine
 * gives back what its arrival took of that, so that those who all come again at once hold each other up by no more than what they cost.
 */
export class Gate {
  readonly #share: FairShare<() => void> = new FairShare()
  readonly #turns: Turns
  #armed = false
  #besideMs = 0

  constructor(turns: Turns = REAL) {
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

  /** A registered machine came, from this address. */
  trust(machineKey: string, address: string): void {
    const now = this.#now()
    if (this.#share.trust(now, machineKey, MACHINE_ALLOWANCE)) this.#share.refund(now, ARRIVAL_MS)
    this.#share.trust(now, address, SITE_ALLOWANCE)
  }

  /** Whether work for a registered machine may be done at once, beside the gate: then strangers get out of the way for a while. */
  admits(machineKey: string): boolean {
    const now = this.#now()
    this.#share.busy(now)
    return this.#share.trusts(now, machineKey)
  }

  /** What work beside the gate has cost, in milliseconds. */
  spent(machineKey: string, ms: number): void {
    this.#share.spent(this.#now(), machineKey, ms)
  }

  #arm(): void {
    if (this.#armed) return
    const now = this.#now()
    const due = this.#share.nextAt(now)
    if (due === undefined) return
    this.#armed = true
    if (due > now) this.#turns.later(due - now, () => this.#again())
    else this.#turn()
  }

  #again(): void {
    this.#armed = false
    this.#arm()
  }

  #turn(): void {
    let begun: Instant | undefined
    this.#turns.next(
      () => {
        const now = this.#now()
        const work = this.#share.next(now)
        if (work === undefined) return
        begun = now
        work()
      },
      () => {
        const now = this.#now()
        if (begun !== undefined) this.#share.charge(now, now - begun + this.#besideMs)
        this.#besideMs = 0
        this.#again()
      },
    )
  }

  #now(): Instant {
    return instant(this.#turns.now())
  }
}
