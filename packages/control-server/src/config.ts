import type { DERPMap } from '@meshwright/control-protocol'
import { type Prefix, parsePrefix } from '@meshwright/ip'
import type { AllocationOrder } from './addresses.ts'

/** What nodes are told about names. */
export interface DnsSettings {
  /** Whether names of the mesh are answered. */
  readonly magicDns: boolean
  /** Nodes use `globalNameservers` instead of their own resolvers. */
  readonly overrideLocalDns: boolean
  readonly globalNameservers: readonly string[]
  /** Suffix to its servers. */
  readonly splitNameservers: Readonly<Record<string, readonly string[]>>
  /** Search domains behind the base domain. */
  readonly searchDomains: readonly string[]
  readonly extraRecords: readonly { readonly name: string; readonly type: string; readonly value: string }[]
}

/** How a server behaves. All of it may come anew with `configure` except the prefixes. */
export interface ControlServerConfig {
  /** Where clients reach the server, without a slash at the end: login URLs begin with it. */
  readonly serverUrl: string
  /** Every node's name ends in it; no dots at the ends. Two labels are best: clients cut the first label of their own name. */
  readonly baseDomain: string
  /** Addresses of nodes come from here; either may be missing, not both. */
  readonly prefixV4: Prefix | undefined
  readonly prefixV6: Prefix | undefined
  readonly allocation: AllocationOrder
  /** Lifetime of a node key of a user's node, in milliseconds; 0: for ever. Tagged nodes never expire. */
  readonly nodeExpiryMs: number
  /** How long an ephemeral node may be offline before it is deleted. */
  readonly ephemeralInactivityMs: number
  readonly derpMap: DERPMap
  readonly dns: DnsSettings
  /** Whether users may send files between their own nodes. */
  readonly taildrop: boolean
  /** Whether clients may upload their logs to their vendor. */
  readonly logtail: boolean
  /** What clients take as the default of their automatic updates. */
  readonly autoUpdate: boolean
  /** How long a login URL is good, in milliseconds. */
  readonly pendingLoginMs: number
  /** Most logins that wait at a time. */
  readonly maxPendingLogins: number
  /** Most of them from one source address. */
  readonly maxPendingPerSource: number
  /** Changes of this many milliseconds are told in one frame. */
  readonly batchMs: number
  /** How long a node still counts as online after its last poll ended. */
  readonly offlineGraceMs: number
  /** How often routers that share a prefix are asked for a sign of life; 0: never. */
  readonly routeProbeMs: number
  /** How long they have to answer before another takes over. */
  readonly routeProbeTimeoutMs: number
}

/** The prefixes that Tailscale and headscale use (RFC 6598; a unique local prefix). */
export const DEFAULT_PREFIX_V4: Prefix | undefined = parsePrefix('100.64.0.0/10')
export const DEFAULT_PREFIX_V6: Prefix | undefined = parsePrefix('fd7a:115c:a1e0::/48')

/** Settings that fit most; the caller names at least where the server is and how names end. */
export function controlServerConfig(given: Pick<ControlServerConfig, 'serverUrl' | 'baseDomain'> & Partial<ControlServerConfig>): ControlServerConfig {
  return {
    prefixV4: DEFAULT_PREFIX_V4,
    prefixV6: DEFAULT_PREFIX_V6,
    allocation: 'sequential',
    nodeExpiryMs: 0,
    ephemeralInactivityMs: 120_000,
    derpMap: { Regions: {} },
    dns: { magicDns: true, overrideLocalDns: false, globalNameservers: [], splitNameservers: {}, searchDomains: [], extraRecords: [] },
    taildrop: true,
    logtail: false,
    autoUpdate: false,
    pendingLoginMs: 15 * 60_000,
    maxPendingLogins: 1024,
    maxPendingPerSource: 64,
    batchMs: 50,
    offlineGraceMs: 10_000,
    routeProbeMs: 10_000,
    routeProbeTimeoutMs: 5_000,
    ...given,
  }
}
