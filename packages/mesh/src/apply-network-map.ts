import type { UnixMillis } from '@meshwright/core'
import { isKeyExpired, type MapNode, type NetworkMap } from '@meshwright/control-client'
import { equalPrefixes, IpSet, isExitRoute, isLoopback, parsePrefix, type Prefix, prefixContains } from '@meshwright/ip'
import type { PathPeer } from '@meshwright/nat-traversal'
import { type FilterRule, PacketFilter } from '@meshwright/packet-filter'
import { askedCapabilities } from './asked-capabilities.ts'
import type { DataPlaneConfig } from './dataplane.ts'
import { endpointLies } from './endpoint-lies.ts'
import type { Prefs } from './prefs.ts'

/** A node talks to so many peers at most, those with the lowest numbers: as many as its WireGuard device holds, with room to spare. */
export const MAX_PEERS = 60_000

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
 * @param allowLoopback peers at loopback are nothing to warn of
 */
export function applyNetworkMap(map: NetworkMap, prefs: Prefs, wallNow: UnixMillis, allowLoopback: boolean = false): AppliedMap {
  const warnings: string[] = []
  const usable = [...map.peers.values()].filter((peer) => !isKeyExpired(peer, wallNow) && !peer.isJailed)
  const peers = usable.slice(0, MAX_PEERS)
  if (usable.length > peers.length) warnings.push(`The control server names more than ${MAX_PEERS} peers: ${usable.length - peers.length} of them are left out and cannot be reached. A narrower policy shows this node fewer`)
  warnings.push(...endpointLies(map, allowLoopback))
  const local = IpSet.from([...map.self.addresses, offeredAddresses(map.self, prefs)])
  const rules = safeRules(map, local, warnings)
  const plane: DataPlaneConfig = {
    peers: peers.map((peer) => peer.nodeKey),
    routes: peers.flatMap((peer) => acceptedRoutes(peer, prefs).map((prefix) => ({ prefix, peer: peer.nodeKey.text }))),
    rules,
    local,
    capabilities: askedCapabilities(peers, rules),
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

/**
 * The routes that this node offers. Whether they are approved shows in what peers send here and in the filter alone: headscale does not tell a
 * router of its approval until its next whole map, and tailscaled does not ask (tailscale/tailscale:ipn/ipnlocal/local.go, updateFilterLocked).
 */
export function offeredRoutes(self: MapNode, prefs: Prefs): readonly Prefix[] {
  return prefs.advertiseRoutes.filter((route) => !self.addresses.some((own) => prefixContains(own, route.ip)))
}

/**
 * The addresses behind this node that peers may reach through it. An exit node leads into the internet and not into the networks next door,
 * to the services of a cloud's link, or to the node's own loopback: those are for subnet routes to offer
 * (tailscale/tailscale:ipn/ipnlocal/local.go, shrinkDefaultRoute).
 */
export function offeredAddresses(self: MapNode, prefs: Prefs): IpSet {
  const routes = offeredRoutes(self, prefs)
  const exits = routes.filter(isExitRoute)
  return IpSet.from([...(exits.length === 0 ? [] : [IpSet.from(exits).intersect(INTERNET)]), ...routes.filter((route) => !isExitRoute(route))])
}

/** All addresses but: this network, private ones, shared ones (the mesh's own), loopback, link-local, multicast, reserved; IPv4 written as IPv6. */
const INTERNET: IpSet = IpSet.from(
  ['0.0.0.0/8', '10.0.0.0/8', '100.64.0.0/10', '127.0.0.0/8', '169.254.0.0/16', '172.16.0.0/12', '192.168.0.0/16', '224.0.0.0/3', '::/16', 'fc00::/7', 'fe80::/10', 'ff00::/8'].flatMap(
    (text) => parsePrefix(text) ?? [],
  ),
).complement()

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
