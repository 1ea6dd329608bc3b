import http from 'node:http'
import http2 from 'node:http2'
import https from 'node:https'
import net, { isIP } from 'node:net'
import { Duplex } from 'node:stream'
import tls from 'node:tls'
import {
  CAPABILITY_VERSION,
  decodeDocument,
  decodeOverTLSPublicKeyResponse,
  type EarlyNoise,
  formatHandshakeHeader,
  NOISE_HANDSHAKE_HEADER,
  NOISE_UPGRADE,
  NoiseInitiator,
} from '@meshwright/control-protocol'
import type { ControlClientOutput, ControlResponseInput } from '@meshwright/control-client'
import { MeshwrightError, type RandomSource } from '@meshwright/core'
import { type CryptoProvider, type MachinePrivateKey, MachinePublicKey, nobleProvider } from '@meshwright/crypto'
import { keepPinging } from './control-ping.ts'
import { NoiseStream } from './noise-stream.ts'
import type { Outside } from './outside.ts'

/** Codes of the errors of dialling and accepting control connections. */
export type ControlConnectionErrorCode =
  | 'RUNTIME_CONTROL_URL'
  | 'RUNTIME_CONTROL_UNREACHABLE'
  | 'RUNTIME_CONTROL_KEY'
  | 'RUNTIME_CONTROL_UPGRADE'
  | 'RUNTIME_CONTROL_CHANNEL'

/** A control connection that could not be made, or broke. */
export class ControlConnectionError extends MeshwrightError<ControlConnectionErrorCode> {}

/** How to reach a control server. */
export interface ControlDialOptions {
  /** `https://control.example.com` or `http://127.0.0.1:8080`, without a path. */
  readonly url: string
  readonly machineKey: MachinePrivateKey
  /** The server's Noise key, where it is known; otherwise it is asked for, and with https the certificate vouches for the answer. */
  readonly serverKey?: MachinePublicKey
  readonly random: RandomSource
  readonly provider?: CryptoProvider
  /** Capability version; default: the one that this project speaks. */
  readonly version?: number
  /** For key, connection and handshake together; default 10 s. */
  readonly timeoutMs?: number
  /** Certificates (PEM) to trust instead of the system's. */
  readonly ca?: string
  /** How often the connection is tried by an HTTP/2 ping; one that is not answered until the next is dead. Default 30 s. */
  readonly pingEveryMs?: number
  /** Gives up when aborted, until there is a connection. */
  readonly signal?: AbortSignal
  /** How connections are opened; default: the system's way. */
  readonly outside?: Outside
}

/** One request inside the channel. */
export interface ControlRequest {
  readonly method: string
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: Uint8Array | undefined
}

/** What becomes of a request: `response`, chunks, then `end` or `failed`; or `failed` at once. Nothing after `cancel`. */
export interface ControlRequestEvents {
  response(status: number, retryAfter: string | undefined): void
  chunk(bytes: Uint8Array): void
  end(): void
  failed(message: string): void
}

/** HTTP/2 inside the Noise channel to one control server. */
export interface ControlConnection {
  readonly serverKey: MachinePublicKey
  /** What the server said first, once it has. */
  readonly early: EarlyNoise | undefined
  /** False once the connection is closing: make a new one. */
  readonly usable: boolean
  /** The address of this computer that it was made from. */
  readonly localAddress: string | undefined
  /** Sends a request; the function given back resets it. */
  request(request: ControlRequest, events: ControlRequestEvents): () => void
  close(): void
}

const DEFAULT_TIMEOUT_MS = 10_000
const PING_EVERY_MS = 30_000
const MAX_KEY_ANSWER_BYTES = 65_536
const WINDOW_BYTES = 4_194_304

/**
 * Asks for a server's Noise key: `GET /key`.
 * @throws RUNTIME_CONTROL_URL, RUNTIME_CONTROL_UNREACHABLE, RUNTIME_CONTROL_KEY
 */
