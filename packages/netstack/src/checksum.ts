/**
 * Adds the 16-bit big-endian words of `view[start .. end)` to a running Internet checksum (RFC 1071); an odd last byte counts as the
 * upper half of a word. For at most 64 KiB at once; carries are folded by {@link foldSum}.
 */
export function addWords(sum: number, view: DataView, start: number, end: number): number {
  let total = sum
  let at = start
  if (end - start >= 16) {
    // Little-endian, as processors read: the sum has its bytes the other way round (RFC 1071 section 2 (B)). All 32-bit words together, by
    // modulus 2^32, and their upper halves: from both follows the sum of the lower halves, which is below 2^32.
    let all = 0
    let upper = 0
    for (const stop = end - 15; at < stop; at += 16) {
      const a = view.getInt32(at, true)
      const b = view.getInt32(at + 4, true)
      const c = view.getInt32(at + 8, true)
      const d = view.getInt32(at + 12, true)
      all = (all + a + b + c + d) | 0
      upper = (upper + (a >>> 16) + (b >>> 16) + (c >>> 16) + (d >>> 16)) | 0
    }
    const turned = foldSum(upper + ((all - (upper << 16)) >>> 0))
    total += ((turned & 0xff) << 8) | (turned >>> 8)
  }
  for (; at + 1 < end; at += 2) total += view.getUint16(at)
  if (at < end) total += view.getUint8(at) << 8
  return total
}

/** Folds a running sum to 16 bits: 0xffff for data that already holds its right checksum. */
export function foldSum(sum: number): number {
  let folded = sum
  while (folded > 0xffff) folded = (folded & 0xffff) + Math.floor(folded / 0x1_0000)
  return folded
}

/** The checksum field for a running sum: its ones' complement. */
export function complementSum(sum: number): number {
  return ~foldSum(sum) & 0xffff
}

/** Sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1) without the length, which the caller adds. */
export function pseudoHeaderSum(source: Uint8Array, destination: Uint8Array, protocol: number): number {
  let sum = protocol
  for (const address of [source, destination]) {
    for (let i = 0; i + 1 < address.length; i += 2) sum += ((address[i] ?? 0) << 8) | (address[i + 1] ?? 0)
  }
  return sum
}
