import { MeshwrightError } from '@meshwright/core'
import { type Ip, isServiceAddress, parseEndpoint, parseIp, parsePrefix, prefixRange, SERVICE_IPV4, SERVICE_IPV6, unmapFourToSix, viaPrefix } from '@meshwright/ip'
import { canonicalName, type DnsName, isUnder, parentName, parseLabels } from './dns-name.ts'
import type { MagicDnsErrorCode } from './encode.ts'
import { TAILNET_REVERSE_ZONES } from './reverse.ts'

/** One more record, as the control server gives it: only addresses are known. */
export interface ExtraRecord {
  readonly name: string
  /** `A`, `AAAA` or empty; the value decides. Records of other types are ignored. */
  readonly type?: string
  /** An address. */
  readonly value: string
}

/** Where names lead. */
export interface DnsConfig {
  /** The mesh's own domain, `tail1234.ts.net`: names under it are answered here alone, and so are its reverse zones. Absent: no such zone. */
  readonly suffix?: string
  /** Nodes by full name (with or without final dot; one label alone stands under the suffix) and their addresses. */
  readonly hosts: ReadonlyMap<string, readonly Ip[]>
  /** Nodes (keys of `hosts`) whose subdomains lead to them too. */
  readonly subdomainHosts?: ReadonlySet<string>
  readonly extraRecords?: readonly ExtraRecord[]
  /** Upstream resolvers by suffix ("split DNS"); an empty list: answered here alone. The longest suffix wins. */
  readonly routes?: ReadonlyMap<string, readonly string[]>
  /** Upstream resolvers for all else. None: such questions fail. */
  readonly defaultUpstreams?: readonly string[]
  /** Domains that a person's short names are tried under: used by `searchNames`, never by the resolver on the wire. */
  readonly searchDomains?: readonly string[]
}

/** How a name is dealt with. */
export type DnsRoute =
  /** Answered here alone: what is not known does not exist. */
  | { readonly type: 'authoritative'; readonly zone: DnsName }
  /** `loops`: some of its servers are this resolver itself, and are not among the upstreams. */
  | { readonly type: 'forward'; readonly upstreams: readonly string[]; readonly loops: boolean }

const SERVICE_NAME = 'magicdns.localhost-tailscale-daemon.'
const VIA_LABEL = /^([0-9]{1,3})-([0-9]{1,3})-([0-9]{1,3})-([0-9]{1,3})-via-(0x[0-9a-f]{1,8}|0[0-7]{0,11}|[1-9][0-9]{0,9})$/
const VIA_ZONES: readonly DnsName[] = ['ts.net.', 'tailscale.net.']

/** All names of one configuration, ready to be asked. Immutable. */
export class DnsNames {
  readonly #addresses: Map<DnsName, Ip[]> = new Map()
  readonly #names: Map<string, DnsName> = new Map()
  readonly #subdomainHosts: Set<DnsName> = new Set()
  /** An empty list: authoritative. */
  readonly #routes: Map<DnsName, readonly string[]> = new Map()
  /** Zones of which some servers are this resolver itself. */
  readonly #looping: Set<DnsName> = new Set()
  readonly #searchDomains: readonly DnsName[]

  /** @throws MAGICDNS_CONFIG for a name that is none */
  constructor(config: DnsConfig) {
    const suffix = config.suffix === undefined ? undefined : checked(config.suffix)
    const full = (name: string): DnsName => checked(suffix !== undefined && !name.includes('.') ? `${name}.${suffix}` : name)
    this.#add(SERVICE_NAME, SERVICE_IPV4)
    this.#add(SERVICE_NAME, SERVICE_IPV6)
    for (const [name, ips] of config.hosts) for (const ip of ips) this.#add(full(name), ip)
    for (const name of config.subdomainHosts ?? []) this.#subdomainHosts.add(full(name))
    if (suffix !== undefined) for (const zone of [suffix, ...TAILNET_REVERSE_ZONES]) this.#routes.set(zone, [])
    for (const [zone, upstreams] of config.routes ?? []) this.#route(checked(zone), upstreams)
    if (config.defaultUpstreams !== undefined) this.#route('.', config.defaultUpstreams)
    for (const record of config.extraRecords ?? []) {
      const ip = ['', 'A', 'AAAA', undefined].includes(record.type) ? parseIp(record.value) : undefined
      if (ip === undefined) continue
      const name = checked(record.name)
      this.#add(name, ip)
      if (this.routeFor(name).type !== 'authoritative') this.#routes.set(name, [])
    }
    this.#searchDomains = (config.searchDomains ?? []).map(checked)
  }

