import { Duplex } from 'node:stream'

const HEADER_BYTES = 3
/** The first message has its length at the same place: type u8, length u16 big-endian. */
const LENGTH_OFFSET = 1

/**
 * A socket whose bytes come out one Noise record at a time. HTTP/2 of Node must not be given a second record while it answers the first
 * (its parser asserts against that and ends the process), so records that share a segment are handed over one after the other.
 */
export class RecordSplitter extends Duplex {
  readonly #socket: Duplex
  #held: Buffer = Buffer.alloc(0)

  constructor(socket: Duplex, head: Uint8Array) {
    super()
    this.#socket = socket
    this.#held = Buffer.from(head)
    socket.on('data', (bytes: Buffer) => this.#received(bytes))
    socket.once('end', () => this.push(null))
    socket.once('error', (error) => this.destroy(error))
    socket.once('close', () => this.destroy())
    socket.pause()
  }

  override _read(): void {
    this.#flush()
    if (this.#socket.isPaused()) this.#socket.resume()
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    if (this.#socket.write(chunk)) done()
    else this.#socket.once('drain', () => done())
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#socket.end(() => done())
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#socket.destroy()
    done(error)
  }

  #received(bytes: Buffer): void {
    this.#held = this.#held.length === 0 ? bytes : Buffer.concat([this.#held, bytes])
    this.#flush()
  }

  // What is not whole yet is bounded: the length has 16 bits.
  #flush(): void {
    while (this.#held.length >= HEADER_BYTES && !this.destroyed) {
      const end = HEADER_BYTES + this.#held.readUInt16BE(LENGTH_OFFSET)
      if (this.#held.length < end) return
      const record = this.#held.subarray(0, end)
      this.#held = this.#held.subarray(end)
      if (!this.push(record)) {
        this.#socket.pause()
        return
      }
    }
  }
}
