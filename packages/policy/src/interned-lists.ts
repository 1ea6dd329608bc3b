import { sameItems } from './inventory-index.ts'

/** The wire form of a source list: shared by all rules that have it, so equal lists are the same object. */
export interface SourceList {
  readonly id: number
  readonly texts: readonly string[]
}

/** Lists that no state needs any more are let go of when there are so many times more than were needed last. */
const LET_GO_FACTOR = 2
const LET_GO_SPARE = 4096

interface Numbers {
  next: number
  /** The list that holds these texts; whatever holds a text array can be told by it. */
  readonly byTexts: WeakMap<readonly string[], SourceList>
}

/**
 * One list for each sequence of texts, shared by all states of a tailnet. Lists that only earlier states need stay known until
 * {@link prune}.
 */
export class InternedLists {
  readonly #byDigest: Map<string, SourceList[]> = new Map()
  readonly #numbers: Numbers
  #size = 0
  #needed = 0

  constructor(numbers: Numbers = { next: 0, byTexts: new WeakMap() }) {
    this.#numbers = numbers
  }

  /** The list of some texts, which must be sorted. */
  of(texts: readonly string[]): SourceList {
    const digest = digestOf(texts)
    const known = this.#byDigest.get(digest)
    const list = known?.find((each) => sameItems(each.texts, texts))
    if (list !== undefined) return list
    const fresh = { id: (this.#numbers.next += 1), texts }
    this.#numbers.byTexts.set(texts, fresh)
    this.#add(digest, known, fresh)
    return fresh
  }

  /** The list that these very texts belong to. */
  withTexts(texts: readonly string[]): SourceList | undefined {
    return this.#numbers.byTexts.get(texts)
  }

  /** The same, or, when there are many more lists than needed, another that knows only the needed ones. States that hold this one keep it. */
  prune(needed: () => Iterable<SourceList>): InternedLists {
    if (this.#size < LET_GO_FACTOR * this.#needed + LET_GO_SPARE) return this
    const pruned = new InternedLists(this.#numbers)
    for (const list of new Set(needed())) {
      const digest = digestOf(list.texts)
      pruned.#add(digest, pruned.#byDigest.get(digest), list)
    }
    pruned.#needed = pruned.#size
    return pruned
  }

  #add(digest: string, known: SourceList[] | undefined, list: SourceList): void {
    if (known === undefined) this.#byDigest.set(digest, [list])
    else known.push(list)
    this.#size += 1
  }
}

/** Equal for equal lists, and short: a whole list as a key would be kept twice. */
function digestOf(texts: readonly string[]): string {
  return `${texts.length} ${texts[0] ?? ''} ${texts[texts.length >> 1] ?? ''} ${texts[texts.length - 1] ?? ''}`
}
