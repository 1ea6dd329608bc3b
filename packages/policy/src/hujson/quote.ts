import { type ByteText, codePointAt } from './byte-text.ts'

const PRINTABLE = /^[\p{L}\p{M}\p{N}\p{P}\p{S} ]$/u
const SHORT: ReadonlyMap<number, string> = new Map([
  [7, '\\a'],
  [8, '\\b'],
  [9, '\\t'],
  [10, '\\n'],
  [11, '\\v'],
  [12, '\\f'],
  [13, '\\r'],
  [92, '\\\\'],
])

/** A text in double quotes as Go's `%q` writes it: printable characters as they are, the others as escapes. */
export function quoteText(text: string): string {
  let quoted = '"'
  for (const character of text) {
    const code = character.codePointAt(0) ?? 0
    if (character === '"') quoted += '\\"'
    else quoted += SHORT.get(code) ?? (PRINTABLE.test(character) ? character : escapeCode(code, true))
  }
  return `${quoted}"`
}

/** The character at an offset in single quotes, as error texts of the hujson module name it; a byte that is not UTF-8 as `'\xNN'`. */
export function quoteCharacter(text: ByteText, at: number): string {
  const point = codePointAt(text, at)
  if (point === undefined) return `'\\x${hex(text.charCodeAt(at), 2)}'`
  const character = String.fromCodePoint(point.code)
  if (!PRINTABLE.test(character)) return `'${escapeCode(point.code, false)}'`
  return character === "'" || character === '\\' ? `'\\${character}'` : `'${character}'`
}

function escapeCode(code: number, short: boolean): string {
  if (short && (code < 0x20 || code === 0x7f)) return `\\x${hex(code, 2)}`
  return code <= 0xffff ? `\\u${hex(code, 4)}` : `\\U${hex(code, 8)}`
}

function hex(value: number, width: number): string {
  return value.toString(16).padStart(width, '0')
}
