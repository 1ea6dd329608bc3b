import type { Instant } from '@meshwright/core'
import type { CryptoProvider, KeySlot } from '@meshwright/crypto'
import { REJECT_AFTER_TIME_MS } from './constants.ts'
import type { SessionKeys } from './handshake.ts'
import { ReplayWindow } from './replay-window.ts'

const U32 = 0x1_0000_0000
// One place to put two halves together in: cheaper than arithmetic on BigInts, of which every step makes a new one.
const COUNTER: DataView = new DataView(new ArrayBuffer(8))

/** Where a session's message numbers bring changes; see `MessageLimits` of the device. */
export interface CounterLimits {
  readonly rekeyAfter: bigint
  readonly rejectAfter: bigint
}

/** One pair of keys with a peer. `Owner` is whoever the index table must lead to: the peer. */
export class Session<Owner> {
  readonly owner: Owner
  /** The index by which the peer addresses us. */
  readonly localIndex: number
  /** The index by which we address the peer. */
  readonly remoteIndex: number
  /** Whether we began the handshake: only the initiator renews by age. */
  readonly initiator: boolean
  readonly createdAt: Instant
  readonly sendKey: KeySlot
  readonly receiveKey: KeySlot
  /** False after a change of our own key: the session still receives, but new packets wait for a new handshake. */
  sendAllowed = true
  /** False once the session has left its slots: its packets are unknown from then on. */
  alive = true
  #sendLow = 0
  #sendHigh = 0
  #received: ReplayWindow | undefined

  /** Prepares the keys with the provider and overwrites the bytes given. */
  constructor(owner: Owner, provider: CryptoProvider, keys: SessionKeys, localIndex: number, remoteIndex: number, initiator: boolean, now: Instant) {
    this.owner = owner
    this.localIndex = localIndex
    this.remoteIndex = remoteIndex
    this.initiator = initiator
    this.createdAt = now
    this.sendKey = provider.keySlot(keys.send)
    this.receiveKey = provider.keySlot(keys.receive)
    keys.send.fill(0)
    keys.receive.fill(0)
  }

  /** The next message number. */
  get sendCounter(): bigint {
    COUNTER.setUint32(0, this.#sendLow, true)
    COUNTER.setUint32(4, this.#sendHigh, true)
    return COUNTER.getBigUint64(0, true)
  }

  /** How many messages can be sent until the next number is `high` and `low`; negative when it is greater. Exact where it is small. */
  messagesBefore(high: number, low: number): number {
    return (high - this.#sendHigh) * U32 + (low - this.#sendLow)
  }

  /** Takes `count` message numbers out of circulation, beginning at `sendCounter`. The caller has checked the limit. */
  advance(count: number): void {
    const low = this.#sendLow + count
    this.#sendLow = low % U32
    if (low >= U32) this.#sendHigh += 1
  }

  /** Too old to send on. */
  isExpiredForSending(now: Instant): boolean {
    return now - this.createdAt >= REJECT_AFTER_TIME_MS
  }

  /** Too old to receive on: one limit inclusive, the other not, as in WireGuard/wireguard-go:device/{send,receive}.go. */
  isExpiredForReceiving(now: Instant): boolean {
    return now - this.createdAt > REJECT_AFTER_TIME_MS
  }

  /** Marks an authentic packet as received; `false` when it is a repeat. */
  acceptCounter(low: number, high: number): boolean {
    this.#received ??= new ReplayWindow()
    return this.#received.accept(low, high)
  }

  /** Overwrites the keys. */
  destroy(): void {
    this.alive = false
    this.sendKey.destroy()
    this.receiveKey.destroy()
  }
}

/**
 * The three sessions of a peer (WireGuard/wireguard-go:device/noise-protocol.go, keypairs). Every slot receives; only `current` sends.
 *
 * | event | previous | current | next |
 * |---|---|---|---|
 * | handshake finished as initiator | current | new | stays |
 * | answered as responder | dropped | stays | new |
 * | first packet on next | current | next | empty |
 * | first packet on next, both ends began at once and our session has precedence | next | stays | empty |
 *
 * When both ends begin at once there are two new sessions. The kernel would keep each end sending on its own one, and both would begin
 * at once again two minutes later, losing what is in flight. Here both settle on the session of the end with the smaller public key;
 * an end that does not know this rule simply goes on with its own, and either is received.
 */
export class SessionSlots<Owner> {
  previous: Session<Owner> | undefined
  current: Session<Owner> | undefined
  next: Session<Owner> | undefined
  #crossed = false
  #yielded = false
  readonly #dropped: (session: Session<Owner>) => void

  /** @param dropped called with every session that leaves its slot, before its keys are overwritten */
  constructor(dropped: (session: Session<Owner>) => void) {
    this.#dropped = dropped
  }

  get isEmpty(): boolean {
    return this.previous === undefined && this.current === undefined && this.next === undefined
  }

  installAsInitiator(session: Session<Owner>): void {
    this.#drop(this.previous)
    this.previous = this.current
    this.current = session
    this.#crossed = this.next !== undefined
    this.#yielded = false
  }

  installAsResponder(session: Session<Owner>): void {
    this.#crossed = false
    this.#yielded = false
    this.#drop(this.next)
    this.#drop(this.previous)
    this.previous = undefined
    this.next = session
  }

  /**
   * A packet has been authenticated on `session`: true when that confirmed it for the first time.
   * @param weHavePrecedence which session to send on when both ends began at once: ours, or the peer's
   */
  confirm(session: Session<Owner>, weHavePrecedence: boolean): boolean {
    if (session !== this.next) return false
    this.#drop(this.previous)
    if (this.#crossed && weHavePrecedence) {
      this.previous = session
    } else {
      this.previous = this.current
      this.current = session
      this.#yielded = this.#crossed
    }
    this.#crossed = false
    this.next = undefined
    return true
  }

  /**
   * A packet has been authenticated on `session`, which is not `next`. When we gave our session up for the peer's, and the peer sends on
   * ours all the same, it does not know the rule of precedence: take ours again, or neither end would feel bound to renew.
   */
  heardOn(session: Session<Owner>): void {
    if (!this.#yielded || session !== this.previous) return
    this.#yielded = false
    this.previous = this.current
    this.current = session
  }

  clear(): void {
    this.#drop(this.previous)
    this.#drop(this.current)
    this.#drop(this.next)
    this.previous = undefined
    this.current = undefined
    this.next = undefined
  }

  #drop(session: Session<Owner> | undefined): void {
    if (session === undefined) return
    this.#dropped(session)
    session.destroy()
  }
}
