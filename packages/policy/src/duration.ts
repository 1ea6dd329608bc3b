import { encodeByteText } from './hujson/byte-text.ts'

const SECOND = 1_000_000_000n
const UNITS: ReadonlyMap<string, bigint> = new Map([
  ['ns', 1n],
  ['us', 1000n],
  ['µs', 1000n],
  ['μs', 1000n],
  ['ms', 1_000_000n],
  ['s', SECOND],
  ['m', 60n * SECOND],
  ['h', 3600n * SECOND],
])
/** A Go duration holds 2^63 - 1 nanoseconds, and one more below zero. */
const LIMIT = 1n << 63n
/** More digits than that overflow in Go too; converting them would cost time. */
const MOST_DIGITS = 20

/** A duration in nanoseconds, or the words in which Go's `time.ParseDuration` refuses it. */
export type Duration = { readonly ns: bigint; readonly error?: undefined } | { readonly ns?: undefined; readonly error: string }

/** Reads a duration as Go writes it: `1h30m`, `-1.5s`, `0`. */
export function parseDuration(text: string): Duration {
  const invalid: Duration = { error: `time: invalid duration ${quoteBytes(text)}` }
  const negative = text.startsWith('-')
  let rest = /^[+-]/.test(text) ? text.slice(1) : text
  if (rest === '0') return { ns: 0n }
  if (rest === '') return invalid
  let total = 0n
  while (rest !== '') {
    const number = /^([0-9]*)(?:\.([0-9]*))?/.exec(rest)
    const [, whole = '', fraction = ''] = number ?? []
    if (whole === '' && fraction === '') return invalid
    rest = rest.slice(number?.[0].length ?? 0)
    const unit = /^[^.0-9]+/.exec(rest)?.[0]
    if (whole.replace(/^0+/, '').length > MOST_DIGITS) return invalid
    if (unit === undefined) return { error: `time: missing unit in duration ${quoteBytes(text)}` }
    const size = UNITS.get(unit)
    if (size === undefined) return { error: `time: unknown unit ${quoteBytes(unit)} in duration ${quoteBytes(text)}` }
    rest = rest.slice(unit.length)
    total += BigInt(whole === '' ? '0' : whole) * size + BigInt(Math.trunc(Number(`0.${fraction.slice(0, MOST_DIGITS)}0`) * Number(size)))
    if (total > LIMIT) return invalid
  }
  if (negative) return { ns: -total }
  return total === LIMIT ? invalid : { ns: total }
}

/** A duration as Go prints it: `168h0m1s`, `-1m0s`, `1.5s`, `2µs`, `0s`. */
export function formatDuration(ns: bigint): string {
  if (ns === 0n) return '0s'
  const sign = ns < 0n ? '-' : ''
  const size = ns < 0n ? -ns : ns
  for (const [unit, limit, scale] of [
    ['ns', 1000n, 1n],
    ['µs', 1_000_000n, 1000n],
    ['ms', SECOND, 1_000_000n],
  ] as const)
    if (size < limit) return `${sign}${decimal(size, scale)}${unit}`
  const minutes = size / (60n * SECOND)
  const seconds = `${decimal(size % (60n * SECOND), SECOND)}s`
  if (minutes >= 60n) return `${sign}${minutes / 60n}h${minutes % 60n}m${seconds}`
  return minutes > 0n ? `${sign}${minutes}m${seconds}` : `${sign}${seconds}`
}

function decimal(value: bigint, scale: bigint): string {
  const fraction = (value % scale).toString().padStart(scale.toString().length - 1, '0').replace(/0+$/, '')
  return `${value / scale}${scale === 1n || fraction === '' ? '' : `.${fraction}`}`
}

/** In quotes as Go's time package writes texts: every byte that is not plain ASCII as `\xNN`. */
function quoteBytes(text: string): string {
  const shown = encodeByteText(text).replace(/["\\]|[^ -\x7f]/g, (character) =>
    character === '"' || character === '\\' ? `\\${character}` : `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`,
  )
  return `"${shown}"`
}
