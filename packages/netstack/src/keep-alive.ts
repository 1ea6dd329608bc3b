import { after, type Instant } from '@meshwright/core'
import type { KeepAlive } from './netstack-io.ts'

/** Probes of an idle connection (RFC 9293 section 3.8.4): off unless asked for. */
export class KeepAliveTimer {
  #settings: KeepAlive | undefined
  #due: Instant | undefined
  #heardAt: Instant
  #probes = 0

  constructor(now: Instant, settings: KeepAlive | undefined) {
    this.#settings = settings
    this.#heardAt = now
  }

  get due(): Instant | undefined {
    return this.#due
  }

  configure(now: Instant, settings: KeepAlive | undefined): void {
    this.#settings = settings
    this.#probes = 0
    this.#due = settings && after(now, settings.idleMs)
  }

  /** The peer gave a sign of life. */
  heard(now: Instant): void {
    this.#heardAt = now
    this.#probes = 0
    if (this.#settings !== undefined) this.#due = after(now, this.#settings.idleMs)
  }

  stop(): void {
    this.#settings = undefined
    this.#due = undefined
  }

  /** What the deadline asks for. @param busy data is in flight: its own timer finds out whether the peer lives */
  handleTimeout(now: Instant, busy: boolean): 'wait' | 'probe' | 'dead' {
    const settings = this.#settings
    if (settings === undefined || this.#due === undefined || now < this.#due) return 'wait'
    const idleUntil = after(busy ? now : this.#heardAt, settings.idleMs)
    if (idleUntil > now) {
      this.#due = idleUntil
      return 'wait'
    }
    if (this.#probes >= settings.count) {
      this.#due = undefined
      return 'dead'
    }
    this.#probes += 1
    this.#due = after(now, Math.max(settings.intervalMs, 1))
    return 'probe'
  }
}
