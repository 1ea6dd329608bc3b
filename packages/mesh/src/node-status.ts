import { type ControlClient, isKeyExpired, magicDnsSuffix, type MapNode, type NetworkMap } from '@meshwright/control-client'
import type { UserProfile } from '@meshwright/control-protocol'
import type { Instant } from '@meshwright/core'
import type { NodePublicKey } from '@meshwright/crypto'
import { type Ip, isExitRoute, prefixContains } from '@meshwright/ip'
import type { Netstack } from '@meshwright/netstack'
import { isExitNode } from './apply-network-map.ts'
import type { EnginePeer, NodeEngine } from './node-engine.ts'
import type { NodeNames } from './node-names.ts'
import type { Prefs } from './prefs.ts'
import type { MeshState, MeshStatus, PeerPath, PeerStatus, SelfStatus, UserStatus, WhoIs } from './status.ts'
import { NO_WAY_COUNTS } from './way-counts.ts'

/** What a status is made from. */
export interface StatusSources {
  readonly state: MeshState
  readonly authUrl: string | undefined
  readonly lastError: string | undefined
  readonly controlUrl: string
  readonly nodeKey: NodePublicKey | undefined
  readonly map: NetworkMap | undefined
  readonly prefs: Prefs
  readonly engine: NodeEngine | undefined
  readonly homeRegion: number
  readonly udpBlocked: boolean
  readonly warnings: readonly string[]
  /** The rooms beside the engine that others can reach into. */
  readonly rooms: { readonly names: NodeNames; readonly stack: Netstack; readonly control: ControlClient }
}

/** Everything about a node at one moment. */
export function buildStatus(now: Instant, from: StatusSources): MeshStatus {
  const { map, engine } = from
  const traffic = engine?.traffic()
  const { received, sent } = traffic ?? { received: NO_WAY_COUNTS, sent: NO_WAY_COUNTS }
  return {
    state: from.state,
    authUrl: from.authUrl,
    lastError: from.lastError,
    controlUrl: from.controlUrl,
    nodeKey: from.nodeKey,
    self: map && { ...selfStatus(map, from.prefs), homeRegion: from.homeRegion },
    peers: map === undefined ? [] : [...map.peers.values()].map((peer) => peerStatus(peer, from.prefs, engine && { now, engine, map })),
    users: map === undefined ? [] : [...map.users.values()].map(userStatus),
    domain: map?.domain ?? '',
    magicDnsSuffix: map === undefined ? '' : magicDnsSuffix(map),
    magicDnsEnabled: map?.dns.Proxied === true,
    homeRegion: from.homeRegion,
    homeRegionCode: map?.relays.regions.get(from.homeRegion)?.code ?? '',
    udpBlocked: from.udpBlocked,
    health: from.warnings,
    packetsIn: traffic?.packetsIn ?? 0,
    packetsOut: traffic?.packetsOut ?? 0,
    drops: { ...engine?.drops(now), ...from.rooms.names.drops },
    denied: engine?.denied() ?? [],
    held: { ...engine?.watch(now).held, ...from.rooms.names.held, connections: from.rooms.stack.flowCount, fragments: from.rooms.stack.fragmentCount, 'control-requests': from.rooms.control.openRequests },
    relayBytesIn: traffic?.relayIn ?? 0,
    relayBytesOut: traffic?.relayOut ?? 0,
    directBytesIn: received.ipv4.bytes + received.ipv6.bytes,
    directBytesOut: sent.ipv4.bytes + sent.ipv6.bytes,
    received,
    sent,
  }
}

/** The node itself, as the map describes it. */
export function selfStatus(map: NetworkMap, prefs: Prefs): SelfStatus {
  const { path: _path, active: _active, lastHandshake: _handshake, lastWrite: _write, ...self } = peerStatus(map.self, prefs, undefined)
  return self
}

/** A peer, with what the engine knows of it where there is one. */
export function peerStatus(peer: MapNode, prefs: Prefs, live: { readonly now: Instant; readonly engine: NodeEngine; readonly map: NetworkMap } | undefined): PeerStatus {
  const known = live?.engine.peer(live.now, peer.nodeKey)
  return {
    nodeKey: peer.nodeKey,
    id: peer.id,
    stableId: peer.stableId,
    name: peer.name,
    hostName: peer.hostinfo.Hostname ?? peer.name.split('.')[0] ?? '',
    os: peer.hostinfo.OS ?? '',
    userId: peer.userId,
    tags: peer.tags,
    addresses: peer.addresses.map((own) => own.ip),
    allowedIps: peer.allowedIps,
    primaryRoutes: peer.primaryRoutes,
    endpoints: peer.endpoints,
    online: peer.online,
    lastSeen: peer.lastSeen,
    expired: peer.expired,
    keyExpiry: peer.keyExpiry,
    created: peer.createdAt,
    homeRegion: peer.homeRegion,
    path: live === undefined || known === undefined ? { type: 'none' } : pathOf(known, live.map),
    active: known?.lastSend?.active ?? false,
    rxBytes: known?.receivedBytes ?? 0,
    txBytes: known?.sentBytes ?? 0,
    lastHandshake: known?.latestHandshake,
    lastWrite: known?.lastSend?.at,
    exitNode: isExitNode(peer, prefs),
    exitNodeOption: peer.allowedIps.some(isExitRoute),
    capabilities: peer.capabilities,
  }
}

/** A user of the map. */
export function userStatus(user: UserProfile): UserStatus {
  return { id: user.ID, loginName: user.LoginName, displayName: user.DisplayName, profilePicUrl: user.ProfilePicURL ?? '' }
}

/** The node, self included, that has this address, or else carries it as a subnet route. */
export function nodeWithAddress(map: NetworkMap, ip: Ip): MapNode | undefined {
  const owns = (node: MapNode): boolean => node.addresses.some((own) => own.ip.equals(ip))
  if (owns(map.self)) return map.self
  let carrier: { readonly node: MapNode; readonly bits: number } | undefined
  for (const peer of map.peers.values()) {
    if (owns(peer)) return peer
    for (const prefix of peer.allowedIps) {
      if (!isExitRoute(prefix) && prefixContains(prefix, ip) && (carrier === undefined || prefix.bits > carrier.bits)) carrier = { node: peer, bits: prefix.bits }
    }
  }
  return carrier?.node
}

/** True when packets to the peer may flow at all. */
export function isUsable(peer: MapNode, wallNow: number): boolean {
  return !isKeyExpired(peer, wallNow) && !peer.isJailed
}

function pathOf({ path }: EnginePeer, map: NetworkMap): PeerPath {
  if (path.type === 'direct' || path.type === 'both') return { type: 'direct', endpoint: path.endpoint, latencyMs: path.latencyMs ?? 0 }
  if (path.type === 'relay') return { type: 'relay', region: path.region, regionCode: map.relays.regions.get(path.region)?.code ?? '' }
  return { type: 'none' }
}

/** Who stands behind an address, and what the policy grants them at this node. */
export function whoIs(map: NetworkMap, prefs: Prefs, engine: NodeEngine | undefined, ip: Ip): WhoIs | undefined {
  const node = nodeWithAddress(map, ip)
  if (node === undefined) return undefined
  const own = map.self.addresses.find((each) => each.ip.family === ip.family)?.ip
  const capabilities = own === undefined ? undefined : engine?.capsFor(ip, own)
  const user = node.tags.length > 0 ? undefined : map.users.get(node.userId)
  return { node: node === map.self ? selfStatus(map, prefs) : peerStatus(node, prefs, undefined), user: user && userStatus(user), capabilities: capabilities ?? new Map() }
}
