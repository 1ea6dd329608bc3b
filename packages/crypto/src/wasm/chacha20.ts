import { type Body, type Expr, i32, isZero, load128, type Local, type ModuleBuilder, select, shuffleWords, swizzleBytes, vec, vecShift, w32, withLane, words } from './assembler.ts'
import { ENTRY_BYTES, KEY, MASKS, NONCE, STREAM, STREAMS } from './layout.ts'

const { add32, xor, or } = vec
const SIGMA = words(0x61707865, 0x3320646e, 0x79622d32, 0x6b206574) // "expand 32-byte k"
const BLOCKS = 3
const GROUP_BYTES = 64 * BLOCKS
/** Packets up to this length need two blocks, with the one that the key of Poly1305 comes from. */
export const SHORT_BYTES = 64

/** The functions that this file adds to a module. */
export interface ChaCha20Functions {
  /** (length): the first blocks of key stream to `STREAM`, three or, for packets up to `SHORT_BYTES`, two; counts on. */
  readonly start: number
  /** (source, target, length): the packet's bytes after block 0, whose first blocks stand in `STREAM` already. */
  readonly crypt: number
  /** (entry, block): the block of that number for each of the packets of three entries, to `STREAMS + 128 i + 64 block`. */
  readonly streams: number
  /** (source, target, length, key stream): a packet of up to `SHORT_BYTES`, or the next bytes of one. */
  readonly cryptRows: number
}

/**
 * ChaCha20 (RFC 8439 section 2.4) by rows: a register holds one row of a block, and three blocks run abreast. Their 12 registers and 3
 * for intermediate values are what V8 has on x86-64; the key stream comes out in the order of bytes; and 64 + 1420 bytes are 8 groups.
 */
export function addChaCha20(module: ModuleBuilder): ChaCha20Functions {
  const stream = module.func(undefined, 0, false, (f) => {
    nextBlocks(f, BLOCKS).forEach((row, i) => f.store128(i32(STREAM), 16 * i, row))
  })
  const start = module.func(undefined, 1, false, (f, length) => {
    const isLong = f.let(w32.gtU(length, i32(SHORT_BYTES)))
    f.if(isLong, () => f.call(stream))
    f.if(isZero(isLong), () => nextBlocks(f, 2).forEach((row, i) => f.store128(i32(STREAM), 16 * i, row)))
  })
  const streams = module.func(undefined, 2, false, (f, entry, block) => {
    const to = f.let(w32.add(i32(STREAMS), w32.shl(block, i32(6))))
    const rows = blocksOf(f, Array.from({ length: BLOCKS }, (_, i) => withLane(load128(entry, ENTRY_BYTES * i + 16), 0, block)))
    rows.forEach((row, i) => f.store128(to, 128 * (i >> 2) + 16 * (i & 3), row))
  })
  const cryptGroups = module.func(undefined, 3, false, (f, source, target, groups) => {
    f.while(groups, () => {
      nextBlocks(f, BLOCKS).forEach((row, i) => f.store128(target, 16 * i, xor(load128(source, 16 * i), row)))
      f.set(source, w32.add(source, i32(GROUP_BYTES)))
      f.set(target, w32.add(target, i32(GROUP_BYTES)))
      f.set(groups, w32.sub(groups, i32(1)))
    })
  })
  const cryptRows = module.func(undefined, 4, false, (f, source, target, length, rows) => {
    f.while(w32.geU(length, i32(16)), () => {
      f.store128(target, 0, xor(load128(source), load128(rows)))
      for (const pointer of [source, target, rows]) f.set(pointer, w32.add(pointer, i32(16)))
      f.set(length, w32.sub(length, i32(16)))
    })
    f.if(length, () => {
      // What stands behind the packet's last byte stays.
      const mask = load128(w32.sub(i32(MASKS + 16), length))
      f.store128(target, 0, select(mask, xor(load128(source), load128(rows)), load128(target)))
    })
  })
  const crypt = module.func(undefined, 3, false, (f, source, target, length) => {
    const first = f.let(length)
    f.if(w32.gtU(first, i32(128)), () => f.set(first, i32(128)))
    f.call(cryptRows, source, target, first, i32(STREAM + 64))
    const rest = f.let(w32.sub(length, first))
    f.if(rest, () => {
      f.set(source, w32.add(source, i32(128)))
      f.set(target, w32.add(target, i32(128)))
      const whole = f.local('i32')
      f.if(w32.geU(rest, i32(GROUP_BYTES)), () => {
        f.set(whole, w32.divU(rest, i32(GROUP_BYTES)))
        f.call(cryptGroups, source, target, whole)
        f.set(whole, w32.mul(whole, i32(GROUP_BYTES)))
      })
      f.if(w32.gtU(rest, whole), () => {
        f.call(stream)
        f.call(cryptRows, w32.add(source, whole), w32.add(target, whole), w32.sub(rest, whole), i32(STREAM))
      })
    })
  })
  return { start, crypt, streams, cryptRows }
}

