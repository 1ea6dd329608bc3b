import { type Instant, instant } from '@meshwright/core'

/** Something with a deadline, as the heap keeps it: it owns the two fields. */
export interface Scheduled {
  heapIndex: number
  heapDue: number
}

/** Deadlines of many things, the earliest first: O(log n) to set, change or clear one. */
export class DeadlineHeap<T extends Scheduled> {
  readonly #items: T[] = []

  get size(): number {
    return this.#items.length
  }

  /** The thing that is due first. */
  peek(): T | undefined {
    return this.#items[0]
  }

  /** When the first is due. */
  get due(): Instant | undefined {
    const first = this.#items[0]
    return first === undefined ? undefined : instant(first.heapDue)
  }

  /** Sets, moves or (with `undefined`) clears the deadline of an item. New items have `heapIndex` -1. */
  set(item: T, due: Instant | undefined): void {
    const at = item.heapIndex
    if (due === undefined) {
      if (at < 0) return
      item.heapIndex = -1
      const last = this.#items.pop()
      if (last === undefined || last === item) return
      this.#place(last, at)
      this.#settle(last)
      return
    }
    if (at >= 0 && item.heapDue === due) return
    item.heapDue = due
    if (at < 0) {
      this.#items.push(item)
      item.heapIndex = this.#items.length - 1
    }
    this.#settle(item)
  }

  #settle(item: T): void {
    let at = item.heapIndex
    while (at > 0) {
      const up = (at - 1) >> 1
      const parent = this.#items[up]
      if (parent === undefined || parent.heapDue <= item.heapDue) break
      this.#place(parent, at)
      at = up
    }
    for (;;) {
      const left = this.#items[at * 2 + 1]
      const right = this.#items[at * 2 + 2]
      const child = right !== undefined && left !== undefined && right.heapDue < left.heapDue ? right : left
      if (child === undefined || child === item || child.heapDue >= item.heapDue) break
      const down = child.heapIndex
      this.#place(child, at)
      at = down
    }
    this.#place(item, at)
  }

  #place(item: T, at: number): void {
    this.#items[at] = item
    item.heapIndex = at
  }
}
