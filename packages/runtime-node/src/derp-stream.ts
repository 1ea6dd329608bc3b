import type { Duplex } from 'node:stream'

/**
 * Writes many small frames to a socket as few system calls: what is written in one turn of the event loop leaves together. Says when
 * the transport has taken all of it, which is what the relay machines call `writable`.
 */
export class BatchedWriter {
  readonly #socket: Duplex
  readonly #onWritable: () => void
  #pending: Uint8Array[] = []
  /** Batches that the socket has not taken yet. */
  #batches = 0

  /** @param onWritable called when all that was written has been taken, never from within `write` */
  constructor(socket: Duplex, onWritable: () => void) {
    this.#socket = socket
    this.#onWritable = onWritable
  }

  /** Adds bytes, which must not change any more. Bounded by the caller, who counts what is on its way. */
  write(bytes: Uint8Array): void {
    if (this.#pending.length === 0) process.nextTick(() => this.flush())
    this.#pending.push(bytes)
  }

  /** Hands everything to the socket now. */
  flush(): void {
    const frames = this.#pending
    const last = frames.length - 1
    if (last < 0) return
    this.#pending = []
    if (this.#socket.destroyed || !this.#socket.writable) return
    this.#batches += 1
    this.#socket.cork()
    frames.forEach((frame, i) => {
      if (i < last) this.#socket.write(frame)
      else this.#socket.write(frame, (error) => this.#taken(error))
    })
    this.#socket.uncork()
  }

  #taken(error: Error | null | undefined): void {
    this.#batches -= 1
    // An error closes the socket: `closed` follows, and writable would be a lie.
    if (this.#batches === 0 && this.#pending.length === 0 && !error) this.#onWritable()
  }
}
