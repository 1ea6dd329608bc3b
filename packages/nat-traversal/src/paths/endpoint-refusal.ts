import { type RelayMap } from '@meshwright/core'
import { type Endpoint, formatEndpoint, type Ip, parseIp, parsePrefix, type Prefix, prefixContains } from '@meshwright/ip'

/** Why an endpoint is never sent a ping or a packet. */
export type EndpointRefusal =
  /** 127.0.0.0/8 or ::1, unless loopback is allowed: a hostile map could make us talk to local services. */
  | 'loopback'
  /** Address or port zero. */
  | 'unspecified'
  /** Multicast or broadcast. */
  | 'multicast'
  /** fe80::/10, which means nothing without its zone. */
  | 'link-local'
  /** Inside the mesh itself: packets would loop through the tunnel. */
  | 'mesh-address'
  /** The pseudo address of relays (127.3.3.40), or a port of a relay of the map. */
  | 'relay-address'
  /** One of our own endpoints. */
  | 'own-address'

const DEFAULT_RELAY_PORT = 443
const DEFAULT_STUN_PORT = 3478
const RELAY_PSEUDO_ADDRESS = '127.3.3.40'

/** Addresses that nodes have inside the mesh: 100.64.0.0/10 (shared with carrier NATs: never usable) and Tailscale's ULA range. */
export const MESH_PREFIXES: readonly string[] = ['100.64.0.0/10', 'fd7a:115c:a1e0::/48']

/** What to refuse beside the fixed ranges. */
export interface EndpointRulesConfig {
  /** For demonstrations and tests on one machine. Default false. */
  readonly allowLoopback?: boolean
  /** Prefixes of addresses inside the mesh; default {@link MESH_PREFIXES}. Text that is no prefix is ignored. */
  readonly meshPrefixes?: readonly string[]
}

/** Judges endpoints that maps and peers name, before anything is sent there. */
export class EndpointRules {
  readonly #allowLoopback: boolean
  readonly #mesh: readonly Prefix[]
  #relays: ReadonlySet<string> = new Set()
  #own: ReadonlySet<string> = new Set()

  constructor(config: EndpointRulesConfig = {}) {
    this.#allowLoopback = config.allowLoopback === true
    this.#mesh = (config.meshPrefixes ?? MESH_PREFIXES).map(parsePrefix).filter((prefix) => prefix !== undefined)
  }

  /** From now on the relays' own ports are refused. */
  setRelayMap(map: RelayMap): void {
    const relays = new Set<string>()
    for (const region of map.regions.values()) {
      for (const node of region.nodes) {
        for (const text of [node.ipv4, node.ipv6, node.hostName]) {
          const ip = text === undefined ? undefined : parseIp(text)
          if (ip === undefined) continue
          relays.add(formatEndpoint({ ip, port: node.derpPort ?? DEFAULT_RELAY_PORT }))
          relays.add(formatEndpoint({ ip, port: node.stunPort ?? DEFAULT_STUN_PORT }))
        }
      }
    }
    this.#relays = relays
  }

  /** From now on these endpoints of ours are refused. */
  setOwn(endpoints: readonly Endpoint[]): void {
    this.#own = new Set(endpoints.map(formatEndpoint))
  }

  /** Why the endpoint is refused; `undefined` when it may be tried. */
  refusal(endpoint: Endpoint, key: string = formatEndpoint(endpoint)): EndpointRefusal | undefined {
    const ip = endpoint.ip
    if (endpoint.port === 0 || isUnspecified(ip)) return 'unspecified'
    if (isMulticast(ip)) return 'multicast'
    if (ip.key === RELAY_PSEUDO_ADDRESS) return 'relay-address'
    if (!this.#allowLoopback && isLoopback(ip)) return 'loopback'
    if (ip.family === 6 && isLinkLocal(ip)) return 'link-local'
    if (this.#mesh.some((prefix) => prefixContains(prefix, ip))) return 'mesh-address'
    if (this.#relays.has(key)) return 'relay-address'
    return this.#own.has(key) ? 'own-address' : undefined
  }
}

/** Whether an endpoint that is refused for this reason can be no honest node's: own addresses, carrier NATs and link-local ones do occur. */
export function isLie(refusal: EndpointRefusal | undefined): boolean {
  return refusal === 'loopback' || refusal === 'unspecified' || refusal === 'multicast' || refusal === 'relay-address'
}

/** 127.0.0.0/8 or ::1. */
export function isLoopback(ip: Ip): boolean {
  return ip.family === 4 ? ip.bytes[0] === 127 : ip.key === '::1'
}

/** 169.254.0.0/16 or fe80::/10. */
export function isLinkLocal(ip: Ip): boolean {
  const [first, second = 0] = ip.bytes
  return ip.family === 4 ? first === 169 && second === 254 : first === 0xfe && (second & 0xc0) === 0x80
}

/** RFC 1918, or a unique local address (fc00::/7). */
export function isPrivate(ip: Ip): boolean {
  const [first = 0, second = 0] = ip.bytes
  if (ip.family === 6) return (first & 0xfe) === 0xfc
  return first === 10 || (first === 172 && (second & 0xf0) === 16) || (first === 192 && second === 168)
}

function isUnspecified(ip: Ip): boolean {
  return ip.bytes.every((byte) => byte === 0) || (ip.family === 4 && ip.bytes[0] === 0)
}

function isMulticast(ip: Ip): boolean {
  const first = ip.bytes[0] ?? 0
  return ip.family === 4 ? first >= 224 : first === 0xff
}
