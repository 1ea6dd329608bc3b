import { Ip, type IpFamily } from './address.ts'
import { formatIpRange, ipFromBigInt, ipToBigInt, type IpRange, prefixRange, rangePrefixes } from './ip-range.ts'
import type { Prefix } from './prefix.ts'
import { cover, intersectSpans, isCovered, mergeSpans, sameSpans, type Spans, subtractSpans, touches } from './spans.ts'

/** Whatever names some addresses. */
export type IpSetItem = Ip | Prefix | IpRange | IpSet

const MAX_IPV4 = 0xffff_ffff
const MAX_IPV6 = (1n << 128n) - 1n
const next4 = (value: number): number => value + 1
const previous4 = (value: number): number => value - 1
const next6 = (value: bigint): bigint => value + 1n
const previous6 = (value: bigint): bigint => value - 1n
const NONE4: Spans<number> = { first: [], last: [] }
const NONE6: Spans<bigint> = { first: [], last: [] }

/**
 * A set of addresses of both families: sorted, disjoint, merged ranges. A value: every operation gives a new set. Operations between
 * sets are linear in the number of ranges, look-ups are binary searches that allocate nothing.
 */
export class IpSet {
  readonly #v4: Spans<number>
  readonly #v6: Spans<bigint>
  /** Bounds of the IPv6 ranges as 32-bit words, first four then last four of each range: made at the first look-up by bytes. */
  #words: Uint32Array | undefined

  private constructor(v4: Spans<number>, v6: Spans<bigint>) {
    this.#v4 = v4
    this.#v6 = v6
  }

  /** The set without any address. */
  static readonly empty: IpSet = new IpSet(NONE4, NONE6)
  /** Every address of both families. */
  static readonly everything: IpSet = new IpSet({ first: [0], last: [MAX_IPV4] }, { first: [0n], last: [MAX_IPV6] })
  /** Every IPv4 address. */
  static readonly allIpv4: IpSet = new IpSet({ first: [0], last: [MAX_IPV4] }, NONE6)
  /** Every IPv6 address. */
  static readonly allIpv6: IpSet = new IpSet(NONE4, { first: [0n], last: [MAX_IPV6] })

