import { type ByteText, countLineFeeds, skipWhitespace, trimEnd } from './byte-text.ts'
import { formatExtra } from './format-extra.ts'
import { literalText, stringLiteral } from './literal.ts'
import { commentLength } from './parse.ts'
import { isStandard } from './standard.ts'
import {
  allValues,
  childrenOf,
  type Composite,
  hasComment,
  lastValue,
  lengthOf,
  type ObjectNode,
  setTrailingComma,
  type Value,
} from './tree.ts'

/** Lines longer than this many bytes are expanded. */
const LINE_WIDTH = 80

const INNER = { removeLeadingEmptyLines: true, removeTrailingEmptyLines: true }

/** Lays a tree out afresh, in place. Standard JSON stays standard; a formatted tree does not change again. */
export function format(root: Value): void {
  root.before = formatExtra(root.before, 0, {})
  root.before = root.before.slice(skipWhitespace(root.before))
  const standard = isStandard(root)
  const values = allValues(root)
  for (const value of values) normalize(value)
  const expanded = chooseExpanded(values)
  layOut(root, expanded, standard)
  for (const value of alignable(values)) align(value.object, value.multiline)
  root.after = `${trimEnd(formatExtra(root.after ?? '', 0, {}))}\n`
}

/** Least escapes in strings; nothing but comments inside empty composites, before colons and before commas. */
function normalize(value: Value): void {
  const { trimmed } = value
  if (trimmed.kind === 'literal') {
    if (trimmed.raw.startsWith('"') && trimmed.raw.includes('\\')) value.trimmed = stringLiteral(literalText(trimmed))
    return
  }
  if (lengthOf(trimmed) === 0 && !hasComment(trimmed.after)) trimmed.after = ''
  for (const child of childrenOf(trimmed)) if (!hasComment(child.after)) child.after = undefined
}

/** Widths of the first and last line of a stretch of text in bytes; both the same when it is one line. */
interface LineStats {
  readonly first: number
  readonly last: number
  readonly multiline: boolean
}

/** Which objects and arrays get one line for each member: those that hold line feeds of their own, or would have too long a line. */
function chooseExpanded(values: readonly Value[]): ReadonlySet<Composite> {
  const expanded = new Set<Composite>()
  const stats = new Map<Value, LineStats>()
  for (let i = values.length - 1; i >= 0; i -= 1) {
    const value = values[i]
    if (value === undefined) continue
    const { trimmed } = value
    if (trimmed.kind === 'literal') stats.set(value, { first: trimmed.raw.length, last: trimmed.raw.length, multiline: false })
    else stats.set(value, measure(trimmed, stats, expanded))
  }
  return expanded
}

function measure(composite: Composite, known: ReadonlyMap<Value, LineStats>, expanded: Set<Composite>): LineStats {
  const lines: number[] = []
  let width = 1
  const add = (part: LineStats | undefined): void => {
    if (part === undefined) return
    width += part.first
    if (!part.multiline) return
    lines.push(width)
    width = part.last
  }
  const addValue = (value: Value): void => {
    add(extraStats(value.before))
    add(known.get(value))
    add(extraStats(value.after ?? ''))
    width += 2 // ": " or ", "
  }
  let expand = false
  if (composite.kind === 'object') {
    for (const { name, value } of composite.members) {
      expand ||= name.before.includes('\n')
      addValue(name)
      addValue(value)
    }
  } else {
    for (const element of composite.elements) {
      expand ||= element.before.includes('\n')
      addValue(element)
    }
  }
  width += 1
  lines.push(width)
  expand ||= (lastValue(composite)?.after ?? '').includes('\n') || composite.after.includes('\n') || lines.some((line) => line > LINE_WIDTH)
  if (!expand) return { first: lines[0] ?? width, last: width, multiline: lines.length > 1 }
  expanded.add(composite)
  const lead = (composite.kind === 'object' ? composite.members[0]?.name : composite.elements[0])?.before ?? composite.after
  return { first: 1 + extraStats(lead).first, last: 1, multiline: true }
}

function extraStats(extra: ByteText): LineStats {
  const first = extra.indexOf('\n')
  if (first < 0) {
    const width = commentWidth(extra)
    return { first: width, last: width, multiline: false }
  }
  return { first: commentWidth(extra.slice(0, first)), last: commentWidth(extra.slice(extra.lastIndexOf('\n') + 1)), multiline: true }
}

