import { BitSet } from './bits.ts'
import type { CompiledStatement } from './statements.ts'

/** One bit for each node and statement: which statements concern a node. Never changed; a later state costs little more than a copy. */
export class ConcernMatrix {
  readonly #words: Uint32Array
  /** Words for each node. */
  readonly #width: number

  private constructor(words: Uint32Array, width: number) {
    this.#words = words
    this.#width = width
  }

  /** The matrix of some statements. @param room how many nodes there may be */
  static of(statements: readonly CompiledStatement[], room: number): ConcernMatrix {
    const width = (statements.length + 31) >>> 5
    const words = new Uint32Array(width * room)
    for (const compiled of statements) setColumn(words, width, compiled, concerned(compiled), undefined)
    return new ConcernMatrix(words, width)
  }

  /** The matrix after some statements were compiled anew, for nodes in the same slots. */
  with(changes: readonly { readonly old: CompiledStatement; readonly now: CompiledStatement }[]): ConcernMatrix {
    if (changes.length === 0) return this
    const words = this.#words.slice()
    for (const { old, now } of changes) setColumn(words, this.#width, now, concerned(now), concerned(old))
    return new ConcernMatrix(words, this.#width)
  }

  /** The positions of the statements that concern a node, in rising order; those of `always` concern every node. */
  statementsOf(slot: number, always: Uint32Array): number[] {
    const found: number[] = []
    for (let i = 0; i < this.#width; i += 1) {
      let word = (this.#words[slot * this.#width + i] ?? 0) | (always[i] ?? 0)
      while (word !== 0) {
        const lowest = word & -word
        found.push((i << 5) + 31 - Math.clz32(lowest))
        word ^= lowest
      }
    }
    return found
  }
}

/** Whom a statement gives a rule: those that receive it; of capabilities with a companion, the sources too. */
function concerned({ receivers, statement, sources }: CompiledStatement): BitSet {
  if (statement.app.length === 0 || receivers.equals(sources.nodes)) return receivers
  const both = receivers.clone()
  both.or(sources.nodes)
  return both
}

function setColumn(words: Uint32Array, width: number, { index }: CompiledStatement, now: BitSet, old: BitSet | undefined): void {
  const at = index >>> 5
  const bit = 1 << (index & 31)
  for (const slot of old === undefined ? [] : old.slots()) words[slot * width + at] = (words[slot * width + at] ?? 0) & ~bit
  for (const slot of now.slots()) words[slot * width + at] = (words[slot * width + at] ?? 0) | bit
}
