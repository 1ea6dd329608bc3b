import { PADDING_MULTIPLE } from './constants.ts'

/**
 * Length of an inner packet after padding: up to a multiple of 16, but never past the MTU (WireGuard/wireguard-go:device/send.go). A
 * packet longer than the MTU is padded as if its last part alone were sent.
 * @param mtu MTU of the tunnel in bytes, 0 when unknown
 */
export function paddedLength(length: number, mtu: number): number {
  if (mtu === 0) return roundUp(length)
  const last = length > mtu ? length % mtu : length
  return length - last + Math.min(roundUp(last), mtu)
}

function roundUp(length: number): number {
  return Math.ceil(length / PADDING_MULTIPLE) * PADDING_MULTIPLE
}

/**
 * Length that the IP header of an inner packet claims: what is left after cutting the padding off. -1 when the bytes are no whole IPv4
 * or IPv6 packet. Only the lengths are checked; the source address is the caller's to check.
 */
export function innerLength(memory: Uint8Array, offset: number, length: number): number {
  if (length < 20) return -1
  const version = (memory[offset] ?? 0) >> 4
  if (version === 4) {
    const total = ((memory[offset + 2] ?? 0) << 8) | (memory[offset + 3] ?? 0)
    return total >= 20 && total <= length ? total : -1
  }
  if (version === 6 && length >= 40) {
    const total = 40 + (((memory[offset + 4] ?? 0) << 8) | (memory[offset + 5] ?? 0))
    return total <= length ? total : -1
  }
  return -1
}
