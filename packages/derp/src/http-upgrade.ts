import { utf8Encode } from '@meshwright/core'
import { NodePublicKey } from '@meshwright/crypto'
import { DERP_VERSION } from './frame-types.ts'

/** The one path of the relay protocol. */
export const DERP_PATH = '/derp'

const MAX_HEAD_BYTES = 8_192
const EMPTY = new Uint8Array(0)

/** What a client asks for. */
export interface UpgradeRequest {
  /** `Host` header: host name, and the port where it is not 443. */
  readonly host: string
  /** The server's key is known: no answer is wanted, frames follow at once. */
  readonly fastStart?: boolean
  /** Name of the region's first relay, when another one was reached. */
  readonly idealNode?: string
}

/** The request that turns an HTTP/1.1 connection into a relay connection, as real clients write it. */
export function encodeUpgradeRequest(request: UpgradeRequest): Uint8Array {
  const lines = [`GET ${DERP_PATH} HTTP/1.1`, `Host: ${clean(request.host)}`, 'User-Agent: Go-http-client/1.1', 'Connection: Upgrade']
  if (request.fastStart === true) lines.push('Derp-Fast-Start: 1')
  if (request.idealNode !== undefined) lines.push(`Ideal-Node: ${clean(request.idealNode)}`)
  lines.push('Upgrade: DERP', '', '')
  return utf8Encode(lines.join('\r\n'))
}

/** The answer `101`, byte for byte that of a real server. Not to be sent under fast start. */
export function encodeUpgradeResponse(serverKey: NodePublicKey): Uint8Array {
  const key = serverKey.text.slice(serverKey.text.indexOf(':') + 1)
  return utf8Encode(
    `HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Version: ${DERP_VERSION}\r\nDerp-Public-Key: ${key}\r\n\r\n`,
  )
}

/** How the answer of a server ended. */
export type UpgradeOutcome =
  /** Frames follow; `rest` are their first bytes, arrived with the answer. */
  | { readonly type: 'upgraded'; readonly rest: Uint8Array; readonly serverKey?: NodePublicKey }
  /** Another status than 101. */
  | { readonly type: 'refused'; readonly status: number }
  /** Not HTTP, or a head of more than 8 KiB. */
  | { readonly type: 'malformed' }

/** Reads the head of the answer to {@link encodeUpgradeRequest} from a byte stream. */
export class UpgradeResponseReader {
  #head: Uint8Array = EMPTY

