import { FRAME_HEADER_BYTES } from './frame-types.ts'

/** A frame as it stands in the stream. The payload is a view of the pushed chunk, or memory of its own: it lives as long as the chunk does. */
export interface RawFrame {
  readonly code: number
  readonly payload: Uint8Array
}

/**
 * What a reader does with a type of frame: the most payload bytes that it takes (longer: the stream is broken), or `skip` to pass over
 * the payload, of any length, without keeping a byte.
 */
export type FrameLimit = (code: number) => number | 'skip'

const FIRST_ALLOCATION_BYTES = 4_096
const EMPTY = new Uint8Array(0)

/**
 * Cuts a byte stream into frames: push a chunk, then call `next` until it gives `undefined`. A frame that lies within one chunk is a
 * view of it, without a copy; one that spans chunks is gathered in one buffer that grows only with bytes that have arrived, never with
 * the length that a stranger claims. It keeps at most one frame of the limit plus the chunk.
 */
export class FrameReader {
  readonly #limit: FrameLimit
  #chunk: Uint8Array = EMPTY
  #at = 0
  readonly #header = new Uint8Array(FRAME_HEADER_BYTES)
  #headerLength = 0
  /** Payload bytes of the current frame, known once the header is whole. */
  #length = 0
  #skipping = false
  #gathered: Uint8Array = EMPTY
  #gatheredLength = 0
  #broken = false

  /** @param limit how long each type of frame may be */
  constructor(limit: FrameLimit) {
    this.#limit = limit
  }

  /** True once a frame was over its limit: nothing more comes out, and the connection should be closed. */
  get broken(): boolean {
    return this.#broken
  }

  /** Bytes that wait for `next` or for the rest of their frame. */
  get pendingBytes(): number {
    return this.#broken ? 0 : this.#chunk.length - this.#at + this.#headerLength + this.#gatheredLength
  }

  /** Adds bytes of the stream. They are read in place: they must not change as long as payloads are in use. */
  push(chunk: Uint8Array): void {
    if (this.#broken) return
    if (this.#at === this.#chunk.length) {
      this.#chunk = chunk
    } else {
      // The caller has stopped early (it waits for something): join, so that order is kept.
      const joined = new Uint8Array(this.#chunk.length - this.#at + chunk.length)
      joined.set(this.#chunk.subarray(this.#at))
      joined.set(chunk, this.#chunk.length - this.#at)
      this.#chunk = joined
    }
    this.#at = 0
  }

  /** The next whole frame, or `undefined` when more bytes are needed or the stream is broken. */
  next(): RawFrame | undefined {
    for (;;) {
      if (this.#broken || !this.#readHeader()) return this.#rest()
      const code = this.#header[0] ?? 0
      const missing = this.#length - this.#gatheredLength
      const available = this.#chunk.length - this.#at
      if (this.#skipping) {
        const skipped = Math.min(available, this.#length)
        this.#at += skipped
        this.#length -= skipped
        if (this.#length > 0) return this.#rest()
        this.#headerLength = 0
        continue
      }
      if (available < missing) {
        this.#gather(available)
        return this.#rest()
      }
      this.#headerLength = 0
      if (this.#gatheredLength === 0) {
        const payload = this.#chunk.subarray(this.#at, this.#at + this.#length)
        this.#at += this.#length
        return { code, payload }
      }
      this.#gather(missing)
      const payload = this.#gathered.subarray(0, this.#length)
      this.#gatheredLength = 0
      this.#gathered = EMPTY // it belongs to the caller now
      return { code, payload }
    }
  }

  #readHeader(): boolean {
    if (this.#headerLength === FRAME_HEADER_BYTES) return true
    while (this.#headerLength < FRAME_HEADER_BYTES && this.#at < this.#chunk.length) {
      this.#header[this.#headerLength] = this.#chunk[this.#at] ?? 0
      this.#headerLength += 1
      this.#at += 1
    }
    if (this.#headerLength < FRAME_HEADER_BYTES) return false
    const header = this.#header
    this.#length = (((header[1] ?? 0) << 24) | ((header[2] ?? 0) << 16) | ((header[3] ?? 0) << 8) | (header[4] ?? 0)) >>> 0
    const limit = this.#limit(header[0] ?? 0)
    this.#skipping = limit === 'skip'
    if (limit !== 'skip' && this.#length > limit) {
      this.#broken = true
      this.#gathered = EMPTY
      this.#gatheredLength = 0
      this.#at = this.#chunk.length
      return false
    }
    return true
  }

  #gather(count: number): void {
    const needed = this.#gatheredLength + count
    if (needed > this.#gathered.length) {
      const grown = new Uint8Array(Math.min(this.#length, Math.max(needed, this.#gathered.length * 2, FIRST_ALLOCATION_BYTES)))
      grown.set(this.#gathered.subarray(0, this.#gatheredLength))
      this.#gathered = grown
    }
    this.#gathered.set(this.#chunk.subarray(this.#at, this.#at + count), this.#gatheredLength)
    this.#gatheredLength = needed
    this.#at += count
  }

  // Lets go of a chunk that has been read to its end: it may be a view of a large buffer.
  #rest(): undefined {
    if (this.#at === this.#chunk.length) {
      this.#chunk = EMPTY
      this.#at = 0
    }
    return undefined
  }
}
