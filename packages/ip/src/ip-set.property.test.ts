import fc from 'fast-check'
import { expect, test } from 'vitest'
import { formatIpRange, Ip, ipFromBigInt, type IpRange, IpSet, ipToBigInt, parseIp, parseIpRange, prefixContains, rangeOf } from './index.ts'

/** A small window at one end or in the middle of each address space, so that sets meet and edges are hit. */
const BASES = { 4: [0n, 0xffff_ffffn - 31n, 0x0a00_0000n], 6: [0n, (1n << 128n) - 32n, (1n << 64n) - 16n] } as const
const address = fc
  .tuple(fc.constantFrom(4 as const, 6 as const), fc.nat({ max: 2 }), fc.nat({ max: 31 }))
  .map(([family, base, offset]) => ipFromBigInt((BASES[family][base] ?? 0n) + BigInt(offset), family === 4 ? 32 : 128))
const range = fc.tuple(address, address).map(([a, b]): IpRange => rangeOf(a, b) ?? rangeOf(b, a) ?? { first: a, last: a })
const list = fc.array(range, { maxLength: 8 })
const WINDOW = ([4, 6] as const).flatMap((family) => BASES[family].flatMap((base) => Array.from({ length: 32 }, (_, i) => ipFromBigInt(base + BigInt(i), family === 4 ? 32 : 128))))
const inList = (ranges: readonly IpRange[], ip: Ip): boolean => ranges.some(({ first, last }) => first.family === ip.family && ipToBigInt(first) <= ipToBigInt(ip) && ipToBigInt(ip) <= ipToBigInt(last))

test('set operations agree with the definition, address by address', () => {
  fc.assert(
    fc.property(list, list, (a, b) => {
      const [left, right] = [IpSet.from(a), IpSet.from(b)]
      const results = { union: left.union(right), intersect: left.intersect(right), remove: left.remove(right), complement: left.complement() }
      for (const ip of WINDOW) {
        const [inA, inB] = [inList(a, ip), inList(b, ip)]
        expect([left.contains(ip), results.union.contains(ip), results.intersect.contains(ip), results.remove.contains(ip), results.complement.contains(ip)]).toEqual([
          inA,
          inA || inB,
          inA && inB,
          inA && !inB,
          !inA,
        ])
      }
      expect(left.overlaps(right)).toBe(!results.intersect.isEmpty)
      expect(left.covers(right)).toBe(results.union.equals(left))
      expect(results.remove.union(results.intersect).equals(left)).toBe(true)
    }),
    { numRuns: 150 },
  )
})

test('prefixes and ranges of a set are that set, disjoint and in order', () => {
  fc.assert(
    fc.property(list, (ranges) => {
      const set = IpSet.from(ranges)
      expect(IpSet.from(set.prefixes()).equals(set)).toBe(true)
      expect(IpSet.from(set.ranges()).equals(set)).toBe(true)
      const prefixes = set.prefixes()
      for (const ip of WINDOW) expect(prefixes.filter((prefix) => prefixContains(prefix, ip)).length).toBe(set.contains(ip) ? 1 : 0)
    }),
    { numRuns: 100 },
  )
})

test('a range survives its text, an address its number', () => {
  fc.assert(
    fc.property(range, (each) => {
      const text = formatIpRange(each)
      if (text.includes('-')) expect(parseIpRange(text)).toEqual(each)
      expect(IpSet.of(each).toString()).toBe(text)
      expect(ipFromBigInt(ipToBigInt(each.first), each.first.family === 4 ? 32 : 128).equals(each.first)).toBe(true)
    }),
  )
})

test('the canonical text of an address is read back as that address', () => {
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array({ minLength: 4, maxLength: 4 }), fc.uint8Array({ minLength: 16, maxLength: 16 }), fc.array(fc.constantFrom(0, 0, 0, 255), { minLength: 16, maxLength: 16 })), (bytes) => {
      const ip = Ip.fromBytes(Uint8Array.from(bytes))
      expect(ip && parseIp(ip.key)?.equals(ip)).toBe(true)
    }),
  )
})
