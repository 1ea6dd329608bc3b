import type { Instant } from '@meshwright/core'
import { isMac1Valid, CookieChecker } from './cookie.ts'
import type { Identity } from './identity.ts'
import type { LoadMonitor } from './load-monitor.ts'
import { RateLimiter } from './rate-limiter.ts'
import { drop, type Shared } from './shared.ts'
import type { WireGuardPath } from './types.ts'
import { WorkBudget } from './work-budget.ts'

/** Share of the time that handshake messages of every kind may take, and what may come at once. Beyond it they are dropped unread. */
const HANDSHAKE_TIME_SHARE = 0.5
const HANDSHAKE_BURST_MS = 200
/** The same for cookie replies, the one thing that whoever knows our public key can make us send. */
const COOKIE_TIME_SHARE = 0.1
const COOKIE_BURST_MS = 50

// What work is taken to cost where no stopwatch is given, in milliseconds: the worst that providers other than plain JavaScript need.
const ASSUMED_CHECK_MS = 0.01
const ASSUMED_COOKIE_MS = 0.05
const ASSUMED_ANSWER_MS = 1

const NO_COOKIE_BYTES: Uint8Array = new Uint8Array(0)

/**
 * What stands before a handshake message is read, in the order of cost: time that is left for handshakes at all; mac1; and under load a
 * cookie that proves the source, then that source's rate. All of it is bounded in time, so that whoever floods the device with handshakes
 * cannot take it from the packets of its sessions.
 */
export class Admission<Path extends WireGuardPath> {
  readonly #shared: Shared<Path>
  readonly #loadMonitor: LoadMonitor
  readonly #stopwatch: (() => number) | undefined
  readonly #limiter: RateLimiter = new RateLimiter()
  readonly #cookies: CookieChecker
  readonly #budget: WorkBudget = new WorkBudget(HANDSHAKE_TIME_SHARE, HANDSHAKE_BURST_MS)
  readonly #cookieBudget: WorkBudget = new WorkBudget(COOKIE_TIME_SHARE, COOKIE_BURST_MS)
  #assumedMs = 0

  /** @param stopwatch as `WireGuardDeviceOptions.stopwatch` */
  constructor(shared: Shared<Path>, loadMonitor: LoadMonitor, stopwatch: (() => number) | undefined) {
    this.#shared = shared
    this.#loadMonitor = loadMonitor
    this.#stopwatch = stopwatch
    this.#cookies = new CookieChecker(shared.provider, shared.random)
  }

  /** Whether handshakes must bring a cookie now. */
  isUnderLoad(now: Instant): boolean {
    return this.#loadMonitor.isUnderLoad(now)
  }

  /** How many sources the rate limiter remembers. */
  get sources(): number {
    return this.#limiter.size
  }

  /** The caller's event loop is late by so much. */
  noteLag(now: Instant, ms: number): void {
    this.#loadMonitor.worked(now, ms)
  }

  /** Does the work that one handshake message causes, if there is time for it, and notes what it took. */
  spendTime(now: Instant, work: () => void): void {
    if (!this.#budget.allows(now)) return drop(this.#shared, 'overloaded')
    this.#assumedMs = 0
    const started = this.#stopwatch?.()
    work()
    if (this.#stopwatch === undefined || started === undefined) {
      this.#budget.spend(now, this.#assumedMs)
      return
    }
    const ms = this.#stopwatch() - started
    this.#budget.spend(now, ms)
    this.#loadMonitor.worked(now, ms)
  }

  /** Our identity, if a handshake message may be worked on; else it has been dropped, and maybe answered by a cookie. */
  admit(now: Instant, bytes: Uint8Array, sender: number, from: Path | undefined): Identity | undefined {
    const shared = this.#shared
    const identity = shared.identity
    if (identity === undefined) return drop(shared, 'no-private-key')
    this.#assumedMs += ASSUMED_CHECK_MS
    if (!isMac1Valid(shared.provider, identity.mac1Key, bytes)) return drop(shared, 'mac1')
    if (this.#loadMonitor.handshakeArrived(now)) {
      const cookieBytes = from?.cookieBytes ?? NO_COOKIE_BYTES
      if (!this.#cookies.isMac2Valid(now, cookieBytes, bytes)) {
        return drop(shared, this.#replyWithCookie(now, identity, bytes, sender, from) ? 'cookie-required' : 'overloaded')
      }
      if (!this.#limiter.allow(now, cookieBytes)) return drop(shared, 'rate-limited')
    }
    this.#assumedMs += ASSUMED_ANSWER_MS
    return identity
  }

  /** Overwrites what was kept for cookies. */
  destroy(): void {
    this.#cookies.destroy()
  }

  // False when there was no time for it.
  #replyWithCookie(now: Instant, identity: Identity, bytes: Uint8Array, sender: number, to: Path | undefined): boolean {
    if (to === undefined) return true // nobody to answer
    if (!this.#cookieBudget.allows(now)) return false
    const shared = this.#shared
    const started = this.#stopwatch?.()
    const reply = this.#cookies.reply(now, identity, to.cookieBytes, bytes, sender)
    shared.cookieRepliesSent += 1
    shared.outbox.push({ type: 'transmit', kind: 'cookie', to, trafficClass: 0, bytes: reply })
    this.#assumedMs += ASSUMED_COOKIE_MS
    this.#cookieBudget.spend(now, started === undefined || this.#stopwatch === undefined ? ASSUMED_COOKIE_MS : this.#stopwatch() - started)
    return true
  }
}
