const BLOCKS = 256
/** A session with few packets needs few bits: the ring begins so small, and grows before it would have to wrap around. */
const FIRST_BLOCKS = 8
const U32 = 0x1_0000_0000

/** How far behind the greatest accepted number one may still be: 8128, as the kernel and wireguard-go have it. */
export const REPLAY_WINDOW = 8_128

/**
 * Remembers which message numbers have been accepted, as a ring of bits (RFC 6479). Numbers are 64-bit, given as two unsigned 32-bit
 * halves. Only authentic numbers may be marked: a forged one must not move the window.
 */
export class ReplayWindow {
  #ring: Uint32Array = new Uint32Array(FIRST_BLOCKS)
  #mask = FIRST_BLOCKS - 1
  #topLow = 0
  #topHigh = 0

  /** True when {@link ReplayWindow.accept} would take the number; changes nothing. */
  wouldAccept(low: number, high: number): boolean {
    const ahead = (high - this.#topHigh) * U32 + (low - this.#topLow)
    if (ahead > 0) return true
    return -ahead <= REPLAY_WINDOW && ((this.#ring[(low >>> 5) & this.#mask] ?? 0) & (1 << (low & 31))) === 0
  }

  /** Marks a number as received; `false` (and nothing changed) when it was received before or is too old to tell. */
  accept(low: number, high: number): boolean {
    // Differences are exact below 2^53, and only small ones decide anything.
    const ahead = (high - this.#topHigh) * U32 + (low - this.#topLow)
    if (this.#mask < BLOCKS - 1 && (high > 0 || low >>> 5 > this.#mask)) this.#grow(low, high)
    const block = (low >>> 5) & this.#mask
    const bit = 1 << (low & 31)
    if (ahead > 0) {
      const passed = Math.min(BLOCKS, (high - this.#topHigh) * (U32 / 32) + ((low >>> 5) - (this.#topLow >>> 5)))
      for (let i = 0; i < passed; i += 1) this.#ring[(block - i) & this.#mask] = 0
      this.#topLow = low
      this.#topHigh = high
    } else if (-ahead > REPLAY_WINDOW || ((this.#ring[block] ?? 0) & bit) !== 0) {
      return false
    }
    this.#ring[block] = (this.#ring[block] ?? 0) | bit
    return true
  }

  // Nothing has wrapped around yet, so every block stays where it is.
  #grow(low: number, high: number): void {
    let blocks = this.#ring.length
    while (blocks < BLOCKS && (high > 0 || blocks <= low >>> 5)) blocks *= 2
    const ring = new Uint32Array(blocks)
    ring.set(this.#ring)
    this.#ring = ring
    this.#mask = blocks - 1
  }
}
