/** What handshakes may take of a turn before everybody else has theirs. */
const TURN_MS = 4

/** What a queue measures time with and waits for its turn by. */
export interface Turns {
  now(): number
  /** Calls back when everything that is ready now has been served. */
  next(run: () => void): void
}

const REAL: Turns = { now: () => performance.now(), next: (run) => void setImmediate(run) }

/**
 * Handshakes wait here, because they are what strangers can make a server compute. Every turn of the event loop works on them for a few
 * milliseconds and then serves the connections that stand, so a flood of handshakes slows nothing but handshakes; sources take turns, so
 * it slows mostly its own. The connections that wait are bounded by who counts newcomers.
 */
export class HandshakeQueue {
  readonly #bySource = new Map<string, (() => void)[]>()
  readonly #turns: Turns
  #size = 0
  #scheduled = false

  constructor(turns: Turns = REAL) {
    this.#turns = turns
  }

  /** How many wait. */
  get size(): number {
    return this.#size
  }

  /** Puts a handshake in; `work` must not throw. */
  add(source: string, work: () => void): void {
    const waiting = this.#bySource.get(source)
    if (waiting === undefined) this.#bySource.set(source, [work])
    else waiting.push(work)
    this.#size += 1
    this.#schedule()
  }

  #schedule(): void {
    if (this.#scheduled || this.#size === 0) return
    this.#scheduled = true
    this.#turns.next(() => {
      this.#scheduled = false
      this.#turn()
      this.#schedule()
    })
  }

  #turn(): void {
    const until = this.#turns.now() + TURN_MS
    do {
      const first = this.#bySource.entries().next().value
      if (first === undefined) return
      const [source, waiting] = first
      const work = waiting.shift()
      // To the end of the row: the others come first now.
      this.#bySource.delete(source)
      if (waiting.length > 0) this.#bySource.set(source, waiting)
      if (work === undefined) continue
      this.#size -= 1
      work()
    } while (this.#turns.now() < until)
  }
}
