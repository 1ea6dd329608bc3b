import { Ip, parseIp } from '@meshwright/ip'
import { canonicalName, type DnsName } from './dns-name.ts'

const IPV4_ZONE = '.in-addr.arpa.'
const IPV6_ZONE = '.ip6.arpa.'
const BONJOUR = /^(b|db|r|dr|lb)\._dns-sd\._udp\./

/** Reverse zones that a tailnet answers for itself: its IPv6 range, and 100.64.0.0/10 as 64 zones (tailscale/tailscale:net/tsaddr). */
export const TAILNET_REVERSE_ZONES: readonly DnsName[] = [
  '0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa.',
  ...Array.from({ length: 64 }, (_, i) => `${64 + i}.100.in-addr.arpa.`),
]

/** The name under which the name of an address is asked for (RFC 1035 section 3.5, RFC 3596 section 2.5). */
export function reverseName(ip: Ip): DnsName {
  if (ip.family === 4) return `${[...ip.bytes].reverse().join('.')}${IPV4_ZONE}`
  const nibbles = [...ip.bytes].flatMap((byte) => [byte >> 4, byte & 15])
  return `${nibbles
    .reverse()
    .map((nibble) => nibble.toString(16))
    .join('.')}${IPV6_ZONE}`
}

/** The address that a reverse name asks about; `undefined` when it is not that of one whole address. */
export function parseReverseName(text: DnsName): Ip | undefined {
  const name = canonicalName(text)
  if (name.endsWith(IPV4_ZONE)) return parseIp(name.slice(0, -IPV4_ZONE.length).split('.').reverse().join('.'))
  if (!name.endsWith(IPV6_ZONE)) return undefined
  const nibbles = name.slice(0, -IPV6_ZONE.length).split('.').reverse()
  if (nibbles.length !== 32 || nibbles.some((nibble) => !/^[0-9a-f]$/.test(nibble))) return undefined
  const bytes = new Uint8Array(16)
  for (const [i, nibble] of nibbles.entries()) bytes[i >> 1] = ((bytes[i >> 1] ?? 0) << 4) | Number.parseInt(nibble, 16)
  return Ip.fromBytes(bytes)
}

/** True for the service-discovery questions that Apple's systems put about every network; nobody but the local link can answer them. */
export function isBonjourReverse(name: DnsName): boolean {
  return BONJOUR.test(name) && (name.endsWith(IPV4_ZONE) || name.endsWith(IPV6_ZONE))
}
