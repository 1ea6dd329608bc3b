import { concatBytes, formatHex, parseHex, type RandomSource, utf8DecodeStrict, utf8Encode } from '@meshwright/core'
import { BOX_NONCE_BYTES, boxSharedKey, type CryptoProvider, type NodePrivateKey, type NodePublicKey, openBox, sealBox } from '@meshwright/crypto'
import { DERP_VERSION, KEY_BYTES } from './frame-types.ts'

/** What a client says of itself, sealed to the server's key: opening it proves that the client owns its node key. */
export interface DerpClientInfo {
  /** Protocol version of the client; 0 when it said none. Nothing depends on it. */
  readonly version: number
  /** The region's shared secret, 32 bytes: the client is another relay or a monitor. */
  readonly meshKey?: Uint8Array
  /** The client answers pings of the server. */
  readonly canAckPings: boolean
  /** The client measures the relay's health. */
  readonly isProber: boolean
  /** For statistics. */
  readonly appName?: string
}

/** What a server says of itself. */
export interface DerpServerInfo {
  readonly version: number
  /** Present: the client must not send more bytes per second (headers, keys and packets) and drops the rest. */
  readonly bytesPerSecond?: number
  /** How many bytes may come at once under `bytesPerSecond`. */
  readonly burstBytes?: number
}

/**
 * The box of a ClientInfo frame, nonce first. `undefined` when the server key is a low-order point.
 * The empty mesh key is left out: an empty text is a parse error for servers (tailscale/tailscale:types/key/derp.go).
 */
export function sealClientInfo(
  client: NodePrivateKey,
  server: NodePublicKey,
  info: DerpClientInfo,
  random: RandomSource,
  provider?: CryptoProvider,
): Uint8Array | undefined {
  const json: Record<string, unknown> = {}
  if (info.meshKey !== undefined) json.meshKey = formatHex(info.meshKey)
  json.version = info.version
  json.CanAckPings = info.canAckPings
  if (info.isProber) json.IsProber = true
  if (info.appName !== undefined && info.appName !== '') json.AppName = info.appName
  return sealJson(client, server, json, random, provider)
}

/** Opens the box of a ClientInfo frame; `undefined` when it is forged or holds no such object. */
export function openClientInfo(server: NodePrivateKey, client: NodePublicKey, box: Uint8Array, provider?: CryptoProvider): DerpClientInfo | undefined {
  const opened = open(server, client, box, provider)
  return opened && decodeClientInfo(opened)
}

/** Reads the JSON text inside a ClientInfo box; `undefined` when it holds no such object. */
export function decodeClientInfo(text: Uint8Array): DerpClientInfo | undefined {
  const json = parseMembers(text)
  if (json === undefined) return undefined
  const version = json.get('version') ?? 0
  const mesh = json.get('meshkey')
  const canAckPings = json.get('canackpings') ?? false
  const isProber = json.get('isprober') ?? false
  const appName = json.get('appname') ?? ''
  if (!isInteger(version) || typeof canAckPings !== 'boolean' || typeof isProber !== 'boolean' || typeof appName !== 'string') return undefined
  const meshKey = typeof mesh === 'string' ? parseHex(mesh, KEY_BYTES) : undefined
  if (mesh !== undefined && meshKey === undefined) return undefined
  return { version, canAckPings, isProber, ...(meshKey && { meshKey }), ...(appName !== '' && { appName }) }
}

/** The box of a ServerInfo frame, nonce first; exactly `{"version":2}` when there is no limit to announce. */
export function sealServerInfo(
  server: NodePrivateKey,
  client: NodePublicKey,
  info: DerpServerInfo,
  random: RandomSource,
  provider?: CryptoProvider,
): Uint8Array | undefined {
  const json: Record<string, unknown> = { version: info.version }
  if (info.bytesPerSecond !== undefined) json.TokenBucketBytesPerSecond = info.bytesPerSecond
  if (info.burstBytes !== undefined) json.TokenBucketBytesBurst = info.burstBytes
  return sealJson(server, client, json, random, provider)
}

/** Opens the box of a ServerInfo frame; `undefined` when it is forged or holds no such object. */
export function openServerInfo(client: NodePrivateKey, server: NodePublicKey, box: Uint8Array, provider?: CryptoProvider): DerpServerInfo | undefined {
  const opened = open(client, server, box, provider)
  return opened && decodeServerInfo(opened)
}

/** Reads the JSON text inside a ServerInfo box; `undefined` when it holds no such object. */
export function decodeServerInfo(text: Uint8Array): DerpServerInfo | undefined {
  const json = parseMembers(text)
  if (json === undefined) return undefined
  const version = json.get('version') ?? 0
  const rate = json.get('tokenbucketbytespersecond') ?? 0
  const burst = json.get('tokenbucketbytesburst') ?? 0
  if (!isInteger(version) || !isInteger(rate) || !isInteger(burst)) return undefined
  return { version, ...(rate > 0 && { bytesPerSecond: rate }), ...(burst > 0 && { burstBytes: burst }) }
}

/** What this implementation announces when nothing else is set. */
export const DEFAULT_SERVER_INFO: DerpServerInfo = { version: DERP_VERSION }

function sealJson(
  from: NodePrivateKey,
  to: NodePublicKey,
  json: Record<string, unknown>,
  random: RandomSource,
  provider: CryptoProvider | undefined,
): Uint8Array | undefined {
  const key = boxSharedKey(from.secretBytes, to.bytes, provider)
  if (key === undefined) return undefined
  const nonce = random(BOX_NONCE_BYTES)
  const sealed = sealBox(key, nonce, utf8Encode(JSON.stringify(json)))
  key.fill(0)
  return concatBytes(nonce, sealed)
}

function open(own: NodePrivateKey, peer: NodePublicKey, box: Uint8Array, provider: CryptoProvider | undefined): Uint8Array | undefined {
  const key = boxSharedKey(own.secretBytes, peer.bytes, provider)
  if (key === undefined) return undefined
  const opened = openBox(key, box.slice(0, BOX_NONCE_BYTES), box.subarray(BOX_NONCE_BYTES))
  key.fill(0)
  return opened
}

/** Members by lower-case name, as Go's decoder matches them; null counts as absent. */
function parseMembers(bytes: Uint8Array): Map<string, unknown> | undefined {
  const text = utf8DecodeStrict(bytes)
  if (text === undefined) return undefined
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return undefined // a broken text is the same as none
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined
  const members = new Map<string, unknown>()
  for (const [name, member] of Object.entries(value)) if (member !== null) members.set(name.toLowerCase(), member)
  return members
}

function isInteger(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value)
}
