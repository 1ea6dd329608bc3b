/** Writes fields in wire order into a buffer that grows. Calls chain: `w.u8(4).zeros(3).u32le(receiver)`. */
export class ByteWriter {
  #bytes: Uint8Array
  #view: DataView
  #length = 0

  /** @param expectedBytes first size of the buffer; exact guesses avoid a copy */
  constructor(expectedBytes: number = 64) {
    this.#bytes = new Uint8Array(Math.max(expectedBytes, 1))
    this.#view = new DataView(this.#bytes.buffer)
  }

  /** How many bytes have been written. */
  get length(): number {
    return this.#length
  }

  u8(value: number): this {
    const at = this.#grow(1) // first: growing replaces the view
    this.#view.setUint8(at, value)
    return this
  }

  u16be(value: number): this {
    const at = this.#grow(2) // first: growing replaces the view
    this.#view.setUint16(at, value, false)
    return this
  }

  u16le(value: number): this {
    const at = this.#grow(2) // first: growing replaces the view
    this.#view.setUint16(at, value, true)
    return this
  }

  u24be(value: number): this {
    return this.u8(value >>> 16).u16be(value & 0xffff)
  }

  u32be(value: number): this {
    const at = this.#grow(4) // first: growing replaces the view
    this.#view.setUint32(at, value, false)
    return this
  }

  u32le(value: number): this {
    const at = this.#grow(4) // first: growing replaces the view
    this.#view.setUint32(at, value, true)
    return this
  }

  u64be(value: bigint): this {
    const at = this.#grow(8) // first: growing replaces the view
    this.#view.setBigUint64(at, value, false)
    return this
  }

  u64le(value: bigint): this {
    const at = this.#grow(8) // first: growing replaces the view
    this.#view.setBigUint64(at, value, true)
    return this
  }

  bytes(value: Uint8Array): this {
    const at = this.#grow(value.length)
    this.#bytes.set(value, at)
    return this
  }

  zeros(length: number): this {
    this.#grow(length)
    return this
  }

  /** Overwrites the two bytes at `at` (already written) with a big-endian length or checksum that is known only now. */
  patchU16be(at: number, value: number): this {
    this.#view.setUint16(at, value, false)
    return this
  }

  /** What has been written: a view that owns its memory as long as nothing more is written. */
  finish(): Uint8Array {
    return this.#bytes.subarray(0, this.#length)
  }

  #grow(length: number): number {
    const at = this.#length
    const needed = at + length
    if (needed > this.#bytes.length) {
      const bytes = new Uint8Array(Math.max(needed, this.#bytes.length * 2))
      bytes.set(this.#bytes.subarray(0, at))
      this.#bytes = bytes
      this.#view = new DataView(bytes.buffer)
    }
    this.#length = needed
    return at
  }
}
