import type { DisplayMessage, DNSConfig, NodeId, SSHPolicy, UserId, UserProfile } from '@meshwright/control-protocol'
import type { RelayMap } from '@meshwright/core'
import type { FilterRule } from '@meshwright/packet-filter'
import type { MapNode } from './map-node.ts'

/** Weights by relay region number for the choice of a home relay; regions that are missing weigh 1. */
export type RegionScores = ReadonlyMap<number, number>

/**
 * What a node knows of its tailnet at one moment. Immutable: every frame of the map stream that changes something yields a new one
 * that shares all unchanged parts with the old one, so identity tells what changed.
 */
export interface NetworkMap {
  readonly self: MapNode
  /** By node number. */
  readonly peers: ReadonlyMap<NodeId, MapNode>
  /** The same peers by node key text. */
  readonly peersByKey: ReadonlyMap<string, MapNode>
  /** All rules, chunks in order of their names. Empty: everything inbound is denied. */
  readonly packetFilter: readonly FilterRule[]
  /** The same rules by chunk, as the server names them. */
  readonly filterChunks: ReadonlyMap<string, readonly FilterRule[]>
  readonly dns: DNSConfig
  readonly relays: RelayMap
  readonly regionScores: RegionScores
  /** Users known in this session, by number. */
  readonly users: ReadonlyMap<UserId, UserProfile>
  /** Name of the tailnet. */
  readonly domain: string
  readonly ssh: SSHPolicy
  readonly collectServices: boolean
  /** Messages of the server, old form. */
  readonly health: readonly string[]
  /** Messages of the server by id. */
  readonly displayMessages: ReadonlyMap<string, DisplayMessage>
}

/** The part of a full DNS name behind the first dot: the suffix of all names of this tailnet. */
export function magicDnsSuffix(map: NetworkMap): string {
  const dot = map.self.name.indexOf('.')
  return dot < 0 ? map.self.name : map.self.name.slice(dot + 1)
}

/** The user whom a node belongs to; `undefined` for tagged nodes and for users that the server did not name. */
export function userOf(map: NetworkMap, node: MapNode): UserProfile | undefined {
  return node.tags.length > 0 ? undefined : map.users.get(node.userId)
}
