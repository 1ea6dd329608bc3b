import { MeshwrightError } from '@meshwright/core'

/** 4 for IPv4, 6 for IPv6. */
export type IpFamily = 4 | 6

/** An IPv4 or IPv6 address as its bytes in network order. Immutable; equal addresses have equal `key`s. IPv4-mapped IPv6 stays IPv6. */
export class Ip {
  readonly family: IpFamily
  /** 4 or 16 bytes in network order: do not change them. */
  readonly bytes: Uint8Array
  #text: string | undefined

  private constructor(bytes: Uint8Array) {
    this.bytes = bytes
    this.family = bytes.length === 4 ? 4 : 6
  }

  /** Copies 4 or 16 bytes; `undefined` for any other length. */
  static fromBytes(bytes: Uint8Array): Ip | undefined {
    return bytes.length === 4 || bytes.length === 16 ? new Ip(Uint8Array.from(bytes)) : undefined
  }

  /** As {@link Ip.fromBytes} without a copy: the caller gives the 4 or 16 bytes away and must not touch them again. */
  static fromOwnedBytes(bytes: Uint8Array): Ip {
    if (bytes.length !== 4 && bytes.length !== 16) throw new MeshwrightError('IP_LENGTH', `an address has 4 or 16 bytes, not ${bytes.length}`)
    return new Ip(bytes)
  }

  /** Copies the address that stands at `offset`; `undefined` when the bytes are not all there. */
  static fromBytesAt(memory: Uint8Array, offset: number, family: IpFamily): Ip | undefined {
    const end = offset + (family === 4 ? 4 : 16)
    return offset >= 0 && end <= memory.length ? new Ip(memory.slice(offset, end)) : undefined
  }

  /** The canonical text form (RFC 5952 for IPv6), computed once: also the right key for a `Map`. */
  get key(): string {
    this.#text ??= formatBytes(this.bytes)
    return this.#text
  }

  /** 32 or 128. */
  get bits(): number {
    return this.bytes.length * 8
  }

  equals(other: Ip): boolean {
    return compareIps(this, other) === 0
  }

  /** An IPv4-mapped IPv6 address as the IPv4 address inside it; every other address as it is. */
  unmapped(): Ip {
    if (this.family === 4) return this
    for (let i = 0; i < 12; i += 1) if (this.bytes[i] !== (i < 10 ? 0 : 0xff)) return this
    return new Ip(this.bytes.slice(12))
  }

  toString(): string {
    return this.key
  }

  toJSON(): string {
    return this.key
  }
}

/**
 * Reads an IPv4 dotted quad (no leading zeros) or an IPv6 text without zone and without prefix; `undefined` for anything else. It takes what
 * Go's netip.ParseAddr takes (golang/go:src/net/netip/netip.go), zones apart: filters and policies must mean the same address to everyone.
 */
export function parseIp(text: string): Ip | undefined {
  if (text.length > 45) return undefined
  const bytes = text.includes(':') ? readIpv6(text) : readIpv4(text)
  return bytes && Ip.fromOwnedBytes(bytes)
}

/** The canonical text of an address. */
export function formatIp(ip: Ip): string {
  return ip.key
}

/** Orders IPv4 before IPv6, then by bytes: negative, zero or positive. */
export function compareIps(a: Ip, b: Ip): number {
  if (a.family !== b.family) return a.family - b.family
  for (let i = 0; i < a.bytes.length; i += 1) {
    const difference = (a.bytes[i] ?? 0) - (b.bytes[i] ?? 0)
    if (difference !== 0) return difference
  }
  return 0
}

function readIpv4(text: string): Uint8Array | undefined {
  if (!/^(?:(?:0|[1-9][0-9]{0,2})(?:\.|$)){4}$/.test(text) || text.endsWith('.')) return undefined
  const numbers = text.split('.').map(Number)
  return numbers.every((number) => number <= 255) ? Uint8Array.from(numbers) : undefined
}

function readIpv6(text: string): Uint8Array | undefined {
  const colon = text.lastIndexOf(':') + 1
  const quad = text.includes('.', colon) ? readIpv4(text.slice(colon)) : undefined
  // A dotted quad at the end stands for the last two groups.
  const groups = quad === undefined ? text : `${text.slice(0, colon)}${hexPair(quad, 0)}:${hexPair(quad, 2)}`
  const gap = groups.indexOf('::')
  const head = gap < 0 ? groups : groups.slice(0, gap)
  const tail = gap < 0 ? '' : groups.slice(gap + 2)
  const before = head === '' ? [] : head.split(':')
  const after = tail === '' ? [] : tail.split(':')
  const count = before.length + after.length
  // "::" stands for one group of zeros at least. A second one leaves an empty group, which is none.
  if (gap < 0 ? count !== 8 : count > 7) return undefined
  const bytes = new Uint8Array(16)
  const put = (group: string, at: number): boolean => {
    if (!/^[0-9a-fA-F]{1,4}$/.test(group)) return false
    const value = Number.parseInt(group, 16)
    bytes[at * 2] = value >> 8
    bytes[at * 2 + 1] = value & 255
    return true
  }
  return before.every(put) && after.every((group, i) => put(group, 8 - after.length + i)) ? bytes : undefined
}

function hexPair(bytes: Uint8Array, at: number): string {
  return (((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0)).toString(16)
}

function formatBytes(bytes: Uint8Array): string {
  if (bytes.length === 4) return bytes.join('.')
  const words: number[] = []
  for (let i = 0; i < 16; i += 2) words.push(((bytes[i] ?? 0) << 8) | (bytes[i + 1] ?? 0))
  // RFC 5952 section 5: IPv4-mapped addresses end in a dotted quad.
  if (words.slice(0, 5).every((word) => word === 0) && words[5] === 0xffff) return `::ffff:${bytes.subarray(12).join('.')}`
  // Section 4.2: "::" stands for the longest run of two or more zero words, the first of equals.
  let start = -1
  let length = 1
  for (let i = 0; i < 8; i += 1) {
    let end = i
    while (end < 8 && words[end] === 0) end += 1
    if (end - i > length) {
      start = i
      length = end - i
    }
    if (end > i) i = end
  }
  const hex = words.map((word) => word.toString(16))
  if (start < 0) return hex.join(':')
  return `${hex.slice(0, start).join(':')}::${hex.slice(start + length).join(':')}`
}
