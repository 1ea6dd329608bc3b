/** Length of a Geneve header without options, in bytes. */
export const GENEVE_HEADER_BYTES = 8

const PROTOCOL_HIGH = 0x7a
const PROTOCOL_DISCO_LOW = 0x11
const PROTOCOL_WIREGUARD_LOW = 0x12
const CONTROL_BIT = 0x80

/** The header in front of everything that passes a UDP peer relay (RFC 8926; tailscale/tailscale:net/packet/geneve.go). */
export interface GeneveHeader {
  /** What stands behind the header: 0x7a11 disco, 0x7a12 WireGuard. */
  readonly protocol: 'disco' | 'wireguard'
  /** Virtual network id: which allocation of the relay, 0 to 2^24 - 1. */
  readonly vni: number
  /** Set: between a client and the relay itself (the bind handshake). Clear: forwarded from client to client. */
  readonly control: boolean
}

/** True when the bytes begin with such a header: version 0, no options, one of the two protocols, reserved bits zero. */
export function isGeneve(bytes: Uint8Array): boolean {
  if (bytes.length < GENEVE_HEADER_BYTES || bytes[0] !== 0 || ((bytes[1] ?? 0) & 0x3f) !== 0 || bytes[7] !== 0) return false
  return bytes[2] === PROTOCOL_HIGH && (bytes[3] === PROTOCOL_DISCO_LOW || bytes[3] === PROTOCOL_WIREGUARD_LOW)
}

/**
 * A datagram of a header and what it carries.
 *
 * | offset | size | field |
 * |---|---|---|
 * | 0 | 1 | version (2 bits) and option length (6 bits): 0 |
 * | 1 | 1 | bit 7 control, rest 0 |
 * | 2 | 2 | protocol, big-endian |
 * | 4 | 3 | VNI, big-endian |
 * | 7 | 1 | 0 |
 * | 8 | ... | payload |
 */
export function encodeGeneve(header: GeneveHeader, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(GENEVE_HEADER_BYTES + payload.length)
  bytes[1] = header.control ? CONTROL_BIT : 0
  bytes[2] = PROTOCOL_HIGH
  bytes[3] = header.protocol === 'disco' ? PROTOCOL_DISCO_LOW : PROTOCOL_WIREGUARD_LOW
  bytes[4] = header.vni >>> 16
  bytes[5] = header.vni >>> 8
  bytes[6] = header.vni
  bytes.set(payload, GENEVE_HEADER_BYTES)
  return bytes
}

/** The header, and the payload as a view; `undefined` when the bytes do not begin with such a header. */
export function decodeGeneve(bytes: Uint8Array): { readonly header: GeneveHeader; readonly payload: Uint8Array } | undefined {
  if (!isGeneve(bytes)) return undefined
  const header: GeneveHeader = {
    protocol: bytes[3] === PROTOCOL_DISCO_LOW ? 'disco' : 'wireguard',
    vni: ((bytes[4] ?? 0) << 16) | ((bytes[5] ?? 0) << 8) | (bytes[6] ?? 0),
    control: ((bytes[1] ?? 0) & CONTROL_BIT) !== 0,
  }
  return { header, payload: bytes.subarray(GENEVE_HEADER_BYTES) }
}
