import { decoder, flag, float, integer, type JsonDecoder, list, object, raw, record, required, type Shape, text } from './shape.ts'
import type { PrefixText } from './keys.ts'

/** A service that a node offers: `tcp`, `udp`, or how its peer API is reached (`peerapi4`, `peerapi6`, `peerapi-dns-proxy`). */
export interface Service {
  readonly Proto: string
  readonly Port: number
  readonly Description?: string
}

/** Where a node stands, for exit-node choice. */
export interface Location {
  readonly Country?: string
  readonly CountryCode?: string
  readonly City?: string
  readonly CityCode?: string
  readonly Latitude?: number
  readonly Longitude?: number
  readonly Priority?: number
}

/** What a node knows of its network. Absent booleans are unknown. */
export interface NetInfo {
  readonly MappingVariesByDestIP?: boolean
  readonly HairPinning?: boolean
  readonly WorkingIPv6?: boolean
  readonly OSHasIPv6?: boolean
  readonly WorkingUDP?: boolean
  readonly WorkingICMPv4?: boolean
  readonly HavePortMap?: boolean
  readonly UPnP?: boolean
  readonly PMP?: boolean
  readonly PCP?: boolean
  /** Home relay region; 0 or absent: none yet. */
  readonly PreferredDERP?: number
  readonly LinkType?: string
  /** Seconds by `REGION-v4` or `REGION-v6`. */
  readonly DERPLatency?: Readonly<Record<string, number>>
  readonly FirewallMode?: string
}

/** What a node says of itself (tailscale/tailscale:tailcfg/tailcfg.go, type Hostinfo). Every member may be left out. */
export interface Hostinfo {
  readonly IPNVersion?: string
  readonly FrontendLogID?: string
  /** Never an identity: all daemons of a machine may send the same one. */
  readonly BackendLogID?: string
  readonly OS?: string
  readonly OSVersion?: string
  readonly Container?: boolean
  readonly Env?: string
  readonly Distro?: string
  readonly DistroVersion?: string
  readonly DistroCodeName?: string
  readonly App?: string
  readonly Desktop?: boolean
  readonly Package?: string
  readonly DeviceModel?: string
  readonly PushDeviceToken?: string
  readonly Hostname?: string
  readonly ShieldsUp?: boolean
  readonly ShareeNode?: boolean
  readonly NoLogsNoSupport?: boolean
  readonly RemoteConfig?: boolean
  readonly WireIngress?: boolean
  readonly IngressEnabled?: boolean
  readonly AllowsUpdate?: boolean
  readonly Machine?: string
  readonly GoArch?: string
  readonly GoArchVar?: string
  readonly GoVersion?: string
  /** Routes that the node offers to carry. */
  readonly RoutableIPs?: readonly PrefixText[]
  /** Tags that the node asks for. */
  readonly RequestTags?: readonly string[]
  readonly WoLMACs?: readonly string[]
  readonly Services?: readonly Service[]
  /** Left out when unchanged: keep the previous one. */
  readonly NetInfo?: NetInfo
  readonly sshHostKeys?: readonly string[]
  readonly Cloud?: string
  readonly Userspace?: boolean
  readonly UserspaceRouter?: boolean
  readonly AppConnector?: boolean
  readonly ServicesHash?: string
  readonly PeerRelay?: boolean
  readonly ExitNodeID?: string
  readonly Location?: Location
  readonly TPM?: unknown
  readonly StateEncrypted?: boolean
}

const service: Shape<Service> = object<Service>({ Proto: required(text, ''), Port: required(integer, 0), Description: text })

const location: Shape<Location> = object<Location>({
  Country: text,
  CountryCode: text,
  City: text,
  CityCode: text,
  Latitude: float,
  Longitude: float,
  Priority: integer,
})

const netInfo: Shape<NetInfo> = object<NetInfo>({
  MappingVariesByDestIP: flag,
  HairPinning: flag,
  WorkingIPv6: flag,
  OSHasIPv6: flag,
  WorkingUDP: flag,
  WorkingICMPv4: flag,
  HavePortMap: flag,
  UPnP: flag,
  PMP: flag,
  PCP: flag,
  PreferredDERP: integer,
  LinkType: text,
  DERPLatency: record(float),
  FirewallMode: text,
})

/** Reads a `Hostinfo`. */
export const hostinfo: Shape<Hostinfo> = object<Hostinfo>({
  IPNVersion: text,
  FrontendLogID: text,
  BackendLogID: text,
  OS: text,
  OSVersion: text,
  Container: flag,
  Env: text,
  Distro: text,
  DistroVersion: text,
  DistroCodeName: text,
  App: text,
  Desktop: flag,
  Package: text,
  DeviceModel: text,
  PushDeviceToken: text,
  Hostname: text,
  ShieldsUp: flag,
  ShareeNode: flag,
  NoLogsNoSupport: flag,
  RemoteConfig: flag,
  WireIngress: flag,
  IngressEnabled: flag,
  AllowsUpdate: flag,
  Machine: text,
  GoArch: text,
  GoArchVar: text,
  GoVersion: text,
  RoutableIPs: list(text),
  RequestTags: list(text),
  WoLMACs: list(text),
  Services: list(service),
  NetInfo: netInfo,
  sshHostKeys: list(text),
  Cloud: text,
  Userspace: flag,
  UserspaceRouter: flag,
  AppConnector: flag,
  ServicesHash: text,
  PeerRelay: flag,
  ExitNodeID: text,
  Location: location,
  TPM: raw,
  StateEncrypted: flag,
})

/** Decodes a Hostinfo. */
export const decodeHostinfo: JsonDecoder<Hostinfo> = decoder(hostinfo)

