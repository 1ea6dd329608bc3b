import type { Instant } from '@meshwright/core'
import type { TcpSegment } from './tcp-segment.ts'

/** RFC 7323 section 5.5: a timestamp older than this proves nothing. */
const TIMESTAMP_AGE_MS = 24 * 86_400_000
/** Echoes beyond this are nonsense. */
const LONGEST_ROUND_TRIP_MS = 3_600_000

/** The timestamps option of one connection (RFC 7323): our clock, the peer's newest value, and what is too old to be true. */
export class Timestamps {
  enabled: boolean
  /** The peer's newest value, echoed in every segment (TS.Recent). */
  recent = 0
  #recentAt: Instant | undefined
  readonly #offset: number

  /** @param offset random, so that the clock tells nothing of the host or of other flows (section 5.4) */
  constructor(enabled: boolean, offset: number) {
    this.enabled = enabled
    this.#offset = offset
  }

  /** Our clock in milliseconds. */
  value(now: Instant): number {
    return (this.#offset + Math.floor(now)) >>> 0
  }

  /** The peer's SYN decides whether timestamps are used. */
  adopt(now: Instant, syn: TcpSegment): void {
    this.enabled = this.enabled && syn.hasTimestamps
    if (this.enabled) this.note(now, syn)
  }

  /** True for a segment from the past (PAWS, section 5.3). */
  isStale(now: Instant, segment: TcpSegment): boolean {
    if (!this.enabled || !segment.hasTimestamps || this.#recentAt === undefined) return false
    return ((segment.timestampValue - this.recent) | 0) < 0 && now - this.#recentAt < TIMESTAMP_AGE_MS
  }

  /** True when the segment is certainly newer than any before. */
  isNewer(segment: TcpSegment): boolean {
    return this.enabled && segment.hasTimestamps && ((segment.timestampValue - this.recent) | 0) > 0
  }

  /** Remembers the value of a segment that is in order (section 4.3). */
  note(now: Instant, segment: TcpSegment): void {
    if (!this.enabled || !segment.hasTimestamps) return
    this.recent = segment.timestampValue
    this.#recentAt = now
  }

  /** The round trip that an echo tells, in milliseconds; -1 when it tells none. */
  roundTrip(now: Instant, segment: TcpSegment): number {
    if (!this.enabled || !segment.hasTimestamps || segment.timestampEcho === 0) return -1
    const ms = (this.value(now) - segment.timestampEcho) | 0
    return ms >= 0 && ms < LONGEST_ROUND_TRIP_MS ? ms : -1
  }
}
