import { after, earlier, formatHex, type Instant, type RandomSource } from '@meshwright/core'

const ID_BYTES = 16
/** Later than this behind its deadline the server itself was held up: it may not judge others by that. */
const HELD_UP_MS = 2_000

/** How often routers are asked for a sign of life, and how long they have for it; an interval of 0 asks nobody. */
export interface ProbeTimes {
  readonly intervalMs: number
  readonly timeoutMs: number
}

interface Watch {
  /** When it is asked next. */
  askAt: Instant
  /** Until when the last question is open; undefined: it is answered or overdue, or there was none. */
  openUntil: Instant | undefined
  /** The last question: a late answer is a sign of life too. */
  lastId: string | undefined
}

/**
 * Asks routers that share a prefix with another one for signs of life: a router whose connection is open but that is silent (stopped,
 * unplugged, hung) must not keep its routes. Who stands alone is never asked, because nobody could take over.
 *
 * | state | edge | to |
 * |---|---|---|
 * | watched | the interval is over | asked |
 * | asked | an answer | watched |
 * | asked | the time-out is over, and a rival answers | silent, and still asked in every interval |
 * | silent | an answer, a new connection, or no rival is better off | watched |
 */
export class RouteProbes {
  readonly #random: RandomSource
  readonly #times: () => ProbeTimes
  readonly #watches = new Map<number, Watch>()
  readonly #silent = new Set<number>()
  #rivals: ReadonlyMap<number, ReadonlySet<number>> = new Map()

  constructor(random: RandomSource, times: () => ProbeTimes) {
    this.#random = random
    this.#times = times
  }

  /** When something is due. */
  get due(): Instant | undefined {
    let due: Instant | undefined
    for (const watch of this.#watches.values()) due = earlier(due, watch.openUntil ?? watch.askAt)
    return due
  }

  /** Whether the router has been found silent while another could do its work. */
  isSilent(nodeId: number): boolean {
    return this.#silent.has(nodeId)
  }

  /**
   * Who shares prefixes with whom now, connected ones only. Gives those who were silent and count again, because no rival is better off.
   */
  watch(now: Instant, rivals: ReadonlyMap<number, ReadonlySet<number>>): number[] {
    this.#rivals = rivals
    const { intervalMs } = this.#times()
    for (const id of [...this.#watches.keys()]) if (!rivals.has(id) || intervalMs === 0) this.#watches.delete(id)
    if (intervalMs > 0) for (const id of rivals.keys()) if (!this.#watches.has(id)) this.#watches.set(id, { askAt: after(now, intervalMs), openUntil: undefined, lastId: undefined })
    const revived = [...this.#silent].filter((id) => !this.#hasBetterRival(id))
    for (const id of revived) this.#silent.delete(id)
    return revived
  }

  /** A new connection of the node: it is alive. True when it had been silent. */
  connected(now: Instant, nodeId: number): boolean {
    const watch = this.#watches.get(nodeId)
    if (watch !== undefined) this.#watches.set(nodeId, { askAt: after(now, this.#times().intervalMs), openUntil: undefined, lastId: undefined })
    return this.#silent.delete(nodeId)
  }

  /** The node that the question was put to, if it is the last one. */
  askedWith(id: string): number | undefined {
    for (const [nodeId, watch] of this.#watches) if (watch.lastId === id) return nodeId
    return undefined
  }

  /** What is due: questions to put, each with its id, and routers that have just been found silent. */
  expire(now: Instant): { readonly ask: readonly { readonly nodeId: number; readonly id: string }[]; readonly silent: readonly number[] } {
    const ask: { nodeId: number; id: string }[] = []
    const overdue: number[] = []
    const { intervalMs, timeoutMs } = this.#times()
    for (const [nodeId, watch] of this.#watches) {
      if (watch.openUntil !== undefined && now >= watch.openUntil) {
        const heldUp = now >= after(watch.openUntil, HELD_UP_MS)
        watch.openUntil = undefined
        if (!heldUp) overdue.push(nodeId)
      }
      if (watch.openUntil !== undefined || now < watch.askAt) continue
      const id = formatHex(this.#random(ID_BYTES))
      watch.lastId = id
      watch.openUntil = after(now, timeoutMs)
      watch.askAt = after(now, Math.max(intervalMs, timeoutMs))
      ask.push({ nodeId, id })
    }
    // All at once, so that two that fall silent together are not each other's better rival.
    const fresh = overdue.filter((id) => !this.#silent.has(id))
    for (const id of fresh) this.#silent.add(id)
    const silent = fresh.filter((id) => this.#hasBetterRival(id))
    for (const id of fresh) if (!silent.includes(id)) this.#silent.delete(id)
    return { ask, silent }
  }

  #hasBetterRival(id: number): boolean {
    for (const rival of this.#rivals.get(id) ?? []) if (!this.#silent.has(rival)) return true
    return false
  }
}
