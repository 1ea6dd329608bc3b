import os from 'node:os'
import { CAPABILITY_VERSION } from '@meshwright/control-protocol'
import type { NetworkMap } from '@meshwright/control-client'
import { formatEndpoint, formatIp, formatPrefix } from '@meshwright/ip'
import type { MeshState, MeshStatus, PeerStatus, PingKind, PingResult, SelfStatus, UserStatus, WhoIs } from '@meshwright/mesh'
import type { DataPlaneReport } from '@meshwright/runtime-node'
import { type JsonObject, nodeJson, ZERO_TIME } from './netmap-json.ts'
import { VERSION } from './version.ts'

const STATES: Readonly<Record<MeshState, readonly [string, number]>> = {
  'no-state': ['NoState', 0],
  'needs-login': ['NeedsLogin', 2],
  'needs-machine-auth': ['NeedsMachineAuth', 3],
  stopped: ['Stopped', 4],
  starting: ['Starting', 5],
  running: ['Running', 6],
}

/** The name of a state in `status --json` (tailscale/tailscale:ipn/backend.go). */
export function stateName(state: MeshState): string {
  return STATES[state][0]
}

/** The number of a state on the notification bus. */
export function stateNumber(state: MeshState): number {
  return STATES[state][1]
}

/** A status as tailscaled's LocalAPI gives it (tailscale/tailscale:ipn/ipnstate/ipnstate.go). */
export function statusJson(status: MeshStatus, withPeers: boolean = true, tun: boolean = false, map?: NetworkMap, plane?: DataPlaneReport): JsonObject {
  return {
    Version: VERSION,
    TUN: tun,
    BackendState: stateName(status.state),
    HaveNodeKey: status.nodeKey !== undefined,
    AuthURL: status.authUrl ?? '',
    TailscaleIPs: status.self?.addresses.map(formatIp) ?? null,
    Self: status.self === undefined ? selfless() : { ...peerJson(status.self, status), PublicKey: status.nodeKey?.text ?? status.self.nodeKey.text, Online: status.state === 'running', InEngine: false, InMagicSock: false },
    Health: healthJson(status),
    MagicDNSSuffix: status.magicDnsSuffix,
    CurrentTailnet: status.self === undefined ? null : { Name: status.domain, MagicDNSSuffix: status.magicDnsSuffix, MagicDNSEnabled: status.magicDnsEnabled },
    CertDomains: null,
    ExtraRecords: null,
    Peer: withPeers && status.peers.length > 0 ? Object.fromEntries(status.peers.map((peer) => [peer.nodeKey.text, peerJson(peer, status, map)])) : null,
    User: status.users.length === 0 ? null : Object.fromEntries(status.users.map((user) => [String(user.id), userJson(user)])),
    ClientVersion: null,
    Meshwright: {
      ControlURL: status.controlUrl,
      UDPBlocked: status.udpBlocked,
      HomeRelay: status.homeRegionCode,
      PacketsIn: status.packetsIn,
      PacketsOut: status.packetsOut,
      RelayBytesIn: status.relayBytesIn,
      RelayBytesOut: status.relayBytesOut,
      DirectBytesIn: status.directBytesIn,
      DirectBytesOut: status.directBytesOut,
      Drops: status.drops,
      Held: status.held,
      ...(plane && { DataPlane: dataPlaneJson(plane) }),
    },
  }
}

function healthJson(status: MeshStatus): readonly string[] {
  return status.state === 'stopped' || (status.state === 'needs-login' && status.authUrl === undefined) ? ['Tailscale is stopped.', ...status.health] : status.health
}

/** One node of a status. */
export function peerJson(peer: PeerStatus | SelfStatus, status: MeshStatus, map?: NetworkMap): JsonObject {
  const live = 'path' in peer ? peer : undefined
  const location = live && map?.peersByKey.get(peer.nodeKey.text)?.hostinfo.Location
  const direct = live?.path.type === 'direct' ? formatEndpoint(live.path.endpoint) : ''
  const relay = live === undefined ? status.homeRegionCode : live.path.type === 'relay' ? live.path.regionCode : live.path.type === 'direct' ? '' : String(peer.homeRegion === 0 ? '' : peer.homeRegion)
  return {
    ID: peer.stableId,
    NodeID: peer.id,
    PublicKey: peer.nodeKey.text,
    HostName: peer.hostName,
    DNSName: peer.name === '' ? '' : `${peer.name}.`,
    OS: peer.os,
    UserID: peer.userId,
    TailscaleIPs: peer.addresses.map(formatIp),
    AllowedIPs: peer.allowedIps.map(formatPrefix),
    ...(peer.tags.length > 0 ? { Tags: peer.tags } : {}),
    ...(peer.primaryRoutes.length > 0 ? { PrimaryRoutes: peer.primaryRoutes.map(formatPrefix) } : {}),
    Addrs: live === undefined ? peer.endpoints.map(formatEndpoint) : null,
    CurAddr: direct,
    Relay: relay,
    PeerRelay: '',
    RxBytes: peer.rxBytes,
    TxBytes: peer.txBytes,
    Created: time(peer.created),
    LastWrite: time(live?.lastWrite),
    LastSeen: peer.online === true ? ZERO_TIME : time(peer.lastSeen),
    LastHandshake: time(live?.lastHandshake),
    Online: peer.online === true,
    ExitNode: peer.exitNode,
    ExitNodeOption: peer.exitNodeOption,
    Active: live?.active ?? false,
    PeerAPIURL: live === undefined ? null : peerApiUrls(peer, map),
    TaildropTarget: 0,
    NoFileSharingReason: '',
    ...(Object.keys(peer.capabilities).length > 0 ? { CapMap: peer.capabilities } : {}),
    InNetworkMap: true,
    InMagicSock: live !== undefined,
    InEngine: live?.lastHandshake !== undefined,
    ...(location === undefined ? {} : { Location: location }),
    ...(peer.expired ? { Expired: true } : {}),
    ...(peer.keyExpiry === undefined ? {} : { KeyExpiry: time(peer.keyExpiry) }),
  }
}

