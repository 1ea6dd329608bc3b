const UNITS: Readonly<Record<string, number>> = { ns: 1e-6, us: 1e-3, µs: 1e-3, ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000, y: 31_536_000_000 }

/** A thousand years: times beyond the year 9999 cannot be written, and whoever wants that long wants no end. */
const LONGEST_MS = 31_536_000_000_000

/** Milliseconds of a duration such as `24h`, `1h30m`, `90d`, `0`; `undefined` for any other text, and beyond a thousand years. */
export function parseDuration(text: string): number | undefined {
  if (text === '0') return 0
  if (!/^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h|d|w|y))+$/.test(text)) return undefined
  let sum = 0
  for (const [, amount, unit] of text.matchAll(/([0-9.]+)(ns|us|µs|ms|s|m|h|d|w|y)/g)) sum += Number(amount) * (UNITS[unit ?? ''] ?? Number.NaN)
  return sum <= LONGEST_MS ? sum : undefined
}
