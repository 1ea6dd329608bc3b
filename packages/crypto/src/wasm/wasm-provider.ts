import { DONE, DROPPED, HEADROOM_BYTES, PacketBatch, PENDING } from '@meshwright/core'
import { nobleProvider } from '../noble-provider.ts'
import type { CryptoProvider, KeySlot } from '../provider.ts'
import { type NativeCiphers, WasmCryptoError, type WasmExports, WasmInstance, WasmKey } from './instance.ts'
import { DIGEST, INPUT, INPUT_BYTES, MAX_STAGED_BYTES, STAGED, TABLE_ENTRIES, USER } from './layout.ts'
import { selfTest } from './self-test.ts'

const TAG_BYTES = 16
const KEY_BYTES = 32
const NONCE_BYTES = 12
const BLOCK_BYTES = 64
const DIGEST_BYTES = 32
const MAC_BYTES = 16
const MAX_PLAIN_BYTES: number = MAX_STAGED_BYTES - TAG_BYTES

/** A provider over an instance of the module; its batches are fastest where they lie in the instance's memory. */
export interface WasmProvider extends CryptoProvider {
  /**
   * A batch as `PacketBatch.slab` makes, in the instance's memory: no packet is copied on its way through the cipher. The memory is not
   * given back. @throws CRYPTO_WASM_MEMORY when there is not enough left
   */
  slab(capacity: number, slotBytes: number): PacketBatch
  /** The typed instance, for providers that share its memory. */
  readonly instance: WasmInstance
}

/** X25519 by whoever is fastest at it. */
export type KeyExchange = Pick<CryptoProvider, 'publicKey' | 'sharedSecret'>

/**
 * ChaCha20-Poly1305 and BLAKE2s by WebAssembly with SIMD; all else by `fallback`. Batches whose memory lies in the instance are worked
 * on where they are; other packets of up to 65 920 bytes are copied in and out, longer ones go to the fallback.
 * @param exports of an instance that the caller made from `wasmModuleBytes()`; it must serve nobody else
 * @param fallback X25519, XChaCha20-Poly1305 and the rest (default: noble)
 * @throws CRYPTO_WASM_INSTANCE, or CRYPTO_WASM_SELF_TEST when it does not give the known answers
 */
export function wasmProvider(exports: WasmExports, fallback: CryptoProvider = nobleProvider): WasmProvider {
  return tested(new InstanceProvider('wasm', new WasmInstance(exports), undefined, fallback, fallback))
}

/**
 * The same provider with native code on the same memory.
 * @param native packets of batches from its `fromBytes` on, as far as they fit into the staging area
 * @param exchange X25519 (default: the provider's)
 * @throws CRYPTO_WASM_SELF_TEST when they do not give the known answers
 */
export function wasmProviderWith(provider: WasmProvider, name: string, native: NativeCiphers, exchange: KeyExchange = provider): WasmProvider {
  return tested(new InstanceProvider(name, provider.instance, native, provider, exchange))
}

function tested(provider: WasmProvider): WasmProvider {
  const failed = selfTest(provider)
  if (failed !== undefined) throw new WasmCryptoError('CRYPTO_WASM_SELF_TEST', `the provider ${provider.name} gives wrong answers: ${failed}`)
  return provider
}

class InstanceProvider implements WasmProvider {
  readonly name: string
  readonly instance: WasmInstance
  readonly publicKey: CryptoProvider['publicKey']
  readonly sharedSecret: CryptoProvider['sharedSecret']
  readonly xaeadSeal: CryptoProvider['xaeadSeal']
  readonly xaeadOpen: CryptoProvider['xaeadOpen']
  readonly #native: NativeCiphers
  /** Native code takes packets from this length on. */
  readonly #nativeFrom: number
  readonly #fallback: CryptoProvider
  /** Slots of the packets that stand in the instance's table. */
  readonly #listed: Int32Array = new Int32Array(TABLE_ENTRIES)

