import { formatHex, type Instant } from '@meshwright/core'

const COST_MS = 50 // 20 a second
const MAX_TOKENS_MS = 5 * COST_MS
const STALE_AFTER_MS = 1_000
const SWEEP_INTERVAL_MS = 100
const MAX_SOURCES = 16_384

/**
 * How many handshakes a source may begin while we are under load: a token bucket for each IPv4 address or IPv6 /64, 20 a second with
 * bursts of 5 (kernel ratelimiter.c). The table is bounded; a new source finds no place in a full one and is refused.
 */
export class RateLimiter {
  readonly #sources: Map<string, { tokens: number; at: number }> = new Map()
  readonly #maxSources: number
  #sweptAt = -Infinity

  constructor(maxSources: number = MAX_SOURCES) {
    this.#maxSources = maxSources
  }

  /** How many sources are remembered. */
  get size(): number {
    return this.#sources.size
  }

  /** Takes a token of the source; `false` when it has none. @param cookieBytes address and port, as in a path */
  allow(now: Instant, cookieBytes: Uint8Array): boolean {
    const key = formatHex(sourceOf(cookieBytes))
    const source = this.#sources.get(key)
    if (source === undefined) {
      if (this.#sources.size >= this.#maxSources) this.#sweep(now)
      if (this.#sources.size >= this.#maxSources) return false
      this.#sources.set(key, { tokens: MAX_TOKENS_MS - COST_MS, at: now })
      return true
    }
    source.tokens = Math.min(MAX_TOKENS_MS, source.tokens + (now - source.at))
    source.at = now
    if (source.tokens < COST_MS) return false
    source.tokens -= COST_MS
    return true
  }

  // A sweep costs as much as the table is long, so a flood must not cause one for each packet.
  #sweep(now: Instant): void {
    if (now - this.#sweptAt < SWEEP_INTERVAL_MS) return
    this.#sweptAt = now
    for (const [key, source] of this.#sources) if (now - source.at > STALE_AFTER_MS) this.#sources.delete(key)
  }
}

// An owner of an IPv6 network has 2^64 addresses in it, so the network is the source.
function sourceOf(cookieBytes: Uint8Array): Uint8Array {
  if (cookieBytes.length === 6) return cookieBytes.subarray(0, 4)
  if (cookieBytes.length === 18) return cookieBytes.subarray(0, 8)
  return cookieBytes
}
