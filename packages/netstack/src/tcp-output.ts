import type { Instant } from '@meshwright/core'
import type { Ip } from '@meshwright/ip'
import type { AckPolicy } from './ack-policy.ts'
import { addWords, complementSum, pseudoHeaderSum } from './checksum.ts'
import { type PacketBuilder, PROTOCOL_TCP } from './ip-packet.ts'
import type { NetstackSettings } from './netstack-io.ts'
import type { SendBuffer } from './send-buffer.ts'
import type { TcpReceiver } from './tcp-receiver.ts'
import {
  ACK,
  RST,
  type SynOptions,
  SYN,
  synOptionsLength,
  type TcpSegment,
  writeSack,
  writeSynOptions,
  writeTimestamps,
} from './tcp-segment.ts'
import type { TcpSender } from './tcp-sender.ts'
import type { Timestamps } from './tcp-timestamps.ts'

/** Segments are counted in units of at least this for window updates. */
const LEAST_RECEIVE_UNIT = 536

/** The two ends of a connection. */
export interface TcpPath {
  readonly local: Ip
  readonly localPort: number
  readonly remote: Ip
  readonly remotePort: number
  /** Sum of the pseudo-header without the length. */
  readonly pseudoSum: number
}

export function tcpPath(local: Ip, localPort: number, remote: Ip, remotePort: number): TcpPath {
  return { local, localPort, remote, remotePort, pseudoSum: pseudoHeaderSum(local.bytes, remote.bytes, PROTOCOL_TCP) }
}

/** RFC 9293 section 3.7.1: what a peer takes that names no size. */
const DEFAULT_MSS_V4 = 536
const DEFAULT_MSS_V6 = 1220
/** Whatever a peer or an ICMP error says, segments carry at least this much. */
export const LEAST_MSS = 88

/** The segment size for a path that takes `pathMss` and a peer that offers `offered` (0: nothing). */
export function segmentSizeFor(path: TcpPath, pathMss: number, offered: number): number {
  return Math.max(Math.min(pathMss, offered || (path.local.family === 4 ? DEFAULT_MSS_V4 : DEFAULT_MSS_V6)), LEAST_MSS)
}

/** Where segments go, and what they are made with. */
export interface PacketOutlet {
  readonly builder: PacketBuilder
  readonly settings: NetstackSettings
  packet(bytes: Uint8Array): void
}

/** Smallest shift that lets 16 bits name `bytes` (RFC 7323 section 2.2). */
export function windowShiftFor(bytes: number): number {
  return Math.min(14, Math.max(0, Math.ceil(Math.log2((bytes + 1) / 65_536))))
}

/** Writes the segments of one connection: numbers, window, timestamps, SACK blocks. */
export class TcpOutput {
  /** Our initial sequence number. */
  readonly iss: number
  /** The peer's initial sequence number. */
  irs = 0
  /** Window scaling is offered, or (once the peer is known) in use. */
  scaled: boolean
  /** Position up to which the last segment acknowledged. */
  lastAckSent = 0
  /** The peer's segment size, as far as seen. */
  receiveUnit: number = LEAST_RECEIVE_UNIT
  readonly #outlet: PacketOutlet
  readonly #path: TcpPath
  readonly #sender: TcpSender
  readonly #receiver: TcpReceiver
  readonly #timestamps: Timestamps
  readonly #acks: AckPolicy
  readonly #fields: SegmentFields

