import type { IncomingMessage } from 'node:http'
import http2 from 'node:http2'
import type { Duplex } from 'node:stream'
import { NOISE_HANDSHAKE_HEADER, NOISE_UPGRADE, NoiseResponder, type NoiseResponderOutput, parseHandshakeHeader } from '@meshwright/control-protocol'
import { instant, type RandomSource } from '@meshwright/core'
import { type ChallengePrivateKey, type CryptoProvider, type MachinePrivateKey, type MachinePublicKey, nobleProvider } from '@meshwright/crypto'
import { ControlConnectionError } from './control-dial.ts'
import { GoawayWatch } from './goaway-watch.ts'
import { keepPinging } from './control-ping.ts'
import { acceptWebSocket, asksForWebSocket } from './control-websocket.ts'
import { NoiseStream, type ReadPace } from './noise-stream.ts'

/** How a server takes control connections. */
export interface ControlAcceptOptions {
  /** The server's Noise key. */
  readonly machineKey: MachinePrivateKey
  readonly random: RandomSource
  readonly provider?: CryptoProvider
  /** Whether clients get an early payload; default true. */
  readonly earlyPayload?: boolean
  /** The most requests that a client may have open at once; default 100. */
  readonly maxConcurrentStreams?: number
  /** How often the connection is tried by an HTTP/2 ping; one that is not answered until the next is dead. Default 30 s. */
  readonly pingEveryMs?: number
  /** Who says when the bytes of this client are worked on; default: as they come. */
  readonly pace?: ReadPace
}

/** A client that proved its machine key. */
export interface AcceptedControl {
  /** Authentication of every request of this connection. */
  readonly machineKey: MachinePublicKey
  /** Capability version that the client named. */
  readonly version: number
  readonly challenge: ChallengePrivateKey | undefined
  /** HTTP/2: listen for `stream` in the same tick in which the promise resolves. */
  readonly session: http2.ServerHttp2Session
}

const DEFAULT_MAX_STREAMS = 100
const PING_EVERY_MS = 30_000
const WINDOW_BYTES = 1_048_576
const MAX_HEADER_FIELDS = 64
const MAX_INVALID_FRAMES = 16

/**
 * Answers the upgrade request of a client (`POST` or `GET /ts2021`, event `upgrade` of an HTTP server) and gives HTTP/2 inside the Noise
 * channel. Two forms: an upgrade to `tailscale-control-protocol` with the initiation in a header, and, for browsers, a WebSocket of that
 * subprotocol with the initiation in the query. Refusals are answered with status 400 and the socket is closed; a handshake that fails is
 * told to the client by an error frame.
 * @throws RUNTIME_CONTROL_UPGRADE the request is no control upgrade; RUNTIME_CONTROL_CHANNEL the handshake failed
 */
export async function acceptControl(request: IncomingMessage, socket: Duplex, head: Uint8Array, options: ControlAcceptOptions): Promise<AcceptedControl> {
  socket.on('error', () => socket.destroy())
  const webSocket = asksForWebSocket(request)
  const given = webSocket ? handshakeInQuery(request) : request.headers[NOISE_HANDSHAKE_HEADER.toLowerCase()]
  const initiation = typeof given === 'string' ? parseHandshakeHeader(given) : undefined
  if (request.method !== 'POST' && request.method !== 'GET') throw refuse(socket, 'only POST and GET are supported')
  if (!webSocket && request.headers.upgrade?.toLowerCase() !== NOISE_UPGRADE) throw refuse(socket, `the Upgrade header must be ${NOISE_UPGRADE}`)
  if (initiation === undefined) throw refuse(socket, `the ${NOISE_HANDSHAKE_HEADER} ${webSocket ? 'parameter' : 'header'} is missing or not an initiation`)

  // As the reference server: clients behind a WebSocket get no early payload.
  const earlyPayload = webSocket ? false : options.earlyPayload
  const channel = new NoiseResponder({
    provider: options.provider ?? nobleProvider,
    random: options.random,
    machineKey: options.machineKey,
    ...(earlyPayload !== undefined && { earlyPayload }),
  })
  const raw = webSocket ? await acceptWebSocket(request, socket, head, options.pace) : socket
  raw.on('error', () => raw.destroy())
  if (!webSocket) raw.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: ${NOISE_UPGRADE}\r\nConnection: upgrade\r\n\r\n`)
  channel.handleInput(instant(performance.now()), { type: 'initiation', bytes: initiation })
  const stream = new NoiseStream(raw, channel, options.pace)
  const established = await new Promise<NoiseResponderOutput & { type: 'established' }>((resolve, reject) => {
    stream.once('established', resolve)
    stream.once('error', (cause: Error) => reject(new ControlConnectionError('RUNTIME_CONTROL_CHANNEL', cause.message, { cause })))
    stream.begin(webSocket ? new Uint8Array(0) : head)
  })
  const session = http2.performServerHandshake(stream, {
    maxHeaderListPairs: MAX_HEADER_FIELDS,
    maxSessionInvalidFrames: MAX_INVALID_FRAMES,
    settings: { maxConcurrentStreams: options.maxConcurrentStreams ?? DEFAULT_MAX_STREAMS, initialWindowSize: WINDOW_BYTES },
  })
  session.on('error', () => session.destroy())
  const written = new GoawayWatch()
  stream.on('plaintext', (bytes: Uint8Array) => {
    if (written.push(bytes)) setImmediate(() => session.destroy()) // when it is on its way to the client
  })
  keepPinging(session, options.pingEveryMs ?? PING_EVERY_MS, 'the client')
  return { machineKey: established.machineKey, version: established.version, challenge: established.challenge, session }
}

function handshakeInQuery(request: IncomingMessage): string | undefined {
  // "+" is a character of base64 that some clients leave as it is; in a query it reads as a space.
  return new URLSearchParams((request.url ?? '').split('?')[1] ?? '').get(NOISE_HANDSHAKE_HEADER)?.replaceAll(' ', '+')
}

function refuse(socket: Duplex, reason: string): ControlConnectionError {
  socket.end(`HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: ${reason.length + 1}\r\nConnection: close\r\n\r\n${reason}\n`)
  return new ControlConnectionError('RUNTIME_CONTROL_UPGRADE', `a client's upgrade was refused: ${reason}`)
}
