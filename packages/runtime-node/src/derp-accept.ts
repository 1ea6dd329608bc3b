import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import { STATUS_CODES } from 'node:http'
import net from 'node:net'
import type { Duplex } from 'node:stream'
import { TLSSocket } from 'node:tls'
import type { Instant } from '@meshwright/core'
import type { NodePublicKey } from '@meshwright/crypto'
import { decideUpgrade, type DerpServer, type DerpServerInput, type DerpServerOutput, encodeUpgradeResponse, type PlainResponse } from '@meshwright/derp'
import { type Endpoint, formatIp, parseIp } from '@meshwright/ip'
import { BatchedWriter } from './derp-stream.ts'
import { acceptDerpWebSocket, loadWebSockets } from './derp-websocket.ts'
import { drive, type Driver } from './drive.ts'
import type { Gate } from './gate.ts'
import { siteOf } from './newcomers.ts'
import { relayGate, type RelayTurn, RelayTurns } from './relay-turns.ts'

const TCP_KEEPALIVE_MS = 600_000
const VERIFY_TIMEOUT_MS = 5_000
const MAX_VERIFY_ANSWER_BYTES = 4_096
/** So long a refused client may take to read why. */
const LAST_WORDS_MS = 1_000

/** What a client costs on its way in: connection, head and introduction, and the handshake of TLS. */
const ARRIVAL_MS = 0.8
const TLS_ARRIVAL_MS = 3

/** A client that asks to be let in. */
export interface DerpAdmissionRequest {
  readonly nodeKey: NodePublicKey
  /** Where it comes from; absent when the transport does not know. */
  readonly source?: string
}

/** What a relay needs of its surroundings. */
export interface DerpServiceOptions {
  readonly clock: () => Instant
  /** Decides who may use the relay; needed when the machine was made with `admission`. Rejecting, or throwing, is "no". */
  readonly verify?: (request: DerpAdmissionRequest) => Promise<boolean>
  /** Hands a packet to another relay of the region. */
  readonly forward?: (output: Extract<DerpServerOutput, { type: 'forward' }>) => void
  /** Where connections wait for their turn; one of its own unless told, and that of the server around it where there is one. */
  readonly gate?: Gate
  /** One line of what happens, without secrets. */
  readonly log?: (line: string) => void
}

/** A relay on an HTTP server. */
export interface DerpService {
  /** Answers the relay's own paths that are no upgrades; `false` for every other request, untouched. Call it first in the request handler. */
  handleRequest(request: IncomingMessage, response: ServerResponse): boolean
  /** Takes over an upgrade of the path `/derp`; `false` for every other one, untouched. */
  handleUpgrade(request: IncomingMessage, socket: Duplex, head: Uint8Array): boolean
  /** Calls methods of the machine, then performs what it owes. */
  act<Result>(change: (now: Instant, server: DerpServer) => Result): Result
  /** Closes all connections and lets go of the HTTP server. */
  close(): void
}

/**
 * Lets an existing `node:http` or `node:https` server be a relay as well: upgrades of `/derp` become connections of the machine. Other
 * upgrades are left to other listeners, and closed when there are none.
 */
export function attachDerpServer(http: Server | undefined, server: DerpServer, options: DerpServiceOptions): DerpService {
  const service = new Service(server, options)
  const onUpgrade = (request: IncomingMessage, socket: Duplex, head: Uint8Array): void => {
    if (!service.handleUpgrade(request, socket, head) && http?.listenerCount('upgrade') === 1) respond(socket, { status: 404, headers: {}, body: '' })
  }
  http?.on('upgrade', onUpgrade)
  service.onClose = () => http?.off('upgrade', onUpgrade)
  return service
}

/**
 * Asks an HTTP endpoint whether a node may use the relay, as `derper --verify-client-url` does: POST
 * `{"NodePublic","Source"}`, answer `{"Allow"}` within 5 s and 4 KiB. Another status or a broken answer is "no".
 * @param failOpen what holds when the endpoint cannot be reached
 */
