import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import https from 'node:https'
import net, { type Socket } from 'node:net'
import { FirstBytes, type Gate, HANDSHAKE_LIMITS, Newcomers } from '@meshwright/runtime-node/relay'

/** What a connection costs beside the turn in which it is let in: accepting it, its head or TLS handshake, its end. */
const CONNECTION_MS = 0.3
const SECURE_CONNECTION_MS = 2

/** What a web server takes as a head; behind it, it says itself that it is too long. */
const MAX_HEAD_BYTES = 16_384
/** A method, or the beginning of one; empty lines before it are passed over (RFC 9112, section 2.2). */
const METHOD = /^[\r\n]{0,2}[A-Z-]{0,20}(?: |$)/
const METHOD_LOOKED_AT = 24
const END_OF_HEAD = '\r\n\r\n'
/** The first byte of a TLS handshake, and where the length of its record stands (RFC 8446, section 5.1). */
const TLS_HANDSHAKE = 0x16
const RECORD_HEADER_BYTES = 5
const RECORD_LENGTH_AT = 3
/** The longest record (section 5.2). */
const MAX_RECORD_BYTES = 16_384 + 256
/** Who says more at once, before anything was answered, waits for no answer. */
const MAX_FIRST_BYTES = 32_768

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
 * TLS handshakes among them, each of which may hold far more. Once its head or ClientHello is whole, each waits at the gate before the web server
 * hears of it, and so does each request: who is let in goes on meanwhile, and a newcomer waits no longer than there are other addresses.
 */
export class Entrance {
  /** What listens, in the place of the web server. */
  readonly server: net.Server
  readonly #web: Server | https.Server
  readonly #newcomers = new Newcomers(() => false)
  readonly #handshakes = new Newcomers(() => false, HANDSHAKE_LIMITS)
  readonly #sockets: Set<Socket> = new Set()
  readonly #firstBytes = new FirstBytes()
  readonly #gate: Gate

  /** @param answer answers a request, in its turn */
  constructor(web: Server | https.Server, gate: Gate, answer: (request: IncomingMessage, response: ServerResponse) => void) {
    this.#web = web
    this.#gate = gate
    const secure = web instanceof https.Server
    const sockets = this.#sockets
    const closed = function (this: Socket): void {
      sockets.delete(this)
    }
    const enter = (socket: Socket): void => {
      if (secure) this.#handshakes.add(socket)
      if (!socket.destroyed) this.#enter(socket)
    }
    const seen = (socket: Socket, bytes: Buffer): void => {
      if (bytes.length > MAX_FIRST_BYTES) return void socket.destroy()
      this.#inTurn(socket, secure ? SECURE_CONNECTION_MS : CONNECTION_MS, () => enter(socket))
    }
    const isEnough = secure ? isClientHello : isHead
    // Sockets with TLS close both ways at once.
    this.server = net.createServer({ pauseOnConnect: true, noDelay: true, allowHalfOpen: !secure }, (socket) => {
      this.#sockets.add(socket.on('error', endAtError).on('close', closed))
      this.#newcomers.add(socket)
      this.#firstBytes.wait(socket, seen, isEnough)
    })
    // With it a web server begins to look after its connections.
    this.server.once('listening', () => web.emit('listening'))
    web.on('secureConnection', (socket: Socket) => {
      this.#handshakes.remove(socket)
      this.#newcomers.add(socket)
    })
    web.on('request', (request: IncomingMessage, response: ServerResponse) => {
      this.#inTurn(request.socket, 0, () => {
        this.#newcomers.remove(request.socket)
        response.once('close', () => {
          if (!request.socket.destroyed) this.#newcomers.add(request.socket)
        })
        answer(request, response)
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

  /** Does what a connection asks for when it is its turn, unless it gave way or did not wait. */
  #inTurn(socket: Socket, besideMs: number, work: () => void): void {
    this.#gate.add(this.#newcomers.sourceOf(socket) ?? '', () => {
      if (socket.destroyed) return
      this.#gate.beside(besideMs)
      work()
    })
  }
}

/** A whole head, more than one may have, or what begins none: a web server says itself what it does not understand. */
function isHead(bytes: Buffer): boolean {
  return bytes.length > MAX_HEAD_BYTES || !METHOD.test(bytes.toString('latin1', 0, METHOD_LOOKED_AT)) || bytes.includes(END_OF_HEAD)
}

/** The first record of a TLS handshake as a whole, or what is none. */
function isClientHello(bytes: Buffer): boolean {
  if (bytes[0] !== TLS_HANDSHAKE) return true
  if (bytes.length < RECORD_HEADER_BYTES) return false
  const length = bytes.readUInt16BE(RECORD_LENGTH_AT)
  return length > MAX_RECORD_BYTES || bytes.length >= RECORD_HEADER_BYTES + length
}

/** Who is told of an error closes; what went wrong with a stranger's connection is no news. */
function endAtError(this: Socket): void {
  this.destroy()
}
