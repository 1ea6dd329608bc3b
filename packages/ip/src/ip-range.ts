import { compareIps, formatIp, Ip, parseIp } from './address.ts'
import { formatPrefix, type Prefix } from './prefix.ts'

/** All addresses from `first` to `last`, both included: one family, `first` not after `last`. */
export interface IpRange {
  readonly first: Ip
  readonly last: Ip
}

/** The range between two addresses; `undefined` when the families differ or `first` comes after `last`. */
export function rangeOf(first: Ip, last: Ip): IpRange | undefined {
  return first.family === last.family && compareIps(first, last) <= 0 ? { first, last } : undefined
}

/** Reads `10.0.0.5-10.0.0.9`, without blanks; `undefined` for anything else, a reversed range included. */
export function parseIpRange(text: string): IpRange | undefined {
  const dash = text.indexOf('-')
  if (dash < 0) return undefined
  const first = parseIp(text.slice(0, dash))
  const last = parseIp(text.slice(dash + 1))
  return first && last && rangeOf(first, last)
}

/** The shortest text of a range: an address when it is one, a prefix when it is one, else `first-last`. */
export function formatIpRange(range: IpRange): string {
  if (range.first.equals(range.last)) return formatIp(range.first)
  const prefixes = rangePrefixes(range)
  const only = prefixes[0]
  return prefixes.length === 1 && only !== undefined ? formatPrefix(only) : `${formatIp(range.first)}-${formatIp(range.last)}`
}

/** The addresses of a prefix as a range. */
export function prefixRange(prefix: Prefix): IpRange {
  const last = Uint8Array.from(prefix.ip.bytes)
  for (let i = 0; i < last.length; i += 1) {
    const hostBits = Math.min(8, Math.max(0, (i + 1) * 8 - prefix.bits))
    last[i] = (last[i] ?? 0) | ((1 << hostBits) - 1)
  }
  return { first: prefix.ip, last: Ip.fromBytes(last) ?? prefix.ip }
}

/** The fewest prefixes that together are exactly the range, in address order: at most 62 for IPv4, 254 for IPv6. */
export function rangePrefixes(range: IpRange): Prefix[] {
  return splitRange(ipToBigInt(range.first), ipToBigInt(range.last), range.first.bits)
}

/** An address as the number that its bytes spell. */
export function ipToBigInt(ip: Ip): bigint {
  let value = 0n
  const view = new DataView(ip.bytes.buffer, ip.bytes.byteOffset, ip.bytes.length)
  for (let i = 0; i < ip.bytes.length; i += 4) value = (value << 32n) | BigInt(view.getUint32(i))
  return value
}

/** The address whose bytes spell `value`; higher bits are ignored. @param bits 32 or 128 */
export function ipFromBigInt(value: bigint, bits: 32 | 128): Ip {
  const bytes = new Uint8Array(bits / 8)
  const view = new DataView(bytes.buffer)
  for (let i = bytes.length - 4, rest = value; i >= 0; i -= 4, rest >>= 32n) view.setUint32(i, Number(BigInt.asUintN(32, rest)))
  return Ip.fromOwnedBytes(bytes)
}

function splitRange(first: bigint, last: bigint, bits: number): Prefix[] {
  const prefixes: Prefix[] = []
  const width = bits === 32 ? 32 : 128
  // The largest block that begins at `start` is limited by the zero bits at its end and by what is left. Over the whole range blocks
  // first grow and then shrink, so the search goes on from the block before.
  const fits = (start: bigint, hostBits: number): boolean => {
    const mask = (1n << BigInt(hostBits)) - 1n
    return (start & mask) === 0n && start + mask <= last
  }
  let hostBits = 0
  for (let start = first; start <= last; ) {
    while (hostBits > 0 && !fits(start, hostBits)) hostBits -= 1
    while (hostBits < bits && fits(start, hostBits + 1)) hostBits += 1
    prefixes.push({ ip: ipFromBigInt(start, width), bits: bits - hostBits })
    start += 1n << BigInt(hostBits)
  }
  return prefixes
}
