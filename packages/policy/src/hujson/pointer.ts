import { literalText } from './literal.ts'
import { type Composite, lengthOf, type Value } from './tree.ts'

const MOST_INDEX = 18_446_744_073_709_551_615n

/** Where a JSON pointer (RFC 6901) leads. */
export interface Place {
  /** `undefined` for the root. */
  readonly parent: Composite | undefined
  /** Last part of the pointer, unescaped. */
  readonly name: string
  /** Position in the parent; one past the last when nothing is there yet. */
  readonly index: number
  /** `undefined` when the last part names nothing. */
  readonly value: Value | undefined
}

/** The place, or why there is none in the words of the hujson module. */
export type Found = { readonly place: Place; readonly error?: undefined } | { readonly place?: undefined; readonly error: string }

/** Follows a pointer. The last part may name a place that does not exist yet; all before must exist. Of duplicate names the first is meant. */
export function findPlace(root: Value, pointer: string): Found {
  let place: Place = { parent: undefined, name: '', index: 0, value: root }
  let at = 0
  while (at < pointer.length) {
    const { value } = place
    if (value === undefined) return { error: 'value not found' }
    if (value.trimmed.kind === 'literal') return { error: `invalid pointer: cannot index into literal at ${pointer.slice(0, at)}` }
    if (pointer.charAt(at) !== '/') return { error: 'invalid pointer: lacks a forward slash prefix' }
    const slash = pointer.indexOf('/', at + 1)
    const end = slash < 0 ? pointer.length : slash
    const name = pointer
      .slice(at + 1, end)
      .replaceAll('~1', '/')
      .replaceAll('~0', '~')
    at = end
    const index = indexOf(value.trimmed, name)
    if (index === undefined) return { error: `invalid array index: ${name}` }
    const child = value.trimmed.kind === 'object' ? value.trimmed.members[index]?.value : value.trimmed.elements[index]
    place = { parent: value.trimmed, name, index, value: child }
  }
  return { place }
}

function indexOf(composite: Composite, name: string): number | undefined {
  const length = lengthOf(composite)
  if (composite.kind === 'object') {
    const found = composite.members.findIndex(
      (member) => member.name.trimmed.kind === 'literal' && literalText(member.name.trimmed) === name,
    )
    return found < 0 ? length : found
  }
  if (name === '-') return length
  // Leading zeros are let through unless all is zeros, as the module does.
  if (!/^[0-9]+$/.test(name) || (/^0+$/.test(name) && name !== '0') || BigInt(name.replace(/^0+(?=.)/, '').slice(0, 30)) > MOST_INDEX)
    return undefined
  return Math.min(length, Number(name))
}
