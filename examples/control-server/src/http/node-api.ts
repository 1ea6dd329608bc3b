import http2 from 'node:http2'
import { decodeAuditLogRequest, decodeDocument, decodeMapRequest, decodeQueryFeatureRequest, decodeRegisterRequest, type Decoded, encodeJson, type JsonDecoder } from '@meshwright/control-protocol'
import type { ControlService } from '../control-service.ts'
import { reasonOf } from '../failure.ts'
import type { Log } from '../log.ts'
import type { AcceptedControl } from '../runtime.ts'
import { BODY_WITHIN_MS, BodyBudget, type BodyProblem, readBody } from './body.ts'
import { RateLimit } from './rate-limit.ts'

const MAX_BODY_BYTES = 1_048_576
/** Of a machine that holds no node: all that it may want is to register, in a few kilobytes. What is longer shares little. */
const LONG_STRANGER_BODY_BYTES = 65_536
/** Bodies that are being read: of one connection, and of all together. */
const MAX_CONNECTION_BYTES = 4 * MAX_BODY_BYTES
const MAX_READING_BYTES = 64 * MAX_BODY_BYTES
const MAX_STRANGERS_READING_BYTES = 6 * MAX_BODY_BYTES
const MAX_STRANGERS_LONG_BYTES = 2 * MAX_BODY_BYTES
/** Requests of one connection: far more than any client has to ask. */
const REQUESTS_AT_ONCE = 1_000
const REQUESTS_PER_SECOND = 200
const STRANGER_REQUESTS_AT_ONCE = 200
const STRANGER_REQUESTS_PER_SECOND = 20
/** HTTP/2 pings, settings and requests taken back, of one connection: clients do each every few seconds at most. */
const SIGNALS_AT_ONCE = 200
const SIGNALS_PER_SECOND = 20
/** An answer that nobody reads holds memory: so long it may. */
const UNREAD_MS = 60_000
const BUSY_SECONDS = 5
/** A stranger whose body was refused has so long to read why; then its connection ends. */
const LAST_WORDS_MS = 500
/** From which node to which: numbers below 2^53. */
const SSH_ACTION = /^\/machine\/ssh\/action\/([0-9]{1,15})\/to\/([0-9]{1,15})$/
const MAX_USER_NAME = 256

/** One request of a node, its body still unread. */
interface Call {
  readonly stream: http2.ServerHttp2Stream
  readonly machineKey: string
  readonly source: string
  readonly session: http2.ServerHttp2Session
  /** Whether its machine holds no node. */
  readonly strange: boolean
  readonly reading: readonly BodyBudget[]
  /** How long it says that its body is. */
  readonly declared: number | undefined
  /** Its connection is read no further. */
  refuse(): void
}

/** What the door wants to know of a connection. */
export interface ConnectionEvents {
  /** Called once: a node of this machine is registered. */
  proved(): void
  /** Something was asked. */
  asked(): void
  /** It is read no further, and will be ended. */
  refused(): void
}

/** What is held for nodes and strangers at this moment. */
export interface NodeApiFigures {
  /** Channels that are open, and requests on them that are not over: map streams too. */
  readonly channels: number
  readonly requests: number
  /** Bytes of bodies that are being read. */
  readonly readingBytes: number
  readonly strangersReadingBytes: number
}

/** A connection on which nothing was asked, and one on which nothing is asked any more, are closed after so long. Clients dial anew. */
const UNUSED_MS = 15_000
const IDLE_MS = 120_000

/** What nodes ask inside the Noise channel. Routed by path alone: clients write several things as the authority. */
export class NodeApi {
  readonly #service: ControlService
  readonly #log: Log
  readonly #reading = new BodyBudget(MAX_READING_BYTES)
  readonly #strangersReading = new BodyBudget(MAX_STRANGERS_READING_BYTES)
  readonly #strangersLong = new BodyBudget(MAX_STRANGERS_LONG_BYTES)
  #channels = 0
  #requests = 0

  constructor(service: ControlService, log: Log) {
    this.#service = service
    this.#log = log
  }

