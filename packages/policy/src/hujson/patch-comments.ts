import { type ByteText, countLineFeeds, skipWhitespace } from './byte-text.ts'
import { commentLength } from './parse.ts'
import { allValues, bareValue, cloneTrimmed, type Composite, hasComment, literal, type Trimmed, type Value } from './tree.ts'

// Comments directly above a member, without a blank line between, and comments behind it up to the next blank line belong to it. The text
// before member i therefore holds the end of member i - 1 and the beginning of member i; the text before the closing bracket counts as
// that before the member one past the last.

/** The comments that belong to member `i`, read for a copy: nothing changes. */
export function commentsAt(composite: Composite, i: number): { readonly before: ByteText; readonly after: ByteText } {
  return { before: splitLeading(beforeAt(composite, i)).leading, after: splitTrailing(beforeAt(composite, i + 1)).trailing }
}

/** A copy of member `i`'s value with the comments that belong to it. */
export function copyAt(composite: Composite, i: number): Value {
  const copy = bareValue(cloneTrimmed(trimmedAt(composite, i)))
  // The module's copies lose trailing commas with nothing before them.
  for (const value of allValues(copy)) if (value.after === '') value.after = undefined
  return { ...copy, ...commentsAt(composite, i) }
}

/** Puts a value with its comments in the place of member `i`'s value; a name stays. */
export function replaceAt(composite: Composite, i: number, value: Value): void {
  setBefore(composite, i, joinLeading(beforeAt(composite, i), value.before))
  setBefore(composite, i + 1, joinTrailing(beforeAt(composite, i + 1), value.after ?? ''))
  if (composite.kind === 'object') {
    const member = composite.members[i]
    if (member !== undefined) member.value.trimmed = value.trimmed
  } else {
    const element = composite.elements[i]
    if (element !== undefined) element.trimmed = value.trimmed
  }
}

/** Puts a value with its comments before member `i`, or behind the last; in an object under the given name. */
export function insertAt(composite: Composite, i: number, value: Value, name: Trimmed): void {
  if (composite.kind === 'object') composite.members.splice(i, 0, { name: bareValue(name), value: bareValue(value.trimmed) })
  else composite.elements.splice(i, 0, bareValue(value.trimmed))
  const { trailing, rest } = splitTrailing(beforeAt(composite, i + 1))
  setBefore(composite, i + 1, rest)
  setBefore(composite, i, joinLeading(joinTrailing(beforeAt(composite, i), trailing), value.before))
  setBefore(composite, i + 1, joinTrailing(beforeAt(composite, i + 1), value.after ?? ''))
}

/** Takes member `i` away with the comments that belong to it; all other comments stay. */
export function removeAt(composite: Composite, i: number): Value {
  const { leading, rest: above } = splitLeading(beforeAt(composite, i))
  const { trailing, rest: below } = splitTrailing(beforeAt(composite, i + 1))
  setBefore(composite, i, above)
  setBefore(composite, i + 1, hasComment(above) ? above + below.slice(skipWhitespace(below)) : below)
  const trimmed = trimmedAt(composite, i)
  if (composite.kind === 'object') composite.members.splice(i, 1)
  else composite.elements.splice(i, 1)
  return { ...bareValue(trimmed), before: leading, after: trailing }
}

function beforeAt(composite: Composite, i: number): ByteText {
  const value = composite.kind === 'object' ? composite.members[i]?.name : composite.elements[i]
  return value === undefined ? composite.after : value.before
}

function setBefore(composite: Composite, i: number, extra: ByteText): void {
  const value = composite.kind === 'object' ? composite.members[i]?.name : composite.elements[i]
  if (value === undefined) composite.after = extra
  else value.before = extra
}

function trimmedAt(composite: Composite, i: number): Trimmed {
  const value = composite.kind === 'object' ? composite.members[i]?.value : composite.elements[i]
  return value?.trimmed ?? literal('null')
}

/** Cuts off what belongs to the value behind. */
function splitLeading(extra: ByteText): { readonly leading: ByteText; readonly rest: ByteText } {
  const start = skipWhitespace(extra, ownership(extra).nextStart)
  return { leading: extra.slice(start), rest: extra.slice(0, start) }
}

/** Cuts off what belongs to the value in front. A line feed at its end is in both parts. */
function splitTrailing(extra: ByteText): { readonly trailing: ByteText; readonly rest: ByteText } {
  const { previousEnd } = ownership(extra)
  const trailing = extra.slice(0, previousEnd)
  return { trailing, rest: extra.slice(trailing.endsWith('\n') ? previousEnd - 1 : previousEnd) }
}

function joinLeading(extra: ByteText, leading: ByteText): ByteText {
  if (leading === '') return extra
  const kept = splitLeading(extra).rest
  const comments = leading.slice(skipWhitespace(leading))
  if (comments === '') return kept
  const lastLine = kept.lastIndexOf('\n')
  const ownLine = lastLine >= 0 && !hasComment(kept.slice(lastLine))
  return kept + (ownLine ? '' : '\n') + comments
}

function joinTrailing(extra: ByteText, trailing: ByteText): ByteText {
  if (trailing === '') return extra
  const { rest } = splitTrailing(extra)
  if (!hasComment(trailing)) return rest
  return (trailing.endsWith('\n') && rest.startsWith('\n') ? trailing.slice(0, -1) : trailing) + rest
}

/** Where the part of the value in front ends and the part of the value behind begins; what lies between belongs to neither. */
function ownership(extra: ByteText): { readonly previousEnd: number; readonly nextStart: number } {
  const dividers: number[] = [] // offsets of white space that holds a blank line
  let endedLine = 0
  let at = 0
  while (at < extra.length) {
    const blankEnd = skipWhitespace(extra, at)
    if (endedLine + countLineFeeds(extra.slice(at, blankEnd)) >= 2) dividers.push(at)
    const length = commentLength(extra, blankEnd)
    if (length <= 0) break
    at = blankEnd + length
    endedLine = extra.charAt(at - 1) === '\n' ? 1 : 0
  }
  const previousEnd = dividers[0]
  const nextStart = dividers.at(-1)
  if (previousEnd !== undefined && nextStart !== undefined) return { previousEnd, nextStart }
  // Without a blank line only a line comment on the first line belongs to the value in front.
  const start = skipWhitespace(extra)
  const end = start + commentLength(extra, start)
  const first = extra.slice(0, end)
  return first.endsWith('\n') && countLineFeeds(first) === 1 ? { previousEnd: end, nextStart: end } : { previousEnd: 0, nextStart: 0 }
}
