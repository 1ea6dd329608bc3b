import { buildShortcut, placeOf, type Shortcut } from './shortcut.ts'
import { BITS, bitOf, CHILD, covers, NODE_WORDS, VALUE } from './trie-node.ts'

/** Slots of the first table, as bits: few for few prefixes, more once a table that size pays for itself. */
const SMALL_ROOT_BITS = 4
const LARGE_ROOT_BITS = 16
const LARGE_FROM_ENTRIES = 512
const LARGEST_ROOT_BITS = 18
const LARGEST_FROM_ENTRIES = 32_768
/** A look-up that passes more nodes is a long walk; after so many of them the slot of the last one gets a shortcut. */
const LONG_WALK_NODES = 8
const LONG_WALKS = 1024

/** Which node hangs where: the position of a child word, or the bitwise complement of a position in the first table. */
type Link = number

/**
 * Longest-prefix match over keys of 32 or 128 bits, from prefix to a positive number. A first table indexed by the leading bits holds
 * the short prefixes, spread over their slots, and the roots of path-compressed binary tries for the longer ones, all in two integer
 * arrays: a look-up allocates nothing and touches a few cache lines. Where many prefixes share a beginning, a shortcut leads past it. Nodes between prefixes that carry no value of their own ("glue")
 * exist only where two branches part, and go when they no longer do.
 *
 * Keys come as 32-bit words, first bits in the first word; bits behind the prefix length must be zero.
 */
export class PrefixTrie {
  readonly #width: 32 | 128
  #rootBits: number = SMALL_ROOT_BITS
  /** Two words a slot: the trie's root node, the value of the longest short prefix that covers the slot. */
  #root: Int32Array = new Int32Array(2 << SMALL_ROOT_BITS)
  /** One more than the length of the prefix whose value a slot holds; 0 for none. */
  #rootLengths: Uint8Array = new Uint8Array(1 << SMALL_ROOT_BITS)
  /** The short prefixes, exactly: named by `shortKey`. */
  readonly #short: Map<number, number> = new Map()
  #nodes: Int32Array = new Int32Array(NODE_WORDS * 16)
  /** Next node position never used yet; position 0 stays empty and means "none". */
  #fresh = NODE_WORDS
  #free: number[] = []
  #size = 0
  /** What stands in the first table as the complement of its index here, in the place of a subtree's root. */
  #shortcuts: (Shortcut | undefined)[] = []
  #longWalks = 0

  constructor(width: 32 | 128) {
    this.#width = width
  }

  /** How many prefixes it holds. */
  get size(): number {
    return this.#size
  }

