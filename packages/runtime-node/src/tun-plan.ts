import { readFileSync } from 'node:fs'
import os from 'node:os'
import type { NetworkMap } from '@meshwright/control-client'
import { formatPrefix, isExitRoute, parsePrefix, type Prefix } from '@meshwright/ip'
import { isExitNode, type Prefs } from '@meshwright/mesh'
import type { SystemDnsPlan } from './system-dns.ts'
import type { RouteKind, RoutePlan } from './system-routes.ts'

/** Where the DNS service of the mesh answers (tailscale/tailscale:net/tsaddr). */
const SERVICE_IPV4 = '100.100.100.100'
const SERVICE_IPV6 = 'fd7a:115c:a1e0::53'
const EVERYTHING = ['0.0.0.0/0', '::/0']

/** What the system is to have: addresses of the device, routes, name servers, and whether others' packets leave under its own address. */
export interface TunPlan {
  readonly addresses: ReadonlySet<string>
  readonly routes: RoutePlan
  readonly dns: SystemDnsPlan | undefined
  readonly masquerade: boolean
}

/** Nothing of the mesh. */
export const NO_PLAN: TunPlan = { addresses: new Set(), routes: new Map(), dns: undefined, masquerade: false }

/** What else decides, beside map and preferences. */
export interface TunPlanOptions {
  /** With an exit node: networks that this computer reaches by itself all the same. */
  readonly localNetworks: readonly string[]
  /** Others see forwarded packets with their own source address. */
  readonly keepSources: boolean
}

/**
 * What the system is to have for a network map: own addresses; routes to peers, to what they carry, and to the DNS service. An exit node
 * takes everything else; one that is chosen and cannot be used takes it too, into nothing: no packet leaves by another way meanwhile.
 */
export function planFor(map: NetworkMap | undefined, prefs: Prefs, options: TunPlanOptions): TunPlan {
  if (map === undefined || !prefs.wantRunning) return NO_PLAN
  const own = new Set(map.self.addresses.map(formatPrefix))
  const families = new Set([...own].map((text) => text.includes(':')))
  const routes = new Map<string, RouteKind>()
  const add = (text: string, kind: RouteKind): void => {
    if (families.has(text.includes(':')) && !own.has(text)) routes.set(text, kind)
  }
  for (const service of [`${SERVICE_IPV4}/32`, `${SERVICE_IPV6}/128`]) add(service, 'device')
  const exits = new Set<string>()
  for (const peer of map.peers.values()) {
    const addresses = new Set(peer.addresses.map(formatPrefix))
    for (const prefix of peer.allowedIps) {
      const text = formatPrefix(prefix)
      if (isExitRoute(prefix)) {
        if (isExitNode(peer, prefs)) exits.add(text)
      } else if (addresses.has(text) || prefs.acceptRoutes) add(text, 'device')
    }
  }
  if (prefs.exitNode !== '') {
    for (const text of options.localNetworks) if (!routes.has(text)) routes.set(text, 'throw')
    // A family that this node has no address in would leave by the old way: it is closed as well.
    for (const text of EVERYTHING) routes.set(text, exits.has(text) && families.has(text.includes(':')) ? 'device' : 'blackhole')
  }
  return { addresses: own, routes, dns: dnsPlan(map, prefs, families), masquerade: prefs.advertiseRoutes.length > 0 && !options.keepSources }
}

function dnsPlan(map: NetworkMap, prefs: Prefs, families: ReadonlySet<boolean>): SystemDnsPlan | undefined {
  const { Domains: search = [], Routes: routes = {}, Resolvers: resolvers = [], Proxied: proxied = false } = map.dns
  if (!prefs.acceptDns || (!proxied && (resolvers ?? []).length === 0)) return undefined
  const bare = (name: string): string => name.replace(/\.$/, '')
  return {
    servers: [families.has(false) ? SERVICE_IPV4 : SERVICE_IPV6],
    search: (search ?? []).map(bare),
    domains: Object.keys(routes ?? {}).map(bare),
    everything: (resolvers ?? []).length > 0 || prefs.exitNode !== '',
  }
}

/** The networks that this computer's own interfaces are in, but for those of a device: `10.0.0.0/24`. */
export function localNetworks(device: string): readonly string[] {
  const found = new Set<string>()
  for (const [name, addresses] of Object.entries(os.networkInterfaces())) {
    if (name === device) continue
    for (const { cidr, internal } of addresses ?? []) {
      const prefix = internal || cidr === null ? undefined : parsePrefix(cidr)
      if (prefix !== undefined) found.add(formatPrefix(prefix))
    }
  }
  return [...found]
}

/** What in the system's settings stands against what this node is to do; empty when nothing does. */
export function systemHints(prefs: Prefs, read: (file: string) => string = (file) => readFileSync(file, 'utf8')): readonly string[] {
  const setting = (file: string): string | undefined => {
    try {
      return read(file).trim()
    } catch {
      return undefined // a system without it has nothing to say
    }
  }
  const forwarding = (bits: 4 | 6, file: string, key: string): readonly string[] =>
    prefs.advertiseRoutes.some((route: Prefix) => route.ip.family === bits) && setting(file) === '0'
      ? [`IPv${bits} forwarding is off, so routes that this node offers lead nowhere: switch it on with "sysctl -w ${key}=1"`]
      : []
  const strict = prefs.exitNode !== '' && setting('/proc/sys/net/ipv4/conf/all/rp_filter') === '1'
  return [
    ...forwarding(4, '/proc/sys/net/ipv4/ip_forward', 'net.ipv4.ip_forward'),
    ...forwarding(6, '/proc/sys/net/ipv6/conf/all/forwarding', 'net.ipv6.conf.all.forwarding'),
    ...(strict ? ['strict reverse path filtering is on, so answers to this node\'s own packets are dropped while an exit node is used: "sysctl -w net.ipv4.conf.all.rp_filter=2" makes it loose'] : []),
  ]
}
