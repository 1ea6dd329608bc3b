import { type Instant, Outbox, type RandomSource, type RelayMap, type WallClock } from '@meshwright/core'
import type { NetInfo } from '@meshwright/control-protocol'
import type { Endpoint } from '@meshwright/ip'

/** What the choice of a home relay owes. */
export type HomeRelayOutput =
  | { readonly type: 'stun'; readonly bytes: Uint8Array; readonly to: Endpoint }
  | { readonly type: 'found'; readonly region: number; readonly netInfo: NetInfo; readonly mapped: readonly Endpoint[] }

/** Chooses the home relay and learns this node's addresses as the world sees them. */
export class HomeRelay {
  readonly #outbox: Outbox<HomeRelayOutput> = new Outbox()
  #map: RelayMap = { regions: new Map() }
  #region = 0
  #udp = true

  constructor(_options: { readonly random: RandomSource; readonly wallClock: WallClock }) {}

  /** The home region, 0 while none is known. */
  get region(): number {
    return this.#region
  }

  setMap(now: Instant, map: RelayMap): void {
    if (map === this.#map && this.#region !== 0) return
    this.#map = map
    this.restart(now)
  }

  setUdp(now: Instant, udp: boolean): void {
    this.#udp = udp
    this.restart(now)
  }

  restart(_now: Instant): void {
    const regions = [...this.#map.regions.values()].filter((region) => region.nodes.some((node) => node.stunOnly !== true))
    const home = regions.find((region) => region.avoid !== true && region.noMeasureNoHome !== true) ?? regions[0]
    this.#region = home?.id ?? 0
    this.#outbox.push({ type: 'found', region: this.#region, netInfo: { PreferredDERP: this.#region, WorkingUDP: this.#udp }, mapped: [] })
  }

  stop(): void {
    this.#region = 0
    this.#map = { regions: new Map() }
  }

  endpointsWanted(_now: Instant): void {}

  answered(_now: Instant, _bytes: Uint8Array, _from: Endpoint): void {}

  handleTimeout(_now: Instant): void {}

  pollOutput(): HomeRelayOutput | undefined {
    return this.#outbox.poll()
  }

  pollTimeout(): Instant | undefined {
    return undefined
  }
}
