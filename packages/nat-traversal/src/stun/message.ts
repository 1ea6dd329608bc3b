import { ByteReader, ByteWriter } from '@meshwright/core'
import { FINGERPRINT, MAGIC_COOKIE, type StunAttribute } from './attributes.ts'
import { fingerprintOf } from './fingerprint.ts'

/** Message types of the method "Binding" (RFC 8489 section 5). */
export const BINDING_REQUEST = 0x0001
export const BINDING_RESPONSE = 0x0101
export const BINDING_ERROR = 0x0111

/** Length of a transaction id in bytes. */
export const TRANSACTION_ID_BYTES = 12

const HEADER_BYTES = 20
const ATTRIBUTE_HEADER_BYTES = 4
const FINGERPRINT_VALUE_BYTES = 4

/** A STUN message as its parts. */
export interface StunMessage {
  /** Method and class: the top two bits are zero. */
  readonly type: number
  /** 12 bytes. Decoded ones are views of the datagram: copy before keeping. */
  readonly transactionId: Uint8Array
  /** In wire order; FINGERPRINT is left out of what is encoded and kept in what is decoded. */
  readonly attributes: readonly StunAttribute[]
}

/** A decoded message and what its FINGERPRINT says. */
export interface DecodedStunMessage extends StunMessage {
  /** `valid` only where FINGERPRINT is the last attribute and right. */
  readonly fingerprint: 'absent' | 'valid' | 'wrong'
  /** Bytes of the datagram behind the message's own length. */
  readonly trailingBytes: number
}

/**
 * Encodes a STUN message (RFC 8489 section 5).
 *
 * | offset | size | field |
 * |---|---|---|
 * | 0 | 2 | type, big-endian, top two bits zero |
 * | 2 | 2 | length of all attributes with padding, big-endian |
 * | 4 | 4 | magic cookie 2112a442 |
 * | 8 | 12 | transaction id |
 * | 20 | ... | attributes: type u16, length u16 (without padding), value, zeros up to a multiple of 4 |
 *
 * @param withFingerprint adds FINGERPRINT as the last attribute
 */
export function encodeStunMessage(message: StunMessage, withFingerprint: boolean = false): Uint8Array {
  const w = new ByteWriter(96).u16be(message.type & 0x3fff).u16be(0).u32be(MAGIC_COOKIE).bytes(message.transactionId)
  for (const attribute of message.attributes) {
    w.u16be(attribute.type).u16be(attribute.value.length).bytes(attribute.value).zeros(paddingOf(attribute.value.length))
  }
  const end = withFingerprint ? ATTRIBUTE_HEADER_BYTES + FINGERPRINT_VALUE_BYTES : 0
  w.patchU16be(2, w.length - HEADER_BYTES + end) // final before the checksum is taken, which covers it
  if (withFingerprint) {
    const value = fingerprintOf(w.finish())
    w.u16be(FINGERPRINT).u16be(FINGERPRINT_VALUE_BYTES).u32be(value)
  }
  return w.finish()
}

/** Decodes a STUN message of any method; `undefined` when the framing is broken. Bytes behind its length are counted, not refused. */
export function decodeStunMessage(bytes: Uint8Array): DecodedStunMessage | undefined {
  const head = new ByteReader(bytes)
  const type = head.u16be()
  const length = head.u16be()
  const cookie = head.u32be()
  const transactionId = head.bytes(TRANSACTION_ID_BYTES)
  const body = head.bytes(length)
  if (!head.ok || type > 0x3fff || cookie !== MAGIC_COOKIE || length % 4 !== 0) return undefined
  const attributes: StunAttribute[] = []
  let fingerprint: DecodedStunMessage['fingerprint'] = 'absent'
  const r = new ByteReader(body)
  while (r.remaining > 0) {
    const at = HEADER_BYTES + r.position
    const attribute = { type: r.u16be(), value: r.bytes(r.u16be()) }
    r.skip(paddingOf(attribute.value.length))
    if (!r.ok) return undefined
    if (fingerprint === 'valid') fingerprint = 'wrong' // it has to be the last attribute
    if (attribute.type === FINGERPRINT) fingerprint = fingerprint === 'absent' ? checkFingerprint(bytes, at, attribute.value) : 'wrong'
    attributes.push(attribute)
  }
  return { type, transactionId, attributes, fingerprint, trailingBytes: head.remaining }
}

/** The first attribute of a type. */
export function findAttribute(message: StunMessage, type: number): Uint8Array | undefined {
  return message.attributes.find((attribute) => attribute.type === type)?.value
}

function checkFingerprint(bytes: Uint8Array, at: number, value: Uint8Array): 'valid' | 'wrong' {
  const said = new ByteReader(value).u32be()
  return value.length === FINGERPRINT_VALUE_BYTES && said === fingerprintOf(bytes.subarray(0, at)) ? 'valid' : 'wrong'
}

function paddingOf(length: number): number {
  return (4 - (length % 4)) % 4
}