  /** The union of all items, built in one sort: the right way to make a set of many. */
  static from(items: Iterable<IpSetItem>): IpSet {
    const v4: [number, number][] = []
    const v6: [bigint, bigint][] = []
    for (const item of items) {
      if (item instanceof IpSet) {
        for (let i = 0; i < item.#v4.first.length; i += 1) v4.push([item.#v4.first[i] ?? 0, item.#v4.last[i] ?? 0])
        for (let i = 0; i < item.#v6.first.length; i += 1) v6.push([item.#v6.first[i] ?? 0n, item.#v6.last[i] ?? 0n])
        continue
      }
      const range = item instanceof Ip ? { first: item, last: item } : 'bits' in item ? prefixRange(item) : item
      if (range.first.family === 4) v4.push([ipv4ToNumber(range.first.bytes, 0), ipv4ToNumber(range.last.bytes, 0)])
      else v6.push([ipToBigInt(range.first), ipToBigInt(range.last)])
    }
    return v4.length + v6.length === 0 ? IpSet.empty : new IpSet(mergeSpans(v4, previous4), mergeSpans(v6, previous6))
  }

  /** The union of the items. */
  static of(...items: readonly IpSetItem[]): IpSet {
    return IpSet.from(items)
  }

  /** True when no address is in the set. */
  get isEmpty(): boolean {
    return this.#v4.first.length === 0 && this.#v6.first.length === 0
  }

  /** How many separate ranges the set has. */
  get rangeCount(): number {
    return this.#v4.first.length + this.#v6.first.length
  }

  /** This set and the item. */
  add(item: IpSetItem): IpSet {
    return IpSet.from([this, item])
  }

  /** This set without the item. */
  remove(item: IpSetItem): IpSet {
    const other = toSet(item)
    return new IpSet(subtractSpans(this.#v4, other.#v4, next4, previous4), subtractSpans(this.#v6, other.#v6, next6, previous6))
  }

  /** All addresses of either. */
  union(other: IpSetItem): IpSet {
    return IpSet.from([this, other])
  }

  /** The addresses that both have. */
  intersect(item: IpSetItem): IpSet {
    const other = toSet(item)
    return new IpSet(intersectSpans(this.#v4, other.#v4), intersectSpans(this.#v6, other.#v6))
  }

  /** Every address that is not in this set. */
  complement(): IpSet {
    return IpSet.everything.remove(this)
  }

  /** True when the address is in the set. */
  contains(ip: Ip): boolean {
    return this.containsBytes(ip.bytes, 0, ip.family)
  }

  /** As {@link IpSet.contains}, for 4 or 16 bytes at `offset` that the caller has checked to be there. Allocates nothing. */
  containsBytes(memory: Uint8Array, offset: number, family: IpFamily): boolean {
    return family === 4 ? this.containsIpv4(ipv4ToNumber(memory, offset)) : this.#containsIpv6(memory, offset)
  }

  /** As {@link IpSet.contains}, for an IPv4 address as an unsigned 32-bit number. */
  containsIpv4(value: number): boolean {
    return isCovered(this.#v4, value)
  }

  /** True when every address of the item is in the set. */
  covers(item: IpSetItem): boolean {
    const other = toSet(item)
    return cover(this.#v4, other.#v4) && cover(this.#v6, other.#v6)
  }

  /** True when some address of the item is in the set. */
  overlaps(item: IpSetItem): boolean {
    const other = toSet(item)
    return touches(this.#v4, other.#v4) || touches(this.#v6, other.#v6)
  }

  /** Same addresses. */
  equals(other: IpSet): boolean {
    return sameSpans(this.#v4, other.#v4) && sameSpans(this.#v6, other.#v6)
  }

  /** The part of one family. */
  onlyFamily(family: IpFamily): IpSet {
    return family === 4 ? new IpSet(this.#v4, NONE6) : new IpSet(NONE4, this.#v6)
  }

  /** The ranges in address order, IPv4 first. */
  ranges(): IpRange[] {
    return [
      ...this.#v4.first.map((first, i) => ({ first: ipFromNumber(first), last: ipFromNumber(this.#v4.last[i] ?? first) })),
      ...this.#v6.first.map((first, i) => ({ first: ipFromBigInt(first, 128), last: ipFromBigInt(this.#v6.last[i] ?? first, 128) })),
    ]
  }

  /** The fewest prefixes that together are the set, in address order, IPv4 first. */
  prefixes(): Prefix[] {
    return this.ranges().flatMap(rangePrefixes)
  }

  /** All ranges in their shortest texts, joined by commas: equal sets have equal texts. */
  toString(): string {
    return this.ranges().map(formatIpRange).join(',')
  }

  toJSON(): string[] {
    return this.ranges().map(formatIpRange)
  }

  #containsIpv6(memory: Uint8Array, offset: number): boolean {
    const words = (this.#words ??= toWords(this.#v6))
    let low = 0
    let high = words.length >> 3
    if (high === 0) return false
    const a = ipv4ToNumber(memory, offset)
    const b = ipv4ToNumber(memory, offset + 4)
    const c = ipv4ToNumber(memory, offset + 8)
    const d = ipv4ToNumber(memory, offset + 12)
    while (low < high) {
      const middle = (low + high) >>> 1
      if (isAtMost(words, middle << 3, a, b, c, d)) low = middle + 1
      else high = middle
    }
    // The only candidate is the last range that begins at or before the address.
    return low > 0 && !isBelow(words, ((low - 1) << 3) + 4, a, b, c, d)
  }
}

/** An IPv4 address as an unsigned 32-bit number, read from four bytes that the caller has checked to be there. */
export function ipv4ToNumber(memory: Uint8Array, offset: number): number {
  return (((memory[offset] ?? 0) << 24) | ((memory[offset + 1] ?? 0) << 16) | ((memory[offset + 2] ?? 0) << 8) | (memory[offset + 3] ?? 0)) >>> 0
}

/** The IPv4 address of an unsigned 32-bit number. */
export function ipFromNumber(value: number): Ip {
  return Ip.fromOwnedBytes(Uint8Array.of(value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255))
}

function toSet(item: IpSetItem): IpSet {
  return item instanceof IpSet ? item : IpSet.from([item])
}

function toWords(spans: Spans<bigint>): Uint32Array {
  const words = new Uint32Array(spans.first.length * 8)
  for (let i = 0; i < spans.first.length; i += 1) {
    for (const [half, value] of [spans.first[i] ?? 0n, spans.last[i] ?? 0n].entries()) {
      for (let word = 0; word < 4; word += 1) words[i * 8 + half * 4 + word] = Number(BigInt.asUintN(32, value >> BigInt(96 - 32 * word)))
    }
  }
  return words
}

/** True when the four words at `at` are at most a:b:c:d. */
function isAtMost(words: Uint32Array, at: number, a: number, b: number, c: number, d: number): boolean {
  const w0 = words[at] ?? 0
  if (w0 !== a) return w0 < a
  const w1 = words[at + 1] ?? 0
  if (w1 !== b) return w1 < b
  const w2 = words[at + 2] ?? 0
  return w2 !== c ? w2 < c : (words[at + 3] ?? 0) <= d
}

/** True when the four words at `at` are less than a:b:c:d. */
function isBelow(words: Uint32Array, at: number, a: number, b: number, c: number, d: number): boolean {
  const w0 = words[at] ?? 0
  if (w0 !== a) return w0 < a
  const w1 = words[at + 1] ?? 0
  if (w1 !== b) return w1 < b
  const w2 = words[at + 2] ?? 0
  return w2 !== c ? w2 < c : (words[at + 3] ?? 0) < d
}
