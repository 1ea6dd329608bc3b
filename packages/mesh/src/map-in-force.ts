import type { NetworkMap } from '@meshwright/control-client'
import { after, type Instant, type WallClock } from '@meshwright/core'
import { IpSet } from '@meshwright/ip'
import type { Netstack } from '@meshwright/netstack'
import { applyNetworkMap } from './apply-network-map.ts'
import type { HomeRelay } from './home-relay.ts'
import type { NodeEngine } from './node-engine.ts'
import type { NodeNames } from './node-names.ts'
import type { Prefs } from './prefs.ts'

/** Peers' keys expire by the wall clock, which people set: it is looked at again at least this often. */
const MAX_EXPIRY_WAIT_MS = 60_000

/** What follows the network map, beside the engine. */
export interface MapFollowers {
  readonly wallClock: WallClock
  readonly allowLoopback: boolean
  readonly names: NodeNames
  readonly home: HomeRelay
  readonly stack: Netstack
}

/**
 * The network map of a node, and everything that follows it: packet paths, names, home relay, own addresses. A map may be known without being
 * in force: while the node's key is expired, or the machine waits for its approval.
 */
export class MapInForce {
  readonly #followers: MapFollowers
  #map: NetworkMap | undefined
  #warnings: readonly string[] = []
  #expired = false
  #reapplyAt: Instant | undefined

  constructor(followers: MapFollowers) {
    this.#followers = followers
  }

  /** The last map; `undefined` while the node takes no part. */
  get map(): NetworkMap | undefined {
    return this.#map
  }

  /** What of the map could not be honoured, in plain words. */
  get warnings(): readonly string[] {
    return this.#warnings
  }

  /** True while this node's own key is expired: no packet passes. */
  get expired(): boolean {
    return this.#expired
  }

  /** When the map must be applied anew, since a peer's key expires then. */
  get due(): Instant | undefined {
    return this.#reapplyAt
  }

  /** Puts a map in force, rights taken away before any are given. */
  apply(now: Instant, engine: NodeEngine, map: NetworkMap, prefs: Prefs): void {
    const { wallClock, allowLoopback, names, home, stack } = this.#followers
    const wallNow = wallClock()
    const applied = applyNetworkMap(map, prefs, wallNow, allowLoopback)
    engine.apply(now, applied)
    if (map.relays !== this.#map?.relays || engine.homeRelay === 0) engine.setRelayMap(now, map.relays)
    this.#warnings = applied.warnings
    this.#map = map
    names.apply(map, prefs.acceptDns)
    home.setMap(now, map.relays, map.regionScores)
    stack.setLocalAddresses(map.self.addresses.map((own) => own.ip))
    const expiries = [...map.peers.values()].flatMap((peer) => (peer.keyExpiry !== undefined && peer.keyExpiry > wallNow ? [peer.keyExpiry] : []))
    this.#reapplyAt = expiries.length === 0 ? undefined : after(now, Math.min(MAX_EXPIRY_WAIT_MS, Math.min(...expiries) - wallNow + 1))
  }

  /** Knows a map that gives no rights (yet). */
  remember(map: NetworkMap): void {
    this.#map = map
  }

  /** This node's key has expired: no packet passes in either direction, while the poll goes on and may bring the key back. */
  expire(now: Instant, engine: NodeEngine | undefined): void {
    this.#expired = true
    engine?.apply(now, { plane: { peers: [], routes: [], rules: [], local: IpSet.empty }, paths: [], warnings: [] })
    this.#followers.stack.setLocalAddresses([])
    this.#reapplyAt = undefined
  }

  /** This node's key is good (again): the next map is applied. */
  renew(): void {
    this.#expired = false
  }

  /** The node takes no part any more: nobody is a peer. */
  forget(): void {
    this.#map = undefined
    this.#warnings = []
    this.#reapplyAt = undefined
    this.#followers.home.stop()
    this.#followers.names.clear()
    this.#followers.stack.setLocalAddresses([])
  }
}
