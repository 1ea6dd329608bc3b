import { discoKey, type DiscoKeyText, type EndpointText, machineKey, type MachineKeyText, nodeKey, type NodeKeyText, type PrefixText, type TimeText, ZERO_NODE_KEY } from './keys.ts'
import { type Resolver, resolver } from './dns.ts'
import { type Hostinfo, hostinfo } from './hostinfo.ts'
import type { WireInteger } from './json.ts'
import { base64, bigInteger, decoder, flag, integer, type JsonDecoder, list, object, raw, record, required, type Shape, text, time } from './shape.ts'

/** The number of a node, unique at its server: a `number` up to 2^53 − 1, else a `bigint`. */
export type NodeId = WireInteger
/** The number of a user. */
export type UserId = WireInteger

/** The user number that tagged nodes belong to, and the profile that goes with it (juanfont/headscale:hscontrol/types). */
export const TAGGED_DEVICES_USER_ID = 2147455555

/** Capability name to raw JSON values, passed through unread. An empty list means "has it, no values". */
export type CapMap = Readonly<Record<string, readonly unknown[]>>

/** A node as the network map shows it: oneself or a peer (tailscale/tailscale:tailcfg/tailcfg.go, type Node). */
export interface Node {
  readonly ID: NodeId
  /** A name that stays for ever; free form. */
  readonly StableID: string
  /** Full DNS name, customarily with a trailing dot, two labels or more. */
  readonly Name: string
  readonly User: UserId
  readonly Sharer?: UserId
  readonly Key: NodeKeyText
  /** `ZERO_TIME` or absent: never. */
  readonly KeyExpiry?: TimeText
  readonly KeySignature?: string
  readonly Machine?: MachineKeyText
  readonly DiscoKey?: DiscoKeyText
  /** Own addresses, one address each. */
  readonly Addresses: readonly PrefixText[]
  /** Source and destination addresses of this node's packets; absent: `Addresses`; empty: none. */
  readonly AllowedIPs?: readonly PrefixText[]
  readonly Endpoints?: readonly EndpointText[]
  /** Old form of `HomeDERP`: `127.3.3.40:REGION`. */
  readonly DERP?: string
  readonly HomeDERP?: number
  /** Always send it for peers, empty at least: real clients need the member. */
  readonly Hostinfo?: Hostinfo
  readonly Created?: TimeText
  /** The node's own capability version. */
  readonly Cap?: number
  readonly Tags?: readonly string[]
  readonly PrimaryRoutes?: readonly PrefixText[]
  readonly LastSeen?: TimeText
  readonly Online?: boolean
  readonly MachineAuthorized?: boolean
  /** Old form of `CapMap`. */
  readonly Capabilities?: readonly string[]
  readonly CapMap?: CapMap
  readonly UnsignedPeerAPIOnly?: boolean
  readonly ComputedName?: string
  readonly ComputedNameWithHost?: string
  readonly DataPlaneAuditLogID?: string
  readonly Expired?: boolean
  readonly SelfNodeV4MasqAddrForThisPeer?: string
  readonly SelfNodeV6MasqAddrForThisPeer?: string
  readonly IsWireGuardOnly?: boolean
  readonly IsJailed?: boolean
  readonly ExitNodeDNSResolvers?: readonly Resolver[]
}

/** A user as others see it. */
export interface UserProfile {
  readonly ID: UserId
  readonly LoginName: string
  readonly DisplayName: string
  readonly ProfilePicURL?: string
  readonly Groups?: readonly string[]
}

/** Reads a `CapMap`. */
export const capMap: Shape<CapMap> = record<readonly unknown[]>(list(raw), [])

/** Reads a `Node`. */
export const node: Shape<Node> = object<Node>({
  ID: required(bigInteger, 0),
  StableID: required(text, ''),
  Name: required(text, ''),
  User: required(bigInteger, 0),
  Sharer: bigInteger,
  Key: required(nodeKey, ZERO_NODE_KEY),
  KeyExpiry: time,
  KeySignature: base64,
  Machine: machineKey,
  DiscoKey: discoKey,
  Addresses: required<readonly string[]>(list(text), []),
  AllowedIPs: list(text),
  Endpoints: list(text),
  DERP: text,
  HomeDERP: integer,
  Hostinfo: hostinfo,
  Created: time,
  Cap: integer,
  Tags: list(text),
  PrimaryRoutes: list(text),
  LastSeen: time,
  Online: flag,
  MachineAuthorized: flag,
  Capabilities: list(text),
  CapMap: capMap,
  UnsignedPeerAPIOnly: flag,
  ComputedName: text,
  ComputedNameWithHost: text,
  DataPlaneAuditLogID: text,
  Expired: flag,
  SelfNodeV4MasqAddrForThisPeer: text,
  SelfNodeV6MasqAddrForThisPeer: text,
  IsWireGuardOnly: flag,
  IsJailed: flag,
  ExitNodeDNSResolvers: list(resolver),
})

/** Reads a `UserProfile`. */
export const userProfile: Shape<UserProfile> = object<UserProfile>({
  ID: required(bigInteger, 0),
  LoginName: required(text, ''),
  DisplayName: required(text, ''),
  ProfilePicURL: text,
  Groups: list(text),
})

/** Decodes a Node. */
export const decodeNode: JsonDecoder<Node> = decoder(node)
