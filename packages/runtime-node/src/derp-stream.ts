import type { Duplex } from 'node:stream'
import { concatBytes } from '@meshwright/core'

/** Handed to the socket at once. Small, so that a slow but living transport shows progress before it is given up. */
const PIECE_BYTES = 32 * 1024

/**
 * Writes many small frames to a socket as few system calls: what is written in one turn of the event loop leaves together, in pieces of
 * about 32 KiB. Tells how many bytes the transport has taken, piece by piece.
 */
export class BatchedWriter {
  readonly #socket: Duplex
  readonly #onTaken: (bytes: number, drained: boolean) => void
  #pending: Uint8Array[] = []
  #scheduled = false
  /** A piece is with the socket. */
  #busy = false

  /** @param onTaken called when a piece has been taken, `drained` when nothing is left; never from within `write` */
  constructor(socket: Duplex, onTaken: (bytes: number, drained: boolean) => void) {
    this.#socket = socket
    this.#onTaken = onTaken
  }

  /** Adds bytes, which must not change any more. Bounded by the caller, who counts what is on its way. */
  write(bytes: Uint8Array): void {
    this.#pending.push(bytes)
    if (this.#scheduled || this.#busy) return
    this.#scheduled = true
    process.nextTick(() => {
      this.#scheduled = false
      if (!this.#busy) this.#send(PIECE_BYTES)
    })
  }

  /** Hands everything to the socket now: for the last words before it is closed. */
  flush(): void {
    this.#send(Number.POSITIVE_INFINITY)
  }

  #send(most: number): void {
    if (this.#pending.length === 0 || this.#socket.destroyed || !this.#socket.writable) return
    let bytes = 0
    let count = 0
    for (const frame of this.#pending) {
      if (bytes >= most) break
      bytes += frame.length
      count += 1
    }
    const frames = this.#pending.splice(0, count)
    this.#busy = true
    this.#socket.cork()
    frames.forEach((frame, i) => {
      if (i < count - 1) this.#socket.write(frame)
      else this.#socket.write(frame, (error) => this.#taken(error, bytes))
    })
    this.#socket.uncork()
  }

  #taken(error: Error | null | undefined, bytes: number): void {
    this.#busy = false
    // An error closes the socket: `closed` follows, and "taken" would be a lie.
    if (error) return
    this.#onTaken(bytes, this.#pending.length === 0)
    if (!this.#busy && !this.#scheduled) this.#send(PIECE_BYTES)
  }
}

/** More than this is handed on at once. */
const GATHERED_BYTES = 64 * 1024

/**
 * Hands on what arrives in one turn of the event loop as one piece, or several of about 64 KiB: a TLS stream gives one chunk for each record, and a
 * relay may write a record for each packet.
 */
export class GatheredReader {
  readonly #onBytes: (bytes: Uint8Array) => void
  #chunks: Uint8Array[] = []
  #bytes = 0
  #turn: NodeJS.Immediate | undefined

  constructor(onBytes: (bytes: Uint8Array) => void) {
    this.#onBytes = onBytes
  }

  /** Adds a chunk, which must not change any more. */
  push(chunk: Uint8Array): void {
    this.#chunks.push(chunk)
    this.#bytes += chunk.length
    if (this.#bytes >= GATHERED_BYTES) this.flush()
    else this.#turn ??= setImmediate(() => this.flush())
  }

  /** Hands on what is there. */
  flush(): void {
    clearImmediate(this.#turn)
    this.#turn = undefined
    const [first, ...others] = this.#chunks
    if (first === undefined) return
    const bytes = others.length === 0 ? first : concatBytes(...this.#chunks)
    this.#chunks = []
    this.#bytes = 0
    this.#onBytes(bytes)
  }
}
