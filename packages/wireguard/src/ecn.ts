/** Traffic class of handshake messages: AF41, so that they overtake what fills a queue (kernel: HANDSHAKE_DSCP). */
export const HANDSHAKE_TRAFFIC_CLASS = 0x88

const NOT_ECT = 0
const ECT_0 = 2
const CE = 3

/**
 * The traffic class that the outer datagram of an inner packet should carry: its ECN bits, with "congestion experienced" as ECT(0), and
 * no DSCP, which would tell what is inside (RFC 6040 section 4.1; INET_ECN_encapsulate of the kernel). 0 for what is no IP packet.
 */
export function outerTrafficClass(memory: Uint8Array, offset: number, length: number): number {
  const ecn = ecnOf(memory, offset, length)
  return ecn === CE ? ECT_0 : ecn
}

/**
 * The outer datagram came with "congestion experienced": marks the inner packet, in place, if its ends speak ECN; otherwise nothing
 * happens. The IPv4 header checksum is kept right (RFC 1624). For callers of `open`; `handleInput` does it by itself.
 */
export function markCongestion(memory: Uint8Array, offset: number, length: number): void {
  const ecn = ecnOf(memory, offset, length)
  if (ecn === NOT_ECT || ecn === CE) return
  const at = offset + 1
  if (((memory[offset] ?? 0) >> 4) === 6) {
    memory[at] = (memory[at] ?? 0) | (CE << 4)
    return
  }
  memory[at] = (memory[at] ?? 0) | CE
  // HC' = ~(~HC + ~m + m'): the word grew by CE - ecn, so the complement of the sum grows by that.
  let sum = (~(((memory[offset + 10] ?? 0) << 8) | (memory[offset + 11] ?? 0)) & 0xffff) + (CE - ecn)
  sum = (sum & 0xffff) + (sum >> 16)
  const checksum = ~sum & 0xffff
  memory[offset + 10] = checksum >> 8
  memory[offset + 11] = checksum & 255
}

function ecnOf(memory: Uint8Array, offset: number, length: number): number {
  const version = length < 20 ? 0 : (memory[offset] ?? 0) >> 4
  if (version === 4) return (memory[offset + 1] ?? 0) & 3
  return version === 6 && length >= 40 ? ((memory[offset + 1] ?? 0) >> 4) & 3 : NOT_ECT
}
