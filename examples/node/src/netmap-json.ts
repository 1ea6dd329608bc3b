import { magicDnsSuffix, type MapNode, type NetworkMap } from '@meshwright/control-client'
import type { RelayMap } from '@meshwright/core'
import { displayNames } from './display-names.ts'
import { packetFilterJson } from './packet-filter-json.ts'

/** Go's zero time: "none". */
export const ZERO_TIME = '0001-01-01T00:00:00Z'

/** The head of the chain of a network lock that is not there: 32 zero bytes in base32 without padding. */
const ZERO_LOCK_HEAD = 'A'.repeat(52)

/** Any JSON object. */
export type JsonObject = Record<string, unknown>

/** A relay map in tailscaled's form (tailscale/tailscale:tailcfg/derpmap.go). */
export function derpMapJson(relays: RelayMap): JsonObject {
  const regions = [...relays.regions.values()].map((region) => {
    const nodes = region.nodes.map((node) => ({
      Name: node.name,
      RegionID: node.regionId,
      HostName: node.hostName,
      ...(node.certName === undefined ? {} : { CertName: node.certName }),
      ...(node.ipv4 === undefined ? {} : { IPv4: node.ipv4 }),
      ...(node.ipv6 === undefined ? {} : { IPv6: node.ipv6 }),
      ...(node.stunPort === undefined ? {} : { STUNPort: node.stunPort }),
      ...(node.stunOnly === true ? { STUNOnly: true } : {}),
      ...(node.derpPort === undefined ? {} : { DERPPort: node.derpPort }),
      ...(node.insecureForTests === true ? { InsecureForTests: true } : {}),
      ...(node.canPort80 === true ? { CanPort80: true } : {}),
    }))
    const flags = { ...(region.avoid === true ? { Avoid: true } : {}), ...(region.noMeasureNoHome === true ? { NoMeasureNoHome: true } : {}) }
    return [String(region.id), { RegionID: region.id, RegionCode: region.code, RegionName: region.name, ...flags, Nodes: nodes }] as const
  })
  return { Regions: Object.fromEntries(regions) }
}

function isEmpty(value: unknown): boolean {
  return typeof value === 'object' && value !== null && Object.keys(value).length === 0
}

/** A node of the map as the control server describes it, with the names that tailscaled computes. */
export function nodeJson(node: MapNode, map: NetworkMap): JsonObject {
  // Go leaves out what is empty, and its zero time.
  const wire = Object.fromEntries(Object.entries(node.wire).filter(([, value]) => value !== ZERO_TIME && !isEmpty(value)))
  return { ...wire, ...(node.discoKey === undefined ? {} : { DiscoKey: node.discoKey.text }), ...displayNames(node, magicDnsSuffix(map)) }
}

/** The network map as `debug netmap` of tailscaled shows it, without the parts that this node does not keep (tailscale/tailscale:types/netmap). */
export function netmapJson(map: NetworkMap): JsonObject {
  // The server names a user once; whose last node is gone is no part of the map.
  const owners = new Set([map.self, ...map.peers.values()].flatMap(({ userId, sharerId }) => [userId, sharerId]))
  return {
    AllCaps: Object.keys(map.self.capabilities).sort(),
    Cached: false,
    CollectServices: map.collectServices,
    DERPMap: derpMapJson(map.relays),
    DNS: map.dns,
    DisplayMessages: map.displayMessages.size === 0 ? null : Object.fromEntries(map.displayMessages),
    Domain: map.domain,
    DomainAuditLogID: '',
    MachineKey: map.self.machineKey?.text ?? `mkey:${'0'.repeat(64)}`,
    NodeKey: map.self.nodeKey.text,
    PacketFilter: packetFilterJson(map.packetFilter),
    PacketFilterRules: map.packetFilter,
    Peers: [...map.peers.values()].sort((a, b) => Number(a.id) - Number(b.id)).map((peer) => nodeJson(peer, map)),
    SSHPolicy: map.ssh.rules.length === 0 ? null : map.ssh, // no policy and one without rules mean the same
    SelfNode: nodeJson(map.self, map),
    TKAEnabled: false,
    TKAHead: ZERO_LOCK_HEAD,
    UserProfiles: Object.fromEntries([...map.users].filter(([id]) => owners.has(id)).map(([id, user]) => [String(id), user])),
  }
}
