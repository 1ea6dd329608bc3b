import { constantTimeEqual } from '../constant-time.ts'
import type { CryptoProvider } from '../provider.ts'

const EMPTY = new Uint8Array(0)
const ONE = Uint8Array.of(1)

/**
 * Chaining key, handshake hash and cipher key of a Noise handshake over BLAKE2s and ChaCha20-Poly1305 (Noise specification, revision 34,
 * section 5.2). Handshake nonces count up from zero since the last key.
 */
export class SymmetricState {
  readonly #provider: CryptoProvider
  #chainingKey: Uint8Array
  #hash: Uint8Array
  #key: Uint8Array | undefined
  #nonce = 0n

  /** @param protocolName ASCII; longer than 32 bytes it is hashed, else padded with zeros */
  constructor(provider: CryptoProvider, protocolName: Uint8Array) {
    this.#provider = provider
    if (protocolName.length <= 32) {
      this.#hash = new Uint8Array(32)
      this.#hash.set(protocolName)
    } else {
      this.#hash = provider.hash(protocolName)
    }
    this.#chainingKey = Uint8Array.from(this.#hash)
  }

  /** The handshake hash so far (a copy): binds a channel to its handshake once that is complete. */
  get hash(): Uint8Array {
    return Uint8Array.from(this.#hash)
  }

  /** The chaining key so far (a copy): secret. */
  get chainingKey(): Uint8Array {
    return Uint8Array.from(this.#chainingKey)
  }

  mixHash(data: Uint8Array): void {
    this.#hash = this.#provider.hash(this.#hash, data)
  }

  mixKey(input: Uint8Array): void {
    const [chainingKey, key] = this.#hkdf(input, 2)
    this.#chainingKey = chainingKey
    this.#setKey(key)
  }

  mixKeyAndHash(input: Uint8Array): void {
    const [chainingKey, hash, key] = this.#hkdf(input, 3)
    this.#chainingKey = chainingKey
    this.mixHash(hash)
    this.#setKey(key)
  }

  /** Seals under the current key with the hash as additional data (as it is, before any key), and mixes in what results. */
  encryptAndHash(plaintext: Uint8Array): Uint8Array {
    const sealed = this.#key === undefined ? Uint8Array.from(plaintext) : this.#provider.aeadSeal(this.#key, this.#nextNonce(), plaintext, this.#hash)
    this.mixHash(sealed)
    return sealed
  }

  /** Mirror of `encryptAndHash`; `undefined` when it is not authentic, and then the state must not be used again. */
  decryptAndHash(sealed: Uint8Array): Uint8Array | undefined {
    const plaintext = this.#key === undefined ? Uint8Array.from(sealed) : this.#provider.aeadOpen(this.#key, this.#nextNonce(), sealed, this.#hash)
    if (plaintext !== undefined) this.mixHash(sealed)
    return plaintext
  }

  /** The two transport keys: first initiator to responder, then back. The state is wiped. */
  split(): readonly [Uint8Array, Uint8Array] {
    const [first, second] = this.#hkdf(EMPTY, 2)
    this.destroy()
    return [first, second]
  }

  /** Overwrites the secrets. */
  destroy(): void {
    this.#chainingKey.fill(0)
    this.#key?.fill(0)
    this.#key = undefined
  }

  /** True when another state has the same hash: for tests. */
  sameHash(other: SymmetricState): boolean {
    return constantTimeEqual(this.#hash, other.#hash)
  }

  #setKey(key: Uint8Array): void {
    this.#key?.fill(0)
    this.#key = key
    this.#nonce = 0n
  }

  #nextNonce(): Uint8Array {
    const nonce = new Uint8Array(12)
    new DataView(nonce.buffer).setBigUint64(4, this.#nonce, true)
    this.#nonce += 1n
    return nonce
  }

  #hkdf(input: Uint8Array, count: 2): readonly [Uint8Array, Uint8Array]
  #hkdf(input: Uint8Array, count: 3): readonly [Uint8Array, Uint8Array, Uint8Array]
  #hkdf(input: Uint8Array, count: 2 | 3): readonly Uint8Array[] {
    const secret = this.#provider.hmac(this.#chainingKey, input)
    const first = this.#provider.hmac(secret, ONE)
    const second = this.#provider.hmac(secret, first, Uint8Array.of(2))
    const outputs = count === 2 ? [first, second] : [first, second, this.#provider.hmac(secret, second, Uint8Array.of(3))]
    secret.fill(0)
    return outputs
  }
}
