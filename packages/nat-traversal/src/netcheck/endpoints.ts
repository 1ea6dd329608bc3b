import { type Endpoint, formatEndpoint, type Ip, parseIp, parsePrefix, prefixContains } from '@meshwright/ip'
import { isLinkLocal, isLoopback, MESH_PREFIXES } from '../paths/endpoint-refusal.ts'
import type { NetcheckReport } from './report.ts'

/** How we know of one of our endpoints; the numbers are those of the control protocol (tailscale/tailscale:tailcfg, EndpointType). */
export type EndpointSource = 'local' | 'stun' | 'portmapped' | 'stun4-local-port' | 'explicit'

/** EndpointType on the control wire. */
export const ENDPOINT_TYPE_NUMBERS: Readonly<Record<EndpointSource, number>> = { local: 1, stun: 2, portmapped: 3, 'stun4-local-port': 4, explicit: 5 }

/** One endpoint of ours, to be told to control server and peers. */
export interface SelfEndpoint {
  readonly endpoint: Endpoint
  readonly source: EndpointSource
}

/** What is known of this host's addresses. */
export interface SelfEndpointSources {
  readonly report?: NetcheckReport
  /** Endpoints that port mapping (NAT-PMP, PCP, UPnP) gave. */
  readonly portMapped?: readonly Endpoint[]
  /** Endpoints from the configuration. */
  readonly explicit?: readonly Endpoint[]
  /** Addresses of interfaces that are up. */
  readonly interfaceIps: readonly Ip[]
  /** Port of our socket by family. */
  readonly port4?: number
  readonly port6?: number
  /** The port was chosen by the administrator, who may have forwarded it. */
  readonly fixedPort?: boolean
  /** Also tell loopback addresses: for several nodes on one machine. */
  readonly allowLoopback?: boolean
}

const MAX_IPV6_PER_SUBNET = 2
const SUBNET_BYTES = 8

/**
 * Our endpoints, best first and each once: port-mapped, seen by relays, the fixed port at the seen address, configured, interfaces
 * (tailscale/tailscale:wgengine/magicsock/magicsock.go, determineEndpoints). Addresses inside the mesh and link-local IPv6 are left out;
 * link-local IPv4 and loopback count only where nothing better is there.
 */
export function collectSelfEndpoints(sources: SelfEndpointSources): SelfEndpoint[] {
  const found = new Map<string, SelfEndpoint>()
  const add = (endpoint: Endpoint, source: EndpointSource): void => {
    const key = formatEndpoint(endpoint)
    if (endpoint.port !== 0 && !found.has(key)) found.set(key, { endpoint, source })
  }
  for (const endpoint of sources.portMapped ?? []) add(endpoint, 'portmapped')
  const mapped = sources.report?.mapped ?? []
  for (const endpoint of mapped) add(endpoint, 'stun')
  if (sources.report?.mappingVariesByDestination === true && sources.fixedPort === true && sources.port4 !== undefined) {
    for (const { ip } of mapped) if (ip.family === 4) add({ ip, port: sources.port4 }, 'stun4-local-port')
  }
  for (const endpoint of sources.explicit ?? []) add(endpoint, 'explicit')
  for (const ip of localIps(sources)) {
    const port = ip.family === 4 ? sources.port4 : sources.port6
    if (port !== undefined) add({ ip, port }, 'local')
  }
  return [...found.values()]
}

function localIps(sources: SelfEndpointSources): Ip[] {
  const mesh = MESH_PREFIXES.map(parsePrefix).filter((prefix) => prefix !== undefined)
  const usable = sources.interfaceIps.filter((ip) => !mesh.some((prefix) => prefixContains(prefix, ip)))
  const perSubnet = new Map<string, number>()
  const ordinary = usable.filter((ip) => {
    if (isLoopback(ip) || isLinkLocal(ip)) return false
    if (ip.family === 4) return true
    const subnet = ip.bytes.subarray(0, SUBNET_BYTES).join('.')
    const count = (perSubnet.get(subnet) ?? 0) + 1
    perSubnet.set(subnet, count)
    return count <= MAX_IPV6_PER_SUBNET
  })
  const loopback = usable.filter(isLoopback)
  if (sources.allowLoopback === true) return [...ordinary, ...(loopback.length > 0 ? loopback : [parseIp('127.0.0.1')].filter((ip) => ip !== undefined))]
  if (ordinary.length > 0) return ordinary
  return usable.filter((ip) => ip.family === 4 && isLinkLocal(ip))
}