/** Code for the next blocks of the packet at hand; gives their rows. */
function nextBlocks(f: Body, count: number): Local<'v128'>[] {
  const nonce = load128(i32(NONCE))
  const rows = blocksOf(f, Array.from({ length: count }, (_, i) => (i === 0 ? nonce : add32(nonce, words(i, 0, 0, 0)))))
  f.store128(i32(NONCE), 0, add32(nonce, words(count, 0, 0, 0)))
  return rows
}

/** Code for the blocks with these counters and nonces; gives their rows, four for each. */
function blocksOf(f: Body, nonces: readonly Expr<'v128'>[]): Local<'v128'>[] {
  const blocks = nonces.map((nonce) => ({ a: f.let(SIGMA), b: f.let(load128(i32(KEY))), c: f.let(load128(i32(KEY + 16))), d: f.let(nonce) }))
  const each = (step: (block: (typeof blocks)[number]) => void): void => blocks.forEach(step)
  // One quarter round on all four columns, an operation at a time across the blocks, so that none waits for its own result.
  const columns = (): void => {
    each(({ a, b }) => f.set(a, add32(a, b)))
    each(({ a, d }) => f.set(d, xor(d, a)))
    each(({ d }) => f.set(d, rotate16(d)))
    each(({ c, d }) => f.set(c, add32(c, d)))
    each(({ b, c }) => f.set(b, xor(b, c)))
    each(({ b }) => f.set(b, rotate(b, 12)))
    each(({ a, b }) => f.set(a, add32(a, b)))
    each(({ a, d }) => f.set(d, xor(d, a)))
    each(({ d }) => f.set(d, rotate8(d)))
    each(({ c, d }) => f.set(c, add32(c, d)))
    each(({ b, c }) => f.set(b, xor(b, c)))
    each(({ b }) => f.set(b, rotate(b, 7)))
  }
  // Turning a, c and d, not b: b is what the next quarter round waits for.
  const turn = (a: readonly number[], c: readonly number[]): void =>
    each((block) => {
      f.set(block.a, shuffleWords(block.a, block.a, ...a))
      f.set(block.d, shuffleWords(block.d, block.d, 2, 3, 0, 1))
      f.set(block.c, shuffleWords(block.c, block.c, ...c))
    })
  const rounds = f.let(i32(10))
  f.while(rounds, () => {
    columns()
    turn([3, 0, 1, 2], [1, 2, 3, 0])
    columns()
    turn([1, 2, 3, 0], [3, 0, 1, 2])
    f.set(rounds, w32.sub(rounds, i32(1)))
  })
  blocks.forEach(({ a, b, c, d }, i) => {
    f.set(a, add32(a, SIGMA))
    f.set(b, add32(b, load128(i32(KEY))))
    f.set(c, add32(c, load128(i32(KEY + 16))))
    f.set(d, add32(d, nonces[i] ?? SIGMA))
  })
  return blocks.flatMap(({ a, b, c, d }) => [a, b, c, d])
}

// V8 builds the mask of a byte shuffle anew at each use; the constant one of a swizzle it knows.
function rotate16(value: Local<'v128'>): Expr<'v128'> {
  return swizzleBytes(value, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)
}

function rotate8(value: Local<'v128'>): Expr<'v128'> {
  return swizzleBytes(value, 3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14)
}

function rotate(value: Local<'v128'>, bits: number): Expr<'v128'> {
  return or(vecShift.left32(value, bits), vecShift.right32(value, 32 - bits))
}
