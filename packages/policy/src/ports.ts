import type { PortRange } from '@meshwright/packet-filter'
import { quoteText } from './hujson/quote.ts'

/** Every port. */
export const ALL_PORTS: PortRange = { First: 0, Last: 65535 }

const PROTOCOLS: ReadonlyMap<string, number> = new Map([
  ['icmp', 1],
  ['icmpv4', 1],
  ['igmp', 2],
  ['ipv4', 4],
  ['ip-in-ip', 4],
  ['tcp', 6],
  ['egp', 8],
  ['igp', 9],
  ['udp', 17],
  ['dccp', 33],
  ['gre', 47],
  ['esp', 50],
  ['ah', 51],
  ['ipv6-icmp', 58],
  ['icmpv6', 58],
  ['tsmp', 99],
  ['sctp', 132],
])

/** Names of protocols, for messages and schemas. */
export const PROTOCOL_NAMES: readonly string[] = [...PROTOCOLS.keys()]

/** The number of a protocol given by name, in any case, or as a number from 1 to 255 without leading zeros; `undefined` for anything else. */
export function parseProtocol(text: string): number | undefined {
  const named = PROTOCOLS.get(text.toLowerCase())
  if (named !== undefined) return named
  return /^[1-9][0-9]{0,2}$/.test(text) && Number(text) <= 255 ? Number(text) : undefined
}

/** Why a text is no protocol. Names are refused in the words of tailscale/tailscale:types/ipproto/ipproto.go. */
export function protocolProblem(text: string): string {
  if (/^0[0-9]*$/.test(text)) return `leading 0 not permitted in protocol number: ${quoteText(text)}`
  if (/^[0-9]+$/.test(text)) return `protocol number out of range (0-255): ${text}`
  return `proto name ${quoteText(text)} not known; use protocol number 0-255`
}

/** True for the protocols that have ports: TCP, UDP and SCTP. */
export function hasPorts(protocol: number): boolean {
  return protocol === 6 || protocol === 17 || protocol === 132
}

/** Port ranges, or the hosted service's words for what is wrong with them. */
export type Ports =
  | { readonly ports: readonly PortRange[]; readonly error?: undefined }
  | { readonly ports?: undefined; readonly error: string }

/** Reads `*`, or a list of `N` and `N-M` with commas; N from 1 to 65535. Errors are those of tailscale/tailscale:tailcfg/proto_port_range.go. */
export function parsePorts(text: string): Ports {
  if (text === '*') return { ports: [ALL_PORTS] }
  const ports: PortRange[] = []
  for (const part of text.split(',')) {
    const range = parsePortRange(part.trim().toLowerCase())
    if (typeof range === 'string') return { error: range }
    ports.push(range)
  }
  return { ports }
}

function parsePortRange(text: string): PortRange | string {
  if (text === '*') return ALL_PORTS
  if (text === '') return 'invalid port list: ""'
  const refuse = (why: string): string => `port range ${quoteText(text)}: ${why}`
  const [from = '', to, more] = text.split('-', 3)
  if (more !== undefined) return refuse('too many dashes(-)')
  const First = parsePort(from)
  if (First === undefined) return refuse('invalid first integer')
  const Last = to === undefined ? First : parsePort(to)
  if (Last === undefined) return refuse('invalid last integer')
  if (First === 0) return refuse("first port must be >0, or use '*' for wildcard")
  // The service says it the wrong way round.
  return First > Last ? refuse('first port must be >= last port') : { First, Last }
}

function parsePort(text: string): number | undefined {
  return /^[0-9]+$/.test(text) && Number(text) <= 65535 ? Number(text) : undefined
}
