import { literalKind, literalText, parseHuJson, type Value } from '@meshwright/policy/hujson'

/** A value of a HuJSON text and where it begins; exactly one of `value`, `items` and `members` is there. */
export interface Located {
  /** From 1. */
  readonly line: number
  /** From 1, in bytes. */
  readonly column: number
  /** A text, a number, a boolean or null. */
  readonly value?: unknown
  readonly items?: readonly Located[]
  /** Without a prototype. */
  readonly members?: Readonly<Record<string, Located>>
  /** Of a member: where its name stands. */
  readonly name?: { readonly line: number; readonly column: number }
}

type Place = { readonly line: number; readonly column: number }

/** Reads HuJSON with the place of everything in it. @param fail throws; called for what is not HuJSON and for a name that stands twice */
export function locate(text: string, fail: (at: Place, what: string) => never): Located {
  const parsed = parseHuJson(text)
  if (!parsed.ok) return fail(parsed.error, parsed.error.message.replace(/^hujson: line [0-9]+, column [0-9]+: /, ''))
  const bytes = Buffer.from(text)
  const placeOf = (offset: number): Place => {
    const before = bytes.subarray(0, offset)
    let line = 1
    for (const byte of before) if (byte === 10) line += 1
    return { line, column: offset - before.lastIndexOf(10) }
  }
  const read = (value: Value): Located => {
    const place = placeOf(value.start)
    const { trimmed } = value
    if (trimmed.kind === 'array') return { ...place, items: trimmed.elements.map(read) }
    if (trimmed.kind === 'literal') return { ...place, value: literalKind(trimmed) === 'string' ? literalText(trimmed) : JSON.parse(trimmed.raw) }
    const members: Record<string, Located> = Object.create(null)
    for (const member of trimmed.members) {
      const name = member.name.trimmed.kind === 'literal' ? literalText(member.name.trimmed) : ''
      const at = placeOf(member.name.start)
      if (name in members) fail(at, `${JSON.stringify(name)} stands twice`)
      members[name] = { ...read(member.value), name: at }
    }
    return { ...place, members }
  }
  return read(parsed.value.root)
}
