import type { NetInfo } from '@meshwright/control-protocol'
import { after, earlier, type Instant, Outbox, type RandomSource, type RelayMap, type RelayRegion } from '@meshwright/core'
import { type Endpoint, formatEndpoint, type Ip } from '@meshwright/ip'
import { HomeRelayChoice, Netcheck, type NetcheckReport } from '@meshwright/nat-traversal'

/** How often the network is looked at while packets flow: 20 s to 26 s (tailscale/tailscale:wgengine/magicsock/magicsock.go). */
export const RESTUN_MIN_MS = 20_000
const RESTUN_SPREAD_MS = 6_000
/** Until the first report there is no home; after this long any relay is better than none. */
export const PROVISIONAL_HOME_MS = 1_500

/** What the choice of a home relay owes. */
export type HomeRelayOutput =
  | { readonly type: 'stun'; readonly bytes: Uint8Array; readonly to: Endpoint }
  /** Look up a relay's name, and say `resolved`. */
  | { readonly type: 'resolveRelay'; readonly hostName: string }
  /** Time a connection with the region's relay over TCP, and say `relayMeasured`: UDP does not answer. */
  | { readonly type: 'measureRelay'; readonly region: RelayRegion }
  /** The network was looked at: home relay, facts for the control server, this node's addresses as relays see them. */
  | { readonly type: 'found'; readonly region: number; readonly netInfo: NetInfo; readonly mapped: readonly Endpoint[] }

/** Looks at the network from the node's own socket: chooses the home relay and learns how the world sees this node. */
export class HomeRelay {
  readonly #outbox: Outbox<HomeRelayOutput> = new Outbox()
  readonly #random: RandomSource
  readonly #isActive: (now: Instant) => boolean
  #netcheck: Netcheck
  #choice: HomeRelayChoice = new HomeRelayChoice()
  #map: RelayMap = { regions: new Map() }
  #scores: ReadonlyMap<number, number> | undefined
  #region = 0
  #udp = true
  #provisionalAt: Instant | undefined
  #nextLook: Instant | undefined
  #told = ''

  /** @param isActive whether packets flow: an idle node is quiet */
  constructor(options: { readonly random: RandomSource; readonly isActive: (now: Instant) => boolean }) {
    this.#random = options.random
    this.#isActive = options.isActive
    this.#netcheck = new Netcheck({ random: options.random })
  }

  /** The home region, 0 while none is known. */
  get region(): number {
    return this.#region
  }

  /** What the last look found. */
  get report(): NetcheckReport | undefined {
    return this.#netcheck.last
  }

