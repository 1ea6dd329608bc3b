import { DONE, DROPPED, type PacketBatch, PENDING } from '@meshwright/core'
import { chacha20poly1305, xchacha20poly1305 } from '@noble/ciphers/chacha.js'
import { x25519 } from '@noble/curves/ed25519.js'
import { blake2s } from '@noble/hashes/blake2.js'
import { hmac } from '@noble/hashes/hmac.js'
import { isAllZero } from './constant-time.ts'
import type { CryptoProvider, KeySlot } from './provider.ts'

const MAC_BYTES = 16
const TAG_BYTES = 16
const NONCE_BYTES = 12

/**
 * All primitives in plain JavaScript by the audited noble libraries (npm `@noble/curves`, `@noble/ciphers`, `@noble/hashes`): runs
 * everywhere, the reference for every other provider, and the default in floors 0 to 5.
 */
export const nobleProvider: CryptoProvider = {
  name: 'noble',

  publicKey(privateKey: Uint8Array): Uint8Array {
    return x25519.getPublicKey(privateKey)
  },

  sharedSecret(privateKey: Uint8Array, publicKey: Uint8Array): Uint8Array | undefined {
    try {
      const secret = x25519.getSharedSecret(privateKey, publicKey)
      return isAllZero(secret) ? undefined : secret
    } catch {
      return undefined // noble throws on low-order points and wrong lengths; both mean "no agreement"
    }
  },

  hash(...parts: readonly Uint8Array[]): Uint8Array {
    const state = blake2s.create({})
    for (const part of parts) state.update(part)
    return state.digest()
  },

  mac(key: Uint8Array, ...parts: readonly Uint8Array[]): Uint8Array {
    const state = blake2s.create({ key, dkLen: MAC_BYTES })
    for (const part of parts) state.update(part)
    return state.digest()
  },

  hmac(key: Uint8Array, ...parts: readonly Uint8Array[]): Uint8Array {
    const state = hmac.create(blake2s, key)
    for (const part of parts) state.update(part)
    return state.digest()
  },

  aeadSeal(key: Uint8Array, nonce: Uint8Array, plaintext: Uint8Array, additionalData?: Uint8Array): Uint8Array {
    return chacha20poly1305(key, nonce, additionalData).encrypt(plaintext)
  },

  aeadOpen(key: Uint8Array, nonce: Uint8Array, sealed: Uint8Array, additionalData?: Uint8Array): Uint8Array | undefined {
    return opened(() => chacha20poly1305(key, nonce, additionalData).decrypt(sealed))
  },

  xaeadSeal(key: Uint8Array, nonce: Uint8Array, plaintext: Uint8Array, additionalData?: Uint8Array): Uint8Array {
    return xchacha20poly1305(key, nonce, additionalData).encrypt(plaintext)
  },

  xaeadOpen(key: Uint8Array, nonce: Uint8Array, sealed: Uint8Array, additionalData?: Uint8Array): Uint8Array | undefined {
    return opened(() => xchacha20poly1305(key, nonce, additionalData).decrypt(sealed))
  },

  keySlot(key: Uint8Array): KeySlot {
    return new NobleKeySlot(key)
  },

  sealBatch(slot: KeySlot, firstCounter: bigint, batch: PacketBatch, from: number = 0, to: number = batch.count): void {
    const key = keyOf(slot)
    const nonce = new Uint8Array(NONCE_BYTES)
    const nonceView = new DataView(nonce.buffer)
    let counter = firstCounter
    for (let i = from; i < to; i += 1) {
      if (batch.verdict[i] !== PENDING) continue
      const target = batch.target[i] ?? 0
      const sealedBytes = (batch.length[i] ?? 0) + TAG_BYTES
      if (key === undefined || target + sealedBytes > batch.memory.length) {
        batch.verdict[i] = DROPPED
        continue
      }
      nonceView.setBigUint64(4, counter, true)
      batch.counterLow[i] = nonceView.getUint32(4, true)
      batch.counterHigh[i] = nonceView.getUint32(8, true)
      counter += 1n
      batch.memory.set(chacha20poly1305(key, nonce).encrypt(batch.source(i)), target)
      batch.targetLength[i] = sealedBytes
      batch.verdict[i] = DONE
    }
  },

  openBatch(slot: KeySlot, batch: PacketBatch, from: number = 0, to: number = batch.count): void {
    const key = keyOf(slot)
    const nonce = new Uint8Array(NONCE_BYTES)
    const nonceView = new DataView(nonce.buffer)
    for (let i = from; i < to; i += 1) {
      if (batch.verdict[i] !== PENDING) continue
      nonceView.setUint32(4, batch.counterLow[i] ?? 0, true)
      nonceView.setUint32(8, batch.counterHigh[i] ?? 0, true)
      const plaintext = key && opened(() => chacha20poly1305(key, nonce).decrypt(batch.source(i)))
      const target = batch.target[i] ?? 0
      if (plaintext === undefined || target + plaintext.length > batch.memory.length) {
        batch.verdict[i] = DROPPED
        continue
      }
      batch.memory.set(plaintext, target)
      batch.targetLength[i] = plaintext.length
      batch.verdict[i] = DONE
    }
  },
}

class NobleKeySlot implements KeySlot {
  #key: Uint8Array | undefined

  constructor(key: Uint8Array) {
    this.#key = Uint8Array.from(key)
  }

  get key(): Uint8Array | undefined {
    return this.#key
  }

  destroy(): void {
    this.#key?.fill(0)
    this.#key = undefined
  }
}

function keyOf(slot: KeySlot): Uint8Array | undefined {
  return slot instanceof NobleKeySlot ? slot.key : undefined
}

// noble throws when the tag is wrong or the input too short; to the protocols that is one answer: not authentic.
function opened(open: () => Uint8Array): Uint8Array | undefined {
  try {
    return open()
  } catch {
    return undefined
  }
}
