import type { UnixMillis } from '@meshwright/core'
import { formatEndpoint, formatPrefix } from '@meshwright/ip'
import { formatPublicKey, formatSecretKey } from './key-text.ts'
import { presharedKeyOf, type ShownDevice, type ShownPeer } from './state.ts'

const UNITS: readonly (readonly [name: string, seconds: number])[] = [
  ['year', 31_536_000],
  ['day', 86_400],
  ['hour', 3_600],
  ['minute', 60],
  ['second', 1],
]

/** What `wg show NAME` prints, for people: secrets hidden, peers by latest handshake (man 8 wg). */
export function formatShow(device: ShownDevice, wallNow: UnixMillis): string {
  const lines = [`interface: ${device.name}`]
  if (device.privateKey !== undefined) lines.push(`  public key: ${formatPublicKey(device.privateKey.publicKey())}`, '  private key: (hidden)')
  if (device.listenPort) lines.push(`  listening port: ${device.listenPort}`)
  if (device.fwmark) lines.push(`  fwmark: ${formatMark(device.fwmark)}`)
  const peers = device.peers.toSorted((a, b) => (b.latestHandshake ?? 0) - (a.latestHandshake ?? 0))
  for (const peer of peers) lines.push('', ...peerLines(peer, wallNow))
  return `${lines.join('\n')}\n`
}

/** What `wg show NAME dump` prints: one line for the interface and one for each peer, separated by tabs. It holds the secrets. */
export function formatDump(device: ShownDevice): string {
  const key = device.privateKey
  const first = [
    key === undefined ? '(none)' : formatSecretKey(key.secretBytes),
    key === undefined ? '(none)' : formatPublicKey(key.publicKey()),
    String(device.listenPort ?? 0),
    device.fwmark ? formatMark(device.fwmark) : 'off',
  ]
  const rest = device.peers.map((peer) => {
    const presharedKey = presharedKeyOf(peer)
    return [
      formatPublicKey(peer.publicKey),
      presharedKey === undefined ? '(none)' : formatSecretKey(presharedKey),
      peer.endpoint === undefined ? '(none)' : formatEndpoint(peer.endpoint),
      peer.allowedIps.length === 0 ? '(none)' : peer.allowedIps.map(formatPrefix).join(','),
      String(Math.floor((peer.latestHandshake ?? 0) / 1000)),
      String(peer.receivedBytes),
      String(peer.sentBytes),
      peer.persistentKeepaliveSeconds === 0 ? 'off' : String(peer.persistentKeepaliveSeconds),
    ]
  })
  return [first, ...rest].map((fields) => `${fields.join('\t')}\n`).join('')
}

/** How long ago, as `wg` says it: `1 minute, 2 seconds ago`, `Now`. */
export function formatAgo(ms: number): string {
  let left = Math.floor(ms / 1000)
  if (left <= 0) return left === 0 ? 'Now' : '(system clock wound backward; connection may be stuck)'
  const parts: string[] = []
  for (const [name, seconds] of UNITS) {
    const count = Math.floor(left / seconds)
    left -= count * seconds
    if (count > 0) parts.push(`${count} ${name}${count === 1 ? '' : 's'}`)
  }
  return `${parts.join(', ')} ago`
}

/** An amount of bytes, as `wg` says it: `2.17 KiB`. */
export function formatBytes(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`
  const units = ['KiB', 'MiB', 'GiB', 'TiB']
  const power = Math.min(units.length, Math.floor(Math.log2(bytes) / 10))
  return `${(bytes / 1024 ** power).toFixed(2)} ${units[power - 1] ?? ''}`
}

function peerLines(peer: ShownPeer, wallNow: UnixMillis): string[] {
  const lines = [`peer: ${formatPublicKey(peer.publicKey)}`]
  if (presharedKeyOf(peer) !== undefined) lines.push('  preshared key: (hidden)')
  if (peer.endpoint !== undefined) lines.push(`  endpoint: ${formatEndpoint(peer.endpoint)}`)
  lines.push(`  allowed ips: ${peer.allowedIps.length === 0 ? '(none)' : peer.allowedIps.map(formatPrefix).join(', ')}`)
  // As `wg` does: the difference of whole seconds, not whole seconds of the difference.
  if (peer.latestHandshake) lines.push(`  latest handshake: ${formatAgo((Math.floor(wallNow / 1000) - Math.floor(peer.latestHandshake / 1000)) * 1000)}`)
  if (peer.receivedBytes > 0 || peer.sentBytes > 0) {
    lines.push(`  transfer: ${formatBytes(peer.receivedBytes)} received, ${formatBytes(peer.sentBytes)} sent`)
  }
  if (peer.persistentKeepaliveSeconds > 0) {
    const seconds = peer.persistentKeepaliveSeconds
    lines.push(`  persistent keepalive: every ${formatAgo(seconds * 1000).replace(/ ago$/, '')}`)
  }
  return lines
}

function formatMark(mark: number): string {
  return `0x${mark.toString(16)}`
}