export function verifyByUrl(url: string, failOpen: boolean): (request: DerpAdmissionRequest) => Promise<boolean> {
  return async ({ nodeKey, source }) => {
    const body = JSON.stringify({ NodePublic: nodeKey.text, Source: source ?? '' })
    let response: Response
    try {
      response = await fetch(url, { method: 'POST', body, redirect: 'error', signal: AbortSignal.timeout(VERIFY_TIMEOUT_MS) })
    } catch {
      return failOpen // not reached
    }
    if (response.status !== 200) return false
    const text = await readSome(response)
    const answer: unknown = text === undefined ? undefined : JSON.parse(text)
    return typeof answer === 'object' && answer !== null && 'Allow' in answer && answer.Allow === true
  }
}

async function readSome(response: Response): Promise<string | undefined> {
  const parts: Uint8Array[] = []
  let length = 0
  for await (const part of response.body ?? []) {
    length += part.length
    if (length > MAX_VERIFY_ANSWER_BYTES) return undefined
    parts.push(part)
  }
  return Buffer.concat(parts).toString('utf8')
}

class Service implements DerpService {
  onClose: () => void = () => undefined
  readonly #server: DerpServer
  readonly #options: DerpServiceOptions
  readonly #driver: Driver<DerpServerInput>
  readonly #turns: RelayTurns
  readonly #sockets: Map<number, { readonly socket: Duplex; readonly writer: BatchedWriter; readonly turn: RelayTurn }> = new Map()
  #nextConnection = 1
  #closed = false

  constructor(server: DerpServer, options: DerpServiceOptions) {
    this.#server = server
    this.#options = options
    this.#turns = new RelayTurns(options.gate ?? relayGate())
    loadWebSockets()
    this.#driver = drive(server, options.clock, (output) => this.#perform(output))
  }

  handleRequest(request: IncomingMessage, response: ServerResponse): boolean {
    const decision = decide(request)
    if (decision.type === 'other') return false
    // An upgrade without `Connection: Upgrade` is none.
    const answer: PlainResponse = decision.type === 'respond' ? decision.response : { status: 426, headers: { Upgrade: 'DERP' }, body: 'DERP requires connection upgrade\n' }
    response.writeHead(answer.status, answer.headers).end(answer.body)
    return true
  }

  handleUpgrade(request: IncomingMessage, socket: Duplex, head: Uint8Array): boolean {
    const decision = decide(request)
    if (decision.type === 'other') return false
    socket.on('error', () => undefined) // `close` follows each error and tells
    if (decision.type === 'respond') respond(socket, decision.response)
    else if (decision.type === 'websocket') this.#acceptWebSocket(request, socket, head, decision.notIdeal)
    else this.#accept(socket, socket, head, decision.fastStart, decision.notIdeal)
    return true
  }

  act<Result>(change: (now: Instant, server: DerpServer) => Result): Result {
    return this.#driver.act((now) => change(now, this.#server))
  }

  close(): void {
    this.#closed = true
    this.onClose()
    this.#driver.stop()
    for (const { socket } of this.#sockets.values()) socket.destroy()
    this.#sockets.clear()
  }

  #acceptWebSocket(request: IncomingMessage, socket: Duplex, head: Uint8Array, notIdeal: boolean): void {
    acceptDerpWebSocket(request, socket, head).then(
      (stream) => {
        stream.on('error', () => undefined) // `close` follows each error and tells
        // The WebSocket's own answer has gone out: like fast start, frames begin at once.
        this.#accept(stream, socket, new Uint8Array(0), true, notIdeal)
      },
      (error: unknown) => {
        this.#options.log?.(`a WebSocket was refused: ${error instanceof Error ? error.message : 'unknown error'}`)
        if (!socket.writableEnded) socket.destroy()
      },
    )
  }

