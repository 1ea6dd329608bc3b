import { type Body, type Expr, extend, i32, i64, isZero, load32, load128, type Local, type ModuleBuilder, vec, w32, w64, withLane, words, wrap } from './assembler.ts'
import { ACCUMULATOR, ADDEND, LAST, MASKS, MULTIPLIER, TAG } from './layout.ts'
import { at, carry, carryInto, LIMB, LIMB_BITS, type Limbs, loadLimbs, multiply, storeLimbs } from './limbs.ts'
import { addPoly1305Groups, MIN_GROUPS } from './poly1305-groups.ts'

/** The functions that this file adds to a module. */
export interface Poly1305Functions {
  /** (key): takes the one-time key, 32 bytes, and clears the accumulator. */
  readonly begin: number
  /** (address, length): adds bytes, the last block padded with zeros, as RFC 8439 section 2.8 pads. */
  readonly absorb: number
  /** (text, text length, additional length): adds the text and the block of lengths, and leaves the tag in `TAG`. */
  readonly finish: number
}

/**
 * Poly1305 (RFC 8439 section 2.5) as the AEAD uses it. Numbers below 2^130 are five limbs of 26 bits; long packets take four blocks at a
 * time (`poly1305-groups.ts`). No branch and no address depends on a secret.
 */
export function addPoly1305(module: ModuleBuilder): Poly1305Functions {
  const begin = module.func(undefined, 1, false, (f, key) => {
    const t = [0, 4, 8, 12].map((offset) => f.let(load32(key, offset)))
    const clamped = [LIMB, 0x3ff_ff03, 0x3ff_c0ff, 0x3f0_3fff, 0x00f_ffff]
    limbsOf(t).forEach((limb, i) => f.store32(i32(MULTIPLIER), 4 * i, w32.and(limb, i32(clamped[i] ?? 0))))
    f.store128(i32(ACCUMULATOR), 0, words(0, 0, 0, 0))
    f.store32(i32(ACCUMULATOR), 16, i32(0))
    f.store128(i32(ADDEND), 0, load128(key, 16))
  })
  const absorbBlocks = module.func(undefined, 2, false, (f, address, blocks) => {
    const h = loadLimbs(f, ACCUMULATOR)
    const r = loadLimbs(f, MULTIPLIER)
    f.while(blocks, () => {
      const t = [0, 4, 8, 12].map((offset) => f.let(load32(address, offset)))
      // Every block is whole or padded to be so: bit 128 is always set.
      limbsOf(t).forEach((limb, i) => f.set(at(h, i), w32.add(at(h, i), i < 4 ? w32.and(limb, i32(LIMB)) : w32.or(limb, i32(1 << 24)))))
      multiply(f, h, r)
      f.set(address, w32.add(address, i32(16)))
      f.set(blocks, w32.sub(blocks, i32(1)))
    })
    storeLimbs(f, ACCUMULATOR, h)
  })
  const absorbGroups = addPoly1305Groups(module)
  const absorb = module.func(undefined, 2, false, (f, address, length) => {
    const groups = f.let(w32.shrU(length, i32(6)))
    f.if(w32.geU(groups, i32(MIN_GROUPS)), () => {
      f.call(absorbGroups, address, groups)
      f.set(groups, w32.shl(groups, i32(6)))
      f.set(address, w32.add(address, groups))
      f.set(length, w32.sub(length, groups))
    })
    f.if(w32.geU(length, i32(16)), () => f.call(absorbBlocks, address, w32.shrU(length, i32(4))))
    f.if(w32.and(length, i32(15)), () => {
      padLast(f, address, length)
      f.call(absorbBlocks, i32(LAST), i32(1))
    })
  })
  const finish = module.func(undefined, 3, false, (f, address, length, additionalLength) => {
    // The last block, padded, and the block of lengths go together.
    const rest = f.let(w32.and(length, i32(15)))
    f.call(absorb, address, w32.sub(length, rest))
    f.store128(i32(LAST + 16), 0, withLane(withLane(words(0, 0, 0, 0), 0, additionalLength), 2, length))
    f.if(rest, () => {
      padLast(f, address, length)
      f.call(absorbBlocks, i32(LAST), i32(2))
    })
    f.if(isZero(rest), () => f.call(absorbBlocks, i32(LAST + 16), i32(1)))
    const h = loadLimbs(f, ACCUMULATOR)
    carry(f, h, 1)
    carry(f, h, 0)
    // g = h + 5 - 2^130; where that is not negative, h was not below p = 2^130 - 5 and g is its remainder.
    const g = h.map((limb) => f.let(limb))
    f.set(at(g, 0), w32.add(at(g, 0), i32(5)))
    for (let i = 0; i < 4; i += 1) carryInto(f, at(g, i), at(g, i + 1))
    f.set(at(g, 4), w32.sub(at(g, 4), i32(1 << LIMB_BITS)))
    const keep = f.let(w32.shrS(at(g, 4), i32(31))) // all ones where h stays
    h.forEach((limb, i) => f.set(limb, w32.or(w32.and(limb, keep), w32.and(at(g, i), w32.xor(keep, i32(-1))))))
    const sum = f.local('i64')
    packed(h).forEach((word, i) => {
      f.set(sum, w64.add(w64.add(w64.shrU(sum, i64(32)), extend(word)), extend(load32(i32(ADDEND), 4 * i))))
      f.store32(i32(TAG), 4 * i, wrap(sum))
    })
  })
  return { begin, absorb, finish }
}

// The bytes behind the last whole block, padded with zeros, to `LAST`.
function padLast(f: Body, address: Expr<'i32'>, length: Local<'i32'>): void {
  const row = load128(w32.add(address, w32.and(length, i32(-16))))
  f.store128(i32(LAST), 0, vec.and(row, load128(w32.sub(i32(MASKS + 16), w32.and(length, i32(15))))))
}

// 128 bits in four words, as limbs that may have bits above the 26th but for the last.
function limbsOf(t: readonly Local<'i32'>[]): Expr<'i32'>[] {
  const both = (low: number, right: number, high: number, left: number): Expr<'i32'> => w32.or(w32.shrU(at(t, low), i32(right)), w32.shl(at(t, high), i32(left)))
  return [at(t, 0), both(0, 26, 1, 6), both(1, 20, 2, 12), both(2, 14, 3, 18), w32.shrU(at(t, 3), i32(8))]
}

// The lower 128 bits of five whole limbs, as four words.
function packed(h: Limbs): Expr<'i32'>[] {
  return [0, 1, 2, 3].map((i) => w32.or(w32.shrU(at(h, i), i32(6 * i)), w32.shl(at(h, i + 1), i32(26 - 6 * i))))
}
