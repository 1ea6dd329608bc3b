import { createHash, timingSafeEqual } from 'node:crypto'
import { lookup } from 'node:dns/promises'
import net from 'node:net'
import type { Duplex } from 'node:stream'
import tls from 'node:tls'
import { MeshwrightError, type RelayNode } from '@meshwright/core'
import type { NodePublicKey } from '@meshwright/crypto'
import { decodeMetacert, encodeUpgradeRequest, UpgradeResponseReader } from '@meshwright/derp'
import { BatchedWriter, GatheredReader } from './derp-stream.ts'
import { dialDerpWebSocket } from './derp-websocket.ts'
import { type Outside, systemOutside } from './outside.ts'

const DIAL_TIMEOUT_MS = 10_000
/** How long IPv4 is held back when IPv6 is known to work (tailscale/tailscale:derp/derphttp/derphttp_client.go). */
const IPV4_DELAY_MS = 200
const TCP_KEEPALIVE_MS = 30_000
const TLS_PORT = 443
const PLAIN_PORT = 3340
const PIN_PREFIX = 'sha256-raw:'
/** Longer chains than this are not walked in search of the metacert. */
const MAX_CHAIN = 10

/** Why a relay could not be reached. */
export type DerpDialErrorCode = 'DERP_DIAL_TIMEOUT' | 'DERP_DIAL_UNREACHABLE' | 'DERP_DIAL_CERTIFICATE' | 'DERP_DIAL_REFUSED' | 'DERP_DIAL_ABORTED'

/** A relay could not be reached; `code` says at which step. */
export class DerpDialError extends MeshwrightError<DerpDialErrorCode> {}

/** How a relay is reached. */
export interface DerpDialOptions {
  readonly node: RelayNode
  /** Plain HTTP instead of TLS, default port 3340: for development. */
  readonly plainHttp?: boolean
  /** Trusted roots, PEM, instead of those of Node. */
  readonly ca?: string | Buffer | (string | Buffer)[]
  /** Time for everything up to the answer of the server (default 10 s). */
  readonly timeoutMs?: number
  /** Use fast start where the server offers it (default true). */
  readonly fastStart?: boolean
  /** WebSocket instead of the relay's own upgrade, for networks that let nothing else pass (default false). */
  readonly webSocket?: boolean
  /** IPv6 is known to work: give it 200 ms before IPv4 is tried. */
  readonly preferIpv6?: boolean
  /** Name of the region's first relay when `node` is another one. */
  readonly idealNode?: string
  /** Gives up when aborted. */
  readonly signal?: AbortSignal
  /** How connections are opened; default: the system's way. */
  readonly outside?: Outside
}

/** What a connection tells. */
export interface DerpConnectionEvents {
  bytes(bytes: Uint8Array): void
  /** All that was written has been taken. */
  writable(): void
  /** Once, for whatever reason, also after `close`. */
  closed(reason: string): void
}

/** A stream to a relay, ready for frames: the upgrade is behind it. */
export interface DerpConnection {
  /** Known already under fast start: then feed it with `opened`. */
  readonly serverKey: NodePublicKey | undefined
  readonly localAddress: string
  readonly remoteAddress: string
  /** `TLSv1.3`, `TLSv1.2` or undefined for plain HTTP. */
  readonly tlsVersion: string | undefined
  /** Begins to deliver, first what has arrived already: feed `opened` before. */
  start(events: DerpConnectionEvents): void
  /** Bytes of one turn of the event loop leave together; `writable` follows. */
  write(bytes: Uint8Array): void
  pause(): void
  resume(): void
  close(): void
}

/**
 * Connects with a relay: TCP (IPv4 and IPv6 race), TLS with the check that the node's description asks for, HTTP upgrade. Trying again,
 * and trying other nodes, is the caller's business.
 *
 * `certName` of the node: absent: the certificate must be for the host name and end in a trusted root; `sha256-raw:HEX`: the leaf's DER
 * must have that SHA-256, nothing else counts; any other text: the certificate must be for that name.
 * @throws DerpDialError (the promise rejects with it)
 */
