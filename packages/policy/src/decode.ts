import { type Located, type Place, pointerPart, type Repair, type Reporter } from './diagnostics.ts'
import { literalKind, literalText } from './hujson/literal.ts'
import type { ByteText } from './hujson/byte-text.ts'
import { quoteText } from './hujson/quote.ts'
import type { Value } from './hujson/tree.ts'

/** A JSON value deeper than this, inside the parts that are passed through unread, is refused: nothing that follows need fear its depth. */
const MOST_DEPTH = 100

/** A value of the tree and the pointer to it. */
export interface Item {
  readonly value: Value
  readonly path: string
}

/** One member of an object. */
export interface Entry {
  readonly name: string
  readonly nameAt: Place
  readonly item: Item
}

/** Gives a member its right name; the value and its comments stay. */
function renamed(parent: Item, value: Item, name: string): readonly Repair[] {
  return [{ op: 'move', from: value.path, path: `${parent.path}/${pointerPart(name)}` }]
}

/** Reads JSON shapes out of a HuJSON tree; whatever has another shape is reported and left out. */
export class Decoder {
  readonly #reporter: Reporter
  readonly #lineStarts: number[] = [0]
  readonly #members: Place[] = []
  #member: Place | undefined

  constructor(text: ByteText, reporter: Reporter) {
    this.#reporter = reporter
    for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) this.#lineStarts.push(at + 1)
  }

  get reporter(): Reporter {
    return this.#reporter
  }

  /** Notes how the autogroup of all members is written: a policy uses one of its two names. */
  spelled(text: string, at: Place): void {
    if (text === 'autogroup:member') this.#member ??= at
    else if (text === 'autogroup:members') this.#members.push(at)
  }

  /** Reports where the old name of the autogroup of all members stands beside the new one. */
  checkSpelling(): void {
    if (this.#member === undefined) return
    for (const at of this.#members) {
      this.#reporter.report(at, 'POLICY_SHAPE', 'cannot use both autogroup:member and autogroup:members', {
        remedy: 'autogroup:members is the old name of autogroup:member.',
        // Destinations carry ports behind the name: their text is not known here.
        ...(/\/(?:dst|ports|accept|deny|allow)\//.test(at.path) ? {} : { fix: [{ op: 'replace', path: at.path, value: 'autogroup:member' }] }),
      })
    }
  }

  /** Where an item stands. */
  placeOf(item: Item): Place {
    return this.#place(item.value.start, item.path)
  }

  isNull(item: Item): boolean {
    return item.value.trimmed.kind === 'literal' && item.value.trimmed.raw === 'null'
  }

  /** Members of an object in order; `null` counts as empty. Of duplicate names, all after the first are reported and left out. */
  entries(item: Item, what: string): readonly Entry[] {
    if (this.isNull(item)) return []
    const { trimmed } = item.value
    if (trimmed.kind !== 'object') {
      this.shape(item, `${what} must be an object`)
      return []
    }
    const entries: Entry[] = []
    if (trimmed.members.length === 0) return entries
    const seen = new Set<string>()
    for (const member of trimmed.members) {
      const name = member.name.trimmed.kind === 'literal' ? literalText(member.name.trimmed) : ''
      const path = `${item.path}/${pointerPart(name)}`
      const nameAt = this.#place(member.name.start, path)
      if (seen.has(name)) {
        this.#reporter.report(nameAt, 'POLICY_DUPLICATE_FIELD', `duplicate object member name ${quoteText(name)}`, {
          remedy: 'Keep one of them.',
        })
        continue
      }
      seen.add(name)
      entries.push({ name, nameAt, item: { value: member.value, path } })
    }
    return entries
  }

  /**
   * Members of an object by their known names, matched without regard to case. Others are reported, except those that start with `#`
   * where `comments` is set.
   */
  fields<Name extends string>(item: Item, what: string, known: readonly Name[], comments: boolean = false): ReadonlyMap<Name, Item> {
    const found = new Map<Name, Item>()
    const entries = this.entries(item, what)
    if (entries.length === 0) return found
    const lower = known.map((name) => name.toLowerCase())
    let written: ReadonlySet<string> | undefined
    let list: string | undefined
    for (const { name, nameAt, item: value } of entries) {
      if (comments && name.startsWith('#')) continue
      const field = known[lower.indexOf(name.toLowerCase())]
      if (field === undefined) {
        const guess = this.#reporter.guess(name, known)
        this.#reporter.report(nameAt, 'POLICY_UNKNOWN_FIELD', `unknown field: ${quoteText(name)}`, {
          remedy: guess === undefined ? (list ??= `Known here: ${known.join(', ')}.`) : `Did you mean ${quoteText(guess)}?`,
          ...(guess === undefined || (written ??= new Set(entries.map((entry) => entry.name.toLowerCase()))).has(guess.toLowerCase()) ? {} : { fix: renamed(item, value, guess) }),
        })
      } else if (found.has(field)) {
        this.#reporter.report(nameAt, 'POLICY_DUPLICATE_FIELD', `duplicate object member name ${quoteText(name)}`, {
          remedy: 'Keep one of them.',
        })
      } else found.set(field, value)
    }
    return found
  }

  /** The member under its name or its old one; both at once are refused. */
  either<Name extends string>(fields: ReadonlyMap<Name, Item>, name: Name, old: Name): Item | undefined {
    const [item, older] = [fields.get(name), fields.get(old)]
    if (item !== undefined && older !== undefined) {
      this.#reporter.report(this.placeOf(older), 'POLICY_DUPLICATE_FIELD', `only one of ${quoteText(name)} and ${quoteText(old)} may be specified`, {
        remedy: `${quoteText(old)} is the old name of ${quoteText(name)}: keep one of them.`,
      })
    }
    return item ?? older
  }

  /** Elements of an array; absent or `null` gives `undefined`. */
  elements(item: Item | undefined, what: string): readonly Item[] | undefined {
    if (item === undefined || this.isNull(item)) return undefined
    const { trimmed } = item.value
    if (trimmed.kind !== 'array') {
      this.shape(item, `${what} must be a list`)
      return undefined
    }
    return trimmed.elements.map((value, i) => ({ value, path: `${item.path}/${i}` }))
  }

  /** A string, or `undefined` after a report. */
  string(item: Item, what: string): Located<string> | undefined {
    const { trimmed } = item.value
    if (trimmed.kind === 'literal' && literalKind(trimmed) === 'string') return { value: literalText(trimmed), at: this.placeOf(item) }
    this.shape(item, `${what} must be a string`)
    return undefined
  }

  /** A string; absent or `null` gives `undefined`. */
  optionalString(item: Item | undefined, what: string): Located<string> | undefined {
    return item === undefined || this.isNull(item) ? undefined : this.string(item, what)
  }

  /** A list of strings; absent or `null` gives `undefined`. */
  strings(item: Item | undefined, what: string): readonly Located<string>[] | undefined {
    return this.elements(item, what)?.flatMap((element) => this.string(element, `every entry of ${what}`) ?? [])
  }

  /** A boolean; absent or `null` gives `undefined`. */
  boolean(item: Item | undefined, what: string): boolean | undefined {
    if (item === undefined || this.isNull(item)) return undefined
    const { trimmed } = item.value
    if (trimmed.kind === 'literal' && literalKind(trimmed) === 'boolean') return trimmed.raw === 'true'
    this.shape(item, `${what} must be true or false`)
    return undefined
  }

  /** The plain JSON value, for parts that are passed on unread. Objects have no prototype, so no name is special. */
  json(item: Item, what: string, depth: number = 0): unknown {
    const { trimmed } = item.value
    if (depth > MOST_DEPTH) {
      this.shape(item, `${what} is nested too deeply`)
      return null
    }
    if (trimmed.kind === 'array')
      return trimmed.elements.map((value, i) => this.json({ value, path: `${item.path}/${i}` }, what, depth + 1))
    if (trimmed.kind === 'object') {
      const object: Record<string, unknown> = Object.create(null) as Record<string, unknown>
      for (const { name, item: member } of this.entries(item, what)) object[name] = this.json(member, what, depth + 1)
      return object
    }
    const kind = literalKind(trimmed)
    if (kind === 'string') return literalText(trimmed)
    if (kind === 'number') return this.#number(item, trimmed.raw)
    return kind === 'null' ? null : trimmed.raw === 'true'
  }

  /** Numbers that JavaScript cannot keep are refused: what is passed on must be what was written. */
  #number(item: Item, raw: string): number {
    const value = Number(raw)
    if (!Number.isFinite(value) || (/^-?[0-9]+$/.test(raw) && !Number.isSafeInteger(value)))
      this.#reporter.report(this.placeOf(item), 'POLICY_SHAPE', `number ${raw.slice(0, 40)} is out of range`, {
        remedy: 'Write it as a string.',
      })
    return value
  }

  /** Reports a value of the wrong shape. */
  shape(item: Item, message: string): void {
    this.#reporter.report(this.placeOf(item), 'POLICY_SHAPE', message)
  }

  #place(offset: number, path: string): Place {
    let low = 0
    let high = this.#lineStarts.length
    while (high - low > 1) {
      const middle = (low + high) >>> 1
      if ((this.#lineStarts[middle] ?? 0) <= offset) low = middle
      else high = middle
    }
    return { line: low + 1, column: offset - (this.#lineStarts[low] ?? 0) + 1, offset, path }
  }
}
