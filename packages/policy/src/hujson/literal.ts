import { decodeByteText, encodeByteText } from './byte-text.ts'
import { type LiteralNode, literal } from './tree.ts'

/** What kind of JSON value a literal is. */
export function literalKind(node: LiteralNode): 'null' | 'boolean' | 'string' | 'number' {
  const first = node.raw.charAt(0)
  if (first === '"') return 'string'
  if (first === 'n') return 'null'
  return first === 't' || first === 'f' ? 'boolean' : 'number'
}

/** The characters of a string literal; escaped lone surrogates and bytes that are not UTF-8 become U+FFFD. Of other literals their text. */
export function literalText(node: LiteralNode): string {
  if (!node.raw.startsWith('"')) return node.raw
  const text = decodeByteText(node.raw)
  return node.raw.includes('\\') ? replaceLoneSurrogates(unescape(text)) : text.slice(1, -1)
}

/** The string literal of a text with as few escapes as JSON allows (RFC 8785 section 3.2.2.2). */
export function stringLiteral(text: string): LiteralNode {
  let escaped = ''
  for (const character of encodeByteText(text)) {
    escaped += character < ' ' || character === '"' || character === '\\' ? JSON.stringify(character).slice(1, -1) : character
  }
  return literal(`"${escaped}"`)
}

// The scanner has let through valid escapes only.
function unescape(quoted: string): string {
  return quoted.slice(1, -1).replace(/\\(?:u([0-9a-fA-F]{4})|(.))/gs, (_all, code: string | undefined, short: string | undefined) => {
    if (code !== undefined) return String.fromCharCode(Number.parseInt(code, 16))
    const at = 'bfnrt'.indexOf(short ?? '')
    return at < 0 ? short ?? '' : '\b\f\n\r\t'.charAt(at)
  })
}

function replaceLoneSurrogates(text: string): string {
  return text.replace(/\p{Surrogate}/gu, '\ufffd')
}