  constructor(name: string, instance: WasmInstance, native: NativeCiphers | undefined, fallback: CryptoProvider, exchange: KeyExchange) {
    this.name = name
    this.instance = instance
    this.#native = native ?? { seal: instance.seal, open: instance.open, fromBytes: Infinity }
    this.#nativeFrom = native?.fromBytes ?? Infinity
    this.#fallback = fallback
    this.publicKey = (privateKey) => exchange.publicKey(privateKey)
    this.sharedSecret = (privateKey, publicKey) => exchange.sharedSecret(privateKey, publicKey)
    this.xaeadSeal = (key, nonce, plaintext, additionalData) => fallback.xaeadSeal(key, nonce, plaintext, additionalData)
    this.xaeadOpen = (key, nonce, sealed, additionalData) => fallback.xaeadOpen(key, nonce, sealed, additionalData)
  }

  slab(capacity: number, slotBytes: number): PacketBatch {
    return new PacketBatch(this.instance.allocate((HEADROOM_BYTES + slotBytes + HEADROOM_BYTES) * capacity), capacity)
  }

  hash(...parts: readonly Uint8Array[]): Uint8Array {
    const end = this.#gather(0, parts)
    return end === undefined ? this.#fallback.hash(...parts) : this.#digest(0, end, DIGEST_BYTES)
  }

  mac(key: Uint8Array, ...parts: readonly Uint8Array[]): Uint8Array {
    const end = key.length === 0 || key.length > DIGEST_BYTES ? undefined : this.#gather(BLOCK_BYTES, parts)
    if (end === undefined) return this.#fallback.mac(key, ...parts)
    this.#putKey(key, 0)
    return this.#digest(key.length, end, MAC_BYTES)
  }

  hmac(key: Uint8Array, ...parts: readonly Uint8Array[]): Uint8Array {
    const end = key.length > BLOCK_BYTES ? undefined : this.#gather(BLOCK_BYTES, parts)
    if (end === undefined) return this.#fallback.hmac(key, ...parts)
    this.#putKey(key, 0x36)
    const inner = this.#digest(0, end, DIGEST_BYTES)
    this.#putKey(key, 0x5c)
    this.instance.memory.set(inner, INPUT + BLOCK_BYTES)
    inner.fill(0)
    return this.#digest(0, BLOCK_BYTES + DIGEST_BYTES, DIGEST_BYTES)
  }

