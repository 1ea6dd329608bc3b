import type { Instant } from '@meshwright/core'
import { clampX25519, NodePublicKey } from '@meshwright/crypto'
import type { Admission } from './admission.ts'
import { INITIATION_INTERVAL_MS, REKEY_TIMEOUT_MS } from './constants.ts'
import { createInitiation, createResponse, openInitiationStatic, openInitiationTimestamp, openResponse, wipeInitiation } from './handshake.ts'
import { type Identity, mac1KeyOf } from './identity.ts'
import type { CookieReplyMessage, InitiationMessage, ResponseMessage } from './messages.ts'
import type { IndexEntry, Peer, PendingInitiation } from './peer.ts'
import { Session } from './session.ts'
import { drop, heardFrom, isReachable, type Shared, transmitHandshake } from './shared.ts'
import { encodeTimestamp, isLaterTimestamp, nextSlot, slotOfWall } from './tai64n.ts'
import type { WireGuardPath } from './types.ts'

const NO_PRESHARED_KEY: Uint8Array = new Uint8Array(32)

/** Who a static key belongs to: a peer, or one that will be made once it has proved to own the key. */
export interface PeerCandidate<Path extends WireGuardPath> {
  readonly peer: Peer<Path>
  /** Enters the peer into the device, if it is not there yet; `false` when there is no room. */
  admit(now: Instant): boolean
}

/**
 * Everything that handshake messages do, both roles, once they were let in (see `Admission`). A message that fails changes nothing.
 *
 * | slot | holds | ends |
 * |---|---|---|
 * | `peer.initiation` | our unanswered initiation | answered, replaced by the next one, wiped |
 * | `sessions.next` | the session of our answer | confirmed by the peer's first packet, replaced, wiped |
 *
 * The roles have slots of their own, so crossing initiations end in a session after one round trip.
 */
export class Handshakes<Path extends WireGuardPath> {
  readonly #shared: Shared<Path>
  readonly #admission: Admission<Path>
  readonly #candidate: (publicKey: NodePublicKey) => PeerCandidate<Path> | undefined

  constructor(shared: Shared<Path>, admission: Admission<Path>, candidate: (publicKey: NodePublicKey) => PeerCandidate<Path> | undefined) {
    this.#shared = shared
    this.#admission = admission
    this.#candidate = candidate
  }

  /**
   * A session with the peer is wanted: sends an initiation, unless a handshake message went out less than 5 seconds ago; then one is
   * sent when they are over. @param retry the retransmission timer asks
   */
  initiate(now: Instant, peer: Peer<Path>, retry: boolean): void {
    const shared = this.#shared
    const identity = shared.identity
    if (!retry) peer.timers.attempts = 0
    if (identity === undefined) return drop(shared, 'no-private-key', peer)
    if (!isReachable(shared, peer)) return drop(shared, 'no-endpoint', peer)
    const allowedAt = peer.handshakeSentAt + REKEY_TIMEOUT_MS
    if (now < allowedAt) return peer.timers.initiationPostponed(allowedAt)
    const staticStatic = this.#staticStatic(identity, peer)
    if (staticStatic === undefined) return drop(shared, 'unusable-key', peer)
    const ephemeralPrivate = clampX25519(shared.random(32))
    const localIndex = shared.index.fresh()
    const slot = Math.max(slotOfWall(shared.wallClock()), nextSlot(peer.lastTimestampSent))
    const made = createInitiation(shared.provider, identity, peer.publicKey.bytes, staticStatic, ephemeralPrivate, localIndex, encodeTimestamp(slot))
    if (made === undefined) return drop(shared, 'unusable-key', peer)
    peer.lastTimestampSent = slot
    if (retry) {
      peer.timers.attempts += 1
      shared.outbox.push({ type: 'handshakeRetry', peer: peer.publicKey, attempt: peer.timers.attempts })
    }
    this.forget(peer)
    const initiation: PendingInitiation<Path> = { owner: peer, localIndex, secrets: made.secrets }
    peer.initiation = initiation
    shared.index.set(localIndex, initiation)
    this.#send(now, peer, made.message)
    peer.timers.initiationSent(now)
  }

  /** Forgets our unanswered initiation. */
  forget(peer: Peer<Path>): void {
    const initiation = peer.initiation
    if (initiation === undefined) return
    this.#shared.index.delete(initiation.localIndex)
    wipeInitiation(initiation.secrets)
    peer.initiation = undefined
  }

