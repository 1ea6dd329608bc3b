import type { IpFamily } from './address.ts'

/**
 * Adds bytes to an Internet checksum sum as big-endian 16-bit words, an odd last byte padded with zero (RFC 1071). Sums of several
 * parts chain through `sum`; every part but the last must be of even length. At most 64 KiB in all keeps it exact.
 */
export function addToChecksum(memory: Uint8Array, offset: number, length: number, sum: number = 0): number {
  const even = offset + (length & ~1)
  let total = sum
  for (let at = offset; at < even; at += 2) total += ((memory[at] ?? 0) << 8) | (memory[at + 1] ?? 0)
  if (length & 1) total += (memory[even] ?? 0) << 8
  return total
}

/** Folds a sum to 16 bits and inverts it: the value of a checksum field. A sum over data with a correct checksum gives 0. */
export function finishChecksum(sum: number): number {
  let folded = (sum % 0x10000) + Math.floor(sum / 0x10000)
  folded = (folded & 0xffff) + (folded >>> 16)
  folded = (folded & 0xffff) + (folded >>> 16)
  return ~folded & 0xffff
}

/** The Internet checksum of bytes (RFC 1071). */
export function checksum(memory: Uint8Array, offset: number = 0, length: number = memory.length - offset): number {
  return finishChecksum(addToChecksum(memory, offset, length))
}

/**
 * Sum of the pseudo header under a transport checksum: addresses, protocol, transport length (IPv4: RFC 9293 section 3.1; IPv6:
 * RFC 8200 section 8.1). Adding it to the sum of header and payload and finishing gives the checksum.
 */
export function pseudoHeaderSum(
  family: IpFamily,
  memory: Uint8Array,
  srcOffset: number,
  dstOffset: number,
  protocol: number,
  transportLength: number,
): number {
  const bytes = family === 4 ? 4 : 16
  return addToChecksum(memory, srcOffset, bytes) + addToChecksum(memory, dstOffset, bytes) + protocol + (transportLength >>> 16) + (transportLength & 0xffff)
}

/** A checksum after one 16-bit word under it has changed, without reading the rest (RFC 1624 equation 3). */
export function updateChecksum(old: number, oldWord: number, newWord: number): number {
  return finishChecksum((~old & 0xffff) + (~oldWord & 0xffff) + newWord)
}