export async function dialDerp(options: DerpDialOptions): Promise<DerpConnection> {
  const abort = new AbortController()
  const timeoutMs = options.timeoutMs ?? DIAL_TIMEOUT_MS
  const name = `${options.node.name} (${options.node.hostName})`
  const timer = setTimeout(() => abort.abort(new DerpDialError('DERP_DIAL_TIMEOUT', `relay ${name} did not answer within ${timeoutMs} ms`)), timeoutMs)
  const onAbort = (): void => abort.abort(new DerpDialError('DERP_DIAL_ABORTED', `the dial of relay ${name} was given up`))
  if (options.signal?.aborted === true) onAbort()
  options.signal?.addEventListener('abort', onAbort, { once: true })
  let socket: net.Socket | undefined
  try {
    socket = await connectTcp(options, abort.signal, name)
    if (options.plainHttp === true) return await upgrade(socket, undefined, options, abort.signal, name)
    const { stream, serverKey } = await secure(socket, options, abort.signal, name)
    socket = stream
    return await upgrade(stream, options.fastStart === false ? undefined : serverKey, options, abort.signal, name)
  } catch (error) {
    socket?.destroy()
    throw abort.signal.aborted ? abort.signal.reason : error
  } finally {
    clearTimeout(timer)
    options.signal?.removeEventListener('abort', onAbort)
  }
}

function portOf(options: DerpDialOptions): number {
  const port = options.node.derpPort ?? 0
  return port !== 0 ? port : options.plainHttp === true ? PLAIN_PORT : TLS_PORT
}

/** The address of a family: the literal of the description, or DNS when it has none; anything else switches the family off. */
async function addressOf(node: RelayNode, family: 4 | 6): Promise<string | undefined> {
  const literal = (family === 4 ? node.ipv4 : node.ipv6) ?? ''
  if (literal !== '') return net.isIP(literal) === family ? literal : undefined
  const hostFamily = net.isIP(node.hostName)
  if (hostFamily !== 0) return hostFamily === family ? node.hostName : undefined
  try {
    return (await lookup(node.hostName, { family })).address
  } catch {
    return undefined // the other family may have a name
  }
}

async function connectTcp(options: DerpDialOptions, signal: AbortSignal, name: string): Promise<net.Socket> {
  const losers = new AbortController()
  const attempt = async (family: 4 | 6): Promise<net.Socket> => {
    const address = await addressOf(options.node, family)
    if (address === undefined) throw new DerpDialError('DERP_DIAL_UNREACHABLE', `relay ${name} has no IPv${family} address`)
    if (family === 4 && options.preferIpv6 === true) await wait(IPV4_DELAY_MS, losers.signal)
    return connectTo(options.outside ?? systemOutside, address, portOf(options), AbortSignal.any([signal, losers.signal]))
  }
  const attempts = [attempt(4), attempt(6)]
  // A race that is lost after the other one was won must not leave a socket behind.
  let won = false
  for (const each of attempts) {
    each.then(
      (socket) => {
        if (won) socket.destroy()
        won = true
      },
      () => undefined, // told by Promise.any
    )
  }
  try {
    return await Promise.any(attempts)
  } catch (error) {
    const reasons = error instanceof AggregateError ? error.errors.map((each) => (each instanceof Error ? each.message : String(each))) : []
    throw new DerpDialError('DERP_DIAL_UNREACHABLE', `relay ${name} cannot be reached: ${reasons.join('; ')}`, { cause: error })
  } finally {
    losers.abort()
  }
}