  /** Takes an initiation and answers it; gives the peer whose state has changed. */
  handleInitiation(now: Instant, bytes: Uint8Array, message: InitiationMessage, from: Path | undefined): Peer<Path> | undefined {
    const shared = this.#shared
    const identity = this.#admission.admit(now, bytes, message.sender, from)
    if (identity === undefined) return undefined
    const opened = openInitiationStatic(shared.provider, identity, message)
    if (opened === undefined) return drop(shared, 'handshake-auth')
    const publicKey = NodePublicKey.fromBytes(opened.staticPublic)
    const candidate = publicKey && this.#candidate(publicKey)
    if (candidate === undefined) return drop(shared, 'unknown-peer')
    const peer = candidate.peer
    const staticStatic = this.#staticStatic(identity, peer)
    if (staticStatic === undefined) return drop(shared, 'unusable-key', peer)
    const timed = openInitiationTimestamp(opened.transcript, staticStatic, message)
    if (timed === undefined) return drop(shared, 'handshake-auth', peer)
    if (peer.greatestTimestamp !== undefined && !isLaterTimestamp(timed.timestamp, peer.greatestTimestamp)) return drop(shared, 'initiation-replay', peer)
    if (now - peer.initiationAcceptedAt < INITIATION_INTERVAL_MS) return drop(shared, 'initiation-flood', peer)
    const localIndex = shared.index.fresh()
    const ephemeralPrivate = clampX25519(shared.random(32))
    const presharedKey = peer.presharedKey ?? NO_PRESHARED_KEY
    const made = createResponse(shared.provider, timed.transcript, message, peer.publicKey.bytes, presharedKey, ephemeralPrivate, localIndex)
    timed.transcript.wipe()
    if (made === undefined) return drop(shared, 'handshake-auth', peer)
    if (!candidate.admit(now)) return drop(shared, 'unknown-peer')

    peer.greatestTimestamp = timed.timestamp
    peer.initiationAcceptedAt = now
    peer.receivedBytes += bytes.length
    heardFrom(shared, peer, from)
    peer.timers.initiationAccepted(now)
    const session: Session<Peer<Path>> = new Session(peer, shared.provider, made.keys, localIndex, message.sender, false, now)
    peer.sessions.installAsResponder(session)
    shared.index.set(localIndex, session)
    this.#send(now, peer, made.message)
    peer.timers.responseSent(now)
    return peer
  }

  /** Takes the answer to our initiation; gives the peer that now has a session to send on. */
  handleResponse(now: Instant, bytes: Uint8Array, message: ResponseMessage, from: Path | undefined): Peer<Path> | undefined {
    const shared = this.#shared
    const identity = this.#admission.admit(now, bytes, message.sender, from)
    if (identity === undefined) return undefined
    const initiation = shared.index.get(message.receiver)
    if (initiation === undefined || !isPending(initiation)) return drop(shared, 'unknown-index')
    const peer = initiation.owner
    const keys = openResponse(shared.provider, identity, initiation.secrets, peer.presharedKey ?? NO_PRESHARED_KEY, message)
    if (keys === undefined) return drop(shared, 'handshake-auth', peer)

    wipeInitiation(initiation.secrets)
    peer.initiation = undefined
    const session: Session<Peer<Path>> = new Session(peer, shared.provider, keys, initiation.localIndex, message.sender, true, now)
    shared.index.set(initiation.localIndex, session) // the session goes on under the handshake's index
    peer.sessions.installAsInitiator(session)
    peer.receivedBytes += bytes.length
    heardFrom(shared, peer, from)
    peer.timers.responseAccepted(now)
    this.completed(peer, true)
    return peer
  }

  /** Takes a cookie. Not authentic enough to change anything else: the message is sent again by its timer. */
  handleCookieReply(now: Instant, message: CookieReplyMessage): void {
    const peer = this.#shared.index.get(message.receiver)?.owner
    if (peer === undefined) return drop(this.#shared, 'unknown-index')
    if (peer.cookies.consume(now, this.#shared.provider, peer.publicKey.bytes, message)) peer.cookiesReceived += 1
    else drop(this.#shared, 'cookie-auth', peer)
  }

  /** Both ends have the session: notes it and tells the caller. */
  completed(peer: Peer<Path>, initiator: boolean): void {
    peer.latestHandshake = this.#shared.wallClock()
    peer.handshakesCompleted += 1
    this.#shared.outbox.push({ type: 'established', peer: peer.publicKey, initiator })
  }

  #send(now: Instant, peer: Peer<Path>, message: Uint8Array): void {
    peer.cookies.stamp(now, this.#shared.provider, mac1KeyOf(this.#shared.provider, peer.publicKey.bytes), message)
    peer.handshakeSentAt = now
    transmitHandshake(this.#shared, peer, message)
  }

  #staticStatic(identity: Identity, peer: Peer<Path>): Uint8Array | undefined {
    if (peer.staticStatic === undefined) peer.staticStatic = identity.sharedSecret(this.#shared.provider, peer.publicKey.bytes) ?? null
    return peer.staticStatic ?? undefined
  }
}

function isPending<Path extends WireGuardPath>(entry: IndexEntry<Path>): entry is PendingInitiation<Path> {
  return 'secrets' in entry
}
