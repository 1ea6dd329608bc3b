declare const instantBrand: unique symbol

/**
 * A point on a monotonic clock that counts suspended time, in milliseconds (fractions allowed). Its zero is arbitrary, so instants
 * compare and subtract only with instants of the same clock. Never a wall-clock date: that is {@link UnixMillis}.
 */
export type Instant = number & { readonly [instantBrand]: true }

/** Names a number of milliseconds on some monotonic clock as an {@link Instant}: for clocks and tests. */
export function instant(ms: number): Instant {
  return ms as Instant
}

/** The instant `ms` milliseconds after `now`. */
export function after(now: Instant, ms: number): Instant {
  return (now + ms) as Instant
}

/** The earlier of two deadlines; `undefined` stands for "never". */
export function earlier(a: Instant | undefined, b: Instant | undefined): Instant | undefined {
  if (a === undefined) return b
  if (b === undefined) return a
  return a < b ? a : b
}

/** Milliseconds since 1970-01-01T00:00:00Z on the wall clock, which people and other machines can set. */
export type UnixMillis = number

/** Reads the wall clock. Given to machines that must show or compare dates; deadlines use {@link Instant}. */
export type WallClock = () => UnixMillis

/** Gives `length` fresh random bytes that the caller then owns. Unpredictable in production, seeded in tests. */
export type RandomSource = (length: number) => Uint8Array