  #accept(socket: Duplex, transport: Duplex, head: Uint8Array, fastStart: boolean, notIdeal: boolean): void {
    if (this.#closed) return void socket.destroy()
    const conn = this.#nextConnection
    this.#nextConnection += 1
    const from = endpointOf(transport)
    if (transport instanceof net.Socket) transport.setTimeout(0).setNoDelay(true).setKeepAlive(true, TCP_KEEPALIVE_MS)
    const writer = new BatchedWriter(socket, (bytes, drained) => this.#driver.feed(drained ? { type: 'writable', conn } : { type: 'writable', conn, bytes }))
    const turn = this.#turns.add({
      source: siteOf(transport instanceof net.Socket ? transport.remoteAddress : undefined) ?? '',
      arrivalMs: transport instanceof TLSSocket ? TLS_ARRIVAL_MS : ARRIVAL_MS,
      carried: () => this.#server.carriedBytes(conn),
      take: (bytes) => this.#driver.feed({ type: 'bytes', conn, bytes }),
      read: (on) => (on ? socket.resume() : socket.pause()),
      end: () => socket.destroy(),
    })
    this.#sockets.set(conn, { socket, writer, turn })
    socket.on('data', (bytes: Uint8Array) => turn.push(bytes))
    socket.on('end', () => turn.finish())
    socket.once('close', () => {
      turn.close()
      if (this.#sockets.delete(conn)) this.#driver.feed({ type: 'closed', conn })
    })
    // The first thing that a client sees, save under fast start, where there is no answer at all.
    if (!fastStart) writer.write(encodeUpgradeResponse(this.#server.publicKey))
    this.#driver.feed({ type: 'accepted', conn, notIdeal, ...(from && { from }) })
    if (head.length > 0) turn.push(head)
  }

  #perform(output: DerpServerOutput): void {
    switch (output.type) {
      case 'write':
        this.#sockets.get(output.conn)?.writer.write(output.bytes)
        return
      case 'pause':
        this.#sockets.get(output.conn)?.turn.hold(true)
        return
      case 'resume':
        this.#sockets.get(output.conn)?.turn.hold(false)
        return
      case 'close':
        return this.#end(output.conn, output.reason)
      case 'verify':
        void this.#verify(output.conn, output.nodeKey, output.from)
        return
      case 'forward':
        this.#options.forward?.(output)
        return
      case 'peerConnected':
      case 'peerDisconnected':
        this.#options.log?.(`${output.peer.toString()} ${output.type === 'peerConnected' ? 'connected' : 'disconnected'}`)
        return
    }
  }

  #end(conn: number, reason: string): void {
    const entry = this.#sockets.get(conn)
    if (entry === undefined) return
    this.#sockets.delete(conn)
    entry.turn.close()
    entry.writer.flush()
    entry.socket.destroy()
    this.#options.log?.(`connection ${conn} closed: ${reason}`)
  }

  async #verify(conn: number, nodeKey: NodePublicKey, from: Endpoint | undefined): Promise<void> {
    let allow = false
    try {
      allow = (await this.#options.verify?.({ nodeKey, ...(from && { source: formatIp(from.ip) }) })) === true
    } catch (error) {
      this.#options.log?.(`admission of ${nodeKey.toString()} could not be decided: ${error instanceof Error ? error.message : 'unknown error'}`)
    }
    this.#driver.feed({ type: 'verified', conn, allow })
  }
}

function decide(request: IncomingMessage): ReturnType<typeof decideUpgrade> {
  return decideUpgrade({
    method: request.method ?? 'GET',
    path: request.url ?? '/',
    header: (name) => {
      const value = request.headers[name]
      return Array.isArray(value) ? value.join(', ') : value
    },
  })
}

function endpointOf(socket: Duplex): Endpoint | undefined {
  if (!(socket instanceof net.Socket)) return undefined
  const ip = parseIp(socket.remoteAddress ?? '')?.unmapped()
  return ip && { ip, port: socket.remotePort ?? 0 }
}

/**
 * Answers a socket that an HTTP server has handed over, and ends it: the server listens for its errors and looks after its time no more, so that
 * nobody else does either.
 */
function respond(socket: Duplex, response: PlainResponse): void {
  socket.on('error', () => socket.destroy())
  const grace = setTimeout(() => socket.destroy(), LAST_WORDS_MS)
  socket.once('close', () => clearTimeout(grace))
  const headers = { ...response.headers, 'Content-Length': String(Buffer.byteLength(response.body)), Connection: 'close' }
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  socket.end(`HTTP/1.1 ${response.status} ${STATUS_CODES[response.status] ?? ''}\r\n${lines.join('')}\r\n${response.body}`)
}
