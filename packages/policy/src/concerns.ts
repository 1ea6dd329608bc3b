import type { BitSet } from './bits.ts'
import type { CompiledStatement } from './statements.ts'

/** The matrix pays when more than one in so many nodes are asked for. */
const NODES_BEFORE_MATRIX = 16

/** What replaced a statement in a later state of the tailnet. */
export interface StatementChange {
  readonly old: CompiledStatement
  readonly now: CompiledStatement
}

/** So many nodes share a page, which states share until one of them changes it. */
const PAGE_SLOTS = 64

/** One bit for each node and statement, in pages of some nodes each. */
interface Matrix {
  readonly received: Uint32Array[]
  readonly sent: Uint32Array[]
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
    const matrix = { received: this.#withRoom(previous.#matrix.received), sent: this.#withRoom(previous.#matrix.sent) }
    const own = new Set<Uint32Array>()
    for (const { old, now } of changes) {
      this.#turn(matrix.received, own, now.index, now.receivers.difference(old.receivers))
      this.#turn(matrix.sent, own, now.index, now.sources.nodes.difference(old.sources.nodes))
    }
    this.#matrix = matrix
  }

  /** The statements that a node receives, in their order. */
  receivedBy(slot: number): readonly CompiledStatement[] {
    const matrix = this.#matrixForOneMore()
    return matrix === undefined ? this.#statements.filter(({ receivers }) => receivers.has(slot)) : this.#pick(slot, matrix.received)
  }

  /** The statements that a node is a source of, in their order. */
  sentBy(slot: number): readonly CompiledStatement[] {
    const matrix = this.#matrixForOneMore()
    return matrix === undefined ? this.#statements.filter(({ sources }) => sources.nodes.has(slot)) : this.#pick(slot, matrix.sent)
  }

  /** The statements that may give a node a rule, in their order: what it receives, what it sends by capabilities, and `always`. */
  ruling(slot: number, { always, apps }: { readonly always: BitSet; readonly apps: BitSet }): readonly CompiledStatement[] {
    const matrix = this.#matrixForOneMore()
    if (matrix === undefined) return this.#statements.filter(({ receivers, index }) => receivers.has(slot) || always.has(index) || apps.has(index))
    const [received, sent] = [this.#row(matrix.received, slot), this.#row(matrix.sent, slot)]
    return this.#statementsAt((i) => (received[i] ?? 0) | always.word(i) | ((sent[i] ?? 0) & apps.word(i)))
  }

  /** Whether one of these statements concerns both nodes, one as its receiver and the other as its source. */
  connect(slot: number, other: number, among: BitSet): boolean {
    const matrix = this.#matrixForOneMore()
    if (matrix === undefined)
      return this.#statements.some(
        ({ receivers, sources: { nodes }, index }) =>
          among.has(index) && ((receivers.has(slot) && nodes.has(other)) || (receivers.has(other) && nodes.has(slot))),
      )
    const { received, sent } = matrix
    for (let i = 0; i < this.#width; i += 1) {
      const both = (this.#word(received, slot, i) & this.#word(sent, other, i)) | (this.#word(received, other, i) & this.#word(sent, slot, i))
      if ((both & among.word(i)) !== 0) return true
    }
    return false
  }

  #matrixForOneMore(): Matrix | undefined {
    this.#asked += 1
    if (this.#matrix === undefined && this.#asked * NODES_BEFORE_MATRIX > this.#room) this.#matrix = this.#make()
    return this.#matrix
  }

  #make(): Matrix {
    const matrix = { received: this.#withRoom([]), sent: this.#withRoom([]) }
    const own = new Set([...matrix.received, ...matrix.sent])
    for (const { index, receivers, sources } of this.#statements) {
      this.#turn(matrix.received, own, index, receivers.slots())
      this.#turn(matrix.sent, own, index, sources.nodes.slots())
    }
    return matrix
  }

  /** The pages, and empty ones for nodes that came. */
  #withRoom(pages: readonly Uint32Array[]): Uint32Array[] {
    const copy = pages.slice()
    while (copy.length * PAGE_SLOTS < this.#room) copy.push(new Uint32Array(PAGE_SLOTS * this.#width))
    return copy
  }

  /** Turns the bits of one statement over. @param own pages that no other state has */
  #turn(pages: Uint32Array[], own: Set<Uint32Array>, index: number, slots: readonly number[]): void {
    const bit = 1 << (index & 31)
    for (const slot of slots) {
      const number = Math.floor(slot / PAGE_SLOTS)
      let page = pages[number]
      if (page === undefined) continue
      if (!own.has(page)) {
        page = page.slice()
        pages[number] = page
        own.add(page)
      }
      const at = (slot % PAGE_SLOTS) * this.#width + (index >>> 5)
      page[at] = (page[at] ?? 0) ^ bit
    }
  }

  #row(pages: readonly Uint32Array[], slot: number): Uint32Array {
    const start = (slot % PAGE_SLOTS) * this.#width
    return pages[Math.floor(slot / PAGE_SLOTS)]?.subarray(start, start + this.#width) ?? new Uint32Array(0)
  }

  #word(pages: readonly Uint32Array[], slot: number, i: number): number {
    return pages[Math.floor(slot / PAGE_SLOTS)]?.[(slot % PAGE_SLOTS) * this.#width + i] ?? 0
  }

  #pick(slot: number, pages: readonly Uint32Array[]): CompiledStatement[] {
    const row = this.#row(pages, slot)
    return this.#statementsAt((i) => row[i] ?? 0)
  }

  #statementsAt(wordAt: (i: number) => number): CompiledStatement[] {
    const found: CompiledStatement[] = []
    for (let i = 0; i < this.#width; i += 1) {
      let word = wordAt(i)
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
