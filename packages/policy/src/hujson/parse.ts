import { createScanner, type JSONScanner } from 'jsonc-parser'
import { type ByteText, decodeByteText, isUtf8, skipWhitespace } from './byte-text.ts'
import { quoteCharacter } from './quote.ts'
import { type ArrayNode, literal, type ObjectNode, setTrailingComma, type Trimmed, type Value } from './tree.ts'

/** Why and where a text is not HuJSON. */
export interface HuJsonError {
  /** `hujson: line L, column C: ...`, or `hujson: patch ...` for a patch: the text that the Go module gives. */
  readonly message: string
  /** From 1. Lines end with LF only. */
  readonly line: number
  /** From 1, in bytes since the last LF. */
  readonly column: number
  /** Byte offset. */
  readonly offset: number
}

/** Line and column (both from 1; columns in bytes) of a byte offset. */
export function positionOf(text: ByteText, offset: number): { readonly line: number; readonly column: number } {
  let line = 1
  let start = 0
  for (let at = text.indexOf('\n'); at >= 0 && at < offset; at = text.indexOf('\n', at + 1)) {
    line += 1
    start = at + 1
  }
  return { line, column: offset - start + 1 }
}

/** The length of the comment that starts at an offset: 0 when there is none, -1 when it does not end. */
export function commentLength(text: ByteText, at: number): number {
  if (text.charCodeAt(at) !== 0x2f) return 0
  const second = text.charCodeAt(at + 1)
  if (second !== 0x2f && second !== 0x2a) return 0
  const closing = second === 0x2f ? '\n' : '*/'
  const end = text.indexOf(closing, at + 2)
  return end < 0 ? -1 : end + closing.length - at
}

/** A tree, or why there is none. */
export type ParseResult =
  | { readonly value: Value; readonly error?: undefined }
  | { readonly value?: undefined; readonly error: HuJsonError }

/** Reads one HuJSON value with all that stands around it. Strict, without recursion: any depth is read. */
export function parseValue(text: ByteText): ParseResult {
  return new Parser(text).run()
}

// SyntaxKind of jsonc-parser is a `const enum`, which an isolated module cannot read.
const NULL_TOKEN = 7
const TRUE_TOKEN = 8
const FALSE_TOKEN = 9
const STRING_TOKEN = 10
const NUMBER_TOKEN = 11

/** An object or array that is being read, and the value that it will be. */
interface Frame {
  readonly composite: ObjectNode | ArrayNode
  readonly owner: Value
  /** The name whose value comes next. */
  name: Value | undefined
}

interface Failure {
  readonly at: number
  readonly what: string
}

class Parser {
  readonly #text: ByteText
  readonly #scanner: JSONScanner
  readonly #frames: Frame[] = []
  #at = 0
  #failure: Failure | undefined

  constructor(text: ByteText) {
    this.#text = text
    this.#scanner = createScanner(text)
  }

  run(): ParseResult {
    const root = this.#document()
    if (root !== undefined && this.#failure === undefined) return { value: root }
    const { at, what } = this.#failure ?? { at: this.#at, what: 'parsing value: unexpected EOF' }
    const { line, column } = positionOf(this.#text, at)
    return { error: { message: `hujson: line ${line}, column ${column}: ${what}`, line, column, offset: at } }
  }

  #document(): Value | undefined {
    for (;;) {
      const before = this.#extra()
      if (before === undefined) return undefined
      const start = this.#at
      const frame = this.#frames.at(-1)
      let done: Value
      if (frame !== undefined && this.#closes(frame)) {
        setTrailingComma(frame.composite, true)
        frame.composite.after = before
        done = this.#close(frame)
      } else {
        const opened = this.#open()
        if (opened !== undefined) {
          const owner: Value = { before, trimmed: opened, after: undefined, start, end: start }
          this.#frames.push({ composite: opened, owner, name: undefined })
          continue
        }
        const trimmed = this.#literal()
        if (trimmed === undefined) return undefined
        done = { before, trimmed, after: undefined, start, end: this.#at }
      }
      const settled = this.#settle(done)
      if (settled !== 'more') return settled
    }
  }

  /** Hands a whole value to what contains it, and closes as many composites as end here. */
  #settle(value: Value): Value | undefined | 'more' {
    let done = value
    for (;;) {
      const after = this.#extra()
      if (after === undefined) return undefined
      if (after !== '') done.after = after
      const frame = this.#frames.at(-1)
      const next = this.#text.charAt(this.#at)
      if (frame === undefined) {
        if (next !== '') return this.#unexpected(this.#at, 'after top-level value')
        return done
      }
      const { composite } = frame
      if (composite.kind === 'object' && frame.name === undefined) {
        if (done.trimmed.kind !== 'literal' || !done.trimmed.raw.startsWith('"'))
          return this.#unexpected(done.start, 'at start of object name')
        if (next === '') return this.#fail(this.#at, 'parsing object after name: unexpected EOF')
        if (next !== ':') return this.#unexpected(this.#at, 'after object name')
        frame.name = done
        this.#at += 1
        return 'more'
      }
      if (composite.kind === 'array') composite.elements.push(done)
      else if (frame.name !== undefined) composite.members.push({ name: frame.name, value: done })
      frame.name = undefined
      const closing = composite.kind === 'object' ? '}' : ']'
      if (next === ',') {
        this.#at += 1
        return 'more'
      }
      if (next === '') return this.#fail(this.#at, `parsing ${composite.kind} after value: unexpected EOF`)
      if (next !== closing) return this.#unexpected(this.#at, `after ${composite.kind} value (expecting ',' or '${closing}')`)
      composite.after = done.after ?? ''
      done.after = undefined
      done = this.#close(frame)
    }
  }

  #closes(frame: Frame): boolean {
    return frame.name === undefined && this.#text.charAt(this.#at) === (frame.composite.kind === 'object' ? '}' : ']')
  }

