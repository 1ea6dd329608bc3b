/** Words of a node: four of key, length in bits, two children, value. 32 bytes, so a node never straddles a cache line. */
export const NODE_WORDS = 8
export const BITS = 4
export const CHILD = 5
export const VALUE = 7

/** True when the first `bits` bits (1 to 128) of the node's key are those of a:b:c:d. */
export function covers(nodes: Int32Array, node: number, bits: number, a: number, b: number, c: number, d: number): boolean {
  if (bits <= 32) return (nodes[node]! ^ a) >>> (32 - bits) === 0
  if ((nodes[node]! ^ a) !== 0) return false
  if (bits <= 64) return (nodes[node + 1]! ^ b) >>> (64 - bits) === 0
  if ((nodes[node + 1]! ^ b) !== 0) return false
  if (bits <= 96) return (nodes[node + 2]! ^ c) >>> (96 - bits) === 0
  return (nodes[node + 2]! ^ c) === 0 && (nodes[node + 3]! ^ d) >>> (128 - bits) === 0
}

/** Bit number `bit` (of the whole key) in the word that holds it. */
export function bitOf(word: number, bit: number): number {
  return (word >>> (31 - (bit & 31))) & 1
}
