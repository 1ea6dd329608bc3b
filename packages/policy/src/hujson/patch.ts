import type { ByteText } from './byte-text.ts'
import { equalValues } from './equal.ts'
import { literalKind, literalText, stringLiteral } from './literal.ts'
import { parseValue } from './parse.ts'
import { commentsAt, copyAt, insertAt, removeAt, replaceAt } from './patch-comments.ts'
import { findPlace } from './pointer.ts'
import { quoteText } from './quote.ts'
import { bareValue, type Value } from './tree.ts'

const OPERATIONS = ['add', 'remove', 'replace', 'move', 'copy', 'test'] as const
type OperationName = (typeof OPERATIONS)[number]

interface Operation {
  readonly op: OperationName
  readonly path: string
  readonly from: string
  readonly value: Value
}

/**
 * Applies a JSON patch (RFC 6902), itself HuJSON, in place, keeping comments. Returns why it failed; earlier operations have then been
 * applied: work on a copy. Nothing is formatted.
 */
export function patch(root: Value, patchText: ByteText): string | undefined {
  const operations = readPatch(patchText)
  if (typeof operations === 'string') return operations
  for (const [i, operation] of operations.entries()) {
    const error = apply(root, operation)
    if (error !== undefined) return `hujson: patch operation ${i}: ${error}`
  }
  return undefined
}

function apply(root: Value, operation: Operation): string | undefined {
  const { op, path, from, value } = operation
  if (op === 'add') return add(root, path, value)
  if (op === 'move' || op === 'copy') {
    const inside = op === 'move' && path.startsWith(from) && (path.length === from.length || path.charAt(from.length) === '/')
    if (from === '' || inside) return `cannot ${op} ${quoteText(from)} into ${quoteText(path)}`
    const { place, error } = findPlace(root, from)
    if (place === undefined) return error
    if (place.value === undefined || place.parent === undefined) return 'value not found'
    return add(root, path, op === 'move' ? removeAt(place.parent, place.index) : copyAt(place.parent, place.index))
  }
  const { place, error } = findPlace(root, path)
  if (place === undefined) return error
  if (place.value === undefined) return 'value not found'
  if (op === 'test') return equalValues(place.value, value) ? undefined : `values differ at ${quoteText(path)}`
  if (place.parent === undefined) return `cannot ${op} root value`
  if (op === 'remove') removeAt(place.parent, place.index)
  else replaceAt(place.parent, place.index, value)
  return undefined
}

function add(root: Value, path: string, value: Value): string | undefined {
  const { place, error } = findPlace(root, path)
  if (place === undefined) return error
  if (place.parent === undefined) Object.assign(root, value)
  else if (place.parent.kind === 'object' && place.value !== undefined) replaceAt(place.parent, place.index, value)
  else insertAt(place.parent, place.index, value, stringLiteral(place.name))
  return undefined
}

/** The operations of a patch, or why it is none. */
function readPatch(text: ByteText): readonly Operation[] | string {
  const { value, error } = parseValue(text)
  if (error !== undefined) return error.message
  if (value.trimmed.kind !== 'array') return 'hujson: patch must be a JSON array'
  const operations: Operation[] = []
  for (const [i, element] of value.trimmed.elements.entries()) {
    const operation = readOperation(element)
    if (typeof operation === 'string') return `hujson: patch operation ${i}: ${operation}`
    operations.push(operation)
  }
  return operations
}

function readOperation(element: Value): Operation | string {
  const object = element.trimmed
  if (object.kind !== 'object') return 'must be a JSON object'
  const texts = new Map<string, string>()
  let value: Value | undefined
  const seen = new Set<string>()
  for (const [i, member] of object.members.entries()) {
    const name = member.name.trimmed.kind === 'literal' ? literalText(member.name.trimmed) : ''
    if (seen.has(name)) return `duplicate name ${quoteText(name)}`
    seen.add(name)
    if (name === 'value') value = { ...bareValue(member.value.trimmed), ...commentsAt(object, i) }
    if (name !== 'op' && name !== 'path' && name !== 'from') continue
    const { trimmed } = member.value
    if (trimmed.kind !== 'literal' || literalKind(trimmed) !== 'string') return `member ${quoteText(name)} must be a JSON string`
    const text = literalText(trimmed)
    if (name === 'op' && !isOperation(text)) return `unknown operation ${quoteText(text)}`
    texts.set(name, text)
  }
  const op = texts.get('op')
  const path = texts.get('path')
  const from = texts.get('from')
  if (op === undefined || !isOperation(op)) return 'missing required member "op"'
  if (path === undefined) return 'missing required member "path"'
  if (from === undefined && (op === 'move' || op === 'copy')) return 'missing required member "from"'
  if (value === undefined && (op === 'add' || op === 'replace' || op === 'test')) return 'missing required member "value"'
  return { op, path, from: from ?? '', value: value ?? bareValue({ kind: 'literal', raw: 'null' }) }
}

function isOperation(text: string): text is OperationName {
  return OPERATIONS.some((name) => name === text)
}
