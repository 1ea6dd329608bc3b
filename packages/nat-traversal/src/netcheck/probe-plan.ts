import type { RelayMap, RelayNode, RelayRegion } from '@meshwright/core'
import type { IpFamily } from '@meshwright/ip'
import type { NetcheckReport } from './report.ts'

/** One STUN request that is to be sent. */
export interface Probe {
  /** After the start of the run. */
  readonly delayMs: number
  readonly node: RelayNode
}

/** Requests to one region over one family: the first answer makes the rest needless. */
export interface ProbeSet {
  readonly region: number
  readonly family: IpFamily
  readonly probes: readonly Probe[]
}

/** What the plan depends on. */
export interface ProbePlanInput {
  readonly map: RelayMap
  /** Families that the host has. */
  readonly families: readonly IpFamily[]
  /** The report to build on; absent: measure everything. */
  readonly last?: NetcheckReport
  readonly homeRegion?: number
}

const FULL_TRIES = 3
const FULL_SPACING_MS = 100
const FAST_REGIONS = 3
const FASTEST_REGIONS = 2
const HOME_TRIES = 4
const DEFAULT_LATENCY_MS = 200
const RETRY_FACTOR = 1.2
const RETRY_EXTRA_MS = 50

/**
 * Which requests to send when (tailscale/tailscale:net/netcheck/netcheck.go, makeProbePlan). Full: three to every region and family, 100 ms
 * apart. Incremental: the three fastest regions and the home, once or twice (the home four times), spaced by their last latency.
 */
export function planProbes(input: ProbePlanInput): ProbeSet[] {
  const regions = [...input.map.regions.values()].filter((region) => region.noMeasureNoHome !== true && (region.avoid !== true || region.id === input.homeRegion))
  const last = input.last
  if (last === undefined || last.regions.size === 0) {
    return regions.flatMap((region) => input.families.map((family) => planSet(region, family, FULL_TRIES, (k) => k * FULL_SPACING_MS))).filter(hasProbes)
  }
  const latencyOf = (region: RelayRegion): number => last.regions.get(region.id)?.latencyMs ?? Infinity
  const sorted = regions.toSorted((a, b) => latencyOf(a) - latencyOf(b))
  const sets: ProbeSet[] = []
  sorted.forEach((region, rank) => {
    const home = region.id === input.homeRegion
    if (rank >= FAST_REGIONS && !home) return
    const latency = Number.isFinite(latencyOf(region)) ? latencyOf(region) : DEFAULT_LATENCY_MS
    const tries = home ? HOME_TRIES : rank < FASTEST_REGIONS ? 2 : 1
    const delay = (k: number): number => k * RETRY_FACTOR * latency + (k > 1 ? k * RETRY_EXTRA_MS : 0)
    const bothWorked = last.ipv4 && last.ipv6
    for (const family of input.families) {
      if (family === 6 && !last.ipv6) continue // did not work before: the next full report tries again
      if (rank === FAST_REGIONS - 1 && bothWorked && !home && family !== (Math.floor(last.startedAt) % 2 === 0 ? 4 : 6)) continue
      sets.push(planSet(region, family, tries, delay))
    }
  })
  return sets.filter(hasProbes)
}

/** True when STUN can be asked of the node over that family. */
export function supportsStun(node: RelayNode, family: IpFamily): boolean {
  return node.stunPort !== -1 && (family === 4 ? node.ipv4 : node.ipv6) !== 'none'
}

function planSet(region: RelayRegion, family: IpFamily, tries: number, delay: (k: number) => number): ProbeSet {
  const nodes = region.nodes.filter((node) => supportsStun(node, family))
  const probes: Probe[] = []
  for (let k = 0; k < tries; k += 1) {
    const node = nodes[k % Math.max(1, nodes.length)]
    if (node !== undefined) probes.push({ delayMs: delay(k), node })
  }
  return { region: region.id, family, probes }
}

function hasProbes(set: ProbeSet): boolean {
  return set.probes.length > 0
}
