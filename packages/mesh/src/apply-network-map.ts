import type { UnixMillis } from '@meshwright/core'
import { isKeyExpired, type MapNode, type NetworkMap } from '@meshwright/control-client'
import { equalPrefixes, IpSet, isExitRoute, isLoopback, type Prefix, prefixContains } from '@meshwright/ip'
import type { PathPeer } from '@meshwright/nat-traversal'
import { type FilterRule, PacketFilter } from '@meshwright/packet-filter'
import type { DataPlaneConfig } from './dataplane.ts'
import type { Prefs } from './prefs.ts'

/** What a network map means for the packet paths of this node, under its preferences. */
export interface AppliedMap {
  readonly plane: DataPlaneConfig
  readonly paths: readonly PathPeer[]
  /** What a person should know about the map, with a remedy each. */
  readonly warnings: readonly string[]
}

/**
 * Works out who may be talked to and where their addresses lead: pure, so that the swap itself is one synchronous call. Peers whose key
 * has expired, that have no key exchange with us, or that may not open connections to us while we cannot tell replies apart, are left out.
 */
export function applyNetworkMap(map: NetworkMap, prefs: Prefs, wallNow: UnixMillis): AppliedMap {
  const warnings: string[] = []
  const peers = [...map.peers.values()].filter((peer) => !isKeyExpired(peer, wallNow) && !peer.isJailed)
  const local = IpSet.from([...map.self.addresses, ...offeredRoutes(map.self, prefs)])
  const plane: DataPlaneConfig = {
    peers: peers.map((peer) => peer.nodeKey),
    routes: peers.flatMap((peer) => acceptedRoutes(peer, prefs).map((prefix) => ({ prefix, peer: peer.nodeKey.text }))),
    rules: safeRules(map, local, warnings),
    local,
  }
  const ignored = peers.filter((peer) => !prefs.acceptRoutes && acceptedRoutes(peer, { ...prefs, acceptRoutes: true }).length > acceptedRoutes(peer, prefs).length)
  if (ignored.length > 0) warnings.push('Some peers are advertising routes but --accept-routes is false')
  const paths = peers.map((peer) => ({
    nodeKey: peer.nodeKey,
    endpoints: peer.endpoints,
    ...(peer.discoKey === undefined ? {} : { discoKey: peer.discoKey }),
    ...(peer.homeRegion === 0 ? {} : { homeRegion: peer.homeRegion }),
  }))
  return { plane, paths, warnings }
}

/** The prefixes that are routed to a peer: its own addresses always, subnets if routes are accepted, everything if it is our exit node. */
export function acceptedRoutes(peer: MapNode, prefs: Prefs): readonly Prefix[] {
  return peer.allowedIps.filter((prefix) => {
    if (peer.addresses.some((own) => equalPrefixes(own, prefix))) return true
    if (isExitRoute(prefix)) return isExitNode(peer, prefs)
    return prefs.acceptRoutes
  })
}

/** True when the preferences name this peer as exit node, by stable ID or by address. */
export function isExitNode(peer: MapNode, prefs: Prefs): boolean {
  return prefs.exitNode !== '' && (peer.stableId === prefs.exitNode || peer.addresses.some((own) => own.ip.key === prefs.exitNode))
}

/** The routes that this node offers and the server has approved for it. */
export function offeredRoutes(self: MapNode, prefs: Prefs): readonly Prefix[] {
  return prefs.advertiseRoutes.filter((route) => !self.addresses.some((own) => prefixContains(own, route.ip)) && self.allowedIps.some((allowed) => equalPrefixes(allowed, route)))
}

/** Endpoints of loopback lead a node to itself: they are kept only where several nodes share one machine on purpose. */
export function usableEndpoints(peers: readonly PathPeer[], allowLoopback: boolean): readonly PathPeer[] {
  return allowLoopback ? peers : peers.map((peer) => ({ ...peer, endpoints: peer.endpoints.filter((endpoint) => !isLoopback(endpoint.ip)) }))
}

// A peer whose key is not signed may reach the peer API alone. A filter that would let it in further is not to be trusted at all
// (tailscale/tailscale:ipn/ipnlocal/local.go, packetFilterPermitsUnlockedNodes).
function safeRules(map: NetworkMap, local: IpSet, warnings: string[]): readonly FilterRule[] {
  const unsigned = [...map.peers.values()].filter((peer) => peer.isUnsigned)
  if (unsigned.length === 0) return map.packetFilter
  const probe = new PacketFilter()
  // The control client leaves such rules out by itself; what the server sent is asked, so that people hear of it.
  probe.replace([...map.filterChunks.values()].flat(), local)
  if (!probe.admitsAny(IpSet.from(unsigned.flatMap((peer) => [...peer.addresses])))) return map.packetFilter
  warnings.push('The policy admits a node whose key is not signed: all incoming connections are refused until the control server mends it')
  return []
}
