/** Layers are joined when the upper one has grown to one in so many of the lower. */
const JOIN_SHARE = 4
const JOIN_SIZE = 32

/**
 * A map with successors that share most of it: what was written since lies in a layer of its own, so that {@link branch} copies little.
 * Writing to a successor changes nothing in the map that it comes from.
 */
export class LayeredMap<K, V> {
  readonly #base: ReadonlyMap<K, V>
  /** `undefined`: taken out. */
  readonly #top: Map<K, V | undefined>

  /** @param base never changed from here on */
  constructor(base: ReadonlyMap<K, V> = new Map(), top: Map<K, V | undefined> = new Map()) {
    this.#base = base
    this.#top = top
  }

  get(key: K): V | undefined {
    const written = this.#top.get(key)
    return written === undefined && !this.#top.has(key) ? this.#base.get(key) : written
  }

  set(key: K, value: V): void {
    this.#top.set(key, value)
  }

  delete(key: K): void {
    if (this.#base.has(key)) this.#top.set(key, undefined)
    else this.#top.delete(key)
  }

  /** Another map that holds the same, to be changed. */
  branch(): LayeredMap<K, V> {
    if (this.#top.size <= JOIN_SIZE || this.#top.size * JOIN_SHARE <= this.#base.size) return new LayeredMap(this.#base, new Map(this.#top))
    const joined = new Map<K, V>()
    this.forEach((value, key) => joined.set(key, value))
    return new LayeredMap(joined)
  }

  /** Looks at every entry, in no order. */
  forEach(look: (value: V, key: K) => void): void {
    this.#base.forEach((value, key) => {
      if (this.#top.size === 0 || !this.#top.has(key)) look(value, key)
    })
    this.#top.forEach((value, key) => {
      if (value !== undefined) look(value, key)
    })
  }
}
