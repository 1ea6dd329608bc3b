import { after, earlier, type Instant } from '@meshwright/core'

/**
 * Which nodes are connected. A node is online while a poll of it is open and for a grace time behind the last one, so that a client
 * that reconnects never flickers.
 *
 * | state | means | edge |
 * |---|---|---|
 * | online | one poll or more | the last one ends -> leaving |
 * | leaving | no poll, grace runs | a poll opens -> online; time is over -> offline |
 * | offline | not listed | a poll opens -> online |
 */
export class Presence {
  readonly #polls = new Map<number, number>()
  readonly #leaving = new Map<number, Instant>()

  isOnline(nodeId: number): boolean {
    return this.#polls.has(nodeId) || this.#leaving.has(nodeId)
  }

  /** How many nodes count as online. */
  get size(): number {
    return this.#polls.size + this.#leaving.size
  }

  /** When the first grace time is over. */
  get due(): Instant | undefined {
    let due: Instant | undefined
    for (const at of this.#leaving.values()) due = earlier(due, at)
    return due
  }

  /** A poll of the node opened. True when it was offline before. */
  opened(nodeId: number): boolean {
    const appeared = !this.isOnline(nodeId)
    this.#leaving.delete(nodeId)
    this.#polls.set(nodeId, (this.#polls.get(nodeId) ?? 0) + 1)
    return appeared
  }

  /** A poll of the node ended. */
  closed(now: Instant, nodeId: number, graceMs: number): void {
    const left = (this.#polls.get(nodeId) ?? 0) - 1
    if (left > 0) {
      this.#polls.set(nodeId, left)
    } else if (this.#polls.delete(nodeId)) {
      this.#leaving.set(nodeId, after(now, graceMs))
    }
  }

  /** The server has just started: the node was connected before and surely comes back. */
  assume(now: Instant, nodeId: number, graceMs: number): void {
    this.#leaving.set(nodeId, after(now, graceMs))
  }

  /** The node said goodbye: no grace for it, unless a poll of it is open. */
  leaveNow(nodeId: number): void {
    this.#leaving.delete(nodeId)
  }

  /** The node is gone or shut out: no grace. */
  forget(nodeId: number): void {
    this.#polls.delete(nodeId)
    this.#leaving.delete(nodeId)
  }

  /** Nodes whose grace is over; they are offline now. */
  expire(now: Instant): number[] {
    const gone: number[] = []
    for (const [nodeId, at] of this.#leaving) if (now >= at) gone.push(nodeId)
    for (const nodeId of gone) this.#leaving.delete(nodeId)
    return gone
  }
}
