/**
 * Bytes as a string of one character (U+0000 to U+00FF) each. HuJSON counts columns, widths and offsets in bytes and allows strings that
 * are not UTF-8; in this form all of that is plain string work, and offsets are byte offsets.
 */
export type ByteText = string

const CHUNK = 8192

/** The byte text of bytes. */
export function toByteText(bytes: Uint8Array): ByteText {
  const parts: string[] = []
  for (let at = 0; at < bytes.length; at += CHUNK) parts.push(String.fromCharCode(...bytes.subarray(at, at + CHUNK)))
  return parts.join('')
}

/** The bytes of a byte text: a new array. */
export function fromByteText(text: ByteText): Uint8Array {
  const bytes = new Uint8Array(text.length)
  for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i)
  return bytes
}

/** One code point of UTF-8 at an offset: its number and its length, or `undefined` where the bytes are malformed (RFC 3629). */
export function codePointAt(text: ByteText, at: number): { readonly code: number; readonly length: number } | undefined {
  const first = text.charCodeAt(at)
  if (first < 0x80) return { code: first, length: 1 }
  const length = first >= 0xc2 && first <= 0xdf ? 2 : first >= 0xe0 && first <= 0xef ? 3 : first >= 0xf0 && first <= 0xf4 ? 4 : 0
  if (length === 0 || at + length > text.length) return undefined
  // The first continuation byte's bounds exclude overlong forms, surrogates and numbers above U+10FFFF (Unicode table 3-7).
  let least = first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80
  let most = first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf
  let code = first & (0x7f >> length)
  for (let i = 1; i < length; i += 1) {
    const next = text.charCodeAt(at + i)
    if (next < least || next > most) return undefined
    code = (code << 6) | (next & 0x3f)
    least = 0x80
    most = 0xbf
  }
  return { code, length }
}

/** The characters of a byte text; every byte that is not part of well-formed UTF-8 becomes one U+FFFD, as Go does it. */
export function decodeByteText(text: ByteText): string {
  if (isAscii(text)) return text
  const parts: string[] = []
  let plain = 0
  let at = 0
  while (at < text.length) {
    if (text.charCodeAt(at) < 0x80) {
      at += 1
      continue
    }
    if (plain < at) parts.push(text.slice(plain, at))
    const point = codePointAt(text, at)
    parts.push(point === undefined ? '\ufffd' : String.fromCodePoint(point.code))
    at += point?.length ?? 1
    plain = at
  }
  parts.push(text.slice(plain))
  return parts.join('')
}

/** True when all bytes are well-formed UTF-8. */
export function isUtf8(text: ByteText): boolean {
  if (isAscii(text)) return true
  let at = 0
  while (at < text.length) {
    const point = codePointAt(text, at)
    if (point === undefined) return false
    at += point.length
  }
  return true
}

/** The UTF-8 byte text of characters; lone surrogates become U+FFFD. */
export function encodeByteText(text: string): ByteText {
  if (isAscii(text)) return text
  const parts: string[] = []
  for (const character of text) {
    const code = character.codePointAt(0) ?? 0
    if (code < 0x80) parts.push(character)
    else if (code < 0x800) parts.push(String.fromCharCode(0xc0 | (code >> 6), 0x80 | (code & 0x3f)))
    else if (code >= 0xd800 && code <= 0xdfff) parts.push('\xef\xbf\xbd')
    else if (code < 0x10000) parts.push(String.fromCharCode(0xe0 | (code >> 12), 0x80 | ((code >> 6) & 0x3f), 0x80 | (code & 0x3f)))
    else
      parts.push(String.fromCharCode(0xf0 | (code >> 18), 0x80 | ((code >> 12) & 0x3f), 0x80 | ((code >> 6) & 0x3f), 0x80 | (code & 0x3f)))
  }
  return parts.join('')
}

/** The offset behind the last character that is not white space in Unicode's sense. */
export function trimmedLength(text: ByteText): number {
  let end = text.length
  for (;;) {
    const width = trailingSpaceWidth(text, end)
    if (width === 0) return end
    end -= width
  }
}

/** The text without white space (in Unicode's sense) at its end. */
export function trimEnd(text: ByteText): ByteText {
  return text.slice(0, trimmedLength(text))
}

/** The offset of the first byte at or behind `at` that is not JSON white space. */
export function skipWhitespace(text: ByteText, at: number = 0): number {
  while (at < text.length) {
    const code = text.charCodeAt(at)
    if (code !== 0x20 && code !== 0x09 && code !== 0x0a && code !== 0x0d) break
    at += 1
  }
  return at
}

/** How many line feeds the text holds. */
export function countLineFeeds(text: ByteText): number {
  let count = 0
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) count += 1
  return count
}

function isAscii(text: string): boolean {
  for (let i = 0; i < text.length; i += 1) if (text.charCodeAt(i) >= 0x80) return false
  return true
}

// White space of Unicode: U+0009-000D, U+0020, U+0085, U+00A0, U+1680, U+2000-200A, U+2028, U+2029, U+202F, U+205F, U+3000.
function trailingSpaceWidth(text: ByteText, end: number): number {
  const last = text.charCodeAt(end - 1)
  if (end < 1) return 0
  if (last < 0x80) return last === 0x20 || (last >= 0x09 && last <= 0x0d) ? 1 : 0
  const second = end < 2 ? 0 : text.charCodeAt(end - 2)
  if (second === 0xc2 && (last === 0x85 || last === 0xa0)) return 2
  const third = end < 3 ? 0 : text.charCodeAt(end - 3)
  if (third === 0xe1 && second === 0x9a && last === 0x80) return 3
  if (third === 0xe2 && second === 0x80 && (last <= 0x8a || last === 0xa8 || last === 0xa9 || last === 0xaf)) return 3
  if (third === 0xe2 && second === 0x81 && last === 0x9f) return 3
  return third === 0xe3 && second === 0x80 && last === 0x80 ? 3 : 0
}
