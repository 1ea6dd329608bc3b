import { type Body, type Expr, extend, i32, i64, load32, type Local, w32, w64, wrap } from './assembler.ts'

/** The bits of one limb. */
export const LIMB = 0x3ff_ffff
export const LIMB_BITS = 26

/** A number modulo 2^130 - 5: five limbs of 26 bits, the lowest first. */
export type Limbs = readonly Local<'i32'>[]

/** `h = h * r` modulo 2^130 - 5, limbs reduced to 26 bits but for a carry in the second. */
export function multiply(f: Body, h: Limbs, r: Limbs): void {
  const wide = r.map((limb) => f.let(extend(limb)))
  const folded = wide.map((limb) => f.let(w64.mul(limb, i64(5)))) // 2^130 is 5
  const own = h.map((limb) => f.let(extend(limb)))
  const sums = h.map((_, k) => {
    let sum: Expr<'i64'> | undefined
    for (let i = 0; i < 5; i += 1) {
      const j = (k - i + 5) % 5
      const product = w64.mul(at(own, i), at(i > k ? folded : wide, j))
      sum = sum === undefined ? product : w64.add(sum, product)
    }
    return f.let(sum ?? i64(0))
  })
  reduceSums(f, sums, h)
}

/** Carries five 64-bit sums into limbs. */
export function reduceSums(f: Body, sums: readonly Local<'i64'>[], into: Limbs): void {
  const over = f.local('i64')
  for (let i = 0; i < 5; i += 1) {
    f.set(over, w64.shrU(at(sums, i), i64(LIMB_BITS)))
    f.set(at(sums, i), w64.and(at(sums, i), i64(LIMB)))
    if (i < 4) f.set(at(sums, i + 1), w64.add(at(sums, i + 1), over))
  }
  f.set(at(sums, 0), w64.add(at(sums, 0), w64.mul(over, i64(5))))
  f.set(at(sums, 1), w64.add(at(sums, 1), w64.shrU(at(sums, 0), i64(LIMB_BITS))))
  f.set(at(sums, 0), w64.and(at(sums, 0), i64(LIMB)))
  into.forEach((limb, i) => f.set(limb, wrap(at(sums, i))))
}

/** Carries from limb `from` up, round the top, into the limb below. */
export function carry(f: Body, h: Limbs, from: number): void {
  for (let i = from; i < 4; i += 1) carryInto(f, at(h, i), at(h, i + 1))
  const over = f.let(w32.shrU(at(h, 4), i32(LIMB_BITS)))
  f.set(at(h, 4), w32.and(at(h, 4), i32(LIMB)))
  f.set(at(h, 0), w32.add(at(h, 0), w32.mul(over, i32(5))))
  if (from > 0) carryInto(f, at(h, 0), at(h, 1))
}

/** Carries from one limb into the next. */
export function carryInto(f: Body, low: Local<'i32'>, high: Local<'i32'>): void {
  f.set(high, w32.add(high, w32.shrU(low, i32(LIMB_BITS))))
  f.set(low, w32.and(low, i32(LIMB)))
}

/** Limbs of a number that stands in memory. */
export function loadLimbs(f: Body, address: number): Local<'i32'>[] {
  return [0, 4, 8, 12, 16].map((offset) => f.let(load32(i32(address), offset)))
}

/** Writes limbs to memory. */
export function storeLimbs(f: Body, address: number, limbs: Limbs): void {
  limbs.forEach((limb, i) => f.store32(i32(address), 4 * i, limb))
}

/** The item that the caller knows to be there. */
export function at<T>(items: readonly T[], index: number): T {
  const item = items[index]
  if (item === undefined) throw new RangeError(`no item ${index} of ${items.length}`)
  return item
}
