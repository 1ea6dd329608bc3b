import { anyBit, type Body, i32, isZero, load32, load128, type Local, type ModuleBuilder, vec, w32, words } from './assembler.ts'
import { type ChaCha20Functions, SHORT_BYTES } from './chacha20.ts'
import { ENTRY_BYTES, STREAMS, STREAMS_BYTES, TABLE, TAG } from './layout.ts'
import type { Poly1305Functions } from './poly1305.ts'

/** So many short packets share the work on key stream: one block each. */
const ABREAST = 3

/** What batches are made of; `seal` and `open` take one packet. */
export interface BatchParts {
  readonly chacha20: ChaCha20Functions
  readonly poly1305: Poly1305Functions
  readonly seal: number
  readonly open: number
}

/**
 * Adds `sealMany(count)` and `openMany(count)`: packets that are listed at `TABLE`, all under the key at `KEY`, without additional data.
 * Three short packets in a row share two rounds of work on key stream, where each alone would need one of its own.
 *
 * | offset in an entry | size | what |
 * |---|---|---|
 * | 0 | 4 | address of the source |
 * | 4 | 4 | address of the target |
 * | 8 | 4 | length without the tag |
 * | 12 | 4 | `openMany`: 1 when the packet was opened, else 0 |
 * | 16 | 4 | zero |
 * | 20 | 12 | the nonce |
 */
export function addBatches(module: ModuleBuilder, { chacha20, poly1305, seal, open }: BatchParts): void {
  const fields = (f: Body, entry: Local<'i32'>): [Local<'i32'>, Local<'i32'>, Local<'i32'>] => [f.let(load32(entry)), f.let(load32(entry, 4)), f.let(load32(entry, 8))]
  const sealShort = module.func(undefined, 2, false, (f, entry, stream) => {
    const [source, target, length] = fields(f, entry)
    f.call(poly1305.begin, stream)
    disentangle(f, source, target, length)
    f.call(chacha20.cryptRows, source, target, length, w32.add(stream, i32(64)))
    f.call(poly1305.finish, target, length, i32(0))
    f.store128(w32.add(target, length), 0, load128(i32(TAG)))
  })
  const openShort = module.func(undefined, 2, false, (f, entry, stream) => {
    const [source, target, length] = fields(f, entry)
    f.call(poly1305.begin, stream)
    f.call(poly1305.finish, source, length, i32(0))
    const isAuthentic = f.let(isZero(anyBit(vec.xor(load128(i32(TAG)), load128(w32.add(source, length))))))
    f.store32(entry, 12, isAuthentic)
    f.if(isAuthentic, () => {
      disentangle(f, source, target, length)
      f.call(chacha20.cryptRows, source, target, length, w32.add(stream, i32(64)))
    })
  })
  const many = (name: string, short: number, single: (f: Body, entry: Local<'i32'>) => void): number =>
    module.func(name, 1, false, (f, count) => {
      const entry = f.let(i32(TABLE))
      const end = f.let(w32.add(entry, w32.mul(count, i32(ENTRY_BYTES))))
      const three = f.local('i32')
      f.while(w32.ltU(entry, end), () => {
        f.set(three, w32.leU(w32.add(entry, i32(ABREAST * ENTRY_BYTES)), end))
        for (let i = 0; i < ABREAST; i += 1) f.set(three, w32.and(three, w32.leU(load32(entry, ENTRY_BYTES * i + 8), i32(SHORT_BYTES))))
        f.if(three, () => {
          f.call(chacha20.streams, entry, i32(0))
          f.call(chacha20.streams, entry, i32(1))
          for (let i = 0; i < ABREAST; i += 1) {
            f.call(short, entry, i32(STREAMS + (STREAMS_BYTES / ABREAST) * i))
            f.set(entry, w32.add(entry, i32(ENTRY_BYTES)))
          }
        })
        f.if(isZero(three), () => {
          single(f, entry)
          f.set(entry, w32.add(entry, i32(ENTRY_BYTES)))
        })
      })
      // No key of Poly1305 and no right tag of a forged packet stays behind.
      f.fillMemory(i32(STREAMS), i32(0), i32(STREAMS_BYTES))
      f.store128(i32(TAG), 0, words(0, 0, 0, 0))
    })
  const args = (entry: Local<'i32'>): readonly ReturnType<typeof i32>[] => [load32(entry), load32(entry, 4), load32(entry, 8), load32(entry, 20), load32(entry, 24), load32(entry, 28), i32(0)]
  many('sealMany', sealShort, (f, entry) => f.call(seal, ...args(entry)))
  many('openMany', openShort, (f, entry) => f.store32(entry, 12, f.callFor(open, ...args(entry))))
}

/** A target that begins inside the source would be overwritten before it is read: the bytes are moved first. */
export function disentangle(f: Body, source: Local<'i32'>, target: Local<'i32'>, length: Local<'i32'>): void {
  f.if(w32.ltU(w32.sub(w32.sub(target, source), i32(1)), length), () => {
    f.copyMemory(target, source, length)
    f.set(source, target)
  })
}
