import { after, earlier, formatHex, type Instant, type Machine, Outbox, type RandomSource, type RelayMap, type RelayNode, type RelayRegion } from '@meshwright/core'
import { type Endpoint, formatEndpoint, type Ip, type IpFamily, parseIp } from '@meshwright/ip'
import { decodeBindingAnswer, encodeBindingRequest, TRANSACTION_ID_BYTES } from '../stun/index.ts'
import { planProbes, type ProbeSet } from './probe-plan.ts'
import { type NetcheckReport, ReportBuilder } from './report.ts'

const STUN_PHASE_MS = 3_000
const HTTPS_PHASE_MS = 5_000
const FULL_INTERVAL_MS = 300_000
const ENOUGH_REGIONS = 3
/** With enough regions, stragglers get the slowest latency twice (once in an incremental run), and at least so long. */
const FULL_GRACE_MS = 250
const INCREMENTAL_GRACE_MS = 50
const DEFAULT_STUN_PORT = 3478

/** What a {@link Netcheck} is made of. */
export interface NetcheckConfig {
  readonly random: RandomSource
  /** Families that the host has sockets for; default both. */
  readonly families?: readonly IpFamily[]
  /** Whether UDP can be sent at all (default true); without it only HTTPS is measured. */
  readonly udp?: boolean
}

/** What comes in. */
export type NetcheckInput =
  /** A STUN datagram (see `classifyDatagram`) on a socket of the node. */
  | { readonly type: 'datagram'; readonly bytes: Uint8Array; readonly from: Endpoint }
  /** The answer to `resolve`; empty when the name has no address. */
  | { readonly type: 'resolved'; readonly hostName: string; readonly ips: readonly Ip[] }
  /** The answer to `measureHttps`; `undefined` when it failed. */
  | { readonly type: 'httpsMeasured'; readonly region: number; readonly latencyMs: number | undefined }

/** What a {@link Netcheck} owes. */
export type NetcheckOutput =
  /** Send from the node's own socket of that family, so that the answer tells how peers will see it. */
  | { readonly type: 'transmit'; readonly bytes: Uint8Array; readonly to: Endpoint }
  /** Look up a relay's name: the map gives no literal address. */
  | { readonly type: 'resolve'; readonly hostName: string }
  /** Time one `GET /derp/latency-check` on an open TLS connection to the region: UDP has not answered. */
  | { readonly type: 'measureHttps'; readonly region: RelayRegion }
  | { readonly type: 'report'; readonly report: NetcheckReport }

interface Waiting {
  readonly set: ProbeSet
  readonly server: string
  readonly sentAt: Instant
}

interface Planned {
  readonly at: Instant
  readonly set: ProbeSet
  readonly node: RelayNode
}

interface Run {
  readonly full: boolean
  readonly report: ReportBuilder
  readonly sets: readonly ProbeSet[]
  readonly answered: Set<ProbeSet>
  readonly inFlight: Map<string, Waiting>
  /** Sorted by time, the next one last. */
  readonly planned: Planned[]
  /** Regions whose HTTPS answer is awaited; `undefined` in the STUN phase. */
  https: Set<number> | undefined
  phaseEndsAt: Instant
}

/**
 * Looks at the network from the node's own sockets: which relays answer how fast, how the NAT maps us, whether UDP works.
 *
 * | state | event | next |
 * |---|---|---|
 * | idle | `start` | stun (or https without UDP) |
 * | stun | three regions (or all) answered and their grace is over, or 3 s | idle; `report` |
 * | stun | 3 s without any answer | https; `measureHttps` for every region |
 * | https | all answered, or 5 s | idle; `report` |
 *
 * One run at a time; a `start` during a run makes one more follow. Source: tailscale/tailscale:net/netcheck/netcheck.go.
 */
export class Netcheck implements Machine<NetcheckInput, NetcheckOutput> {
  readonly #outbox: Outbox<NetcheckOutput> = new Outbox()
  readonly #random: RandomSource
  readonly #resolved: Map<string, readonly Ip[] | undefined> = new Map()
  #families: readonly IpFamily[]
  #udp: boolean
  #map: RelayMap = { regions: new Map() }
  #home: number | undefined
  #last: NetcheckReport | undefined
  #lastFullAt: Instant | undefined
  #run: Run | undefined
  #again: 'full' | 'incremental' | undefined

