/**
 * The header that stands before every packet of a TUN device with IFF_VNET_HDR (linux/virtio_net.h, in the machine's byte order):
 *
 * | offset | size | field |
 * |---|---|---|
 * | 0 | 1 | flags: 1 when the checksum is still to be completed |
 * | 1 | 1 | kind: 0 one packet, 1 a row of TCP over IPv4, 4 of TCP over IPv6, 5 of UDP; with 0x80: the first segment carries CWR |
 * | 2 | 2 | length of all headers; a hint that is not relied upon |
 * | 4 | 2 | payload of each segment |
 * | 6 | 2 | where the checksum begins |
 * | 8 | 2 | where its field stands, from there |
 */
export const VNET_HEADER_BYTES = 10
export const VNET_NEEDS_CHECKSUM = 1
export const VNET_GSO_NONE = 0
export const VNET_GSO_TCPV4 = 1
export const VNET_GSO_TCPV6 = 4
export const VNET_GSO_UDP = 5
const VNET_GSO_ECN = 0x80

/** A header as values; one object is used again for all packets. */
export interface VnetHeader {
  needsChecksum: boolean
  /** `VNET_GSO_NONE` and so on, without the bit for ECN. */
  kind: number
  segmentBytes: number
  checksumStart: number
  checksumOffset: number
}

/** A header without a meaning yet. */
export function emptyVnetHeader(): VnetHeader {
  return { needsChecksum: false, kind: VNET_GSO_NONE, segmentBytes: 0, checksumStart: 0, checksumOffset: 0 }
}

/** Reads the header at `at`; the caller has made sure that its 10 bytes are there. Nothing in it is checked. */
export function decodeVnetHeader(view: DataView, at: number, into: VnetHeader): void {
  into.needsChecksum = (view.getUint8(at) & VNET_NEEDS_CHECKSUM) !== 0
  into.kind = view.getUint8(at + 1) & ~VNET_GSO_ECN
  into.segmentBytes = view.getUint16(at + 4, true)
  into.checksumStart = view.getUint16(at + 6, true)
  into.checksumOffset = view.getUint16(at + 8, true)
}

/** Writes the header of one packet that is complete. */
export function encodePlainVnetHeader(view: DataView, at: number): void {
  view.setUint32(at, 0)
  view.setUint32(at + 4, 0)
  view.setUint16(at + 8, 0)
}

/** Writes the header of a row whose checksum field holds the sum of the pseudo header. */
export function encodeRowVnetHeader(view: DataView, at: number, kind: number, headerBytes: number, segmentBytes: number, checksumStart: number, checksumOffset: number): void {
  view.setUint8(at, VNET_NEEDS_CHECKSUM)
  view.setUint8(at + 1, kind)
  view.setUint16(at + 2, headerBytes, true)
  view.setUint16(at + 4, segmentBytes, true)
  view.setUint16(at + 6, checksumStart, true)
  view.setUint16(at + 8, checksumOffset, true)
}
