import type { Instant, RelayMap } from '@meshwright/core'
import type { NetcheckReport } from './report.ts'

/** A report counts for the choice this long. */
const HISTORY_MS = 305_000
/** The old home stays when the best region is less than this much faster. */
const LEAST_GAIN_MS = 10
/** The old home stays when the best region needs more than this part of its latency. */
const GAIN_RATIO = 2 / 3
/** A frame from the home relay proves for this long that it is accessible. */
const RECENT_FRAME_MS = 8_000
/** With nothing measured, a home that sent a frame within two keep-alives is kept. */
const ALIVE_FRAME_MS = 120_000

/** What the choice depends on beside reports. */
export interface HomeChoiceOptions {
  readonly map: RelayMap
  /** When a relay frame of a region last came. */
  lastFrameAt?(region: number): Instant | undefined
  /** Factors on latencies by region, from the control server; less than 1 favours. Default 1. */
  readonly scores?: ReadonlyMap<number, number>
  /** The region that an administrator wants. */
  readonly forced?: number
}

/**
 * Chooses the home relay region, with hysteresis (tailscale/tailscale:net/netcheck/netcheck.go, addReportHistoryAndSetPreferredDERP). The
 * home does not move for a few milliseconds, since every move interrupts peers that reach us by relay.
 */
export class HomeRelayChoice {
  readonly #history: NetcheckReport[] = []
  #home: number | undefined

  /** The present home; `undefined` before any choice. */
  get home(): number | undefined {
    return this.#home
  }

  /** Takes a report into account and gives the home; `undefined` when there is none to have. */
  choose(now: Instant, report: NetcheckReport, options: HomeChoiceOptions): number | undefined {
    this.#history.push(report)
    while (this.#history[0] !== undefined && now - this.#history[0].finishedAt > HISTORY_MS) this.#history.shift()
    this.#home = this.#select(now, report, options)
    return this.#home
  }

  #select(now: Instant, report: NetcheckReport, options: HomeChoiceOptions): number | undefined {
    const heardWithin = (region: number, ms: number): boolean => {
      const at = options.lastFrameAt?.(region)
      return at !== undefined && (now - at <= ms || at >= report.startedAt)
    }
    const usable = (id: number): boolean => {
      const region = options.map.regions.get(id)
      return region !== undefined && region.noMeasureNoHome !== true && (region.avoid !== true || id === this.#home) && region.nodes.some((node) => node.stunOnly !== true)
    }
    if (options.forced !== undefined && usable(options.forced) && (report.regions.has(options.forced) || heardWithin(options.forced, RECENT_FRAME_MS))) return options.forced
    let best: number | undefined
    let bestMs = Infinity
    for (const id of report.regions.keys()) {
      const latency = usable(id) ? this.#bestLately(id) * positive(options.scores?.get(id)) : Infinity
      if (latency < bestMs) {
        best = id
        bestMs = latency
      }
    }
    const old = this.#home !== undefined && usable(this.#home) ? this.#home : undefined
    if (best === undefined) {
      if (old !== undefined && heardWithin(old, ALIVE_FRAME_MS)) return old
      return old ?? [...options.map.regions.keys()].find(usable)
    }
    if (old === undefined || old === best) return best
    const oldMs = report.regions.get(old)?.latencyMs
    if (oldMs === undefined) return heardWithin(old, RECENT_FRAME_MS) ? old : best
    const scored = oldMs * positive(options.scores?.get(old))
    return scored - bestMs < LEAST_GAIN_MS || bestMs > scored * GAIN_RATIO ? old : best
  }

  #bestLately(region: number): number {
    let best = Infinity
    for (const report of this.#history) best = Math.min(best, report.regions.get(region)?.latencyMs ?? Infinity)
    return best
  }
}

function positive(score: number | undefined): number {
  return score !== undefined && score > 0 ? score : 1
}
