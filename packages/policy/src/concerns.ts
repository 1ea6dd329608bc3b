import { BitSet } from './bits.ts'
import type { CompiledStatement } from './statements.ts'

/** The matrix pays when more than one in so many nodes are asked for. */
const NODES_BEFORE_MATRIX = 16

/** What replaced a statement in a later state of the tailnet. */
export interface StatementChange {
  readonly old: CompiledStatement
  readonly now: CompiledStatement
}

/** One bit for each node and statement. */
interface Matrix {
  readonly received: Uint32Array
  readonly sent: Uint32Array
}

/**
 * Which statements concern a node, as a receiver or as a source. Once many nodes have been asked for, it is looked up in a matrix, which
 * is handed on to later states: for them it costs little more than a copy.
 */
export class Concerns {
  readonly #statements: readonly CompiledStatement[]
  readonly #room: number
  /** Words for each node. */
  readonly #width: number
  #matrix: Matrix | undefined
  #asked: number = 0

  /** @param room how many nodes there may be */
  constructor(statements: readonly CompiledStatement[], room: number) {
    this.#statements = statements
    this.#room = room
    this.#width = (statements.length + 31) >>> 5
  }

  /** Takes over what an earlier state with the same nodes in the same slots has made. @param changes the statements that are not the same objects */
  inherit(previous: Concerns, changes: readonly StatementChange[]): void {
    if (previous.#matrix === undefined) return
    const matrix = { received: previous.#matrix.received.slice(), sent: previous.#matrix.sent.slice() }
    for (const { old, now } of changes) {
      this.#setColumn(matrix.received, now.index, now.receivers, old.receivers)
      this.#setColumn(matrix.sent, now.index, now.sources.nodes, old.sources.nodes)
    }
    this.#matrix = matrix
  }

  /** The statements that a node receives, in their order. */
  receivedBy(slot: number): readonly CompiledStatement[] {
    const matrix = this.#matrixForOneMore()
    return matrix === undefined ? this.#statements.filter(({ receivers }) => receivers.has(slot)) : this.#pick(slot, (at) => matrix.received[at] ?? 0)
  }

  /** The statements that a node is a source of, in their order. */
  sentBy(slot: number): readonly CompiledStatement[] {
    const matrix = this.#matrixForOneMore()
    return matrix === undefined ? this.#statements.filter(({ sources }) => sources.nodes.has(slot)) : this.#pick(slot, (at) => matrix.sent[at] ?? 0)
  }

  /** The statements that may give a node a rule, in their order: what it receives, what it sends by capabilities, and `always`. */
  ruling(slot: number, { always, apps }: { readonly always: BitSet; readonly apps: BitSet }): readonly CompiledStatement[] {
    const matrix = this.#matrixForOneMore()
    if (matrix === undefined) return this.#statements.filter(({ receivers, index }) => receivers.has(slot) || always.has(index) || apps.has(index))
    return this.#pick(slot, (at, word) => (matrix.received[at] ?? 0) | always.word(word) | ((matrix.sent[at] ?? 0) & apps.word(word)))
  }

  #matrixForOneMore(): Matrix | undefined {
    this.#asked += 1
    if (this.#matrix === undefined && this.#asked * NODES_BEFORE_MATRIX > this.#room) this.#matrix = this.#make()
    return this.#matrix
  }

  #make(): Matrix {
    const matrix = { received: new Uint32Array(this.#width * this.#room), sent: new Uint32Array(this.#width * this.#room) }
    const none = new BitSet(0)
    for (const { index, receivers, sources } of this.#statements) {
      this.#setColumn(matrix.received, index, receivers, none)
      this.#setColumn(matrix.sent, index, sources.nodes, none)
    }
    return matrix
  }

  #setColumn(words: Uint32Array, index: number, now: BitSet, old: BitSet): void {
    const bit = 1 << (index & 31)
    const column = index >>> 5
    for (const slot of now.difference(old).slots()) words[slot * this.#width + column] = (words[slot * this.#width + column] ?? 0) ^ bit
  }

  #pick(slot: number, wordAt: (at: number, word: number) => number): CompiledStatement[] {
    const found: CompiledStatement[] = []
    for (let i = 0; i < this.#width; i += 1) {
      let word = wordAt(slot * this.#width + i, i)
      while (word !== 0) {
        const lowest = word & -word
        const statement = this.#statements[(i << 5) + 31 - Math.clz32(lowest)]
        if (statement !== undefined) found.push(statement)
        word ^= lowest
      }
    }
    return found
  }
}
