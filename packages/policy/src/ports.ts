import type { PortRange } from '@meshwright/packet-filter'

/** Every port. */
export const ALL_PORTS: PortRange = { First: 0, Last: 65535 }

const PROTOCOLS: ReadonlyMap<string, number> = new Map([
  ['icmp', 1],
  ['igmp', 2],
  ['ipv4', 4],
  ['ip-in-ip', 4],
  ['tcp', 6],
  ['egp', 8],
  ['igp', 9],
  ['udp', 17],
  ['gre', 47],
  ['esp', 50],
  ['ah', 51],
  ['ipv6-icmp', 58],
  ['sctp', 132],
])

/** Names of protocols, for messages and schemas. */
export const PROTOCOL_NAMES: readonly string[] = [...PROTOCOLS.keys()]

/** The number of a protocol given by name or as a number from 1 to 255 without leading zeros; `undefined` for anything else. */
export function parseProtocol(text: string): number | undefined {
  const named = PROTOCOLS.get(text)
  if (named !== undefined) return named
  return /^[1-9][0-9]{0,2}$/.test(text) && Number(text) <= 255 ? Number(text) : undefined
}

/** True for the protocols that have ports: TCP, UDP and SCTP. */
export function hasPorts(protocol: number): boolean {
  return protocol === 6 || protocol === 17 || protocol === 132
}

/** Port ranges, or the hosted service's words for what is wrong with them. */
export type Ports =
  | { readonly ports: readonly PortRange[]; readonly error?: undefined }
  | { readonly ports?: undefined; readonly error: string }

/** Reads `*`, or a list of `N` and `N-M` with commas; N from 1 to 65535. */
export function parsePorts(text: string): Ports {
  if (text === '*') return { ports: [ALL_PORTS] }
  const ports: PortRange[] = []
  for (const part of text.split(',')) {
    const range = parsePortRange(part.trim())
    if (typeof range === 'string') return { error: `port range ${JSON.stringify(part.trim())}: ${range}` }
    ports.push(range)
  }
  return { ports }
}

function parsePortRange(text: string): PortRange | string {
  if (text === '*') return ALL_PORTS
  const dash = text.indexOf('-')
  const First = parsePort(dash < 0 ? text : text.slice(0, dash))
  if (First === undefined) return 'invalid first integer'
  if (First === 0) return "first port must be >0, or use '*' for wildcard"
  const Last = dash < 0 ? First : parsePort(text.slice(dash + 1))
  if (Last === undefined) return 'invalid last integer'
  return Last < First ? 'first port must be <= last port' : { First, Last }
}

function parsePort(text: string): number | undefined {
  return /^[0-9]{1,5}$/.test(text) && Number(text) <= 65535 ? Number(text) : undefined
}