export async function fetchControlKey(options: Pick<ControlDialOptions, 'url' | 'version' | 'timeoutMs' | 'ca' | 'signal' | 'outside'>): Promise<MachinePublicKey> {
  const base = parseBase(options.url)
  const request = start(base, `/key?v=${options.version ?? CAPABILITY_VERSION}`, 'GET', {}, options)
  const body = await new Promise<Uint8Array>((resolve, reject) => {
    request.once('error', (cause) => reject(unreachable(base, cause)))
    request.once('response', (response) => {
      const parts: Buffer[] = []
      let bytes = 0
      response.on('data', (part: Buffer) => {
        bytes += part.length
        if (bytes > MAX_KEY_ANSWER_BYTES) request.destroy(new Error('the answer is too long'))
        else parts.push(part)
      })
      response.once('error', (cause) => reject(unreachable(base, cause)))
      response.once('end', () => {
        if (response.statusCode === 200) return resolve(Buffer.concat(parts))
        const text = Buffer.concat(parts).toString('utf8', 0, 200).trim()
        reject(new ControlConnectionError('RUNTIME_CONTROL_KEY', `${base.origin}/key answered with status ${response.statusCode ?? 0}: ${text}`, NOT_A_CONTROL_SERVER))
      })
    })
    request.end()
  })
  const decoded = decodeDocument(decodeOverTLSPublicKeyResponse, body)
  const key = decoded.ok ? MachinePublicKey.parse(decoded.value.publicKey) : undefined
  if (key === undefined || key.isZero) throw new ControlConnectionError('RUNTIME_CONTROL_KEY', `${base.origin}/key does not name a Noise key`, NOT_A_CONTROL_SERVER)
  return key
}

/**
 * Connects to a control server: key, HTTP upgrade, Noise, HTTP/2.
 * @throws RUNTIME_CONTROL_URL, RUNTIME_CONTROL_UNREACHABLE, RUNTIME_CONTROL_KEY, RUNTIME_CONTROL_UPGRADE, RUNTIME_CONTROL_CHANNEL
 */
export async function dialControl(options: ControlDialOptions): Promise<ControlConnection> {
  const base = parseBase(options.url)
  const serverKey = options.serverKey ?? (await fetchControlKey(options))
  const channel = new NoiseInitiator({
    provider: options.provider ?? nobleProvider,
    random: options.random,
    machineKey: options.machineKey,
    serverKey,
    version: options.version ?? CAPABILITY_VERSION,
  })
  const socket = await upgrade(base, channel.initiation, options)
  let early: EarlyNoise | undefined
  const stream = new NoiseStream(socket.stream, channel)
  const giveUp = (): void => void stream.destroy(new Error('the dial was given up'))
  options.signal?.addEventListener('abort', giveUp, { once: true })
  try {
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => stream.destroy(new Error('the handshake took too long')), options.timeoutMs ?? DEFAULT_TIMEOUT_MS)
      stream.once('established', () => {
        clearTimeout(timer)
        resolve()
      })
      stream.once('error', (cause: Error) => {
        clearTimeout(timer)
        reject(new ControlConnectionError('RUNTIME_CONTROL_CHANNEL', `no Noise channel to ${base.origin}: ${cause.message}`, { cause }))
      })
      stream.once('close', () => {
        clearTimeout(timer)
        reject(new ControlConnectionError('RUNTIME_CONTROL_CHANNEL', `${base.origin} closed the connection during the handshake`))
      })
      stream.on('early', (payload: EarlyNoise) => {
        early = payload
      })
      stream.begin(socket.head)
    })
  } catch (error) {
    stream.destroy()
    throw error
  } finally {
    options.signal?.removeEventListener('abort', giveUp)
  }
  const session = http2.connect(base.origin, { createConnection: () => stream, settings: { enablePush: false, initialWindowSize: WINDOW_BYTES } })
  session.on('error', () => {}) // told to every request by its own 'error' or 'close'
  session.once('connect', () => {
    if (!session.destroyed) session.setLocalWindowSize(WINDOW_BYTES)
  })
  keepPinging(session, options.pingEveryMs ?? PING_EVERY_MS, 'the control server')
  return {
    serverKey,
    get early() {
      return early
    },
    get usable() {
      return !session.closed && !session.destroyed && !stream.destroyed
    },
    localAddress: socket.stream instanceof net.Socket ? socket.stream.localAddress : undefined,
    request: (request, events) => send(session, base.host, request, events),
    close: () => session.destroy(),
  }
}

/**
 * Carries the requests of a `ControlClient`: dials when there is something to send and no connection, shares one connection among all
 * requests, and reports every end. Give it the client's `request` and `cancel` outputs; it calls `feed` with the client's inputs.
 */
export class ControlTransport {
  readonly #options: ControlDialOptions
  readonly #feed: (input: ControlResponseInput) => void
  readonly #cancels = new Map<number, () => void>()
  #connection: ControlConnection | undefined
  #dialling: Promise<ControlConnection> | undefined
  #giveUp: AbortController = new AbortController()
  #serverKey: MachinePublicKey | undefined
  #closed = false

