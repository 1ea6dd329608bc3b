import { type Body, type Expr, i32, lane64, load128, type Local, type ModuleBuilder, shuffleBytes, shuffleWords, splat32, vec, vecShift, w32, w64, withLane, words } from './assembler.ts'
import { ACCUMULATOR, MULTIPLIER } from './layout.ts'
import { at, carry, LIMB, type Limbs, loadLimbs, multiply, reduceSums, storeLimbs } from './limbs.ts'

/** Fewer groups of four blocks than this are quicker one block at a time. */
export const MIN_GROUPS = 2
/** From so many groups on, the set-up of 13-bit digits pays. */
const MIN_DIGIT_GROUPS = 6
const DIGIT = 0x1fff
const GROUP_BYTES = 64

const { add16, add32, add64, and, or, dot16, mulLow32, mulHigh32 } = vec
const { left32, signed32, right32, left64, right64 } = vecShift

type Vector = Expr<'v128'>
type Vectors = readonly Local<'v128'>[]

/**
 * Adds (address, groups): absorbs groups of four blocks into an accumulator that is zero or not, with one block in each 32-bit lane. Every lane is
 * multiplied by r^4 from group to group, and at the end by r^4, r^3, r^2 and r, so that the lanes' sum is what one block at a time
 * gives.
 *
 * Two ways to multiply. In 26-bit limbs: 64-bit products, three instructions each on x86-64. In 13-bit digits, two in each lane, one
 * `dot16` (a single instruction) makes two products and their sum; it needs signed digits. Digits of r^4 are balanced, -4096 to 4096
 * (the lowest up to 5 more); digits of the accumulator are kept in -8192 to -1, 8192 times "one" having been owed to the next digit,
 * before a block of digits 0 to 8191 and that debt are added. Ten products with the factor 5 of the fold stay below
 * 10 * 8192 * 5 * 4101 < 2^31.
 */
export function addPoly1305Groups(module: ModuleBuilder): number {
  return module.func(undefined, 2, false, (f, address, groups) => {
    const r = loadLimbs(f, MULTIPLIER)
    const [r2, r3, r4] = powers(f, r)
    const start = loadLimbs(f, ACCUMULATOR)
    carry(f, start, 1)
    carry(f, start, 0)
    const h = start.map((limb) => f.let(withLane(words(0, 0, 0, 0), 0, limb)))
    f.if(w32.geU(groups, i32(MIN_DIGIT_GROUPS)), () => {
      digitGroups(f, address, groups, h, r4)
      f.set(groups, i32(1))
    })
    const by = r4.map((limb) => f.let(splat32(limb)))
    const folded = by.map((limb) => f.let(timesFive(limb)))
    f.while(w32.gtU(groups, i32(1)), () => {
      addGroup(f, h, address)
      const low = f26(f, h, by, folded, mulLow32)
      const high = f26(f, h, by, folded, mulHigh32)
      carryWide(f, low)
      carryWide(f, high)
      h.forEach((limb, i) => f.set(limb, shuffleWords(at(low, i), at(high, i), 0, 2, 4, 6)))
      f.set(groups, w32.sub(groups, i32(1)))
    })
    addGroup(f, h, address)
    by.forEach((limb, i) => {
      f.set(limb, withLane(withLane(withLane(splat32(at(r4, i)), 1, at(r3, i)), 2, at(r2, i)), 3, at(r, i)))
      f.set(at(folded, i), timesFive(limb))
    })
    const low = f26(f, h, by, folded, mulLow32)
    const high = f26(f, h, by, folded, mulHigh32)
    const sums = low.map((limb, i) => {
      const both = f.let(add64(limb, at(high, i)))
      return f.let(w64.add(lane64(both, 0), lane64(both, 1)))
    })
    reduceSums(f, sums, start)
    storeLimbs(f, ACCUMULATOR, start)
  })
}

function powers(f: Body, r: Limbs): [Limbs, Limbs, Limbs] {
  const r2 = r.map((limb) => f.let(limb))
  multiply(f, r2, r)
  const r3 = r2.map((limb) => f.let(limb))
  multiply(f, r3, r)
  const r4 = r2.map((limb) => f.let(limb))
  multiply(f, r4, r2)
  return [r2, r3, r4]
}

