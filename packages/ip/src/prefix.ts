import { formatIp, Ip, parseIp } from './address.ts'

/** A range of addresses that share their first `bits` bits. `ip` has all other bits zero. */
export interface Prefix {
  readonly ip: Ip
  /** 0 to 32 or 0 to 128. */
  readonly bits: number
}

/** The prefix of `bits` bits that holds `ip` (host bits are cleared); `undefined` when `bits` does not fit the family. */
export function prefixOf(ip: Ip, bits: number): Prefix | undefined {
  if (!Number.isInteger(bits) || bits < 0 || bits > ip.bits) return undefined
  const masked = maskBytes(ip.bytes, bits)
  const address = Ip.fromBytes(masked)
  return address && { ip: address, bits }
}

/** The prefix that holds one address alone. */
export function singleAddress(ip: Ip): Prefix {
  return { ip, bits: ip.bits }
}

/** Reads `10.0.0.0/8`; host bits are cleared. A bare address stands for itself alone. `undefined` for anything else. */
export function parsePrefix(text: string): Prefix | undefined {
  const slash = text.indexOf('/')
  const ip = parseIp(slash < 0 ? text : text.slice(0, slash))
  if (ip === undefined) return undefined
  if (slash < 0) return singleAddress(ip)
  const bits = text.slice(slash + 1)
  return /^(0|[1-9][0-9]{0,2})$/.test(bits) ? prefixOf(ip, Number(bits)) : undefined
}

/** True when the text names host bits that the prefix clears: `10.1.2.3/8`. */
export function hasHostBits(text: string): boolean {
  const prefix = parsePrefix(text)
  const ip = parseIp(text.split('/')[0] ?? '')
  return prefix !== undefined && ip !== undefined && !prefix.ip.equals(ip)
}

/** `10.0.0.0/8`, always with the length. */
export function formatPrefix(prefix: Prefix): string {
  return `${formatIp(prefix.ip)}/${prefix.bits}`
}

/** True when the address lies in the prefix (same family). */
export function prefixContains(prefix: Prefix, ip: Ip): boolean {
  return prefix.ip.family === ip.family && sharesBits(prefix.ip.bytes, ip.bytes, prefix.bits)
}

/** True when all of `inner` lies in `outer`. */
export function prefixCovers(outer: Prefix, inner: Prefix): boolean {
  return outer.bits <= inner.bits && prefixContains(outer, inner.ip)
}

/** Same address, same length. */
export function equalPrefixes(a: Prefix, b: Prefix): boolean {
  return a.bits === b.bits && a.ip.equals(b.ip)
}

function sharesBits(a: Uint8Array, b: Uint8Array, bits: number): boolean {
  const whole = bits >> 3
  for (let i = 0; i < whole; i += 1) if (a[i] !== b[i]) return false
  const rest = bits & 7
  return rest === 0 || (((a[whole] ?? 0) ^ (b[whole] ?? 0)) & (0xff << (8 - rest)) & 0xff) === 0
}

function maskBytes(bytes: Uint8Array, bits: number): Uint8Array {
  const masked = new Uint8Array(bytes.length)
  for (let i = 0; i < bytes.length; i += 1) {
    const left = bits - i * 8
    masked[i] = left >= 8 ? (bytes[i] ?? 0) : left <= 0 ? 0 : (bytes[i] ?? 0) & (0xff << (8 - left))
  }
  return masked
}