  constructor(config: NetcheckConfig) {
    this.#random = config.random
    this.#families = config.families ?? [4, 6]
    this.#udp = config.udp !== false
  }

  get state(): 'idle' | 'stun' | 'https' {
    if (this.#run === undefined) return 'idle'
    return this.#run.https === undefined ? 'stun' : 'https'
  }

  /** The newest report. */
  get last(): NetcheckReport | undefined {
    return this.#last
  }

  /** The relays to measure. Takes effect with the next run, which is then a full one. */
  setRelayMap(map: RelayMap): void {
    this.#map = map
    this.#resolved.clear()
    this.#last = undefined
  }

  /** The home region, which every run measures. */
  setHome(region: number | undefined): void {
    this.#home = region
  }

  /** What the host can send. Takes effect with the next run, which is then a full one. */
  setFamilies(families: readonly IpFamily[], udp: boolean): void {
    this.#families = families
    this.#udp = udp
    this.#last = undefined
  }

  /** Looks now; `full` measures everything. Every five minutes a run is full anyway. */
  start(now: Instant, full: boolean = false): void {
    if (this.#run !== undefined) {
      this.#again = full || this.#again === 'full' ? 'full' : 'incremental'
      return
    }
    const isFull = full || this.#last === undefined || !this.#last.udp || this.#lastFullAt === undefined || now - this.#lastFullAt >= FULL_INTERVAL_MS
    if (isFull) this.#lastFullAt = now
    const base = isFull ? undefined : this.#last
    const sets = this.#udp
      ? planProbes({ map: this.#map, families: this.#families, ...(base !== undefined && { last: base }), ...(this.#home !== undefined && { homeRegion: this.#home }) })
      : []
    const planned = sets.flatMap((set) => set.probes.map(({ delayMs, node }): Planned => ({ at: after(now, delayMs), set, node })))
    planned.sort((a, b) => b.at - a.at)
    this.#run = {
      full: isFull,
      report: new ReportBuilder(now, isFull),
      sets,
      answered: new Set(),
      inFlight: new Map(),
      planned,
      https: undefined,
      phaseEndsAt: after(now, STUN_PHASE_MS),
    }
    if (sets.length === 0) this.#endStun(now, this.#run)
    else this.#sendDue(now, this.#run)
  }

  handleInput(now: Instant, input: NetcheckInput): void {
    if (input.type === 'datagram') this.#answer(now, input.bytes)
    else if (input.type === 'resolved') this.#resolve(now, input.hostName, input.ips)
    else this.#httpsMeasured(now, input.region, input.latencyMs)
  }

  handleTimeout(now: Instant): void {
    const run = this.#run
    const due = this.pollTimeout()
    if (run === undefined || due === undefined || now < due) return
    if (now >= run.phaseEndsAt) {
      if (run.https === undefined) this.#endStun(now, run)
      else this.#finish(now, run)
    } else {
      this.#sendDue(now, run)
    }
  }

  pollOutput(): NetcheckOutput | undefined {
    return this.#outbox.poll()
  }

  pollTimeout(): Instant | undefined {
    if (this.#run === undefined) return undefined
    return earlier(this.#run.phaseEndsAt, this.#run.https === undefined ? this.#run.planned.at(-1)?.at : undefined)
  }

  #sendDue(now: Instant, run: Run): void {
    for (let next = run.planned.at(-1); next !== undefined && next.at <= now; next = run.planned.at(-1)) {
      run.planned.pop()
      if (!this.#isNeedless(run, next.set)) this.#probe(now, run, next)
    }
  }

  /** The set has its answer, or everything is known that it could tell. */
  #isNeedless(run: Run, set: ProbeSet): boolean {
    if (run.answered.has(set)) return true
    return run.report.hasRegion(set.region) && run.report.hasFamily(6) && run.report.mappingVaries !== undefined
  }

  #probe(now: Instant, run: Run, planned: Planned): void {
    const { node, set } = planned
    const ip = this.#address(node, set.family)
    if (ip === undefined) return
    const to = { ip, port: node.stunPort === undefined || node.stunPort === 0 ? DEFAULT_STUN_PORT : node.stunPort }
    const transactionId = this.#random(TRANSACTION_ID_BYTES)
    run.inFlight.set(formatHex(transactionId), { set, server: formatEndpoint(to), sentAt: now })
    this.#outbox.push({ type: 'transmit', bytes: encodeBindingRequest(transactionId), to })
  }

  /** The literal address of the map, or what the name resolved to; asks for the name once. */
  #address(node: RelayNode, family: IpFamily): Ip | undefined {
    const literal = parseIp((family === 4 ? node.ipv4 : node.ipv6) ?? node.hostName)
    if (literal !== undefined) return literal.family === family ? literal : undefined
    if (!this.#resolved.has(node.hostName)) {
      this.#resolved.set(node.hostName, undefined)
      this.#outbox.push({ type: 'resolve', hostName: node.hostName })
    }
    return this.#resolved.get(node.hostName)?.find((ip) => ip.family === family)
  }

  /** Requests that waited for the name go out now. */
  #resolve(now: Instant, hostName: string, ips: readonly Ip[]): void {
    if (!this.#resolved.has(hostName)) return // not asked
    this.#resolved.set(hostName, ips)
    const run = this.#run
    if (run === undefined || run.https !== undefined) return
    for (const set of run.sets) {
      const probe = set.probes.find(({ node }) => node.hostName === hostName)
      const sent = [...run.inFlight.values()].some((waiting) => waiting.set === set)
      if (probe !== undefined && !sent && !run.answered.has(set)) this.#probe(now, run, { at: now, set, node: probe.node })
    }
  }

  #answer(now: Instant, bytes: Uint8Array): void {
    const run = this.#run
    const answer = run && decodeBindingAnswer(bytes)
    if (run === undefined || answer?.type !== 'mapped') return
    const waiting = run.inFlight.get(formatHex(answer.transactionId))
    if (waiting === undefined) return
    run.inFlight.delete(formatHex(answer.transactionId))
    run.answered.add(waiting.set)
    const key = formatEndpoint(answer.endpoint)
    run.report.stun(waiting.set.region, waiting.server, waiting.set.family, now - waiting.sentAt, answer.endpoint, key)
    if (run.https !== undefined) return
    const regions = new Set(run.sets.map((set) => set.region)).size
    if (run.answered.size === run.sets.length) return this.#finish(now, run)
    if (run.report.answeredRegions < Math.min(ENOUGH_REGIONS, regions)) return
    const grace = run.full ? Math.max(FULL_GRACE_MS, 2 * run.report.greatestLatencyMs) : Math.max(INCREMENTAL_GRACE_MS, run.report.greatestLatencyMs)
    const end = after(now, grace)
    if (end < run.phaseEndsAt) run.phaseEndsAt = end
  }

  #endStun(now: Instant, run: Run): void {
    const regions = [...this.#map.regions.values()].filter((region) => region.noMeasureNoHome !== true && region.nodes.some((node) => node.stunOnly !== true))
    if (run.report.answeredRegions > 0 || regions.length === 0) return this.#finish(now, run)
    run.https = new Set(regions.map((region) => region.id))
    run.phaseEndsAt = after(now, HTTPS_PHASE_MS)
    for (const region of regions) this.#outbox.push({ type: 'measureHttps', region })
  }

  #httpsMeasured(now: Instant, region: number, latencyMs: number | undefined): void {
    const run = this.#run
    if (run?.https === undefined || !run.https.delete(region)) return
    if (latencyMs !== undefined) run.report.https(region, latencyMs)
    if (run.https.size === 0) this.#finish(now, run)
  }

  #finish(now: Instant, run: Run): void {
    this.#run = undefined
    this.#last = run.report.finish(now)
    this.#outbox.push({ type: 'report', report: this.#last })
    const again = this.#again
    this.#again = undefined
    if (again !== undefined) this.start(now, again === 'full')
  }
}
