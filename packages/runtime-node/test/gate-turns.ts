/** Turns that a test takes, and a clock that only work moves: for a gate. */
export class GateTurns {
  readonly #next: { readonly run: () => void; readonly done: () => void }[] = []
  readonly #later: { readonly at: number; readonly run: () => void }[] = []
  clock = 0

  now(): number {
    return this.clock
  }

  next(run: () => void, done: () => void): void {
    this.#next.push({ run, done })
  }

  later(ms: number, run: () => void): void {
    const at = this.clock + ms
    const later = this.#later.findIndex((each) => each.at > at)
    this.#later.splice(later < 0 ? this.#later.length : later, 0, { at, run })
  }

  /** One turn of the event loop, waiting for the timer that is due next when there is nothing else; whether there was something to do. */
  turn(): boolean {
    const next = this.#next.shift()
    if (next !== undefined) {
      next.run()
      next.done()
      return true
    }
    const timer = this.#later.shift()
    if (timer === undefined) return false
    this.clock = Math.max(this.clock, timer.at)
    timer.run()
    return true
  }
}
