import type { Instant } from '@meshwright/core'
import type { NodePublicKey } from '@meshwright/crypto'
import { PacketView } from '@meshwright/ip'
import type { NodeEngine } from './node-engine.ts'
import type { NodeNames } from './node-names.ts'
import type { NodePings } from './node-pings.ts'
import { decodeTsmp, encodeTsmpPong } from './tsmp.ts'

/** Who may want an inner packet. */
export interface InnerPacketDoors {
  readonly names: NodeNames
  readonly pings: NodePings
  engine(): NodeEngine | undefined
  /** The TCP/IP stack or the TUN device. */
  up(now: Instant, bytes: Uint8Array): void
}

/** Where inner packets go: those of this node's programs to the names of the mesh or out, those of peers to who waits for them. */
export class InnerPackets {
  readonly #doors: InnerPacketDoors
  readonly #view: PacketView = new PacketView()
  /** The port of the PeerAPI, 0 for none: told in TSMP pongs. */
  peerApiPort = 0

  constructor(doors: InnerPacketDoors) {
    this.#doors = doors
  }

  /** A packet that a program of this computer sends. */
  fromHere(now: Instant, bytes: Uint8Array): void {
    const { names } = this.#doors
    if (names.takes(this.#view, bytes)) names.packet(now, this.#view, bytes)
    else this.#doors.engine()?.handleInput(now, { type: 'packet', bytes })
  }

  /** A packet for this computer, which the filter has admitted. */
  toHere(now: Instant, bytes: Uint8Array): void {
    if (this.#view.at(bytes) && this.#doors.pings.takes(now, this.#view)) return
    this.#doors.up(now, bytes)
  }

  /** A message of a peer to this node itself. */
  tsmp(now: Instant, bytes: Uint8Array, peer: NodePublicKey): void {
    const message = this.#view.at(bytes) ? decodeTsmp(this.#view) : undefined
    const from = this.#view.src()
    const to = this.#view.dst()
    const engine = this.#doors.engine()
    if (message === undefined || from === undefined || to === undefined) return
    if (message.type === 'ping') engine?.sendTo(now, peer, encodeTsmpPong(to, from, message.data, this.peerApiPort))
    else if (message.type === 'discoKey') engine?.setPeerDiscoKey(now, peer, message.key)
    else if (message.type === 'pong') this.#doors.pings.pong(now, peer, message.data, message.peerApiPort)
  }
}
