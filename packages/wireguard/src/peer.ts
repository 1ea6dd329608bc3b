import { BoundedQueue, type Instant } from '@meshwright/core'
import type { NodePublicKey } from '@meshwright/crypto'
import { CookieJar } from './cookie.ts'
import { DropCounters } from './drop-counters.ts'
import type { Due } from './due-heap.ts'
import { type InitiationSecrets, wipeInitiation } from './handshake.ts'
import { type Session, SessionSlots } from './session.ts'
import type { TimestampSlot } from './tai64n.ts'
import { PeerTimers } from './timers.ts'
import type { PeerState, WireGuardPath } from './types.ts'

/** An initiation of ours that has not been answered. */
export interface PendingInitiation<Path extends WireGuardPath> {
  readonly owner: Peer<Path>
  readonly localIndex: number
  readonly secrets: InitiationSecrets
}

/** What an index of ours leads to. */
export type IndexEntry<Path extends WireGuardPath> = Session<Peer<Path>> | PendingInitiation<Path>

/** All that the device keeps of one peer. What only a running session needs is made when one begins. */
export class Peer<Path extends WireGuardPath> implements Due {
  readonly publicKey: NodePublicKey
  readonly timers: PeerTimers
  readonly sessions: SessionSlots<Peer<Path>>
  readonly drops: DropCounters = new DropCounters()
  readonly cookies: CookieJar = new CookieJar()
  heapIndex: number = -1
  heapKey = 0

  presharedKey: Uint8Array | undefined
  path: Path | undefined
  /** X25519 of both static keys, made when first needed; `null` when it is all zero and the peer cannot be used. */
  staticStatic: Uint8Array | null | undefined
  /** Our own side of a handshake. Answering one keeps nothing but the session, so both can go on at once. */
  initiation: PendingInitiation<Path> | undefined
  /** The greatest timestamp accepted from the peer. Outlives sessions: older initiations are replays. */
  greatestTimestamp: Uint8Array | undefined
  lastTimestampSent: TimestampSlot = -1
  initiationAcceptedAt: number = -Infinity
  handshakeSentAt: number = -Infinity
  latestHandshake: number | undefined
  noEndpointSaid = false
  receivedBytes = 0
  sentBytes = 0
  receivedPackets = 0
  sentPackets = 0
  handshakesCompleted = 0
  cookiesReceived = 0
  #staged: BoundedQueue<Uint8Array> | undefined

  constructor(publicKey: NodePublicKey, jitter: () => number, sessionDropped: (session: Session<Peer<Path>>) => void) {
    this.publicKey = publicKey
    this.timers = new PeerTimers(jitter)
    this.sessions = new SessionSlots(sessionDropped)
  }

  get due(): number {
    return this.timers.due
  }

  get state(): PeerState {
    if (this.sessions.current !== undefined) return 'established'
    if (this.sessions.next !== undefined) return 'answered'
    return this.initiation === undefined ? 'idle' : 'handshaking'
  }

  /** The session that new packets are sealed with, if there is one that may be used. */
  sendingSession(now: Instant): Session<Peer<Path>> | undefined {
    const session = this.sessions.current
    return session !== undefined && session.sendAllowed && !session.isExpiredForSending(now) ? session : undefined
  }

  get stagedCount(): number {
    return this.#staged?.size ?? 0
  }

  /** Keeps a packet for the next session; `false` when the oldest had to go for it. */
  stage(packet: Uint8Array, capacity: number): boolean {
    this.#staged ??= new BoundedQueue(capacity)
    return this.#staged.offerEvicting(packet) === undefined
  }

  unstage(): Uint8Array | undefined {
    const packet = this.#staged?.poll()
    if (this.#staged?.size === 0) this.#staged = undefined
    return packet
  }

  /** Forgets all staged packets and tells how many they were. */
  dropStaged(): number {
    const count = this.stagedCount
    this.#staged = undefined
    return count
  }

  /** Overwrites the secrets that are not in the session slots. */
  wipeSecrets(): void {
    if (this.initiation !== undefined) wipeInitiation(this.initiation.secrets)
    this.initiation = undefined
    this.staticStatic?.fill(0)
    this.staticStatic = undefined
  }
}
