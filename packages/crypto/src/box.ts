import { hsalsa, xsalsa20poly1305 } from '@noble/ciphers/salsa.js'
import { nobleProvider } from './noble-provider.ts'
import type { CryptoProvider } from './provider.ts'

/** Length of a box nonce, in bytes. */
export const BOX_NONCE_BYTES = 24
/** What a box adds to its plaintext: the Poly1305 tag, in front of the ciphertext. */
export const BOX_OVERHEAD_BYTES = 16

const SIGMA = Uint8Array.from('expand 32-byte k', (character) => character.charCodeAt(0))

/**
 * The symmetric key that two key pairs share in NaCl's `crypto_box` (X25519, then HSalsa20 with a zero input; Bernstein, "Cryptography
 * in NaCl", section 5). Both sides compute the same 32 bytes; keep them while the pair lives. `undefined` for a low-order public key.
 */
export function boxSharedKey(privateKey: Uint8Array, publicKey: Uint8Array, provider: CryptoProvider = nobleProvider): Uint8Array | undefined {
  const secret = provider.sharedSecret(privateKey, publicKey)
  if (secret === undefined) return undefined
  const words = new Uint32Array(8)
  hsalsa(littleEndianWords(SIGMA), littleEndianWords(secret), new Uint32Array(4), words)
  secret.fill(0)
  const key = new Uint8Array(32)
  const view = new DataView(key.buffer)
  words.forEach((word, i) => view.setUint32(i * 4, word, true))
  words.fill(0)
  return key
}

/** Seals a box: tag (16) and ciphertext, under a shared key of {@link boxSharedKey} and a 24-byte nonce that is never used twice. */
export function sealBox(sharedKey: Uint8Array, nonce: Uint8Array, plaintext: Uint8Array): Uint8Array {
  return xsalsa20poly1305(sharedKey, nonce).encrypt(plaintext)
}

/** The plaintext of a box; `undefined` when it is forged, cut or for another key. */
export function openBox(sharedKey: Uint8Array, nonce: Uint8Array, sealed: Uint8Array): Uint8Array | undefined {
  if (sealed.length < BOX_OVERHEAD_BYTES || nonce.length !== BOX_NONCE_BYTES) return undefined
  try {
    return xsalsa20poly1305(sharedKey, nonce).decrypt(sealed)
  } catch {
    return undefined // noble throws on a wrong tag
  }
}

function littleEndianWords(bytes: Uint8Array): Uint32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  return Uint32Array.from({ length: bytes.length / 4 }, (_, i) => view.getUint32(i * 4, true))
}
