import { anyBit, type Body, i32, isZero, load128, type Local, ModuleBuilder, vec, w32, withLane, words } from './assembler.ts'
import { addBatches, disentangle } from './batches.ts'
import { addBlake2s } from './blake2s.ts'
import { addChaCha20 } from './chacha20.ts'
import { INPUT, NONCE, SLACK_BYTES, STREAM, TAG, USER } from './layout.ts'
import { addNative } from './native.ts'
import { addPoly1305 } from './poly1305.ts'

const PAGE_BYTES = 65_536

/** How much memory an instance of the module has for its caller by default: enough for 64 slots of 64 KiB. */
export const DEFAULT_MEMORY_BYTES = 4_194_304

/**
 * The bytes of a WebAssembly module (SIMD, no imports) with ChaCha20-Poly1305 and BLAKE2s, assembled here and now from this folder's
 * sources, in some milliseconds. Instantiate it (`new WebAssembly.Instance(new WebAssembly.Module(bytes))`) and hand the instance's
 * exports to `wasmProvider`. Its memory never grows, so views of it stay valid.
 *
 * | export | what it does |
 * |---|---|
 * | `seal(source, target, length, n0, n1, n2, additional)` | seals with the key at `KEY`, the nonce's three words and `additional` bytes at `INPUT`; `length + 16` bytes to `target` |
 * | `open(source, target, length, n0, n1, n2, additional)` | 1 and `length` bytes at `target`, or 0 and nothing written: the tag is checked first |
 * | `blake2s(parameters, length)` | see `addBlake2s` |
 * | `sealMany(count)`, `openMany(count)` | see `addBatches` |
 * | `stage`, `sealed`, `opened` | for native code: see `addNative` |
 *
 * Source and target may overlap in any way.
 * @param memoryBytes memory for the caller's packets, beside what the module needs itself
 */
export function wasmModuleBytes(memoryBytes: number = DEFAULT_MEMORY_BYTES): Uint8Array {
  const module = new ModuleBuilder()
  const chacha20 = addChaCha20(module)
  const poly1305 = addPoly1305(module)
  addBlake2s(module)

  // The first blocks of key stream; the Poly1305 key from block 0; the additional data.
  const begin = (f: Body, nonce: readonly Local<'i32'>[], length: Local<'i32'>, additional: Local<'i32'>): void => {
    f.store128(i32(NONCE), 0, nonce.reduce((row, word, i) => withLane(row, i + 1, word), words(0, 0, 0, 0)))
    f.call(chacha20.start, length)
    f.call(poly1305.begin, i32(STREAM))
    f.if(additional, () => f.call(poly1305.absorb, i32(INPUT), additional))
  }
  const seal = module.func('seal', 7, false, (f, source, target, length, n0, n1, n2, additional) => {
    begin(f, [n0, n1, n2], length, additional)
    disentangle(f, source, target, length)
    f.call(chacha20.crypt, source, target, length)
    f.call(poly1305.finish, target, length, additional)
    f.store128(w32.add(target, length), 0, load128(i32(TAG)))
  })
  const open = module.func('open', 7, true, (f, source, target, length, n0, n1, n2, additional) => {
    begin(f, [n0, n1, n2], length, additional)
    f.call(poly1305.finish, source, length, additional)
    f.if(isZero(anyBit(vec.xor(load128(i32(TAG)), load128(w32.add(source, length))))), () => {
      disentangle(f, source, target, length)
      f.call(chacha20.crypt, source, target, length)
      f.return(i32(1))
    })
    // The tag that would have been right goes nowhere.
    f.store128(i32(TAG), 0, words(0, 0, 0, 0))
    f.store128(i32(STREAM), 0, words(0, 0, 0, 0))
    f.store128(i32(STREAM + 16), 0, words(0, 0, 0, 0))
  })
  addBatches(module, { chacha20, poly1305, seal, open })
  addNative(module)
  const masks = Array.from({ length: 32 }, (_, i) => (i < 16 ? 255 : 0))
  return module.finish(Math.ceil((USER + memoryBytes + SLACK_BYTES) / PAGE_BYTES), masks)
}
