/** A set of small whole numbers (slots of nodes), as one bit each. Its room is fixed when it is made. */
export class BitSet {
  readonly #words: Uint32Array

  /** An empty set with room for the numbers 0 to `room - 1`. */
  constructor(room: number) {
    this.#words = new Uint32Array((room + 31) >>> 5)
  }

  /** Takes a number up; one beyond the room is ignored. */
  add(slot: number): void {
    const word = slot >>> 5
    if (word < this.#words.length) this.#words[word] = (this.#words[word] ?? 0) | (1 << (slot & 31))
  }

  /** Lets a number go. */
  delete(slot: number): void {
    const word = slot >>> 5
    if (word < this.#words.length) this.#words[word] = (this.#words[word] ?? 0) & ~(1 << (slot & 31))
  }

  has(slot: number): boolean {
    return ((this.#words[slot >>> 5] ?? 0) & (1 << (slot & 31))) !== 0
  }

  /** 32 numbers as bits: `32 * i` to `32 * i + 31`. */
  word(i: number): number {
    return this.#words[i] ?? 0
  }

  /** Takes up all of another set. */
  or(other: BitSet): void {
    const theirs = other.#words
    const length = Math.min(theirs.length, this.#words.length)
    for (let i = 0; i < length; i += 1) this.#words[i] = (this.#words[i] ?? 0) | (theirs[i] ?? 0)
  }

  /** Keeps only what another set has too. */
  and(other: BitSet): void {
    for (let i = 0; i < this.#words.length; i += 1) this.#words[i] = (this.#words[i] ?? 0) & (other.#words[i] ?? 0)
  }

  /** The numbers that only one of both has. */
  difference(other: BitSet): number[] {
    const found: number[] = []
    if (this === other) return found
    const length = Math.max(this.#words.length, other.#words.length)
    for (let i = 0; i < length; i += 1) addBits(found, i, (this.#words[i] ?? 0) ^ (other.#words[i] ?? 0))
    return found
  }

  /** This set where it has the number, or has it not, as asked; otherwise a copy that does. @param room of the copy */
  with(slot: number, has: boolean, room: number): BitSet {
    if (this.has(slot) === has) return this
    const copy = this.clone(room)
    if (has) copy.add(slot)
    else copy.delete(slot)
    return copy
  }

  /** A copy, with more room where that is given. */
  clone(room: number = this.#words.length << 5): BitSet {
    const copy = new BitSet(Math.max(room, this.#words.length << 5))
    copy.#words.set(this.#words)
    return copy
  }

  get isEmpty(): boolean {
    return this.#words.every((word) => word === 0)
  }

  /** True when both have some number. */
  intersects(other: BitSet): boolean {
    const theirs = other.#words
    return this.#words.some((word, i) => (word & (theirs[i] ?? 0)) !== 0)
  }

  equals(other: BitSet): boolean {
    const length = Math.max(this.#words.length, other.#words.length)
    for (let i = 0; i < length; i += 1) if ((this.#words[i] ?? 0) !== (other.#words[i] ?? 0)) return false
    return true
  }

  /** True when all numbers pass; asks no more once one does not. */
  every(passes: (slot: number) => boolean): boolean {
    for (let i = 0; i < this.#words.length; i += 1) {
      for (let word = this.#words[i] ?? 0; word !== 0; word &= word - 1) if (!passes((i << 5) + 31 - Math.clz32(word & -word))) return false
    }
    return true
  }

  /** The numbers in rising order. */
  slots(): number[] {
    const found: number[] = []
    for (let i = 0; i < this.#words.length; i += 1) addBits(found, i, this.#words[i] ?? 0)
    return found
  }
}

/** Takes up the numbers of one word. */
function addBits(found: number[], i: number, word: number): void {
  for (let rest = word; rest !== 0; ) {
    const lowest = rest & -rest
    found.push((i << 5) + 31 - Math.clz32(lowest))
    rest ^= lowest
  }
}