  constructor(options: ControlDialOptions, feed: (input: ControlResponseInput) => void) {
    this.#options = options
    this.#feed = feed
  }

  /** Sends a request, or resets one. */
  perform(output: Extract<ControlClientOutput, { type: 'request' | 'cancel' }>): void {
    if (output.type === 'cancel') {
      this.#cancels.get(output.id)?.()
      this.#cancels.delete(output.id)
      return
    }
    const { id } = output
    let cancelled = false
    this.#cancels.set(id, () => {
      cancelled = true
    })
    this.#connect().then(
      (connection) => {
        if (cancelled || this.#closed) return
        this.#cancels.set(id, connection.request(output, this.#events(id)))
      },
      (error: unknown) => {
        if (cancelled || this.#closed) return
        this.#cancels.delete(id)
        this.#feed({ type: 'failed', id, message: error instanceof Error ? error.message : 'unknown failure' })
      },
    )
  }

  /** The address of this computer that the open connection was made from. */
  get localAddress(): string | undefined {
    return this.#connection?.usable === true ? this.#connection.localAddress : undefined
  }

  /**
   * Gives the connection up, or the attempt to make one: the network has changed, and it may be dead without knowing it. Every request on it
   * fails; the next one dials.
   */
  reset(): void {
    this.#giveUp.abort()
    this.#dialling = undefined
    this.#connection?.close()
    this.#connection = undefined
  }

  /** Closes the connection. Nothing is fed any more. */
  close(): void {
    this.#closed = true
    this.#cancels.clear()
    this.#connection?.close()
    this.#connection = undefined
    this.#giveUp.abort()
  }

  async #connect(): Promise<ControlConnection> {
    if (this.#closed) throw new ControlConnectionError('RUNTIME_CONTROL_UNREACHABLE', 'the transport is closed')
    if (this.#connection?.usable === true) return this.#connection
    if (this.#dialling === undefined) this.#giveUp = new AbortController()
    const { signal } = this.#giveUp
    const dialling = (this.#dialling ??= dialControl({ ...this.#options, signal }).finally(() => {
      if (this.#dialling === dialling) this.#dialling = undefined
    }))
    const connection = await dialling
    if (this.#closed || signal.aborted) connection.close() // requests on it fail
    else this.#connection = this.#checked(connection)
    return connection
  }

  /**
   * With https the certificate vouches for whatever key the server has now. Without it the first key of this run holds, as it does for real
   * clients (tailscale/tailscale:control/controlclient/direct.go): else anybody on the way could take the node over in the middle of it.
   */
  #checked(connection: ControlConnection): ControlConnection {
    this.#serverKey ??= connection.serverKey
    if (this.#serverKey.equals(connection.serverKey)) return connection
    if (this.#options.url.startsWith('https:')) {
      this.#serverKey = connection.serverKey
      return connection
    }
    connection.close()
    const remedy = 'If the server was set up anew, start this node again; else somebody stands between.'
    throw new ControlConnectionError('RUNTIME_CONTROL_KEY', `${this.#options.url} shows another key than before (${connection.serverKey.short}, it was ${this.#serverKey.short}). ${remedy}`, { remedy })
  }

  #events(id: number): ControlRequestEvents {
    const feed = (input: ControlResponseInput): void => {
      if (!this.#closed) this.#feed(input)
    }
    return {
      response: (status, retryAfter) => feed({ type: 'response', id, status, ...(retryAfter !== undefined && { retryAfter }) }),
      chunk: (bytes) => feed({ type: 'chunk', id, bytes }),
      end: () => {
        this.#cancels.delete(id)
        feed({ type: 'end', id })
      },
      failed: (message) => {
        this.#cancels.delete(id)
        feed({ type: 'failed', id, message })
      },
    }
  }
}

const NOT_A_CONTROL_SERVER = { remedy: 'Check that the login server is the address of a control server.' }

/** What makes a text the address of a control server. */
export const CONTROL_URL_FORM = 'Give http://HOST:PORT or https://HOST, without a path.'

/** The address of a control server; `undefined` for what is none. */
export function parseControlUrl(url: string): URL | undefined {
  const base = URL.canParse(url) ? new URL(url) : undefined
  return base !== undefined && (base.protocol === 'http:' || base.protocol === 'https:') && base.pathname === '/' && base.username === '' && base.search === '' ? base : undefined
}

function parseBase(url: string): URL {
  const base = parseControlUrl(url)
  if (base !== undefined) return base
  throw new ControlConnectionError('RUNTIME_CONTROL_URL', `'${url}' is not the address of a control server`, { remedy: CONTROL_URL_FORM })
}

function unreachable(base: URL, cause: Error): ControlConnectionError {
  return new ControlConnectionError('RUNTIME_CONTROL_UNREACHABLE', `cannot reach ${base.origin}: ${cause.message === '' ? 'connection refused' : cause.message}`, { cause })
}

function start(base: URL, path: string, method: string, headers: Record<string, string>, options: Pick<ControlDialOptions, 'timeoutMs' | 'ca' | 'signal' | 'outside'>): http.ClientRequest {
  // An agent of any kind, also the one that `agent: false` makes, would pass by `createConnection`.
  const way = options.outside === undefined ? { agent: false as const } : { createConnection: connector(base, options.outside, options.ca) }
  const limit = AbortSignal.timeout(options.timeoutMs ?? DEFAULT_TIMEOUT_MS)
  const settings = { method, headers, signal: options.signal === undefined ? limit : AbortSignal.any([limit, options.signal]), ...way }
  const url = new URL(path, base)
  if (base.protocol === 'http:') return http.request(url, settings)
  return https.request(url, { ...settings, ...(options.ca !== undefined && { ca: options.ca }) })
}

type Connector = NonNullable<http.RequestOptions['createConnection']>

function connector(base: URL, outside: Outside, ca: string | undefined): Connector {
  const secure = base.protocol === 'https:'
  const host = base.hostname.replace(/^\[|\]$/g, '')
  return (_options, done) => {
    outside.connect(host, base.port === '' ? (secure ? 443 : 80) : Number(base.port)).then(
      (socket) => done(null, secure ? tls.connect({ socket, host, ...(isIP(host) === 0 && { servername: host }), ...(ca !== undefined && { ca }) }) : socket),
      (error: unknown) => done(error instanceof Error ? error : new Error(String(error)), new Duplex()),
    )
    return undefined
  }
}

async function upgrade(base: URL, initiation: Uint8Array, options: ControlDialOptions): Promise<{ stream: Duplex; head: Uint8Array }> {
  const headers = { Upgrade: NOISE_UPGRADE, Connection: 'upgrade', [NOISE_HANDSHAKE_HEADER]: formatHandshakeHeader(initiation), 'Content-Length': '0' }
  const request = start(base, '/ts2021', 'POST', headers, options)
  return new Promise((resolve, reject) => {
    request.once('error', (cause) => reject(unreachable(base, cause)))
    request.once('response', (response) => {
      response.destroy()
      reject(
        new ControlConnectionError('RUNTIME_CONTROL_UPGRADE', `${base.origin}/ts2021 answered with status ${response.statusCode ?? 0} instead of switching protocols`, {
          remedy: 'If a reverse proxy stands before the server, let it pass WebSocket-like upgrades of POST requests.',
        }),
      )
    })
    request.once('upgrade', (response, stream, head) => {
      if (response.headers.upgrade === NOISE_UPGRADE) return resolve({ stream, head })
      stream.destroy()
      reject(new ControlConnectionError('RUNTIME_CONTROL_UPGRADE', `${base.origin}/ts2021 switched to another protocol`))
    })
    request.end()
  })
}

function send(session: http2.ClientHttp2Session, host: string, request: ControlRequest, events: ControlRequestEvents): () => void {
  let over = false
  const fail = (message: string): void => {
    if (over) return
    over = true
    events.failed(message)
  }
  if (session.closed || session.destroyed) {
    queueMicrotask(() => fail('the connection is closed'))
    return () => {
      over = true
    }
  }
  const head = { ...request.headers, ':method': request.method, ':path': request.path, ':scheme': 'https', ':authority': host }
  const stream = session.request(head, { endStream: request.body === undefined })
  let ended = false
  stream.on('response', (headers) => {
    if (!over) events.response(headers[':status'] ?? 0, headers['retry-after'])
    // Not before: when head and body come in one read, Node tells of the body first.
    stream.on('data', (bytes: Buffer) => {
      if (!over) events.chunk(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length))
    })
  })
  stream.on('end', () => {
    ended = true
  })
  stream.on('error', (error) => fail(error.message))
  stream.on('close', () => {
    if (over) return
    if (!ended || stream.rstCode !== http2.constants.NGHTTP2_NO_ERROR) return fail(`the stream was reset (code ${stream.rstCode})`)
    over = true
    events.end()
  })
  if (request.body !== undefined) stream.end(request.body)
  else stream.resume()
  return () => {
    over = true
    stream.close(http2.constants.NGHTTP2_CANCEL)
  }
}
