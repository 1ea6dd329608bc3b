import { chacha20poly1305, xchacha20poly1305 } from '@noble/ciphers/chacha.js'
import { x25519 } from '@noble/curves/ed25519.js'
import { blake2s } from '@noble/hashes/blake2.js'
import { hmac } from '@noble/hashes/hmac.js'
import { isAllZero } from './constant-time.ts'
import { type OnePacket, packetwise } from './packetwise.ts'
import type { CryptoProvider } from './provider.ts'

const MAC_BYTES = 16

const single: OnePacket = {
  aeadSeal(key: Uint8Array, nonce: Uint8Array, plaintext: Uint8Array, additionalData?: Uint8Array): Uint8Array {
    return chacha20poly1305(key, nonce, additionalData).encrypt(plaintext)
  },

  aeadOpen(key: Uint8Array, nonce: Uint8Array, sealed: Uint8Array, additionalData?: Uint8Array): Uint8Array | undefined {
    return opened(() => chacha20poly1305(key, nonce, additionalData).decrypt(sealed))
  },
}

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

  ...single,

  xaeadSeal(key: Uint8Array, nonce: Uint8Array, plaintext: Uint8Array, additionalData?: Uint8Array): Uint8Array {
    return xchacha20poly1305(key, nonce, additionalData).encrypt(plaintext)
  },

  xaeadOpen(key: Uint8Array, nonce: Uint8Array, sealed: Uint8Array, additionalData?: Uint8Array): Uint8Array | undefined {
    return opened(() => xchacha20poly1305(key, nonce, additionalData).decrypt(sealed))
  },

  ...packetwise(single),
}

// noble throws when the tag is wrong or the input too short; to the protocols that is one answer: not authentic.
function opened(open: () => Uint8Array): Uint8Array | undefined {
  try {
    return open()
  } catch {
    return undefined
  }
}