  constructor(
    outlet: PacketOutlet,
    path: TcpPath,
    sender: TcpSender,
    receiver: TcpReceiver,
    timestamps: Timestamps,
    acks: AckPolicy,
    iss: number,
  ) {
    this.iss = iss
    this.scaled = outlet.settings.windowScaling
    this.#outlet = outlet
    this.#path = path
    this.#sender = sender
    this.#receiver = receiver
    this.#timestamps = timestamps
    this.#acks = acks
    this.#fields = {
      flags: 0,
      sequence: 0,
      acknowledgment: 0,
      window: 0,
      timestamps: false,
      timestampValue: 0,
      timestampEcho: 0,
      sackEdges: [],
      syn: undefined,
    }
  }

  /** Acknowledgment number of the next segment. */
  get wireAck(): number {
    return (this.irs + this.#receiver.nxt) >>> 0
  }

  /** Sends one segment; payload `[position, position + length)` comes from the send buffer. @param data a segment that uses sequence numbers */
  emit(now: Instant, flags: number, position: number, length: number, data: boolean): void {
    const fields = this.#fields
    const receiver = this.#receiver
    const syn = (flags & SYN) !== 0
    const reset = (flags & RST) !== 0
    fields.flags = flags
    fields.sequence = (this.iss + position) >>> 0
    fields.acknowledgment = this.wireAck
    fields.timestamps = this.#timestamps.enabled && !reset
    fields.timestampValue = this.#timestamps.value(now)
    fields.timestampEcho = this.#timestamps.recent
    fields.syn = syn ? this.#synOptions((flags & ACK) !== 0) : undefined
    fields.sackEdges = []
    if ((flags & ACK) !== 0 && !syn && !reset) {
      if (this.#sender.sackPermitted && !data && (receiver.hasHoles || receiver.hasDuplicate)) {
        fields.sackEdges = receiver.sackEdges().map((edge) => (this.irs + edge) >>> 0)
      }
      this.lastAckSent = receiver.nxt
      // Data carries no SACK blocks: while there are holes, the acknowledgment follows.
      this.#acks.sent(data && receiver.hasHoles)
    }
    fields.window = reset ? 0 : flags === SYN ? Math.min(receiver.room, 0xffff) : receiver.advertise(this.receiveUnit, !syn && this.scaled)
    this.#outlet.packet(writeSegment(this.#outlet.builder, this.#path, fields, this.#sender.buffer, position, length))
  }

  #synOptions(answering: boolean): SynOptions {
    const { settings } = this.#outlet
    return {
      maximumSegmentSize: settings.mtu - (this.#path.local.family === 4 ? 40 : 60),
      windowShift: this.scaled ? windowShiftFor(settings.maxReceiveBufferBytes) : -1,
      sackPermitted: answering ? this.#sender.sackPermitted : settings.selectiveAcks,
    }
  }
}

/** The fields of a segment that leaves. */
export interface SegmentFields {
  flags: number
  sequence: number
  acknowledgment: number
  /** As on the wire. */
  window: number
  timestamps: boolean
  timestampValue: number
  timestampEcho: number
  /** Wire sequence numbers, two a block. */
  sackEdges: readonly number[]
  syn: SynOptions | undefined
}

/** Writes one segment with its IP header; payload `[start, start + length)` comes from the send buffer. */
export function writeSegment(
  builder: PacketBuilder,
  path: TcpPath,
  fields: SegmentFields,
  buffer: SendBuffer | undefined,
  start: number,
  length: number,
): Uint8Array {
  const sack = fields.sackEdges.length > 0 ? 4 + fields.sackEdges.length * 4 : 0
  const options = fields.syn !== undefined ? synOptionsLength(fields.syn, fields.timestamps) : (fields.timestamps ? 12 : 0) + sack
  const header = 20 + options
  const at = builder.begin(path.local.bytes, path.remote.bytes, PROTOCOL_TCP, header + length)
  const { view } = builder
  view.setUint32(at, ((path.localPort << 16) | path.remotePort) >>> 0)
  view.setUint32(at + 4, fields.sequence)
  view.setUint32(at + 8, (fields.flags & ACK) !== 0 ? fields.acknowledgment : 0)
  view.setUint16(at + 12, (header << 10) | fields.flags)
  view.setUint16(at + 14, fields.window)
  view.setUint32(at + 16, 0)
  if (fields.syn !== undefined) {
    writeSynOptions(view, at + 20, fields.syn, fields.timestamps, fields.timestampValue, fields.timestampEcho)
  } else {
    if (fields.timestamps) writeTimestamps(view, at + 20, fields.timestampValue, fields.timestampEcho)
    if (sack > 0) writeSack(view, at + 20 + (fields.timestamps ? 12 : 0), fields.sackEdges)
  }
  if (length > 0) buffer?.copyTo(start, start + length, builder.memory, at + header)
  const end = at + header + length
  view.setUint16(at + 16, complementSum(addWords(path.pseudoSum + header + length, view, at, end)))
  return builder.finish()
}

/** The reset that answers a segment to a connection that does not exist (RFC 9293 section 3.10.7.1); none for resets. */
export function writeResetFor(builder: PacketBuilder, path: TcpPath, segment: TcpSegment): Uint8Array | undefined {
  if ((segment.flags & RST) !== 0) return undefined
  const acknowledged = (segment.flags & ACK) !== 0
  const length = segment.payloadLength + (segment.flags & SYN ? 1 : 0) + (segment.flags & 1)
  return writeSegment(
    builder,
    path,
    {
      flags: acknowledged ? RST : RST | ACK,
      sequence: acknowledged ? segment.acknowledgment : 0,
      acknowledgment: (segment.sequence + length) >>> 0,
      window: 0,
      timestamps: false,
      timestampValue: 0,
      timestampEcho: 0,
      sackEdges: [],
      syn: undefined,
    },
    undefined,
    0,
    0,
  )
}
