/**
 * What the peer says of its window, in stream positions. Segments overtake each other: only one that is no older than the one that spoke last
 * may speak (SND.WL1 and SND.WL2 of RFC 9293 section 3.10.7.4).
 */
export class PeerWindow {
  /** By how much the numbers in segments are shifted (RFC 7323 section 2); 0 without window scaling. */
  shift = 0
  #start = 0
  #acknowledged = 0

  /** The handshake is over: from here on segments speak. */
  open(): void {
    this.#start = 1
    this.#acknowledged = 1
  }

  /** Whether a segment that begins at `start` and acknowledges `acknowledged` may speak of the window; remembers it when it may. */
  hears(start: number, acknowledged: number): boolean {
    if (start < this.#start || (start === this.#start && acknowledged < this.#acknowledged)) return false
    this.#start = start
    this.#acknowledged = acknowledged
    return true
  }

  /** How many bytes the window of a segment stands for. */
  bytes(units: number): number {
    return units * 2 ** this.shift
  }
}
