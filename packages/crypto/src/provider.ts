import type { PacketBatch } from '@meshwright/core'

/** A symmetric key that a provider has prepared for batches. Destroy it when its session ends; using it afterwards drops packets. */
export interface KeySlot {
  /** Overwrites what the provider keeps of the key. */
  destroy(): void
}

/**
 * The primitives that Meshwright's protocols need, from whoever is fastest at them. All of them answer broken input with `undefined`
 * or a verdict; none throws on bytes from the wire. Arrays that are given are never kept or changed, arrays that are returned belong
 * to the caller. Keys are 32 bytes, tags 16 bytes.
 */
export interface CryptoProvider {
  /** `noble`, `node`, `wasm`, `openssl-ffi`: shown in status and benchmarks. */
  readonly name: string
  /** X25519 public key of a private key (RFC 7748 section 6.1). */
  publicKey(privateKey: Uint8Array): Uint8Array
  /** X25519 of a private and a public key; `undefined` when the result is all zero (a low-order point). */
  sharedSecret(privateKey: Uint8Array, publicKey: Uint8Array): Uint8Array | undefined
  /** BLAKE2s-256 of the parts joined (RFC 7693), unkeyed, 32 bytes. */
  hash(...parts: readonly Uint8Array[]): Uint8Array
  /** Keyed BLAKE2s with 16 bytes of output; `key` is 1 to 32 bytes (RFC 7693). */
  mac(key: Uint8Array, ...parts: readonly Uint8Array[]): Uint8Array
  /** HMAC over BLAKE2s-256 (RFC 2104), 32 bytes. */
  hmac(key: Uint8Array, ...parts: readonly Uint8Array[]): Uint8Array
  /** ChaCha20-Poly1305 (RFC 8439) with a 12-byte nonce: ciphertext and tag. */
  aeadSeal(key: Uint8Array, nonce: Uint8Array, plaintext: Uint8Array, additionalData?: Uint8Array): Uint8Array
  /** The plaintext, or `undefined` when the tag is wrong. */
  aeadOpen(key: Uint8Array, nonce: Uint8Array, sealed: Uint8Array, additionalData?: Uint8Array): Uint8Array | undefined
  /** XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha) with a 24-byte nonce. */
  xaeadSeal(key: Uint8Array, nonce: Uint8Array, plaintext: Uint8Array, additionalData?: Uint8Array): Uint8Array
  xaeadOpen(key: Uint8Array, nonce: Uint8Array, sealed: Uint8Array, additionalData?: Uint8Array): Uint8Array | undefined
  /** Prepares a ChaCha20-Poly1305 key for batches. */
  keySlot(key: Uint8Array): KeySlot
  /**
   * Seals the `PENDING` slots `from..to` of a batch, no additional data. Slot i's plaintext is its source; ciphertext and tag
   * (`length + 16` bytes) go to its target. Message numbers count up from `firstCounter` over the pending slots, in slot order, and
   * are stored in `counterLow`/`counterHigh`; the nonce is 4 zero bytes and the number as u64 little-endian (WireGuard). Sets
   * `targetLength` and the verdict `DONE`.
   */
  sealBatch(slot: KeySlot, firstCounter: bigint, batch: PacketBatch, from?: number, to?: number): void
  /**
   * Opens the `PENDING` slots `from..to` whose message numbers stand in `counterLow`/`counterHigh`. Slot i's source is ciphertext and
   * tag; the plaintext (`length - 16` bytes) goes to its target. Verdict `DONE`, or `DROPPED` where the tag is wrong, and then no byte
   * of plaintext may be read from the target.
   */
  openBatch(slot: KeySlot, batch: PacketBatch, from?: number, to?: number): void
}
