import type { MeshStatus } from '@meshwright/mesh'
import type { JsonObject } from './netmap-json.ts'

/** The control server marks exit nodes that may be suggested with it (tailscale/tailscale:tailcfg, NodeAttrSuggestExitNode). */
const MAY_BE_SUGGESTED = 'suggest-exit-node'

/**
 * The exit node to suggest, in the form of tailscaled's LocalAPI; without one its members are empty. Of several: the one that is in use,
 * else one at our own home relay, else the first by name. (tailscaled goes by measured latency and location, and among equals by chance.)
 */
export function suggestedExitNode(status: Pick<MeshStatus, 'homeRegion'> & { readonly peers: readonly Pick<MeshStatus['peers'][number], 'online' | 'exitNodeOption' | 'exitNode' | 'homeRegion' | 'capabilities' | 'name' | 'stableId'>[] }): JsonObject {
  const rank = (peer: (typeof status.peers)[number]): number => (peer.exitNode ? 0 : peer.homeRegion !== 0 && peer.homeRegion === status.homeRegion ? 1 : 2)
  const [best] = status.peers
    .filter((peer) => peer.online === true && peer.exitNodeOption && Object.hasOwn(peer.capabilities, MAY_BE_SUGGESTED))
    .sort((a, b) => rank(a) - rank(b) || (a.name < b.name ? -1 : 1))
  return best === undefined ? { ID: '', Name: '' } : { ID: best.stableId, Name: `${best.name}.` }
}