  /** For metrics. */
  get figures(): NodeApiFigures {
    return { channels: this.#channels, requests: this.#requests, readingBytes: this.#reading.taken, strangersReadingBytes: this.#strangersReading.taken }
  }

  /** Serves one connection until it ends. */
  serve(connection: AcceptedControl, source: string, events: ConnectionEvents): void {
    const machineKey = connection.machineKey.text
    const { session } = connection
    const signals = new RateLimit(SIGNALS_AT_ONCE, SIGNALS_PER_SECOND)
    let requests = new RateLimit(STRANGER_REQUESTS_AT_ONCE, STRANGER_REQUESTS_PER_SECOND)
    const reading = new BodyBudget(MAX_CONNECTION_BYTES)
    const signalled = (): void => {
      if (!signals.allows(performance.now())) session.destroy()
    }
    session.on('ping', signalled).on('remoteSettings', signalled)
    let isNode = false
    const look = (): void => {
      if (isNode || !this.#service.machine.knowsMachine(machineKey)) return
      isNode = true
      requests = new RateLimit(REQUESTS_AT_ONCE, REQUESTS_PER_SECOND)
      events.proved()
    }
    look()
    // Any machine key is let this far. Polls keep a connection busy; one without any request only holds memory.
    let open = 0
    let idle = setTimeout(() => session.destroy(), UNUSED_MS).unref()
    this.#channels += 1
    session.once('close', () => {
      this.#channels -= 1
      clearTimeout(idle)
    })
    session.on('stream', (stream, headers) => {
      open += 1
      this.#requests += 1
      clearTimeout(idle)
      stream.once('close', () => {
        open -= 1
        this.#requests -= 1
        if (stream.rstCode !== http2.constants.NGHTTP2_NO_ERROR) signalled()
        if (open === 0 && !session.destroyed) idle = setTimeout(() => session.close(), IDLE_MS).unref()
      })
      stream.on('error', () => stream.destroy()) // `close` follows and is what counts
      look()
      events.asked()
      if (!requests.allows(performance.now())) {
        send(stream, 429, 'too many requests: try again later\n', BUSY_SECONDS)
        stream.close(http2.constants.NGHTTP2_NO_ERROR) // its body is not waited for
        return
      }
      const call = { stream, session, machineKey, source, strange: !isNode, reading: [reading, isNode ? this.#reading : this.#strangersReading], declared: lengthOf(headers['content-length']), refuse: () => events.refused() }
      void this.#route(call, headers[':method'] ?? 'GET', headers[':path'] ?? '/').catch((error: unknown) => {
        this.#log.error('a request of a node failed', { reason: reasonOf(error) })
        stream.destroy()
      })
    })
  }

  async #route(call: Call, method: string, target: string): Promise<void> {
    const [path = '/', query = ''] = target.split('?', 2)
    const ssh = SSH_ACTION.exec(path)
    if (ssh !== null) return method === 'GET' ? this.#sshAction(call, ssh, new URLSearchParams(query)) : send(call.stream, 405, 'only GET is supported\n')
    if (path === '/machine/ping-response') return this.#hold(call, { type: 'pong', machineKey: call.machineKey, id: new URLSearchParams(query).get('id') ?? '' })
    if (path === '/machine/register') return this.#register(call, method)
    if (path === '/machine/map') return this.#map(call, method)
    if (path === '/machine/feature/query') return this.#feature(call)
    if (path === '/machine/audit-log') return this.#auditLog(call)
    if (path === '/machine/update-health') return send(call.stream, 204, undefined)
    if (path === '/machine/whoami') return send(call.stream, 200, `you are ${call.machineKey}\n`)
    const missing = NOT_HERE.find(([prefix]) => path === prefix || path.startsWith(`${prefix}/`))
    if (missing !== undefined) return send(call.stream, 501, `${missing[1]} is not available on this control server\n`)
    send(call.stream, 404, 'not found\n')
  }

  async #register(call: Call, method: string): Promise<void> {
    const body = await this.#body(call, method, 'POST', decodeRegisterRequest)
    if (body === undefined) return
    this.#hold(call, { type: 'register', machineKey: call.machineKey, source: call.source, body })
  }

