const UNITS: ReadonlyMap<string, number> = new Map([
  ['ns', 1e-6],
  ['us', 1e-3],
  ['µs', 1e-3],
  ['μs', 1e-3],
  ['ms', 1],
  ['s', 1000],
  ['m', 60_000],
  ['h', 3_600_000],
])
/** Longer texts are no duration that anyone means; the pattern below is not for them. */
const MOST_LENGTH = 64
const MOST_MS = 9_223_372_036_854 // a Go duration holds 2^63 - 1 nanoseconds

/** Milliseconds of a duration as Go writes it (`1h30m`, `-1.5s`, `0`); `undefined` for anything else. */
export function parseDuration(text: string): number | undefined {
  if (text.length > MOST_LENGTH) return undefined
  const sign = text.startsWith('-') ? -1 : 1
  const body = /^[+-]/.test(text) ? text.slice(1) : text
  if (body === '0') return 0
  if (!/^(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:ns|us|µs|μs|ms|s|m|h))+$/.test(body)) return undefined
  let total = 0
  for (const [, digits = '', unit = ''] of body.matchAll(/([0-9.]+)([a-zµμ]+)/g)) total += Number(digits) * (UNITS.get(unit) ?? 0)
  return total > MOST_MS ? undefined : sign * total
}

/** A duration of whole milliseconds as Go prints it: `168h0m1s`, `-1m0s`, `1.5s`, `0s`. */
export function formatDuration(ms: number): string {
  if (ms === 0) return '0s'
  const sign = ms < 0 ? '-' : ''
  const size = Math.abs(ms)
  if (size < 1000) return size < 1 ? `${sign}${size * 1000}µs` : `${sign}${size}ms`
  const hours = Math.floor(size / 3_600_000)
  const minutes = Math.floor(size / 60_000) % 60
  const seconds = `${(size % 60_000) / 1000}s`
  if (hours > 0) return `${sign}${hours}h${minutes}m${seconds}`
  return minutes > 0 ? `${sign}${minutes}m${seconds}` : `${sign}${seconds}`
}
