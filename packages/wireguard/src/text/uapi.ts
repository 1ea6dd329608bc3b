import { formatHex, parseHex, utf8DecodeStrict } from '@meshwright/core'
import { NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import { type Endpoint, formatEndpoint, formatPrefix, parseEndpoint, parsePrefix, type Prefix } from '@meshwright/ip'
import type { ShownDevice } from './state.ts'

/** Invalid value or unknown key. */
export const UAPI_EINVAL = -22
/** A line without `=`. */
export const UAPI_EPROTO = -71
/** The listening port or mark cannot be had. */
export const UAPI_EADDRINUSE = -98
/** The device could not be read or changed. */
export const UAPI_EIO = -5

/** What a `set` asks of one peer. Fields left out keep their value. */
export interface UapiPeerChange {
  readonly type: 'peer'
  readonly publicKey: NodePublicKey
  readonly remove: boolean
  /** Change the peer if it is there, and do not create it. */
  readonly updateOnly: boolean
  /** 32 bytes; all zero: none. */
  readonly presharedKey?: Uint8Array
  readonly endpoint?: Endpoint
  readonly persistentKeepaliveSeconds?: number
  /** Take all allowed IPs away before `allowedIps` are applied. */
  readonly replaceAllowedIps: boolean
  /** In order; masked. */
  readonly allowedIps: readonly { readonly prefix: Prefix; readonly remove: boolean }[]
}

/** One thing that a `set` asks for. */
export type UapiChange =
  | { readonly type: 'privateKey'; readonly key: NodePrivateKey | undefined }
  | { readonly type: 'listenPort'; readonly port: number }
  | { readonly type: 'fwmark'; readonly mark: number }
  | { readonly type: 'replacePeers' }
  | UapiPeerChange

/** One request. A `set` whose line is bad still has the changes before that line, which are to be applied; `errno` then says why it ended. */
export type UapiRequest =
  | { readonly type: 'get'; readonly errno: number }
  | { readonly type: 'set'; readonly changes: readonly UapiChange[]; readonly errno: number }
  /** No operation that exists, or not text: close the connection without an answer. */
  | { readonly type: 'close' }

const MAX_LINE_BYTES = 65_536
const MAX_REQUEST_BYTES = 64 * 1024 * 1024
const NEWLINE = 10

/**
 * Cuts the bytes of a UAPI connection into requests (wireguard.com/xplatform, "Configuration Protocol"): lines `key=value`, ended by an
 * empty line. A line longer than 64 KiB or a request longer than 64 MiB closes the connection.
 */
export class UapiReader {
  #pending: Uint8Array = new Uint8Array(0)
  #lines: string[] = []
  #requestBytes = 0
  #closed = false

  /** Takes the next bytes of the connection and gives the requests that they complete. */
  push(chunk: Uint8Array): UapiRequest[] {
    const requests: UapiRequest[] = []
    if (this.#closed) return requests
    let from = 0
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, from)) {
      const request = this.#line(chunk.subarray(from, end))
      this.#pending = new Uint8Array(0)
      from = end + 1
      if (request === undefined) continue
      requests.push(request)
      if (request.type === 'close') return requests
    }
    const rest = new Uint8Array(this.#pending.length + chunk.length - from)
    rest.set(this.#pending)
    rest.set(chunk.subarray(from), this.#pending.length)
    this.#pending = rest
    if (rest.length > MAX_LINE_BYTES) requests.push(this.#close())
    return requests
  }

  #line(end: Uint8Array): UapiRequest | undefined {
    const bytes = new Uint8Array(this.#pending.length + end.length)
    bytes.set(this.#pending)
    bytes.set(end, this.#pending.length)
    this.#requestBytes += bytes.length + 1
    const line = bytes.length > MAX_LINE_BYTES || this.#requestBytes > MAX_REQUEST_BYTES ? undefined : utf8DecodeStrict(bytes)
    if (line === undefined) return this.#close()
    if (line !== '') {
      this.#lines.push(line)
      return this.#lines.length === 1 && line !== 'get=1' && line !== 'set=1' ? this.#close() : undefined
    }
    if (this.#lines.length === 0) return undefined
    const lines = this.#lines
    this.#lines = []
    this.#requestBytes = 0
    return parseUapi(lines)
  }

  #close(): UapiRequest {
    this.#closed = true
    this.#lines = []
    this.#pending = new Uint8Array(0)
    return { type: 'close' }
  }
}

/** Reads the lines of one request, without the empty line that ends it. */
export function parseUapi(lines: readonly string[]): UapiRequest {
  const [operation, ...rest] = lines
  if (operation === 'get=1') return { type: 'get', errno: rest.length === 0 ? 0 : UAPI_EINVAL }
  if (operation !== 'set=1') return { type: 'close' }
  const changes: UapiChange[] = []
  let peer: MutablePeerChange | undefined
  for (const line of rest) {
    const at = line.indexOf('=')
    if (at < 0) return { type: 'set', changes, errno: UAPI_EPROTO }
    const [key, value] = [line.slice(0, at), line.slice(at + 1)]
    if (key === 'public_key') {
      const publicKey = parsePublicHex(value)
      if (publicKey === undefined) return { type: 'set', changes, errno: UAPI_EINVAL }
      peer = { type: 'peer', publicKey, remove: false, updateOnly: false, replaceAllowedIps: false, allowedIps: [] }
      changes.push(peer)
    } else if (!(peer === undefined ? deviceLine(changes, key, value) : peerLine(peer, key, value))) {
      return { type: 'set', changes, errno: UAPI_EINVAL }
    }
  }
  return { type: 'set', changes, errno: 0 }
}

/** The answer to a `set`, or to a `get` that failed. `errno` is 0 or one of the negative numbers above. */
export function formatUapiErrno(errno: number): string {
  return `errno=${errno}\n\n`
}

/** The answer to a `get`. It holds the private key and preshared keys: for the socket of the device's owner alone. */
export function formatUapi(device: ShownDevice): string {
  const lines: string[] = []
  if (device.privateKey !== undefined) lines.push(`private_key=${formatHex(device.privateKey.secretBytes)}`)
  if (device.listenPort) lines.push(`listen_port=${device.listenPort}`)
  if (device.fwmark) lines.push(`fwmark=${device.fwmark}`)
  for (const peer of device.peers) {
    const handshake = peer.latestHandshake ?? 0
    const seconds = Math.floor(handshake / 1000)
    lines.push(`public_key=${formatHex(peer.publicKey.bytes)}`)
    lines.push(`preshared_key=${formatHex(peer.presharedKey ?? new Uint8Array(32))}`)
    lines.push('protocol_version=1')
    if (peer.endpoint !== undefined) lines.push(`endpoint=${formatEndpoint(peer.endpoint)}`)
    lines.push(`last_handshake_time_sec=${seconds}`)
    lines.push(`last_handshake_time_nsec=${Math.floor((handshake - seconds * 1000) * 1e6)}`)
    lines.push(`tx_bytes=${peer.sentBytes}`)
    lines.push(`rx_bytes=${peer.receivedBytes}`)
    lines.push(`persistent_keepalive_interval=${peer.persistentKeepaliveSeconds}`)
    for (const prefix of peer.allowedIps) lines.push(`allowed_ip=${formatPrefix(prefix)}`)
  }
  return `${lines.map((line) => `${line}\n`).join('')}errno=0\n\n`
}

type MutablePeerChange = { -readonly [Field in keyof UapiPeerChange]: UapiPeerChange[Field] } & {
  allowedIps: { readonly prefix: Prefix; readonly remove: boolean }[]
}

function deviceLine(changes: UapiChange[], key: string, value: string): boolean {
  switch (key) {
    case 'private_key': {
      const bytes = parseHex(value, 32)
      if (bytes === undefined) return false
      changes.push({ type: 'privateKey', key: bytes.every((byte) => byte === 0) ? undefined : NodePrivateKey.fromBytes(bytes) })
      bytes.fill(0)
      return true
    }
    case 'listen_port': {
      const port = parseDecimal(value, 65_535)
      if (port !== undefined) changes.push({ type: 'listenPort', port })
      return port !== undefined
    }
    case 'fwmark': {
      const mark = parseDecimal(value, 0xffff_ffff)
      if (mark !== undefined) changes.push({ type: 'fwmark', mark })
      return mark !== undefined
    }
    case 'replace_peers':
      if (value === 'true') changes.push({ type: 'replacePeers' })
      return value === 'true'
    default:
      return false
  }
}

function peerLine(peer: MutablePeerChange, key: string, value: string): boolean {
  switch (key) {
    case 'remove':
      peer.remove = value === 'true'
      return peer.remove
    case 'update_only':
      peer.updateOnly = value === 'true'
      return peer.updateOnly
    case 'preshared_key': {
      const bytes = parseHex(value, 32)
      if (bytes !== undefined) peer.presharedKey = bytes
      return bytes !== undefined
    }
    case 'endpoint': {
      const endpoint = parseEndpoint(value)
      if (endpoint !== undefined) peer.endpoint = endpoint
      return endpoint !== undefined
    }
    case 'persistent_keepalive_interval': {
      const seconds = parseDecimal(value, 65_535)
      if (seconds !== undefined) peer.persistentKeepaliveSeconds = seconds
      return seconds !== undefined
    }
    case 'replace_allowed_ips':
      if (value !== 'true') return false
      peer.replaceAllowedIps = true
      peer.allowedIps = []
      return true
    case 'allowed_ip': {
      const remove = value.startsWith('-')
      const text = remove ? value.slice(1) : value
      const prefix = text.includes('/') ? parsePrefix(text) : undefined
      if (prefix !== undefined) peer.allowedIps.push({ prefix, remove })
      return prefix !== undefined
    }
    case 'protocol_version':
      return value === '1'
    default:
      return false
  }
}

function parsePublicHex(text: string): NodePublicKey | undefined {
  const bytes = parseHex(text, 32)
  return bytes && NodePublicKey.fromBytes(bytes)
}

function parseDecimal(text: string, most: number): number | undefined {
  const value = /^[0-9]{1,10}$/.test(text) ? Number(text) : Number.NaN
  return value <= most ? value : undefined
}
