/** How a worker that died is started again. */
export interface Restart {
  /** So long from now, in milliseconds; 0 for at once. */
  readonly afterMs: number
  /** Without any offload: a packet and a datagram for each system call. */
  readonly withoutOffloads: boolean
}

/** Deaths in a row after which something else is tried. */
export const QUICK_RESTARTS = 5
/** A worker that lived for so long has no death in a row before its own. */
export const LIVED_MS = 60_000
const FIRST_PAUSE_MS = 1_000
const LONGEST_PAUSE_MS = 60_000

/**
 * What becomes of a worker that dies again and again: whoever carries packets is never given up, but what may be the reason is left out, and
 * then the tries become rarer. Pure: times are told.
 *
 * | deaths in a row, each within a minute of the start | then |
 * |---|---|
 * | 1 to 5 | started again at once |
 * | 6, with offloads | at once, and without offloads from now on: those of rows are the larger part of a lane's own code |
 * | 1 to 5 since then | at once |
 * | 6 and more, without offloads | after 1 s, 2 s, 4 s and so on, a minute at most |
 */
export class RestartPlan {
  #mayStepDown: boolean
  #isSteppedDown = false
  #inARow = 0

  /** @param hasOffloads whether there are any that could be left out */
  constructor(hasOffloads: boolean) {
    this.#mayStepDown = hasOffloads
  }

  /** How many died in a row, each within a minute of its start. */
  get inARow(): number {
    return this.#inARow
  }

  /** Whether offloads are left out since workers died with them. */
  get isSteppedDown(): boolean {
    return this.#isSteppedDown
  }

  /** A worker died, `livedMs` after its start. */
  died(livedMs: number): Restart {
    this.#inARow = livedMs >= LIVED_MS ? 1 : this.#inARow + 1
    if (this.#inARow <= QUICK_RESTARTS) return { afterMs: 0, withoutOffloads: this.#isSteppedDown }
    if (this.#mayStepDown) {
      this.#mayStepDown = false
      this.#isSteppedDown = true
      this.#inARow = 0
      return { afterMs: 0, withoutOffloads: true }
    }
    return { afterMs: Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (this.#inARow - QUICK_RESTARTS - 1)), withoutOffloads: this.#isSteppedDown }
  }
}

/** A line for a log: what is done about a death. */
export function restartLine(why: string, restart: Restart, isStep: boolean): string {
  const died = `the data plane died (${why})`
  if (restart.afterMs > 0) return `${died}, again and again: it is started again in ${restart.afterMs / 1000} s; no packets pass until then`
  return `${died}: it is started again${isStep ? ', without offloads since it died with them again and again' : ''}, and sessions are made anew`
}
