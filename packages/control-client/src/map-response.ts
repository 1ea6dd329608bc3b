import { derpMapFromRelayMap, type MapResponse } from '@meshwright/control-protocol'
import type { NetworkMap } from './network-map.ts'

/**
 * A map as the first frame of a stream would bring it: to be kept over a restart and given back as `lastMap`. It holds no secrets, but it
 * decides about access: whoever keeps it must make sure that nobody has changed it.
 */
export function mapResponseOf(map: NetworkMap): MapResponse {
  const scores = Object.fromEntries([...map.regionScores].map(([id, score]) => [String(id), score]))
  return {
    Node: map.self.wire,
    Peers: [...map.peers.values()].map((peer) => peer.wire),
    PacketFilters: Object.fromEntries(map.filterChunks),
    DNSConfig: map.dns,
    DERPMap: { ...derpMapFromRelayMap(map.relays), ...(map.regionScores.size > 0 && { HomeParams: { RegionScore: scores } }) },
    UserProfiles: [...map.users.values()],
    Domain: map.domain,
    SSHPolicy: map.ssh,
    CollectServices: map.collectServices,
    Health: map.health,
    DisplayMessages: Object.fromEntries(map.displayMessages),
  }
}
