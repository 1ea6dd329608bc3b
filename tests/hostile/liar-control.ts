import http from 'node:http'
import type { ServerHttp2Stream } from 'node:http2'
import type net from 'node:net'
import type { Duplex } from 'node:stream'
import { encodeJson } from '@meshwright/control-protocol'
import { MachinePrivateKey } from '@meshwright/crypto'
import { acceptControl, systemRandom } from '@meshwright/runtime-node/control'

/** Any JSON object. */
export type Json = Readonly<Record<string, unknown>>

/** What a node asks, as it came. */
export interface NodeAsks {
  readonly NodeKey: string
  readonly DiscoKey?: string
  readonly Endpoints?: readonly string[]
  readonly Stream?: boolean
  readonly OmitPeers?: boolean
  readonly Hostinfo?: { readonly Hostname?: string }
}

/** An open map stream. */
export class Poll {
  readonly request: NodeAsks
  readonly #stream: ServerHttp2Stream
  constructor(request: NodeAsks, stream: ServerHttp2Stream) {
    this.request = request
    this.#stream = stream
    stream.on('error', () => undefined)
  }

  get open(): boolean {
    return !this.#stream.destroyed && !this.#stream.closed
  }

  /** One frame, as an honest server would send it. */
  send(frame: Json): void {
    const json = Buffer.from(encodeJson(frame))
    const length = Buffer.alloc(4)
    length.writeUInt32LE(json.length)
    this.raw(Buffer.concat([length, json]))
  }

  /** Bytes as they are. */
  raw(bytes: Uint8Array): void {
    if (this.open) this.#stream.write(bytes)
  }

  end(): void {
    if (this.open) this.#stream.end()
  }
}

/** An answer inside the channel. */
export interface LiarAnswer {
  readonly status?: number
  readonly headers?: Readonly<Record<string, string>>
  readonly body: Uint8Array | string | Json
}

/**
 * A control server that says what its script says. The channel is real, so that a node believes it is spoken to by the server that it
 * chose; `key`, `upgrade`, `register` and `map` replace what is said at each step.
 */
export class LiarControl {
  readonly machineKey: MachinePrivateKey = MachinePrivateKey.generate(systemRandom)
  readonly #server: http.Server
  readonly #sockets: Set<net.Socket> = new Set()
  readonly polls: Poll[] = []
  /** What nodes have said of themselves last, by name. */
  readonly nodes: Map<string, NodeAsks> = new Map()
  /** Requests of any kind inside the channel, as `METHOD path`. */
  readonly asked: string[] = []
  registrations = 0
  key: ((response: http.ServerResponse) => void) | undefined
  upgrade: ((request: http.IncomingMessage, socket: Duplex) => void) | undefined
  register: (body: Json) => LiarAnswer = () => ({ body: ACCEPTED })
  map: (poll: Poll, name: string) => void = () => undefined
  /** The head of the answer to a map stream, which is over with it; absent: 200, and the stream stays open. */
  mapHead: (Readonly<Record<string, string>> & { readonly ':status': string }) | undefined
  /** Called for each connection. */
  connected: () => void = () => undefined
  /** Whatever else is asked; without an answer the stream stays open. */
  other: ((stream: ServerHttp2Stream, path: string) => void) | undefined

  constructor() {
    this.#server = http.createServer((_request, response) => {
      if (this.key !== undefined) return this.key(response)
      response.end(JSON.stringify({ legacyPublicKey: `mkey:${'0'.repeat(64)}`, publicKey: this.machineKey.publicKey().text }))
    })
    this.#server.on('connection', (socket) => {
      this.#sockets.add(socket)
      this.connected()
      socket.on('error', () => undefined)
      socket.once('close', () => this.#sockets.delete(socket))
    })
    this.#server.on('upgrade', (request, socket, head) => {
      if (this.upgrade !== undefined) return this.upgrade(request, socket)
      acceptControl(request, socket, head, { machineKey: this.machineKey, random: systemRandom, maxConcurrentStreams: 1_000 }).then(
        ({ session }) => {
          session.on('error', () => session.destroy())
          session.on('stream', (stream, headers) => this.#stream(stream, String(headers[':method']), String(headers[':path'])))
        },
        () => socket.destroy(),
      )
    })
  }

  get url(): string {
    const address = this.#server.address()
    return `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}`
  }

  async start(): Promise<this> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve))
    return this
  }

  /** Ends every connection. */
  hangUp(): void {
    for (const socket of this.#sockets) socket.destroy()
  }

  async stop(): Promise<void> {
    this.hangUp()
    await new Promise<void>((resolve) => this.#server.close(() => resolve()))
  }

  /** The newest open map stream of a node. */
  pollOf(name: string): Poll | undefined {
    return this.polls.findLast((poll) => poll.open && poll.request.Hostinfo?.Hostname === name)
  }

  #stream(stream: ServerHttp2Stream, method: string, path: string): void {
    stream.on('error', () => undefined)
    this.asked.push(`${method} ${path}`)
    const parts: Buffer[] = []
    stream.on('data', (bytes: Buffer) => parts.push(bytes))
    stream.on('end', () => {
      if (path === '/machine/register') {
        this.registrations += 1
        const { status = 200, headers = {}, body } = this.register(JSON.parse(Buffer.concat(parts).toString('utf8')) as Json) // our own node's
        stream.respond({ ':status': status, ...headers })
        stream.end(typeof body === 'string' ? body : body instanceof Uint8Array ? body : encodeJson(body))
      } else if (path === '/machine/map') {
        const asks = JSON.parse(Buffer.concat(parts).toString('utf8')) as NodeAsks // our own node's
        const name = asks.Hostinfo?.Hostname ?? ''
        this.nodes.set(name, asks)
        if (asks.Stream === true && this.mapHead !== undefined) {
          stream.respond({ ...this.mapHead })
          return void stream.end('no map')
        }
        stream.respond({ ':status': 200 })
        if (asks.Stream !== true) return void stream.end()
        const poll = new Poll(asks, stream)
        this.polls.push(poll)
        this.map(poll, name)
      } else this.other?.(stream, path)
    })
  }
}

/** A registration that is accepted. */
export const ACCEPTED: Json = { User: { ID: 1, DisplayName: 'alice' }, Login: { ID: 1, LoginName: 'alice@liar.test', DisplayName: 'alice' }, NodeKeyExpired: false, MachineAuthorized: true, AuthURL: '' }

/** A node as control servers describe one. */
export function wireNode(id: number, name: string, key: string, more: Json = {}): Json {
  const ip = `100.64.${id >> 8}.${id & 255}/32`
  return { ID: id, StableID: `n${id}`, Name: `${name}.liar.test.`, User: 1, Key: key, Addresses: [ip], AllowedIPs: [ip], MachineAuthorized: true, Hostinfo: { Hostname: name, OS: 'linux' }, Online: true, Cap: 142, ...more }
}
