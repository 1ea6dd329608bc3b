import { DONE, DROPPED, PacketBatch } from '@meshwright/core'
import { nobleProvider } from '@meshwright/crypto'
import { SeededRandom } from '@meshwright/testkit'
import { describe, expect, test } from 'vitest'
import { nodeCryptoProvider as node } from './node-crypto.ts'

const random = new SeededRandom(20)
const some = (length: number): Uint8Array => random.bytes(length)
const SIZES = [0, 1, 15, 16, 17, 63, 64, 65, 255, 1_420, 4_097]
const flip = (bytes: Uint8Array, at: number): Uint8Array => bytes.map((byte, i) => (i === at ? byte ^ 1 : byte))

describe('node:crypto and noble agree on random inputs', () => {
  test('X25519: public keys and shared secrets, both ways', () => {
    for (let round = 0; round < 30; round += 1) {
      const [a, b] = [some(32), some(32)]
      expect(node.publicKey(a)).toEqual(nobleProvider.publicKey(a))
      const secret = nobleProvider.sharedSecret(a, node.publicKey(b))
      expect(secret).toBeDefined()
      expect(node.sharedSecret(a, nobleProvider.publicKey(b))).toEqual(secret)
      expect(node.sharedSecret(b, nobleProvider.publicKey(a))).toEqual(secret)
      const anything = some(32)
      expect(node.sharedSecret(a, anything)).toEqual(nobleProvider.sharedSecret(a, anything))
    }
  })

  test('X25519: points of low order give no secret, keys of wrong length neither', () => {
    const low = [new Uint8Array(32), Uint8Array.of(1, ...new Uint8Array(31)), Uint8Array.from(Buffer.from('e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800', 'hex'))]
    for (const point of low) for (const provider of [node, nobleProvider]) expect(provider.sharedSecret(some(32), point)).toBeUndefined()
    expect(node.sharedSecret(some(31), some(32))).toBeUndefined()
    expect(node.sharedSecret(some(32), some(33))).toBeUndefined()
  })

  test('BLAKE2s, keyed and not, and HMAC, however the input is cut into parts', () => {
    for (const size of SIZES) {
      const [bytes, key] = [some(size), some(32)]
      const cut = random.below(size + 1)
      const parts = [bytes.subarray(0, cut), bytes.subarray(cut)]
      expect(node.hash(...parts)).toEqual(nobleProvider.hash(bytes))
      expect(node.mac(key, ...parts)).toEqual(nobleProvider.mac(key, bytes))
      expect(node.hmac(key, ...parts)).toEqual(nobleProvider.hmac(key, bytes))
      expect(node.hmac(some(0), bytes)).toEqual(nobleProvider.hmac(some(0), bytes))
    }
  })

  test('ChaCha20-Poly1305 and XChaCha20-Poly1305, with and without additional data; what one seals the other opens', () => {
    for (const size of SIZES) {
      for (const additional of [undefined, some(0), some(13), some(32)]) {
        const [key, nonce, xnonce, plain] = [some(32), some(12), some(24), some(size)]
        const sealed = node.aeadSeal(key, nonce, plain, additional)
        expect(sealed).toEqual(nobleProvider.aeadSeal(key, nonce, plain, additional))
        expect(node.aeadOpen(key, nonce, sealed, additional)).toEqual(plain)
        expect(nobleProvider.aeadOpen(key, nonce, sealed, additional)).toEqual(plain)
        const xsealed = node.xaeadSeal(key, xnonce, plain, additional)
        expect(xsealed).toEqual(nobleProvider.xaeadSeal(key, xnonce, plain, additional))
        expect(node.xaeadOpen(key, xnonce, xsealed, additional)).toEqual(plain)
      }
    }
  })

  test('what was changed in any place, or cut, is refused by both', () => {
    const [key, nonce, plain, additional] = [some(32), some(12), some(40), some(8)]
    const sealed = node.aeadSeal(key, nonce, plain, additional)
    for (const provider of [node, nobleProvider]) {
      for (let at = 0; at < sealed.length; at += 1) expect(provider.aeadOpen(key, nonce, flip(sealed, at), additional)).toBeUndefined()
      for (let length = 0; length < sealed.length; length += 1) expect(provider.aeadOpen(key, nonce, sealed.subarray(0, length), additional)).toBeUndefined()
      expect(provider.aeadOpen(key, nonce, sealed, flip(additional, 0))).toBeUndefined()
      expect(provider.aeadOpen(key, nonce, sealed)).toBeUndefined()
      expect(provider.aeadOpen(flip(key, 31), nonce, sealed, additional)).toBeUndefined()
    }
  })
})

