import type { Socket } from 'node:net'

/** What is waited for of one connection. */
interface Waiting {
  readonly seen: (socket: Socket, bytes: Buffer) => void
  readonly isEnough: (bytes: Buffer) => boolean
  bytes: Buffer | undefined
}

/**
 * Waits for the first bytes of connections, and leaves them in them. Nothing more is read of one until somebody else does, so that whoever says
 * nothing, or half of it, costs little more than the socket. One that ends before is destroyed.
 */
export class FirstBytes {
  readonly #waiting = new Map<Socket, Waiting>()
  readonly #look: (this: Socket) => void
  readonly #gone: (this: Socket) => void

  constructor() {
    const waiting = this.#waiting
    const look = (socket: Socket): void => this.#lookAt(socket)
    // The same functions for all connections: a flood of them is garbage that somebody must collect.
    this.#look = function (this: Socket): void {
      look(this)
    }
    this.#gone = function (this: Socket): void {
      waiting.delete(this)
      this.destroy()
    }
  }

  /**
   * @param seen is called once, when enough is there
   * @param isEnough whether these bytes, all so far, are what is waited for
   */
  wait(socket: Socket, seen: (socket: Socket, bytes: Buffer) => void, isEnough: (bytes: Buffer) => boolean = anything): void {
    this.#waiting.set(socket, { seen, isEnough, bytes: undefined })
    socket.on('readable', this.#look).on('end', this.#gone).on('close', this.#gone)
  }

  #lookAt(socket: Socket): void {
    const waiting = this.#waiting.get(socket)
    const bytes = socket.read() as Buffer | null // no encoding was set
    if (waiting === undefined || bytes === null) return // its end: `end` or `close` follows
    waiting.bytes = waiting.bytes === undefined ? bytes : Buffer.concat([waiting.bytes, bytes])
    if (!waiting.isEnough(waiting.bytes)) return
    this.#waiting.delete(socket)
    socket.off('readable', this.#look).off('end', this.#gone).off('close', this.#gone)
    socket.unshift(waiting.bytes)
    waiting.seen(socket, waiting.bytes)
  }
}

function anything(): boolean {
  return true
}
