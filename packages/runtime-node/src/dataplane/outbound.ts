import { DONE, type Instant } from '@meshwright/core'
import { outerTrafficClass } from '@meshwright/wireguard'
import { arenaBatch, type LaneContext } from './lane-context.ts'
import { MAX_PACKET_BYTES, MAX_UDP_PAYLOAD_BYTES, MAX_UDP_SEGMENTS } from './linux-abi.ts'
import { TunReadErrors } from '../tun-read-errors.ts'
import { type PeerRow, PeerRows } from './peer-rows.ts'
import { completeChecksum, RowCutter } from './row-cutter.ts'
import type { RowSender } from './row-sender.ts'
import { decodeVnetHeader, emptyVnetHeader, VNET_GSO_NONE, VNET_HEADER_BYTES, type VnetHeader } from './vnet-header.ts'

/** Rows that are read before sockets get their turn. */
const READS_PER_TURN = 64
/** What the fast copy may touch behind the last byte. */
const COPY_SLACK_BYTES = 64
/** Header and tag. */
const OVERHEAD_BYTES = 32

/**
 * From the TUN device to the socket: rows are cut into packets that stand where their datagrams will, sealed in place and sent as a row
 * again. Packets and short rows are gathered, a row for each peer, so that many flows to few peers cost few system calls.
 */
export class Outbound {
  readonly #context: LaneContext
  readonly #sender: RowSender
  readonly #rows: PeerRows
  readonly #cutter: RowCutter
  readonly #header: VnetHeader = emptyVnetHeader()
  readonly #errors: TunReadErrors = new TunReadErrors()
  readonly #headerBytes: number
  readonly #isPrompt: boolean
  #lastReads = 0
  /** Rows are read beside the place where their pieces go. */
  #lastWasRow = false

  /** @param isPrompt see {@link LaneOptions.prompt} */
  constructor(context: LaneContext, sender: RowSender, isPrompt: boolean) {
    this.#context = context
    this.#sender = sender
    this.#isPrompt = isPrompt
    this.#rows = new PeerRows(() => arenaBatch(context), context.map.peerRows, (now, row) => this.#seal(now, row))
    this.#cutter = new RowCutter(context)
    this.#headerBytes = context.tun.hasVnetHeader ? VNET_HEADER_BYTES : 0
  }

  /** How many packets and rows the last `run` read. */
  get lastReads(): number {
    return this.#lastReads
  }

  /** For how many peers rows were put together at the same time, at most, since this was last asked. */
  takePeersAtOnce(): number {
    return this.#rows.takeMost()
  }

  /**
   * Reads until the device is empty or others should have their turn; gives 0, or the negative errno of a device that is gone.
   * @param isAwoken whether the lane has waited: then a packet that comes alone is all for now
   */
  run(now: Instant, isAwoken: boolean = false): number {
    const { border, counters, tun, map } = this.#context
    const isLone = this.#isPrompt && this.#lastReads <= 1
    let reads = 0
    let failed = 0
    while (reads < READS_PER_TURN) {
      const at = (this.#lastWasRow ? undefined : this.#rows.place) ?? map.in
      const read = border.read(tun.fd, at - this.#headerBytes, MAX_PACKET_BYTES + this.#headerBytes)
      if (read <= 0) {
        const verdict = this.#errors.judge(-read)
        if (verdict === 'gone') failed = read
        if (verdict !== 'lost') break
        counters.readDrops += 1
        reads += 1
        continue
      }
      this.#errors.read()
      reads += 1
      counters.tunReads += 1
      if (read <= this.#headerBytes || read > MAX_PACKET_BYTES + this.#headerBytes) counters.kernelLies += 1
      else this.#take(now, at, read - this.#headerBytes)
      // Where packets come one at a time, none waits until it is known that no other follows.
      if (!isLone || reads > 1) continue
      this.#rows.flush(now)
      if (isAwoken) break
    }
    this.#rows.flush(now)
    this.#lastReads = reads
    return failed
  }

  /** One packet or row of `length` bytes at `at`. */
  #take(now: Instant, at: number, length: number): void {
    const { view, counters, bytes, engine, map } = this.#context
    const header = this.#header
    header.kind = VNET_GSO_NONE
    header.needsChecksum = false
    if (this.#headerBytes > 0) decodeVnetHeader(view, at - VNET_HEADER_BYTES, header)
    const isRow = header.kind !== VNET_GSO_NONE
    if (isRow ? !this.#cutter.look(at, length, header) : header.needsChecksum && !completeChecksum(this.#context, at, length, header.checksumStart, header.checksumOffset)) {
      counters.kernelLies += 1
      return
    }
    const owner = engine.ownerOf(now, bytes, at, length, isRow ? this.#cutter.segments : 1)
    if (owner === undefined) return
    const trafficClass = outerTrafficClass(bytes, at, length)
    this.#lastWasRow = isRow
    if (!isRow) return this.#addPacket(now, at, length, owner, trafficClass)
    if (at !== map.in) bytes.copyWithin(map.in, at, at + length)
    this.#cutter.prepare(map.in)
    this.#addRow(now, owner, trafficClass)
  }

  #addRow(now: Instant, owner: object, trafficClass: number): void {
    const { counters } = this.#context
    const cutter = this.#cutter
    const { segments } = cutter
    const stride = this.#datagramBytes(cutter.packetBytes)
    const lastBytes = this.#datagramBytes(cutter.lastPacketBytes)
    const most = Math.max(1, Math.min(MAX_UDP_SEGMENTS, Math.floor(MAX_UDP_PAYLOAD_BYTES / stride)))
    counters.tunPackets += segments
    for (let from = 0; from < segments; from += most) {
      const to = Math.min(segments, from + most)
      const row = this.#rows.rowFor(now, owner, trafficClass, to - from, stride)
      const { place } = row
      cutter.cut(from, to, place, stride)
      for (let i = from; i < to; i += 1) row.batch.addSlot(place + (i - from) * stride, i === segments - 1 ? cutter.lastPacketBytes : cutter.packetBytes)
      const isShort = to === segments && lastBytes < stride
      this.#rows.filled(now, row, (to - from) * stride - (isShort ? stride - lastBytes : 0), isShort)
    }
  }

  #addPacket(now: Instant, at: number, length: number, owner: object, trafficClass: number): void {
    const { counters, bytes, sums } = this.#context
    counters.tunPackets += 1
    const stride = this.#datagramBytes(length)
    const row = this.#rows.rowFor(now, owner, trafficClass, 1, stride)
    const { place } = row
    if (Math.abs(place - at) >= length + COPY_SLACK_BYTES) sums.copySum(place, at, length)
    else if (place !== at) bytes.copyWithin(place, at, at + length)
    row.batch.addSlot(place, length)
    this.#rows.filled(now, row, stride, stride < row.stride)
  }

  /** Seals a row and sends what became of it, neighbours of one length at once. */
  #seal(now: Instant, { batch, owner, trafficClass }: PeerRow): void {
    const { engine } = this.#context
    const sealed = owner === undefined ? 0 : engine.seal(now, owner, batch)
    if (owner === undefined || sealed === 0) return
    engine.relay(now, owner, batch)
    const path = engine.pathOf(now, owner)
    if (path === undefined) return engine.notSent(now, owner, sealed)
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

  /** Length of the datagram that a packet becomes, padded as the device pads: the next one follows without a gap. */
  #datagramBytes(length: number): number {
    const rounded = (length + 15) & ~15
    return OVERHEAD_BYTES + (length <= this.#context.mtu ? Math.min(rounded, this.#context.mtu) : rounded)
  }
}
