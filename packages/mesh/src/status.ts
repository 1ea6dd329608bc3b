import type { CapMap, NodeId, UserId } from '@meshwright/control-protocol'
import type { UnixMillis } from '@meshwright/core'
import type { NodePublicKey } from '@meshwright/crypto'
import type { Endpoint, Ip, Prefix } from '@meshwright/ip'
import type { DeniedPacket } from './denied-packets.ts'
import type { WayCounts } from './way-counts.ts'

/**
 * Where a node stands (the states of tailscale/tailscale:ipn/backend.go).
 *
 * | state | means |
 * |---|---|
 * | `no-state` | nothing has been decided yet |
 * | `needs-login` | a person or an auth key must log it in; `authUrl` may say where |
 * | `needs-machine-auth` | logged in, but an admin must approve the machine |
 * | `stopped` | `down`: known to the mesh, taking no part |
 * | `starting` | has a network map, no peer or relay reached yet |
 * | `running` | takes part |
 */
export type MeshState = 'no-state' | 'needs-login' | 'needs-machine-auth' | 'stopped' | 'starting' | 'running'

/** How packets to a peer travel now. */
export type PeerPath =
  | { readonly type: 'direct'; readonly endpoint: Endpoint; readonly latencyMs: number }
  | { readonly type: 'relay'; readonly region: number; readonly regionCode: string }
  | { readonly type: 'none' }

/** A user as the network map tells of them. */
export interface UserStatus {
  readonly id: UserId
  readonly loginName: string
  readonly displayName: string
  readonly profilePicUrl: string
}

/** One node of the mesh as this node sees it. */
export interface PeerStatus {
  readonly nodeKey: NodePublicKey
  readonly id: NodeId
  readonly stableId: string
  /** Full DNS name without the trailing dot: `db.mesh.example`. */
  readonly name: string
  readonly hostName: string
  readonly os: string
  readonly userId: UserId
  readonly tags: readonly string[]
  readonly addresses: readonly Ip[]
  /** Everything that is routed to it: its addresses and approved routes. */
  readonly allowedIps: readonly Prefix[]
  readonly primaryRoutes: readonly Prefix[]
  readonly endpoints: readonly Endpoint[]
  readonly online: boolean | undefined
  readonly lastSeen: UnixMillis | undefined
  readonly expired: boolean
  readonly keyExpiry: UnixMillis | undefined
  readonly created: UnixMillis | undefined
  readonly homeRegion: number
  readonly path: PeerPath
  /** We sent to it within the last 45 s. */
  readonly active: boolean
  readonly rxBytes: number
  readonly txBytes: number
  readonly lastHandshake: UnixMillis | undefined
  readonly lastWrite: UnixMillis | undefined
  readonly exitNode: boolean
  readonly exitNodeOption: boolean
  readonly capabilities: CapMap
}

/** The node itself, as the network map describes it. */
export type SelfStatus = Omit<PeerStatus, 'path' | 'active' | 'lastHandshake' | 'lastWrite'>

/** Why packets were dropped, and how many. */
export type DropCounters = Readonly<Record<string, number>>

/** Everything about a node at one moment: what `status` shows. Holds no secret. */
export interface MeshStatus {
  readonly state: MeshState
  /** Where a person can log this node in, while that is asked for. */
  readonly authUrl: string | undefined
  /** The last error that keeps the node from its next state, in plain words. */
  readonly lastError: string | undefined
  readonly controlUrl: string
  readonly nodeKey: NodePublicKey | undefined
  readonly self: SelfStatus | undefined
  readonly peers: readonly PeerStatus[]
  readonly users: readonly UserStatus[]
  readonly domain: string
  readonly magicDnsSuffix: string
  readonly magicDnsEnabled: boolean
  readonly homeRegion: number
  readonly homeRegionCode: string
  readonly udpBlocked: boolean
  /** Warnings with a remedy each. */
  readonly health: readonly string[]
  /** Inner packets since the start: delivered to us, sent by us. */
  readonly packetsIn: number
  readonly packetsOut: number
  readonly drops: DropCounters
  /** The last inner packets that were dropped by the router or the filter, oldest first: their first bytes, and why. */
  readonly denied: readonly DeniedPacket[]
  /** How many entries the tables hold that others can reach into, by table; each has a bound. */
  readonly held: Readonly<Record<string, number>>
  readonly relayBytesIn: number
  readonly relayBytesOut: number
  readonly directBytesIn: number
  readonly directBytesOut: number
  /** Datagrams of WireGuard by the way they came. */
  readonly received: WayCounts
  /** Datagrams of WireGuard by the way they went. */
  readonly sent: WayCounts
}

/** Who stands behind an address. */
export interface WhoIs {
  readonly node: PeerStatus | SelfStatus
  readonly user: UserStatus | undefined
  /** What the policy grants the node at this one, by capability name. */
  readonly capabilities: ReadonlyMap<string, readonly unknown[]>
}

/** The kinds of ping (tailscale/tailscale:tailcfg, type PingType). */
export type PingKind = 'disco' | 'TSMP' | 'ICMP' | 'peerapi'

/** How a ping ended. */
export interface PingResult {
  readonly ip: Ip
  readonly peer: NodePublicKey | undefined
  readonly nodeName: string
  /** Plain words; `undefined` when it was answered. */
  readonly error: string | undefined
  readonly latencyMs: number
  /** The direct address that answered, if not by relay. */
  readonly endpoint: Endpoint | undefined
  /** The relay region that carried it, 0 for none. */
  readonly region: number
  readonly regionCode: string
  readonly peerApiPort: number | undefined
  /** Of a `peerapi` ping: the address that answered. */
  readonly peerApiUrl?: string
}
