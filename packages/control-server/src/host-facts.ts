import { formatEndpoint, formatPrefix, parseEndpoint, parsePrefix } from '@meshwright/ip'
import { type Hostinfo, formatJson } from '@meshwright/control-protocol'
import type { Context } from './context.ts'
import { freeLabel, sanitizeHostname } from './names.ts'
import type { NodeRecord } from './records.ts'

const MAX_ROUTES = 4096
const MAX_ENDPOINTS = 64
const EXIT_ROUTES: readonly string[] = ['0.0.0.0/0', '::/0']

/** Both exit routes, or neither, as they stand in a list of routes. */
export function isExitRoute(route: string): boolean {
  return EXIT_ROUTES.includes(route)
}

/** Canonical, sorted, unique prefixes; what is none falls away. */
export function canonicalRoutes(routes: readonly string[]): string[] {
  const canonical = new Set<string>()
  for (const text of routes.slice(0, MAX_ROUTES)) {
    const prefix = parsePrefix(text)
    if (prefix !== undefined) canonical.add(formatPrefix(prefix))
  }
  return [...canonical].sort()
}

/** Routes that a node carries: advertised and approved. */
export function servedRoutes(node: NodeRecord): string[] {
  return node.advertisedRoutes.filter((route) => node.approvedRoutes.includes(route))
}

/**
 * A node with what it now says of its host. NetInfo that is left out stays as it was (clients omit it while unchanged), a new host name
 * gives a new label unless an administrator chose it, and newly advertised routes are approved where the policy does so. Gives the same
 * record when nothing changed.
 */
export function withHostinfo(context: Context, node: NodeRecord, given: Hostinfo | undefined): NodeRecord {
  if (given === undefined) return node
  const netInfo = given.NetInfo ?? node.hostinfo.NetInfo
  const hostinfo: Hostinfo = { ...given, ...(netInfo !== undefined && { NetInfo: netInfo }) }
  const next: NodeRecord = {
    ...node,
    hostinfo,
    hostname: hostinfo.Hostname ?? '',
    givenName: labelFor(context, node, hostinfo.Hostname ?? ''),
    advertisedRoutes: canonicalRoutes(hostinfo.RoutableIPs ?? []),
    homeRelay: homeRelayOf(hostinfo, node.homeRelay),
  }
  const approved = withAutoApproval(context, next)
  return formatJson(approved) === formatJson(node) ? node : approved
}

/** A node with those of its advertised routes approved that the policy approves by itself. Approvals are only ever added. */
export function withAutoApproval(context: Context, node: NodeRecord): NodeRecord {
  if (node.advertisedRoutes.every((route) => node.approvedRoutes.includes(route))) return node
  const added = context.rules.autoApproved(node).filter((route) => !node.approvedRoutes.includes(route))
  return added.length === 0 ? node : { ...node, approvedRoutes: canonicalRoutes([...node.approvedRoutes, ...added]) }
}

/** Endpoints fit to be told to peers: valid, neither loopback nor link-local nor unspecified, bounded, in the node's order. */
export function usableEndpoints(endpoints: readonly string[], allowLoopback: boolean): string[] {
  const usable = new Set<string>()
  for (const text of endpoints) {
    if (usable.size === MAX_ENDPOINTS) break
    const endpoint = parseEndpoint(text)
    if (endpoint === undefined || endpoint.port === 0) continue
    const { family, bytes } = endpoint.ip.unmapped()
    const [a = 0, b = 0] = bytes
    const loopback = family === 4 ? a === 127 : bytes.every((byte, i) => byte === (i === 15 ? 1 : 0))
    const linkLocal = family === 4 ? a === 169 && b === 254 : a === 0xfe && (b & 0xc0) === 0x80
    const unfit = bytes.every((byte) => byte === 0) || (family === 4 ? a >= 224 : a === 0xff)
    if (linkLocal || unfit || (loopback && !allowLoopback)) continue
    usable.add(formatEndpoint(endpoint))
  }
  return [...usable]
}

function labelFor(context: Context, node: NodeRecord, hostname: string): string {
  if (node.renamed || (node.givenName !== '' && hostname === node.hostname)) return node.givenName
  return freeLabel(sanitizeHostname(hostname), (label) => {
    const holder = context.state.nodeByName(label)
    return holder !== undefined && holder.id !== node.id
  })
}

function homeRelayOf(hostinfo: Hostinfo, before: number): number {
  const region = hostinfo.NetInfo?.PreferredDERP
  return region === undefined || region < 0 ? before : region
}
