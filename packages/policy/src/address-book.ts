import { formatIpRange, type Ip, type IpSet } from '@meshwright/ip'
import { BitSet } from './bits.ts'

/** One address of one node. */
export interface BookEntry {
  /** Family and bytes as characters: texts that compare like the addresses. */
  readonly key: string
  readonly ip: Ip
  readonly slot: number
}

/** From one node in so many on, walking through all addresses is quicker than sorting. */
const WALK_SHARE = 16

/** The addresses of all nodes in their order, IPv4 first. Never changed; a later state costs little more than a copy. */
export class AddressBook {
  readonly #entries: readonly BookEntry[]

  private constructor(entries: readonly BookEntry[]) {
    this.#entries = entries
  }

  /** The book of some entries in any order. */
  static of(entries: readonly BookEntry[]): AddressBook {
    return new AddressBook([...entries].sort(byKey))
  }

  /** The book without some entries and with others. */
  with(gone: readonly BookEntry[], added: readonly BookEntry[]): AddressBook {
    if (gone.length + added.length === 0) return this
    const entries = this.#entries.slice()
    for (const entry of gone) {
      let at = lowest(entries, entry.key)
      while (at < entries.length && entries[at] !== entry && entries[at]?.key === entry.key) at += 1
      if (entries[at] === entry) entries.splice(at, 1)
    }
    for (const entry of added) entries.splice(lowest(entries, entry.key), 0, entry)
    return new AddressBook(entries)
  }

  /** The addresses of some nodes as the shortest texts, without duplicates. */
  shortestTexts(nodes: BitSet, books: readonly ({ readonly book: readonly BookEntry[] } | undefined)[]): string[] {
    const slots = nodes.slots()
    // Of many nodes the addresses are picked out of the order, of few they are sorted.
    if (slots.length * WALK_SHARE > books.length) return joinNeighbours(this.#entries.filter((entry) => nodes.has(entry.slot)))
    return joinNeighbours(slots.flatMap((slot) => books[slot]?.book ?? []).sort(byKey))
  }

  /**
   * What sorted texts of some nodes became when one node, whose entries these are, came to them or went: only what stands next to its addresses
   * is looked at. @param nodes as they are now; `undefined` where the node's own addresses may be neighbours, or a text is not there
   */
  advanceTexts(texts: readonly string[], book: readonly BookEntry[], nodes: BitSet, comes: boolean): string[] | undefined {
    if (new Set(book.map(({ ip }) => ip.family)).size < book.length) return undefined
    const advanced = texts.slice()
    for (const { key, ip, slot } of book) {
      const at = lowest(this.#entries, key)
      if (this.#isElsewhere(at, key, slot, nodes)) continue
      const [left, right] = [this.#neighbours(at, key, nodes, -1), this.#neighbours(at, key, nodes, 1)]
      const whole = textOf(left?.far ?? ip, right?.far ?? ip)
      const parts = [left === undefined ? undefined : textOf(left.far, left.near), right === undefined ? undefined : textOf(right.near, right.far)]
      for (const text of comes ? parts : [whole]) if (text !== undefined && !takeOut(advanced, text)) return undefined
      for (const text of comes ? [whole] : parts) if (text !== undefined) advanced.splice(lowestText(advanced, text), 0, text)
    }
    return advanced
  }

  /** Whether another of the nodes has the address as well. */
  #isElsewhere(from: number, key: string, slot: number, nodes: BitSet): boolean {
    for (let i = from; this.#entries[i]?.key === key; i += 1) {
      const other = this.#entries[i]?.slot ?? slot
      if (other !== slot && nodes.has(other)) return true
    }
    return false
  }

  /** The addresses of the nodes that stand without a gap before (-1) or behind (1) an address: the next and the last of them. */
  #neighbours(from: number, key: string, nodes: BitSet, step: -1 | 1): { readonly near: Ip; readonly far: Ip } | undefined {
    let near: Ip | undefined
    let far: Ip | undefined
    let last = key
    for (let i = step < 0 ? from - 1 : from; ; i += step) {
      const entry = this.#entries[i]
      if (entry === undefined) break
      if (entry.key === last) continue
      if (!(step < 0 ? isNext(entry.key, last) : isNext(last, entry.key))) break
      if (!nodes.has(entry.slot)) continue
      near ??= entry.ip
      far = entry.ip
      last = entry.key
    }
    return near === undefined || far === undefined ? undefined : { near, far }
  }

  /** Slots of all nodes that have an address in the set. */
  within(set: IpSet, room: number): BitSet {
    const found = new BitSet(room)
    for (const { first, last } of set.ranges()) {
      const end = addressKey(last)
      for (let i = lowest(this.#entries, addressKey(first)); i < this.#entries.length; i += 1) {
        const entry = this.#entries[i]
        if (entry === undefined || entry.key > end) break
        found.add(entry.slot)
      }
    }
    return found
  }
}

/** Sorted addresses as the shortest texts, without duplicates: neighbours join into ranges. */
function joinNeighbours(entries: readonly BookEntry[]): string[] {
  const texts: string[] = []
  for (let i = 0; i < entries.length; ) {
    const first = entries[i]
    let last = first
    i += 1
    for (
      let next = entries[i];
      last !== undefined && next !== undefined && (next.key === last.key || isNext(last.key, next.key));
      next = entries[i]
    ) {
      last = next
      i += 1
    }
    if (first === undefined || last === undefined) break
    texts.push(textOf(first.ip, last.ip))
  }
  return texts
}

function textOf(first: Ip, last: Ip): string {
  return first.key === last.key ? first.key : formatIpRange({ first, last })
}

/** Takes a text out of sorted ones; false when it is not there. */
function takeOut(texts: string[], text: string): boolean {
  const at = lowestText(texts, text)
  if (texts[at] !== text) return false
  texts.splice(at, 1)
  return true
}

function lowestText(texts: readonly string[], text: string): number {
  let low = 0
  let high = texts.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((texts[middle] ?? '') < text) low = middle + 1
    else high = middle
  }
  return low
}

/** A text that compares like the address: its family, then its bytes, one character each. */
export function addressKey(ip: Ip): string {
  return String.fromCharCode(ip.family, ...ip.bytes)
}

function lowest(entries: readonly BookEntry[], key: string): number {
  let low = 0
  let high = entries.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((entries[middle]?.key ?? '') < key) low = middle + 1
    else high = middle
  }
  return low
}

function byKey(a: BookEntry, b: BookEntry): number {
  return a.key < b.key ? -1 : a.key > b.key ? 1 : 0
}

/** True when the second address directly follows the first. */
function isNext(first: string, second: string): boolean {
  let at = first.length - 1
  if (second.length !== first.length) return false
  while (at > 0 && first.charCodeAt(at) === 255) {
    if (second.charCodeAt(at) !== 0) return false
    at -= 1
  }
  if (at === 0 || second.charCodeAt(at) !== first.charCodeAt(at) + 1) return false
  return first.slice(0, at) === second.slice(0, at)
}
