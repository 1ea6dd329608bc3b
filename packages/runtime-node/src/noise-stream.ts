import { Duplex } from 'node:stream'
import type { NoiseInitiatorOutput, NoiseResponderOutput } from '@meshwright/control-protocol'
import { type Instant, instant, type Machine, MeshwrightError } from '@meshwright/core'

/** Either end of the channel, as {@link NoiseStream} drives it. */
export type NoiseChannel = Machine<{ readonly type: 'received'; readonly bytes: Uint8Array }, NoiseInitiatorOutput | NoiseResponderOutput> & {
  send(now: Instant, plaintext: Uint8Array): boolean
}

/**
 * Who says when the bytes of one connection are worked on: opened, and given to HTTP/2. Until then the connection is not read, so that TCP
 * slows whoever sends more than is worked on.
 */
export interface ReadPace {
  /** How many bytes of plaintext are given to HTTP/2 in one step, at most. */
  readonly stepBytes: number
  /** There is something to do: call `step` until it gives false, at once or a step at a time. It is not said again before that. */
  wait(step: () => boolean): void
  /** So many bytes more (or fewer, below zero) are held unread. False: too many are, and the connection is ended. */
  hold(bytes: number): boolean
}

/** Ciphertext that is opened in one step, at most: a record. */
const STEP_RAW_BYTES = 4_096

/** The plaintext side of a Noise channel over a raw stream, as a duplex stream with back-pressure both ways. Emits `established`, `early` and, of what is written, `plaintext` too. */
export class NoiseStream extends Duplex {
  readonly #raw: Duplex
  readonly #channel: NoiseChannel
  readonly #pace: ReadPace | undefined
  /** With a pace alone: what came and is not opened yet, what is opened and not handed over, and all of it in bytes as it came. */
  #unopened: Uint8Array[] = []
  #opened: Uint8Array[] = []
  #held = 0
  #waiting = false
  #wanted = true
  #draining = false

  /** @param pace who says when bytes are worked on; default: as they come */
  constructor(raw: Duplex, channel: NoiseChannel, pace?: ReadPace) {
    super()
    this.#raw = raw
    this.#channel = channel
    this.#pace = pace
  }

  /** Starts reading; `head` is what had already been read from the raw stream. */
  begin(head: Uint8Array): void {
    this.#raw.on('data', (bytes: Buffer) => this.#received(bytes))
    this.#raw.once('end', () => this.push(null))
    this.#raw.once('error', (error) => this.destroy(error))
    this.#raw.once('close', () => this.destroy())
    this.drain()
    if (head.length > 0) this.#received(head)
  }

  /**
   * Performs what the channel owes. Whoever reads may write at once, while its bytes are still being handed over: then the outer call goes
   * on, so that nobody is given bytes inside their own reading (Node's HTTP/2 asserts against that and ends the process).
   */
  drain(): void {
    if (this.#draining) return
    this.#draining = true
    try {
      for (let output = this.#channel.pollOutput(); output !== undefined; output = this.#channel.pollOutput()) this.#perform(output)
    } finally {
      this.#draining = false
    }
  }

  override _read(): void {
    this.#wanted = true
    if (this.#owesReading) this.#wait()
    else if (this.#raw.isPaused()) this.#raw.resume()
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.emit('plaintext', chunk)
    if (!this.#channel.send(now(), chunk)) return done(new Error('the Noise channel is not open'))
    this.drain()
    if (this.#raw.writableNeedDrain) this.#raw.once('drain', () => done())
    else done()
  }

  /** HTTP/2 writes the head of a frame and its data apart: together they are one record, and one write to the socket. */
  override _writev(chunks: readonly { readonly chunk: Buffer }[], done: (error?: Error | null) => void): void {
    this._write(Buffer.concat(chunks.map(({ chunk }) => chunk)), 'binary', done)
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#raw.end(() => done())
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#letGo()
    this.#raw.destroy()
    done(error)
  }

  get #owesReading(): boolean {
    return this.#unopened.length > 0 || this.#opened.length > 0
  }

  #perform(output: NoiseInitiatorOutput | NoiseResponderOutput): void {
    if (output.type === 'transmit') this.#raw.write(output.bytes)
    else if (output.type === 'data') {
      if (this.#pace !== undefined) this.#opened.push(output.bytes)
      else if (!this.push(output.bytes)) this.#raw.pause()
    } else if (output.type === 'failed') this.destroy(new MeshwrightError(output.code, output.message))
    else if (output.type === 'early') this.emit('early', output.payload)
    else this.emit('established', output)
  }

  #received(bytes: Uint8Array): void {
    if (this.destroyed) return
    if (this.#pace === undefined) {
      this.#channel.handleInput(now(), { type: 'received', bytes })
      return this.drain()
    }
    this.#raw.pause()
    if (!this.#pace.hold(bytes.length)) return void this.destroy() // nobody is told: there is no memory for words either
    this.#held += bytes.length
    this.#unopened.push(bytes)
    this.#wait()
  }

  #wait(): void {
    if (this.#waiting || !this.#wanted) return
    this.#waiting = true
    this.#pace?.wait(() => this.#step())
  }

  /** One piece of plaintext to HTTP/2, or one record opened and the first of it. Whether there is more. */
  #step(): boolean {
    if (this.#opened.length === 0) this.#open()
    const next = this.#piece(this.#pace?.stepBytes ?? STEP_RAW_BYTES)
    if (next !== undefined && !this.destroyed && !this.push(next)) this.#wanted = false
    if (this.destroyed) return false
    if (this.#owesReading && this.#wanted) return true
    this.#waiting = false
    if (this.#owesReading) return false
    this.#letGo()
    if (this.#wanted && this.#raw.isPaused()) this.#raw.resume()
    return false
  }

  /** The next plaintext, cut from a long record or joined from short ones. */
  #piece(size: number): Uint8Array | undefined {
    const [first] = this.#opened
    if (first === undefined) return undefined
    if (first.length > size) {
      this.#opened[0] = first.subarray(size)
      return first.subarray(0, size)
    }
    let [count, bytes] = [0, 0]
    for (const part of this.#opened) {
      if (bytes + part.length > size) break
      count += 1
      bytes += part.length
    }
    const parts = this.#opened.splice(0, count)
    return count === 1 ? first : Buffer.concat(parts)
  }

  #open(): void {
    const first = this.#unopened.shift()
    if (first === undefined) return
    if (first.length > STEP_RAW_BYTES) this.#unopened.unshift(first.subarray(STEP_RAW_BYTES))
    this.#channel.handleInput(now(), { type: 'received', bytes: first.subarray(0, STEP_RAW_BYTES) })
    this.drain()
  }

  #letGo(): void {
    this.#pace?.hold(-this.#held)
    this.#held = 0
    this.#unopened = []
    this.#opened = []
  }
}

function now(): Instant {
  return instant(performance.now())
}
