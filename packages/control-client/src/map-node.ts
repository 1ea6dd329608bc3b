import type { CapMap, Hostinfo, Node, NodeId, UserId } from '@meshwright/control-protocol'
import { parseOptionalTime } from '@meshwright/control-protocol'
import type { UnixMillis } from '@meshwright/core'
import { DiscoPublicKey, MachinePublicKey, NodePublicKey } from '@meshwright/crypto'
import { type Endpoint, equalPrefixes, type Ip, parseEndpoint, parseIp, parsePrefix, type Prefix } from '@meshwright/ip'

/** A node of the network map in typed form: oneself or a peer. Immutable; a node that did not change stays the same object from map to map. */
export interface MapNode {
  /** Number at the server; a `number`, or a `bigint` beyond 2^53. */
  readonly id: NodeId
  readonly stableId: string
  /** Full DNS name without the trailing dot. */
  readonly name: string
  readonly userId: UserId
  /** The user who shared the node into this tailnet. */
  readonly sharerId: UserId | undefined
  readonly nodeKey: NodePublicKey
  /** Absent: the peer cannot be reached directly or by relay, unless it is `isWireGuardOnly`. */
  readonly discoKey: DiscoPublicKey | undefined
  readonly machineKey: MachinePublicKey | undefined
  /** Own addresses, one address each. */
  readonly addresses: readonly Prefix[]
  /** What may be sent to and received from it: its addresses and the routes that it carries for us. */
  readonly allowedIps: readonly Prefix[]
  /** Routes beyond its own addresses for which it is the one that carries. */
  readonly primaryRoutes: readonly Prefix[]
  readonly endpoints: readonly Endpoint[]
  /** Home relay region; 0: none known. */
  readonly homeRegion: number
  /** Undefined: not known. */
  readonly online: boolean | undefined
  readonly lastSeen: UnixMillis | undefined
  readonly createdAt: UnixMillis | undefined
  /** When the node key expires; undefined: never. */
  readonly keyExpiry: UnixMillis | undefined
  /** The server says that the key has expired. Ask {@link isKeyExpired}, which knows the time too. */
  readonly expired: boolean
  readonly machineAuthorized: boolean
  /** Tags; a tagged node belongs to no person. */
  readonly tags: readonly string[]
  /** Capability name to raw JSON values. */
  readonly capabilities: CapMap
  /** The node's own capability version; 0: not known. */
  readonly capabilityVersion: number
  readonly hostinfo: Hostinfo
  /** It may not open connections to us. */
  readonly isJailed: boolean
  /** No disco, no relay: only WireGuard to its endpoints. */
  readonly isWireGuardOnly: boolean
  /** Its key is not signed: only its peer API may be talked to, and it carries no routes. */
  readonly isUnsigned: boolean
  /** Addresses by which this peer knows us, where they differ from our own. */
  readonly masqueradeIpv4: Ip | undefined
  readonly masqueradeIpv6: Ip | undefined
  /** The node as it came. */
  readonly wire: Node
}

/**
 * The typed form of a node. Addresses, routes and endpoints that cannot be read are left out (less is reachable, never more); `undefined`
 * for a node without key, which cannot be a peer.
 */
export function mapNode(node: Node): MapNode | undefined {
  const nodeKey = NodePublicKey.parse(node.Key)
  if (nodeKey === undefined || nodeKey.isZero) return undefined
  const discoKey = node.DiscoKey === undefined ? undefined : DiscoPublicKey.parse(node.DiscoKey)
  const machineKey = node.Machine === undefined ? undefined : MachinePublicKey.parse(node.Machine)
  const addresses = prefixes(node.Addresses)
  const allowed = node.AllowedIPs === undefined ? addresses : prefixes(node.AllowedIPs)
  const isUnsigned = node.UnsignedPeerAPIOnly === true
  return {
    id: node.ID,
    stableId: node.StableID,
    name: node.Name.replace(/\.$/, ''),
    userId: node.User,
    sharerId: node.Sharer,
    nodeKey,
    discoKey: discoKey?.isZero === true ? undefined : discoKey,
    machineKey: machineKey?.isZero === true ? undefined : machineKey,
    addresses,
    allowedIps: isUnsigned ? allowed.filter((prefix) => addresses.some((own) => equalPrefixes(own, prefix))) : allowed,
    primaryRoutes: prefixes(node.PrimaryRoutes ?? []),
    endpoints: (node.Endpoints ?? []).flatMap((text) => parseEndpoint(text) ?? []),
    homeRegion: homeRegion(node),
    online: node.Online,
    lastSeen: parseOptionalTime(node.LastSeen),
    createdAt: parseOptionalTime(node.Created),
    keyExpiry: parseOptionalTime(node.KeyExpiry),
    expired: node.Expired === true,
    machineAuthorized: node.MachineAuthorized === true,
    tags: node.Tags ?? [],
    capabilities: capabilities(node),
    capabilityVersion: node.Cap ?? 0,
    hostinfo: node.Hostinfo ?? {},
    isJailed: node.IsJailed === true,
    isWireGuardOnly: node.IsWireGuardOnly === true,
    isUnsigned,
    masqueradeIpv4: parseIp(node.SelfNodeV4MasqAddrForThisPeer ?? ''),
    masqueradeIpv6: parseIp(node.SelfNodeV6MasqAddrForThisPeer ?? ''),
    wire: node,
  }
}

/** True when the server says so or the key's time has passed. */
export function isKeyExpired(node: MapNode, wallNow: UnixMillis): boolean {
  return node.expired || (node.keyExpiry !== undefined && node.keyExpiry <= wallNow)
}

/** True when the node has a capability, whatever its values. */
export function hasCapability(node: MapNode, name: string): boolean {
  return Object.hasOwn(node.capabilities, name)
}

function prefixes(texts: readonly string[]): Prefix[] {
  return texts.flatMap((text) => parsePrefix(text) ?? [])
}

// Before capability version 111 the region stands as the port of a fake address, 127.3.3.40:REGION.
function homeRegion(node: Node): number {
  if (node.HomeDERP !== undefined) return Math.max(0, node.HomeDERP)
  const old = /^127\.3\.3\.40:([0-9]{1,5})$/.exec(node.DERP ?? '')
  return old === null ? 0 : Number(old[1])
}

function capabilities(node: Node): CapMap {
  if (node.Capabilities === undefined || node.Capabilities.length === 0) return node.CapMap ?? {}
  return { ...Object.fromEntries(node.Capabilities.map((name): [string, readonly unknown[]] => [name, []])), ...node.CapMap }
}
