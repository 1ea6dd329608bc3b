import { formatIp, parseIp, type Ip } from '@meshwright/ip'
import { type Located, locate } from './located.ts'
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
 * Nothing is ignored: an unknown key is refused by name, and so is one that stands twice. @throws UsageError with line and column
 */
export function parseMesh(text: string, file: string): MeshDescription {
  const fail: Fail = (at, what) => {
    throw new UsageError(`${file}:${at.line}:${at.column}: ${what}`)
  }
  const source = locate(text, fail)
  const root = fields(source, 'the file', ['interface', 'keepalive', 'hosts', 'allow'], fail)
  const { interface: named, keepalive: seconds, hosts: described, allow } = root
  const interfaceName = named?.value ?? 'wg0'
  if (typeof interfaceName !== 'string' || !/^[a-zA-Z0-9_=+.-]{1,15}$/.test(interfaceName)) return fail(named ?? source, '"interface" is not an interface name')
  const keepalive = wholeNumber(seconds?.value ?? 25, 65_535) ?? fail(seconds ?? source, '"keepalive" is 0 to 65535 seconds')
  if (described === undefined) return fail(source, '"hosts" is missing')
  const hosts = Object.entries(fields(described, '"hosts"', undefined, fail)).map(([name, value]) => readHost(name, value, fail))
  const owners = new Map<string, string>()
  for (const host of hosts) {
    for (const [index, ip] of host.addresses.entries()) {
      const owner = owners.get(formatIp(ip))
      if (owner !== undefined) fail(described.members?.[host.name]?.members?.['addresses']?.items?.[index] ?? described, `${formatIp(ip)} belongs to ${owner} and to ${host.name}`)
      owners.set(formatIp(ip), host.name)
    }
  }
  const names = hosts.map((host) => host.name)
  if (allow !== undefined && allow.items === undefined) return fail(allow, '"allow" is a list')
  const rules = (allow?.items ?? []).map((value, index) => readRule(value, `allow[${index}]`, names, fail))
  return { interfaceName, keepaliveSeconds: keepalive, hosts, rules }
}

type Fail = (at: { readonly line: number; readonly column: number }, what: string) => never

function readHost(name: string, value: Located, fail: Fail): MeshHost {
  if (!/^[a-z0-9][a-z0-9-]{0,62}$/.test(name)) fail(value, `${JSON.stringify(name)} is not a host name: lower case letters, digits and -`)
  const { addresses: written, endpoint: place, listenPort: chosen } = fields(value, `host ${name}`, ['addresses', 'endpoint', 'listenPort'], fail)
  const addresses = texts(written, value, `addresses of ${name}`, fail).map((each) => parseIp(each.text) ?? fail(each, `host ${name}: not an address: ${JSON.stringify(each.text)}`))
  if (addresses.length === 0) fail(written ?? value, `host ${name} has no addresses`)
  const endpoint = place?.value
  const match = typeof endpoint === 'string' ? /^(?:\[[0-9a-fA-F:]+\]|[a-zA-Z0-9.-]+):([0-9]{1,5})$/.exec(endpoint) : null
  if (place !== undefined && (match === null || wholeNumber(Number(match[1]), 65_535) === undefined)) fail(place, `host ${name}: "endpoint" is host:port or [address]:port`)
  const port = chosen?.value ?? (match === null ? undefined : Number(match[1]))
  const listenPort = port === undefined ? undefined : (wholeNumber(port, 65_535) ?? fail(chosen ?? value, `host ${name}: "listenPort" is a port`))
  return { name, addresses, endpoint: typeof endpoint === 'string' ? endpoint : undefined, listenPort }
}

function readRule(value: Located, where: string, names: readonly string[], fail: Fail): MeshRule {
  const rule = fields(value, where, ['from', 'to', 'ports'], fail)
  const hosts = (key: 'from' | 'to'): string[] =>
    texts(rule[key], value, `${where}.${key}`, fail).flatMap((each) => (each.text === '*' ? names : names.includes(each.text) ? [each.text] : fail(each, `${where}.${key}: no host is called ${JSON.stringify(each.text)}`)))
  const ports = texts(rule['ports'], value, `${where}.ports`, fail)
  return { from: hosts('from'), to: hosts('to'), ports: ports.map((each) => readPort(each.text) ?? fail(each, `${where}.ports: ${JSON.stringify(each.text)} is not tcp/443, udp/53, tcp/8000-8010, icmp or *`)) }
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

function fields(value: Located, what: string, known: readonly string[] | undefined, fail: Fail): Readonly<Record<string, Located>> {
  if (value.members === undefined) return fail(value, `${what} is an object`)
  for (const [key, member] of Object.entries(value.members)) if (known !== undefined && !known.includes(key)) fail(member.name ?? member, `${what} has no key ${JSON.stringify(key)}; it has ${known.join(', ')}`)
  return value.members
}

function texts(value: Located | undefined, parent: Located, what: string, fail: Fail): { readonly text: string; readonly line: number; readonly column: number }[] {
  if (value?.items === undefined) return fail(value ?? parent, `${what} is a list of texts`)
  return value.items.map((each) => (typeof each.value === 'string' ? { text: each.value, line: each.line, column: each.column } : fail(each, `${what} is a list of texts`)))
}

function wholeNumber(value: unknown, most: number): number | undefined {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= most ? value : undefined
}
