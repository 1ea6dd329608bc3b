/**
 * The queue of effects that a machine owes: first in, first out, amortised O(1). It has no bound of its own, because a machine pushes
 * a bounded number of effects for each input and is drained after each; what outlives a drain belongs in a `BoundedQueue`.
 */
export class Outbox<T> {
  #items: (T | undefined)[] = []
  #head = 0

  /** How many effects wait. */
  get size(): number {
    return this.#items.length - this.#head
  }

  /** Adds an effect behind all others. */
  push(item: T): void {
    this.#items.push(item)
  }

  /** Removes and gives the oldest effect, or `undefined` when there is none. */
  poll(): T | undefined {
    if (this.#head === this.#items.length) return undefined
    const item = this.#items[this.#head]
    this.#items[this.#head] = undefined
    this.#head += 1
    if (this.#head === this.#items.length) {
      this.#items.length = 0
      this.#head = 0
    }
    return item
  }

  /** Forgets every effect still owed. */
  clear(): void {
    this.#items = []
    this.#head = 0
  }
}
