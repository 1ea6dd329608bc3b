import type { Instant } from '@meshwright/core'
import type { NodePublicKey } from '@meshwright/crypto'

/** A sender gives up waiting and starts anew after this time (WireGuard's Rekey-Timeout), so older ones are of no use. */
const KEPT_MS = 5_000
/** A relay may bring messages of any number of keys that we will never hear of: the oldest gives way. */
const MAX_KEPT = 32
/** WireGuard's first message: type 1, 148 bytes (whitepaper 5.4.2). */
const INITIATION = 1
const INITIATION_BYTES = 148

/** A handshake that came through a relay before its sender stood in the network map. */
export interface EarlyHandshake {
  readonly bytes: Uint8Array
  readonly region: number
  readonly peer: NodePublicKey
}

/**
 * Keeps handshakes of newcomers until the network map names them. A newcomer hears of us with its first map, we hear of it with our next
 * one: what it sends in between would be dropped, and it tries again only five seconds later. Nothing is answered before the map says so.
 */
export class EarlyHandshakes {
  readonly #kept: Map<string, EarlyHandshake & { readonly at: Instant }> = new Map()

  /** How many are kept. */
  get size(): number {
    return this.#kept.size
  }

  /** Keeps a copy of an initiation, the newest of each sender; everything else is ignored. */
  keep(now: Instant, bytes: Uint8Array, region: number, peer: NodePublicKey): void {
    if (bytes.length !== INITIATION_BYTES || bytes[0] !== INITIATION) return
    this.#kept.delete(peer.text)
    if (this.#kept.size >= MAX_KEPT) {
      const oldest = this.#kept.keys().next()
      if (oldest.done !== true) this.#kept.delete(oldest.value)
    }
    this.#kept.set(peer.text, { bytes: bytes.slice(), region, peer, at: now })
  }

  /** Takes out what a peer, which the map now names, has sent in the last five seconds. */
  take(now: Instant, peer: NodePublicKey): EarlyHandshake | undefined {
    const found = this.#kept.get(peer.text)
    if (found === undefined) return undefined
    this.#kept.delete(peer.text)
    return now - found.at <= KEPT_MS ? found : undefined
  }
}