/** The four words of four blocks, turned so that lane i belongs to block i; moves the address on. */
function loadGroup(f: Body, address: Local<'i32'>): Vectors {
  const rows = [0, 16, 32, 48].map((offset) => f.let(load128(address, offset)))
  f.set(address, w32.add(address, i32(GROUP_BYTES)))
  const pairs = [
    [0, 1, [0, 4, 1, 5]],
    [2, 3, [0, 4, 1, 5]],
    [0, 1, [2, 6, 3, 7]],
    [2, 3, [2, 6, 3, 7]],
  ] as const
  const [a, b, c, d] = pairs.map(([i, j, lanes]) => f.let(shuffleWords(at(rows, i), at(rows, j), ...lanes)))
  if (a === undefined || b === undefined || c === undefined || d === undefined) throw new RangeError('four pairs give four vectors')
  return [
    f.let(shuffleWords(a, b, 0, 1, 4, 5)),
    f.let(shuffleWords(a, b, 2, 3, 6, 7)),
    f.let(shuffleWords(c, d, 0, 1, 4, 5)),
    f.let(shuffleWords(c, d, 2, 3, 6, 7)),
  ]
}

/** The five limbs of four blocks; bits above the 26th are not cleared but in the last, which has 24. */
function groupLimbs(w: Vectors): Vector[] {
  const both = (low: number, right: number, high: number, left: number): Vector => or(right32(at(w, low), right), left32(at(w, high), left))
  return [at(w, 0), both(0, 26, 1, 6), both(1, 20, 2, 12), both(2, 14, 3, 18), right32(at(w, 3), 8)]
}

function addGroup(f: Body, h: Vectors, address: Local<'i32'>): void {
  const limb = words(LIMB, LIMB, LIMB, LIMB)
  const top = 1 << 24
  groupLimbs(loadGroup(f, address)).forEach((value, i) => f.set(at(h, i), add32(at(h, i), i < 4 ? and(value, limb) : or(value, words(top, top, top, top)))))
}

/** Products in 26-bit limbs, of the two lower or the two upper lanes. */
function f26(f: Body, h: Vectors, by: Vectors, folded: Vectors, product: (a: Vector, b: Vector) => Vector): Local<'v128'>[] {
  return h.map((_, k) => {
    const terms = h.map((limb, i) => product(limb, at(i > k ? folded : by, (k - i + 5) % 5)))
    return f.let(terms.reduce((sum, term) => add64(sum, term)))
  })
}

// Two chains of carries at once, so that neither waits for the other.
function carryWide(f: Body, d: Vectors): void {
  const limb = words(LIMB, 0, LIMB, 0)
  for (const i of [0, 3, 1, 4, 2, 0, 3]) {
    const over = f.let(right64(at(d, i), 26))
    f.set(at(d, i), and(at(d, i), limb))
    const next = at(d, (i + 1) % 5)
    f.set(next, add64(next, i === 4 ? add64(over, left64(over, 2)) : over))
  }
}

/** All groups but the last, in 13-bit digits; begins and ends in 26-bit limbs. */
function digitGroups(f: Body, address: Local<'i32'>, groups: Local<'i32'>, h: Vectors, r4: Limbs): void {
  const multipliers = digitsOf(f, r4)
  const acc = h.map((limb, i) => f.let(add16(pair(limb), debt(i, -1))))
  f.while(w32.gtU(groups, i32(1)), () => {
    const group = groupLimbs(loadGroup(f, address)).map((value) => f.let(value))
    group.forEach((value, i) => f.set(at(acc, i), add16(add16(at(acc, i), pair(value)), i < 4 ? debt(i, 1) : words(0x0801_0001, 0x0801_0001, 0x0801_0001, 0x0801_0001))))
    const d = Array.from({ length: 10 }, (_, k) => f.let(acc.map((digits, i) => dot16(digits, at(multipliers, k + 8 - 2 * i))).reduce((sum, term) => add32(sum, term))))
    carryDigits(f, d)
    acc.forEach((digits, i) => f.set(digits, blend(at(d, 2 * i), left32(at(d, 2 * i + 1), 16))))
    f.set(groups, w32.sub(groups, i32(1)))
  })
  // What is still owed is added, and four times p, so that no limb is negative.
  acc.forEach((digits, i) => {
    f.set(digits, add16(digits, debt(i, 1)))
    const low = signed32(left32(digits, 16), 16)
    const high = left32(signed32(digits, 16), 13)
    const bias = 4 * (i === 0 ? LIMB - 4 : LIMB)
    f.set(at(h, i), add32(add32(low, high), words(bias, bias, bias, bias)))
  })
}

