import { after, formatHex, type Instant } from '@meshwright/core'
import type { PathVia } from './path.ts'
import { PING_TIMEOUT_MS } from './timing.ts'

const MAX_IN_FLIGHT = 512

/** A ping that waits for its pong. */
export interface SentPing {
  readonly via: PathVia
  /** Text of the endpoint it went to; `undefined` for one over a relay. */
  readonly candidateKey: string | undefined
  readonly sentAt: Instant
  /** The user's ping that it belongs to. */
  readonly userId: number | undefined
}

/** What is in flight to one peer, oldest first; at most 512, beyond that the oldest counts as lost early. */
export class SentPings {
  readonly #byTxId: Map<string, SentPing> = new Map()

  get size(): number {
    return this.#byTxId.size
  }

  /** When the oldest one counts as lost. */
  get due(): Instant | undefined {
    const [oldest] = this.#byTxId.values()
    return oldest && after(oldest.sentAt, PING_TIMEOUT_MS)
  }

  /** Notes a ping; gives the one that had to make room. */
  add(txId: Uint8Array, ping: SentPing): SentPing | undefined {
    const evicted = this.#byTxId.size >= MAX_IN_FLIGHT ? this.#shift() : undefined
    this.#byTxId.set(formatHex(txId), ping)
    return evicted
  }

  /** The ping that a pong answers, once. */
  take(txId: Uint8Array): SentPing | undefined {
    const key = formatHex(txId)
    const ping = this.#byTxId.get(key)
    this.#byTxId.delete(key)
    return ping
  }

  /** Removes and gives one ping that was lost by now. */
  takeExpired(now: Instant): SentPing | undefined {
    const due = this.due
    return due !== undefined && now >= due ? this.#shift() : undefined
  }

  /** True while a ping of this user's request is in flight. */
  hasUser(userId: number): boolean {
    for (const ping of this.#byTxId.values()) if (ping.userId === userId) return true
    return false
  }

  /** The user's request has its answer: pings of it that are still in flight serve path finding alone. */
  settleUser(userId: number): void {
    for (const [key, ping] of this.#byTxId) if (ping.userId === userId) this.#byTxId.set(key, { ...ping, userId: undefined })
  }

  /** Removes all; gives the users' requests among them, each once. */
  clear(): Set<number> {
    const users = new Set<number>()
    for (const ping of this.#byTxId.values()) if (ping.userId !== undefined) users.add(ping.userId)
    this.#byTxId.clear()
    return users
  }

  #shift(): SentPing | undefined {
    const [oldest] = this.#byTxId
    if (oldest === undefined) return undefined
    this.#byTxId.delete(oldest[0])
    return oldest[1]
  }
}