  #sshAction(call: Call, [, source, destination]: RegExpExecArray, query: URLSearchParams): void {
    const [localUser, authId] = [query.get('local_user') ?? '', query.get('auth_id') ?? undefined]
    // It is shown to administrators, on terminals too.
    if (localUser.length > MAX_USER_NAME || /\p{C}/u.test(localUser)) return send(call.stream, 400, 'the user name is too long, or holds control characters\n')
    this.#hold(call, { type: 'sshAction', machineKey: call.machineKey, source: Number(source), destination: Number(destination), localUser, authId })
  }

  /** Puts a request to the server that is answered once, perhaps much later. */
  #hold(call: Call, input: Parameters<ControlService['request']>[0]): void {
    const request = this.#service.request(input, { respond: (status, answer, retryAfter) => send(call.stream, status, answer, retryAfter), end: () => call.stream.close() })
    call.stream.once('close', () => this.#service.closed(request))
    if (call.stream.closed) this.#service.closed(request)
  }

  async #map(call: Call, method: string): Promise<void> {
    const body = await this.#body(call, method, 'POST', decodeMapRequest)
    if (body === undefined) return
    const { stream } = call
    const request = this.#service.request(
      { type: 'map', machineKey: call.machineKey, body },
      {
        respond: (status, answer, retryAfter) => send(stream, status, answer, retryAfter),
        chunk: (bytes) => {
          if (stream.destroyed || stream.closed) return true
          if (!stream.headersSent) stream.respond({ ':status': 200, 'content-type': 'application/json' })
          return stream.write(bytes)
        },
        end: () => {
          if (stream.destroyed || stream.closed) return
          if (!stream.headersSent) stream.respond({ ':status': 200 })
          stream.end()
        },
      },
    )
    stream.on('drain', () => this.#service.drained(request))
    stream.once('close', () => this.#service.closed(request))
    if (stream.closed) this.#service.closed(request)
  }

  async #feature(call: Call): Promise<void> {
    const body = await this.#body(call, 'POST', 'POST', decodeQueryFeatureRequest)
    if (body === undefined) return
    if (!this.#service.machine.ownsNodeKey(call.machineKey, body.NodeKey)) return send(call.stream, 404, 'node not found\n')
    // `serve` inside the mesh needs nothing of the server; Funnel needs a public entrance, which there is not.
    if (body.Feature === 'serve') return send(call.stream, 200, { Complete: true })
    send(call.stream, 200, { Complete: false, Text: `${body.Feature} is not available on this control server.`, ShouldWait: false })
  }

  async #auditLog(call: Call): Promise<void> {
    const body = await this.#body(call, 'POST', 'POST', decodeAuditLogRequest)
    if (body === undefined) return
    if (!this.#service.machine.ownsNodeKey(call.machineKey, body.NodeKey)) return send(call.stream, 404, 'node not found\n')
    this.#log.info('a node reports', { audit: 'node.report', action: body.Action, actor: body.NodeKey.slice(0, 16), details: body.Details })
    send(call.stream, 200, {})
  }

  async #body<T>(call: Call, method: string, expected: string, decode: JsonDecoder<T>): Promise<T | undefined> {
    if (method !== expected) return void send(call.stream, 405, `only ${expected} is supported\n`)
    const bytes = await readBody(call.stream, {
      bytes: MAX_BODY_BYTES,
      withinMs: BODY_WITHIN_MS,
      budgets: call.reading,
      ...(call.declared !== undefined && { declared: call.declared }),
      ...(call.strange && { long: { beyond: LONG_STRANGER_BODY_BYTES, budget: this.#strangersLong } }),
    })
    if (typeof bytes === 'string') {
      // Answered while the client still writes; what it has not sent yet it may keep.
      call.stream.once('finish', () => call.stream.close(http2.constants.NGHTTP2_NO_ERROR))
      // What a stranger still has on its way is not worth a turn: it may come again.
      if (call.strange) {
        call.refuse()
        setTimeout(() => call.session.destroy(), LAST_WORDS_MS).unref()
      }
      const [status, text] = PROBLEMS[bytes]
      return void send(call.stream, status, text, status === 503 ? BUSY_SECONDS : undefined)
    }
    const text = textOf(bytes)
    const decoded: Decoded<T> = text === undefined ? { ok: false, path: '', problem: 'not UTF-8' } : decodeDocument(decode, text)
    if (decoded.ok) return decoded.value
    return void send(call.stream, 400, `the body does not decode: ${decoded.path === '' ? '' : `${decoded.path}: `}${decoded.problem}\n`)
  }
}

const PROBLEMS: Readonly<Record<BodyProblem, readonly [status: number, text: string]>> = {
  'too-long': [413, 'the body is larger than 1 MiB\n'],
  'too-slow': [408, 'the body did not come within 30 s\n'],
  busy: [503, 'too much is being read: try again later\n'],
  gone: [400, 'the body broke off\n'],
}

function lengthOf(header: string | undefined): number | undefined {
  return header !== undefined && /^[0-9]{1,15}$/.test(header) ? Number(header) : undefined
}

const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** The engine's own decoder: a body of 1 MiB takes a fraction of a millisecond. */
function textOf(bytes: Uint8Array): string | undefined {
  try {
    return UTF8.decode(bytes)
  } catch {
    return undefined // not UTF-8: answered with 400
  }
}

const NOT_HERE: readonly (readonly [path: string, name: string])[] = [
  ['/machine/set-dns', 'setting DNS records (certificates)'],
  ['/machine/id-token', 'issuing id tokens'],
  ['/machine/set-device-attr', 'setting device attributes'],
  ['/machine/tka', 'tailnet lock'],
  ['/machine/webclient', 'the web client'],
]

function send(stream: http2.ServerHttp2Stream, status: number, body: unknown, retryAfterSeconds?: number): void {
  if (stream.destroyed || stream.closed || stream.headersSent) return
  const bytes = body === undefined ? undefined : typeof body === 'string' ? Buffer.from(body) : encodeJson(body)
  stream.respond({
    ':status': status,
    ...(bytes !== undefined && { 'content-type': typeof body === 'string' ? 'text/plain; charset=utf-8' : 'application/json', 'content-length': bytes.length }),
    ...(retryAfterSeconds !== undefined && { 'retry-after': String(retryAfterSeconds) }),
  })
  stream.end(bytes)
  stream.setTimeout(UNREAD_MS, () => stream.close(http2.constants.NGHTTP2_CANCEL))
}
