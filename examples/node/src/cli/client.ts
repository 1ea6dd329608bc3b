import http from 'node:http'
import type { Duplex } from 'node:stream'

const HOST = 'local-tailscaled.sock'
const BASE = '/localapi/v0/'

/** A command that cannot be carried out: printed as it is, with the exit status. */
export class CommandError extends Error {
  readonly status: number
  constructor(message: string, status: number = 1) {
    super(message)
    this.name = 'CommandError'
    this.status = status
  }
}

/** Any JSON object. */
export type Json = Readonly<Record<string, unknown>>

/** Speaks with the daemon over its Unix socket. */
export class DaemonClient {
  readonly #socket: string

  constructor(socket: string) {
    this.#socket = socket
  }

  /** Sends a request and gives the JSON object of the answer; `{}` when it has no body. Rejects with an `AbortError` or `TimeoutError` when `signal` aborts. */
  async call(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Json> {
    const response = await this.#request(method, path, body, signal)
    const chunks: Buffer[] = []
    for await (const chunk of response) chunks.push(chunk as Buffer)
    const text = Buffer.concat(chunks).toString('utf8')
    if ((response.statusCode ?? 500) >= 300) throw new CommandError(errorText(text))
    if (text.trim() === '') return {}
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null ? { ...value } : {}
  }

  /** The text of an answer. */
  async text(path: string): Promise<string> {
    const response = await this.#request('GET', path)
    const chunks: Buffer[] = []
    for await (const chunk of response) chunks.push(chunk as Buffer)
    return Buffer.concat(chunks).toString('utf8')
  }

  /** Notifications of the daemon, one by one, until `take` says that it has heard enough. */
  async watch(mask: number, take: (notify: Json) => boolean, signal?: AbortSignal): Promise<void> {
    const response = await this.#request('GET', `watch-ipn-bus?mask=${mask}`, undefined, signal)
    let rest = ''
    try {
      for await (const chunk of response) {
        rest += String(chunk)
        for (let end = rest.indexOf('\n'); end >= 0; end = rest.indexOf('\n')) {
          const line = rest.slice(0, end)
          rest = rest.slice(end + 1)
          if (line.trim() !== '' && take(JSON.parse(line) as Json)) return
        }
      }
    } finally {
      response.destroy()
    }
    throw new CommandError('the daemon has closed the connection')
  }

  /** A stream through the mesh. */
  dial(host: string, port: number): Promise<Duplex> {
    return new Promise((resolve, reject) => {
      const request = http.request({
        socketPath: this.#socket,
        method: 'POST',
        path: `${BASE}dial`,
        headers: { Host: HOST, Upgrade: 'ts-dial', Connection: 'upgrade', 'Dial-Host': host, 'Dial-Port': String(port) },
      })
      request.on('upgrade', (_response, socket, head) => {
        if (head.length > 0) socket.unshift(head)
        resolve(socket)
      })
      request.on('response', (response) => {
        response.setEncoding('utf8')
        let text = ''
        response.on('data', (chunk: string) => (text += chunk))
        response.on('end', () => reject(new CommandError(text.trim() || `the daemon answered ${response.statusCode ?? 0}`)))
      })
      request.on('error', (error) => reject(this.#unreachable(error)))
      request.end()
    })
  }

  #request(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<http.IncomingMessage> {
    return new Promise((resolve, reject) => {
      const request = http.request(
        { socketPath: this.#socket, method, path: BASE + path, headers: { Host: HOST, ...(body === undefined ? {} : { 'Content-Type': 'application/json' }) }, ...(signal === undefined ? {} : { signal }) },
        resolve,
      )
      request.on('error', (error) => reject(error.name === 'AbortError' ? error : this.#unreachable(error)))
      request.end(body === undefined ? undefined : JSON.stringify(body))
    })
  }

  #unreachable(error: Error): CommandError {
    return new CommandError(`failed to connect to the local meshwrightd on ${this.#socket} (${error.message}).\nIs it running? Start it with "meshwrightd --socket=${this.#socket}", or name its socket with --socket.`)
  }
}

function errorText(text: string): string {
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null && 'error' in value && typeof value.error === 'string') return value.error
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
  }
  return text.trim() || 'the daemon refused the request without a word'
}
