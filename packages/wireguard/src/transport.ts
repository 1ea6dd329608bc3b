import { DONE, DROPPED, type Instant, type PacketBatch, PENDING } from '@meshwright/core'
import { KEEPALIVE_TIMEOUT_MS, MAX_CONTENT_BYTES, REJECT_AFTER_TIME_MS, REKEY_AFTER_TIME_MS, REKEY_TIMEOUT_MS, TAG_BYTES } from './constants.ts'
import type { Handshakes } from './handshakes.ts'
import { TRANSPORT_HEADER_BYTES, TRANSPORT_MIN_BYTES, writeTransportHeader } from './messages.ts'
import { innerLength, paddedLength } from './padding.ts'
import type { IndexEntry, Peer } from './peer.ts'
import type { OpenPlan, SealPlan } from './plans.ts'
import { Session } from './session.ts'
import { drop, heardFrom, isReachable, type Shared } from './shared.ts'
import type { WireGuardPath } from './types.ts'

const LAST_MINUTE_MS: number = REJECT_AFTER_TIME_MS - KEEPALIVE_TIMEOUT_MS - REKEY_TIMEOUT_MS

/**
 * The data path in three steps each way. All decisions of the protocol are in *prepare* and *commit*; *crypt* is the provider alone, on
 * the whole batch, so it can run elsewhere.
 *
 * A slot to be sealed has its packet at `offset` and its ciphertext at `target` (mostly the same), with 16 free bytes before and up to
 * 31 behind; afterwards `target` is the datagram, header included. A slot to be opened has its datagram at `offset`; afterwards
 * `target` is the inner packet.
 */
export class Transport<Path extends WireGuardPath> {
  readonly #shared: Shared<Path>
  readonly #handshakes: Handshakes<Path>
  readonly #confirmed: (now: Instant, peer: Peer<Path>) => void
  readonly #rejectHigh: number
  readonly #rejectLow: number
  readonly #rekeyHigh: number
  readonly #rekeyLow: number

  /** @param confirmed called when a peer's first packet has confirmed a session that we answered */
  constructor(shared: Shared<Path>, handshakes: Handshakes<Path>, confirmed: (now: Instant, peer: Peer<Path>) => void) {
    this.#shared = shared
    this.#handshakes = handshakes
    this.#confirmed = confirmed
    this.#rejectHigh = Number(shared.limits.rejectAfter >> 32n)
    this.#rejectLow = Number(shared.limits.rejectAfter & 0xffff_ffffn)
    this.#rekeyHigh = Number(shared.limits.rekeyAfter >> 32n)
    this.#rekeyLow = Number(shared.limits.rekeyAfter & 0xffff_ffffn)
  }

