import type { UnixMillis } from '@meshwright/core'
import type { NodePublicKey } from '@meshwright/crypto'
import type { Verdict } from '@meshwright/packet-filter'

/** Packets that are remembered; more take the place of the oldest. */
export const MAX_DENIED_PACKETS = 128
/** Bytes of each: the headers of IPv6 and TCP with options, and the beginning of what they carry. */
export const DENIED_PACKET_BYTES = 128

/** Why the router or the filter of a node refused a packet. */
export type DeniedReason = 'malformed' | 'no-peer' | 'wrong-source' | 'filter-in' | 'filter-out'

/** A packet that this node did not let pass. */
export interface DeniedPacket {
  readonly at: UnixMillis
  /** Whether a peer sent it, or a program here. */
  readonly direction: 'in' | 'out'
  readonly reason: DeniedReason
  /** What the packet filter said, where it was the filter. */
  readonly filter: Verdict['reason'] | undefined
  /** Who sent it, of packets that came in. */
  readonly peer: NodePublicKey | undefined
  /** Length of the whole packet. */
  readonly length: number
  /** Its first bytes, at most {@link DENIED_PACKET_BYTES}. */
  readonly bytes: Uint8Array
}

/** One place of the ring. */
interface Slot {
  at: UnixMillis
  direction: 'in' | 'out'
  reason: DeniedReason
  filter: Verdict['reason'] | undefined
  peer: NodePublicKey | undefined
  length: number
}

/**
 * The last packets that a node refused, for whoever asks what its policy keeps out: a ring of fixed size. Nothing is made for a packet, and a
 * flood of them costs 128 bytes of copying each.
 */
export class DeniedPackets {
  // Made when the first one comes: most nodes never refuse any.
  #bytes: Uint8Array = new Uint8Array(0)
  readonly #slots: Slot[] = []
  #count = 0

  /** How many are kept. */
  get size(): number {
    return Math.min(this.#count, MAX_DENIED_PACKETS)
  }

  /** Remembers the packet at `at`. */
  note(now: UnixMillis, direction: 'in' | 'out', reason: DeniedReason, filter: Verdict['reason'] | undefined, peer: NodePublicKey | undefined, memory: Uint8Array, at: number, length: number): void {
    if (this.#bytes.length === 0) this.#bytes = new Uint8Array(MAX_DENIED_PACKETS * DENIED_PACKET_BYTES)
    const place = this.#count % MAX_DENIED_PACKETS
    this.#count += 1
    const kept = Math.max(0, Math.min(length, DENIED_PACKET_BYTES, memory.length - at))
    for (let i = 0; i < kept; i += 1) this.#bytes[place * DENIED_PACKET_BYTES + i] = memory[at + i] ?? 0
    const slot = this.#slots[place]
    if (slot === undefined) {
      this.#slots.push({ at: now, direction, reason, filter, peer, length })
      return
    }
    slot.at = now
    slot.direction = direction
    slot.reason = reason
    slot.filter = filter
    slot.peer = peer
    slot.length = length
  }

  /** All that are kept, oldest first; copies. */
  list(): readonly DeniedPacket[] {
    const first = this.#count <= MAX_DENIED_PACKETS ? 0 : this.#count % MAX_DENIED_PACKETS
    return this.#slots.map((_, i) => {
      const place = (first + i) % MAX_DENIED_PACKETS
      const slot = this.#slots[place]
      if (slot === undefined) throw new RangeError('a ring has no such place')
      const from = place * DENIED_PACKET_BYTES
      return { ...slot, bytes: this.#bytes.slice(from, from + Math.min(slot.length, DENIED_PACKET_BYTES)) }
    })
  }
}
