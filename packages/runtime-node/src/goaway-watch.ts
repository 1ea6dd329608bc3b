const HEAD_BYTES = 9
/** The last stream and the error code, which stand first in a GOAWAY. */
const GOAWAY_BYTES = 8
const GOAWAY = 7

/**
 * Notices that this end of an HTTP/2 connection has given up: a GOAWAY frame (RFC 9113 section 6.8) with an error in what it writes.
 * Node's library reads nothing from then on, but tells nobody, so the connection would stay until somebody else ends it. Walks from frame
 * to frame (length of 3 bytes, type, flags, stream of 4 bytes) however the bytes are cut, and looks at no payload but that of GOAWAY.
 */
export class GoawayWatch {
  readonly #held: Uint8Array = new Uint8Array(HEAD_BYTES + GOAWAY_BYTES)
  #count = 0
  #skip = 0
  #seen = false

  /** The next bytes that are written, from the first one on. Gives whether a GOAWAY with an error has been among them. */
  push(bytes: Uint8Array): boolean {
    for (let at = 0; at < bytes.length && !this.#seen; ) {
      const skipped = Math.min(this.#skip, bytes.length - at)
      this.#skip -= skipped
      at += skipped
      if (at === bytes.length) break
      const part = bytes.subarray(at, at + this.#wanted - this.#count)
      this.#held.set(part, this.#count)
      this.#count += part.length
      at += part.length
      if (this.#count < this.#wanted) continue
      this.#skip = this.#payload - (this.#count - HEAD_BYTES)
      this.#seen = this.#count > HEAD_BYTES && this.#held.subarray(HEAD_BYTES + 4).some((byte) => byte !== 0)
      this.#count = 0
    }
    return this.#seen
  }

  get #payload(): number {
    const [high = 0, middle = 0, low = 0] = this.#held
    return high * 65_536 + middle * 256 + low
  }

  /** How much of the frame must be there before anything can be said of it. */
  get #wanted(): number {
    const isGoaway = this.#count >= HEAD_BYTES && this.#held[3] === GOAWAY && this.#payload >= GOAWAY_BYTES
    return isGoaway ? HEAD_BYTES + GOAWAY_BYTES : HEAD_BYTES
  }
}
