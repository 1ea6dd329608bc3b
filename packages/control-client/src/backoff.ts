import type { RandomSource } from '@meshwright/core'

const MAX_BACKOFF_MS = 30_000
const STEP_MS = 10
const MIN_RETRY_AFTER_MS = 5_000
const MAX_RETRY_AFTER_MS = 3_600_000

/** Waits between tries: try n waits min(n² × 10 ms, 30 s) × U(0.5, 1.5) (tailscale/tailscale:util/backoff). */
export class Backoff {
  readonly #random: RandomSource
  readonly #stepMs: number
  #failures = 0

  /** @param stepMs unit of the square; slower where people wait less than servers suffer */
  constructor(random: RandomSource, stepMs: number = STEP_MS) {
    this.#random = random
    this.#stepMs = stepMs
  }

  /** How often {@link Backoff.nextMs} was called since the last success. */
  get failures(): number {
    return this.#failures
  }

  /** Milliseconds to wait after one more failure. */
  nextMs(): number {
    this.#failures += 1
    return Math.min(this.#failures * this.#failures * this.#stepMs, MAX_BACKOFF_MS) * (0.5 + fraction(this.#random))
  }

  /** After a success. */
  reset(): void {
    this.#failures = 0
  }
}

/** Milliseconds that a 429 asks for by `Retry-After` in seconds; 5 to 10 s at random when it is missing, an absurd one or a date. */
export function retryAfterMs(header: string | undefined, random: RandomSource): number {
  const asked = header !== undefined && /^[0-9]{1,6}$/.test(header.trim()) ? Number(header.trim()) * 1000 : 0
  return asked > 0 && asked <= MAX_RETRY_AFTER_MS ? asked : MIN_RETRY_AFTER_MS * (1 + fraction(random))
}

// In [0, 1).
function fraction(random: RandomSource): number {
  const bytes = random(4)
  return (((bytes[0] ?? 0) * 256 + (bytes[1] ?? 0)) * 256 + (bytes[2] ?? 0)) / 0x100_0000
}
