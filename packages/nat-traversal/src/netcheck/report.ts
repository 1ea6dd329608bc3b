import type { Instant } from '@meshwright/core'
import type { Endpoint, IpFamily } from '@meshwright/ip'

/** Round trips to one relay region, in milliseconds. */
export interface RegionLatency {
  /** The least of all ways of measuring. */
  readonly latencyMs: number
  /** By STUN over IPv4 and IPv6; absent where that family did not answer. */
  readonly ipv4Ms?: number
  readonly ipv6Ms?: number
  /** By HTTPS, where UDP did not work. */
  readonly httpsMs?: number
}

/** What one look at the network found. */
export interface NetcheckReport {
  readonly startedAt: Instant
  readonly finishedAt: Instant
  readonly full: boolean
  /** Any STUN answer came. */
  readonly udp: boolean
  readonly ipv4: boolean
  readonly ipv6: boolean
  /** Our endpoints as relays see them: the first of each family, then those that more than one relay saw. */
  readonly mapped: readonly Endpoint[]
  /** True: our NAT gives another endpoint for another destination (IPv4; address-dependent or worse). Absent: fewer than two relays answered. */
  readonly mappingVariesByDestination: boolean | undefined
  readonly regions: ReadonlyMap<number, RegionLatency>
}

/** Collects the answers of one run. */
export class ReportBuilder {
  readonly #startedAt: Instant
  readonly #full: boolean
  readonly #regions: Map<number, RegionLatency> = new Map()
  /** By text of the endpoint: how many relays saw it. */
  readonly #seen: Map<string, { readonly endpoint: Endpoint; count: number }> = new Map()
  #firstIpv4: string | undefined
  #ipv4Servers: Set<string> = new Set()
  #varies = false

  constructor(startedAt: Instant, full: boolean) {
    this.#startedAt = startedAt
    this.#full = full
  }

  /** How many regions have any latency. */
  get answeredRegions(): number {
    return this.#regions.size
  }

  /** The greatest of the regions' latencies. */
  get greatestLatencyMs(): number {
    let greatest = 0
    for (const region of this.#regions.values()) greatest = Math.max(greatest, region.latencyMs)
    return greatest
  }

  get mappingVaries(): boolean | undefined {
    return this.#ipv4Servers.size < 2 ? undefined : this.#varies
  }

  hasRegion(region: number): boolean {
    return this.#regions.has(region)
  }

  hasFamily(family: IpFamily): boolean {
    for (const region of this.#regions.values()) if ((family === 4 ? region.ipv4Ms : region.ipv6Ms) !== undefined) return true
    return false
  }

  /** A STUN answer: from which server (its text), over which family, and the endpoint that it saw. */
  stun(region: number, server: string, family: IpFamily, latencyMs: number, endpoint: Endpoint, key: string): void {
    const before = this.#regions.get(region)
    const best = Math.min(latencyMs, before?.latencyMs ?? Infinity)
    if (family === 4) this.#regions.set(region, { ...before, latencyMs: best, ipv4Ms: Math.min(latencyMs, before?.ipv4Ms ?? Infinity) })
    else this.#regions.set(region, { ...before, latencyMs: best, ipv6Ms: Math.min(latencyMs, before?.ipv6Ms ?? Infinity) })
    const seen = this.#seen.get(key)
    if (seen === undefined) this.#seen.set(key, { endpoint, count: 1 })
    else seen.count += 1
    if (family !== 4) return
    this.#firstIpv4 ??= key
    this.#ipv4Servers.add(server)
    if (key !== this.#firstIpv4) this.#varies = true
  }

  /** An HTTPS round trip to a region. */
  https(region: number, latencyMs: number): void {
    const before = this.#regions.get(region)
    this.#regions.set(region, { ...before, latencyMs: Math.min(latencyMs, before?.latencyMs ?? Infinity), httpsMs: latencyMs })
  }

  finish(now: Instant): NetcheckReport {
    const ipv4 = this.hasFamily(4)
    const ipv6 = this.hasFamily(6)
    return {
      startedAt: this.#startedAt,
      finishedAt: now,
      full: this.#full,
      udp: ipv4 || ipv6,
      ipv4,
      ipv6,
      mapped: this.#mapped(),
      mappingVariesByDestination: this.mappingVaries,
      regions: new Map(this.#regions),
    }
  }

  #mapped(): Endpoint[] {
    const all = [...this.#seen.values()]
    const mains = [4, 6].map((family) => all.find(({ endpoint }) => endpoint.ip.family === family)).filter((item) => item !== undefined)
    return [...mains, ...all.filter((item) => item.count > 1 && !mains.includes(item))].map(({ endpoint }) => endpoint)
  }
}
