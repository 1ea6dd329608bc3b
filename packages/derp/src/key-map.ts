import { equalBytes, type RandomSource } from '@meshwright/core'

interface Entry<T> {
  readonly key: Uint8Array
  value: T
  next: Entry<T> | undefined
}

/**
 * A map from 32-byte keys that makes no string for a look-up. Strangers choose the keys, so the hash is salted: they cannot aim at one
 * bucket.
 */
export class KeyMap<T> {
  readonly #buckets: Map<number, Entry<T>> = new Map()
  readonly #salt: Int32Array
  #size = 0

  /** @param random gives the salt, 36 bytes */
  constructor(random: RandomSource) {
    const bytes = random(36)
    const view = new DataView(bytes.buffer, bytes.byteOffset)
    this.#salt = Int32Array.from({ length: 9 }, (_, i) => view.getInt32(i * 4) | 1)
  }

  /** How many keys it holds. */
  get size(): number {
    return this.#size
  }

  get(key: Uint8Array): T | undefined {
    let entry = this.#buckets.get(this.#hash(key))
    while (entry !== undefined && !equalBytes(entry.key, key)) entry = entry.next
    return entry?.value
  }

  /** Sets the value of a key; the key's bytes are copied when it is new. */
  set(key: Uint8Array, value: T): void {
    const hash = this.#hash(key)
    const first = this.#buckets.get(hash)
    let entry = first
    while (entry !== undefined && !equalBytes(entry.key, key)) entry = entry.next
    if (entry !== undefined) {
      entry.value = value
      return
    }
    this.#buckets.set(hash, { key: Uint8Array.from(key), value, next: first })
    this.#size += 1
  }

  /** Forgets a key; `true` when it was there. */
  delete(key: Uint8Array): boolean {
    const hash = this.#hash(key)
    let previous: Entry<T> | undefined
    let entry = this.#buckets.get(hash)
    while (entry !== undefined && !equalBytes(entry.key, key)) {
      previous = entry
      entry = entry.next
    }
    if (entry === undefined) return false
    if (previous !== undefined) previous.next = entry.next
    else if (entry.next !== undefined) this.#buckets.set(hash, entry.next)
    else this.#buckets.delete(hash)
    this.#size -= 1
    return true
  }

  /** All values, in no particular order. */
  *values(): IterableIterator<T> {
    for (const first of this.#buckets.values()) {
      for (let entry: Entry<T> | undefined = first; entry !== undefined; entry = entry.next) yield entry.value
    }
  }

  clear(): void {
    this.#buckets.clear()
    this.#size = 0
  }

  #hash(key: Uint8Array): number {
    const salt = this.#salt
    let hash = salt[8] ?? 0
    for (let word = 0; word < 8; word += 1) {
      const at = word * 4
      const bits = (key[at] ?? 0) | ((key[at + 1] ?? 0) << 8) | ((key[at + 2] ?? 0) << 16) | ((key[at + 3] ?? 0) << 24)
      hash = Math.imul(hash ^ bits, salt[word] ?? 1)
      hash ^= hash >>> 15
    }
    return hash
  }
}