  #close(frame: Frame): Value {
    this.#frames.pop()
    this.#at += 1
    frame.owner.end = this.#at
    return frame.owner
  }

  #open(): ObjectNode | ArrayNode | undefined {
    const next = this.#text.charAt(this.#at)
    if (next !== '{' && next !== '[') return undefined
    this.#at += 1
    return next === '{' ? { kind: 'object', members: [], after: '' } : { kind: 'array', elements: [], after: '' }
  }

  #literal(): Trimmed | undefined {
    const start = this.#at
    if (start >= this.#text.length) return this.#fail(start, 'parsing value: unexpected EOF')
    this.#scanner.setPosition(start)
    const token: number = this.#scanner.scan()
    const end = this.#scanner.getPosition()
    const known =
      token === STRING_TOKEN ||
      ((token === NUMBER_TOKEN || token === NULL_TOKEN || token === TRUE_TOKEN || token === FALSE_TOKEN) &&
        !isWordByte(this.#text.charCodeAt(end)))
    const error: number = this.#scanner.getTokenError()
    if (known && error === 0) {
      this.#at = end
      return literal(this.#text.slice(start, end))
    }
    return this.#text.charAt(start) === '"' ? this.#badString(start) : this.#word(start)
  }

  #badString(start: number): undefined {
    let at = start + 1
    for (; at < this.#text.length; at += 1) {
      const character = this.#text.charAt(at)
      if (character === '"') return this.#fail(start, `invalid literal: ${decodeByteText(this.#text.slice(start, at + 1))}`)
      if (character === '\\') at += 1
    }
    return this.#fail(this.#text.length, 'parsing string: unexpected EOF')
  }

  // The scanner takes whatever is not a bracket, comma, colon, quote or slash into a word; words of HuJSON end earlier.
  #word(start: number): Trimmed | undefined {
    let end = start
    while (isWordByte(this.#text.charCodeAt(end))) end += 1
    if (end === start) return this.#unexpected(start, 'at start of value')
    const word = this.#text.slice(start, end)
    if (word === 'true' || word === 'false' || word === 'null') {
      this.#at = end
      return literal(word)
    }
    return this.#fail(start, `invalid literal: ${word}`)
  }

  /** White space and comments from here on, or `undefined` after a failure. */
  #extra(): ByteText | undefined {
    const start = this.#at
    for (;;) {
      this.#at = skipWhitespace(this.#text, this.#at)
      const length = commentLength(this.#text, this.#at)
      if (length === 0) return this.#text.slice(start, this.#at)
      if (length < 0) return this.#fail(this.#at, 'parsing comment: unexpected EOF')
      if (!isUtf8(this.#text.slice(this.#at, this.#at + length))) return this.#fail(this.#at, 'invalid UTF-8 in comment')
      this.#at += length
    }
  }

  #unexpected(at: number, where: string): undefined {
    return this.#fail(at, `invalid character ${quoteCharacter(this.#text, at)} ${where}`)
  }

  #fail(at: number, what: string): undefined {
    this.#failure = { at, what }
    return undefined
  }
}

function isWordByte(code: number): boolean {
  return (
    (code >= 0x30 && code <= 0x39) ||
    (code >= 0x41 && code <= 0x5a) ||
    (code >= 0x61 && code <= 0x7a) ||
    code === 0x2b ||
    code === 0x2d ||
    code === 0x2e
  )
}
