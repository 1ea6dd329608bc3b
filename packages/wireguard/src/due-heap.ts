/** Something with a deadline that a {@link DueHeap} keeps in order. The two fields belong to the heap. */
export interface Due {
  /** The deadline, `Infinity` for none. */
  readonly due: number
  heapIndex: number
  heapKey: number
}

/**
 * Who is due first, among many whose deadlines move all the time. A deadline that moves back is put right only when it comes to the
 * top, so a busy peer costs nothing here: its timers restart with every packet.
 */
export class DueHeap<T extends Due> {
  readonly #heap: T[] = []

  /** Tells the heap that the deadline of `item` may have changed. */
  update(item: T): void {
    const due = item.due
    if (item.heapIndex < 0) {
      if (due === Infinity) return
      item.heapKey = due
      item.heapIndex = this.#heap.length
      this.#heap.push(item)
      this.#up(item)
    } else if (due < item.heapKey) {
      item.heapKey = due
      this.#up(item)
    }
  }

  /** Takes `item` out. */
  remove(item: T): void {
    const at = item.heapIndex
    if (at < 0) return
    item.heapIndex = -1
    const last = this.#heap.pop()
    if (last === undefined || last === item) return
    this.#place(last, at)
    this.#up(last)
    this.#down(last)
  }

  /** The item that is due first, or `undefined` when none has a deadline. */
  first(): T | undefined {
    for (;;) {
      const top = this.#heap[0]
      if (top === undefined) return undefined
      const due = top.due
      if (due === top.heapKey) return top
      if (due === Infinity) {
        this.remove(top)
      } else {
        top.heapKey = due
        this.#down(top)
      }
    }
  }

  #place(item: T, at: number): void {
    this.#heap[at] = item
    item.heapIndex = at
  }

  #up(item: T): void {
    let at = item.heapIndex
    while (at > 0) {
      const above = (at - 1) >> 1
      const parent = this.#heap[above]
      if (parent === undefined || parent.heapKey <= item.heapKey) break
      this.#place(parent, at)
      at = above
    }
    this.#place(item, at)
  }

  #down(item: T): void {
    let at = item.heapIndex
    for (;;) {
      const left = this.#heap[2 * at + 1]
      const right = this.#heap[2 * at + 2]
      const least = right !== undefined && left !== undefined && right.heapKey < left.heapKey ? right : left
      if (least === undefined || least.heapKey >= item.heapKey) break
      const below = least.heapIndex
      this.#place(least, at)
      at = below
    }
    this.#place(item, at)
  }
}
