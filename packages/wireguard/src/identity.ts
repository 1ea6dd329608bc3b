import { utf8Encode } from '@meshwright/core'
import { type CryptoProvider, NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import { CONSTRUCTION, IDENTIFIER, LABEL_COOKIE, LABEL_MAC1 } from './constants.ts'

/** The device's own static key with everything that is derived from it once. */
export class Identity {
  readonly publicKey: NodePublicKey
  /** Key of the mac1 that messages to us must carry. */
  readonly mac1Key: Uint8Array
  /** Key that seals the cookies we hand out. */
  readonly cookieKey: Uint8Array
  readonly #private: NodePrivateKey

  constructor(provider: CryptoProvider, privateKey: NodePrivateKey) {
    const copy = NodePrivateKey.fromBytes(privateKey.secretBytes)
    const publicKey = NodePublicKey.fromBytes(provider.publicKey(privateKey.secretBytes))
    if (copy === undefined || publicKey === undefined) throw new TypeError('a key of 32 bytes was expected')
    this.#private = copy
    this.publicKey = publicKey
    this.mac1Key = mac1KeyOf(provider, publicKey.bytes)
    this.cookieKey = cookieKeyOf(provider, publicKey.bytes)
  }

  /** X25519 with our static key; `undefined` when the result is all zero. */
  sharedSecret(provider: CryptoProvider, publicKey: Uint8Array): Uint8Array | undefined {
    return provider.sharedSecret(this.#private.secretBytes, publicKey)
  }

  /** True when `key` is this device's private key. */
  holds(key: NodePrivateKey): boolean {
    return this.#private.equals(key)
  }

  /** Overwrites our copy of the private key. */
  destroy(): void {
    this.#private.destroy()
    this.mac1Key.fill(0)
    this.cookieKey.fill(0)
  }
}

/** Key of mac1 in messages to the owner of `publicKey`. */
export function mac1KeyOf(provider: CryptoProvider, publicKey: Uint8Array): Uint8Array {
  return provider.hash(utf8Encode(LABEL_MAC1), publicKey)
}

/** Key of the cookies that the owner of `publicKey` hands out. */
export function cookieKeyOf(provider: CryptoProvider, publicKey: Uint8Array): Uint8Array {
  return provider.hash(utf8Encode(LABEL_COOKIE), publicKey)
}

/** The chaining key and the hash that every handshake starts from, before the responder's key is mixed in. */
export function initialTranscript(provider: CryptoProvider): { readonly chainingKey: Uint8Array; readonly hash: Uint8Array } {
  const chainingKey = provider.hash(utf8Encode(CONSTRUCTION))
  return { chainingKey, hash: provider.hash(chainingKey, utf8Encode(IDENTIFIER)) }
}
