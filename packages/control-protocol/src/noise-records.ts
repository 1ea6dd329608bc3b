import type { CryptoProvider } from '@meshwright/crypto'
import { HEADER_BYTES, MAX_FRAME_BYTES, MAX_RECORD_PLAINTEXT_BYTES, TAG_BYTES, TYPE_RECORD } from './noise-messages.ts'

const NONCE_BYTES = 12
// Counters are doubles here: a connection that sends 2^53 records has been up for longer than any machine.
const COUNTER_END = Number.MAX_SAFE_INTEGER

/** Cuts a byte stream into frames of at most 4096 bytes, whatever the chunks are. Holds no more than one frame. */
export class NoiseFrameReader {
  readonly #partial: Uint8Array = new Uint8Array(MAX_FRAME_BYTES)
  #held = 0

  /**
   * Feeds a chunk; `take` is called with each whole frame (header included; a view, valid during the call) until it gives `false`.
   * Gives `false` when a frame is too long or `take` stopped: the stream is then lost.
   */
  push(chunk: Uint8Array, take: (type: number, body: Uint8Array) => boolean): boolean {
    let at = 0
    while (at < chunk.length || this.#held >= HEADER_BYTES) {
      if (this.#held > 0) {
        const wanted = this.#held < HEADER_BYTES ? HEADER_BYTES : frameBytes(this.#partial)
        if (wanted > MAX_FRAME_BYTES) return false
        const part = chunk.subarray(at, at + wanted - this.#held)
        this.#partial.set(part, this.#held)
        this.#held += part.length
        at += part.length
        if (this.#held < wanted) return true
        if (wanted === HEADER_BYTES && frameBytes(this.#partial) > HEADER_BYTES) continue
        this.#held = 0
        if (!take(this.#partial[0] ?? 0, this.#partial.subarray(HEADER_BYTES, wanted))) return false
        continue
      }
      const rest = chunk.subarray(at)
      const length = rest.length < HEADER_BYTES ? Number.POSITIVE_INFINITY : frameBytes(rest)
      if (length !== Number.POSITIVE_INFINITY && length > MAX_FRAME_BYTES) return false
      if (length > rest.length) {
        this.#partial.set(rest)
        this.#held = rest.length
        return true
      }
      at += length
      if (!take(rest[0] ?? 0, rest.subarray(HEADER_BYTES, length))) return false
    }
    return true
  }
}

/** Seals plaintext into records of at most 4096 bytes: counter from 0, nonce 4 zero bytes and the counter big-endian. */
export class RecordSealer {
  readonly #provider: CryptoProvider
  readonly #key: Uint8Array
  #counter = 0

  /** @param key 32 bytes, owned from now on */
  constructor(provider: CryptoProvider, key: Uint8Array) {
    this.#provider = provider
    this.#key = key
  }

  /** All records for the plaintext, one behind the other; an empty plaintext is one empty record. */
  seal(plaintext: Uint8Array): Uint8Array {
    const records = Math.max(1, Math.ceil(plaintext.length / MAX_RECORD_PLAINTEXT_BYTES))
    const bytes = new Uint8Array(plaintext.length + records * (HEADER_BYTES + TAG_BYTES))
    let at = 0
    for (let i = 0; i < records; i += 1) {
      const part = plaintext.subarray(i * MAX_RECORD_PLAINTEXT_BYTES, (i + 1) * MAX_RECORD_PLAINTEXT_BYTES)
      const sealed = this.#provider.aeadSeal(this.#key, recordNonce(this.#counter), part)
      this.#counter += 1
      bytes[at] = TYPE_RECORD
      bytes[at + 1] = sealed.length >> 8
      bytes[at + 2] = sealed.length & 255
      bytes.set(sealed, at + HEADER_BYTES)
      at += HEADER_BYTES + sealed.length
    }
    return bytes
  }

  destroy(): void {
    this.#key.fill(0)
  }
}

/** Opens records in order. After one that is not authentic the connection is lost. */
export class RecordOpener {
  readonly #provider: CryptoProvider
  readonly #key: Uint8Array
  #counter = 0

  /** @param key 32 bytes, owned from now on */
  constructor(provider: CryptoProvider, key: Uint8Array) {
    this.#provider = provider
    this.#key = key
  }

  /** The plaintext of a record's body, or `undefined`. */
  open(body: Uint8Array): Uint8Array | undefined {
    if (this.#counter >= COUNTER_END || body.length < TAG_BYTES) return undefined
    const plaintext = this.#provider.aeadOpen(this.#key, recordNonce(this.#counter), body)
    this.#counter += 1
    return plaintext
  }

  destroy(): void {
    this.#key.fill(0)
  }
}

function frameBytes(header: Uint8Array): number {
  return HEADER_BYTES + (header[1] ?? 0) * 256 + (header[2] ?? 0)
}

/** The nonce of the record with this number: 4 zero bytes and 8 of the number, big-endian. */
export function recordNonce(counter: number): Uint8Array {
  const nonce = new Uint8Array(NONCE_BYTES)
  const view = new DataView(nonce.buffer)
  view.setUint32(4, Math.floor(counter / 0x1_0000_0000), false)
  view.setUint32(8, counter >>> 0, false)
  return nonce
}
