import type { CapMap, SSHPolicy } from '@meshwright/control-protocol'
import type { FilterRule } from '@meshwright/packet-filter'

/** A peer as one node may see it. */
export interface VisiblePeer {
  /** Routes of the peer (subnet and exit routes) that the node may send to, sorted. */
  readonly routes: readonly string[]
  /** Only the IPv6 addresses of the peer are told. */
  readonly ipv6Only: boolean
  /** Capabilities of the peer that others are told of. */
  readonly capMap: CapMap
}

/** How nearly every peer is seen: without routes, with all addresses. One object, so that it costs nothing and compares by identity. */
export const PLAIN_PEER: VisiblePeer = { routes: [], ipv6Only: false, capMap: {} }

/** What the policy in force lets one node do. Whom it sees is asked apart: nobody but the policy keeps a list of that for each node. */
export interface NodeAccess {
  /** What the node accepts. */
  readonly filter: readonly FilterRule[]
  readonly ssh: SSHPolicy
  /** Capabilities that the policy gives the node. */
  readonly attrs: CapMap
  /** The policy takes the node's IPv4 address away. */
  readonly ipv6Only: boolean
}

/** Nobody sees or reaches anybody: no policy, an expired node, any doubt. */
export const DENIED: NodeAccess = { filter: [], ssh: { rules: [] }, attrs: {}, ipv6Only: false }
