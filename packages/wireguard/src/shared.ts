import { Outbox, type RandomSource, type WallClock } from '@meshwright/core'
import { type CryptoProvider, nobleProvider } from '@meshwright/crypto'
import { DEFAULT_MTU, MAX_STAGED_PACKETS, REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES } from './constants.ts'
import { DropCounters, type DropReason } from './drop-counters.ts'
import { HANDSHAKE_TRAFFIC_CLASS } from './ecn.ts'
import { WireGuardError } from './errors.ts'
import { Identity } from './identity.ts'
import { IndexTable } from './index-table.ts'
import type { IndexEntry, Peer } from './peer.ts'
import type { CounterLimits } from './session.ts'
import type { WireGuardDeviceOptions, WireGuardOutput, WireGuardPath } from './types.ts'

/** What the rooms of one device share. */
export interface Shared<Path extends WireGuardPath> {
  readonly provider: CryptoProvider
  readonly random: RandomSource
  readonly wallClock: WallClock
  readonly outbox: Outbox<WireGuardOutput<Path>>
  readonly drops: DropCounters
  readonly index: IndexTable<IndexEntry<Path>>
  readonly limits: CounterLimits
  readonly roaming: boolean
  readonly maxStagedPackets: number
  identity: Identity | undefined
  mtu: number
  cookieRepliesSent: number
}

/** What the rooms of a new device share. @throws WIREGUARD_LIMITS_RANGE WIREGUARD_MTU_RANGE */
export function createShared<Path extends WireGuardPath>(options: WireGuardDeviceOptions<Path>): Shared<Path> {
  const provider = options.provider ?? nobleProvider
  const rekeyAfter = options.limits?.rekeyAfterMessages ?? REKEY_AFTER_MESSAGES
  const rejectAfter = options.limits?.rejectAfterMessages ?? REJECT_AFTER_MESSAGES
  if (rekeyAfter < 0n || rekeyAfter > REKEY_AFTER_MESSAGES || rejectAfter < 1n || rejectAfter > REJECT_AFTER_MESSAGES) {
    throw new WireGuardError('WIREGUARD_LIMITS_RANGE', 'message limits can be lower than the protocol has them, not higher')
  }
  return {
    provider,
    random: options.random,
    wallClock: options.wallClock,
    outbox: new Outbox(),
    drops: new DropCounters(),
    index: new IndexTable(options.random),
    limits: { rekeyAfter, rejectAfter },
    roaming: options.roaming ?? true,
    maxStagedPackets: options.maxStagedPackets ?? MAX_STAGED_PACKETS,
    identity: options.privateKey === undefined ? undefined : new Identity(provider, options.privateKey),
    mtu: checkMtu(options.mtu ?? DEFAULT_MTU),
    cookieRepliesSent: 0,
  }
}

/** @throws WIREGUARD_MTU_RANGE */
export function checkMtu(mtu: number): number {
  if (!Number.isInteger(mtu) || mtu < 0 || mtu > 65_535) throw new WireGuardError('WIREGUARD_MTU_RANGE', `an MTU is 0 to 65535, not ${mtu}`)
  return mtu
}

/** Counts a drop for the device, and for the peer it can be laid to. */
export function drop<Path extends WireGuardPath>(shared: Shared<Path>, reason: DropReason, peer?: Peer<Path>, times: number = 1): undefined {
  shared.drops.add(reason, times)
  peer?.drops.add(reason, times)
  return undefined
}

/** Owes a handshake message to a peer, if there is a way to it. */
export function transmitHandshake<Path extends WireGuardPath>(shared: Shared<Path>, peer: Peer<Path>, bytes: Uint8Array): void {
  if (shared.roaming && peer.path === undefined) return drop(shared, 'no-endpoint', peer)
  peer.sentBytes += bytes.length
  pushTransmit(shared, peer, 'handshake', HANDSHAKE_TRAFFIC_CLASS, bytes)
}

/** Owes a datagram to a peer, by its path if the device keeps one. */
export function pushTransmit<Path extends WireGuardPath>(
  shared: Shared<Path>,
  peer: Peer<Path>,
  kind: 'handshake' | 'transport',
  trafficClass: number,
  bytes: Uint8Array,
): void {
  const to = shared.roaming && peer.path !== undefined ? { to: peer.path } : {}
  shared.outbox.push({ type: 'transmit', kind, peer: peer.publicKey, ...to, trafficClass, bytes })
}

/** True when datagrams to the peer have somewhere to go; else says so, once until a path is known. */
export function isReachable<Path extends WireGuardPath>(shared: Shared<Path>, peer: Peer<Path>): boolean {
  if (!shared.roaming || peer.path !== undefined) return true
  if (!peer.noEndpointSaid) {
    peer.noEndpointSaid = true
    shared.outbox.push({ type: 'noEndpoint', peer: peer.publicKey })
  }
  return false
}

/** The peer was authentically heard from on `from`: answer it there from now on. */
export function heardFrom<Path extends WireGuardPath>(shared: Shared<Path>, peer: Peer<Path>, from: Path | undefined): void {
  if (!shared.roaming || from === undefined || from === peer.path) return
  const known = peer.path
  peer.path = from
  peer.noEndpointSaid = false
  if (known !== undefined && known.id !== from.id) shared.outbox.push({ type: 'roamed', peer: peer.publicKey, path: from })
}