  /** Value of the longest prefix that covers a 32-bit key, or 0. */
  find32(key: number): number {
    const slot = (key >>> (32 - this.#rootBits)) << 1
    const nodes = this.#nodes
    let best = this.#root[slot + 1]! // the slot is an index by rootBits bits
    let node = this.#root[slot]!
    let left = LONG_WALK_NODES
    if (node < 0) {
      const shortcut = this.#shortcuts[~node]!
      const place = placeOf(shortcut, nodes, key, 0, 0, 0)
      if (place < 0) return best
      node = shortcut.table[2 * place]!
      best = shortcut.table[2 * place + 1]! || best
      left = 128
    }
    while (node !== 0) {
      const bits = nodes[node + BITS]!
      const value = nodes[node + VALUE]!
      if (value !== 0) {
        if ((nodes[node]! ^ key) >>> (32 - bits) !== 0) break
        best = value
        if (bits === 32) break
      }
      left -= 1
      node = nodes[node + CHILD + ((key >>> (31 - bits)) & 1)]!
    }
    if (left < 0) this.#walkedFar(slot)
    return best
  }

  /** Value of the longest prefix that covers a 128-bit key, or 0. */
  find128(a: number, b: number, c: number, d: number): number {
    const slot = (a >>> (32 - this.#rootBits)) << 1
    const nodes = this.#nodes
    let best = this.#root[slot + 1]!
    let node = this.#root[slot]!
    let left = LONG_WALK_NODES
    if (node < 0) {
      const shortcut = this.#shortcuts[~node]!
      const place = placeOf(shortcut, nodes, a, b, c, d)
      if (place < 0) return best
      node = shortcut.table[2 * place]!
      best = shortcut.table[2 * place + 1]! || best
      left = 128
    }
    while (node !== 0) {
      const bits = nodes[node + BITS]!
      const value = nodes[node + VALUE]!
      if (value !== 0) {
        // Only nodes with a value need the comparison: whatever hangs under a glue node that does not fit will not fit either.
        if (!covers(nodes, node, bits, a, b, c, d)) break
        best = value
        if (bits === 128) break
      }
      left -= 1
      const word = bits < 64 ? (bits < 32 ? a : b) : bits < 96 ? c : d
      node = nodes[node + CHILD + ((word >>> (31 - (bits & 31))) & 1)]!
    }
    if (left < 0) this.#walkedFar(slot)
    return best
  }

  /** Value of exactly this prefix, or 0. */
  get(key: Int32Array, bits: number): number {
    if (bits <= this.#rootBits) return this.#short.get(shortKey(key, bits)) ?? 0
    const node = this.#locate(key, bits)
    return node === 0 ? 0 : (this.#nodes[node + VALUE] ?? 0)
  }

  /** Gives a prefix a value; gives the value that it had, or 0. @param value positive, below 2^31 */
  set(key: Int32Array, bits: number, value: number): number {
    const old = bits <= this.#rootBits ? this.#setShort(key, bits, value) : this.#setLong(key, bits, value)
    if (old === 0) {
      this.#size += 1
      const rootBits = this.#size < LARGE_FROM_ENTRIES ? SMALL_ROOT_BITS : this.#size < LARGEST_FROM_ENTRIES ? LARGE_ROOT_BITS : LARGEST_ROOT_BITS
      if (rootBits > this.#rootBits) this.#enlarge(rootBits)
    }
    return old
  }

  /** Removes exactly this prefix; gives the value that it had, or 0 when it was not there. */
  delete(key: Int32Array, bits: number): number {
    const old = bits <= this.#rootBits ? this.#deleteShort(key, bits) : this.#deleteLong(key, bits)
    if (old !== 0) this.#size -= 1
    return old
  }

  /** How many trie nodes are in use: 0 once every long prefix has gone. For tests. */
  get nodeCount(): number {
    return this.#fresh / NODE_WORDS - 1 - this.#free.length
  }

  #setShort(key: Int32Array, bits: number, value: number): number {
    const name = shortKey(key, bits)
    const old = this.#short.get(name) ?? 0
    this.#short.set(name, value)
    const [from, to] = this.#slots(key, bits)
    for (let slot = from; slot < to; slot += 1) {
      if ((this.#rootLengths[slot] ?? 0) > bits + 1) continue
      this.#rootLengths[slot] = bits + 1
      this.#root[slot * 2 + 1] = value
    }
    return old
  }

  #deleteShort(key: Int32Array, bits: number): number {
    const old = this.#short.get(shortKey(key, bits)) ?? 0
    if (old === 0) return 0
    this.#short.delete(shortKey(key, bits))
    let heir = 0
    let heirBits = bits - 1
    for (; heirBits >= 0; heirBits -= 1) {
      heir = this.#short.get(shortKey(key, heirBits)) ?? 0
      if (heir !== 0) break
    }
    const [from, to] = this.#slots(key, bits)
    for (let slot = from; slot < to; slot += 1) {
      if (this.#rootLengths[slot] !== bits + 1) continue
      this.#rootLengths[slot] = heirBits + 1
      this.#root[slot * 2 + 1] = heir
    }
    return old
  }

  #slots(key: Int32Array, bits: number): [from: number, to: number] {
    const from = (key[0] ?? 0) >>> (32 - this.#rootBits)
    return [from, from + (1 << (this.#rootBits - bits))]
  }

  #setLong(key: Int32Array, bits: number, value: number): number {
    let link = this.#rootLink(key)
    for (;;) {
      const node = this.#follow(link)
      if (node === 0) {
        const leaf = this.#newNode(key, bits, value)
        this.#hang(link, leaf)
        return 0
      }
      const nodeBits = this.#nodes[node + BITS] ?? 0
      const common = this.#commonBits(key, node, Math.min(bits, nodeBits))
      if (common === nodeBits) {
        if (nodeBits === bits) {
          const old = this.#nodes[node + VALUE] ?? 0
          this.#nodes[node + VALUE] = value
          return old
        }
        link = node + CHILD + bitOf(key[nodeBits >> 5] ?? 0, nodeBits)
        continue
      }
      // The new prefix lies above the node, or both part below a glue node.
      const above = common === bits ? this.#newNode(key, bits, value) : this.#newNode(key, common, 0)
      if (common !== bits) {
        const leaf = this.#newNode(key, bits, value)
        this.#nodes[above + CHILD + bitOf(key[common >> 5] ?? 0, common)] = leaf
      }
      this.#nodes[above + CHILD + bitOf(this.#nodes[node + (common >> 5)] ?? 0, common)] = node
      this.#hang(link, above)
      return 0
    }
  }

  #deleteLong(key: Int32Array, bits: number): number {
    let parentLink: Link = 0
    let parent = 0
    let link = this.#rootLink(key)
    let node = this.#follow(link)
    while (node !== 0) {
      const nodeBits = this.#nodes[node + BITS] ?? 0
      if (nodeBits >= bits) break
      parentLink = link
      parent = node
      link = node + CHILD + bitOf(key[nodeBits >> 5] ?? 0, nodeBits)
      node = this.#follow(link)
    }
    const old = node === 0 ? 0 : (this.#nodes[node + VALUE] ?? 0)
    if (old === 0 || this.#nodes[node + BITS] !== bits || this.#commonBits(key, node, bits) !== bits) return 0
    const left = this.#nodes[node + CHILD] ?? 0
    const right = this.#nodes[node + CHILD + 1] ?? 0
    this.#nodes[node + VALUE] = 0
    if (left !== 0 && right !== 0) return old
    this.#hang(link, left === 0 ? right : left)
    this.#freeNode(node)
    if (left === 0 && right === 0 && parent !== 0 && this.#nodes[parent + VALUE] === 0) {
      const other = (this.#nodes[parent + CHILD] ?? 0) === 0 ? (this.#nodes[parent + CHILD + 1] ?? 0) : (this.#nodes[parent + CHILD] ?? 0)
      this.#hang(parentLink, other)
      this.#freeNode(parent)
    }
    return old
  }

  #locate(key: Int32Array, bits: number): number {
    let node = this.#follow(this.#rootLink(key))
    while (node !== 0) {
      const nodeBits = this.#nodes[node + BITS] ?? 0
      if (nodeBits >= bits) return nodeBits === bits && this.#commonBits(key, node, bits) === bits ? node : 0
      node = this.#nodes[node + CHILD + bitOf(key[nodeBits >> 5] ?? 0, nodeBits)] ?? 0
    }
    return 0
  }

  /** For changes: a shortcut that stood there is gone. */
  #rootLink(key: Int32Array): Link {
    const slot = ((key[0] ?? 0) >>> (32 - this.#rootBits)) * 2
    const shortcut = this.#shortcutAt(slot)
    if (shortcut !== undefined) {
      this.#shortcuts[~(this.#root[slot] ?? 0)] = undefined
      this.#root[slot] = shortcut.top
    }
    return ~slot
  }

  #shortcutAt(slot: number): Shortcut | undefined {
    const root = this.#root[slot] ?? 0
    return root < 0 ? this.#shortcuts[~root] : undefined
  }

  #walkedFar(slot: number): void {
    this.#longWalks += 1
    if (this.#longWalks < LONG_WALKS) return
    this.#longWalks = 0
    const shortcut = buildShortcut(this.#nodes, this.#root[slot] ?? 0, this.#width)
    if (shortcut === undefined) return
    const gap = this.#shortcuts.indexOf(undefined)
    const index = gap < 0 ? this.#shortcuts.length : gap
    this.#shortcuts[index] = shortcut
    this.#root[slot] = ~index
  }

  #follow(link: Link): number {
    return (link < 0 ? this.#root[~link] : this.#nodes[link]) ?? 0
  }

  #hang(link: Link, node: number): void {
    if (link < 0) this.#root[~link] = node
    else this.#nodes[link] = node
  }

  #commonBits(key: Int32Array, node: number, most: number): number {
    for (let word = 0; word * 32 < most; word += 1) {
      const difference = (key[word] ?? 0) ^ (this.#nodes[node + word] ?? 0)
      if (difference !== 0) return Math.min(most, word * 32 + Math.clz32(difference))
    }
    return most
  }

  #newNode(key: Int32Array, bits: number, value: number): number {
    const node = this.#free.pop() ?? this.#fresh
    if (node === this.#fresh) {
      this.#fresh += NODE_WORDS
      if (this.#fresh > this.#nodes.length) {
        const nodes = new Int32Array(this.#nodes.length * 2)
        nodes.set(this.#nodes)
        this.#nodes = nodes
      }
    }
    for (let word = 0; word < 4; word += 1) {
      const kept = Math.min(32, Math.max(0, bits - word * 32))
      this.#nodes[node + word] = kept === 0 ? 0 : (key[word] ?? 0) & (-1 << (32 - kept))
    }
    this.#nodes[node + BITS] = bits
    this.#nodes[node + CHILD] = 0
    this.#nodes[node + CHILD + 1] = 0
    this.#nodes[node + VALUE] = value
    return node
  }

  #freeNode(node: number): void {
    this.#free.push(node)
  }

  /** Moves everything under a larger first table. */
  #enlarge(rootBits: number): void {
    const larger = new PrefixTrie(this.#width)
    larger.#rootBits = rootBits
    larger.#root = new Int32Array(2 << rootBits)
    larger.#rootLengths = new Uint8Array(1 << rootBits)
    const key = new Int32Array(4)
    for (const [name, value] of this.#short) {
      key[0] = Math.floor(name / 64)
      larger.set(key, name % 64, value)
    }
    const pending: number[] = []
    for (let slot = 0; slot < this.#root.length; slot += 2) pending.push(this.#shortcutAt(slot)?.top ?? this.#root[slot] ?? 0)
    for (let node = pending.pop(); node !== undefined; node = pending.pop()) {
      if (node === 0) continue
      const value = this.#nodes[node + VALUE] ?? 0
      key.set(this.#nodes.subarray(node, node + 4))
      if (value !== 0) larger.set(key, this.#nodes[node + BITS] ?? 0, value)
      pending.push(this.#nodes[node + CHILD] ?? 0, this.#nodes[node + CHILD + 1] ?? 0)
    }
    this.#rootBits = larger.#rootBits
    this.#root = larger.#root
    this.#rootLengths = larger.#rootLengths
    this.#short.clear()
    for (const [name, value] of larger.#short) this.#short.set(name, value)
    this.#nodes = larger.#nodes
    this.#fresh = larger.#fresh
    this.#free = larger.#free
    this.#shortcuts = []
  }
}

/** Names a prefix of at most 18 bits: its first word with later bits cleared, then its length. */
function shortKey(key: Int32Array, bits: number): number {
  return (bits === 0 ? 0 : ((key[0] ?? 0) & (-1 << (32 - bits))) >>> 0) * 64 + bits
}
