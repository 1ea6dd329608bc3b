import { MeshwrightError } from '@meshwright/core'
import { Address4, Address6 } from 'ip-address'

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

/** Reads an IPv4 dotted quad (no leading zeros) or an IPv6 text without zone and without prefix; `undefined` for anything else. */
export function parseIp(text: string): Ip | undefined {
  if (text.length > 45) return undefined
  if (!text.includes(':')) return parseIpv4(text)
  if (!/^[0-9a-fA-F:.]+$/.test(text) || !Address6.isValid(text)) return undefined
  const dotted = text.includes('.') ? text.slice(text.lastIndexOf(':') + 1) : undefined
  if (dotted !== undefined && parseIpv4(dotted) === undefined) return undefined
  return Ip.fromBytes(Uint8Array.from(padTo(new Address6(text).toUnsignedByteArray(), 16)))
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

function parseIpv4(text: string): Ip | undefined {
  if (!/^(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2})){3}$/.test(text) || !Address4.isValid(text)) return undefined
  return Ip.fromBytes(Uint8Array.from(new Address4(text).toArray()))
}

function padTo(bytes: readonly number[], length: number): number[] {
  return [...new Array<number>(Math.max(0, length - bytes.length)).fill(0), ...bytes]
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
