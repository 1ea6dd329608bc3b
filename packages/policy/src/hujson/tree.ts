import type { ByteText } from './byte-text.ts'
import { skipWhitespace } from './byte-text.ts'

/** A value with everything that stands around it. Mutable: format, standardize, minimize and patch work in place. */
export interface Value {
  /** White space and comments before it: after the opening bracket, colon, comma, or start of input. */
  before: ByteText
  trimmed: Trimmed
  /**
   * White space and comments after it, up to the colon, comma or end of input. `undefined` when there is nothing. On the last value of an
   * object or array, `undefined` means that no comma follows, and `''` that one follows directly.
   */
  after: ByteText | undefined
  /** Byte offset of its first byte when it was read; packed trees that were changed have other offsets. */
  start: number
  /** Byte offset behind its last byte when it was read. */
  end: number
}

/** A value without what stands around it. */
export type Trimmed = LiteralNode | ObjectNode | ArrayNode

/** The raw bytes of null, a boolean, a number or a string with its quotes. */
export interface LiteralNode {
  readonly kind: 'literal'
  readonly raw: ByteText
}

/** One member of an object; the name is always a string literal. */
export interface Member {
  readonly name: Value
  readonly value: Value
}

export interface ObjectNode {
  readonly kind: 'object'
  readonly members: Member[]
  /** White space and comments before the closing brace, after the last comma. */
  after: ByteText
}

export interface ArrayNode {
  readonly kind: 'array'
  readonly elements: Value[]
  /** White space and comments before the closing bracket, after the last comma. */
  after: ByteText
}

export type Composite = ObjectNode | ArrayNode

/** A literal that stands nowhere yet. */
export function literal(raw: ByteText): LiteralNode {
  return { kind: 'literal', raw }
}

/** A value with nothing around it. */
export function bareValue(trimmed: Trimmed): Value {
  return { before: '', trimmed, after: undefined, start: 0, end: 0 }
}

/** Number of members or elements. */
export function lengthOf(composite: Composite): number {
  return composite.kind === 'object' ? composite.members.length : composite.elements.length
}

/** The value of the last member, or the last element. */
export function lastValue(composite: Composite): Value | undefined {
  return composite.kind === 'object' ? composite.members.at(-1)?.value : composite.elements.at(-1)
}

/** True when a comma stands before the closing bracket. */
export function hasTrailingComma(composite: Composite): boolean {
  return lastValue(composite)?.after !== undefined
}

/** Sets or removes the comma before the closing bracket; what stood before a removed comma is kept. */
export function setTrailingComma(composite: Composite, present: boolean): void {
  const last = lastValue(composite)
  if (last === undefined) return
  if (present) last.after ??= ''
  else if (last.after !== undefined) {
    composite.after = last.after + composite.after
    last.after = undefined
  }
}

/** True when the text between values holds more than white space. */
export function hasComment(extra: ByteText | undefined): boolean {
  return extra !== undefined && skipWhitespace(extra) < extra.length
}

/** Directly contained values in order: names and values of members, or elements. */
export function childrenOf(composite: Composite): readonly Value[] {
  return composite.kind === 'array' ? composite.elements : composite.members.flatMap((member) => [member.name, member.value])
}

/** The value and all values in it, parents before children. No recursion: depth is bounded by memory alone. */
export function allValues(root: Value): Value[] {
  const found: Value[] = []
  const open = [root]
  for (let value = open.pop(); value !== undefined; value = open.pop()) {
    found.push(value)
    if (value.trimmed.kind === 'literal') continue
    const children = childrenOf(value.trimmed)
    for (let i = children.length - 1; i >= 0; i -= 1) {
      const child = children[i]
      if (child !== undefined) open.push(child)
    }
  }
  return found
}

/** The tree as text: byte for byte what was read, as long as nothing was changed. */
export function packValue(root: Value): ByteText {
  const parts: string[] = []
  const open: (Value | string)[] = [root]
  for (let item = open.pop(); item !== undefined; item = open.pop()) {
    if (typeof item === 'string') {
      parts.push(item)
      continue
    }
    parts.push(item.before)
    if (item.trimmed.kind === 'literal') {
      parts.push(item.trimmed.raw, item.after ?? '')
      continue
    }
    const composite = item.trimmed
    const isObject = composite.kind === 'object'
    parts.push(isObject ? '{' : '[')
    open.push(item.after ?? '', isObject ? '}' : ']', composite.after)
    if (hasTrailingComma(composite)) open.push(',')
    const count = lengthOf(composite)
    for (let i = count - 1; i >= 0; i -= 1) {
      if (i < count - 1) open.push(',')
      const member = composite.kind === 'object' ? composite.members[i] : undefined
      const element = composite.kind === 'array' ? composite.elements[i] : undefined
      if (member !== undefined) open.push(member.value, ':', member.name)
      if (element !== undefined) open.push(element)
    }
  }
  return parts.join('')
}

/** A copy that shares nothing that can change. */
export function cloneTrimmed(source: Trimmed): Trimmed {
  const target = bareValue(shell(source))
  const open: { from: Trimmed; to: Trimmed }[] = [{ from: source, to: target.trimmed }]
  for (let pair = open.pop(); pair !== undefined; pair = open.pop()) {
    const { from, to } = pair
    const copy = (value: Value): Value => {
      const copied = { ...value, trimmed: shell(value.trimmed) }
      open.push({ from: value.trimmed, to: copied.trimmed })
      return copied
    }
    if (from.kind === 'object' && to.kind === 'object') {
      for (const member of from.members) to.members.push({ name: copy(member.name), value: copy(member.value) })
    } else if (from.kind === 'array' && to.kind === 'array') {
      for (const element of from.elements) to.elements.push(copy(element))
    }
  }
  return target.trimmed
}

/** A copy of a value that shares nothing that can change. */
export function cloneValue(source: Value): Value {
  return { ...source, trimmed: cloneTrimmed(source.trimmed) }
}

function shell(source: Trimmed): Trimmed {
  if (source.kind === 'object') return { kind: 'object', members: [], after: source.after }
  return source.kind === 'array' ? { kind: 'array', elements: [], after: source.after } : source
}
