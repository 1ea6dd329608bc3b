import type { Ip, IpSet } from '@meshwright/ip'
import { formatIpRange } from '@meshwright/ip'
import { BitSet } from './bits.ts'

/** One address of one node. */
interface Entry {
  /** Family and bytes as characters: texts that compare like the addresses. */
  readonly key: string
  readonly ip: Ip
  readonly slot: number
}

/** The addresses of all nodes in their order, IPv4 first. Never changed; made from an earlier one in one pass. */
export class AddressBook {
  readonly #entries: readonly Entry[]
  /** 1 where an address directly follows the one before. */
  readonly #follows: Uint8Array
  /** Positions of each slot's addresses. */
  readonly #positions: (readonly number[])[] = []

  private constructor(entries: readonly Entry[]) {
    this.#entries = entries
    this.#follows = new Uint8Array(entries.length)
    for (const [i, { key, slot }] of entries.entries()) {
      const before = entries[i - 1]
      if (before !== undefined && isNext(before.key, key)) this.#follows[i] = 1
      const known = this.#positions[slot]
      this.#positions[slot] = known === undefined ? [i] : [...known, i]
    }
  }

  /** The book of some nodes' addresses, given by slot. */
  static of(nodes: Iterable<{ readonly slot: number; readonly addresses: readonly Ip[] }>): AddressBook {
    return new AddressBook(entriesOf(nodes).sort(byKey))
  }

  /** The book without the addresses of some slots and with those of some nodes. */
  with(gone: ReadonlySet<number>, nodes: Iterable<{ readonly slot: number; readonly addresses: readonly Ip[] }>): AddressBook {
    const kept = gone.size === 0 ? this.#entries : this.#entries.filter(({ slot }) => !gone.has(slot))
    const added = entriesOf(nodes).sort(byKey)
    const merged: Entry[] = []
    let next = 0
    for (const entry of kept) {
      for (let other = added[next]; other !== undefined && other.key < entry.key; other = added[next]) {
        merged.push(other)
        next += 1
      }
      merged.push(entry)
    }
    for (; next < added.length; next += 1) {
      const other = added[next]
      if (other !== undefined) merged.push(other)
    }
    return new AddressBook(merged)
  }

  /** Slots of all nodes that have an address in the set. */
  within(set: IpSet, room: number): BitSet {
    const found = new BitSet(room)
    for (const { first, last } of set.ranges()) {
      const end = keyOf(last)
      for (let i = this.#lowest(keyOf(first)); i < this.#entries.length; i += 1) {
        const entry = this.#entries[i]
        if (entry === undefined || entry.key > end) break
        found.add(entry.slot)
      }
    }
    return found
  }

  /** The addresses of some nodes as the shortest texts: neighbours join into ranges. */
  textsOf(nodes: BitSet): string[] {
    const positions: number[] = []
    for (const slot of nodes.slots()) for (const position of this.#positions[slot] ?? []) positions.push(position)
    const sorted = Uint32Array.from(positions).sort()
    const texts: string[] = []
    for (let i = 0; i < sorted.length; ) {
      const start = this.#entries[sorted[i] ?? 0]
      let end = i
      while (end + 1 < sorted.length && sorted[end + 1] === (sorted[end] ?? 0) + 1 && this.#follows[sorted[end + 1] ?? 0] === 1) end += 1
      const stop = this.#entries[sorted[end] ?? 0]
      if (start !== undefined && stop !== undefined) {
        texts.push(start === stop ? start.ip.key : formatIpRange({ first: start.ip, last: stop.ip }))
      }
      i = end + 1
    }
    return texts
  }

  #lowest(key: string): number {
    let low = 0
    let high = this.#entries.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.#entries[middle]?.key ?? '') < key) low = middle + 1
      else high = middle
    }
    return low
  }
}

function entriesOf(nodes: Iterable<{ readonly slot: number; readonly addresses: readonly Ip[] }>): Entry[] {
  const entries: Entry[] = []
  for (const { slot, addresses } of nodes) for (const ip of addresses) entries.push({ key: keyOf(ip), ip, slot })
  return entries
}

function byKey(a: Entry, b: Entry): number {
  return a.key < b.key ? -1 : a.key > b.key ? 1 : 0
}

function keyOf(ip: Ip): string {
  return String.fromCharCode(ip.family, ...ip.bytes)
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
