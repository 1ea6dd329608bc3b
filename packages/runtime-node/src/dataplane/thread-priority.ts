import os from 'node:os'

/**
 * How nice the thread of a lane is (nice(2)): about nine times the share of an ordinary thread where processors are short, and a tenth is
 * left to each other one, so that even a flood starves nobody.
 */
export const LANE_NICE = -10

/** Reads and sets how nice the calling thread is; throws where it may not be set. */
export interface ThreadNice {
  get(): number
  set(nice: number): void
}

/** Of Linux: 0 names the calling thread, not its process (setpriority(2)). */
const own: ThreadNice = { get: () => os.getPriority(0), set: (nice) => os.setPriority(0, nice) }

/**
 * Asks for more processor time for the calling thread than programs have. Each packet that it sends wakes somebody up, who would push it
 * aside where processors are short: then packets of all peers wait for the few that have just got theirs, TCP takes the waiting for a long
 * way, and sends short rows, which cost more.
 *
 * Whoever was started with a niceness of its own keeps it, and so does who may not raise it (CAP_SYS_NICE). Gives how nice the thread is now.
 */
export function raisePriority(thread: ThreadNice = own): number {
  const before = thread.get()
  if (before !== 0) return before
  try {
    thread.set(LANE_NICE)
  } catch {
    return before // not permitted: it works as well, only with less
  }
  return thread.get()
}
