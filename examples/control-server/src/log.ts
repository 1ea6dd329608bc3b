import { RateLimit } from './http/rate-limit.ts'

/** Writes what happens to standard error: one line each, text or JSON. */
export interface Log {
  debug(message: string, facts?: Readonly<Record<string, unknown>>): void
  info(message: string, facts?: Readonly<Record<string, unknown>>): void
  warn(message: string, facts?: Readonly<Record<string, unknown>>): void
  error(message: string, facts?: Readonly<Record<string, unknown>>): void
}

const LEVELS = ['trace', 'debug', 'info', 'warn', 'error']
const MAX_MESSAGE = 2_000
const MAX_FACT = 300
/** Lines of one kind: what strangers do is written down, but not as often as they please. */
const LINES_AT_ONCE = 200
const LINES_PER_SECOND = 20
const MAX_KINDS = 64

/**
 * Lines hold no control characters, whatever names and texts strangers send, and are bounded; of each kind (the fact `audit`, else the
 * message) no more are written than a disk can bear, and how many were left out is said with the next one.
 * @param level the least that is written; @param format `text` or `json`
 */
export function makeLog(level: string, format: string, write: (line: string) => void = (line) => void process.stderr.write(line)): Log {
  const least = LEVELS.indexOf(level)
  const kinds = new Map<string, { readonly limit: RateLimit; leftOut: number }>()
  const put = (kind: string, message: string, facts: Readonly<Record<string, unknown>> = {}): void => {
    if (LEVELS.indexOf(kind) < least) return
    const name = String(facts['audit'] ?? message)
    let known = kinds.get(name)
    if (known === undefined) {
      if (kinds.size >= MAX_KINDS) kinds.delete(kinds.keys().next().value ?? '')
      known = { limit: new RateLimit(LINES_AT_ONCE, LINES_PER_SECOND), leftOut: 0 }
      kinds.set(name, known)
    }
    if (!known.limit.allows(performance.now())) {
      known.leftOut += 1
      return
    }
    const all = known.leftOut === 0 ? facts : { ...facts, leftOut: known.leftOut }
    known.leftOut = 0
    write(format === 'json' ? jsonLine(kind, message, all) : textLine(kind, message, all))
  }
  return {
    debug: (message, facts) => put('debug', message, facts),
    info: (message, facts) => put('info', message, facts),
    warn: (message, facts) => put('warn', message, facts),
    error: (message, facts) => put('error', message, facts),
  }
}

function jsonLine(level: string, message: string, facts: Readonly<Record<string, unknown>>): string {
  const bounded = Object.entries(facts).map(([name, value]) => [name, typeof value === 'string' ? cut(value, MAX_FACT) : value])
  return `${JSON.stringify({ time: new Date().toISOString(), level, message: cut(message, MAX_MESSAGE), ...Object.fromEntries(bounded) })}\n`
}

function textLine(level: string, message: string, facts: Readonly<Record<string, unknown>>): string {
  const tail = Object.entries(facts).map(([name, value]) => ` ${name}=${typeof value === 'string' ? quoted(cut(value, MAX_FACT)) : String(value)}`)
  return `${new Date().toISOString()} ${level.toUpperCase().padEnd(5)} ${cut(message, MAX_MESSAGE).replace(CONTROLS, escaped)}${tail.join('')}\n`
}

// Control and format characters, line and paragraph separators, and halves of characters.
const CONTROLS = /[\p{C}\u2028\u2029]/gu

function escaped(character: string): string {
  return character === '\n' ? '\\n' : `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`
}

function quoted(text: string): string {
  return /[\s"]|^$/.test(text) || text.search(CONTROLS) >= 0 ? JSON.stringify(text).replace(CONTROLS, escaped) : text
}

function cut(text: string, most: number): string {
  return text.length <= most ? text : `${text.slice(0, most)}…`
}
