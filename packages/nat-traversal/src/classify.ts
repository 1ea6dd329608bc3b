import { GENEVE_HEADER_BYTES, isGeneve } from './disco/geneve.ts'

/** What a datagram on a node's UDP socket is, judged by its first bytes alone: nothing is authenticated yet. */
export type DatagramKind =
  /** A STUN Binding message: for `answerBinding`, a `BindingTransaction` or the `Netcheck`. */
  | 'stun'
  /** A disco message behind a Geneve header, from a peer relay: for a `RelayClient`. */
  | 'relayed-disco'
  /** A WireGuard message behind a Geneve header, from a peer relay. */
  | 'relayed-wireguard'
  /** A disco message: for the `PathFinder`. */
  | 'disco'
  /** A WireGuard message of a known type and a length that this type can have. */
  | 'wireguard'
  /** None of these: drop it. */
  | 'unknown'

const MAGIC_COOKIE = [0x21, 0x12, 0xa4, 0x42] as const
const DISCO_MAGIC = [0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac] as const
/** Magic, sender's key and nonce: less cannot be disco (tailscale/tailscale:disco/disco.go, LooksLikeDiscoWrapper). */
const DISCO_LEAST_BYTES = 62
const STUN_HEADER_BYTES = 20
/** Least lengths of WireGuard messages 1 to 4; 1 to 3 have exactly these (WireGuard paper, section 5.4). */
const WIREGUARD_BYTES = [0, 148, 92, 64, 32] as const

/**
 * Tells apart the five protocols that share one socket, in the order of tailscale/tailscale:wgengine/magicsock/magicsock.go
 * (packetLooksLike): STUN, Geneve, disco, WireGuard. Never throws, reads at most 66 bytes.
 */
export function classifyDatagram(bytes: Uint8Array): DatagramKind {
  const first = bytes[0]
  if (first === undefined) return 'unknown'
  // Method "Binding" of every class has 0x01 as its second byte; WireGuard has a zero there.
  if (first < 0x40 && bytes[1] === 0x01 && bytes.length >= STUN_HEADER_BYTES && startsWith(bytes, MAGIC_COOKIE, 4)) return 'stun'
  if (isGeneve(bytes)) {
    const inner = bytes.subarray(GENEVE_HEADER_BYTES)
    if (bytes[3] === 0x12) return looksLikeWireGuard(inner) ? 'relayed-wireguard' : 'unknown'
    return looksLikeDisco(inner) ? 'relayed-disco' : 'unknown'
  }
  if (looksLikeDisco(bytes)) return 'disco'
  return looksLikeWireGuard(bytes) ? 'wireguard' : 'unknown'
}

function looksLikeDisco(bytes: Uint8Array): boolean {
  return bytes.length >= DISCO_LEAST_BYTES && startsWith(bytes, DISCO_MAGIC, 0)
}

function looksLikeWireGuard(bytes: Uint8Array): boolean {
  const type = bytes[0] ?? 0
  if (type < 1 || type > 4 || bytes[1] !== 0 || bytes[2] !== 0 || bytes[3] !== 0) return false
  const least = WIREGUARD_BYTES[type] ?? 0
  return type === 4 ? bytes.length >= least : bytes.length === least
}

function startsWith(bytes: Uint8Array, start: readonly number[], at: number): boolean {
  for (let i = 0; i < start.length; i += 1) if (bytes[at + i] !== start[i]) return false
  return true
}