  /** Addresses of a name (canonical); `undefined` when it is not one of ours. */
  addressesOf(name: DnsName): readonly Ip[] | undefined {
    const known = this.#addresses.get(name) ?? viaAddress(name)
    if (known !== undefined || this.#subdomainHosts.size === 0) return known
    for (let parent = parentName(name); parent !== undefined; parent = parentName(parent)) {
      if (this.#subdomainHosts.has(parent)) return this.#addresses.get(parent)
    }
    return undefined
  }

  /** The name of an address; `undefined` when it is not one of ours. */
  nameOf(ip: Ip): DnsName | undefined {
    const image = unmapFourToSix(ip)
    return (image && this.#names.get(image.key)) ?? this.#names.get(ip.key)
  }

  /** What is to be done with a name (canonical) that is not known: the longest suffix decides. */
  routeFor(name: DnsName): DnsRoute {
    for (let zone: DnsName | undefined = name; zone !== undefined; zone = parentName(zone)) {
      const upstreams = this.#routes.get(zone)
      if (upstreams === undefined) continue
      const loops = this.#looping.has(zone)
      return upstreams.length === 0 && zone !== '.' && !loops ? { type: 'authoritative', zone } : { type: 'forward', upstreams, loops }
    }
    return { type: 'forward', upstreams: [], loops: false }
  }

  /** Zones that are to be asked for at 100.100.100.100 or its IPv6 twin, where this resolver listens: it would ask itself for ever. */
  get loopingZones(): readonly DnsName[] {
    return [...this.#looping]
  }

  /** The full names that a person may mean, best first: as it stands if it has a dot, then under each search domain. */
  searchNames(text: string): DnsName[] {
    const name = canonicalName(text)
    if (text.endsWith('.')) return [name]
    const under = this.#searchDomains.map((domain) => (domain === '.' ? name : `${name}${domain}`))
    return text.includes('.') ? [name, ...under] : [...under, name]
  }

  #route(zone: DnsName, upstreams: readonly string[]): void {
    const others = upstreams.filter((upstream) => !isOwn(upstream))
    if (others.length < upstreams.length) this.#looping.add(zone)
    this.#routes.set(zone, others)
  }

  #add(name: DnsName, ip: Ip): void {
    const list = this.#addresses.get(name) ?? []
    list.push(ip)
    this.#addresses.set(name, list)
    if (!this.#names.has(ip.key)) this.#names.set(ip.key, name)
  }
}

/** `192-168-1-2-via-7`, alone or under ts.net: the 4via6 address of an IPv4 address behind a site. */
function viaAddress(name: DnsName): readonly Ip[] | undefined {
  const dot = name.indexOf('.')
  const rest = name.slice(dot + 1)
  if (rest !== '' && !VIA_ZONES.some((zone) => isUnder(rest, zone))) return undefined
  const match = VIA_LABEL.exec(name.slice(0, dot))
  const network = match === null ? undefined : parsePrefix(match.slice(1, 5).join('.'))
  const digits = match?.[5] ?? ''
  const site = /^0[0-7]+$/.test(digits) ? Number.parseInt(digits, 8) : Number(digits)
  if (network === undefined || !(site <= 0xffff_ffff)) return undefined
  return [prefixRange(viaPrefix(site, network)).first]
}

function isOwn(upstream: string): boolean {
  const ip = parseIp(upstream) ?? parseEndpoint(upstream)?.ip
  return ip !== undefined && isServiceAddress(ip)
}

function checked(text: string): DnsName {
  const name = canonicalName(text)
  if (parseLabels(name) === undefined) throw new MeshwrightError<MagicDnsErrorCode>('MAGICDNS_CONFIG', `not a domain name: ${JSON.stringify(text.slice(0, 300))}`)
  return name
}
