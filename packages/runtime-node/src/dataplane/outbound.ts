import { DONE, type Instant, type PacketBatch } from '@meshwright/core'
import { outerTrafficClass } from '@meshwright/wireguard'
import { arenaBatch, GATHER_BYTES, type LaneContext } from './lane-context.ts'
import { MAX_PACKET_BYTES, MAX_UDP_PAYLOAD_BYTES, MAX_UDP_SEGMENTS } from './linux-abi.ts'
import { completeChecksum, RowCutter } from './row-cutter.ts'
import type { RowSender } from './row-sender.ts'
import { decodeVnetHeader, emptyVnetHeader, VNET_GSO_NONE, VNET_HEADER_BYTES, type VnetHeader } from './vnet-header.ts'

/** Rows that are read before sockets get their turn. */
const READS_PER_TURN = 64
const HEADER_BYTES = 16
const TAG_BYTES = 16
const OVERHEAD_BYTES: number = HEADER_BYTES + TAG_BYTES

/**
 * From the TUN device to the socket: rows are cut into packets that stand where their datagrams will, sealed in place and sent as a row
 * again. Packets that come one by one for the same peer are read to where they make a row themselves.
 */
export class Outbound {
  readonly #context: LaneContext
  readonly #sender: RowSender
  readonly #batch: PacketBatch
  readonly #cutter: RowCutter
  readonly #header: VnetHeader = emptyVnetHeader()
  readonly #headerBytes: number
  // Packets gathered: whose, of which class, how long each, where the next one goes.
  #peer: object | undefined
  #class = 0
  #length = 0
  #next: number

  constructor(context: LaneContext, sender: RowSender) {
    this.#context = context
    this.#sender = sender
    this.#batch = arenaBatch(context)
    this.#cutter = new RowCutter(context)
    this.#headerBytes = context.tun.hasVnetHeader ? VNET_HEADER_BYTES : 0
    this.#next = context.map.in
  }

  /** Reads until the device is empty or others should have their turn; gives 0, or the negative errno of a device that is broken. */
  run(now: Instant, wouldBlock: (errno: number) => boolean): number {
    const { border, counters, tun } = this.#context
    let failed = 0
    for (let i = 0; i < READS_PER_TURN; i += 1) {
      const at = this.#next + HEADER_BYTES
      const read = border.read(tun.fd, at - this.#headerBytes, MAX_PACKET_BYTES + this.#headerBytes)
      if (read <= 0) {
        if (read < 0 && !wouldBlock(-read)) failed = read
        break
      }
      counters.tunReads += 1
      if (read <= this.#headerBytes || read > MAX_PACKET_BYTES + this.#headerBytes) counters.kernelLies += 1
      else this.#take(now, at, read - this.#headerBytes)
    }
    this.#flush(now)
    return failed
  }

  /** One packet or row of `length` bytes at `at`. */
  #take(now: Instant, at: number, length: number): void {
    const { view, counters, bytes, engine } = this.#context
    const header = this.#header
    header.kind = VNET_GSO_NONE
    header.needsChecksum = false
    if (this.#headerBytes > 0) decodeVnetHeader(view, at - VNET_HEADER_BYTES, header)
    if (header.kind === VNET_GSO_NONE && header.needsChecksum && !completeChecksum(this.#context, at, length, header.checksumStart, header.checksumOffset)) {
      counters.kernelLies += 1
      return
    }
    const owner = engine.ownerOf(now, bytes, at, length)
    if (owner === undefined) return
    const trafficClass = outerTrafficClass(bytes, at, length)
    if (header.kind === VNET_GSO_NONE) return this.#gather(now, at, length, owner, trafficClass)
    this.#flush(now)
    if (this.#cutter.plan(at, length, header)) this.#sendRow(now, owner, trafficClass)
    else counters.kernelLies += 1
  }

  #sendRow(now: Instant, owner: object, trafficClass: number): void {
    const { counters, map } = this.#context
    const cutter = this.#cutter
    const batch = this.#batch
    const stride = OVERHEAD_BYTES + this.#padded(cutter.packetBytes)
    const most = Math.max(1, Math.min(MAX_UDP_SEGMENTS, Math.floor(MAX_UDP_PAYLOAD_BYTES / stride)))
    const { segments } = cutter
    counters.tunPackets += segments
    for (let from = 0; from < segments; from += most) {
      const to = Math.min(segments, from + most)
      cutter.cut(from, to, map.cut + HEADER_BYTES, stride)
      batch.reset()
      for (let i = from; i < to; i += 1) batch.addSlot(map.cut + HEADER_BYTES + (i - from) * stride, i === segments - 1 ? cutter.lastPacketBytes : cutter.packetBytes)
      this.#seal(now, owner, trafficClass)
    }
    batch.reset()
  }

  #gather(now: Instant, at: number, length: number, owner: object, trafficClass: number): void {
    const { counters, map, bytes } = this.#context
    const batch = this.#batch
    counters.tunPackets += 1
    let place = at
    const fits = batch.count < MAX_UDP_SEGMENTS && owner === this.#peer && trafficClass === this.#class && length <= this.#length && this.#next - map.in + length + OVERHEAD_BYTES <= MAX_UDP_PAYLOAD_BYTES
    if (batch.count > 0 && !fits) {
      this.#flush(now)
      place = map.in + HEADER_BYTES
      bytes.copyWithin(place, at, at + length)
    }
    if (batch.count === 0) {
      this.#peer = owner
      this.#class = trafficClass
      this.#length = length
    }
    batch.addSlot(place, length)
    this.#next = place - HEADER_BYTES + OVERHEAD_BYTES + this.#padded(length)
    // The last of a row may be shorter; and the next row must have room.
    if (length < this.#length || this.#next - map.in > GATHER_BYTES - OVERHEAD_BYTES) this.#flush(now)
  }

  #flush(now: Instant): void {
    if (this.#batch.count > 0 && this.#peer !== undefined) this.#seal(now, this.#peer, this.#class)
    this.#batch.reset()
    this.#peer = undefined
    this.#next = this.#context.map.in
  }

  /** Seals the batch and sends what became of it, neighbours of one length as a row. */
  #seal(now: Instant, owner: object, trafficClass: number): void {
    const batch = this.#batch
    const { engine } = this.#context
    if (engine.seal(now, owner, batch) === 0) return
    if (engine.isRelayed(now, owner)) for (let i = 0; i < batch.count; i += 1) if (batch.verdict[i] === DONE) engine.relay(now, owner, batch.result(i))
    const path = engine.pathOf(now, owner)
    if (path === undefined) return
    const { count, target, targetLength, verdict } = batch
    for (let i = 0; i < count; ) {
      if (verdict[i] !== DONE) {
        i += 1
        continue
      }
      const from = target[i] ?? 0
      const segment = targetLength[i] ?? 0
      let end = from + segment
      let next = i + 1
      while (next < count && verdict[next] === DONE && target[next] === end && (targetLength[next] ?? 0) <= segment) {
        const length = targetLength[next] ?? 0
        end += length
        next += 1
        if (length < segment) break
      }
      this.#sender.send(now, path, from, end - from, segment, trafficClass)
      engine.sent(path, end - from, next - i)
      i = next
    }
  }

  /** What the device will pad a packet to: packets stand where the next datagram follows without a gap. */
  #padded(length: number): number {
    const rounded = (length + 15) & ~15
    return length <= this.#context.mtu ? Math.min(rounded, this.#context.mtu) : rounded
  }
}

