import type { Instant } from '@meshwright/core'

/**
 * Whole maps that a node gets at once, and in every second after that: a client that loses its connection again and again stays below. With 30 at
 * once the waiting of others doubled at p99 while one node asked for that many; with 10 it grows by half at most.
 */
const AT_ONCE = 10
const PER_MS = 1 / 1_000

/** A whole map names every peer: this bounds how many a node can make the server compose. */
export class FullMapAllowance {
  readonly #byNode = new Map<number, { left: number; at: Instant }>()

  /** Whether the node may have another one now; if so, it counts. */
  allows(now: Instant, nodeId: number): boolean {
    const known = this.#byNode.get(nodeId)
    if (known === undefined) {
      this.#byNode.set(nodeId, { left: AT_ONCE - 1, at: now })
      return true
    }
    known.left = Math.min(AT_ONCE, known.left + (now - known.at) * PER_MS)
    known.at = now
    if (known.left < 1) return false
    known.left -= 1
    return true
  }

  forget(nodeId: number): void {
    this.#byNode.delete(nodeId)
  }
}