  aeadSeal(key: Uint8Array, nonce: Uint8Array, plaintext: Uint8Array, additionalData?: Uint8Array): Uint8Array {
    const additional = additionalData?.length ?? 0
    if (!this.#fits(key, nonce, plaintext.length, additional)) return this.#fallback.aeadSeal(key, nonce, plaintext, additionalData)
    const { instance } = this
    if (additionalData !== undefined) instance.memory.set(additionalData, INPUT)
    instance.memory.set(plaintext, STAGED)
    const once = new WasmKey(key)
    instance.load(once)
    this.#sealStaged(plaintext.length, word(nonce, 0), word(nonce, 4), word(nonce, 8), additional)
    instance.unload(once)
    once.words.fill(0)
    return instance.memory.slice(STAGED, STAGED + plaintext.length + TAG_BYTES)
  }

  aeadOpen(key: Uint8Array, nonce: Uint8Array, sealed: Uint8Array, additionalData?: Uint8Array): Uint8Array | undefined {
    const additional = additionalData?.length ?? 0
    const length = sealed.length - TAG_BYTES
    if (length < 0) return undefined
    if (!this.#fits(key, nonce, length, additional)) return this.#fallback.aeadOpen(key, nonce, sealed, additionalData)
    const { instance } = this
    if (additionalData !== undefined) instance.memory.set(additionalData, INPUT)
    instance.memory.set(sealed, STAGED)
    const once = new WasmKey(key)
    instance.load(once)
    const isAuthentic = this.#openStaged(length, word(nonce, 0), word(nonce, 4), word(nonce, 8), additional)
    instance.unload(once)
    once.words.fill(0)
    if (!isAuthentic) return undefined
    const plaintext = instance.memory.slice(STAGED, STAGED + length)
    instance.memory.fill(0, STAGED, STAGED + length)
    return plaintext
  }

  keySlot(key: Uint8Array): KeySlot {
    return new WasmKeySlot(this, this.#fallback, key)
  }

  sealBatch(slot: KeySlot, firstCounter: bigint, batch: PacketBatch, from: number = 0, to: number = batch.count): void {
    const key = this.#keyOf(slot)
    const base = this.#baseOf(batch)
    let low = Number(firstCounter & 0xffff_ffffn)
    let high = Number((firstCounter >> 32n) & 0xffff_ffffn)
    const { instance } = this
    const native = this.#native
    const nativeFrom = this.#nativeFrom
    if (key !== undefined) instance.load(key)
    let listed = 0
    for (let i = from; i < to; i += 1) {
      if (batch.verdict[i] !== PENDING) continue
      const length = batch.length[i] ?? 0
      const source = batch.offset[i] ?? 0
      const target = batch.target[i] ?? 0
      if (key === undefined || !isInside(batch, source, length) || !isInside(batch, target, length + TAG_BYTES)) {
        batch.verdict[i] = DROPPED
        continue
      }
      batch.counterLow[i] = low
      batch.counterHigh[i] = high
      if (base < 0) this.#sealForeign(slot, batch, i, source, target, length, low, high)
      else if (length >= nativeFrom && length <= MAX_PLAIN_BYTES) {
        if (listed > 0) instance.sealMany(listed) // slots are worked on in order: one's target may be another's source
        listed = 0
        native.seal(base + source, base + target, length, 0, low, high, 0)
      } else {
        instance.list(listed, base + source, base + target, length, low, high)
        listed += 1
        if (listed === TABLE_ENTRIES) {
          instance.sealMany(listed)
          listed = 0
        }
      }
      batch.targetLength[i] = length + TAG_BYTES
      batch.verdict[i] = DONE
      low = (low + 1) >>> 0
      if (low === 0) high = (high + 1) >>> 0
    }
    if (listed > 0) instance.sealMany(listed)
  }

  openBatch(slot: KeySlot, batch: PacketBatch, from: number = 0, to: number = batch.count): void {
    const key = this.#keyOf(slot)
    const base = this.#baseOf(batch)
    const { instance } = this
    const native = this.#native
    const nativeFrom = this.#nativeFrom
    if (key !== undefined) instance.load(key)
    let listed = 0
    for (let i = from; i < to; i += 1) {
      if (batch.verdict[i] !== PENDING) continue
      const length = (batch.length[i] ?? 0) - TAG_BYTES
      const source = batch.offset[i] ?? 0
      const target = batch.target[i] ?? 0
      if (key === undefined || length < 0 || !isInside(batch, source, length + TAG_BYTES) || !isInside(batch, target, length)) {
        batch.verdict[i] = DROPPED
        continue
      }
      const low = batch.counterLow[i] ?? 0
      const high = batch.counterHigh[i] ?? 0
      if (base >= 0 && !(length >= nativeFrom && length <= MAX_PLAIN_BYTES)) {
        instance.list(listed, base + source, base + target, length, low, high)
        this.#listed[listed] = i
        listed += 1
        if (listed === TABLE_ENTRIES) listed = this.#openListed(batch, listed)
        continue
      }
      if (listed > 0) listed = this.#openListed(batch, listed)
      const isAuthentic = base < 0 ? this.#openForeign(slot, batch, i, source, target, length, low, high) : native.open(base + source, base + target, length, 0, low, high, 0) === 1
      if (isAuthentic) batch.targetLength[i] = length
      batch.verdict[i] = isAuthentic ? DONE : DROPPED
    }
    if (listed > 0) this.#openListed(batch, listed)
  }

  /** Opens the packets of the table; none is left in it. */
  #openListed(batch: PacketBatch, count: number): 0 {
    const { instance } = this
    instance.openMany(count)
    for (let entry = 0; entry < count; entry += 1) {
      const i = this.#listed[entry] ?? 0
      const isAuthentic = instance.wasOpened(entry)
      if (isAuthentic) batch.targetLength[i] = (batch.length[i] ?? 0) - TAG_BYTES
      batch.verdict[i] = isAuthentic ? DONE : DROPPED
    }
    return 0
  }

  #sealStaged(length: number, n0: number, n1: number, n2: number, additional: number): void {
    const ciphers = length >= this.#nativeFrom && additional === 0 ? this.#native : this.instance
    ciphers.seal(STAGED, STAGED, length, n0, n1, n2, additional)
  }

  #openStaged(length: number, n0: number, n1: number, n2: number, additional: number): boolean {
    const ciphers = length >= this.#nativeFrom && additional === 0 ? this.#native : this.instance
    return ciphers.open(STAGED, STAGED, length, n0, n1, n2, additional) === 1
  }