  /** Adds bytes; gives the outcome once the head is whole, `undefined` before. Not to be used after that. */
  push(chunk: Uint8Array): UpgradeOutcome | undefined {
    const bytes = new Uint8Array(this.#head.length + chunk.length)
    bytes.set(this.#head)
    bytes.set(chunk, this.#head.length)
    const end = endOfHead(bytes, Math.max(0, this.#head.length - 3))
    if (end < 0 ? bytes.length > MAX_HEAD_BYTES : end > MAX_HEAD_BYTES) return { type: 'malformed' }
    if (end < 0) {
      this.#head = bytes
      return undefined
    }
    return readHead(latin1(bytes.subarray(0, end)), bytes.subarray(end))
  }
}

/** What a server does with a request. */
export type UpgradeDecision =
  /** Take over the socket: answer 101 (not under fast start), then speak frames. */
  | { readonly type: 'derp'; readonly fastStart: boolean; readonly notIdeal: boolean }
  /** Answer as RFC 6455 says, subprotocol `derp`; the payloads of binary messages are the byte stream. */
  | { readonly type: 'websocket'; readonly notIdeal: boolean }
  /** Answer and be done. */
  | { readonly type: 'respond'; readonly response: PlainResponse }
  /** Not a path of the relay: somebody else's, or 404. */
  | { readonly type: 'other' }

/** A small HTTP answer. */
export interface PlainResponse {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

/** A request, as far as the relay cares; header names in lower case. */
export interface RelayRequest {
  readonly method: string
  /** With or without query. */
  readonly path: string
  readonly header: (name: string) => string | undefined
}

/**
 * The rules of a relay's HTTP side, for every request of the server it is mounted on.
 *
 * | path | rule |
 * |---|---|
 * | `/derp/probe`, `/derp/latency-check` | GET and HEAD: 200, empty, any origin; else 405 |
 * | `/generate_204` | 204, never cached, echoes a well-formed `X-Tailscale-Challenge` |
 * | `/derp` without `Upgrade: derp` or `websocket` | 426 |
 * | `/derp` with `websocket` and subprotocol `derp` | WebSocket |
 * | `/derp` otherwise | frames; no answer when `Derp-Fast-Start: 1` |
 *
 * Source: tailscale/tailscale:derp/derpserver/handler.go.
 */
export function decideUpgrade(request: RelayRequest): UpgradeDecision {
  const path = request.path.split('?', 1)[0]
  if (path === '/derp/probe' || path === '/derp/latency-check') return { type: 'respond', response: probe(request.method) }
  if (path === '/generate_204') return { type: 'respond', response: noContent(request.header('x-tailscale-challenge')) }
  if (path !== DERP_PATH) return { type: 'other' }
  const upgrade = request.header('upgrade')?.toLowerCase()
  if (upgrade !== 'derp' && upgrade !== 'websocket') {
    return { type: 'respond', response: { status: 426, headers: { Upgrade: 'DERP', Connection: 'close' }, body: 'DERP requires connection upgrade\n' } }
  }
  const notIdeal = (request.header('ideal-node') ?? '') !== ''
  const protocols = (request.header('sec-websocket-protocol') ?? '').split(',').map((name) => name.trim())
  if (upgrade === 'websocket' && protocols.includes('derp')) return { type: 'websocket', notIdeal }
  return { type: 'derp', fastStart: request.header('derp-fast-start') === '1', notIdeal }
}

function probe(method: string): PlainResponse {
  if (method !== 'GET' && method !== 'HEAD') return { status: 405, headers: {}, body: 'bogus probe method\n' }
  return { status: 200, headers: { 'Access-Control-Allow-Origin': '*' }, body: '' }
}

function noContent(challenge: string | undefined): PlainResponse {
  const headers: Record<string, string> = { 'Cache-Control': 'no-cache, no-store, must-revalidate, no-transform, max-age=0' }
  if (challenge !== undefined && /^[A-Za-z0-9._:-]{1,64}$/.test(challenge)) headers['X-Tailscale-Response'] = `response ${challenge}`
  return { status: 204, headers, body: '' }
}

function readHead(head: string, rest: Uint8Array): UpgradeOutcome {
  const status = /^HTTP\/1\.[01] ([0-9]{3})(?: [^\r\n]*)?\r\n/.exec(head)
  if (status === null) return { type: 'malformed' }
  if (status[1] !== '101') return { type: 'refused', status: Number(status[1]) }
  // Servers differ in how they write the key, and nothing depends on it: read with tolerance, never required.
  const hex = /^derp-public-key:[ \t]*(?:nodekey:)?([0-9a-f]{64})[ \t]*\r$/im.exec(head)?.[1]
  const serverKey = hex === undefined ? undefined : NodePublicKey.parse(`nodekey:${hex}`)
  return { type: 'upgraded', rest, ...(serverKey && { serverKey }) }
}

/** Where the blank line ends, or -1. */
function endOfHead(bytes: Uint8Array, from: number): number {
  for (let i = from; i + 3 < bytes.length; i += 1) {
    if (bytes[i] === 13 && bytes[i + 1] === 10 && bytes[i + 2] === 13 && bytes[i + 3] === 10) return i + 4
  }
  return -1
}

function latin1(bytes: Uint8Array): string {
  let text = ''
  for (const byte of bytes) text += String.fromCharCode(byte)
  return text
}

// A header value with a line break would be a second header.
function clean(value: string): string {
  return value.replaceAll(/[\r\n\0]/g, '')
}
