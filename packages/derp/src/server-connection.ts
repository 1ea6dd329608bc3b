import { BoundedQueue, type Instant } from '@meshwright/core'
import type { NodePublicKey } from '@meshwright/crypto'
import type { Endpoint } from '@meshwright/ip'
import { FrameReader } from './frame-reader.ts'
import * as T from './frame-types.ts'
import type { DerpClientInfo } from './handshake.ts'
import type { DerpPacketKind } from './server-stats.ts'
import type { TokenBucket } from './token-bucket.ts'

/** Names a connection: chosen by who accepts it, never used again. */
export type DerpConnectionId = number

/** A key that the region knows: who is connected with it, and who has heard from it. */
export interface RegionPeer {
  readonly key: NodePublicKey
  /** In order of arrival; more than one: duplicates. */
  readonly connections: ServerConnection[]
  /** Where packets for the key go: the connection that spoke last. */
  active: ServerConnection | undefined
  /** Links to other relays that have told of the key; the first is used. */
  readonly forwarders: number[]
  /** Connections that were sent a packet from this key: to be told when it leaves. */
  readonly listeners: Set<ServerConnection>
}

/** A packet that waits for its destination. */
export interface QueuedPacket {
  readonly frame: Uint8Array
  readonly kind: DerpPacketKind
  readonly bytes: number
}

/**
 * What a server keeps of one connection: states `greeting` (ClientInfo awaited), `verifying` (admission is being asked), `active`,
 * `closed`. Bounded: one frame in the reader, two queues of packets, a list of control frames.
 */
export class ServerConnection {
  readonly id: DerpConnectionId
  readonly from: Endpoint | undefined
  readonly notIdeal: boolean
  readonly reader: FrameReader = new FrameReader((code) => this.#limit(code))
  readonly queues: Readonly<Record<DerpPacketKind, BoundedQueue<QueuedPacket>>>
  state: 'greeting' | 'verifying' | 'active' | 'closed' = 'greeting'
  peer: RegionPeer | undefined
  key: NodePublicKey | undefined
  info: DerpClientInfo | undefined
  /** Holds the mesh key. */
  trusted = false
  watching = false
  preferred = false
  /** Bytes written and not yet taken by the transport. */
  inFlight = 0
  /** Bytes of its packets that went to somebody, or were queued for somebody. */
  carriedBytes = 0
  /** Bytes of packets in the queues. */
  queuedBytes = 0
  /** Control frames that wait for the transport. */
  control: Uint8Array[] = []
  pendingPong: Uint8Array | undefined
  handshakeDue: Instant | undefined
  writeDue: Instant | undefined
  keepAliveDue: Instant | undefined
  keepAliveMs = 0
  resumeDue: Instant | undefined
  /** Something has arrived since the last keepalive. */
  heard = true
  unansweredPings = 0
  limit: TokenBucket | undefined
  notHereLimit: TokenBucket | undefined
  /** Peers whose `listeners` this connection is in. */
  readonly heardFrom: Set<RegionPeer> = new Set()
  #lastHeardFrom: RegionPeer | undefined

  constructor(id: DerpConnectionId, from: Endpoint | undefined, notIdeal: boolean, queueDepth: number) {
    this.id = id
    this.from = from
    this.notIdeal = notIdeal
    this.queues = { disco: new BoundedQueue(queueDepth), other: new BoundedQueue(queueDepth) }
  }

  /** The earliest of its deadlines. */
  get due(): Instant | undefined {
    let due = this.handshakeDue
    if (this.writeDue !== undefined && (due === undefined || this.writeDue < due)) due = this.writeDue
    if (this.keepAliveDue !== undefined && (due === undefined || this.keepAliveDue < due)) due = this.keepAliveDue
    if (this.resumeDue !== undefined && (due === undefined || this.resumeDue < due)) due = this.resumeDue
    return due
  }

  /** Something waits for the transport. */
  get hasBacklog(): boolean {
    return this.queues.disco.size > 0 || this.queues.other.size > 0 || this.control.length > 0 || this.pendingPong !== undefined
  }

  /** Notes that this connection is sent a packet from `peer`. */
  noteHeardFrom(peer: RegionPeer): void {
    if (peer === this.#lastHeardFrom) return
    this.#lastHeardFrom = peer
    if (peer.listeners.has(this)) return
    peer.listeners.add(this)
    this.heardFrom.add(peer)
  }

  /** Forgets a peer that has left. */
  forget(peer: RegionPeer): void {
    this.heardFrom.delete(peer)
    if (this.#lastHeardFrom === peer) this.#lastHeardFrom = undefined
  }

  /** The PeerPresent flags of this connection. */
  get presentFlags(): number {
    const flags = (this.trusted ? T.PRESENT_MESH_PEER : 0) | (this.info?.isProber === true ? T.PRESENT_PROBER : 0) | (this.notIdeal ? T.PRESENT_NOT_IDEAL : 0)
    return flags === 0 ? T.PRESENT_REGULAR : flags
  }

  #limit(code: number): number | 'skip' {
    if (this.state === 'greeting') return code === T.FRAME_CLIENT_INFO ? T.MAX_CLIENT_INFO_BYTES : -1
    switch (code) {
      case T.FRAME_SEND_PACKET:
        return T.KEY_BYTES + T.MAX_PACKET_BYTES
      case T.FRAME_FORWARD_PACKET:
        return 2 * T.KEY_BYTES + T.MAX_PACKET_BYTES
      case T.FRAME_NOTE_PREFERRED:
        return 1
      case T.FRAME_WATCH_CONNS:
        return 0
      case T.FRAME_CLOSE_PEER:
        return T.KEY_BYTES
      case T.FRAME_PING:
        return T.MAX_PING_BYTES
      default:
        return 'skip'
    }
  }
}
