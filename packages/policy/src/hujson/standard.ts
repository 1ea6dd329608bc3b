import type { ByteText } from './byte-text.ts'
import { allValues, hasComment, hasTrailingComma, lastValue, setTrailingComma, type Value } from './tree.ts'

/** True when the tree holds no comment and no trailing comma: it is JSON as it stands. */
export function isStandard(root: Value): boolean {
  return allValues(root).every(({ before, trimmed, after }) => {
    if (hasComment(before) || hasComment(after)) return false
    return trimmed.kind === 'literal' || (!hasTrailingComma(trimmed) && !hasComment(trimmed.after))
  })
}

/** Turns every byte of a comment and every trailing comma into a space; line feeds stay, so every value keeps its offset. */
export function standardize(root: Value): void {
  for (const value of allValues(root)) {
    value.before = blank(value.before)
    if (value.after !== undefined) value.after = blank(value.after)
    if (value.trimmed.kind === 'literal') continue
    const last = lastValue(value.trimmed)
    if (last?.after !== undefined) {
      value.trimmed.after = `${last.after} ${value.trimmed.after}`
      last.after = undefined
    }
    value.trimmed.after = blank(value.trimmed.after)
  }
}

/** Removes all white space, comments and trailing commas. */
export function minimize(root: Value): void {
  for (const value of allValues(root)) {
    value.before = ''
    if (value.trimmed.kind !== 'literal') {
      setTrailingComma(value.trimmed, false)
      value.trimmed.after = ''
    }
    value.after = undefined
  }
}

function blank(extra: ByteText): ByteText {
  return extra.replace(/[^ \t\r\n]/g, ' ')
}
