import http, { type IncomingMessage, type ServerResponse } from 'node:http'
import https from 'node:https'
import net, { type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { formatIp, parseIp, type Prefix } from '@meshwright/ip'
import { FirstBytes, type Gate, HANDSHAKE_LIMITS, Newcomers } from '../runtime.ts'
import { clientAddress, isTrusted } from './client-address.ts'
import { endWith, faultOf, MAX_FIELDS, REFUSAL_TEXTS, refusal, refusalOf, type RefusalStatus } from './refusals.ts'
import { Unanswered } from './unanswered.ts'

/** Newcomers are let go before these limits of Node's, which end all that are due in one turn. */
const PATIENCE: http.ServerOptions = { headersTimeout: 30_000, requestTimeout: 60_000 }
/** What a connection costs beside the turn in which it is let in: accepting it, its head or TLS handshake, its end. */
const CONNECTION_MS = 0.3
const SECURE_CONNECTION_MS = 2
/** The first byte of a TLS handshake (RFC 8446, section 5.1: content type handshake); no HTTP request begins with it. */
const TLS_HANDSHAKE = 0x16
/** Requests of one connection that wait for their answers: clients ask one at a time, and each that waits holds memory and a place at the gate. */
const MAX_UNANSWERED = 16
/** The longest TLS record (RFC 8446, section 5.2). Who says more before the server has spoken does not wait for an answer. */
const MAX_RECORD_BYTES = 5 + 16_384 + 256

/** Certificate chain and key, as `node:tls` takes them. */
export interface TlsSecrets {
  readonly cert: string | Buffer
  readonly key: string | Buffer
}

/** Who answers. */
export interface WebOptions {
  readonly gate: Gate
  readonly newcomers: Newcomers
  readonly trustedProxies: readonly Prefix[]
  /** For TLS; absent: plain HTTP alone. */
  readonly secrets: TlsSecrets | undefined
  /** Whether HTTP without TLS is answered as well: the first byte of a connection tells. Without it, it is told so. */
  readonly plain: boolean
  /** Answers a request, in its turn. */
  request(request: IncomingMessage, response: ServerResponse): void
  /** Takes over a connection that asks for another protocol; `false`: that is ignored, and the request answered as any (RFC 9110, section 7.8). */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): boolean
}

/**
 * HTTP, HTTPS or both at one port. What is no request is told so: 400, 408, 413 or 431, and the connection ends. Connections are counted as
 * they come, but each waits at the gate, unread, before the web server hears of it: to accept, parse and close costs time that strangers
 * must not take from others either. A TLS handshake waits once more.
 */
export class Web {
  /** What listens. */
  readonly entrance: net.Server
  readonly #options: WebOptions
  readonly #plain: http.Server | undefined
  readonly #secure: https.Server | undefined
  readonly #unanswered = new Unanswered()
  readonly #firstBytes = new FirstBytes()
  /** Connections whose TLS handshake has begun and is not complete. */
  readonly #handshakes: Newcomers