async function connectTo(outside: Outside, host: string, port: number, signal: AbortSignal): Promise<net.Socket> {
  const socket = (await outside.connect(host, port)).setNoDelay(true).setKeepAlive(true, TCP_KEEPALIVE_MS)
  return new Promise((resolve, reject) => {
    const onAbort = (): void => fail(new Error('given up'))
    const settle = (): void => {
      signal.removeEventListener('abort', onAbort)
      socket.off('error', fail)
    }
    const fail = (error: Error): void => {
      settle()
      socket.on('error', () => undefined) // destroyed: a late error changes nothing
      socket.destroy()
      reject(error)
    }
    socket.once('error', fail)
    socket.once('connect', () => {
      settle()
      socket.on('error', () => undefined) // `close` follows each error and tells
      resolve(socket)
    })
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort, { once: true })
  })
}

/** A TLS stream whose certificate is right, and the relay's key where its chain tells it. */
interface SecureStream {
  readonly stream: tls.TLSSocket
  readonly serverKey: NodePublicKey | undefined
}

function secure(socket: net.Socket, options: DerpDialOptions, signal: AbortSignal, name: string): Promise<SecureStream> {
  const { node } = options
  const certName = node.certName ?? ''
  const pinned = certName.startsWith(PIN_PREFIX)
  const expected = certName === '' ? node.hostName : certName
  return new Promise((resolve, reject) => {
    const stream = tls.connect({
      socket,
      minVersion: 'TLSv1.2',
      rejectUnauthorized: !pinned && node.insecureForTests !== true,
      checkServerIdentity: (_host, certificate) => tls.checkServerIdentity(expected, certificate),
      ...(net.isIP(node.hostName) === 0 && { servername: node.hostName }),
      ...(options.ca !== undefined && { ca: options.ca }),
    })
    const onAbort = (): void => fail(new Error('given up'))
    const fail = (error: Error): void => {
      signal.removeEventListener('abort', onAbort)
      stream.destroy()
      reject(new DerpDialError('DERP_DIAL_CERTIFICATE', `TLS with relay ${name} failed: ${error.message}`, { cause: error }))
    }
    const onClose = (): void => fail(new Error('the connection was closed'))
    stream.on('error', fail)
    stream.once('close', onClose)
    stream.once('secureConnect', () => {
      const chain = chainOf(stream)
      if (pinned && node.insecureForTests !== true && !matchesPin(chain[0], certName.slice(PIN_PREFIX.length))) {
        return fail(new Error('the certificate is not the one that the relay map names'))
      }
      signal.removeEventListener('abort', onAbort)
      stream.off('error', fail)
      stream.off('close', onClose)
      stream.on('error', () => undefined) // `close` follows each error and tells
      resolve({ stream, serverKey: stream.getProtocol() === 'TLSv1.3' ? metacertKey(chain) : undefined })
    })
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort, { once: true })
  })
}

/** DER of the certificates in the order sent. To be called once for a stream: in Node 20 a second call finds the chain gone. */
function chainOf(stream: tls.TLSSocket): Buffer[] {
  const chain: Buffer[] = []
  let certificate = stream.getPeerX509Certificate()
  while (certificate !== undefined && chain.length < MAX_CHAIN) {
    chain.push(certificate.raw)
    certificate = certificate.issuerCertificate
  }
  return chain
}

function matchesPin(leaf: Buffer | undefined, hex: string): boolean {
  const expected = Buffer.from(hex, 'hex')
  return leaf !== undefined && expected.length === 32 && timingSafeEqual(createHash('sha256').update(leaf).digest(), expected)
}

function metacertKey(chain: readonly Buffer[]): NodePublicKey | undefined {
  for (const certificate of chain) {
    const found = decodeMetacert(certificate)
    if (found !== undefined) return found.serverKey
  }
  return undefined
}

