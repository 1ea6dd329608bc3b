import http from 'node:http'
import { Readable, type Duplex } from 'node:stream'
import type { ReadableStream } from 'node:stream/web'

/** Opens a TCP connection over the mesh. */
export type MeshDial = (host: string, port: number, options: { readonly signal?: AbortSignal }) => Promise<Duplex>

const HTTP_PORT = 80
/** Answers that have no body by definition (RFC 9110 section 6.4.1): `Response` refuses one. */
const WITHOUT_BODY: readonly number[] = [101, 103, 204, 205, 304]

/** An `http.Agent` whose connections go over the mesh: `http.get(url, { agent })`. Give it back with `destroy()`. */
export class MeshAgent extends http.Agent {
  readonly #dial: MeshDial

  constructor(dial: MeshDial, options: http.AgentOptions = {}) {
    super(options)
    this.#dial = dial
  }

  override createConnection(options: http.ClientRequestArgs, done?: (error: Error | null, stream: Duplex) => void): undefined {
    const signal = options.signal
    this.#dial(options.host ?? options.hostname ?? 'localhost', Number(options.port ?? HTTP_PORT), signal === undefined ? {} : { signal }).then(
      (stream) => done?.(null, stream),
      // Node's own callback takes the error alone; the type asks for a stream all the same.
      (error: unknown) => (done as ((error: Error) => void) | undefined)?.(error instanceof Error ? error : new Error(String(error))),
    )
    return undefined
  }
}

/**
 * `fetch` over the mesh, for `http:` URLs whose host is a name or an address of the mesh: what travels is encrypted by the tunnel.
 * Redirects are handed back as they are, never followed to elsewhere.
 * @throws TypeError for other URLs; the reason of the abort; the error of the connection
 */
export async function meshFetch(agent: http.Agent, input: string | URL | Request, init?: RequestInit): Promise<Response> {
  const request = new Request(input, init)
  const url = new URL(request.url)
  if (url.protocol !== 'http:') throw new TypeError(`only http: URLs are fetched over the mesh, not ${url.protocol}`)
  request.signal.throwIfAborted()
  const answer = await new Promise<http.IncomingMessage>((resolve, reject) => {
    const outgoing = http.request(url, { agent, method: request.method, headers: Object.fromEntries(request.headers), signal: request.signal }, resolve)
    outgoing.on('error', (error) => reject(request.signal.aborted ? request.signal.reason : error))
    if (request.body === null) outgoing.end()
    else Readable.fromWeb(request.body as ReadableStream).on('error', (error) => outgoing.destroy(error)).pipe(outgoing) // the same class under two names
  })
  const headers = new Headers()
  for (let i = 0; i + 1 < answer.rawHeaders.length; i += 2) headers.append(answer.rawHeaders[i] ?? '', answer.rawHeaders[i + 1] ?? '')
  const status = answer.statusCode ?? 0
  const empty = WITHOUT_BODY.includes(status)
  if (empty) answer.resume()
  return new Response(empty ? null : (Readable.toWeb(untilAborted(answer, request)) as unknown as globalThis.ReadableStream<Uint8Array>), { status, statusText: answer.statusMessage ?? '', headers })
}

// An abort while the body comes ends it with the signal's reason, as `fetch` does it; Node would say that the connection was reset. The
// request is held as long as its answer: its signal follows the caller's only while it lives.
function untilAborted(answer: http.IncomingMessage, request: Request): Readable {
  const onAbort = (): void => void answer.destroy(request.signal.reason instanceof Error ? request.signal.reason : new Error(String(request.signal.reason)))
  request.signal.addEventListener('abort', onAbort, { once: true })
  answer.once('close', () => request.signal.removeEventListener('abort', onAbort))
  if (request.signal.aborted) onAbort()
  return answer
}
