import { DONE, type Instant, type PacketBatch } from '@meshwright/core'
import type { NodePublicKey } from '@meshwright/crypto'
import { type Endpoint, PacketView } from '@meshwright/ip'
import { Engine } from './engine.ts'
import type { NodeEngine } from './node-engine.ts'
import type { NodeNames } from './node-names.ts'
import type { NodePings } from './node-pings.ts'
import { decodeTsmp, encodeTsmpPong } from './tsmp.ts'

/** Who may want an inner packet. */
export interface InnerPacketDoors {
  readonly names: NodeNames
  readonly pings: NodePings
  /** Whoever drives the node takes sealed rows: see {@link InnerPackets.nextRow}. */
  readonly rows: boolean
  engine(): NodeEngine | undefined
  /** The TCP/IP stack or the TUN device. The bytes are not kept. */
  up(now: Instant, bytes: Uint8Array): void
  /** The TCP/IP stack, for what it has sent to itself. */
  back(now: Instant, bytes: Uint8Array): void
  /** The stack's packets so far have been read. */
  recycle(): void
  /** Lets the parts of the node owe each other nothing. */
  settle(now: Instant): void
}

/**
 * Where inner packets go: those of this node's programs to the names of the mesh or out, those of peers to who waits for them. Its two
 * batch methods are the fast lane of a node; all else that they cause is owed by the node as usual.
 */
export class InnerPackets {
  readonly #doors: InnerPacketDoors
  readonly #view: PacketView = new PacketView()
  /** The port of the PeerAPI, 0 for none: told in TSMP pongs. */
  peerApiPort = 0

  constructor(doors: InnerPacketDoors) {
    this.#doors = doors
  }

  /**
   * Takes datagrams that came from one endpoint, in place: as the input `datagram` for each, for less. The memory is the caller's again
   * when it returns. Only for nodes with their own stack (no `tun`) that move packets in this thread (no `makeEngine`).
   */
  receive(now: Instant, from: Endpoint, batch: PacketBatch): void {
    const engine = this.#doors.engine()
    if (!(engine instanceof Engine)) return
    engine.open(now, from, batch)
    for (let slot = 0; slot < batch.count; slot += 1) if (batch.verdict[slot] === DONE) this.toHere(now, batch.result(slot))
    this.#doors.settle(now)
  }

  /**
   * Seals the next packets that wait for one peer into `batch`, one behind the other, and gives where the `DONE` slots are to be sent;
   * `undefined` when none wait. Ask it after every drain until then, where the node's configuration says `rows`.
   */
  nextRow(now: Instant, batch: PacketBatch): Endpoint | undefined {
    const engine = this.#doors.engine()
    if (!(engine instanceof Engine) || !engine.hasWaiting) return undefined
    const to = engine.sealRow(now, batch)
    if (!engine.hasWaiting) {
      this.#doors.recycle()
      this.#doors.settle(now)
    }
    return to
  }

  /** A packet that a program of this computer sends. It must stay as it is until it has left. */
  fromHere(now: Instant, bytes: Uint8Array): void {
    const { names, rows } = this.#doors
    if (names.takes(this.#view, bytes)) return names.packet(now, this.#view, bytes)
    // To this node's own services: what its stack sends comes back into it. A copy, since the stack uses the memory again.
    if (isToItself(bytes)) return this.#doors.back(now, bytes.slice())
    const engine = this.#doors.engine()
    if (rows && engine instanceof Engine) engine.offer(now, bytes)
    else engine?.handleInput(now, { type: 'packet', bytes })
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

/** Whether source and destination are the same, which is one of this node's own addresses then. */
function isToItself(packet: Uint8Array): boolean {
  const [source, length] = (packet[0] ?? 0) >> 4 === 4 ? [12, 4] : [8, 16]
  for (let i = source; i < source + length; i += 1) if (packet[i] !== packet[i + length]) return false
  return packet.length >= source + 2 * length
}
