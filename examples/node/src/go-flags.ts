/** One flag of a command, in the grammar of Go's flag package. */
export interface FlagSpec {
  readonly type: 'bool' | 'string' | 'int' | 'duration'
  readonly help: string
  /** Shown in the help; what `values` holds when the flag is absent is `undefined` all the same. */
  readonly default?: string
  /** Other names of the same flag. */
  readonly aliases?: readonly string[]
  /** Why it is not offered: known by name, and taken only with a value that switches it off. */
  readonly refused?: string
}

/** Flags by name, values as given, and what stands behind the flags. */
export interface ParsedFlags {
  readonly values: Readonly<Record<string, string | boolean | number | undefined>>
  readonly args: readonly string[]
}

/** A command line that cannot be read: shown with the usage, status 2. */
export class FlagError extends Error {
  constructor(message: string) {
    super(message)
    this.name = 'FlagError'
  }
}

/**
 * Reads flags as Go's flag package does: `-x` and `--x` are the same; a value follows as `=v` or as the next word; a bool takes a value by
 * `=` alone; the first word that is no flag ends them, as `--` does.
 * @throws FlagError naming the flag and what it takes
 */
export function parseFlags(words: readonly string[], specs: Readonly<Record<string, FlagSpec>>): ParsedFlags {
  const names = new Map<string, string>()
  for (const [name, spec] of Object.entries(specs)) for (const each of [name, ...(spec.aliases ?? [])]) names.set(each, name)
  const values: Record<string, string | boolean | number> = {}
  let at = 0
  for (; at < words.length; at += 1) {
    const word = words[at] ?? ''
    if (!word.startsWith('-') || word === '-') break
    if (word === '--') {
      at += 1
      break
    }
    const match = /^--?([^=-][^=]*)(?:=([\s\S]*))?$/.exec(word)
    const given = match?.[1] ?? ''
    const name = names.get(given)
    const spec = name === undefined ? undefined : specs[name]
    if (match === null) throw new FlagError(`bad flag syntax: ${word}`)
    if (given === 'h' || given === 'help') throw new FlagError('help')
    if (name === undefined || spec === undefined) throw new FlagError(`flag provided but not defined: -${given}${nearest(given, [...names.keys()])}`)
    let value = match[2]
    if (value === undefined && spec.type === 'bool') value = 'true'
    if (value === undefined) {
      at += 1
      value = words[at]
    }
    if (value === undefined) throw new FlagError(`flag needs an argument: -${given}`)
    const read = convert(given, value, spec.type)
    if (spec.refused === undefined) values[name] = read
    else if (read !== false && read !== '') throw new FlagError(`--${name} is not offered: ${spec.refused}`)
  }
  return { values, args: words.slice(at) }
}

/** The flags of a command as lines of its help. */
export function describeFlags(specs: Readonly<Record<string, FlagSpec>>): string {
  return Object.entries(specs)
    .map(([name, spec]) => `  --${name}${spec.type === 'bool' ? '' : ` ${spec.type}`}${spec.default === undefined ? '' : ` (default ${spec.default})`}\n    \t${spec.help}${spec.refused === undefined ? '' : ` (not offered: ${spec.refused})`}\n`)
    .join('')
}

/** Milliseconds of a Go duration: `10s`, `1m30s`, `1.5h`, `0`; `undefined` for anything else. */
export function parseGoDuration(text: string): number | undefined {
  if (text === '0') return 0
  const units: Readonly<Record<string, number>> = { ns: 1e-6, us: 1e-3, µs: 1e-3, ms: 1, s: 1000, m: 60_000, h: 3_600_000 }
  if (!/^(\d+(\.\d*)?(ns|us|µs|ms|s|m|h))+$/.test(text)) return undefined
  let sum = 0
  for (const [, amount, , unit] of text.matchAll(/(\d+(\.\d*)?)(ns|us|µs|ms|s|m|h)/g)) sum += Number(amount) * (units[unit ?? ''] ?? 0)
  return sum
}

/** `, did you mean "x"?` for a slip of the pen; nothing when no name is near. */
export function nearest(given: string, names: readonly string[]): string {
  const scored = names.map((name) => ({ name, distance: distance(given, name) })).sort((a, b) => a.distance - b.distance)
  const best = scored[0]
  return best !== undefined && best.distance <= Math.max(1, Math.floor(given.length / 3)) ? ` (did you mean "${best.name}"?)` : ''
}

function convert(name: string, value: string, type: FlagSpec['type']): string | boolean | number {
  switch (type) {
    case 'string':
      return value
    case 'bool':
      if (/^(1|t|T|true|TRUE|True)$/.test(value)) return true
      if (/^(0|f|F|false|FALSE|False)$/.test(value)) return false
      throw new FlagError(`invalid boolean value "${value}" for -${name}: parse error`)
    case 'int': {
      if (!/^-?\d+$/.test(value)) throw new FlagError(`invalid value "${value}" for flag -${name}: parse error`)
      return Number(value)
    }
    case 'duration': {
      const ms = parseGoDuration(value)
      if (ms === undefined) throw new FlagError(`invalid value "${value}" for flag -${name}: parse error (write it as 10s or 1m30s)`)
      return ms
    }
  }
}

// How many letters must be added, left out, changed, or swapped with their neighbour, to come from one word to the other.
function distance(a: string, b: string): number {
  let before: readonly number[] = []
  let row: readonly number[] = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i]
    for (let j = 1; j <= b.length; j += 1) {
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1] ? (before[j - 2] ?? 0) + 1 : Infinity
      next.push(Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1), swapped))
    }
    before = row
    row = next
  }
  return row[b.length] ?? a.length
}
