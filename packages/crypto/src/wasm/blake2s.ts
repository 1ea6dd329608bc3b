import { type Body, type Expr, i32, load32, type Local, type ModuleBuilder, w32 } from './assembler.ts'
import { DIGEST, INPUT } from './layout.ts'
import { at } from './limbs.ts'

const { add, xor, rotr } = w32
const IV = [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19]
const BLOCK_BYTES = 64
// Message schedule, RFC 7693 section 2.7.
const SIGMA = [
  [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
  [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
  [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
  [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
  [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
  [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
  [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
  [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
  [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
  [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
]
const MIXES = [
  [0, 4, 8, 12],
  [1, 5, 9, 13],
  [2, 6, 10, 14],
  [3, 7, 11, 15],
  [0, 5, 10, 15],
  [1, 6, 11, 12],
  [2, 7, 8, 13],
  [3, 4, 9, 14],
]

/**
 * Adds `blake2s(parameters, length)`: BLAKE2s (RFC 7693) of `length` bytes at `INPUT`, 32 bytes to `DIGEST`. The first word of the
 * parameter block is 0x0101kknn: length of the key, which then stands first in the input, padded to 64 bytes, and of the digest. The
 * input must be followed by zeros up to a multiple of 64.
 */
export function addBlake2s(module: ModuleBuilder): number {
  return module.func('blake2s', 2, false, (f, parameters, length) => {
    const h = IV.map((word, i) => f.let(i === 0 ? xor(i32(word), parameters) : i32(word)))
    const counted = f.let(i32(0))
    const address = f.let(i32(INPUT))
    const last = f.local('i32')
    const more = f.let(i32(1))
    f.while(more, () => {
      f.set(last, w32.leU(length, add(counted, i32(BLOCK_BYTES))))
      f.set(more, xor(last, i32(1)))
      f.set(counted, add(counted, i32(BLOCK_BYTES)))
      f.if(last, () => f.set(counted, length))
      compress(f, h, address, counted, w32.sub(i32(0), last))
      f.set(address, add(address, i32(BLOCK_BYTES)))
    })
    h.forEach((word, i) => f.store32(i32(DIGEST), 4 * i, word))
  })
}

function compress(f: Body, h: readonly Local<'i32'>[], block: Expr<'i32'>, counted: Expr<'i32'>, final: Expr<'i32'>): void {
  const v = [...h.map((word) => f.let(word)), ...IV.map((word) => f.let(i32(word)))]
  f.set(at(v, 12), xor(at(v, 12), counted))
  f.set(at(v, 14), xor(at(v, 14), final))
  for (const order of SIGMA) {
    MIXES.forEach((columns, i) => {
      const [a, b, c, d] = columns.map((index) => at(v, index))
      if (a === undefined || b === undefined || c === undefined || d === undefined) throw new RangeError('a mix takes four words')
      f.set(a, add(add(a, b), load32(block, 4 * at(order, 2 * i))))
      f.set(d, rotr(xor(d, a), i32(16)))
      f.set(c, add(c, d))
      f.set(b, rotr(xor(b, c), i32(12)))
      f.set(a, add(add(a, b), load32(block, 4 * at(order, 2 * i + 1))))
      f.set(d, rotr(xor(d, a), i32(8)))
      f.set(c, add(c, d))
      f.set(b, rotr(xor(b, c), i32(7)))
    })
  }
  h.forEach((word, i) => f.set(word, xor(word, xor(at(v, i), at(v, i + 8)))))
}
