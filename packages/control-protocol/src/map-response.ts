import type { FilterRule } from '@meshwright/packet-filter'
import { type PingRequest, pingRequest } from './c2n.ts'
import { type DERPMap, derpMap } from './derp-map.ts'
import { type DNSConfig, dnsConfig } from './dns.ts'
import { filterRule } from './filter.ts'
import type { WireInteger } from './json.ts'
import { type Base64Text, discoKey, type DiscoKeyText, type EndpointText, nodeKey, type NodeKeyText, type TimeText } from './keys.ts'
import { type CapMap, capMap, type Node, node, type NodeId, type UserProfile, userProfile } from './node.ts'
import { base64, bigInteger, decoder, flag, float, integer, type JsonDecoder, list, object, record, required, type Shape, text, time } from './shape.ts'
import { type SSHPolicy, sshPolicy } from './ssh.ts'

/** What changed of one peer: members that are there replace, all others stay. */
export interface PeerChange {
  readonly NodeID: NodeId
  /** New home relay region; 0: none. */
  readonly DERPRegion?: number
  readonly Cap?: number
  readonly CapMap?: CapMap
  readonly Endpoints?: readonly EndpointText[]
  readonly Key?: NodeKeyText
  readonly KeySignature?: Base64Text
  readonly DiscoKey?: DiscoKeyText
  readonly Online?: boolean
  readonly LastSeen?: TimeText
  /** `ZERO_TIME`: never. */
  readonly KeyExpiry?: TimeText
}

/** A message for the user of a node. */
export interface DisplayMessage {
  readonly Title: string
  readonly Text: string
  readonly Severity?: string
  readonly ImpactsConnectivity?: boolean
  readonly PrimaryAction?: { readonly URL: string; readonly Label: string }
}

/** State of the network lock at the server. */
export interface TKAInfo {
  readonly Head?: string
  readonly Disabled?: boolean
}

/** Orders from the server to the program. */
export interface MapDebug {
  readonly SleepSeconds?: number
  readonly DisableLogTail?: boolean
  readonly Exit?: number
}

/** One address at which the control server can be reached. */
export interface ControlIPCandidate {
  readonly IP?: string
  readonly ACEHost?: string
  readonly DialStartDelaySec?: number
  readonly DialTimeoutSec?: number
  readonly Priority?: number
}

/** How to reach the control server without DNS. */
export interface ControlDialPlan {
  readonly Candidates?: readonly ControlIPCandidate[]
}

/** What the server knows of newer releases of the client. */
export interface ClientVersion {
  readonly RunningLatest?: boolean
  readonly LatestVersion?: string
  readonly UrgentSecurityUpdate?: boolean
  readonly Notify?: boolean
  readonly NotifyURL?: string
  readonly NotifyText?: string
}

/**
 * One frame of a map stream (tailscale/tailscale:tailcfg/tailcfg.go). In the first frame of a stream absent members mean "none", in
 * later ones "unchanged". `null` reads as absent, except inside `PacketFilters` and `DisplayMessages`, where it deletes an entry.
 */
