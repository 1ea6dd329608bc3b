import { literalKind, literalText } from './literal.ts'
import { allValues, type LiteralNode, type ObjectNode, type Value } from './tree.ts'

/** Deeper values are equal to nothing: Go's decoder gives up there. */
const MOST_DEPTH = 10_000

/**
 * Whether two values are the same JSON value in the sense of the patch operation `test`: numbers as float64, order of members without
 * meaning, the last of duplicate names counts. `null` equals nothing at the top, and neither does a value with a number that no float64 holds.
 */
export function equalValues(a: Value, b: Value): boolean {
  if (isNull(a) || isNull(b) || !isComparable(a) || !isComparable(b)) return false
  const open: { readonly a: Value; readonly b: Value; readonly depth: number }[] = [{ a, b, depth: 1 }]
  for (let pair = open.pop(); pair !== undefined; pair = open.pop()) {
    const left = pair.a.trimmed
    const right = pair.b.trimmed
    const depth = pair.depth + 1
    if (left.kind === 'literal' || right.kind === 'literal') {
      if (left.kind !== 'literal' || right.kind !== 'literal' || !equalLiterals(left, right)) return false
    } else if (pair.depth > MOST_DEPTH) return false
    else if (left.kind === 'array' && right.kind === 'array') {
      if (left.elements.length !== right.elements.length) return false
      for (const [i, element] of left.elements.entries()) {
        const other = right.elements[i]
        if (other === undefined) return false
        open.push({ a: element, b: other, depth })
      }
    } else if (left.kind === 'object' && right.kind === 'object') {
      const ours = memberMap(left)
      const theirs = memberMap(right)
      if (ours.size !== theirs.size) return false
      for (const [name, value] of ours) {
        const other = theirs.get(name)
        if (other === undefined) return false
        open.push({ a: value, b: other, depth })
      }
    } else return false
  }
  return true
}

function memberMap(object: ObjectNode): ReadonlyMap<string, Value> {
  return new Map(object.members.map(({ name, value }) => [name.trimmed.kind === 'literal' ? literalText(name.trimmed) : '', value]))
}

function equalLiterals(a: LiteralNode, b: LiteralNode): boolean {
  const kind = literalKind(a)
  if (kind !== literalKind(b)) return false
  return kind === 'number' ? Number(a.raw) === Number(b.raw) : literalText(a) === literalText(b)
}

function isNull(value: Value): boolean {
  return value.trimmed.kind === 'literal' && value.trimmed.raw === 'null'
}

function isComparable(root: Value): boolean {
  return allValues(root).every(
    ({ trimmed }) => trimmed.kind !== 'literal' || literalKind(trimmed) !== 'number' || Number.isFinite(Number(trimmed.raw)),
  )
}
