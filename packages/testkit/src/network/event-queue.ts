import type { Instant } from '@meshwright/core'

interface Event {
  readonly at: Instant
  readonly order: number
  readonly run: (now: Instant) => void
}

/** What happens later, in order of time and, at one instant, of being scheduled: a binary heap. */
export class EventQueue {
  readonly #heap: Event[] = []
  #order = 0

  get size(): number {
    return this.#heap.length
  }

  /** When the next event is due. */
  get due(): Instant | undefined {
    return this.#heap[0]?.at
  }

  schedule(at: Instant, run: (now: Instant) => void): void {
    const heap = this.#heap
    const event: Event = { at, order: this.#order++, run }
    let i = heap.length
    heap.push(event)
    while (i > 0) {
      const parent = (i - 1) >> 1
      const above = heap[parent]
      if (above === undefined || !before(event, above)) break
      heap[i] = above
      i = parent
    }
    heap[i] = event
  }

  /** Removes and gives the next event that is due by now. */
  take(now: Instant): ((now: Instant) => void) | undefined {
    const first = this.#heap[0]
    if (first === undefined || first.at > now) return undefined
    const last = this.#heap.pop()
    if (last !== undefined && last !== first) this.#sink(last)
    return first.run
  }

  #sink(event: Event): void {
    const heap = this.#heap
    let i = 0
    for (;;) {
      let child = 2 * i + 1
      const left = heap[child]
      const right = heap[child + 1]
      if (left === undefined) break
      let smaller = left
      if (right !== undefined && before(right, left)) {
        child += 1
        smaller = right
      }
      if (!before(smaller, event)) break
      heap[i] = smaller
      i = child
    }
    heap[i] = event
  }
}

function before(a: Event, b: Event): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order)
}