describe('batches', () => {
  /** The same batch twice: packets of many sizes, some of them already dropped. */
  function twins(seed: number): readonly [PacketBatch, PacketBatch] {
    return [0, 1].map(() => {
      const own = new SeededRandom(seed)
      const batch = PacketBatch.slab(24, 1_500)
      for (let i = 0; i < 24; i += 1) {
        const slot = batch.addCopy(own.bytes(own.pick([0, 16, 33, 1_420, own.below(1_480)])))
        if (own.chance(0.2)) batch.verdict[slot] = DROPPED
      }
      return batch
    }) as unknown as readonly [PacketBatch, PacketBatch]
  }

  const show = (batch: PacketBatch): unknown[] =>
    Array.from({ length: batch.count }, (_none, slot) => [batch.verdict[slot], batch.counterLow[slot], batch.counterHigh[slot], batch.verdict[slot] === DONE ? Buffer.from(batch.result(slot)).toString('hex') : ''])

  test('are sealed alike, byte for byte, counters over the 32-bit edge included, and only in the range that is asked for', () => {
    for (let seed = 1; seed <= 5; seed += 1) {
      const [a, b] = twins(seed)
      const key = some(32)
      for (const [from, to] of [[0, 10], [10, 24]] as const) {
        node.sealBatch(node.keySlot(key), 0xffff_fffcn, a, from, to)
        nobleProvider.sealBatch(nobleProvider.keySlot(key), 0xffff_fffcn, b, from, to)
        expect(show(a)).toEqual(show(b))
      }
    }
  })

  test('are opened alike, forged packets dropped by both without a byte of plaintext', () => {
    for (let seed = 1; seed <= 5; seed += 1) {
      const [a, b] = twins(seed)
      const key = some(32)
      const own = new SeededRandom(seed)
      const plain = show(a)
      for (const batch of [a, b]) {
        nobleProvider.sealBatch(nobleProvider.keySlot(key), 7n, batch)
        for (let slot = 0; slot < batch.count; slot += 1) {
          if (batch.verdict[slot] !== DONE) continue
          batch.offset[slot] = batch.target[slot] ?? 0
          batch.length[slot] = batch.targetLength[slot] ?? 0
          batch.verdict[slot] = 0
        }
      }
      const forged = Array.from({ length: a.count }, () => own.chance(0.3))
      for (const batch of [a, b]) forged.forEach((yes, slot) => yes && (batch.source(slot)[0] = (batch.source(slot)[0] ?? 0) ^ 1))
      const before = [...a.memory]
      node.openBatch(node.keySlot(key), a)
      nobleProvider.openBatch(nobleProvider.keySlot(key), b)
      expect(show(a)).toEqual(show(b))
      expect(plain.length).toBe(a.count)
      for (let slot = 0; slot < a.count; slot += 1) {
        if (a.verdict[slot] !== DROPPED) continue
        const at = a.offset[slot] ?? 0
        expect([...a.source(slot)]).toEqual(before.slice(at, at + (a.length[slot] ?? 0)))
      }
    }
  })

  test('a destroyed key, or one of another provider, seals and opens nothing', () => {
    const gone = node.keySlot(some(32))
    gone.destroy()
    for (const slot of [gone, nobleProvider.keySlot(some(32))]) {
      const [a, b] = twins(3)
      node.sealBatch(slot, 0n, a)
      node.openBatch(slot, b)
      for (const batch of [a, b]) expect([...batch.verdict.subarray(0, batch.count)].every((verdict) => verdict === DROPPED)).toBe(true)
    }
  })
})
