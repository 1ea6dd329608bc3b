import { BITS, CHILD, covers, VALUE } from './trie-node.ts'

const MOST_TABLE_BITS = 18
/** Fewer nodes are not worth a table. */
const LEAST_NODES = 256

/**
 * A table over a subtree that many prefixes share a beginning in (all of a mesh's under one /48): it leads past the bits that they have
 * in common and the next `tableBits` at once, where the tree would be walked bit by bit. Derived from the tree and thrown away when
 * that changes.
 */
export interface Shortcut {
  /** The node at whose place it stands. */
  readonly top: number
  /** So many bits are common to everything below `top`. */
  readonly skip: number
  readonly tableBits: number
  /** Two words for each value of the next bits: the node to go on from, and the value of the longest prefix passed on the way. */
  readonly table: Int32Array
}

/** Makes the table; `undefined` where too little hangs below. */
export function buildShortcut(nodes: Int32Array, top: number, width: number): Shortcut | undefined {
  const skip = nodes[top + BITS] ?? 0
  const count = countNodes(nodes, top)
  const tableBits = Math.min(MOST_TABLE_BITS, width - skip, 33 - Math.clz32(count))
  if (count < LEAST_NODES || tableBits < 1) return undefined
  const table = new Int32Array(2 << tableBits)
  // `from` to `to` are the table's places of all keys that lead to `node`; what no prefix covers keeps the value passed last.
  const fill = (node: number, passed: number, from: number, to: number): void => {
    const bits = node === 0 ? 0 : (nodes[node + BITS] ?? 0)
    const own = node === 0 ? 0 : indexOf(skip, tableBits, nodes[node] ?? 0, nodes[node + 1] ?? 0, nodes[node + 2] ?? 0, nodes[node + 3] ?? 0)
    const ownPlaces = node === 0 ? 0 : 1 << Math.max(0, skip + tableBits - bits)
    for (let at = from; at < to; at += 1) {
      if (at === own && ownPlaces > 0) at += ownPlaces
      if (at < to) table[2 * at + 1] = passed
    }
    if (node === 0) return
    if (bits >= skip + tableBits) {
      table[2 * own] = node
      table[2 * own + 1] = passed
      return
    }
    const value = nodes[node + VALUE] ?? 0
    const middle = own + (ownPlaces >> 1)
    fill(nodes[node + CHILD] ?? 0, value === 0 ? passed : value, own, middle)
    fill(nodes[node + CHILD + 1] ?? 0, value === 0 ? passed : value, middle, own + ownPlaces)
  }
  fill(top, 0, 0, 1 << tableBits)
  return { top, skip, tableBits, table }
}

/** The place of a key in the table, counted in pairs of words; -1 when nothing below the shortcut covers it. */
export function placeOf({ top, skip, tableBits }: Shortcut, nodes: Int32Array, a: number, b: number, c: number, d: number): number {
  return covers(nodes, top, skip, a, b, c, d) ? indexOf(skip, tableBits, a, b, c, d) : -1
}

function indexOf(skip: number, count: number, a: number, b: number, c: number, d: number): number {
  const high = skip < 64 ? (skip < 32 ? a : b) : skip < 96 ? c : d
  const low = skip < 64 ? (skip < 32 ? b : c) : skip < 96 ? d : 0
  const shift = skip & 31
  const word = shift === 0 ? high : (high << shift) | (low >>> (32 - shift))
  return word >>> (32 - count)
}

function countNodes(nodes: Int32Array, top: number): number {
  let count = 0
  const pending = [top]
  for (let node = pending.pop(); node !== undefined; node = pending.pop()) {
    if (node === 0) continue
    count += 1
    pending.push(nodes[node + CHILD] ?? 0, nodes[node + CHILD + 1] ?? 0)
  }
  return count
}
