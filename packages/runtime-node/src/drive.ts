import type { Instant, Machine } from '@meshwright/core'

/** `setTimeout` fires at once for longer waits (a signed 32-bit number of milliseconds). */
const LONGEST_WAIT_MS = 2_147_483_647

/** A machine that is being driven: feed it, change it by its methods, stop it. */
export interface Driver<Input> {
  /** Feeds one event, performs what the machine then owes, and waits for its next deadline. */
  feed(input: Input): void
  /** Calls methods of the machine at the current time, then performs what it owes. */
  act<Result>(change: (now: Instant) => Result): Result
  /** Stops the timer; nothing is performed any more. */
  stop(): void
}

/**
 * Runs a machine in real time: drains its effects into `perform`, sets one timer to its deadline. What `perform` feeds back while
 * effects are being drained is queued behind them, so a machine is never entered twice.
 * @param lane does what the machine's fast lane owes; it is called after each drain, and the machine is drained again after it
 */
export function drive<Input, Output>(machine: Machine<Input, Output>, clock: () => Instant, perform: (output: Output) => void, lane?: (now: Instant) => void): Driver<Input> {
  let timer: NodeJS.Timeout | undefined
  let immediate: NodeJS.Immediate | undefined
  let timerDue: Instant | undefined
  let draining = false
  let stopped = false

  const next = (): Output | undefined => {
    const output = machine.pollOutput()
    if (output !== undefined || lane === undefined || stopped) return output
    lane(clock())
    return machine.pollOutput()
  }

  const settle = (): void => {
    if (draining) return
    draining = true
    try {
      for (let output = next(); output !== undefined && !stopped; output = next()) perform(output)
    } finally {
      // Also when `perform` throws: the machine's time goes on, and what it still owes is performed at the next turn.
      draining = false
      schedule()
    }
  }

  const schedule = (): void => {
    const due = stopped ? undefined : machine.pollTimeout()
    // A timer that fires too early is cheap, since deadlines mostly move away: one look, and a new wait. Setting it anew for each packet is not.
    if (immediate !== undefined && due !== undefined) return
    if (timer !== undefined && due !== undefined && timerDue !== undefined && timerDue <= due) return
    if (timer !== undefined) clearTimeout(timer)
    if (immediate !== undefined) clearImmediate(immediate)
    timer = undefined
    immediate = undefined
    timerDue = due
    if (due === undefined) return
    // Rounded up: a timer that fires a fraction early finds nothing due and would spin.
    const wait = due - clock()
    // What is due already waits for the events that are at hand, and no longer: `setTimeout` would wait a millisecond.
    if (wait <= 0) immediate ??= setImmediate(expire)
    else timer = setTimeout(expire, Math.min(LONGEST_WAIT_MS, Math.ceil(wait)))
  }

  const expire = (): void => {
    if (timer !== undefined) clearTimeout(timer)
    timer = undefined
    immediate = undefined
    timerDue = undefined
    if (stopped) return
    const due = machine.pollTimeout()
    const now = clock()
    if (due !== undefined && due > now) return schedule()
    machine.handleTimeout(now)
    settle()
  }

  settle()
  return {
    feed(input: Input): void {
      if (stopped) return
      machine.handleInput(clock(), input)
      settle()
    },
    act<Result>(change: (now: Instant) => Result): Result {
      const result = change(clock())
      settle()
      return result
    },
    stop(): void {
      stopped = true
      schedule()
    },
  }
}