  #sealForeign(slot: KeySlot, batch: PacketBatch, i: number, source: number, target: number, length: number, low: number, high: number): void {
    if (length + TAG_BYTES > MAX_STAGED_BYTES) {
      const key = slot instanceof WasmKeySlot ? slot.fallback : slot
      this.#fallback.sealBatch(key, (BigInt(high) << 32n) | BigInt(low), batch, i, i + 1)
      return
    }
    const { memory } = this.instance
    memory.set(batch.memory.subarray(source, source + length), STAGED)
    this.#sealStaged(length, 0, low, high, 0)
    batch.memory.set(memory.subarray(STAGED, STAGED + length + TAG_BYTES), target)
  }

  #openForeign(slot: KeySlot, batch: PacketBatch, i: number, source: number, target: number, length: number, low: number, high: number): boolean {
    if (length + TAG_BYTES > MAX_STAGED_BYTES) {
      const key = slot instanceof WasmKeySlot ? slot.fallback : slot
      this.#fallback.openBatch(key, batch, i, i + 1)
      return batch.verdict[i] === DONE
    }
    const { memory } = this.instance
    memory.set(batch.memory.subarray(source, source + length + TAG_BYTES), STAGED)
    if (!this.#openStaged(length, 0, low, high, 0)) return false
    batch.memory.set(memory.subarray(STAGED, STAGED + length), target)
    return true
  }

  #keyOf(slot: KeySlot): WasmKey | undefined {
    return slot instanceof WasmKeySlot && slot.owner === this ? slot.key : undefined
  }

  /** Where a batch's memory begins in the instance's; -1 where it is other memory. The slack at the end must not belong to it. */
  #baseOf(batch: PacketBatch): number {
    const { memory } = batch
    return memory.buffer === this.instance.memory.buffer && memory.byteOffset >= USER && memory.byteOffset + memory.length <= this.instance.end ? memory.byteOffset : -1
  }

  #fits(key: Uint8Array, nonce: Uint8Array, length: number, additional: number): boolean {
    return key.length === KEY_BYTES && nonce.length === NONCE_BYTES && length + TAG_BYTES <= MAX_STAGED_BYTES && additional + TAG_BYTES <= INPUT_BYTES
  }

  /** Lays parts one behind the other from `INPUT + at`; gives where they end, or `undefined` when there is not enough room. */
  #gather(at: number, parts: readonly Uint8Array[]): number | undefined {
    let end = at
    for (const part of parts) end += part.length
    if (end + BLOCK_BYTES > INPUT_BYTES) return undefined
    const { memory } = this.instance
    let to = INPUT + at
    for (const part of parts) {
      memory.set(part, to)
      to += part.length
    }
    return end
  }

  #putKey(key: Uint8Array, pad: number): void {
    const { memory } = this.instance
    for (let i = 0; i < BLOCK_BYTES; i += 1) memory[INPUT + i] = (key[i] ?? 0) ^ pad
  }

  #digest(keyBytes: number, length: number, digestBytes: number): Uint8Array {
    const { instance } = this
    const { memory } = instance
    memory.fill(0, INPUT + length, INPUT + length + BLOCK_BYTES)
    instance.blake2s(0x0101_0000 | (keyBytes << 8) | digestBytes, length)
    const digest = memory.slice(DIGEST, DIGEST + digestBytes)
    memory.fill(0, DIGEST, INPUT + length)
    return digest
  }
}

class WasmKeySlot implements KeySlot {
  readonly owner: InstanceProvider
  readonly fallback: KeySlot
  #key: WasmKey | undefined

  constructor(owner: InstanceProvider, fallback: CryptoProvider, key: Uint8Array) {
    this.owner = owner
    this.fallback = fallback.keySlot(key)
    this.#key = new WasmKey(key)
  }

  get key(): WasmKey | undefined {
    return this.#key
  }

  destroy(): void {
    if (this.#key !== undefined) {
      this.owner.instance.unload(this.#key)
      this.#key.words.fill(0)
    }
    this.#key = undefined
    this.fallback.destroy()
  }
}

function isInside(batch: PacketBatch, offset: number, length: number): boolean {
  return offset >= 0 && length >= 0 && offset + length <= batch.memory.length
}

function word(bytes: Uint8Array, at: number): number {
  return (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8) | ((bytes[at + 2] ?? 0) << 16) | ((bytes[at + 3] ?? 0) << 24)
}