async function upgrade(
  socket: net.Socket,
  serverKey: NodePublicKey | undefined,
  options: DerpDialOptions,
  signal: AbortSignal,
  name: string,
): Promise<DerpConnection> {
  const { node, idealNode } = options
  const port = portOf(options)
  const name6 = net.isIPv6(node.hostName) ? `[${node.hostName}]` : node.hostName
  const host = port === TLS_PORT ? name6 : `${name6}:${port}`
  if (options.webSocket === true) {
    try {
      return new Connection(await dialDerpWebSocket(socket, host, signal), socket, undefined, undefined)
    } catch (error) {
      throw new DerpDialError('DERP_DIAL_REFUSED', `relay ${name} does not speak WebSocket here: ${error instanceof Error ? error.message : String(error)}`, { cause: error })
    }
  }
  socket.write(
    encodeUpgradeRequest({
      host,
      fastStart: serverKey !== undefined,
      ...(idealNode !== undefined && { idealNode }),
    }),
  )
  const rest = serverKey === undefined ? await readAnswer(socket, signal, name) : undefined
  return new Connection(socket, socket, serverKey, rest)
}

function readAnswer(socket: net.Socket, signal: AbortSignal, name: string): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const reader = new UpgradeResponseReader()
    const onAbort = (): void => settle(() => reject(new Error('given up')))
    const onClose = (): void => settle(() => reject(new DerpDialError('DERP_DIAL_REFUSED', `relay ${name} closed the connection without an answer`)))
    const onData = (chunk: Uint8Array): void => {
      const outcome = reader.push(chunk)
      if (outcome === undefined) return
      socket.pause()
      if (outcome.type === 'upgraded') return settle(() => resolve(outcome.rest))
      const what = outcome.type === 'refused' ? `HTTP status ${outcome.status}` : 'something that is not HTTP'
      settle(() => reject(new DerpDialError('DERP_DIAL_REFUSED', `relay ${name} answered with ${what}`)))
    }
    const settle = (then: () => void): void => {
      socket.off('data', onData).off('close', onClose)
      signal.removeEventListener('abort', onAbort)
      then()
    }
    socket.on('data', onData).once('close', onClose)
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort, { once: true })
  })
}

class Connection implements DerpConnection {
  readonly serverKey: NodePublicKey | undefined
  readonly localAddress: string
  readonly remoteAddress: string
  readonly tlsVersion: string | undefined
  readonly #socket: Duplex
  readonly #writer: BatchedWriter
  #rest: Uint8Array | undefined
  #events: DerpConnectionEvents | undefined
  #failure: string | undefined

  /** @param socket carries frames; @param transport is below it, or the same */
  constructor(socket: Duplex, transport: net.Socket, serverKey: NodePublicKey | undefined, rest: Uint8Array | undefined) {
    this.#socket = socket
    this.serverKey = serverKey
    this.localAddress = transport.localAddress ?? ''
    this.remoteAddress = transport.remoteAddress ?? ''
    this.tlsVersion = transport instanceof tls.TLSSocket ? (transport.getProtocol() ?? undefined) : undefined
    this.#rest = rest
    this.#writer = new BatchedWriter(socket, (_bytes, drained) => {
      if (drained) this.#events?.writable()
    })
    socket.on('error', (error) => {
      this.#failure ??= error.message
    })
  }

  start(events: DerpConnectionEvents): void {
    this.#events = events
    const socket = this.#socket
    const reader = new GatheredReader((bytes) => this.#events?.bytes(bytes))
    const closed = (): void => {
      if (this.#events === undefined) return
      reader.flush()
      this.#events = undefined
      events.closed(this.#failure ?? 'the relay closed the connection')
    }
    if (socket.destroyed) {
      process.nextTick(closed)
      return
    }
    socket.once('close', closed)
    socket.on('end', () => socket.destroy())
    const rest = this.#rest
    this.#rest = undefined
    if (rest !== undefined && rest.length > 0) events.bytes(rest)
    socket.on('data', (chunk: Uint8Array) => reader.push(chunk))
    socket.resume()
  }

  write(bytes: Uint8Array): void {
    this.#writer.write(bytes)
  }

  pause(): void {
    this.#socket.pause()
  }

  resume(): void {
    this.#socket.resume()
  }

  close(): void {
    this.#failure ??= 'closed by us'
    this.#writer.flush()
    this.#socket.destroy()
  }
}

function wait(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms)
    signal.addEventListener('abort', () => {
      clearTimeout(timer)
      resolve()
    })
  })
}
