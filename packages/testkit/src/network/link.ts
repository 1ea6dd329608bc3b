import { after, type Instant } from '@meshwright/core'
import type { SeededRandom } from '../seeded-random.ts'

/** What a link does to packets; probabilities are 0 to 1. */
export interface LinkConfig {
  /** One way, in milliseconds (default 1). */
  readonly latencyMs?: number
  /** Up to this much more, evenly spread; it reorders packets that are close to each other (default 0). */
  readonly jitterMs?: number
  readonly loss?: number
  readonly duplicate?: number
  /** Probability that a packet is held back by `reorderMs`. */
  readonly reorder?: number
  /** Default: 10. */
  readonly reorderMs?: number
  /** Datagrams longer than this are lost; default: none. */
  readonly mtuBytes?: number
  /** No UDP passes. */
  readonly blockUdp?: boolean
  /** Nothing passes. */
  readonly down?: boolean
}

/** A cable with the faults that its configuration says. Both directions are alike. */
export class Link {
  readonly #random: SeededRandom
  config: LinkConfig

  constructor(config: LinkConfig, random: SeededRandom) {
    this.config = config
    this.#random = random
  }

  /** Changes some of its properties from now on. */
  set(change: LinkConfig): void {
    this.config = { ...this.config, ...change }
  }

  /** When a packet that is sent now arrives: never, once or twice. */
  arrivals(now: Instant, bytes: number): Instant[] {
    const { latencyMs = 1, jitterMs = 0, loss = 0, duplicate = 0, reorder = 0, reorderMs = 10, mtuBytes, blockUdp, down } = this.config
    if (down === true || blockUdp === true || (mtuBytes !== undefined && bytes > mtuBytes) || this.#hits(loss)) return []
    const copies = this.#hits(duplicate) ? 2 : 1
    return Array.from({ length: copies }, () => {
      const jitter = jitterMs > 0 ? (this.#random.below(1_000) / 1_000) * jitterMs : 0
      return after(now, latencyMs + jitter + (this.#hits(reorder) ? reorderMs : 0))
    })
  }

  // A link without faults draws no random numbers, so that adding one elsewhere keeps its traffic as it was.
  #hits(probability: number): boolean {
    return probability > 0 && this.#random.chance(probability)
  }
}
