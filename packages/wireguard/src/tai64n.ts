import type { UnixMillis } from '@meshwright/core'
import { TIMESTAMP_BYTES } from './constants.ts'

const TAI64_BASE: bigint = 0x400000000000000an
const SLOT_BITS = 24
const SLOTS_PER_SECOND = 60 // ceil(1e9 / 2^24)
const SLOT_NS = 2 ** SLOT_BITS

/**
 * A whitened moment: seconds times 64 plus the slot of 2^24 ns (16.78 ms) within the second. Timestamps of handshakes are no finer,
 * so that they tell little about the sender's clock (WireGuard/wireguard-go:tai64n/tai64n.go). Such numbers compare as the timestamps do.
 */
export type TimestampSlot = number

/** The slot of a moment in whole Unix seconds and nanoseconds. */
export function timestampSlot(seconds: number, nanoseconds: number): TimestampSlot {
  return seconds * 64 + Math.floor(nanoseconds / SLOT_NS)
}

/** The slot that a wall-clock time falls into. */
export function slotOfWall(wall: UnixMillis): TimestampSlot {
  const seconds = Math.floor(wall / 1000)
  return timestampSlot(seconds, Math.min(999_999_999, Math.max(0, (wall - seconds * 1000) * 1e6)))
}

/** The slot behind `slot`: what is sent when the clock has not moved on, or went back. */
export function nextSlot(slot: TimestampSlot): TimestampSlot {
  const next = slot + 1
  return next % 64 < SLOTS_PER_SECOND ? next : Math.floor(next / 64) * 64 + 64
}

/**
 * The 12 bytes of a timestamp: u64 big-endian 0x400000000000000a plus Unix seconds, u32 big-endian nanoseconds with the lower 24 bits
 * zero. Receivers compare these bytes and never read them.
 */
export function encodeTimestamp(slot: TimestampSlot): Uint8Array {
  const bytes = new Uint8Array(TIMESTAMP_BYTES)
  const view = new DataView(bytes.buffer)
  view.setBigUint64(0, TAI64_BASE + BigInt(Math.floor(slot / 64)), false)
  view.setUint32(8, (slot % 64) * SLOT_NS, false)
  return bytes
}

/** True when timestamp `a` is later than `b`, compared as bytes. */
export function isLaterTimestamp(a: Uint8Array, b: Uint8Array): boolean {
  for (let i = 0; i < TIMESTAMP_BYTES; i += 1) {
    const difference = (a[i] ?? 0) - (b[i] ?? 0)
    if (difference !== 0) return difference > 0
  }
  return false
}
