import { instant } from '@meshwright/core'
import { SeededRandom } from '@meshwright/testkit'
import { PacketBuilder, PROTOCOL_ICMP, PROTOCOL_ICMPV6, decodeIpPacket, IpPacket } from '../../packages/netstack/src/ip-packet.ts'
import { addWords, complementSum } from '../../packages/netstack/src/checksum.ts'
import { decodeTcpSegment, TcpSegment } from '../../packages/netstack/src/tcp-segment.ts'

/** What a line does to packets. Shares from 0 to 1. */
export interface Faults {
  readonly loss: number
  /** Share of packets that come up to twice `delayMs` later than the others. */
  readonly reordering: number
  readonly duplication: number
  /** One way. */
  readonly delayMs: number
  /** Larger packets are answered by ICMP, as routers do. */
  readonly mtu: number
  /** Carries nothing. */
  readonly cut: boolean
}

export const NO_FAULTS: Faults = { loss: 0, reordering: 0, duplication: 0, delayMs: 0, mtu: 65_535, cut: false }

/** A host at one end of a line. */
export interface LineEnd {
  /** Takes packets that arrive together; the bytes are its own. */
  receive(packets: readonly Uint8Array[]): void
}

/** The TCP fields of a packet that went over the line. */
export interface Seen {
  readonly side: Side
  readonly at: number
  readonly bytes: Uint8Array
  readonly lost: boolean
  /** When it first reached the other side; infinite before. */
  arrivedAt: number
  readonly flags: number
  readonly sequence: number
  readonly acknowledgment: number
  readonly window: number
  readonly length: number
  readonly sourcePort: number
  readonly destinationPort: number
  readonly maximumSegmentSize: number
  readonly windowShift: number
  readonly sackPermitted: boolean
  readonly hasTimestamps: boolean
  readonly timestampValue: number
  readonly timestampEcho: number
  readonly sackEdges: readonly number[]
}

/** Which end of the line. */
export type Side = 0 | 1

const ROUTER_V4 = Uint8Array.of(10, 77, 0, 254)
const ROUTER_V6 = Uint8Array.of(0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfe)

interface Travelling {
  readonly due: number
  readonly bytes: Uint8Array
  readonly seen: Seen | undefined
}

/** A line between two hosts, in real time, with repeatable faults; it may keep what it carried. */
export class Line {
  faults: Faults
  /** Every TCP packet, while `records` is set. */
  readonly seen: Seen[] = []
  records: boolean
  /** Bytes of TCP payload that were lost, from each side. */
  readonly lostBytes: [number, number] = [0, 0]
  /** Looks at a packet before the line does; false swallows it. */
  tap: (side: Side, packet: Uint8Array) => boolean = () => true
  readonly #random: SeededRandom
  readonly #ends: [LineEnd | undefined, LineEnd | undefined] = [undefined, undefined]
  // In order of arrival, towards each side.
  readonly #travelling: [Travelling[], Travelling[]] = [[], []]
  readonly #builder: PacketBuilder = new PacketBuilder(1)
  #timer: NodeJS.Timeout | undefined
  #timerDue = Number.POSITIVE_INFINITY

  constructor(seed: number, faults: Partial<Faults> = {}, records = false) {
    this.#random = new SeededRandom(seed)
    this.faults = { ...NO_FAULTS, ...faults }
    this.records = records
  }

  attach(side: Side, end: LineEnd): void {
    this.#ends[side] = end
  }

  close(): void {
    clearTimeout(this.#timer)
    this.#timerDue = Number.NEGATIVE_INFINITY // no more of them
    this.#ends[0] = undefined
    this.#ends[1] = undefined
  }

  /** Takes packets that leave a side together; their memory is the line's from now on. */
  send(side: Side, packets: readonly Uint8Array[]): void {
    const { loss, reordering, duplication, delayMs, mtu, cut } = this.faults
    const other: Side = side === 0 ? 1 : 0
    const now = performance.now()
    const direct: Uint8Array[] = []
    for (const packet of packets) {
      if (!this.tap(side, packet)) continue
      const tooBig = packet.length > mtu
      const lost = cut || tooBig || this.#random.chance(loss)
      const seen = this.records || lost ? this.#note(side, packet, now, lost) : undefined
      if (tooBig && !cut) this.#refuse(side, packet, mtu)
      if (lost) continue
      const late = this.#random.chance(reordering) ? 1 + this.#random.below(Math.max(3, delayMs * 2)) : 0
      const copies = this.#random.chance(duplication) ? 2 : 1
      for (let i = 0; i < copies; i += 1) {
        if (delayMs + late > 0) this.#travel(other, { due: now + delayMs + late, bytes: packet, seen })
        else {
          direct.push(packet)
          arrive(seen)
        }
      }
    }
    if (direct.length > 0) this.#ends[other]?.receive(direct)
    this.#arm()
  }

  #travel(to: Side, packet: Travelling): void {
    const line = this.#travelling[to]
    let index = line.length
    while (index > 0 && (line[index - 1]?.due ?? 0) > packet.due) index -= 1
    line.splice(index, 0, packet)
  }

