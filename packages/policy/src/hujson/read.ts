import { type ByteText, encodeByteText, toByteText } from './byte-text.ts'
import { type HuJsonError, type ParseResult, parseValue, positionOf } from './parse.ts'

/** Reads HuJSON into its bare tree: all that who only wants the values needs. */
export function readValue(input: string | Uint8Array): ParseResult {
  const text = toText(input)
  return typeof text === 'string' ? parseValue(text) : text
}

/** The bytes of an input as characters, or why there are none: a lone surrogate has no UTF-8. */
export function toText(input: string | Uint8Array): ByteText | { readonly error: HuJsonError } {
  if (typeof input !== 'string') return toByteText(input)
  const lone = input.search(/\p{Surrogate}/u)
  if (lone < 0) return encodeByteText(input)
  const before = encodeByteText(input.slice(0, lone))
  const { line, column } = positionOf(before, before.length)
  return {
    error: { message: `hujson: line ${line}, column ${column}: invalid Unicode: lone surrogate`, line, column, offset: before.length },
  }
}
