const SMALLEST_RING_BYTES = 4096
/** An empty ring above this size is given back, so that idle connections cost little. */
const KEPT_RING_BYTES = 65_536

/**
 * Bytes written and not yet acknowledged, in a ring that doubles as needed. Positions are absolute (the connection's stream offset,
 * never wrapped), so retransmissions read any part without a search.
 */
export class SendBuffer {
  #ring: Uint8Array = new Uint8Array(0)
  /** Position of the oldest byte kept. */
  #head: number
  /** Position behind the newest byte. */
  #tail: number

  /** @param start position of the first byte ever written */
  constructor(start: number) {
    this.#head = start
    this.#tail = start
  }

  /** Position behind the newest byte. */
  get tail(): number {
    return this.#tail
  }

  /** How many bytes are kept. */
  get size(): number {
    return this.#tail - this.#head
  }

  /** Copies bytes behind all others. The caller keeps the total within its bound. */
  append(bytes: Uint8Array): void {
    const needed = this.size + bytes.length
    if (needed > this.#ring.length) this.#grow(needed)
    const mask = this.#ring.length - 1
    const at = this.#tail & mask
    const first = Math.min(bytes.length, this.#ring.length - at)
    this.#ring.set(first === bytes.length ? bytes : bytes.subarray(0, first), at)
    if (first < bytes.length) this.#ring.set(bytes.subarray(first), 0)
    this.#tail += bytes.length
  }

  /** Copies `[start, end)` to `target[at ...]`; the range must be kept. */
  copyTo(start: number, end: number, target: Uint8Array, at: number): void {
    const length = end - start
    if (length <= 0) return
    const from = start & (this.#ring.length - 1)
    const first = Math.min(length, this.#ring.length - from)
    target.set(this.#ring.subarray(from, from + first), at)
    if (first < length) target.set(this.#ring.subarray(0, length - first), at + first)
  }

  /** Forgets everything before `position`. */
  release(position: number): void {
    if (position > this.#head) this.#head = Math.min(position, this.#tail)
    if (this.#head === this.#tail && this.#ring.length > KEPT_RING_BYTES) this.#ring = new Uint8Array(0)
  }

  /** Forgets everything. */
  clear(): void {
    this.#head = this.#tail
    this.#ring = new Uint8Array(0)
  }

  #grow(needed: number): void {
    let size = Math.max(SMALLEST_RING_BYTES, this.#ring.length)
    while (size < needed) size *= 2
    const ring = new Uint8Array(size)
    const mask = size - 1
    // The old ring's pieces keep their positions, which may now fall on either side of the new ring's edge.
    for (let at = this.#head; at < this.#tail; ) {
      const from = at & (this.#ring.length - 1)
      const to = at & mask
      const length = Math.min(this.#tail - at, this.#ring.length - from, size - to)
      ring.set(this.#ring.subarray(from, from + length), to)
      at += length
    }
    this.#ring = ring
  }
}
