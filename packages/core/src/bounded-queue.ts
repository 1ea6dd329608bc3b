/** A first-in, first-out queue with an edge: what does not fit is refused, and the caller counts the drop. A ring, O(1). */
export class BoundedQueue<T> {
  readonly #ring: (T | undefined)[]
  #head = 0
  #size = 0
  /** The most items it holds. */
  readonly capacity: number

  /** @param capacity the most items it holds, a positive integer */
  constructor(capacity: number) {
    if (!Number.isInteger(capacity) || capacity < 1) throw new RangeError(`BoundedQueue: capacity must be a positive integer, not ${capacity}`)
    this.capacity = capacity
    this.#ring = []
  }

  /** How many items wait. */
  get size(): number {
    return this.#size
  }

  /** Adds an item behind all others; `false` (and nothing changed) when full. */
  offer(item: T): boolean {
    if (this.#size === this.capacity) return false
    this.#ring[(this.#head + this.#size) % this.capacity] = item
    this.#size += 1
    return true
  }

  /** Adds an item; when full the oldest makes room and is given back. */
  offerEvicting(item: T): T | undefined {
    const evicted = this.#size === this.capacity ? this.poll() : undefined
    this.offer(item)
    return evicted
  }

  /** Removes and gives the oldest item, or `undefined` when empty. */
  poll(): T | undefined {
    if (this.#size === 0) return undefined
    const item = this.#ring[this.#head]
    this.#ring[this.#head] = undefined
    this.#head = (this.#head + 1) % this.capacity
    this.#size -= 1
    return item
  }

  /** The oldest item without removing it. */
  peek(): T | undefined {
    return this.#size === 0 ? undefined : this.#ring[this.#head]
  }

  /** Forgets all items. */
  clear(): void {
    this.#ring.length = 0
    this.#head = 0
    this.#size = 0
  }
}
