import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import https from 'node:https'
import net, { type Socket } from 'node:net'
import { HANDSHAKE_LIMITS, Newcomers } from '@meshwright/runtime-node/relay'

/** What of all connections has proved nothing: for metrics. */
export interface EntranceFigures {
  readonly newcomers: number
  /** TLS handshakes that have begun and are not complete. */
  readonly handshakes: number
  /** Gave way to newer ones. */
  readonly evicted: number
  /** Took too long. */
  readonly overdue: number
}

/**
 * Where connections come in. Those that have not asked anything yet are bounded in number and time, as a whole and for each address, and so are
 * TLS handshakes among them, each of which may hold far more. One handshake begins in a turn of the event loop, of each address in its turn:
 * who is let in goes on between them, and a newcomer waits no longer than there are other addresses.
 */
export class Entrance {
  /** What listens, in the place of the web server. */
  readonly server: net.Server
  readonly #web: Server | https.Server
  readonly #newcomers = new Newcomers(() => false)
  readonly #handshakes = new Newcomers(() => false, HANDSHAKE_LIMITS)
  readonly #sockets: Set<Socket> = new Set()
  /** Connections whose handshake has not begun, by where they come from; unread. */
  readonly #waiting: Map<string, Set<Socket>> = new Map()
  #isTurnDue = false

  constructor(web: Server | https.Server) {
    this.#web = web
    const secure = web instanceof https.Server
    // Sockets with TLS close both ways at once.
    this.server = net.createServer({ pauseOnConnect: true, noDelay: true, allowHalfOpen: !secure }, (socket) => {
      socket.on('error', endAtError)
      this.#sockets.add(socket)
      socket.once('close', () => this.#sockets.delete(socket))
      this.#newcomers.add(socket)
      if (secure) this.#wait(socket)
      else this.#enter(socket)
    })
    // With it a web server begins to look after its connections.
    this.server.once('listening', () => web.emit('listening'))
    web.on('secureConnection', (socket: Socket) => {
      this.#handshakes.remove(socket)
      this.#newcomers.add(socket)
    })
    web.on('request', (request: IncomingMessage, response: ServerResponse) => {
      this.#newcomers.remove(request.socket)
      response.once('close', () => {
        if (!request.socket.destroyed) this.#newcomers.add(request.socket)
      })
    })
  }

  get figures(): EntranceFigures {
    const [all, handshakes] = [this.#newcomers.figures, this.#handshakes.figures]
    return { newcomers: all.waiting, handshakes: handshakes.waiting, evicted: all.evicted + handshakes.evicted, overdue: all.overdue + handshakes.overdue }
  }

  /** An upgrade: who is taken over is counted by whoever took it. */
  takenOver(request: IncomingMessage): void {
    this.#newcomers.remove(request.socket)
  }

  /** Ends all connections, and listens no more. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.server.close(() => resolve()))
    this.#newcomers.stop()
    this.#handshakes.stop()
    // Also those in the middle of a TLS handshake, of which the web server does not know.
    for (const socket of this.#sockets) socket.destroy()
    this.#web.closeAllConnections()
    await new Promise<void>((resolve) => this.#web.close(() => resolve()))
    await closed
  }

  #enter(socket: Socket): void {
    this.#web.emit('connection', socket)
    socket.resume()
  }

  #wait(socket: Socket): void {
    const from = this.#newcomers.sourceOf(socket) ?? ''
    const waiting = this.#waiting.get(from) ?? new Set<Socket>()
    this.#waiting.set(from, waiting.add(socket))
    socket.once('close', () => this.#leave(from, waiting, socket))
    this.#nextTurn()
  }

  #leave(from: string, waiting: Set<Socket>, socket: Socket): void {
    if (waiting.delete(socket) && waiting.size === 0) this.#waiting.delete(from)
  }

  #nextTurn(): void {
    if (this.#isTurnDue || this.#waiting.size === 0) return
    this.#isTurnDue = true
    setImmediate(() => {
      this.#isTurnDue = false
      for (const [from, waiting] of this.#waiting) {
        const [socket] = waiting
        this.#waiting.delete(from)
        if (socket === undefined) continue
        waiting.delete(socket)
        if (waiting.size > 0) this.#waiting.set(from, waiting) // behind the others
        this.#handshakes.add(socket)
        if (!socket.destroyed) this.#enter(socket)
        break
      }
      this.#nextTurn()
    })
  }
}

/** Who is told of an error closes; what went wrong with a stranger's connection is no news. */
function endAtError(this: Socket): void {
  this.destroy()
}
