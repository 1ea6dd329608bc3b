export {
  ControlClient,
  type ControlClientOptions,
  type ControlClientState,
  type ControlClientStatus,
  type HostEndpoint,
} from './client.ts'
export { formatControlState, parseControlState, type ControlState } from './control-state.ts'
export type { ControlClientInput, ControlClientOutput, ControlProblemCode, ControlResponseInput } from './events.ts'
export type { LoginHow } from './login.ts'
export { applyMapResponse } from './delta.ts'
export { mapResponseOf } from './map-response.ts'
export { hasCapability, isKeyExpired, mapNode, type MapNode } from './map-node.ts'
export { isWebAddress, plainText } from './plain-text.ts'
export { magicDnsSuffix, userOf, type NetworkMap, type RegionScores } from './network-map.ts'
