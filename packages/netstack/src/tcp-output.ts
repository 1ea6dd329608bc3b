import type { Ip } from '@meshwright/ip'
import { addWords, complementSum, pseudoHeaderSum } from './checksum.ts'
import { type PacketBuilder, PROTOCOL_TCP } from './ip-packet.ts'
import type { SendBuffer } from './send-buffer.ts'
import { ACK, RST, type SynOptions, SYN, synOptionsLength, type TcpSegment, writeSack, writeSynOptions, writeTimestamps } from './tcp-segment.ts'

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
export function writeSegment(builder: PacketBuilder, path: TcpPath, fields: SegmentFields, buffer: SendBuffer | undefined, start: number, length: number): Uint8Array {
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
  return writeSegment(builder, path, {
    flags: acknowledged ? RST : RST | ACK,
    sequence: acknowledged ? segment.acknowledgment : 0,
    acknowledgment: (segment.sequence + length) >>> 0,
    window: 0,
    timestamps: false,
    timestampValue: 0,
    timestampEcho: 0,
    sackEdges: [],
    syn: undefined,
  }, undefined, 0, 0)
}
