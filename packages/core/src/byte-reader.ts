/**
 * Reads fields in wire order from bytes of unknown honesty. It never throws and never reads past the end: once a read does not fit,
 * that read and all later ones give zeros or empty views and `ok` is false. Decode everything, then look at `ok` once.
 */
export class ByteReader {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  #at = 0
  #ok = true

  /** @param bytes read in place, never copied or changed */
  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  /** True while every read so far has fitted. */
  get ok(): boolean {
    return this.#ok
  }

  /** Position of the next read, in bytes from the start. */
  get position(): number {
    return this.#at
  }

  /** Bytes not read yet; 0 after a read that did not fit. */
  get remaining(): number {
    return this.#ok ? this.#bytes.length - this.#at : 0
  }

  /** True when every read fitted and nothing is left over. */
  get finished(): boolean {
    return this.#ok && this.#at === this.#bytes.length
  }

  u8(): number {
    const at = this.#take(1)
    return at < 0 ? 0 : this.#view.getUint8(at)
  }

  u16be(): number {
    const at = this.#take(2)
    return at < 0 ? 0 : this.#view.getUint16(at, false)
  }

  u16le(): number {
    const at = this.#take(2)
    return at < 0 ? 0 : this.#view.getUint16(at, true)
  }

  u24be(): number {
    const at = this.#take(3)
    return at < 0 ? 0 : this.#view.getUint16(at, false) * 256 + this.#view.getUint8(at + 2)
  }

  u32be(): number {
    const at = this.#take(4)
    return at < 0 ? 0 : this.#view.getUint32(at, false)
  }

  u32le(): number {
    const at = this.#take(4)
    return at < 0 ? 0 : this.#view.getUint32(at, true)
  }

  u64be(): bigint {
    const at = this.#take(8)
    return at < 0 ? 0n : this.#view.getBigUint64(at, false)
  }

  u64le(): bigint {
    const at = this.#take(8)
    return at < 0 ? 0n : this.#view.getBigUint64(at, true)
  }

  /** The next `length` bytes as a view of the input; empty when they do not fit. Copy before keeping. */
  bytes(length: number): Uint8Array {
    const at = this.#take(length)
    return at < 0 ? new Uint8Array(0) : this.#bytes.subarray(at, at + length)
  }

  /** All bytes not read yet, as a view. */
  rest(): Uint8Array {
    return this.bytes(this.remaining)
  }

  /** Passes over `length` bytes. */
  skip(length: number): void {
    this.#take(length)
  }

  #take(length: number): number {
    if (!this.#ok || !(length >= 0) || length > this.#bytes.length - this.#at) {
      this.#ok = false
      return -1
    }
    const at = this.#at
    this.#at += length
    return at
  }
}
