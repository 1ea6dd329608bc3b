const CHUNK_BYTES = 16_384
/** Chunks that a pool keeps: more are left to the garbage collector. */
const MAX_POOLED = 64

/** Chunks that are free, for all send buffers of a stack: at a gigabit a second, making them anew costs more than filling them. */
export class ChunkPool {
  readonly #free: Uint8Array[] = []

  take(): Uint8Array {
    return this.#free.pop() ?? new Uint8Array(CHUNK_BYTES)
  }

  /** Whoever gives chunks back does not use them any more. */
  giveBack(chunks: readonly Uint8Array[]): void {
    for (const chunk of chunks) if (this.#free.length < MAX_POOLED) this.#free.push(chunk)
  }
}

/**
 * Bytes written and not yet acknowledged, in chunks of 16 KiB that come and go with the data, so that idle connections cost little.
 * Positions are absolute (the connection's stream offset, never wrapped): retransmissions find any part without a search.
 */
export class SendBuffer {
  readonly #chunks: Uint8Array[] = []
  readonly #pool: ChunkPool
  /** Position of the first byte of the first chunk. */
  #base: number
  /** Position of the oldest byte kept. */
  #head: number
  /** Position behind the newest byte. */
  #tail: number

  /** @param start position of the first byte ever written */
  constructor(start: number, pool: ChunkPool = new ChunkPool()) {
    this.#pool = pool
    this.#base = start
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
    for (let taken = 0; taken < bytes.length; ) {
      const offset = this.#tail - this.#base
      const at = offset % CHUNK_BYTES
      let chunk = this.#chunks[(offset - at) / CHUNK_BYTES]
      if (chunk === undefined) {
        chunk = this.#pool.take()
        this.#chunks.push(chunk)
      }
      const length = Math.min(bytes.length - taken, CHUNK_BYTES - at)
      chunk.set(length === bytes.length ? bytes : bytes.subarray(taken, taken + length), at)
      taken += length
      this.#tail += length
    }
  }

  /** Copies `[start, end)` to `target[to ...]`; the range must be kept. */
  copyTo(start: number, end: number, target: Uint8Array, to: number): void {
    for (let position = start; position < end; ) {
      const offset = position - this.#base
      const at = offset % CHUNK_BYTES
      const chunk = this.#chunks[(offset - at) / CHUNK_BYTES]
      if (chunk === undefined) return
      const length = Math.min(end - position, CHUNK_BYTES - at)
      target.set(chunk.subarray(at, at + length), to + position - start)
      position += length
    }
  }

  /** Forgets everything before `position`. */
  release(position: number): void {
    if (position <= this.#head) return
    this.#head = Math.min(position, this.#tail)
    const gone = Math.floor((this.#head - this.#base) / CHUNK_BYTES)
    if (gone === 0) return
    this.#pool.giveBack(this.#chunks.splice(0, gone))
    this.#base += gone * CHUNK_BYTES
  }

  /** Forgets everything. */
  clear(): void {
    this.#pool.giveBack(this.#chunks.splice(0))
    this.#head = this.#tail
    this.#base = this.#tail
  }
}
