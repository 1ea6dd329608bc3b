import { readFileSync } from 'node:fs'
import os from 'node:os'

/** How nice the thread of a lane is (nice(2)): where processors are short it comes before programs. */
export const LANE_NICE = -15
const ORDINARY_NICE = 0
/** Rows for so many peers were put together at the same time: the thread is the hub of many. */
export const MANY_PEERS = 4
/** So many looks it is taken for that after it was last seen to be. */
const HUB_LOOKS = 8
/** A thread that has run for more than this share of the time since the last look has hardly ever waited for work. */
const GREEDY_SHARE = 0.9
/** So many looks a greedy thread is like any other. */
const PENANCE_LOOKS = 2

/** The calling thread, as its priority needs to know it. */
export interface LaneThreadTime {
  /** How nice it is. */
  nice(): number
  /** Throws where that is not permitted. */
  setNice(nice: number): void
  /** Milliseconds that it has run so far, whoever else ran in its process; `undefined` where nobody counts them. */
  ranMs(): number | undefined
  /** Milliseconds that have passed. */
  now(): number
}

/** Of Linux: 0 names the calling thread, not its process (setpriority(2)); the first number of schedstat is nanoseconds (proc_pid_schedstat(5)). */
const own: LaneThreadTime = {
  nice: () => os.getPriority(0),
  setNice: (nice) => os.setPriority(0, nice),
  ranMs: () => {
    try {
      const nanoseconds = Number.parseInt(readFileSync('/proc/thread-self/schedstat', 'latin1'), 10)
      return Number.isNaN(nanoseconds) ? undefined : nanoseconds / 1e6
    } catch {
      return undefined // no such file here
    }
  },
  now: () => performance.now(),
}

/**
 * Keeps the thread of a lane that serves many peers at a time before the programs that it works for. Each row that it sends wakes somebody
 * up, who would push it aside where processors are short: then the packets of all peers wait for the few that have just got theirs, TCP
 * takes the waiting for a long way, and sends short rows, which cost more. With one peer the two ends of a flow do better as equals.
 *
 * A thread that works all the time, as in a flood, is put among the others for {@link PENANCE_LOOKS} looks, so that it starves nobody.
 * Whoever was started with a niceness of its own keeps it, and so does who may not raise it (CAP_SYS_NICE).
 */
export class ThreadPriority {
  readonly #thread: LaneThreadTime
  #isRaised = false
  #mayRaise = true
  #hub = 0
  #penance = 0
  #ranMs: number | undefined
  #lookedAt = 0

  constructor(thread: LaneThreadTime = own) {
    this.#thread = thread
  }

  /**
   * Raises the calling thread, or puts it among the others; to be called a few times a second, always by the thread itself.
   * @param peersAtOnce for how many peers rows were put together at the same time, at most, since the last look
   */
  look(peersAtOnce: number): void {
    this.#hub = peersAtOnce >= MANY_PEERS ? HUB_LOOKS : Math.max(0, this.#hub - 1)
    if (!this.#mayRaise || (this.#hub === 0 && !this.#isRaised)) return
    const ranMs = this.#thread.ranMs()
    const now = this.#thread.now()
    const isGreedy = this.#isRaised && ranMs !== undefined && this.#ranMs !== undefined && ranMs - this.#ranMs > GREEDY_SHARE * (now - this.#lookedAt)
    this.#penance = isGreedy ? PENANCE_LOOKS : Math.max(0, this.#penance - 1)
    this.#ranMs = ranMs
    this.#lookedAt = now
    this.#set(ranMs !== undefined && this.#hub > 0 && this.#penance === 0)
  }

  #set(isRaised: boolean): void {
    if (isRaised === this.#isRaised) return
    try {
      if (isRaised && this.#thread.nice() !== ORDINARY_NICE) this.#mayRaise = false
      else this.#thread.setNice(isRaised ? LANE_NICE : ORDINARY_NICE)
      this.#isRaised = isRaised && this.#mayRaise
    } catch {
      this.#mayRaise = false // not permitted: it works as well, only with less
    }
  }
}
