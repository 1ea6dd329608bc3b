import { performance } from 'node:perf_hooks'
import { type Instant, instant } from '@meshwright/core'

/** How far the wall clock may run ahead of the monotonic one between two readings before that counts as suspended time. */
const SUSPEND_THRESHOLD_MS = 5_000

/**
 * A monotonic clock that counts suspended time: a laptop that slept must find its sessions expired. Node's monotonic clock stands
 * still during suspend on Linux, so a wall clock that runs ahead by more than 5 s between two readings is taken as sleep. (An operator
 * who sets the clock forward expires sessions early; they are made again at once. Setting it back changes nothing.)
 * @param onSleep is told, from within a reading, how long it slept
 */
export function suspendAwareClock(monotonicMs: () => number = () => performance.now(), wallMs: () => number = () => Date.now(), onSleep?: (ms: number) => void): () => Instant {
  let slept = 0
  let lastMonotonic = monotonicMs()
  let lastWall = wallMs()
  return () => {
    const monotonic = monotonicMs()
    const wall = wallMs()
    const ahead = wall - lastWall - (monotonic - lastMonotonic)
    lastMonotonic = monotonic
    lastWall = wall
    if (ahead > SUSPEND_THRESHOLD_MS) {
      slept += ahead
      onSleep?.(ahead)
    }
    return instant(monotonic + slept)
  }
}