// Where its hostinfo says that its PeerAPI listens (tailscale/tailscale:ipn/ipnlocal/peerapi.go).
function peerApiUrls(peer: PeerStatus | SelfStatus, map: NetworkMap | undefined): readonly string[] | null {
  const services = map?.peersByKey.get(peer.nodeKey.text)?.hostinfo.Services ?? []
  const urls = peer.addresses.flatMap((ip) => {
    const port = services.find((service) => service.Proto === `peerapi${ip.family}`)?.Port
    return port === undefined ? [] : [`http://${formatEndpoint({ ip, port })}`]
  })
  return urls.length === 0 ? null : urls
}

/** A user of a status. */
export function userJson(user: UserStatus): JsonObject {
  return { ID: user.id, LoginName: user.loginName, DisplayName: user.displayName, ...(user.profilePicUrl === '' ? {} : { ProfilePicURL: user.profilePicUrl }) }
}

/** The answer to `whois`. */
export function whoisJson(found: WhoIs, status: MeshStatus, map?: NetworkMap): JsonObject {
  const { node } = found
  const known = map && (map.self.nodeKey.equals(node.nodeKey) ? map.self : map.peersByKey.get(node.nodeKey.text))
  return {
    Node: known === undefined || map === undefined ? bareNode(node) : nodeJson(known, map),
    UserProfile: found.user === undefined ? taggedUser(status) : userJson(found.user),
    CapMap: found.capabilities.size === 0 ? null : Object.fromEntries(found.capabilities),
  }
}

function bareNode(node: WhoIs['node']): JsonObject {
  return {
    ID: node.id,
    StableID: node.stableId,
    Name: node.name === '' ? '' : `${node.name}.`,
    User: node.userId,
    Key: node.nodeKey.text,
    Addresses: node.addresses.map((ip) => `${formatIp(ip)}/${ip.bits}`),
    AllowedIPs: node.allowedIps.map(formatPrefix),
    Endpoints: node.endpoints.map(formatEndpoint),
    Hostinfo: { OS: node.os, Hostname: node.hostName },
    Created: time(node.created),
    ...(node.tags.length > 0 ? { Tags: node.tags } : {}),
    Online: node.online === true,
    Cap: CAPABILITY_VERSION,
    ComputedName: node.name.split('.')[0] ?? '',
    ComputedNameWithHost: node.name.split('.')[0] ?? '',
  }
}

/** The answer to `ping`. */
export function pingJson(result: PingResult, kind: PingKind, map: NetworkMap | undefined): JsonObject {
  // Disco asks the node itself, also for an address behind it; the other kinds ask for the address.
  const asked = kind === 'disco' ? (result.peer && map?.peersByKey.get(result.peer.text)?.addresses[0]?.ip) : undefined
  return {
    IP: formatIp(result.ip),
    NodeIP: formatIp(asked ?? result.ip),
    NodeName: result.nodeName,
    Err: result.error ?? '',
    LatencySeconds: result.latencyMs / 1000,
    Endpoint: result.endpoint === undefined ? '' : formatEndpoint(result.endpoint),
    PeerRelay: '',
    DERPRegionID: result.region,
    DERPRegionCode: result.regionCode,
    ...(result.peerApiPort === undefined ? {} : { PeerAPIPort: result.peerApiPort }),
    ...(result.peerApiUrl === undefined ? {} : { PeerAPIURL: result.peerApiUrl }),
  }
}

/** The system as tailscaled names it (tailscale/tailscale:version/prop.go). */
function systemName(): string {
  return process.platform === 'win32' ? 'windows' : process.platform === 'darwin' ? 'macOS' : process.platform
}

function selfless(): JsonObject {
  return { ID: '', NodeID: 0, PublicKey: `nodekey:${'0'.repeat(64)}`, HostName: os.hostname(), DNSName: '', OS: systemName(), UserID: 0, TailscaleIPs: null, Addrs: [], CurAddr: '', Relay: '', PeerRelay: '', RxBytes: 0, TxBytes: 0, Created: ZERO_TIME, LastWrite: ZERO_TIME, LastSeen: ZERO_TIME, LastHandshake: ZERO_TIME, Online: false, ExitNode: false, ExitNodeOption: false, Active: false, PeerAPIURL: null, TaildropTarget: 0, NoFileSharingReason: '', InNetworkMap: false, InMagicSock: false, InEngine: false }
}

function taggedUser(status: MeshStatus): JsonObject {
  const tagged = status.users.find((user) => user.loginName === 'tagged-devices')
  return tagged === undefined ? { ID: 0, LoginName: 'tagged-devices', DisplayName: 'Tagged Devices' } : userJson(tagged)
}

function time(ms: number | undefined): string {
  return ms === undefined || ms <= 0 ? ZERO_TIME : new Date(ms).toISOString().replace('.000Z', 'Z')
}

function dataPlaneJson(plane: DataPlaneReport): JsonObject {
  return { Lane: plane.lane, ...(plane.datagrams && { Datagrams: plane.datagrams }), Reason: plane.reason ?? '', Offloads: plane.offloads ?? {}, Counters: plane.counters ?? {}, Restarts: plane.restarts ?? 0 }
}
