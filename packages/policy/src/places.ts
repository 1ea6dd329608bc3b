import type { StatementChange } from './concerns.ts'
import type { SourceList } from './interned-lists.ts'
import { LayeredMap } from './layered-map.ts'
import type { CompiledStatement } from './statements.ts'

/** Rules of one statement lie between two multiples of this. */
const STRIDE = 1024
const CAPABILITIES = STRIDE - 8

/** Protocols and "none" as the low part of a key. */
const PROTOCOL_KEYS = 512
const NO_PROTOCOL = 256
const EVERY_PROTOCOL = 511

/** What port rules that are one rule have in common: sources and protocol. */
export function keyOf(list: SourceList, protocol: number | undefined): number {
  return list.id * PROTOCOL_KEYS + (protocol ?? NO_PROTOCOL)
}

/** Where the rule of a statement for one of its protocols stands among all rules of the tailnet. */
export function placeOf(index: number, protocol: number, self: boolean, selfFirst: boolean = false): number {
  return index * STRIDE + Math.min(protocol, 255) * 2 + (self ? (selfFirst ? -0.5 : 1) : 0)
}

/** Where capability rule `n` of a statement stands: behind its port rules. */
export function capabilityPlaceOf(index: number, n: number): number {
  return index * STRIDE + CAPABILITIES + n / 8
}

/**
 * The place of each kind of port rule: that of the first statement in the whole tailnet that has its sources and protocol. A later state of
 * the tailnet looks only at the statements that changed.
 */
export class Places {
  /** In rising order. */
  readonly #byKey: LayeredMap<number, readonly number[]>
  /** Keys whose place is not that of the earlier state. */
  readonly moved: ReadonlySet<number>

  private constructor(byKey: LayeredMap<number, readonly number[]>, moved: ReadonlySet<number>) {
    this.#byKey = byKey
    this.moved = moved
  }

  static of(statements: readonly CompiledStatement[]): Places {
    const byKey = new Map<number, number[]>()
    for (const compiled of statements) {
      for (const [key, place] of placesIn(compiled)) {
        const known = byKey.get(key)
        if (known === undefined) byKey.set(key, [place])
        else known.push(place)
      }
    }
    return new Places(new LayeredMap<number, readonly number[]>(byKey), new Set())
  }

  /** The places after some statements changed. */
  advance(changes: readonly StatementChange[]): Places {
    const byKey = this.#byKey.branch()
    const touched = new Set<number>()
    for (const { old, now } of changes) {
      if (old.list === now.list) continue
      for (const [key, place] of placesIn(old)) {
        touched.add(key)
        const left = (byKey.get(key) ?? []).filter((each) => each !== place)
        if (left.length > 0) byKey.set(key, left)
        else byKey.delete(key)
      }
      for (const [key, place] of placesIn(now)) {
        touched.add(key)
        byKey.set(key, [...(byKey.get(key) ?? []), place].sort((a, b) => a - b))
      }
    }
    const moved = new Set([...touched].filter((key) => key % PROTOCOL_KEYS !== EVERY_PROTOCOL && this.first(key) !== byKey.get(key)?.[0]))
    return new Places(byKey, moved)
  }

  /** The place of rules with the key; `undefined` when no statement has them. */
  first(key: number): number | undefined {
    return this.#byKey.get(key)?.[0]
  }

  /** The positions of all statements that have rules with the key. */
  statementsWith(key: number): readonly number[] {
    return (this.#byKey.get(key) ?? []).map((place) => Math.floor(place / STRIDE))
  }

  /** The positions of all statements whose rules have these sources, whatever the protocol. */
  statementsFrom(list: SourceList): readonly number[] {
    return this.statementsWith(everyKeyOf(list))
  }
}

function placesIn({ statement, index, list, targets }: CompiledStatement): readonly (readonly [number, number])[] {
  if (targets.length === 0 || list.texts.length === 0) return []
  return [
    ...statement.protocols.map((protocol, i) => [keyOf(list, protocol), placeOf(index, i, false)] as const),
    [everyKeyOf(list), placeOf(index, 0, false)],
  ]
}

function everyKeyOf(list: SourceList): number {
  return list.id * PROTOCOL_KEYS + EVERY_PROTOCOL
}
