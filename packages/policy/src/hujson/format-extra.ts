import { type ByteText, countLineFeeds, skipWhitespace, trimEnd } from './byte-text.ts'
import { commentLength } from './parse.ts'

/** What the place of white space and comments asks of their layout. */
export interface ExtraStyle {
  readonly ensureLeadingNewline?: boolean
  readonly ensureTrailingNewline?: boolean
  readonly removeLeadingEmptyLines?: boolean
  readonly removeTrailingEmptyLines?: boolean
  /** The line behind the last line feed is indented one less: a closing bracket stands there. */
  readonly unindentLastLine?: boolean
  readonly appendSpaceIfEmpty?: boolean
}

/** White space and comments laid out for a depth of indentation (tabs). */
export function formatExtra(extra: ByteText, depth: number, style: ExtraStyle): ByteText {
  const input = extra.replace(/\r\n/g, '\n').replace(/\n\r/g, '\n').replace(/\r/g, ' ')
  let out = style.ensureLeadingNewline === true && !input.includes('\n') ? '\n' : ''
  let at = 0
  while (at < input.length) {
    const next = skipWhitespace(input, at)
    if (next > at) {
      // Never more than one blank line.
      out += '\n'.repeat(Math.min(2, countLineFeeds(input.slice(at, next))))
      at = next
      continue
    }
    const length = commentLength(input, at)
    if (length <= 0) return input
    const comment = input.slice(at, at + length)
    out += out.endsWith('\n') ? '\t'.repeat(depth) : ' '
    // The line feed that ends a line comment belongs to the white space behind it.
    at += comment.startsWith('//') ? length - 1 : length
    out += comment.startsWith('//') || !comment.includes('\n') ? trimEnd(comment) : formatBlock(comment, depth)
  }
  if (style.ensureTrailingNewline === true && !out.endsWith('\n')) out += '\n'
  if (style.removeLeadingEmptyLines === true) out = out.replace(/^\n+(?=\n)/, '')
  if (style.removeTrailingEmptyLines === true) while (out.endsWith('\n\n')) out = out.slice(0, -1)
  if (out.endsWith('\n')) return out + '\t'.repeat(style.unindentLastLine === true ? Math.max(0, depth - 1) : depth)
  if (out !== '') return `${out} `
  return style.appendSpaceIfEmpty === true ? ' ' : ''
}

/** A block comment of several lines, indented; its lines keep their indentation relative to one another, a column of stars is aligned. */
function formatBlock(comment: ByteText, depth: number): ByteText {
  const lines = comment.split('\n').map(trimEnd)
  const first = lines[0] ?? ''
  const rest = lines.slice(1)
  let prefix = rest.find((line) => line !== '') ?? ''
  for (let i = 0; i < rest.length; i += 1) {
    const line = rest[i] ?? ''
    if (line === '') continue
    if (line.endsWith('*/') && skipWhitespace(line) + 2 === line.length) {
      // A closing mark on a line of its own follows the others, whatever its own indentation was.
      rest[i] = `${prefix.slice(0, skipWhitespace(prefix))}*/`
      break
    }
    prefix = sharedPrefix(prefix, line)
  }
  const indent = skipWhitespace(prefix)
  const starred = !lines.includes('') && prefix.charAt(indent) === '*'
  const lead = '\t'.repeat(depth) + (starred ? ' ' : '')
  return [first, ...rest.map((line) => (line === '' ? '' : lead + line.slice(indent)))].join('\n')
}

function sharedPrefix(prefix: string, line: string): string {
  for (let i = 0; i < line.length && i < prefix.length; i += 1) if (line.charAt(i) !== prefix.charAt(i)) return prefix.slice(0, i)
  return prefix
}
