import type { Instant, PacketBatch } from '@meshwright/core'
import type { NodePublicKey } from '@meshwright/crypto'
import type { UdpPath } from './socket-address.ts'

/** What an engine may ask of the lane that carries it. The bytes are not kept. */
export interface LaneDoors {
  send(path: UdpPath, bytes: Uint8Array, trafficClass: number): void
  /** To the TUN device. */
  deliver(packet: Uint8Array): void
}

/** What was opened of a batch: who sealed the slots that are `DONE`. */
export interface Opened {
  peerOf(slot: number): NodePublicKey | undefined
}

/** Sealed datagrams that a relay brought from one sender, one behind the other. */
export interface LaneRow {
  readonly datagrams: readonly Uint8Array[]
  /** Opens a batch of them, in place. */
  open(now: Instant, batch: PacketBatch): Opened
}

/**
 * Whoever decides about the packets of a lane: who gets them, who may send them, by which way. The lane moves bytes and decides nothing.
 * `Peer` is the engine's own object for a peer: the same one for the same peer, so that neighbours in a row are known by it.
 */
export interface LaneEngine<Peer extends object = object> {
  /** Whom the packet from the TUN device, or the row that stands for so many packets, is to go to; `undefined`, and all counted, when it goes nowhere. */
  ownerOf(now: Instant, memory: Uint8Array, at: number, length: number, packets: number): Peer | undefined
  /** Seals a batch for a peer in place; gives the number of slots that are `DONE`. What must wait for a handshake is kept. */
  seal(now: Instant, peer: Peer, batch: PacketBatch): number
  /** Where the peer's datagrams go by UDP; `undefined` when nowhere. */
  pathOf(now: Instant, peer: Peer): UdpPath | undefined
  /** Sends the slots that are `DONE` by a relay, if the peer's datagrams go by one, beside a path or without one; the bytes are valid during the call. */
  relay(now: Instant, peer: Peer, batch: PacketBatch): void
  /** So many sealed datagrams, of so many bytes together, went out by UDP. */
  sent(path: UdpPath, bytes: number, datagrams: number): void
  /** So many sealed datagrams did not go out by UDP: there was no path for them. Those that went by a relay are among them. */
  notSent(now: Instant, peer: Peer, datagrams: number): void
  /** Opens a batch that came by one path, in place; gives who sealed the slots that are `DONE` afterwards. */
  open(now: Instant, from: UdpPath, batch: PacketBatch): Opened
  /** Takes off what relays have brought; it is opened before anything else happens. */
  takeRelayed(): readonly LaneRow[]
  /** Takes a datagram that is none of WireGuard's, if it wants it: `true`. The bytes are valid during the call. */
  foreign(now: Instant, from: UdpPath, datagram: Uint8Array): boolean
  /** Whether an opened packet goes to the TUN device. What the engine keeps for itself, and what it drops, does not. */
  admits(now: Instant, peer: NodePublicKey, memory: Uint8Array, at: number, length: number): boolean
  /** Performs what is owed. */
  settle(now: Instant, doors: LaneDoors): void
  handleTimeout(now: Instant): void
  pollTimeout(): Instant | undefined
}
