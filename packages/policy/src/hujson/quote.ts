import { type ByteText, codePointAt } from './byte-text.ts'

const PRINTABLE = /^[\p{L}\p{M}\p{N}\p{P}\p{S} ]$/u
/**
 * Characters that engines may know and Go's tables of Unicode 15.0 do not (assigned in 15.1 to 17.0), which it therefore escapes: for each
 * range the distance from the end of the one before, and how many more follow, in base 36.
 */
const UNKNOWN_TO_GO =
  '1ov 8 qt 3k 2r7.e 3.b 2r.1 1c 7e.1 tz o6.2 1gt va.3 dh.1 a na4.4 3 2 6.2 l gk2.f ce.1 1j.6 1ki.1f nh.p rr.11 4.s 9.1 8j.5 9.8 ' +
  'y.2 w4.9 2 3 2.11 2.9 2 3 2.3 2.9 2.1 9.1 ku.j vx.7 2h.x f.9 c7.17 5.9 a9 45i.32y 5qe.1l 2dj.1l 87.o 3.o 7z.4 4qq.7 zk a.l 2q.36 ' +
  'c9a.70 4.c3 7.m g.g 4io.16 5 5d.u 2.l 9.1 34p 4f.3 8o.9 5.1 f.8 ak.3 1e.1 4.1 1b 8 2 5 f 3 a.1 5 64.10 b 10zk.5 4mb.b 5s3.h9 ' +
  'aj7.3bd'
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
  if (/^[ !#-[\]-~]*$/.test(text)) return `"${text}"`
  let quoted = '"'
  for (const character of text) {
    const code = character.codePointAt(0) ?? 0
    if (character === '"') quoted += '\\"'
    else quoted += SHORT.get(code) ?? (isPrintable(character, code) ? character : escapeCode(code, true))
  }
  return `${quoted}"`
}

/** The character at an offset in single quotes, as error texts of the hujson module name it; a byte that is not UTF-8 as `'\xNN'`. */
export function quoteCharacter(text: ByteText, at: number): string {
  const point = codePointAt(text, at)
  if (point === undefined) return `'\\x${hex(text.charCodeAt(at), 2)}'`
  const character = String.fromCodePoint(point.code)
  if (!isPrintable(character, point.code)) return `'${escapeCode(point.code, false)}'`
  return character === "'" || character === '\\' ? `'\\${character}'` : `'${character}'`
}

/** As Go's `strconv.IsPrint`. */
function isPrintable(character: string, code: number): boolean {
  return PRINTABLE.test(character) && (code < 0x88f || !isUnknownToGo(code))
}

function isUnknownToGo(code: number): boolean {
  let last = 0
  for (const range of UNKNOWN_TO_GO.split(' ')) {
    const [gap = '', more = '0'] = range.split('.')
    const first = last + Number.parseInt(gap, 36)
    last = first + Number.parseInt(more, 36)
    if (code <= last) return code >= first
  }
  return false
}

function escapeCode(code: number, short: boolean): string {
  if (short && (code < 0x20 || code === 0x7f)) return `\\x${hex(code, 2)}`
  return code <= 0xffff ? `\\u${hex(code, 4)}` : `\\U${hex(code, 8)}`
}

function hex(value: number, width: number): string {
  return value.toString(16).padStart(width, '0')
}