  /** Takes the regions of the network map, and the server's wishes about them. */
  setMap(now: Instant, map: RelayMap, scores?: ReadonlyMap<number, number>): void {
    this.#scores = scores
    if (map === this.#map) return
    this.#map = map
    this.#netcheck.setRelayMap(map)
    if (this.#region !== 0 && !hasRelay(map.regions.get(this.#region))) this.#region = 0
    if (this.#region === 0 && this.#provisionalAt === undefined) {
      // With one region there is nothing to choose.
      if (this.#candidates().length === 1) this.#provisional()
      else this.#provisionalAt = after(now, PROVISIONAL_HOME_MS)
    }
    this.#look(now, true)
  }

  /** Whether UDP may be used at all. */
  setUdp(now: Instant, udp: boolean): void {
    this.#udp = udp
    this.#netcheck.setFamilies([4, 6], udp)
    this.restart(now)
  }

  /** Looks again from the beginning: the network has changed. */
  restart(now: Instant): void {
    if (this.#map.regions.size > 0) this.#look(now, true)
  }

  /** Someone wants fresh endpoints. */
  endpointsWanted(now: Instant): void {
    if (this.#map.regions.size > 0) this.#look(now, false)
  }

  /** Forgets everything: the node takes no part any more. */
  stop(): void {
    this.#netcheck = new Netcheck({ random: this.#random, udp: this.#udp })
    this.#choice = new HomeRelayChoice()
    this.#map = { regions: new Map() }
    this.#region = 0
    this.#provisionalAt = undefined
    this.#nextLook = undefined
    this.#told = ''
  }

  /** A STUN datagram came. */
  answered(now: Instant, bytes: Uint8Array, from: Endpoint): void {
    this.#netcheck.handleInput(now, { type: 'datagram', bytes, from })
    this.#drain(now)
  }

  /** A relay's name was looked up. */
  resolved(now: Instant, hostName: string, ips: readonly Ip[]): void {
    this.#netcheck.handleInput(now, { type: 'resolved', hostName, ips })
    this.#drain(now)
  }

  /** A connection with a region's relay was timed; `undefined`: it failed. */
  relayMeasured(now: Instant, region: number, latencyMs: number | undefined): void {
    this.#netcheck.handleInput(now, { type: 'httpsMeasured', region, latencyMs })
    this.#drain(now)
  }

  handleTimeout(now: Instant): void {
    this.#netcheck.handleTimeout(now)
    if (this.#provisionalAt !== undefined && now >= this.#provisionalAt) {
      this.#provisionalAt = undefined
      if (this.#region === 0) this.#provisional()
    }
    if (this.#nextLook !== undefined && now >= this.#nextLook) {
      this.#nextLook = after(now, this.#pause())
      if (this.#isActive(now)) this.#netcheck.start(now)
    }
    this.#drain(now)
  }

  pollOutput(): HomeRelayOutput | undefined {
    return this.#outbox.poll()
  }

  pollTimeout(): Instant | undefined {
    return earlier(earlier(this.#netcheck.pollTimeout(), this.#provisionalAt), this.#nextLook)
  }

  #look(now: Instant, full: boolean): void {
    this.#nextLook = after(now, this.#pause())
    this.#netcheck.start(now, full)
    this.#drain(now)
  }

  #pause(): number {
    return RESTUN_MIN_MS + ((this.#random(1)[0] ?? 0) / 256) * RESTUN_SPREAD_MS
  }

  #candidates(): readonly RelayRegion[] {
    const usable = [...this.#map.regions.values()].filter(hasRelay)
    const wanted = usable.filter((region) => region.avoid !== true && region.noMeasureNoHome !== true)
    return wanted.length > 0 ? wanted : usable
  }

  #provisional(): void {
    this.#region = this.#candidates()[0]?.id ?? 0
    this.#provisionalAt = undefined
    this.#outbox.push({ type: 'found', region: this.#region, netInfo: { PreferredDERP: this.#region }, mapped: [] })
  }

  #drain(now: Instant): void {
    for (let output = this.#netcheck.pollOutput(); output !== undefined; output = this.#netcheck.pollOutput()) {
      switch (output.type) {
        case 'transmit':
          this.#outbox.push({ type: 'stun', bytes: output.bytes, to: output.to })
          break
        case 'resolve':
          this.#outbox.push({ type: 'resolveRelay', hostName: output.hostName })
          break
        case 'measureHttps':
          this.#outbox.push({ type: 'measureRelay', region: output.region })
          break
        case 'report':
          this.#found(now, output.report)
          break
      }
    }
  }

  #found(now: Instant, report: NetcheckReport): void {
    const chosen = this.#choice.choose(now, report, { map: this.#map, ...(this.#scores === undefined ? {} : { scores: this.#scores }) })
    if (chosen !== undefined) this.#region = chosen
    else if (this.#region === 0) this.#region = this.#candidates()[0]?.id ?? 0
    this.#provisionalAt = undefined
    this.#netcheck.setHome(this.#region === 0 ? undefined : this.#region)
    const netInfo: NetInfo = {
      PreferredDERP: this.#region,
      WorkingUDP: report.udp,
      WorkingIPv6: report.ipv6,
      ...(report.mappingVariesByDestination === undefined ? {} : { MappingVariesByDestIP: report.mappingVariesByDestination }),
    }
    // Latencies change with every look; the control server is told of what matters, not of each millisecond.
    const facts = JSON.stringify([netInfo, report.mapped.map(formatEndpoint).sort()])
    const latency = Object.fromEntries(
      [...report.regions].flatMap(([id, { ipv4Ms, ipv6Ms }]) => [
        ...(ipv4Ms === undefined ? [] : [[`${id}-v4`, ipv4Ms / 1000] as const]),
        ...(ipv6Ms === undefined ? [] : [[`${id}-v6`, ipv6Ms / 1000] as const]),
      ]),
    )
    const known = facts === this.#told
    this.#told = facts
    if (known) this.#outbox.push({ type: 'found', region: this.#region, netInfo: {}, mapped: report.mapped })
    else this.#outbox.push({ type: 'found', region: this.#region, netInfo: { ...netInfo, DERPLatency: latency }, mapped: report.mapped })
  }
}

// A region whose servers all answer STUN alone helps to look at the network, and carries nothing.
function hasRelay(region: RelayRegion | undefined): boolean {
  return region?.nodes.some((node) => node.stunOnly !== true) === true
}