export interface MapResponse {
  readonly MapSessionHandle?: string
  readonly Seq?: number
  /** When true only PingRequest, ControlTime, PopBrowserURL, ClientVersion and ControlDialPlan of the frame count. */
  readonly KeepAlive?: boolean
  readonly PingRequest?: PingRequest
  readonly PopBrowserURL?: string
  /** Oneself. The first frame that is no keepalive must have it. */
  readonly Node?: Node
  readonly DERPMap?: DERPMap
  /** Not empty: replaces all peers. Empty: "none" in the first frame, "unchanged" later. */
  readonly Peers?: readonly Node[]
  readonly PeersChanged?: readonly Node[]
  readonly PeersRemoved?: readonly NodeId[]
  readonly PeersChangedPatch?: readonly PeerChange[]
  /** By node number in decimal; true: seen now, false: never. */
  readonly PeerSeenChange?: Readonly<Record<string, boolean>>
  readonly OnlineChange?: Readonly<Record<string, boolean>>
  readonly DNSConfig?: DNSConfig
  readonly Domain?: string
  readonly CollectServices?: boolean
  /** The chunk `base` of `PacketFilters`; empty: everything is denied. */
  readonly PacketFilter?: readonly FilterRule[]
  /** By name; null deletes, and the name `*` with null clears all first. */
  readonly PacketFilters?: Readonly<Record<string, readonly FilterRule[] | null>>
  /** Added to the known ones. */
  readonly UserProfiles?: readonly UserProfile[]
  readonly Health?: readonly string[]
  /** By id; null deletes, and the id `*` with null clears all first. */
  readonly DisplayMessages?: Readonly<Record<string, DisplayMessage | null>>
  readonly SSHPolicy?: SSHPolicy
  readonly ControlTime?: TimeText
  readonly TKAInfo?: TKAInfo
  readonly DomainDataPlaneAuditLogID?: string
  readonly Debug?: MapDebug
  readonly ControlDialPlan?: ControlDialPlan
  readonly ClientVersion?: ClientVersion
  readonly DefaultAutoUpdate?: boolean
}

const peerChange: Shape<PeerChange> = object<PeerChange>({
  NodeID: required<WireInteger>(bigInteger, 0),
  DERPRegion: integer,
  Cap: integer,
  CapMap: capMap,
  Endpoints: list(text),
  Key: nodeKey,
  KeySignature: base64,
  DiscoKey: discoKey,
  Online: flag,
  LastSeen: time,
  KeyExpiry: time,
})

const displayMessage: Shape<DisplayMessage> = object<DisplayMessage>({
  Title: required(text, ''),
  Text: required(text, ''),
  Severity: text,
  ImpactsConnectivity: flag,
  PrimaryAction: object<{ readonly URL: string; readonly Label: string }>({ URL: required(text, ''), Label: required(text, '') }),
})

const controlDialPlan: Shape<ControlDialPlan> = object<ControlDialPlan>({
  Candidates: list(
    object<ControlIPCandidate>({ IP: text, ACEHost: text, DialStartDelaySec: float, DialTimeoutSec: float, Priority: integer }),
  ),
})

const clientVersion: Shape<ClientVersion> = object<ClientVersion>({
  RunningLatest: flag,
  LatestVersion: text,
  UrgentSecurityUpdate: flag,
  Notify: flag,
  NotifyURL: text,
  NotifyText: text,
})

/** Decodes a MapResponse. */
export const decodeMapResponse: JsonDecoder<MapResponse> = decoder(
  object<MapResponse>({
    MapSessionHandle: text,
    Seq: integer,
    KeepAlive: flag,
    PingRequest: pingRequest,
    PopBrowserURL: text,
    Node: node,
    DERPMap: derpMap,
    Peers: list(node),
    PeersChanged: list(node),
    PeersRemoved: list<WireInteger>(bigInteger),
    PeersChangedPatch: list(peerChange),
    PeerSeenChange: record(flag),
    OnlineChange: record(flag),
    DNSConfig: dnsConfig,
    Domain: text,
    CollectServices: flag,
    PacketFilter: list(filterRule),
    PacketFilters: record<readonly FilterRule[] | null>(list(filterRule), null),
    UserProfiles: list(userProfile),
    Health: list(text),
    DisplayMessages: record<DisplayMessage | null>(displayMessage, null),
    SSHPolicy: sshPolicy,
    ControlTime: time,
    TKAInfo: object<TKAInfo>({ Head: text, Disabled: flag }),
    DomainDataPlaneAuditLogID: text,
    Debug: object<MapDebug>({ SleepSeconds: float, DisableLogTail: flag, Exit: integer }),
    ControlDialPlan: controlDialPlan,
    ClientVersion: clientVersion,
    DefaultAutoUpdate: flag,
  }),
)
