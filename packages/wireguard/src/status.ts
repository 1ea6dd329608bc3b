import type { Instant } from '@meshwright/core'
import type { Admission } from './admission.ts'
import type { Peer } from './peer.ts'
import type { Shared } from './shared.ts'
import type { DeviceFigures, DeviceStatus, PeerStatus, WireGuardPath } from './types.ts'

/** What is known of a peer; see `PeerStatus`. */
export function peerStatus<Path extends WireGuardPath>(now: Instant, peer: Peer<Path>): PeerStatus<Path> {
  const current = peer.sessions.current
  return {
    publicKey: peer.publicKey,
    state: peer.state,
    path: peer.path,
    hasPresharedKey: peer.presharedKey !== undefined,
    persistentKeepaliveSeconds: peer.timers.persistentMs / 1000,
    latestHandshake: peer.latestHandshake,
    sessionAgeMs: current === undefined ? undefined : now - current.createdAt,
    receivedBytes: peer.receivedBytes,
    sentBytes: peer.sentBytes,
    receivedPackets: peer.receivedPackets,
    sentPackets: peer.sentPackets,
    stagedPackets: peer.stagedCount,
    handshakesCompleted: peer.handshakesCompleted,
    cookiesReceived: peer.cookiesReceived,
    drops: peer.drops.snapshot(),
  }
}

/** What is known of a device itself; see `DeviceFigures`. */
export function deviceFigures<Path extends WireGuardPath>(now: Instant, shared: Shared<Path>, admission: Admission<Path>): DeviceFigures {
  return {
    publicKey: shared.identity?.publicKey,
    provider: shared.provider.name,
    mtu: shared.mtu,
    underLoad: admission.isUnderLoad(now),
    cookieRepliesSent: shared.cookieRepliesSent,
    tables: { indices: shared.index.size, sources: admission.sources, outputs: shared.outbox.size },
    drops: shared.drops.snapshot(),
  }
}

/** What is known of a device; see `DeviceStatus`. */
export function deviceStatus<Path extends WireGuardPath>(
  now: Instant,
  shared: Shared<Path>,
  peers: Iterable<Peer<Path>>,
  admission: Admission<Path>,
): DeviceStatus<Path> {
  return { ...deviceFigures(now, shared, admission), peers: Array.from(peers, (peer) => peerStatus(now, peer)) }
}
