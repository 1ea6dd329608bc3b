import type { Instant } from '@meshwright/core'

/** What a source that is trusted may cost, in milliseconds of the thread: so much at once, and such a share of time after that. */
export interface Allowance {
  readonly atOnceMs: number
  readonly share: number
}

/** How time is shared. */
export interface FairShareLimits {
  /** Of the time in which known machines have work, what strangers get, all together; default 0.1. */
  readonly share?: number
  /** Milliseconds that strangers may save up; default 2. */
  readonly savedMs?: number
  /** So long after a known machine asked for something it counts as having work; default 25. */
  readonly busyMs?: number
  /** Strangers get their share also when trusted sources always have more to do: for those whose allowance has no end. Default: trusted sources come first. */
  readonly guaranteed?: boolean
  /** Sources whose trust is remembered; those that were used longest ago are forgotten; default 16,384. */
  readonly maxTrusted?: number
}

/** Sums of fractions are this exact. */
const ROUNDING_MS = 1e-6

interface Trust {
  readonly allowance: Allowance
  left: number
  at: Instant
}

/**
 * Whose work is next, and when it may begin: so that work for those who have proved nothing never slows those who have. Work is anything
 * that takes about a millisecond at most; one is given out at a time, and its cost is charged before the next.
 *
 * | who | gets |
 * |---|---|
 * | a trusted source: a registered machine, or an address that one came from | its turn at once, while its allowance lasts |
 * | everybody else (strangers; and trusted sources beyond their allowance) | all the time that is left over; while known machines have work, a share of it, all together |
 *
 * Within each row sources take turns, so one that floods delays itself and a newcomer is served after as many pieces of work as there are
 * other sources. It holds no timer and reads no clock: ask {@link FairShare.nextAt}, then {@link FairShare.next}.
 */
export class FairShare<Work> {
  readonly #trusted: Map<string, Work[]> = new Map()
  readonly #strangers: Map<string, Work[]> = new Map()
  /** The one used last stands last. */
  readonly #trust: Map<string, Trust> = new Map()
  readonly #limits: Required<FairShareLimits>
  #size = 0
  #busyUntil: Instant | undefined
  #credit: number
  #creditAt: Instant | undefined
  #out: { readonly source: string; readonly stranger: boolean } | undefined

  constructor(limits: FairShareLimits = {}) {
    this.#limits = { share: 0.1, savedMs: 2, busyMs: 25, guaranteed: false, maxTrusted: 16_384, ...limits }
    this.#credit = this.#limits.savedMs
  }

  /** How many pieces of work wait. */
  get size(): number {
    return this.#size
  }

  /** Whether the next piece of work is that of a trusted source: one that may always begin. */
  isTrustedNext(now: Instant): boolean {
    if (this.#trusted.size === 0) return false
    if (!this.#limits.guaranteed || this.#strangers.size === 0) return true
    this.#refill(now)
    return this.#credit <= ROUNDING_MS
  }

  /** Puts work in, behind what its source has put in before. */
  add(now: Instant, source: string, work: Work): void {
    this.#size += 1
    const row = this.#strangers.has(source) || !this.trusts(now, source) ? this.#strangers : this.#trusted
    const waiting = row.get(source)
    if (waiting === undefined) row.set(source, [work])
    else waiting.push(work)
  }

  /** A known machine has asked for something: strangers get their share alone for a while. */
  busy(now: Instant): void {
    this.#busyUntil = (now + this.#limits.busyMs) as Instant
  }

  /** From here on a source is trusted with an allowance. One that is trusted already keeps what it has used: then it gives `false`. */
  trust(now: Instant, source: string, allowance: Allowance): boolean {
    const known = this.#trust.get(source)
    this.#trust.delete(source)
    this.#trust.set(source, known ?? { allowance, left: allowance.atOnceMs, at: now })
    if (this.#trust.size > this.#limits.maxTrusted) {
      for (const oldest of this.#trust.keys()) {
        this.#trust.delete(oldest)
        break
      }
    }
    return known === undefined
  }

  /**
   * Gives strangers time back: somebody whose work was charged to them has turned out to be none. Never more than they may save up, so that
   * a crowd of known machines that come again at once hold each other up only by what they cost.
   */
  refund(now: Instant, ms: number): void {
    this.#refill(now)
    this.#credit = Math.min(this.#limits.savedMs, this.#credit + ms)
  }

  /** Whether a source is trusted and has something left of its allowance. */
  trusts(now: Instant, source: string): boolean {
    const trust = this.#trust.get(source)
    if (trust === undefined) return false
    trust.left = Math.min(trust.allowance.atOnceMs, trust.left + Math.max(0, now - trust.at) * trust.allowance.share)
    trust.at = now
    return trust.left > 0
  }

  /** Charges a source for work that was done for it beside this row. */
  spent(now: Instant, source: string, ms: number): void {
    this.trusts(now, source) // what it has earned meanwhile first
    this.#charge(source, ms)
  }

  /** When the next piece of work may begin: now at the earliest; `undefined`: none waits. */
  nextAt(now: Instant): Instant | undefined {
    if (this.#size === 0) return undefined
    if (this.#trusted.size > 0 || !this.#isBusy(now)) return now
    this.#refill(now)
    if (this.#credit > -ROUNDING_MS) return now
    const earned = now - this.#credit / this.#limits.share
    return Math.max(now, Math.min(earned, this.#busyUntil ?? earned)) as Instant
  }

  /** The next piece of work, if one may begin now; {@link FairShare.charge} it before asking again. */
  next(now: Instant): Work | undefined {
    const due = this.nextAt(now)
    if (due === undefined || due > now) return undefined
    const row = this.isTrustedNext(now) ? this.#trusted : this.#strangers
    for (const [source, waiting] of row) {
      const work = waiting.shift()
      // To the end of the row: the others come first now.
      row.delete(source)
      if (waiting.length > 0) row.set(source, waiting)
      this.#size -= 1
      this.#out = { source, stranger: row === this.#strangers && (this.#trusted.size > 0 || this.#isBusy(now)) }
      return work
    }
    return undefined
  }

  /** What the work that was given out last has cost, in milliseconds. */
  charge(now: Instant, ms: number): void {
    const out = this.#out
    this.#out = undefined
    if (out === undefined) return
    if (out.stranger) {
      this.#refill(now)
      this.#credit -= ms
    }
    this.#charge(out.source, ms)
    // Who has used up its allowance waits with the strangers from now on.
    const waiting = this.#trusted.get(out.source)
    if (waiting === undefined || this.trusts(now, out.source)) return
    this.#trusted.delete(out.source)
    this.#strangers.set(out.source, [...waiting, ...(this.#strangers.get(out.source) ?? [])])
  }

  #charge(source: string, ms: number): void {
    const trust = this.#trust.get(source)
    // A debt is paid back by time; none is greater than the allowance, so that it does not outlast a flood for long.
    if (trust !== undefined) trust.left = Math.max(-trust.allowance.atOnceMs, trust.left - ms)
  }

  #isBusy(now: Instant): boolean {
    return this.#busyUntil !== undefined && now < this.#busyUntil
  }

  #refill(now: Instant): void {
    const { share, savedMs } = this.#limits
    if (this.#creditAt !== undefined) this.#credit = Math.min(savedMs, this.#credit + Math.max(0, now - this.#creditAt) * share)
    this.#creditAt = now
  }
}