  /** Picks the session, pads, takes message numbers. Without a session the packets are staged and a handshake begins. */
  prepareSeal(now: Instant, peer: Peer<Path>, batch: PacketBatch, plan: SealPlan<Path>): void {
    plan.peer = peer
    plan.session = undefined
    const session = peer.sendingSession(now)
    if (session === undefined) return this.#stageAll(now, peer, batch)
    if (!isReachable(this.#shared, peer)) return this.#dropAll(batch, peer)
    const left = session.messagesBefore(this.#rejectHigh, this.#rejectLow)
    let count = 0
    for (let i = 0; i < batch.count; i += 1) {
      if (batch.verdict[i] !== PENDING) continue
      if (count >= left) {
        this.#stage(peer, batch.source(i))
        batch.verdict[i] = DROPPED
        continue
      }
      const length = batch.length[i] ?? 0
      const padded = paddedLength(length, this.#shared.mtu)
      const offset = batch.offset[i] ?? 0
      const target = batch.target[i] ?? 0
      if (padded > MAX_CONTENT_BYTES || offset + padded > batch.memory.length || target < TRANSPORT_HEADER_BYTES || target + padded + TAG_BYTES > batch.memory.length) {
        drop(this.#shared, 'too-large', peer)
        batch.verdict[i] = DROPPED
        continue
      }
      if (padded > length) {
        batch.memory.fill(0, offset + length, offset + padded)
        batch.length[i] = padded
      }
      if (length > 0) peer.timers.dataSent(now)
      else peer.timers.keepaliveSent(now)
      count += 1
    }
    if (peer.stagedCount > 0) this.#handshakes.initiate(now, peer, false)
    if (count === 0) return
    plan.session = session
    plan.firstCounter = session.sendCounter
    session.advance(count)
  }

  /** The provider's part. */
  cryptSeal(batch: PacketBatch, plan: SealPlan<Path>): void {
    if (plan.session !== undefined) this.#shared.provider.sealBatch(plan.session.sendKey, plan.firstCounter, batch)
  }

  /** Writes the headers, counts, and begins a new handshake when the session is getting old. Gives the number of datagrams made. */
  commitSeal(now: Instant, batch: PacketBatch, plan: SealPlan<Path>): number {
    const { peer, session } = plan
    if (peer === undefined || session === undefined) return 0
    let sealed = 0
    let bytes = 0
    for (let i = 0; i < batch.count; i += 1) {
      if (batch.verdict[i] !== DONE) continue
      const target = (batch.target[i] ?? 0) - TRANSPORT_HEADER_BYTES
      writeTransportHeader(batch.view, target, session.remoteIndex, batch.counterLow[i] ?? 0, batch.counterHigh[i] ?? 0)
      batch.target[i] = target
      const length = (batch.targetLength[i] ?? 0) + TRANSPORT_HEADER_BYTES
      batch.targetLength[i] = length
      bytes += length
      sealed += 1
    }
    peer.sentBytes += bytes
    peer.sentPackets += sealed
    const isOld = session.initiator && now - session.createdAt > REKEY_AFTER_TIME_MS
    if (isOld || session.messagesBefore(this.#rekeyHigh, this.#rekeyLow) < 0) this.#handshakes.initiate(now, peer, false)
    return sealed
  }

  /** Reads the headers and finds the session of each slot. The slots that are no transport messages become `plan.others`. */
  prepareOpen(now: Instant, batch: PacketBatch, plan: OpenPlan<Path>): void {
    plan.reset(batch.count)
    const { view, memory } = batch
    let lastIndex = -1
    let lastEntry: IndexEntry<Path> | undefined
    for (let i = 0; i < batch.count; i += 1) {
      if (batch.verdict[i] !== PENDING) continue
      const offset = batch.offset[i] ?? 0
      const length = batch.length[i] ?? 0
      if (length < TRANSPORT_MIN_BYTES || offset + length > memory.length || view.getUint32(offset, true) !== 4) {
        plan.others[plan.otherCount] = i
        plan.otherCount += 1
        batch.verdict[i] = DROPPED
        continue
      }
      const index = view.getUint32(offset + 4, true)
      if (index !== lastIndex) {
        lastIndex = index
        lastEntry = this.#shared.index.get(index)
      }
      if (!(lastEntry instanceof Session)) {
        drop(this.#shared, 'unknown-index')
        plan.hasStrays = true
        batch.verdict[i] = DROPPED
        continue
      }
      const low = view.getUint32(offset + 8, true)
      const high = view.getUint32(offset + 12, true)
      if (lastEntry.isExpiredForReceiving(now) || high > this.#rejectHigh || (high === this.#rejectHigh && low >= this.#rejectLow)) {
        drop(this.#shared, 'session-expired', lastEntry.owner)
        batch.verdict[i] = DROPPED
        continue
      }
      batch.counterLow[i] = low
      batch.counterHigh[i] = high
      if (batch.target[i] === offset) batch.target[i] = offset + TRANSPORT_HEADER_BYTES
      batch.offset[i] = offset + TRANSPORT_HEADER_BYTES
      batch.length[i] = length - TRANSPORT_HEADER_BYTES
      plan.sessions[i] = lastEntry
    }
  }

  /** The provider's part, for each run of slots of one session. */
  cryptOpen(batch: PacketBatch, plan: OpenPlan<Path>): void {
    let from = 0
    while (from < batch.count) {
      const session = plan.sessions[from]
      let to = from + 1
      while (to < batch.count && plan.sessions[to] === session) to += 1
      if (session !== undefined) this.#shared.provider.openBatch(session.receiveKey, batch, from, to)
      from = to
    }
  }

  /**
   * Replay check, confirmation, roaming, timers, trimming, in the order of arrival. Slots with an inner packet stay `DONE`; keepalives
   * and all that is dropped become `DROPPED`. Gives the number of inner packets.
   */
  commitOpen(now: Instant, from: Path | undefined, batch: PacketBatch, plan: OpenPlan<Path>, touched: (peer: Peer<Path>) => void): number {
    let opened = 0
    let lastPeer: Peer<Path> | undefined
    for (let i = 0; i < batch.count; i += 1) {
      const session = plan.sessions[i]
      if (session === undefined) continue
      const isPacket = this.#commitOne(now, from, batch, i, session)
      if (!isPacket) {
        batch.verdict[i] = DROPPED
        plan.sessions[i] = undefined
      } else {
        opened += 1
      }
      if (session.owner !== lastPeer) {
        if (lastPeer !== undefined) touched(lastPeer)
        lastPeer = session.owner
      }
    }
    if (lastPeer !== undefined) touched(lastPeer)
    return opened
  }

  #commitOne(now: Instant, from: Path | undefined, batch: PacketBatch, slot: number, session: Session<Peer<Path>>): boolean {
    const shared = this.#shared
    const peer = session.owner
    if (batch.verdict[slot] !== DONE) {
      drop(shared, 'packet-auth', peer)
      return false
    }
    if (!session.alive) {
      drop(shared, 'unknown-index', peer)
      return false
    }
    if (!session.acceptCounter(batch.counterLow[slot] ?? 0, batch.counterHigh[slot] ?? 0)) {
      drop(shared, 'packet-replay', peer)
      return false
    }
    const length = batch.targetLength[slot] ?? 0
    peer.receivedBytes += length + TRANSPORT_MIN_BYTES
    peer.receivedPackets += 1
    if (session === peer.sessions.next) {
      peer.sessions.confirm(session, this.#hasPrecedence(peer))
      peer.timers.handshakeComplete()
      heardFrom(shared, peer, from)
      this.#handshakes.completed(peer, false)
      this.#confirmed(now, peer)
    } else {
      if (session !== peer.sessions.current) peer.sessions.heardOn(session)
      if (from !== peer.path) heardFrom(shared, peer, from)
    }
    if (length > 0) peer.timers.dataReceived(now)
    else peer.timers.keepaliveReceived(now)
    const current = peer.sessions.current
    if (current !== undefined && current.initiator && !peer.timers.lastMinuteDone && now - current.createdAt > LAST_MINUTE_MS) {
      peer.timers.lastMinuteDone = true
      this.#handshakes.initiate(now, peer, false)
    }
    if (length === 0) return false
    const inner = innerLength(batch.memory, batch.target[slot] ?? 0, length)
    if (inner < 0) {
      drop(shared, 'inner-malformed', peer)
      return false
    }
    batch.targetLength[slot] = inner
    return true
  }

  #hasPrecedence(peer: Peer<Path>): boolean {
    const own = this.#shared.identity?.publicKey
    return own !== undefined && own.text < peer.publicKey.text
  }

  #stageAll(now: Instant, peer: Peer<Path>, batch: PacketBatch): void {
    for (let i = 0; i < batch.count; i += 1) {
      if (batch.verdict[i] !== PENDING) continue
      this.#stage(peer, batch.source(i))
      batch.verdict[i] = DROPPED
    }
    this.#handshakes.initiate(now, peer, false)
  }

  #stage(peer: Peer<Path>, packet: Uint8Array): void {
    if (!peer.stage(Uint8Array.from(packet), this.#shared.maxStagedPackets)) drop(this.#shared, 'staging-full', peer)
  }

  #dropAll(batch: PacketBatch, peer: Peer<Path>): void {
    for (let i = 0; i < batch.count; i += 1) {
      if (batch.verdict[i] !== PENDING) continue
      drop(this.#shared, 'no-endpoint', peer)
      batch.verdict[i] = DROPPED
    }
  }
}
