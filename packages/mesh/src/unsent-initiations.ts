import type { Instant } from '@meshwright/core'
import type { NodePublicKey } from '@meshwright/crypto'

/** First byte of WireGuard's first message (whitepaper 5.4.2). */
const HANDSHAKE_INITIATION = 1
/** After this time another initiation has been sent (WireGuard's Rekey-Timeout): what became of the one before tells nothing. */
const TAKEN_MS = 5_000

/**
 * Peers whose last handshake initiation never reached them: no path was known, the relay was away, it says that they are not there, or it was
 * lost with what it had taken. WireGuard repeats an initiation after 5 seconds, which spares a peer that was asked; one that was not is asked
 * as soon as there is a way, or another one. At most two entries for each peer.
 */
export class UnsentInitiations {
  /** With the region whose relay is to take it as soon as it is there. */
  readonly #peers: Map<string, { readonly peer: NodePublicKey; readonly waitsFor: number | undefined }> = new Map()

  /** Those whose initiation has left by the relay of a region, and by nothing else. */
  readonly #taken: Map<string, { readonly peer: NodePublicKey; readonly region: number; readonly at: Instant }> = new Map()

  get size(): number {
    return this.#peers.size
  }

  /** A datagram to `peer` did not leave; or it waits for the relay of a region to be connected. Only initiations count. */
  note(peer: NodePublicKey, bytes: Uint8Array, waitsFor: number | undefined): void {
    if (bytes[0] === HANDSHAKE_INITIATION) this.#peers.set(peer.text, { peer, waitsFor })
  }

  /** A datagram to `peer` has left by the relay of a region alone. Only initiations count. */
  noteTaken(now: Instant, peer: NodePublicKey, bytes: Uint8Array, region: number): void {
    if (bytes[0] === HANDSHAKE_INITIATION) this.#taken.set(peer.text, { peer, region, at: now })
  }

  /** The relay of a region says that the peer is not there. True when an initiation was lost by that; each counts once. */
  notThere(now: Instant, peer: NodePublicKey, region: number): boolean {
    const taken = this.#taken.get(peer.text)
    if (taken?.region !== region) return false
    this.#taken.delete(peer.text)
    if (now - taken.at >= TAKEN_MS) return false
    this.#peers.set(peer.text, { peer, waitsFor: undefined })
    return true
  }

  /** The peer is no more. */
  forget(peer: NodePublicKey): void {
    this.#peers.delete(peer.text)
    this.#taken.delete(peer.text)
  }

  /** There is a way to the peer. True when an initiation of it has not left: ask again, once. */
  take(peer: NodePublicKey): boolean {
    return this.#peers.delete(peer.text)
  }

  /** The relay of a region is connected: what waited for it leaves. Gives the others, which may leave by it. */
  connected(region: number): readonly NodePublicKey[] {
    for (const [text, { waitsFor }] of this.#peers) if (waitsFor === region) this.#peers.delete(text)
    return [...this.#peers.values()].flatMap(({ peer, waitsFor }) => (waitsFor === undefined ? [peer] : []))
  }

  /** The relay of a region is lost: what waited for it is lost as well, and what it took lately may be. */
  lost(now: Instant, region: number): void {
    for (const { peer, region: by } of [...this.#taken.values()]) if (by === region) this.notThere(now, peer, region)
    for (const [text, { peer, waitsFor }] of this.#peers) if (waitsFor === region) this.#peers.set(text, { peer, waitsFor: undefined })
  }
}
