import { HEADROOM_BYTES, type PacketBatch } from '@meshwright/core'
import type { NodePublicKey } from '@meshwright/crypto'
import { paddedLength } from '@meshwright/wireguard'

/** In front of and behind what a WireGuard datagram encrypts: its header, its tag. */
const HEADER_BYTES = 16
const TAG_BYTES = 16
/** What one datagram could carry by IPv4, which is the limit of a row as well. */
const MAX_ROW_BYTES = 65_507

/**
 * Inner packets on their way to peers, in the order in which they came, laid out as rows: neighbours for one peer, of one length but for a
 * shorter last one, at the places where their datagrams will stand without a gap.
 */
export class WaitingRows {
  readonly #mtu: number
  #peers: NodePublicKey[] = []
  #packets: Uint8Array[] = []
  #head = 0

  /** @param mtu MTU of the tunnel, which bounds padding */
  constructor(mtu: number) {
    this.#mtu = mtu
  }

  get isEmpty(): boolean {
    return this.#packets.length === 0
  }

  /** Adds a packet behind all others. Its bytes are read when it is laid out. */
  push(peer: NodePublicKey, packet: Uint8Array): void {
    this.#peers.push(peer)
    this.#packets.push(packet)
  }

  /**
   * Copies the next packets for one peer into `batch`, which is reset before, and gives the peer; `undefined` when none waits. A packet
   * that does not fit into the batch's memory even alone comes back by `alone`.
   */
  layOut(batch: PacketBatch, alone: (peer: NodePublicKey, packet: Uint8Array) => void): NodePublicKey | undefined {
    batch.reset()
    const peers = this.#peers
    const packets = this.#packets
    const room = Math.min(batch.memory.length - 2 * HEADROOM_BYTES, MAX_ROW_BYTES)
    let peer: NodePublicKey | undefined
    let whole = 0
    let at = HEADROOM_BYTES
    for (; this.#head < packets.length; this.#head += 1) {
      const packet = packets[this.#head]
      const owner = peers[this.#head]
      if (packet === undefined || owner === undefined) continue
      const padded = paddedLength(packet.length, this.#mtu)
      const bytes = HEADER_BYTES + padded + TAG_BYTES
      if (peer === undefined && bytes > room) {
        alone(owner, packet)
        continue
      }
      if (peer === undefined) whole = padded
      else if (owner !== peer || padded > whole || at - HEADROOM_BYTES + bytes > room) break
      if (batch.addSlot(at + HEADER_BYTES, packet.length) < 0) break
      batch.memory.set(packet, at + HEADER_BYTES)
      peer = owner
      at += bytes
      if (padded < whole) {
        this.#head += 1
        break
      }
    }
    if (this.#head === packets.length) {
      this.#peers = []
      this.#packets = []
      this.#head = 0
    }
    return peer
  }
}
