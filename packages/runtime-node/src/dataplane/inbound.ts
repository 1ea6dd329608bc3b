import { DONE, DROPPED, type Instant, type PacketBatch } from '@meshwright/core'
import { markCongestion } from '@meshwright/wireguard'
import { arenaBatch, BATCH_SLOTS, type LaneContext, ROW_BYTES } from './lane-context.ts'
import type { LaneRow, Opened } from './lane-engine.ts'
import { EINVAL, MSG_DONTWAIT } from './linux-abi.ts'
import { ReceiveMessage } from './message-header.ts'
import { RowCutter } from './row-cutter.ts'
import { RowJoiner } from './row-joiner.ts'
import { PathCache } from './socket-address.ts'
import { decodeVnetHeader, emptyVnetHeader, encodePlainVnetHeader, VNET_GSO_NONE, VNET_GSO_UDP, VNET_HEADER_BYTES, type VnetHeader } from './vnet-header.ts'

/** Rows that are received before the TUN device gets its turn. */
const RECEIVES_PER_TURN = 32
const CONGESTION_EXPERIENCED = 3

/**
 * From the socket to the TUN device: rows of datagrams are opened where they arrived, checked against allowed IPs, joined by flows and
 * written as rows.
 */
export class Inbound {
  readonly #context: LaneContext
  readonly #message: ReceiveMessage
  readonly #batch: PacketBatch
  readonly #joiner: RowJoiner
  readonly #cutter: RowCutter
  readonly #header: VnetHeader = emptyVnetHeader()
  readonly #paths: PathCache = new PathCache()
  /** Whether the kernel has ever taken a row of UDP. */
  #udpRowTaken = false

  constructor(context: LaneContext) {
    this.#context = context
    this.#message = new ReceiveMessage(context.border, context.bytes, context.view, context.map.receive, context.map.received, ROW_BYTES)
    this.#batch = arenaBatch(context)
    this.#cutter = new RowCutter(context)
    this.#joiner = new RowJoiner(context, context.map.rows, context.tun.hasVnetHeader, (at, length) => this.#write(at, length))
    if (!context.offloads.tso) this.#joiner.joinsTcp = false
    if (!context.offloads.udpJoin) this.#joiner.joinsUdp = false
  }

  /** Rows that were joined, and the packets in them. */
  get joined(): { readonly rows: number; readonly packets: number } {
    return { rows: this.#joiner.rows, packets: this.#joiner.joinedPackets }
  }

  /** Receives until the socket is empty or others should have their turn, with `isLone` one row at most; gives how many rows there were. */
  run(now: Instant, fd: number, isLone: boolean): number {
    const { border, counters } = this.#context
    const message = this.#message
    let receives = 0
    while (receives < RECEIVES_PER_TURN) {
      message.reset()
      const received = border.recvmsg(fd, message.at, MSG_DONTWAIT)
      // Errors that the network reports are taken by asking; what comes next counts.
      if (received < 0) break
      receives += 1
      counters.udpReceives += 1
      if (received === 0) continue
      if (received > ROW_BYTES || !message.read(received)) {
        counters.kernelLies += 1
        continue
      }
      this.#row(now, received)
      if (isLone) break
    }
    this.#joiner.flush()
    return receives
  }

  /** Opens what relays have brought; `false` when there was nothing. */
  takeRelayed(now: Instant): boolean {
    const rows = this.#context.engine.takeRelayed()
    if (rows.length === 0) return false
    for (const row of rows) this.#relayedRow(now, row)
    this.#joiner.flush()
    return true
  }

  /** Writes a packet of the engine's own making. */
  deliver(packet: Uint8Array): void {
    const { bytes, map } = this.#context
    if (packet.length === 0 || packet.length > 65_535) return
    bytes.set(packet, map.single)
    encodePlainVnetHeader(this.#context.view, map.single - VNET_HEADER_BYTES)
    const head = this.#context.tun.hasVnetHeader ? VNET_HEADER_BYTES : 0
    this.#write(map.single - head, packet.length + head)
  }

  #row(now: Instant, received: number): void {
    const { view, map, counters, engine } = this.#context
    const { segmentBytes, trafficClass } = this.#message
    const count = Math.ceil(received / segmentBytes)
    const path = this.#paths.find(view, this.#message.nameAt, this.#message.nameBytes)
    if (count > BATCH_SLOTS || path === undefined) {
      counters.kernelLies += 1
      return
    }
    counters.udpDatagrams += count
    const batch = this.#batch
    batch.reset()
    for (let i = 0; i < count; i += 1) {
      const at = map.received + i * segmentBytes
      const slot = batch.addSlot(at, Math.min(segmentBytes, received - i * segmentBytes))
      if (!isWireGuard(view, at) && engine.foreign(now, path, batch.source(slot))) batch.verdict[slot] = DROPPED
    }
    this.#pass(now, engine.open(now, path, batch), (trafficClass & 3) === CONGESTION_EXPERIENCED)
  }

  /** As `#row` for datagrams that stand elsewhere: so many at a time as the batch and the place for rows can hold. */
  #relayedRow(now: Instant, row: LaneRow): void {
    const { bytes, map } = this.#context
    const batch = this.#batch
    const { datagrams } = row
    for (let next = 0; next < datagrams.length; ) {
      batch.reset()
      for (let at = map.received; next < datagrams.length && batch.count < BATCH_SLOTS; next += 1) {
        const datagram = datagrams[next]
        if (datagram === undefined || datagram.length > ROW_BYTES) continue // a relay carries no such thing
        if (at + datagram.length > map.received + ROW_BYTES) break
        bytes.set(datagram, at)
        batch.addSlot(at, datagram.length)
        at += datagram.length
      }
      this.#pass(now, row.open(now, batch), false)
    }
  }

