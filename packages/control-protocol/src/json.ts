import { utf8DecodeStrict, utf8Encode } from '@meshwright/core'

/** Deepest nesting of arrays and objects that is read or written: no document of this protocol needs a quarter of it. */
export const MAX_JSON_DEPTH = 64

/**
 * The most arrays, objects and members in one document: a map of 100,000 peers has half as many. Three bytes (`{},`) become a hundred in memory,
 * so that a bound in bytes alone would not be one.
 */
export const MAX_JSON_ITEMS = 6_000_000

/** A number when it lies within ±(2^53 − 1), else a `bigint`. Always in that one form, so `===` and `Map` keys work. */
export type WireInteger = number | bigint

const COMMA = 0x2c
const OPEN_ARRAY = 0x5b
const OPEN_OBJECT = 0x7b

/** Longer integers come rounded, as native parsing gives them: none of 64 bits is as long, and reading a million digits exactly takes a second. */
const MAX_INTEGER_CHARACTERS = 40

// Native parsing rounds integers beyond 2^53. Such documents are rare: this finds them, and no string that looks alike is missed.
const MAY_HOLD_BIG_INTEGER = /[0-9]{16}/

/**
 * The value that JSON bytes or text stand for; `undefined` when they are not JSON, not UTF-8, or nested deeper than
 * {@link MAX_JSON_DEPTH}, or bytes of more than {@link MAX_JSON_ITEMS} items. Integers beyond 2^53 come as `bigint`, exactly (older nodes have such IDs); all else as `JSON.parse` gives it.
 */
export function parseJson(source: Uint8Array | string): unknown {
  if (typeof source !== 'string' && countJsonItems(source) > MAX_JSON_ITEMS) return undefined
  const text = typeof source === 'string' ? source : utf8DecodeStrict(source)
  if (text === undefined) return undefined
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return undefined // not JSON: a value like any other to the caller
  }
  if (!withinDepth(value, MAX_JSON_DEPTH)) return undefined
  return MAY_HOLD_BIG_INTEGER.test(text) && BIG_TOKEN.test(text) ? new ExactReader(text).value() : value
}

/** How many arrays, objects and members a document holds, at most: their signs are counted, also within strings. */
export function countJsonItems(bytes: Uint8Array): number {
  let count = 0
  for (let at = 0; at < bytes.length; at += 1) {
    const byte = bytes[at]
    if (byte === COMMA || byte === OPEN_OBJECT || byte === OPEN_ARRAY) count += 1
  }
  return count
}

/** UTF-8 JSON of a value in which integers may be `bigint`. Members that are `undefined` are left out. */
export function encodeJson(value: unknown): Uint8Array {
  return utf8Encode(formatJson(value))
}

/** JSON text of a value in which integers may be `bigint`. Members that are `undefined` are left out. */
export function formatJson(value: unknown): string {
  if (!holdsBigInt(value)) return JSON.stringify(value) ?? 'null'
  return formatExact(value) ?? 'null'
}

/** True when no more than `depth` arrays and objects lie inside each other. */
export function withinDepth(value: unknown, depth: number): boolean {
  if (typeof value !== 'object' || value === null) return true
  if (depth === 0) return false
  for (const item of Array.isArray(value) ? value : Object.values(value)) if (!withinDepth(item, depth - 1)) return false
  return true
}

/** Narrows to a JSON object. */
export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

// An integer token of 16 digits or more, between the signs that may stand around a number in JSON.
const BIG_TOKEN = /(?:^|[:,[\s])-?[1-9][0-9]{15,}(?:$|[,}\]\s])/

/** A second reading of a text that is known to be JSON of bounded depth, with exact integers. */
class ExactReader {
  readonly #text: string
  #at = 0

  constructor(text: string) {
    this.#text = text
  }

  value(): unknown {
    const c = this.#skip()
    if (c === '{') return this.#object()
    if (c === '[') return this.#array()
    if (c === '"') return JSON.parse(this.#string())
    const start = this.#at
    while (this.#at < this.#text.length && !',]} \t\n\r'.includes(this.#text.charAt(this.#at))) this.#at += 1
    const token = this.#text.slice(start, this.#at)
    if (token.length <= MAX_INTEGER_CHARACTERS && /^-?[0-9]{16,}$/.test(token) && !Number.isSafeInteger(Number(token))) return BigInt(token)
    return JSON.parse(token)
  }

  #object(): unknown {
    const entries: [string, unknown][] = []
    this.#at += 1
    while (this.#skip() !== '}') {
      const name: unknown = JSON.parse(this.#string())
      this.#skip()
      this.#at += 1 // the colon
      entries.push([String(name), this.value()])
      if (this.#skip() === ',') this.#at += 1
    }
    this.#at += 1
    return Object.fromEntries(entries)
  }

  #array(): unknown {
    const items: unknown[] = []
    this.#at += 1
    while (this.#skip() !== ']') {
      items.push(this.value())
      if (this.#skip() === ',') this.#at += 1
    }
    this.#at += 1
    return items
  }

  #string(): string {
    const start = this.#at
    for (this.#at += 1; this.#text.charAt(this.#at) !== '"'; this.#at += 1) if (this.#text.charAt(this.#at) === '\\') this.#at += 1
    this.#at += 1
    return this.#text.slice(start, this.#at)
  }

  #skip(): string {
    while (' \t\n\r'.includes(this.#text.charAt(this.#at)) && this.#at < this.#text.length) this.#at += 1
    return this.#text.charAt(this.#at)
  }
}

function holdsBigInt(value: unknown): boolean {
  if (typeof value === 'bigint') return true
  if (typeof value !== 'object' || value === null) return false
  return (Array.isArray(value) ? value : Object.values(value)).some(holdsBigInt)
}

function formatExact(value: unknown): string | undefined {
  if (typeof value === 'bigint') return value.toString()
  if (Array.isArray(value)) return `[${value.map((item) => formatExact(item) ?? 'null').join(',')}]`
  if (!isRecord(value)) return JSON.stringify(value)
  const members: string[] = []
  for (const [name, item] of Object.entries(value)) {
    const text = formatExact(item)
    if (text !== undefined) members.push(`${JSON.stringify(name)}:${text}`)
  }
  return `{${members.join(',')}}`
}
