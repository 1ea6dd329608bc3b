import { addWords, foldSum } from './checksum.ts'

export const FIN = 1
export const SYN = 2
export const RST = 4
export const PSH = 8
export const ACK = 16

const OPTION_END = 0
const OPTION_NOP = 1
const OPTION_MSS = 2
const OPTION_WINDOW_SCALE = 3
const OPTION_SACK_PERMITTED = 4
const OPTION_SACK = 5
const OPTION_TIMESTAMPS = 8
/** RFC 7323 section 2.3: larger shifts count as 14. */
const MAX_WINDOW_SHIFT = 14
/** The most SACK blocks that fit the option space. */
const MAX_SACK_BLOCKS = 4

/**
 * A TCP segment as decoded; reused from packet to packet.
 *
 * | offset | size | field (big-endian)         |
 * | ------ | ---- | -------------------------- |
 * | 0      | 2    | source port                |
 * | 2      | 2    | destination port           |
 * | 4      | 4    | sequence number            |
 * | 8      | 4    | acknowledgment number      |
 * | 12     | 1    | data offset (upper 4 bits) |
 * | 13     | 1    | flags                      |
 * | 14     | 2    | window                     |
 * | 16     | 2    | checksum                   |
 * | 18     | 2    | urgent pointer             |
 * | 20     | 0-40 | options                    |
 */
export class TcpSegment {
  sourcePort = 0
  destinationPort = 0
  sequence = 0
  acknowledgment = 0
  flags = 0
  /** As on the wire, not scaled. */
  window = 0
  /** Offsets of the payload in the decoded bytes. */
  payloadAt = 0
  payloadEnd = 0
  /** 0: absent. */
  maximumSegmentSize = 0
  /** -1: absent. */
  windowShift = -1
  sackPermitted = false
  hasTimestamps = false
  timestampValue = 0
  timestampEcho = 0
  /** How many of `sackEdges` are set, two for each block. */
  sackEdgeCount = 0
  readonly sackEdges: Uint32Array = new Uint32Array(MAX_SACK_BLOCKS * 2)

  get payloadLength(): number {
    return this.payloadEnd - this.payloadAt
  }
}

/**
 * Reads the TCP segment at `view[start .. end)`; false when it is cut off or its checksum is wrong.
 * @param pseudoSum sum of the pseudo-header, length included
 */
export function decodeTcpSegment(view: DataView, start: number, end: number, pseudoSum: number, into: TcpSegment): boolean {
  if (end - start < 20) return false
  const headerLength = (view.getUint8(start + 12) >> 4) * 4
  if (headerLength < 20 || headerLength > end - start) return false
  if (foldSum(addWords(pseudoSum, view, start, end)) !== 0xffff) return false
  into.sourcePort = view.getUint16(start)
  into.destinationPort = view.getUint16(start + 2)
  into.sequence = view.getUint32(start + 4)
  into.acknowledgment = view.getUint32(start + 8)
  into.flags = view.getUint8(start + 13) & 0x3f
  into.window = view.getUint16(start + 14)
  into.payloadAt = start + headerLength
  into.payloadEnd = end
  into.maximumSegmentSize = 0
  into.windowShift = -1
  into.sackPermitted = false
  into.hasTimestamps = false
  into.sackEdgeCount = 0
  if (headerLength > 20) decodeOptions(view, start + 20, start + headerLength, into)
  return true
}

/** Unknown options are passed over; from a broken one on, all are ignored (the segment stays). */
function decodeOptions(view: DataView, start: number, end: number, into: TcpSegment): void {
  let at = start
  while (at < end) {
    const kind = view.getUint8(at)
    if (kind === OPTION_END) return
    if (kind === OPTION_NOP) {
      at += 1
      continue
    }
    if (at + 2 > end) return
    const length = view.getUint8(at + 1)
    if (length < 2 || at + length > end) return
    if (kind === OPTION_TIMESTAMPS && length === 10) {
      into.hasTimestamps = true
      into.timestampValue = view.getUint32(at + 2)
      into.timestampEcho = view.getUint32(at + 6)
    } else if (kind === OPTION_SACK && (length - 2) % 8 === 0) {
      for (let edge = at + 2; edge < at + length && into.sackEdgeCount < into.sackEdges.length; edge += 4) {
        into.sackEdges[into.sackEdgeCount] = view.getUint32(edge)
        into.sackEdgeCount += 1
      }
    } else if (kind === OPTION_MSS && length === 4) into.maximumSegmentSize = view.getUint16(at + 2)
    else if (kind === OPTION_WINDOW_SCALE && length === 3) into.windowShift = Math.min(view.getUint8(at + 2), MAX_WINDOW_SHIFT)
    else if (kind === OPTION_SACK_PERMITTED && length === 2) into.sackPermitted = true
    at += length
  }
}

/** Options of our SYN: what we offer, or (answering) what the peer offered too. */
export interface SynOptions {
  readonly maximumSegmentSize: number
  /** -1: none. */
  readonly windowShift: number
  readonly sackPermitted: boolean
}

/** Bytes that {@link writeSynOptions} writes, timestamps included. */
export function synOptionsLength(options: SynOptions, timestamps: boolean): number {
  const ours = 4 + (options.windowShift >= 0 ? 4 : 0) + (options.sackPermitted ? (timestamps ? 0 : 4) : 0)
  return ours + (timestamps ? 12 : 0)
}

export function writeSynOptions(
  view: DataView,
  start: number,
  options: SynOptions,
  timestamps: boolean,
  value: number,
  echo: number,
): void {
  let at = start
  view.setUint32(at, ((OPTION_MSS << 24) | (4 << 16) | options.maximumSegmentSize) >>> 0)
  at += 4
  if (timestamps) {
    view.setUint16(at, options.sackPermitted ? (OPTION_SACK_PERMITTED << 8) | 2 : (OPTION_NOP << 8) | OPTION_NOP)
    view.setUint16(at + 2, (OPTION_TIMESTAMPS << 8) | 10)
    view.setUint32(at + 4, value)
    view.setUint32(at + 8, echo)
    at += 12
  } else if (options.sackPermitted) {
    view.setUint32(at, ((OPTION_NOP << 24) | (OPTION_NOP << 16) | (OPTION_SACK_PERMITTED << 8) | 2) >>> 0)
    at += 4
  }
  if (options.windowShift >= 0)
    view.setUint32(at, ((OPTION_NOP << 24) | (OPTION_WINDOW_SCALE << 16) | (3 << 8) | options.windowShift) >>> 0)
}

/** Timestamps, in the 12 bytes of RFC 7323 appendix A. */
export function writeTimestamps(view: DataView, at: number, value: number, echo: number): void {
  view.setUint32(at, ((OPTION_NOP << 24) | (OPTION_NOP << 16) | (OPTION_TIMESTAMPS << 8) | 10) >>> 0)
  view.setUint32(at + 4, value)
  view.setUint32(at + 8, echo)
}

/** SACK blocks (RFC 2018 section 3), 4 + 8 bytes a block. `edges`: left and right edge of each block, wire sequence numbers. */
export function writeSack(view: DataView, at: number, edges: readonly number[]): void {
  view.setUint32(at, ((OPTION_NOP << 24) | (OPTION_NOP << 16) | (OPTION_SACK << 8) | (2 + edges.length * 4)) >>> 0)
  for (let i = 0; i < edges.length; i += 1) view.setUint32(at + 4 + i * 4, edges[i] ?? 0)
}