/** The 26 lower bits of each lane as two digits. */
function pair(limb: Expr<'v128'>): Vector {
  const upper = DIGIT << 16
  return or(and(limb, words(DIGIT, DIGIT, DIGIT, DIGIT)), and(left32(limb, 3), words(upper, upper, upper, upper)))
}

/** What carries that were rounded up have taken from digits 2i and 2i + 1: one of each, five of the lowest. */
function debt(i: number, sign: 1 | -1): Vector {
  const value = ((sign * (i === 0 ? 5 : 1)) & 0xffff) | (sign << 16)
  return words(value, value, value, value)
}

/**
 * Digits of r^4 as multipliers: vector m + 8 holds (R_m, R_(m-1)) in each lane for m from -8 to 9, where R_m of a negative m is five
 * times R_(m+10): what comes back from above 2^130.
 */
function digitsOf(f: Body, r4: Limbs): Vectors {
  for (let i = 0; i < 4; i += 1) {
    f.set(at(r4, i + 1), w32.add(at(r4, i + 1), w32.shrU(at(r4, i), i32(26))))
    f.set(at(r4, i), w32.and(at(r4, i), i32(LIMB)))
  }
  const over = f.local('i32')
  const digits = Array.from({ length: 10 }, (_, i) => {
    const limb = at(r4, i >> 1)
    const raw = w32.and(i % 2 === 1 ? w32.shrU(limb, i32(13)) : limb, i32(i === 9 ? 0x3fff : DIGIT))
    const value = f.let(w32.add(raw, over))
    f.set(over, w32.shrS(w32.add(value, i32(4096)), i32(13)))
    f.set(value, w32.sub(value, w32.shl(over, i32(13))))
    return value
  })
  f.set(at(digits, 0), w32.add(at(digits, 0), w32.mul(over, i32(5))))
  const folded = digits.map((digit) => f.let(w32.mul(digit, i32(5))))
  const digit = (m: number): Expr<'i32'> => (m >= 0 ? at(digits, m) : at(folded, m + 10))
  return Array.from({ length: 18 }, (_, i) => f.let(splat32(w32.or(w32.and(digit(i - 8), i32(0xffff)), w32.shl(digit(i - 9), i32(16))))))
}

// Two chains again: 0 to 5 and 5 to 0. A digit ends as its lower 13 bits minus 8192, and the next one is owed one.
function carryDigits(f: Body, d: Vectors): void {
  const step = (i: number, round: 'down' | 'owe'): void => {
    const own = at(d, i)
    const next = at(d, (i + 1) % 10)
    const over = f.let(signed32(own, 13))
    f.set(own, round === 'down' ? and(own, words(DIGIT, DIGIT, DIGIT, DIGIT)) : or(own, words(~DIGIT, ~DIGIT, ~DIGIT, ~DIGIT)))
    f.set(next, add32(next, i === 9 ? add32(over, left32(over, 2)) : over))
  }
  step(0, 'down')
  step(5, 'down')
  for (const i of [1, 6, 2, 7, 3, 8, 4, 9, 0, 5]) step(i, 'owe')
}

// Even 16-bit lanes of `a`, odd ones of `b`: a blend, which V8 knows.
function blend(a: Vector, b: Vector): Vector {
  return shuffleBytes(a, b, 0, 1, 18, 19, 4, 5, 22, 23, 8, 9, 26, 27, 12, 13, 30, 31)
}

function timesFive(value: Local<'v128'>): Vector {
  return add32(value, left32(value, 2))
}
