import type { ControlClientState, NetworkMap } from '@meshwright/control-client'
import type { NodePublicKey } from '@meshwright/crypto'
import type { MeshState } from './status.ts'

/** What decides where a node stands. */
export interface Standing {
  readonly control: ControlClientState
  readonly nodeKey: NodePublicKey | undefined
  readonly wantRunning: boolean
  readonly expired: boolean
  readonly map: NetworkMap | undefined
  /** The home relay's region, 0 for none. */
  readonly home: number
  /** Its relay has let this node in. */
  readonly homeConnected: boolean
}

/**
 * The steps on the way to a node that peers know, in their order. Each can be seen from outside.
 *
 * | step | is done when |
 * |---|---|
 * | `up` | the node is meant to take part |
 * | `login` | the control server knows its key, which has not expired |
 * | `map` | the server has sent a map in this run that has this key in it: one of an earlier run does not count |
 * | `approval` | the server does not hold the machine back |
 * | `relay` | the home relay has let the node in; where the map has no relays, the node has an endpoint |
 * | `told` | the server has answered that it took the endpoints, the disco key and the home relay as they are now |
 */
export type ReadyStep = 'up' | 'login' | 'map' | 'approval' | 'relay' | 'told'

/** Which state a node is in now, given the one it was in (see `MeshNode`). */
export function nextState(before: MeshState, at: Standing): MeshState {
  if (at.control === 'needsApprovalUrl') return 'needs-login'
  if (!at.wantRunning) return at.nodeKey === undefined ? 'needs-login' : 'stopped'
  if (at.expired || at.control === 'needsLogin') return 'needs-login'
  if (!hasOwnMap(at)) return 'starting'
  if (at.map?.self.machineAuthorized !== true) return 'needs-machine-auth'
  // Once running, a relay that is away for a moment does not make the node start again.
  return before === 'running' || isReachable(at, true) ? 'running' : 'starting'
}

/** The first step that is not done; `undefined` when all are. */
export function readyStep(at: Standing & { readonly isMapFresh: boolean; readonly isTold: boolean; readonly hasEndpoint: boolean }): ReadyStep | undefined {
  if (!at.wantRunning) return 'up'
  if (at.nodeKey === undefined || at.expired || at.control === 'needsLogin' || at.control === 'needsApprovalUrl' || at.control === 'loggingIn') return 'login'
  if (!hasOwnMap(at) || !at.isMapFresh) return 'map'
  if (at.map?.self.machineAuthorized !== true) return 'approval'
  if (!isReachable(at, at.hasEndpoint)) return 'relay'
  return at.isTold ? undefined : 'told'
}

// After a login with a new key the old map stays in force until one for the new key comes.
function hasOwnMap({ map, nodeKey }: Standing): boolean {
  return map !== undefined && nodeKey !== undefined && map.self.nodeKey.equals(nodeKey)
}

function isReachable(at: Standing, withoutRelays: boolean): boolean {
  const relays = [...(at.map?.relays.regions.values() ?? [])].some((region) => region.nodes.some((node) => node.stunOnly !== true))
  return relays ? at.home !== 0 && at.homeConnected : withoutRelays
}
