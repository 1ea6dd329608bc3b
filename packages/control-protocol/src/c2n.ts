import { parseBase64, utf8Decode, utf8Encode } from '@meshwright/core'
import { type Base64Text } from './keys.ts'
import { base64, decoder, flag, float, integer, type JsonDecoder, object, required, type Shape, text } from './shape.ts'

/**
 * The server asks the node to do something and to answer at `URL`.
 *
 * | Types | the node's answer |
 * |---|---|
 * | empty | HEAD to URL |
 * | `disco`, `TSMP`, `ICMP`, `peerapi`, joined by commas | pings IP; POST of a {@link PingResponse} for each |
 * | `c2n` | runs the HTTP request in Payload; POST of the raw HTTP/1.1 response |
 */
export interface PingRequest {
  readonly URL: string
  /** Ask inside the Noise channel; the host of URL means nothing then. */
  readonly URLIsNoise?: boolean
  readonly Log?: boolean
  readonly Types?: string
  readonly IP?: string
  readonly Payload?: Base64Text
}

/** The outcome of one ping. */
export interface PingResponse {
  readonly Type: string
  readonly IP?: string
  readonly NodeIP?: string
  readonly NodeName?: string
  readonly Err?: string
  readonly LatencySeconds?: number
  readonly Endpoint?: string
  readonly PeerRelay?: string
  readonly DERPRegionID?: number
  readonly DERPRegionCode?: string
  readonly PeerAPIPort?: number
  readonly IsLocalIP?: boolean
}

/** A request that control sends to a node, out of `PingRequest.Payload`. */
export interface C2nRequest {
  readonly method: string
  /** With its query, as it stands in the request line. */
  readonly path: string
  /** Names in lower case; of equal names the last counts. */
  readonly headers: ReadonlyMap<string, string>
  readonly body: Uint8Array
}

/** A node's answer to a {@link C2nRequest}. */
export interface C2nResponse {
  readonly status: number
  readonly reason: string
  readonly headers: ReadonlyMap<string, string>
  readonly body: Uint8Array
}

const MAX_HEAD_BYTES = 16_384
const MAX_HEADERS = 64

/** Reads a `PingRequest`. */
export const pingRequest: Shape<PingRequest> = object<PingRequest>({
  URL: required(text, ''),
  URLIsNoise: flag,
  Log: flag,
  Types: text,
  IP: text,
  Payload: base64,
})

/** Decodes a PingRequest. */
export const decodePingRequest: JsonDecoder<PingRequest> = decoder(pingRequest)

/** Decodes a PingResponse. */
export const decodePingResponse: JsonDecoder<PingResponse> = decoder(
  object<PingResponse>({
    Type: required(text, ''),
    IP: text,
    NodeIP: text,
    NodeName: text,
    Err: text,
    LatencySeconds: float,
    Endpoint: text,
    PeerRelay: text,
    DERPRegionID: integer,
    DERPRegionCode: text,
    PeerAPIPort: integer,
    IsLocalIP: flag,
  }),
)

/** The request inside a `c2n` ping; `undefined` when there is none or it is not HTTP/1.x. */
export function decodeC2nRequest(ping: PingRequest): C2nRequest | undefined {
  const bytes = ping.Payload === undefined ? undefined : parseBase64(ping.Payload)
  const parts = bytes && splitHead(bytes)
  const match = parts && /^([A-Z]{1,16}) (\/[^ ]*) HTTP\/1\.[01]$/.exec(parts.first)
  if (!match?.[1] || !match[2] || !parts) return undefined
  return { method: match[1], path: match[2], headers: parts.headers, body: cutToLength(parts.body, parts.headers) }
}

/** The body that a node posts as its answer: an HTTP/1.1 response that ends where the body ends, as real clients write it. */
export function encodeC2nResponse(response: C2nResponse): Uint8Array {
  const lines = [`HTTP/1.1 ${response.status} ${response.reason}`, 'Connection: close']
  for (const [name, value] of response.headers) lines.push(`${name}: ${value}`)
  const head = utf8Encode(`${lines.map((line) => line.replace(/[\r\n]/g, ' ')).join('\r\n')}\r\n\r\n`)
  const bytes = new Uint8Array(head.length + response.body.length)
  bytes.set(head)
  bytes.set(response.body, head.length)
  return bytes
}

/** The answer in a posted body; `undefined` when it is not an HTTP/1.x response. */
export function decodeC2nResponse(bytes: Uint8Array): C2nResponse | undefined {
  const parts = splitHead(bytes)
  const match = parts && /^HTTP\/1\.[01] ([1-5][0-9]{2})(?: (.*))?$/.exec(parts.first)
  if (!match || !parts) return undefined
  return { status: Number(match[1]), reason: match[2] ?? '', headers: parts.headers, body: cutToLength(parts.body, parts.headers) }
}

function splitHead(bytes: Uint8Array): { first: string; headers: Map<string, string>; body: Uint8Array } | undefined {
  const limit = Math.min(bytes.length, MAX_HEAD_BYTES)
  let end = -1
  for (let i = 3; i < limit && end < 0; i += 1) {
    if (bytes[i] === 10 && bytes[i - 1] === 13 && bytes[i - 2] === 10 && bytes[i - 3] === 13) end = i + 1
  }
  if (end < 0) return undefined
  const [first = '', ...lines] = utf8Decode(bytes.subarray(0, end - 4)).split('\r\n')
  if (lines.length > MAX_HEADERS) return undefined
  const headers = new Map<string, string>()
  for (const line of lines) {
    const colon = line.indexOf(':')
    if (colon < 1) return undefined
    headers.set(line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim())
  }
  return { first, headers, body: bytes.slice(end) }
}

function cutToLength(body: Uint8Array, headers: ReadonlyMap<string, string>): Uint8Array {
  const length = headers.get('content-length')
  return length !== undefined && /^[0-9]{1,9}$/.test(length) ? body.subarray(0, Number(length)) : body
}