  #arm(): void {
    const due = Math.min(this.#travelling[0][0]?.due ?? Number.POSITIVE_INFINITY, this.#travelling[1][0]?.due ?? Number.POSITIVE_INFINITY)
    if (due >= this.#timerDue) return
    clearTimeout(this.#timer)
    this.#timerDue = due
    this.#timer = setTimeout(() => {
      this.#timerDue = Number.POSITIVE_INFINITY
      for (const side of [0, 1] as const) {
        const line = this.#travelling[side]
        let arrived = 0
        for (const now = performance.now(); (line[arrived]?.due ?? Number.POSITIVE_INFINITY) <= now; ) arrived += 1
        if (arrived === 0) continue
        const packets = line.splice(0, arrived)
        for (const { seen } of packets) arrive(seen)
        this.#ends[side]?.receive(packets.map((each) => each.bytes))
      }
      this.#arm()
    }, Math.max(0, due - performance.now()))
  }

  #note(side: Side, bytes: Uint8Array, at: number, lost: boolean): Seen | undefined {
    const tcp = readTcp(bytes)
    if (tcp === undefined) return undefined
    if (lost) this.lostBytes[side] += tcp.length
    if (!this.records) return undefined
    const seen = { side, at, bytes, lost, arrivedAt: Number.POSITIVE_INFINITY, ...tcp }
    this.seen.push(seen)
    return seen
  }

  // RFC 1191 section 4, RFC 4443 section 3.2: type, code, checksum, (unused and) MTU, the beginning of the packet.
  #refuse(side: Side, packet: Uint8Array, mtu: number): void {
    const ip = new IpPacket()
    if (!decodeIpPacket(packet, ip)) return
    const quoted = packet.subarray(0, Math.min(packet.length, 64))
    const bytes = new Uint8Array(8 + quoted.length)
    const view = new DataView(bytes.buffer)
    const v4 = ip.family === 4
    bytes.set(quoted, 8)
    if (v4) view.setUint16(0, 0x0304)
    else view.setUint16(0, 0x0200)
    view.setUint32(4, mtu)
    const router = v4 ? ROUTER_V4 : ROUTER_V6
    const pseudo = v4 ? 0 : [router, ip.source()].reduce((sum, each) => addWords(sum, new DataView(each.buffer, each.byteOffset, 16), 0, 16), PROTOCOL_ICMPV6 + bytes.length)
    view.setUint16(2, complementSum(addWords(pseudo, view, 0, bytes.length)))
    const answer = this.#builder.packet(router, ip.source(), v4 ? PROTOCOL_ICMP : PROTOCOL_ICMPV6, bytes).slice()
    queueMicrotask(() => this.#ends[side]?.receive([answer]))
  }
}

function arrive(seen: Seen | undefined): void {
  if (seen !== undefined) seen.arrivedAt = Math.min(seen.arrivedAt, performance.now())
}

/** Reads the TCP fields of an IP packet; `undefined` for others. */
export function readTcp(bytes: Uint8Array): Omit<Seen, 'side' | 'at' | 'bytes' | 'lost' | 'arrivedAt'> | undefined {
  const ip = new IpPacket()
  const segment = new TcpSegment()
  if (!decodeIpPacket(bytes, ip) || ip.protocol !== 6 || !decodeTcpSegment(ip.view, ip.payloadAt, ip.end, ip.pseudoSum(), segment)) return undefined
  const { flags, sequence, acknowledgment, window, sourcePort, destinationPort, maximumSegmentSize, windowShift, sackPermitted, hasTimestamps, timestampValue, timestampEcho } = segment
  const sackEdges = [...segment.sackEdges.subarray(0, segment.sackEdgeCount)]
  return { flags, sequence, acknowledgment, window, length: segment.payloadLength, sourcePort, destinationPort, maximumSegmentSize, windowShift, sackPermitted, hasTimestamps, timestampValue, timestampEcho, sackEdges }
}

/** Real time as the stack counts it. */
export function clock(): ReturnType<typeof instant> {
  return instant(performance.now())
}
