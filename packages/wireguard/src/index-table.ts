import type { RandomSource } from '@meshwright/core'

/** Leads from a receiver's index of the wire to whatever it names. Indices are random, so that they tell nothing, and unique. */
export class IndexTable<Entry> {
  readonly #entries: Map<number, Entry> = new Map()
  readonly #random: RandomSource

  constructor(random: RandomSource) {
    this.#random = random
  }

  /** How many indices are in use. */
  get size(): number {
    return this.#entries.size
  }

  /** An index that is not in use: take it with {@link IndexTable.set} before asking for another. */
  fresh(): number {
    for (;;) {
      const bytes = this.#random(4)
      const index = new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true)
      if (!this.#entries.has(index)) return index
    }
  }

  get(index: number): Entry | undefined {
    return this.#entries.get(index)
  }

  set(index: number, entry: Entry): void {
    this.#entries.set(index, entry)
  }

  delete(index: number): void {
    this.#entries.delete(index)
  }

  clear(): void {
    this.#entries.clear()
  }
}