  /** Hands on what was opened and may enter. */
  #pass(now: Instant, plan: Opened, congested: boolean): void {
    const { bytes, engine } = this.#context
    const { count, verdict, target, targetLength } = this.#batch
    for (let slot = 0; slot < count; slot += 1) {
      const peer = verdict[slot] === DONE ? plan.peerOf(slot) : undefined
      if (peer === undefined) continue
      const at = target[slot] ?? 0
      const length = targetLength[slot] ?? 0
      if (!engine.admits(now, peer, bytes, at, length)) continue
      if (congested) markCongestion(bytes, at, length)
      this.#joiner.add(at, length)
    }
  }

  #write(at: number, length: number): void {
    const { border, counters, tun } = this.#context
    const written = border.write(tun.fd, at, length)
    counters.tunWrites += 1
    if (written >= 0) {
      if (!this.#udpRowTaken && tun.hasVnetHeader && this.#context.view.getUint8(at + 1) === VNET_GSO_UDP) this.#udpRowTaken = true
      return
    }
    if (written === -EINVAL && tun.hasVnetHeader) this.#split(at, length)
    else counters.writeDrops += 1
  }

  /** The kernel does not take this row: its packets go one by one. One that has never taken a row of UDP gets no more of them. */
  #split(at: number, length: number): void {
    const { view, map, counters, border, tun } = this.#context
    decodeVnetHeader(view, at, this.#header)
    const { kind } = this.#header
    if (kind === VNET_GSO_NONE || !this.#cutter.plan(at + VNET_HEADER_BYTES, length - VNET_HEADER_BYTES, this.#header)) {
      counters.writeDrops += 1
      return
    }
    if (kind === VNET_GSO_UDP && !this.#udpRowTaken) {
      this.#joiner.joinsUdp = false
      this.#context.offloads.udpJoin = false
    }
    counters.splitRows += 1
    for (let i = 0; i < this.#cutter.segments; i += 1) {
      this.#cutter.cut(i, i + 1, map.cut, 0)
      encodePlainVnetHeader(view, map.cut - VNET_HEADER_BYTES)
      const bytes = i === this.#cutter.segments - 1 ? this.#cutter.lastPacketBytes : this.#cutter.packetBytes
      if (border.write(tun.fd, map.cut - VNET_HEADER_BYTES, bytes + VNET_HEADER_BYTES) < 0) counters.writeDrops += 1
      counters.tunWrites += 1
    }
  }
}

/** Types 1 to 4 and three zero bytes: what WireGuard's messages begin with. */
function isWireGuard(view: DataView, at: number): boolean {
  const first = view.getUint32(at, true)
  return first >= 1 && first <= 4
}
