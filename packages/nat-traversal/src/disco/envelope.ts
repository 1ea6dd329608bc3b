import { ByteReader, ByteWriter, equalBytes, type RandomSource } from '@meshwright/core'
import { BOX_NONCE_BYTES, boxSharedKey, type CryptoProvider, DiscoPublicKey, KEY_BYTES, openBox, sealBox, type DiscoPrivateKey } from '@meshwright/crypto'

const MAGIC = Uint8Array.of(0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac) // "TS" and a speech balloon
const HEADER_BYTES = MAGIC.length + KEY_BYTES + BOX_NONCE_BYTES
const DEFAULT_CACHED_KEYS = 4096

/** What a {@link DiscoBox} is made of. */
export interface DiscoBoxConfig {
  /** Our disco key pair; it stays the caller's and must not be destroyed while the box is in use. */
  readonly privateKey: DiscoPrivateKey
  /** Nonces: fresh and unpredictable. */
  readonly random: RandomSource
  /** Who computes X25519; default: noble. */
  readonly provider?: CryptoProvider
  /** The most shared keys kept, 32 bytes each (default 4096); the one longest unused makes room. */
  readonly cachedKeys?: number
}

/** Whose disco key an envelope names: look it up before any cryptography. `undefined` when the bytes are no disco envelope. */
export function discoSender(bytes: Uint8Array): DiscoPublicKey | undefined {
  if (bytes.length < HEADER_BYTES || !equalBytes(bytes.subarray(0, MAGIC.length), MAGIC)) return undefined
  return DiscoPublicKey.fromBytes(bytes.subarray(MAGIC.length, MAGIC.length + KEY_BYTES))
}

/**
 * Seals and opens disco envelopes for one disco key pair, with a bounded store of shared keys (X25519 costs a thousand times what a
 * box costs).
 *
 * | offset | size | field (tailscale/tailscale:disco/disco.go) |
 * |---|---|---|
 * | 0 | 6 | magic 54 53 f0 9f 92 ac |
 * | 6 | 32 | sender's disco public key |
 * | 38 | 24 | nonce |
 * | 62 | 16 | tag of the NaCl box between the two disco keys |
 * | 78 | ... | ciphertext of the message: type, version, body |
 */
export class DiscoBox {
  readonly #privateKey: DiscoPrivateKey
  readonly #random: RandomSource
  readonly #provider: CryptoProvider | undefined
  readonly #cachedKeys: number
  /** By the peer's key text; insertion order is order of use. */
  readonly #sharedKeys: Map<string, Uint8Array> = new Map()
  /** Our own disco key, as it stands in what we seal. */
  readonly publicKey: DiscoPublicKey

  constructor(config: DiscoBoxConfig) {
    this.#privateKey = config.privateKey
    this.#random = config.random
    this.#provider = config.provider
    this.#cachedKeys = Math.max(1, config.cachedKeys ?? DEFAULT_CACHED_KEYS)
    this.publicKey = config.privateKey.publicKey()
  }

  /** How many shared keys are kept now. */
  get size(): number {
    return this.#sharedKeys.size
  }

  /** An envelope with `plaintext` for a peer; `undefined` when the peer's key is a low-order point, with which nothing can be shared. */
  seal(to: DiscoPublicKey, plaintext: Uint8Array): Uint8Array | undefined {
    const sharedKey = this.#sharedKey(to)
    if (sharedKey === undefined) return undefined
    const nonce = this.#random(BOX_NONCE_BYTES)
    const sealed = sealBox(sharedKey, nonce, plaintext)
    return new ByteWriter(HEADER_BYTES + sealed.length).bytes(MAGIC).bytes(this.publicKey.bytes).bytes(nonce).bytes(sealed).finish()
  }

  /** The plaintext of an envelope from `sender` (who must be known: see {@link discoSender}); `undefined` when it does not open. */
  open(sender: DiscoPublicKey, bytes: Uint8Array): Uint8Array | undefined {
    const r = new ByteReader(bytes)
    const magic = r.bytes(MAGIC.length)
    const key = r.bytes(KEY_BYTES)
    const nonce = r.bytes(BOX_NONCE_BYTES)
    const sealed = r.rest()
    if (!r.ok || !equalBytes(magic, MAGIC) || !equalBytes(key, sender.bytes)) return undefined
    const sharedKey = this.#sharedKey(sender)
    return sharedKey && openBox(sharedKey, nonce, sealed)
  }

  /** Overwrites and forgets the key shared with a peer. */
  forget(peer: DiscoPublicKey): void {
    this.#sharedKeys.get(peer.text)?.fill(0)
    this.#sharedKeys.delete(peer.text)
  }

  /** Overwrites and forgets all shared keys. */
  clear(): void {
    for (const key of this.#sharedKeys.values()) key.fill(0)
    this.#sharedKeys.clear()
  }

  #sharedKey(peer: DiscoPublicKey): Uint8Array | undefined {
    const cached = this.#sharedKeys.get(peer.text)
    if (cached !== undefined) {
      this.#sharedKeys.delete(peer.text)
      this.#sharedKeys.set(peer.text, cached)
      return cached
    }
    const key = boxSharedKey(this.#privateKey.secretBytes, peer.bytes, this.#provider)
    if (key === undefined) return undefined
    if (this.#sharedKeys.size >= this.#cachedKeys) {
      const [oldest] = this.#sharedKeys
      if (oldest !== undefined) {
        oldest[1].fill(0)
        this.#sharedKeys.delete(oldest[0])
      }
    }
    this.#sharedKeys.set(peer.text, key)
    return key
  }
}