/** About how wide the comments of one line are. A comment that is cut off by the end of the line reaches to its end. */
function commentWidth(line: ByteText): number {
  let width = 0
  let at = skipWhitespace(line)
  for (;;) {
    const rest = line.length - at
    if (line.startsWith('//', at)) return width + 1 + rest
    if (!line.startsWith('/*', at)) return width > 0 ? width + 1 : 0
    const length = commentLength(line, at)
    if (length <= 0) return width + 1 + rest
    width += 1 + length
    at = skipWhitespace(line, at + length)
  }
}

/** Writes all white space between values, and the trailing commas. */
function layOut(root: Value, expanded: ReadonlySet<Composite>, standard: boolean): void {
  const open: { readonly value: Value; readonly depth: number }[] = [{ value: root, depth: 0 }]
  for (let item = open.pop(); item !== undefined; item = open.pop()) {
    const { value, depth } = item
    const composite = value.trimmed
    if (composite.kind === 'literal') continue
    const expand = expanded.has(composite)
    const inner = depth + (expand ? 1 : 0)
    const lead = (i: number) => ({ ensureLeadingNewline: expand, removeLeadingEmptyLines: i === 0, appendSpaceIfEmpty: i !== 0 })
    const finish = (child: Value): void => {
      if (child.after !== undefined) child.after = formatExtra(child.after, depth + 2, INNER)
    }
    if (composite.kind === 'object') {
      for (const [i, { name, value: child }] of composite.members.entries()) {
        name.before = formatExtra(name.before, depth + 1, lead(i))
        finish(name)
        child.before = formatExtra(child.before, depth + 2, { ...INNER, appendSpaceIfEmpty: true })
        const broken = (name.after ?? '').includes('\n') || child.before.includes('\n')
        open.push({ value: child, depth: inner + (broken ? 1 : 0) })
        finish(child)
      }
    } else {
      for (const [i, element] of composite.elements.entries()) {
        element.before = formatExtra(element.before, depth + 1, lead(i))
        open.push({ value: element, depth: inner })
        finish(element)
      }
    }
    composite.after = formatExtra(composite.after, depth + 1, {
      ensureTrailingNewline: expand,
      removeLeadingEmptyLines: lengthOf(composite) === 0,
      removeTrailingEmptyLines: true,
      unindentLastLine: true,
    })
    const commaBetweenComments = (lastValue(composite)?.after ?? '') !== '' && composite.after !== ''
    if (!expand && !commaBetweenComments) setTrailingComma(composite, false)
    else if (expand && !standard) setTrailingComma(composite, true)
  }
}

/** Every object, and which of the values in it span lines. Children come after parents in `values`, so one pass backwards suffices. */
function alignable(values: readonly Value[]): { readonly object: ObjectNode; readonly multiline: ReadonlySet<Value> }[] {
  const multiline = new Set<Value>()
  const objects: { object: ObjectNode; multiline: ReadonlySet<Value> }[] = []
  for (let i = values.length - 1; i >= 0; i -= 1) {
    const value = values[i]
    if (value === undefined || value.trimmed.kind === 'literal') continue
    const spans = (child: Value): boolean => multiline.has(child) || child.before.includes('\n') || (child.after ?? '').includes('\n')
    if (childrenOf(value.trimmed).some(spans)) multiline.add(value)
    if (value.trimmed.kind === 'object') objects.push({ object: value.trimmed, multiline })
  }
  return objects
}

/** Pads after the colons of neighbouring one-line members, so that their values stand in one column. */
function align(object: ObjectNode, multiline: ReadonlySet<Value>): void {
  let rows: { readonly value: Value; readonly width: number }[] = []
  const flush = (): void => {
    const widest = rows.reduce((most, row) => Math.max(most, row.width), 0)
    for (const { value, width } of rows) value.before += ' '.repeat(widest - width)
    rows = []
  }
  for (const { name, value } of object.members) {
    const own = `${name.after ?? ''}${value.before}${value.after ?? ''}`
    if (!name.before.includes('\n') || own.includes('\n') || multiline.has(value)) {
      flush()
      continue
    }
    if (countLineFeeds(name.before) > 1) flush()
    const raw = name.trimmed.kind === 'literal' ? name.trimmed.raw.length : 0
    rows.push({ value, width: raw + (name.after ?? '').length + 1 + value.before.length })
  }
  flush()
}
