/**
 * Adds the 16-bit big-endian words of `view[start .. end)` to a running Internet checksum (RFC 1071); an odd last byte counts as the
 * upper half of a word. Sums of at most 64 KiB stay below 2^32, so carries are folded only once, by {@link foldSum}.
 */
export function addWords(sum: number, view: DataView, start: number, end: number): number {
  let total = sum
  let at = start
  for (const stop = end - 15; at < stop; at += 16) {
    const a = view.getUint32(at)
    const b = view.getUint32(at + 4)
    const c = view.getUint32(at + 8)
    const d = view.getUint32(at + 12)
    total += (a >>> 16) + (a & 0xffff) + (b >>> 16) + (b & 0xffff) + (c >>> 16) + (c & 0xffff) + (d >>> 16) + (d & 0xffff)
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
