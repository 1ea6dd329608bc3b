import type { RandomSource } from '@meshwright/core'
import { Ip, parsePrefix, type Prefix, prefixContains } from '@meshwright/ip'

/** How new addresses are picked. */
export type AllocationOrder = 'sequential' | 'random'

/** Ranges inside the usual prefixes that no node may get: the resolver of MagicDNS, and the range of ChromeOS (policy.md, 6.8). */
const RESERVED = ['100.100.100.0/24', '100.115.92.0/23'].flatMap((text) => parsePrefix(text) ?? [])
const RANDOM_TRIES = 64

/**
 * Gives addresses of one prefix. Sequential allocation goes on behind the last address given and comes back to freed ones only after
 * the whole prefix has been walked, so a freed address stays unused as long as can be. The first address of a prefix names the network
 * and is never given; for IPv4 the last one neither.
 */
export class AddressAllocator {
  readonly prefix: Prefix
  readonly #order: AllocationOrder
  readonly #random: RandomSource
  readonly #hostBits: number
  #cursor = 0n

  /** @param prefix at least two host bits */
  constructor(prefix: Prefix, order: AllocationOrder, random: RandomSource) {
    this.prefix = prefix
    this.#order = order
    this.#random = random
    this.#hostBits = prefix.ip.bits - prefix.bits
  }

  /** Tells of an address in use at start: sequential allocation goes on behind the highest one. */
  occupied(address: Ip): void {
    const offset = this.#offset(address)
    if (offset !== undefined && offset > this.#cursor) this.#cursor = offset
  }

  /** A free address, or `undefined` when the prefix is full. @param taken asks whether a canonical text is in use; @param population how many are */
  allocate(taken: (address: string) => boolean, population: number): Ip | undefined {
    const size = 1n << BigInt(this.#hostBits)
    if (this.#order === 'random') {
      for (let i = 0; i < RANDOM_TRIES; i += 1) {
        const candidate = this.#at(this.#randomOffset() % size)
        if (candidate !== undefined && this.#usable(candidate, size) && !taken(candidate.key)) return candidate
      }
    }
    // At most every address in use, every reserved one and both ends can stand in the way.
    let tries = BigInt(population) + 1024n
    if (tries > size) tries = size
    for (let offset = this.#cursor + 1n; tries > 0n; offset += 1n, tries -= 1n) {
      const candidate = this.#at(offset % size)
      if (candidate === undefined || !this.#usable(candidate, size) || taken(candidate.key)) continue
      this.#cursor = offset % size
      return candidate
    }
    return undefined
  }

  #usable(address: Ip, size: bigint): boolean {
    const offset = this.#offset(address)
    if (offset === undefined || offset === 0n || (address.family === 4 && offset === size - 1n)) return false
    return !RESERVED.some((reserved) => prefixContains(reserved, address))
  }

  #at(offset: bigint): Ip | undefined {
    const bytes = Uint8Array.from(this.prefix.ip.bytes)
    let carry = offset
    for (let i = bytes.length - 1; i >= 0 && carry > 0n; i -= 1) {
      const sum = BigInt(bytes[i] ?? 0) + (carry & 0xffn)
      bytes[i] = Number(sum & 0xffn)
      carry = (carry >> 8n) + (sum >> 8n)
    }
    return Ip.fromBytes(bytes)
  }

  #offset(address: Ip): bigint | undefined {
    if (!prefixContains(this.prefix, address)) return undefined
    let offset = 0n
    for (let i = 0; i < address.bytes.length; i += 1) offset = offset * 256n + BigInt((address.bytes[i] ?? 0) - (this.prefix.ip.bytes[i] ?? 0))
    return offset
  }

  #randomOffset(): bigint {
    let value = 0n
    for (const byte of this.#random(16)) value = value * 256n + BigInt(byte)
    return value & ((1n << BigInt(this.#hostBits)) - 1n)
  }
}

