import { ByteReader, ByteWriter } from '@meshwright/core'
import { type Endpoint, Ip } from '@meshwright/ip'

/** Attribute types that this package reads or writes (IANA "STUN Attributes"; RFC 8489 section 18.3). */
export const MAPPED_ADDRESS = 0x0001
/** RFC 8489 section 14.8. */
export const ERROR_CODE = 0x0009
/** RFC 8489 section 14.2. */
export const XOR_MAPPED_ADDRESS = 0x0020
/** The number that XOR-MAPPED-ADDRESS had in drafts of RFC 5389; some servers still send it. */
export const XOR_MAPPED_ADDRESS_DRAFT = 0x8020
/** RFC 8489 section 14.14. */
export const SOFTWARE = 0x8022
/** RFC 8489 section 14.7. */
export const FINGERPRINT = 0x8028

/** "Magic cookie", RFC 8489 section 5. */
export const MAGIC_COOKIE = 0x2112a442

const FAMILY_IPV4 = 1
const FAMILY_IPV6 = 2

/** One attribute of a STUN message: its type and its value without padding. */
export interface StunAttribute {
  readonly type: number
  /** At most 65,535 bytes. Decoded ones are views of the datagram: copy before keeping. */
  readonly value: Uint8Array
}

/**
 * The value of a MAPPED-ADDRESS attribute (RFC 8489 section 14.1).
 *
 * | offset | size | field |
 * |---|---|---|
 * | 0 | 1 | zero |
 * | 1 | 1 | family: 1 IPv4, 2 IPv6 |
 * | 2 | 2 | port, big-endian |
 * | 4 | 4 or 16 | address |
 */
export function encodeMappedAddress(endpoint: Endpoint): Uint8Array {
  return new ByteWriter(20)
    .u8(0)
    .u8(endpoint.ip.family === 4 ? FAMILY_IPV4 : FAMILY_IPV6)
    .u16be(endpoint.port)
    .bytes(endpoint.ip.bytes)
    .finish()
}

/** The endpoint in a MAPPED-ADDRESS value, IPv4-mapped addresses as IPv4; `undefined` when malformed. */
export function decodeMappedAddress(value: Uint8Array): Endpoint | undefined {
  const r = new ByteReader(value)
  r.skip(1)
  const family = r.u8()
  const port = r.u16be()
  const address = r.bytes(family === FAMILY_IPV4 ? 4 : 16)
  if (!r.ok || (family !== FAMILY_IPV4 && family !== FAMILY_IPV6)) return undefined
  const ip = Ip.fromBytes(address)?.unmapped()
  return ip && { ip, port }
}

/** The value of an XOR-MAPPED-ADDRESS attribute: as MAPPED-ADDRESS, with port and address masked (RFC 8489 section 14.2). */
export function encodeXorMappedAddress(endpoint: Endpoint, transactionId: Uint8Array): Uint8Array {
  return mask(encodeMappedAddress(endpoint), transactionId)
}

/** The endpoint in an XOR-MAPPED-ADDRESS value, IPv4-mapped addresses as IPv4; `undefined` when malformed. */
export function decodeXorMappedAddress(value: Uint8Array, transactionId: Uint8Array): Endpoint | undefined {
  return decodeMappedAddress(mask(value.slice(0, 20), transactionId))
}

/** XORs everything behind the family with the magic cookie, then the transaction id; the port with the cookie's first half. In place. */
function mask(value: Uint8Array, transactionId: Uint8Array): Uint8Array {
  const pad = new ByteWriter(16).u32be(MAGIC_COOKIE).bytes(transactionId).finish()
  for (let i = 2; i < value.length; i += 1) value[i] = (value[i] ?? 0) ^ (pad[i < 4 ? i - 2 : i - 4] ?? 0)
  return value
}
