import type { NodePublicKey } from '@meshwright/crypto'

/** First byte of WireGuard's first message (whitepaper 5.4.2). */
const HANDSHAKE_INITIATION = 1

/**
 * Peers whose last handshake initiation never left this computer: no path was known, or the relay was away. WireGuard repeats an initiation
 * after 5 seconds, which spares a peer that was asked; one that was not is asked as soon as there is a way. At most one entry for each peer.
 */
export class UnsentInitiations {
  /** With the region whose relay is to take it as soon as it is there. */
  readonly #peers: Map<string, { readonly peer: NodePublicKey; readonly waitsFor: number | undefined }> = new Map()

  get size(): number {
    return this.#peers.size
  }

  /** A datagram to `peer` did not leave; or it waits for the relay of a region to be connected. Only initiations count. */
  note(peer: NodePublicKey, bytes: Uint8Array, waitsFor: number | undefined): void {
    if (bytes[0] === HANDSHAKE_INITIATION) this.#peers.set(peer.text, { peer, waitsFor })
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

  /** The relay of a region is lost: what waited for it is lost as well. */
  lost(region: number): void {
    for (const [text, { peer, waitsFor }] of this.#peers) if (waitsFor === region) this.#peers.set(text, { peer, waitsFor: undefined })
  }
}
