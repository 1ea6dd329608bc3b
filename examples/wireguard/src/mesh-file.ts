import { formatIp, parseIp, type Ip } from '@meshwright/ip'
import { standardizeHuJson } from '@meshwright/policy/hujson'
import { UsageError } from './usage-error.ts'

/** A host of a described mesh. */
export interface MeshHost {
  readonly name: string
  /** In the tunnel. */
  readonly addresses: readonly Ip[]
  /** Where others reach it, `host:port`; without one it only calls others. */
  readonly endpoint: string | undefined
  readonly listenPort: number | undefined
}

/** A port that may be reached: `tcp/443`, `udp/53`, `tcp/8000-8010`, `icmp`, `*`. */
export interface MeshPort {
  readonly protocol: 'tcp' | 'udp' | 'icmp' | 'any'
  readonly first: number
  readonly last: number
}

/** Who may reach which ports of whom. */
export interface MeshRule {
  readonly from: readonly string[]
  readonly to: readonly string[]
  readonly ports: readonly MeshPort[]
}

/** A whole description. */
export interface MeshDescription {
  readonly interfaceName: string
  readonly keepaliveSeconds: number
  readonly hosts: readonly MeshHost[]
  readonly rules: readonly MeshRule[]
}

/**
 * Reads a mesh description in HuJSON (JSON with comments and trailing commas):
 *
 * | key | meaning |
 * |---|---|
 * | `interface` | name of the interface on every host (default `wg0`) |
 * | `keepalive` | seconds, for hosts without endpoint (default 25) |
 * | `hosts` | name to `{addresses: [...], endpoint?: "host:port", listenPort?: number}` |
 * | `allow` | list of `{from: [host...], to: [host...], ports: ["tcp/443", "udp/53", "icmp", "*"]}`; `*` for all hosts |
 *
 * Nothing is ignored: an unknown key is refused by name. @throws UsageError
 */
export function parseMesh(text: string, file: string): MeshDescription {
  const fail = (what: string): never => {
    throw new UsageError(`${file}: ${what}`)
  }
  const standard = standardizeHuJson(text)
  if (!standard.ok) return fail(standard.error.message)
  const root = fields(JSON.parse(standard.value), 'the file', ['interface', 'keepalive', 'hosts', 'allow'], fail)
  const interfaceName = root['interface'] ?? 'wg0'
  if (typeof interfaceName !== 'string' || !/^[a-zA-Z0-9_=+.-]{1,15}$/.test(interfaceName)) return fail('"interface" is not an interface name')
  const keepalive = wholeNumber(root['keepalive'] ?? 25, 65_535) ?? fail('"keepalive" is 0 to 65535 seconds')
  const hosts = Object.entries(fields(root['hosts'], '"hosts"', undefined, fail)).map(([name, value]) => readHost(name, value, fail))
  const owners = new Map<string, string>()
  for (const host of hosts) {
    for (const ip of host.addresses) {
      const owner = owners.get(formatIp(ip))
      if (owner !== undefined) fail(`${formatIp(ip)} belongs to ${owner} and to ${host.name}`)
      owners.set(formatIp(ip), host.name)
    }
  }
  const names = hosts.map((host) => host.name)
  const allow = root['allow'] ?? []
  if (!Array.isArray(allow)) return fail('"allow" is a list')
  const rules = allow.map((value: unknown, index) => readRule(value, `allow[${index}]`, names, fail))
  return { interfaceName, keepaliveSeconds: keepalive, hosts, rules }
}

type Fail = (what: string) => never

function readHost(name: string, value: unknown, fail: Fail): MeshHost {
  if (!/^[a-z0-9][a-z0-9-]{0,62}$/.test(name)) fail(`${JSON.stringify(name)} is not a host name: lower case letters, digits and -`)
  const host = fields(value, `host ${name}`, ['addresses', 'endpoint', 'listenPort'], fail)
  const addresses = texts(host['addresses'], `addresses of ${name}`, fail).map((text) => parseIp(text) ?? fail(`host ${name}: not an address: ${JSON.stringify(text)}`))
  if (addresses.length === 0) fail(`host ${name} has no addresses`)
  const { endpoint } = host
  const match = typeof endpoint === 'string' ? /^(?:\[[0-9a-fA-F:]+\]|[a-zA-Z0-9.-]+):([0-9]{1,5})$/.exec(endpoint) : null
  if (endpoint !== undefined && (match === null || wholeNumber(Number(match[1]), 65_535) === undefined)) fail(`host ${name}: "endpoint" is host:port or [address]:port`)
  const port = host['listenPort'] ?? (match === null ? undefined : Number(match[1]))
  const listenPort = port === undefined ? undefined : (wholeNumber(port, 65_535) ?? fail(`host ${name}: "listenPort" is a port`))
  return { name, addresses, endpoint: typeof endpoint === 'string' ? endpoint : undefined, listenPort }
}

function readRule(value: unknown, where: string, names: readonly string[], fail: Fail): MeshRule {
  const rule = fields(value, where, ['from', 'to', 'ports'], fail)
  const hosts = (key: 'from' | 'to'): string[] =>
    texts(rule[key], `${where}.${key}`, fail).flatMap((name) => (name === '*' ? names : names.includes(name) ? [name] : fail(`${where}.${key}: no host is called ${JSON.stringify(name)}`)))
  return { from: hosts('from'), to: hosts('to'), ports: texts(rule['ports'], `${where}.ports`, fail).map((text) => readPort(text) ?? fail(`${where}.ports: ${JSON.stringify(text)} is not tcp/443, udp/53, tcp/8000-8010, icmp or *`)) }
}

function readPort(text: string): MeshPort | undefined {
  if (text === '*') return { protocol: 'any', first: 0, last: 65_535 }
  if (text === 'icmp') return { protocol: 'icmp', first: 0, last: 65_535 }
  const match = /^(tcp|udp)\/(?:\*|([0-9]{1,5})(?:-([0-9]{1,5}))?)$/.exec(text)
  if (match === null) return undefined
  const first = Number(match[2] ?? 0)
  const last = match[2] === undefined ? 65_535 : Number(match[3] ?? match[2])
  return first > last || last > 65_535 ? undefined : { protocol: match[1] === 'tcp' ? 'tcp' : 'udp', first, last }
}

function fields(value: unknown, what: string, known: readonly string[] | undefined, fail: Fail): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return fail(`${what} is an object`)
  for (const key of Object.keys(value)) if (known !== undefined && !known.includes(key)) fail(`${what} has no key ${JSON.stringify(key)}; it has ${known.join(', ')}`)
  return { ...value }
}

function texts(value: unknown, what: string, fail: Fail): string[] {
  if (!Array.isArray(value) || !value.every((each) => typeof each === 'string')) return fail(`${what} is a list of texts`)
  return value
}

function wholeNumber(value: unknown, most: number): number | undefined {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= most ? value : undefined
}