  /** @throws Error when the certificate and its key are no pair: check them before */
  constructor(options: WebOptions) {
    this.#options = options
    this.#handshakes = new Newcomers((address) => isTrusted(address, options.trustedProxies), HANDSHAKE_LIMITS)
    this.#plain = options.plain ? this.#serve(http.createServer(PATIENCE)) : undefined
    this.#secure = options.secrets === undefined ? undefined : this.#serve(https.createServer({ ...options.secrets, ...PATIENCE }))
    const { newcomers } = options
    this.#secure?.on('secureConnection', (socket: Socket) => {
      this.#handshakes.remove(socket)
      newcomers.add(socket)
    })
    // Sockets with TLS close both ways at once; those alone are made so.
    this.entrance = net.createServer({ pauseOnConnect: true, noDelay: true, allowHalfOpen: options.plain }, (socket) => this.#arrive(socket))
    // With it a web server begins to look after its connections.
    this.entrance.once('listening', () => this.#servers.forEach((server) => server.emit('listening')))
  }

  /** New connections get this certificate from now on; those that are there keep theirs. */
  setSecrets(secrets: TlsSecrets): void {
    this.#secure?.setSecureContext(secrets)
  }

  /** TLS handshakes that have begun and are not complete: for metrics. */
  get handshakes(): number {
    return this.#handshakes.figures.waiting
  }

  /** Ends all that was asked and is not upgraded; the entrance is the caller's to close. */
  async close(): Promise<void> {
    this.#handshakes.stop()
    for (const server of this.#servers) {
      server.closeAllConnections()
      await new Promise<void>((resolve) => server.close(() => resolve()))
    }
  }

  get #servers(): readonly http.Server[] {
    return [this.#plain, this.#secure].flatMap((server) => server ?? [])
  }

  #serve<Server extends http.Server | https.Server>(server: Server): Server {
    const { gate, newcomers, trustedProxies } = this.#options
    server.maxHeadersCount = MAX_FIELDS + 1 // one more than is taken: so that it is seen
    server.on('request', (request: IncomingMessage, response: ServerResponse) => {
      if (request.socket.destroyed) return // what came behind one request too many
      newcomers.remove(request.socket)
      if (this.#unanswered.add(request, response) > MAX_UNANSWERED) return void request.socket.destroy()
      response.once('close', () => {
        if (!request.socket.destroyed) newcomers.add(request.socket)
      })
      gate.add(clientAddress(request, trustedProxies), () => {
        if (!request.socket.destroyed) this.#answer(request, response)
      })
    })
    server.on('upgrade', (request: IncomingMessage, socket: Socket, head: Buffer) => {
      socket.off('error', endAtError).on('error', endAtError)
      if (this.#options.upgrade(request, socket, head)) return
      this.#unanswered.after(socket, () => gate.add(clientAddress(request, trustedProxies), () => readAgain(server, request, socket, head)))
    })
    server.on('connect', (_request: IncomingMessage, socket: Socket) => {
      socket.off('error', endAtError).on('error', endAtError)
      this.#unanswered.after(socket, () => endWith(socket, refusal(400, 'this is no proxy\n')))
    })
    server.on('clientError', (error: Error & { readonly code?: string }, socket: Socket) => {
      const status = refusalOf(error)
      if (status === undefined) return void socket.destroy()
      const broken = this.#unanswered.incomplete(socket)
      if (broken !== undefined) return refuse(broken, status) // its body is no body
      this.#unanswered.after(socket, () => endWith(socket, refusal(status)))
    })
    return server
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const fault = faultOf(request)
    if (response.headersSent) return // refused before its turn came
    if (fault !== undefined) return refuse(response, fault)
    // The absolute form is for proxies, but every server takes it (RFC 9112, section 3.2.2).
    const absolute = /^https?:\/\/[^/?#]*/i.exec(request.url ?? '')
    if (absolute !== null) request.url = `/${(request.url ?? '').slice(absolute[0].length).replace(/^\//, '')}`
    this.#options.request(request, response)
  }

  #arrive(socket: Socket): void {
    const { newcomers, trustedProxies } = this.#options
    socket.on('error', endAtError)
    newcomers.add(socket)
    const address = parseIp(socket.remoteAddress ?? '')?.unmapped()
    // A proxy's clients take turns by their own addresses, later.
    const source = address === undefined || isTrusted(address, trustedProxies) ? undefined : formatIp(address)
    this.#inTurn(source, CONNECTION_MS, socket, () => this.#letIn(socket, source))
  }

  /** Does what a connection asks for when it is its turn, unless it gave way or did not wait. */
  #inTurn(source: string | undefined, costMs: number, socket: Socket, work: () => void): void {
    const { gate } = this.#options
    if (source === undefined) return socket.destroyed ? undefined : work()
    gate.add(source, () => {
      if (socket.destroyed) return
      gate.beside(costMs)
      work()
    })
  }

  #letIn(socket: Socket, source: string | undefined): void {
    const [plain, secure] = [this.#plain, this.#secure]
    if (secure === undefined) return enter(plain, socket)
    this.#firstBytes.wait(socket, (_socket, bytes) => {
      if (bytes[0] !== TLS_HANDSHAKE) return plain === undefined ? endWith(socket, refusal(400, 'this port speaks TLS: write https:// in the address\n')) : enter(plain, socket)
      if (bytes.length > MAX_RECORD_BYTES) return void socket.destroy()
      socket.allowHalfOpen = false
      this.#inTurn(source, SECURE_CONNECTION_MS, socket, () => {
        this.#handshakes.add(socket)
        enter(secure, socket)
      })
    })
  }
}

/** Refuses in the place of an answer. One that has begun is broken off: that says it as well. */
function refuse(response: ServerResponse, status: RefusalStatus): void {
  if (response.headersSent) return void response.destroy()
  response.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8', Connection: 'close' }).end(REFUSAL_TEXTS[status])
}

/** Who is told of an error closes; what went wrong with a stranger's connection is no news. */
function endAtError(this: Socket): void {
  this.destroy()
}

function enter(server: http.Server | undefined, socket: Socket): void {
  server?.emit('connection', socket)
  socket.resume()
}

/** Gives a request to its server again, without what was asked for beside the answer, and what came behind its head. */
function readAgain(server: http.Server | https.Server, request: IncomingMessage, socket: Socket, head: Buffer): void {
  if (socket.destroyed) return
  const { method = 'GET', url = '/', httpVersion, rawHeaders } = request
  const hops = new Set(['upgrade', 'http2-settings'])
  const lines = [`${method} ${url} HTTP/${httpVersion}`]
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    const [name, value] = [rawHeaders[i] ?? '', rawHeaders[i + 1] ?? '']
    if (hops.has(name.toLowerCase())) continue
    const kept = name.toLowerCase() === 'connection' ? value.split(',').filter((word) => !hops.has(word.trim().toLowerCase())).join() : value
    if (kept !== '' || value === '') lines.push(`${name}: ${kept}`)
  }
  socket.unshift(Buffer.concat([Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1'), head]))
  server.emit(server instanceof https.Server ? 'secureConnection' : 'connection', socket)
  socket.resume()
}
