import type { Instant } from '@meshwright/core'
import { KEEPALIVE_TIMEOUT_MS, REKEY_TIMEOUT_MS, ZERO_KEYS_AFTER_MS } from './constants.ts'

/** The five timers of a peer. */
export type TimerName = 'retransmit' | 'passiveKeepalive' | 'newHandshake' | 'zeroKeys' | 'persistentKeepalive'

const IDLE = Infinity

/**
 * When a peer must act by itself. Only bookkeeping: the device acts.
 *
 * | event | retransmit | passive keepalive | new handshake | zero keys | persistent |
 * |---|---|---|---|---|---|
 * | initiation sent | arm 5 s + jitter | cancel | | | restart |
 * | response sent | | cancel | | restart 540 s | restart |
 * | response accepted | cancel, attempts 0 | | cancel | restart 540 s | restart |
 * | initiation accepted | | | cancel | | restart |
 * | session confirmed | cancel, attempts 0 | | | | |
 * | data sent | | cancel | arm 15 s + jitter if idle | | restart |
 * | keepalive sent | | cancel | | | restart |
 * | data received | | arm 10 s if idle, else one more | cancel | | restart |
 * | keepalive received | | | cancel | | restart |
 *
 * (WireGuard/wireguard-go:device/timers.go)
 */
export class PeerTimers {
  #retransmit = IDLE
  #passiveKeepalive = IDLE
  #newHandshake = IDLE
  #zeroKeys = IDLE
  #persistent = IDLE
  #persistentMs = 0
  #needAnotherKeepalive = false
  readonly #jitter: () => number
  /** Initiations sent again since the last success or the last fresh wish for a session. */
  attempts = 0
  /** Whether this session's receive-side renewal has been tried. */
  lastMinuteDone = false

  /** @param jitter gives 0 to 333 milliseconds */
  constructor(jitter: () => number) {
    this.#jitter = jitter
  }

  /** The earliest deadline, `Infinity` for none. */
  get due(): number {
    return Math.min(this.#retransmit, this.#passiveKeepalive, this.#newHandshake, this.#zeroKeys, this.#persistent)
  }

  /** Milliseconds between persistent keepalives, 0 for off. */
  get persistentMs(): number {
    return this.#persistentMs
  }

  get isRetransmitPending(): boolean {
    return this.#retransmit !== IDLE
  }

  /**
   * Removes and names the timer that fell due first, if any has. When it is time to forget all keys, what the others would have done for
   * them before is of no use any more (the computer has slept).
   */
  takeOverdue(now: Instant): TimerName | undefined {
    const due = this.due
    if (due > now) return undefined
    if (this.#zeroKeys <= now) {
      this.#zeroKeys = IDLE
      return 'zeroKeys'
    }
    if (due === this.#retransmit) {
      this.#retransmit = IDLE
      return 'retransmit'
    }
    if (due === this.#passiveKeepalive) {
      this.#passiveKeepalive = IDLE
      return 'passiveKeepalive'
    }
    if (due === this.#newHandshake) {
      this.#newHandshake = IDLE
      return 'newHandshake'
    }
    this.#persistent = IDLE
    return 'persistentKeepalive'
  }

  initiationSent(now: Instant): void {
    this.#retransmit = now + REKEY_TIMEOUT_MS + this.#jitter()
    this.#passiveKeepalive = IDLE
    this.#restartPersistent(now)
  }

  /** An initiation is wanted, but one may not be sent before `at`. */
  initiationPostponed(at: number): void {
    if (this.#retransmit === IDLE) this.#retransmit = at + this.#jitter()
  }

  responseSent(now: Instant): void {
    this.#passiveKeepalive = IDLE
    this.#zeroKeys = now + ZERO_KEYS_AFTER_MS
    this.#restartPersistent(now)
  }

  responseAccepted(now: Instant): void {
    this.#newHandshake = IDLE
    this.#zeroKeys = now + ZERO_KEYS_AFTER_MS
    this.#restartPersistent(now)
    this.handshakeComplete()
  }

  initiationAccepted(now: Instant): void {
    this.#newHandshake = IDLE
    this.#restartPersistent(now)
  }

  /** Either role: there is a session that both ends have. */
  handshakeComplete(): void {
    this.#retransmit = IDLE
    this.attempts = 0
    this.lastMinuteDone = false
  }

  dataSent(now: Instant): void {
    this.#passiveKeepalive = IDLE
    if (this.#newHandshake === IDLE) this.#newHandshake = now + KEEPALIVE_TIMEOUT_MS + REKEY_TIMEOUT_MS + this.#jitter()
    this.#restartPersistent(now)
  }

  keepaliveSent(now: Instant): void {
    this.#passiveKeepalive = IDLE
    this.#restartPersistent(now)
  }

  dataReceived(now: Instant): void {
    this.#newHandshake = IDLE
    if (this.#passiveKeepalive === IDLE) this.#passiveKeepalive = now + KEEPALIVE_TIMEOUT_MS
    else this.#needAnotherKeepalive = true
    this.#restartPersistent(now)
  }

  keepaliveReceived(now: Instant): void {
    this.#newHandshake = IDLE
    this.#restartPersistent(now)
  }

  /** Behind the keepalive that the passive timer asked for: data came meanwhile, so one more is due. */
  passiveKeepaliveDone(now: Instant): void {
    if (!this.#needAnotherKeepalive) return
    this.#needAnotherKeepalive = false
    this.#passiveKeepalive = now + KEEPALIVE_TIMEOUT_MS
  }

  /** No answer after all attempts: stop, and wipe what is left of old sessions in time. */
  gaveUp(now: Instant): void {
    this.#passiveKeepalive = IDLE
    if (this.#zeroKeys === IDLE) this.#zeroKeys = now + ZERO_KEYS_AFTER_MS
  }

  /** Changes the interval of persistent keepalives; 0 stops them. */
  setPersistent(now: Instant, intervalMs: number): void {
    this.#persistentMs = intervalMs
    this.#persistent = IDLE
    this.#restartPersistent(now)
  }

  /** The persistent timer fired: run on, whatever becomes of the packet. */
  restartPersistent(now: Instant): void {
    this.#restartPersistent(now)
  }

  /** Stops everything but persistent keepalives. */
  reset(): void {
    this.#retransmit = IDLE
    this.#passiveKeepalive = IDLE
    this.#newHandshake = IDLE
    this.#zeroKeys = IDLE
    this.#needAnotherKeepalive = false
    this.attempts = 0
    this.lastMinuteDone = false
  }

  /** Stops everything. */
  stop(): void {
    this.reset()
    this.#persistent = IDLE
  }

  #restartPersistent(now: Instant): void {
    if (this.#persistentMs > 0) this.#persistent = now + this.#persistentMs
  }
}
