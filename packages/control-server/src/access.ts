import type { CapMap, SSHPolicy } from '@meshwright/control-protocol'
import type { FilterRule } from '@meshwright/packet-filter'

/**
 * What the policy in force lets each node see and do, as the map composer asks it. Answers for one node are the same objects until the
 * policy or something it depends on changes, so they may be compared by identity first.
 */
export interface AccessView {
  /** False when there is no policy: then everything is denied. */
  readonly active: boolean
  /** What the node accepts. */
  filterFor(nodeId: number): readonly FilterRule[]
  /** Which other nodes it may know of. */
  peersFor(nodeId: number): ReadonlySet<number>
  /** Routes of `peerId` (subnet and exit routes) that `nodeId` may send to. */
  routesFor(nodeId: number, peerId: number): readonly string[]
  sshFor(nodeId: number): SSHPolicy
  /** Capabilities that the policy gives the node itself. */
  attrsFor(nodeId: number): CapMap
  /** Capabilities of the node that its peers are told of. */
  peerAttrsFor(nodeId: number): CapMap
}

const NO_RULES: readonly FilterRule[] = []
const NO_PEERS: ReadonlySet<number> = new Set()
const NO_SSH: SSHPolicy = { rules: [] }
const NO_ATTRS: CapMap = {}

/** No policy: nobody sees or reaches anybody. */
export const DENY_ALL: AccessView = {
  active: false,
  filterFor: () => NO_RULES,
  peersFor: () => NO_PEERS,
  routesFor: () => [],
  sshFor: () => NO_SSH,
  attrsFor: () => NO_ATTRS,
  peerAttrsFor: () => NO_ATTRS,
}
