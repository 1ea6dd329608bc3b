import { formatHex, parseHex } from '@meshwright/core'
import { NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import { type Endpoint, formatEndpoint, formatPrefix, parseEndpoint, parsePrefix, type Prefix } from '@meshwright/ip'
import type { ShownDevice, ShownPeer } from './state.ts'
import type { UapiChange, UapiPeerChange } from './uapi.ts'

/** What a device answered: its errno, and its state when a `get` succeeded. */
export interface UapiAnswer {
  /** 0 or a negative errno. */
  readonly errno: number
  readonly device: ShownDevice
}

/** The request that asks for the state of a device. */
export const UAPI_GET = 'get=1\n\n'

/** Writes the request that asks a device for changes, in their order; `UapiReader` reads it back. It holds the secrets in them. */
export function formatUapiSet(changes: readonly UapiChange[]): string {
  return `set=1\n${changes
    .flatMap(changeLines)
    .map((line) => `${line}\n`)
    .join('')}\n`
}

/**
 * Reads the whole answer to a `get` or a `set`, up to its empty line; `undefined` when it is not one. Unknown keys are passed over, as
 * `wg` does.
 * @param name names the device in the result
 */
export function parseUapiAnswer(text: string, name: string): UapiAnswer | undefined {
  if (!text.endsWith('\n\n')) return undefined
  const device: Mutable<Omit<ShownDevice, 'peers'>> & { peers: MutablePeer[] } = { name, peers: [] }
  let errno: number | undefined
  for (const line of text.slice(0, -2).split('\n')) {
    const at = line.indexOf('=')
    if (at < 0 || errno !== undefined) return undefined
    const [key, value] = [line.slice(0, at), line.slice(at + 1)]
    const peer = device.peers.at(-1)
    if (key === 'errno') {
      if (!/^-?[0-9]{1,5}$/.test(value)) return undefined
      errno = Number(value)
    } else if (key === 'public_key') {
      const bytes = parseHex(value, 32)
      const publicKey = bytes && NodePublicKey.fromBytes(bytes)
      if (publicKey === undefined) return undefined
      device.peers.push({ publicKey, allowedIps: [], receivedBytes: 0, sentBytes: 0, persistentKeepaliveSeconds: 0 })
    } else if (peer !== undefined) {
      if (!readPeerLine(peer, key, value)) return undefined
    } else if (key === 'private_key') {
      const bytes = parseHex(value, 32)
      const privateKey = bytes && NodePrivateKey.fromBytes(bytes)
      if (privateKey === undefined) return undefined
      device.privateKey = privateKey
    } else if (key === 'listen_port' || key === 'fwmark') {
      const number = parseCount(value)
      if (number === undefined) return undefined
      device[key === 'fwmark' ? 'fwmark' : 'listenPort'] = number
    }
  }
  return errno === undefined ? undefined : { errno, device }
}

type Mutable<Shape> = { -readonly [Field in keyof Shape]: Shape[Field] }
type MutablePeer = Mutable<Omit<ShownPeer, 'allowedIps'>> & { allowedIps: Prefix[] }

function readPeerLine(peer: MutablePeer, key: string, value: string): boolean {
  switch (key) {
    case 'preshared_key':
      return take(parseHex(value, 32), (bytes) => (peer.presharedKey = bytes))
    case 'endpoint':
      return take<Endpoint>(parseEndpoint(value), (endpoint) => (peer.endpoint = endpoint))
    case 'last_handshake_time_sec':
      return take(parseCount(value), (seconds) => addHandshake(peer, seconds * 1000))
    case 'last_handshake_time_nsec':
      return take(parseCount(value), (nanoseconds) => addHandshake(peer, Math.floor(nanoseconds / 1e6)))
    case 'tx_bytes':
      return take(parseCount(value), (bytes) => (peer.sentBytes = bytes))
    case 'rx_bytes':
      return take(parseCount(value), (bytes) => (peer.receivedBytes = bytes))
    case 'persistent_keepalive_interval':
      return take(parseCount(value), (seconds) => (peer.persistentKeepaliveSeconds = seconds))
    case 'allowed_ip':
      return take(parsePrefix(value), (prefix) => peer.allowedIps.push(prefix))
    default:
      return true
  }
}

function addHandshake(peer: MutablePeer, ms: number): void {
  if (ms > 0) peer.latestHandshake = (peer.latestHandshake ?? 0) + ms
}

function take<Value>(value: Value | undefined, use: (value: Value) => unknown): boolean {
  if (value !== undefined) use(value)
  return value !== undefined
}

function parseCount(text: string): number | undefined {
  const value = /^[0-9]{1,20}$/.test(text) ? Number(text) : Number.NaN
  return Number.isNaN(value) ? undefined : value
}

function changeLines(change: UapiChange): string[] {
  switch (change.type) {
    case 'privateKey':
      return [`private_key=${formatHex(change.key?.secretBytes ?? new Uint8Array(32))}`]
    case 'listenPort':
      return [`listen_port=${change.port}`]
    case 'fwmark':
      return [`fwmark=${change.mark}`]
    case 'replacePeers':
      return ['replace_peers=true']
    case 'peer':
      return peerLines(change)
  }
}

function peerLines(peer: UapiPeerChange): string[] {
  const lines = [`public_key=${formatHex(peer.publicKey.bytes)}`]
  if (peer.remove) lines.push('remove=true')
  if (peer.updateOnly) lines.push('update_only=true')
  if (peer.presharedKey !== undefined) lines.push(`preshared_key=${formatHex(peer.presharedKey)}`)
  if (peer.endpoint !== undefined) lines.push(`endpoint=${formatEndpoint(peer.endpoint)}`)
  if (peer.persistentKeepaliveSeconds !== undefined) lines.push(`persistent_keepalive_interval=${peer.persistentKeepaliveSeconds}`)
  if (peer.replaceAllowedIps) lines.push('replace_allowed_ips=true')
  for (const { prefix, remove } of peer.allowedIps) lines.push(`allowed_ip=${remove ? '-' : ''}${formatPrefix(prefix)}`)
  return lines
}
