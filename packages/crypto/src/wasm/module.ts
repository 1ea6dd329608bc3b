import { anyBit, type Body, i32, isZero, load128, type Local, ModuleBuilder, vec, w32, withLane, words } from './assembler.ts'
import { addBlake2s } from './blake2s.ts'
import { addChaCha20 } from './chacha20.ts'
import { BEHIND, INPUT, NONCE, SLACK_BYTES, STREAM, TAG, USER } from './layout.ts'
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
 * | `lengthen(address, length)` | for native code: saves 32 bytes behind a ciphertext and writes the padding and the block of lengths there |
 * | `shorten(address, length)` | puts the saved bytes back |
 * | `isTag(address)` | 1 when the 16 bytes are those in `TAG`, in constant time |
 *
 * Source and target may overlap in any way.
 * @param memoryBytes memory for the caller's packets, beside what the module needs itself
 */
export function wasmModuleBytes(memoryBytes: number = DEFAULT_MEMORY_BYTES): Uint8Array {
  const module = new ModuleBuilder()
  const chacha20 = addChaCha20(module)
  const poly1305 = addPoly1305(module)
  addBlake2s(module)

  // Key stream of blocks 0 to 2; the Poly1305 key from block 0; the additional data.
  const begin = (f: Body, nonce: readonly Local<'i32'>[], additional: Local<'i32'>): void => {
    f.store128(i32(NONCE), 0, nonce.reduce((row, word, i) => withLane(row, i + 1, word), words(0, 0, 0, 0)))
    f.call(chacha20.stream)
    f.call(poly1305.begin)
    f.if(additional, () => f.call(poly1305.absorb, i32(INPUT), additional))
  }
  // A target that begins inside the source would be overwritten before it is read: the bytes are moved first.
  const disentangle = (f: Body, source: Local<'i32'>, target: Local<'i32'>, length: Local<'i32'>): void =>
    f.if(w32.ltU(w32.sub(w32.sub(target, source), i32(1)), length), () => {
      f.copyMemory(target, source, length)
      f.set(source, target)
    })

  module.func('seal', 7, false, (f, source, target, length, n0, n1, n2, additional) => {
    begin(f, [n0, n1, n2], additional)
    disentangle(f, source, target, length)
    f.call(chacha20.crypt, source, target, length)
    f.call(poly1305.absorb, target, length)
    f.call(poly1305.finish, additional, length)
    f.store128(w32.add(target, length), 0, load128(i32(TAG)))
  })
  module.func('open', 7, true, (f, source, target, length, n0, n1, n2, additional) => {
    begin(f, [n0, n1, n2], additional)
    f.call(poly1305.absorb, source, length)
    f.call(poly1305.finish, additional, length)
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
  module.func('lengthen', 2, false, (f, address, length) => {
    const end = f.let(w32.add(address, length))
    f.store128(i32(BEHIND), 0, load128(end))
    f.store128(i32(BEHIND), 16, load128(end, 16))
    f.store128(end, 0, words(0, 0, 0, 0))
    const padded = f.let(w32.add(address, w32.and(w32.add(length, i32(15)), i32(-16))))
    f.store128(padded, 0, withLane(words(0, 0, 0, 0), 2, length))
  })
  module.func('shorten', 2, false, (f, address, length) => {
    const end = f.let(w32.add(address, length))
    f.store128(end, 0, load128(i32(BEHIND)))
    f.store128(end, 16, load128(i32(BEHIND), 16))
  })
  module.func('isTag', 1, true, (f, address) => {
    f.return(isZero(anyBit(vec.xor(load128(i32(TAG)), load128(address)))))
  })
  const masks = Array.from({ length: 32 }, (_, i) => (i < 16 ? 255 : 0))
  return module.finish(Math.ceil((USER + memoryBytes + SLACK_BYTES) / PAGE_BYTES), masks)
}
