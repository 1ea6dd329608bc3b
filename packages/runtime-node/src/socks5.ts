import { createServer, type Server, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'

const VERSION = 5
const NO_AUTHENTICATION = 0
const NO_ACCEPTABLE_METHOD = 0xff
const COMMAND_CONNECT = 1
const ADDRESS_IPV4 = 1
const ADDRESS_NAME = 3
const ADDRESS_IPV6 = 4
const REPLY_OK = 0
const REPLY_GENERAL_FAILURE = 1
const REPLY_NOT_ALLOWED = 2
const REPLY_HOST_UNREACHABLE = 4
const REPLY_REFUSED = 5
const REPLY_TIMED_OUT = 6
const REPLY_COMMAND_NOT_SUPPORTED = 7
const REPLY_ADDRESS_NOT_SUPPORTED = 8
const MAX_REQUEST_BYTES = 600
const REQUEST_TIMEOUT_MS = 10_000

/**
 * Connects to a host (name or address) and port, wherever that may be. The error's `code` (`ECONNREFUSED`, `ETIMEDOUT`...) becomes the
 * reply. `signal` aborts when the client has gone before it was answered: nobody waits for the connection any more.
 */
export type Socks5Dial = (host: string, port: number, signal: AbortSignal) => Promise<Duplex>

/**
 * A SOCKS5 proxy (RFC 1928: CONNECT with names, IPv4 and IPv6, without authentication) over any way to dial: the door from a computer's
 * own programs into a mesh. Listen on loopback only: whoever reaches the port speaks with this node's rights.
 */
export function createSocks5Server(dial: Socks5Dial): Server {
  return createServer({ allowHalfOpen: true }, (socket) => {
    serve(socket, dial).catch(() => socket.destroy())
  })
}

async function serve(socket: Socket, dial: Socks5Dial): Promise<void> {
  socket.on('error', () => socket.destroy())
  socket.setNoDelay(true)
  const reader = new RequestReader(socket)
  const greeting = await reader.take(2)
  const methods = greeting?.[0] === VERSION ? await reader.take(greeting[1] ?? 0) : undefined
  if (methods === undefined) {
    socket.destroy()
    return
  }
  if (!methods.includes(NO_AUTHENTICATION)) {
    socket.end(Buffer.of(VERSION, NO_ACCEPTABLE_METHOD))
    return
  }
  socket.write(Buffer.of(VERSION, NO_AUTHENTICATION))
  const head = await reader.take(4)
  if (head === undefined || head[0] !== VERSION) {
    socket.destroy()
    return
  }
  const host = await readHost(reader, head[3] ?? 0)
  const port = await reader.take(2)
  if (host === undefined || port === undefined) {
    socket.end(reply(REPLY_ADDRESS_NOT_SUPPORTED))
    return
  }
  if (head[1] !== COMMAND_CONNECT) {
    socket.end(reply(REPLY_COMMAND_NOT_SUPPORTED))
    return
  }
  const gone = new AbortController()
  const onGone = (): void => gone.abort()
  socket.once('close', onGone)
  let upstream: Duplex
  try {
    upstream = await dial(host, port.readUInt16BE(0), gone.signal)
  } catch (error) {
    socket.end(reply(replyFor(error)))
    return
  } finally {
    socket.off('close', onGone)
  }
  reader.release()
  if (socket.destroyed) {
    upstream.destroy()
    return
  }
  socket.write(reply(REPLY_OK))
  upstream.on('error', () => socket.destroy())
  // After an orderly end, what has come is still on its way to a client that reads slowly.
  upstream.on('close', () => (upstream.readableEnded && !socket.writableFinished ? void socket.once('finish', () => socket.destroy()) : socket.destroy()))
  socket.on('close', () => upstream.destroy())
  socket.pipe(upstream)
  upstream.pipe(socket)
}

async function readHost(reader: RequestReader, type: number): Promise<string | undefined> {
  if (type === ADDRESS_IPV4) return (await reader.take(4))?.join('.')
  if (type === ADDRESS_IPV6) {
    const bytes = await reader.take(16)
    return bytes && Array.from({ length: 8 }, (_, i) => bytes.readUInt16BE(i * 2).toString(16)).join(':')
  }
  if (type !== ADDRESS_NAME) return undefined
  const length = await reader.take(1)
  const name = length && (await reader.take(length[0] ?? 0))
  return name === undefined || name.length === 0 ? undefined : name.toString('latin1')
}

function reply(code: number): Buffer {
  return Buffer.of(VERSION, code, 0, ADDRESS_IPV4, 0, 0, 0, 0, 0, 0)
}

function replyFor(error: unknown): number {
  const code = typeof error === 'object' && error !== null && 'code' in error ? error.code : undefined
  if (code === 'ECONNREFUSED' || code === 'ECONNRESET') return REPLY_REFUSED
  if (code === 'ETIMEDOUT') return REPLY_TIMED_OUT
  if (code === 'EHOSTUNREACH' || code === 'ENETUNREACH' || code === 'ENOTFOUND') return REPLY_HOST_UNREACHABLE
  if (code === 'EACCES') return REPLY_NOT_ALLOWED
  return REPLY_GENERAL_FAILURE
}

/** Takes exactly as many bytes as a request needs, and gives the rest back to the stream. */
class RequestReader {
  readonly #socket: Socket
  readonly #timer: NodeJS.Timeout
  #bytes: Buffer = Buffer.alloc(0)
  #taken = 0
  #over = false
  #wake: () => void = () => undefined

  constructor(socket: Socket) {
    this.#socket = socket
    this.#timer = setTimeout(() => socket.destroy(), REQUEST_TIMEOUT_MS)
    socket.on('data', this.#onData)
    for (const event of ['end', 'close']) socket.once(event, this.#onEnd)
  }

  /** The next bytes, or `undefined` when the stream ends before, or the request is longer than any honest one. */
  async take(length: number): Promise<Buffer | undefined> {
    this.#taken += length
    if (this.#taken > MAX_REQUEST_BYTES) return undefined
    while (this.#bytes.length < length) {
      if (this.#over) return undefined
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    const taken = this.#bytes.subarray(0, length)
    this.#bytes = this.#bytes.subarray(length)
    return taken
  }

  /** Ends the reading; what came behind the request is the first to be read from the stream again. */
  release(): void {
    clearTimeout(this.#timer)
    this.#socket.pause()
    this.#socket.off('data', this.#onData)
    if (this.#bytes.length > 0) this.#socket.unshift(this.#bytes)
  }

  readonly #onData = (bytes: Buffer): void => {
    this.#bytes = Buffer.concat([this.#bytes, bytes])
    if (this.#bytes.length > MAX_REQUEST_BYTES * 100) this.#socket.pause() // impatient, but honest: it may send before it is answered
    this.#wake()
  }

  readonly #onEnd = (): void => {
    this.#over = true
    clearTimeout(this.#timer)
    this.#wake()
  }
}
