import { after, type Instant, instant, type Machine } from '@meshwright/core'

/** A clock that moves only when told: time in tests costs nothing and is the same in every run. */
export class VirtualClock {
  #now: Instant
  readonly #unixStart: number

  /** @param startMs first instant; @param unixStartMs what the wall clock shows then (default 2026-01-01T00:00:00Z) */
  constructor(startMs: number = 0, unixStartMs: number = 1_767_225_600_000) {
    this.#now = instant(startMs)
    this.#unixStart = unixStartMs - startMs
  }

  /** The current instant. */
  get now(): Instant {
    return this.#now
  }

  /** The wall clock that belongs to it. */
  readonly wallClock: () => number = () => this.#unixStart + this.#now

  /** Moves forward by `ms`. */
  advance(ms: number): Instant {
    if (ms < 0) throw new RangeError('time does not go back')
    this.#now = after(this.#now, ms)
    return this.#now
  }

  /** Moves to `to`, or stays when that is past. */
  advanceTo(to: Instant): Instant {
    if (to > this.#now) this.#now = to
    return this.#now
  }
}

/** All effects that a machine owes now, oldest first. */
export function drain<Output>(machine: Machine<never, Output>): Output[] {
  const outputs: Output[] = []
  for (let output = machine.pollOutput(); output !== undefined; output = machine.pollOutput()) outputs.push(output)
  return outputs
}

/**
 * Runs a machine alone until `until` or until it has no deadline: jumps from deadline to deadline, gives every effect with its time.
 * Fails when a deadline does not move (a busy loop).
 */
export function runTimers<Output>(machine: Machine<never, Output>, clock: VirtualClock, until: Instant): { at: Instant; output: Output }[] {
  const seen: { at: Instant; output: Output }[] = []
  let stuck = 0
  for (;;) {
    for (const output of drain(machine)) seen.push({ at: clock.now, output })
    const due = machine.pollTimeout()
    if (due === undefined || due > until) {
      clock.advanceTo(until)
      return seen
    }
    stuck = due <= clock.now ? stuck + 1 : 0
    if (stuck > 1000) throw new Error(`busy loop: the deadline ${due} does not move past ${clock.now}`)
    clock.advanceTo(due)
    machine.handleTimeout(clock.now)
  }
}
