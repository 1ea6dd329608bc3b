import { type Body, type Expr, i32, lane64, load128, type Local, ModuleBuilder, shuffleWords, vec, w32, type WasmProvider, words, wrap } from '@meshwright/crypto/wasm'

/** What is used of the language's WebAssembly object: the types of Node declare none of its values. */
declare const WebAssembly: {
  readonly Module: new (bytes: Uint8Array) => object
  readonly Instance: new (module: object, imports: object) => { readonly exports: Readonly<Record<string, unknown>> }
}

const PAGE_BYTES = 65_536
const ROW_BYTES = 16
const UNROLLED = 4
const MASK_BYTES = 32
/** 0x8000 in each lane: turns unsigned 16-bit numbers into signed ones that are smaller by 32768. */
const SIGNS = words(0x8000_8000, 0x8000_8000, 0x8000_8000, 0x8000_8000)
const ONES = words(0x0001_0001, 0x0001_0001, 0x0001_0001, 0x0001_0001)
const OFFSET_OF_A_ROW = 8 * 32_768

/**
 * Internet checksums over the memory that the cryptography works in.
 *
 * Sums are of the machine's own byte order: words are read and written little-endian, which a sum of ones' complement does not mind
 * (RFC 1071 section 2 (B)). They are folded to 16 bits and not inverted.
 */
export interface Sums {
  /** Sum of `length` bytes, at most 65 536. */
  sum(at: number, length: number): number
  /** The same, and the bytes are copied on the way; up to 15 bytes behind the copy are overwritten. The ranges must not overlap. */
  copySum(to: number, from: number, length: number): number
}

/**
 * Makes them for an instance of the provider's module, in whose memory 32 bytes are taken.
 * @param base where addresses are counted from
 * @throws CRYPTO_WASM_MEMORY
 */
export function sumsFor({ instance }: WasmProvider, base: number = 0): Sums {
  const masks = instance.allocate(MASK_BYTES)
  masks.fill(255, 0, ROW_BYTES)
  const module = new WebAssembly.Module(sumModuleBytes(instance.memory.length / PAGE_BYTES, masks.byteOffset, base))
  const { sum, copySum } = new WebAssembly.Instance(module, { shared: { memory: instance.sharedMemory } }).exports
  if (!isNumeric(sum) || !isNumeric(copySum)) throw new TypeError('the module of sums lacks its functions')
  return { sum, copySum }
}

function isNumeric(value: unknown): value is (...args: readonly number[]) => number {
  return typeof value === 'function'
}

/** @param masks where 16 bytes of ones and 16 bytes of zeros stand */
function sumModuleBytes(pages: number, masks: number, base: number): Uint8Array {
  const module = new ModuleBuilder()
  module.func('sum', 2, true, (f, at, length) => {
    f.set(at, w32.add(at, i32(base)))
    addRows(f, at, length, masks, () => undefined)
  })
  module.func('copySum', 3, true, (f, to, from, length) => {
    f.set(to, w32.add(to, i32(base)))
    f.set(from, w32.add(from, i32(base)))
    addRows(f, from, length, masks, (row, i, of) => {
      f.store128(to, i * ROW_BYTES, row)
      if (i === of - 1) f.set(to, w32.add(to, i32(of * ROW_BYTES)))
    })
  })
  return module.finishOn(pages)
}

/** Sums the rows of 16 bytes; `each` gets every row as it was read, and which one of how many it is in the step at hand. */
function addRows(f: Body, at: Local<'i32'>, length: Local<'i32'>, masks: number, each: (row: Expr<'v128'>, index: number, of: number) => void): void {
  const total = f.let(words(0, 0, 0, 0))
  const other = f.let(words(0, 0, 0, 0))
  const rows = f.let(w32.shrU(w32.add(length, i32(ROW_BYTES - 1)), i32(4)))
  const row = f.local('v128')
  const add = (sum: Local<'v128'>, value: Expr<'v128'>): void => f.set(sum, vec.add32(sum, vec.dot16(vec.xor(value, SIGNS), ONES)))
  f.while(w32.geU(length, i32(UNROLLED * ROW_BYTES)), () => {
    for (let i = 0; i < UNROLLED; i += 1) {
      f.set(row, load128(at, i * ROW_BYTES))
      each(row, i, UNROLLED)
      add(i % 2 === 0 ? total : other, row)
    }
    f.set(at, w32.add(at, i32(UNROLLED * ROW_BYTES)))
    f.set(length, w32.sub(length, i32(UNROLLED * ROW_BYTES)))
  })
  f.while(w32.geU(length, i32(ROW_BYTES)), () => {
    f.set(row, load128(at))
    each(row, 0, 1)
    add(total, row)
    f.set(at, w32.add(at, i32(ROW_BYTES)))
    f.set(length, w32.sub(length, i32(ROW_BYTES)))
  })
  f.if(length, () => {
    f.set(row, load128(at))
    each(row, 0, 1)
    add(other, vec.and(row, load128(w32.sub(i32(masks + ROW_BYTES), length))))
  })
  f.set(total, vec.add32(total, other))
  f.set(total, vec.add32(total, shuffleWords(total, total, 2, 3, 0, 1)))
  f.set(total, vec.add32(total, shuffleWords(total, total, 1, 0, 3, 2)))
  const sum = f.let(w32.add(wrap(lane64(total, 0)), w32.mul(rows, i32(OFFSET_OF_A_ROW))))
  for (let i = 0; i < 2; i += 1) f.set(sum, w32.add(w32.and(sum, i32(0xffff)), w32.shrU(sum, i32(16))))
  f.return(sum)
}
