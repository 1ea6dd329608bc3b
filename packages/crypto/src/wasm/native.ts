import { anyBit, i32, isZero, load128, type ModuleBuilder, vec, w32, withLane, words } from './assembler.ts'
import { NONCE, OPENED, RECEIVED_TAG, STAGED, TAG } from './layout.ts'

const BLOCK_BYTES = 64

/**
 * Adds what native code needs that seals and opens packets in this memory. It works at fixed addresses alone, so that of a packet only
 * its length is ever handed to it: nothing of another packet is in its reach, and no address is computed for each packet.
 *
 * | export | what it does |
 * |---|---|
 * | `stage(source, length, n0, n1, n2)` | copies a packet to `STAGED` (unless it stands there), 64 zero bytes before it, padding and the block of lengths behind it; the 16 bytes that followed it to `RECEIVED_TAG`; block counter 0 and the nonce to `NONCE` |
 * | `sealed(target, length)` | copies the packet at `STAGED` and the tag at `TAG` to their place |
 * | `opened(target, length)` | 1 and the packet at `OPENED` copied to its place, if `TAG` and `RECEIVED_TAG` are the same (all 16 bytes are compared); else 0, and `OPENED` is overwritten |
 */
export function addNative(module: ModuleBuilder): void {
  const none = words(0, 0, 0, 0)
  module.func('stage', 5, false, (f, source, length, n0, n1, n2) => {
    f.store128(i32(NONCE), 0, [n0, n1, n2].reduce((row, word, i) => withLane(row, i + 1, word), none))
    f.store128(i32(RECEIVED_TAG), 0, load128(w32.add(source, length)))
    f.if(w32.xor(source, i32(STAGED)), () => f.copyMemory(i32(STAGED), source, length))
    for (let at = 0; at < BLOCK_BYTES; at += 16) f.store128(i32(STAGED - BLOCK_BYTES), at, none)
    f.store128(w32.add(length, i32(STAGED)), 0, none)
    f.store128(w32.and(w32.add(length, i32(STAGED + 15)), i32(-16)), 0, withLane(none, 2, length))
  })
  module.func('sealed', 2, false, (f, target, length) => {
    f.copyMemory(target, i32(STAGED), length)
    f.store128(w32.add(target, length), 0, load128(i32(TAG)))
  })
  module.func('opened', 2, true, (f, target, length) => {
    f.if(isZero(anyBit(vec.xor(load128(i32(TAG)), load128(i32(RECEIVED_TAG))))), () => {
      f.copyMemory(target, i32(OPENED), length)
      f.return(i32(1))
    })
    f.fillMemory(i32(OPENED - BLOCK_BYTES), i32(0), w32.add(length, i32(BLOCK_BYTES)))
    f.store128(i32(TAG), 0, none)
  })
}
