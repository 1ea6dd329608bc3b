import type { DiscoPublicKey, NodePublicKey } from '@meshwright/crypto'
import type { Endpoint } from '@meshwright/ip'

/** Where packets to a peer go now. */
export type Path =
  /** One UDP endpoint that answered lately (or, for a peer without disco, its only address: no latency then). */
  | { readonly type: 'direct'; readonly endpoint: Endpoint; readonly latencyMs: number | undefined }
  /** Through the relay of a region. */
  | { readonly type: 'relay'; readonly region: number }
  /** To both, since the direct path has not answered lately. The receiver's replay window drops what arrives twice. */
  | { readonly type: 'both'; readonly endpoint: Endpoint; readonly region: number; readonly latencyMs: number | undefined }
  /** Nowhere: the peer is unknown, or neither an endpoint that works nor a relay is known. */
  | { readonly type: 'none' }

/** Over what something came or went. */
export type PathVia = { readonly type: 'direct'; readonly endpoint: Endpoint } | { readonly type: 'relay'; readonly region: number }

/** Why a path changed. */
export type PathChangeReason =
  | 'peer-set'
  | 'pong'
  | 'better-path'
  | 'trust-lapsed'
  | 'heartbeat-unanswered'
  | 'ping-timeout'
  | 'unreachable'
  | 'relay-learnt'
  | 'relay-map'
  | 'rebind'
  | 'udp-unavailable'
  | 'udp-available'

/** A peer as the network map shows it. */
export interface PathPeer {
  readonly nodeKey: NodePublicKey
  /** Absent: the peer speaks WireGuard alone, or its disco key is not known yet. */
  readonly discoKey?: DiscoPublicKey
  /** Where the map says it can be reached; the first 64 count. */
  readonly endpoints: readonly Endpoint[]
  /** Region of its home relay. */
  readonly homeRegion?: number
}

/** True when both lead to the same places; latency does not count. */
export function samePath(a: Path, b: Path): boolean {
  if (a.type !== b.type) return false
  if (a.type === 'relay') return b.type === 'relay' && a.region === b.region
  if (a.type === 'none' || b.type === 'none' || b.type === 'relay') return a.type === b.type
  if (a.type === 'both' && b.type === 'both' && a.region !== b.region) return false
  return a.endpoint.port === b.endpoint.port && a.endpoint.ip.equals(b.endpoint.ip)
}
