import { COOKIE_NONCE_BYTES } from './constants.ts'

/** Message type of a handshake initiation. */
export const INITIATION_TYPE = 1
/** Message type of a handshake response. */
export const RESPONSE_TYPE = 2
/** Message type of a cookie reply. */
export const COOKIE_REPLY_TYPE = 3
/** Message type of transport data. */
export const TRANSPORT_TYPE = 4

export const INITIATION_BYTES = 148
export const RESPONSE_BYTES = 92
export const COOKIE_REPLY_BYTES = 64
export const TRANSPORT_HEADER_BYTES = 16
/** Header and tag: the least length of a transport message, which is a keepalive. */
export const TRANSPORT_MIN_BYTES = 32

// Offsets inside an initiation (see `InitiationMessage`).
export const INITIATION_EPHEMERAL_AT = 8
export const INITIATION_STATIC_AT = 40
export const INITIATION_TIMESTAMP_AT = 88
export const INITIATION_MAC1_AT = 116
export const INITIATION_MAC2_AT = 132

// Offsets inside a response (see `ResponseMessage`).
export const RESPONSE_EPHEMERAL_AT = 12
export const RESPONSE_EMPTY_AT = 44
export const RESPONSE_MAC1_AT = 60
export const RESPONSE_MAC2_AT = 76

const COOKIE_NONCE_AT = 8
const COOKIE_SEALED_AT = 32

/**
 * Handshake initiation, 148 bytes, integers little-endian:
 *
 * | offset | bytes | field |
 * |---|---|---|
 * | 0 | 4 | type 1, three zero bytes |
 * | 4 | 4 | sender's index |
 * | 8 | 32 | ephemeral public key |
 * | 40 | 48 | sealed static public key |
 * | 88 | 28 | sealed timestamp (TAI64N) |
 * | 116 | 16 | mac1 over bytes 0..115 |
 * | 132 | 16 | mac2 over bytes 0..131, or zeros |
 */
export interface InitiationMessage {
  readonly type: typeof INITIATION_TYPE
  readonly sender: number
  readonly ephemeral: Uint8Array
  readonly sealedStatic: Uint8Array
  readonly sealedTimestamp: Uint8Array
  readonly mac1: Uint8Array
  readonly mac2: Uint8Array
}

/**
 * Handshake response, 92 bytes:
 *
 * | offset | bytes | field |
 * |---|---|---|
 * | 0 | 4 | type 2, three zero bytes |
 * | 4 | 4 | sender's index |
 * | 8 | 4 | receiver's index: the initiation's sender index |
 * | 12 | 32 | ephemeral public key |
 * | 44 | 16 | sealed nothing: a tag |
 * | 60 | 16 | mac1 over bytes 0..59 |
 * | 76 | 16 | mac2 over bytes 0..75, or zeros |
 */
export interface ResponseMessage {
  readonly type: typeof RESPONSE_TYPE
  readonly sender: number
  readonly receiver: number
  readonly ephemeral: Uint8Array
  readonly sealedEmpty: Uint8Array
  readonly mac1: Uint8Array
  readonly mac2: Uint8Array
}

/**
 * Cookie reply, 64 bytes:
 *
 * | offset | bytes | field |
 * |---|---|---|
 * | 0 | 4 | type 3, three zero bytes |
 * | 4 | 4 | receiver's index: the sender index of the refused message |
 * | 8 | 24 | nonce |
 * | 32 | 32 | sealed cookie |
 */
export interface CookieReplyMessage {
  readonly type: typeof COOKIE_REPLY_TYPE
  readonly receiver: number
  readonly nonce: Uint8Array
  readonly sealedCookie: Uint8Array
}

/**
 * Transport data, 32 bytes or more:
 *
 * | offset | bytes | field |
 * |---|---|---|
 * | 0 | 4 | type 4, three zero bytes |
 * | 4 | 4 | receiver's index |
 * | 8 | 8 | message number |
 * | 16 | .. | sealed packet and tag |
 */
export interface TransportMessage {
  readonly type: typeof TRANSPORT_TYPE
  readonly receiver: number
  readonly counterLow: number
  readonly counterHigh: number
  readonly sealed: Uint8Array
}

/** Any WireGuard message. Its byte fields are views of the datagram. */
export type WireGuardMessage = InitiationMessage | ResponseMessage | CookieReplyMessage | TransportMessage

/** The message type of `length` bytes at `offset`, or 0 when they are no WireGuard message: type, reserved bytes and length decide. */
export function messageType(view: DataView, offset: number, length: number): 0 | 1 | 2 | 3 | 4 {
  if (length < TRANSPORT_MIN_BYTES) return 0
  const word = view.getUint32(offset, true) // type and reserved bytes as one word, so that a set reserved byte is an unknown type
  if (word === TRANSPORT_TYPE) return TRANSPORT_TYPE
  if (word === INITIATION_TYPE && length === INITIATION_BYTES) return INITIATION_TYPE
  if (word === RESPONSE_TYPE && length === RESPONSE_BYTES) return RESPONSE_TYPE
  if (word === COOKIE_REPLY_TYPE && length === COOKIE_REPLY_BYTES) return COOKIE_REPLY_TYPE
  return 0
}

/** Reads a datagram as a WireGuard message (WireGuard paper, section 5.4); `undefined` for any other bytes. Nothing is authenticated by this. */
export function decodeMessage(bytes: Uint8Array): WireGuardMessage | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  switch (messageType(view, 0, bytes.length)) {
    case INITIATION_TYPE:
      return {
        type: INITIATION_TYPE,
        sender: view.getUint32(4, true),
        ephemeral: bytes.subarray(INITIATION_EPHEMERAL_AT, INITIATION_STATIC_AT),
        sealedStatic: bytes.subarray(INITIATION_STATIC_AT, INITIATION_TIMESTAMP_AT),
        sealedTimestamp: bytes.subarray(INITIATION_TIMESTAMP_AT, INITIATION_MAC1_AT),
        mac1: bytes.subarray(INITIATION_MAC1_AT, INITIATION_MAC2_AT),
        mac2: bytes.subarray(INITIATION_MAC2_AT),
      }
    case RESPONSE_TYPE:
      return {
        type: RESPONSE_TYPE,
        sender: view.getUint32(4, true),
        receiver: view.getUint32(8, true),
        ephemeral: bytes.subarray(RESPONSE_EPHEMERAL_AT, RESPONSE_EMPTY_AT),
        sealedEmpty: bytes.subarray(RESPONSE_EMPTY_AT, RESPONSE_MAC1_AT),
        mac1: bytes.subarray(RESPONSE_MAC1_AT, RESPONSE_MAC2_AT),
        mac2: bytes.subarray(RESPONSE_MAC2_AT),
      }
    case COOKIE_REPLY_TYPE:
      return {
        type: COOKIE_REPLY_TYPE,
        receiver: view.getUint32(4, true),
        nonce: bytes.subarray(COOKIE_NONCE_AT, COOKIE_SEALED_AT),
        sealedCookie: bytes.subarray(COOKIE_SEALED_AT),
      }
    case TRANSPORT_TYPE:
      return {
        type: TRANSPORT_TYPE,
        receiver: view.getUint32(4, true),
        counterLow: view.getUint32(8, true),
        counterHigh: view.getUint32(12, true),
        sealed: bytes.subarray(TRANSPORT_HEADER_BYTES),
      }
    default:
      return undefined
  }
}

/** The bytes of an initiation with both macs still zero. */
export function encodeInitiation(message: Omit<InitiationMessage, 'type' | 'mac1' | 'mac2'>): Uint8Array {
  const bytes = new Uint8Array(INITIATION_BYTES)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, INITIATION_TYPE, true)
  view.setUint32(4, message.sender, true)
  bytes.set(message.ephemeral, INITIATION_EPHEMERAL_AT)
  bytes.set(message.sealedStatic, INITIATION_STATIC_AT)
  bytes.set(message.sealedTimestamp, INITIATION_TIMESTAMP_AT)
  return bytes
}

/** The bytes of a response with both macs still zero. */
export function encodeResponse(message: Omit<ResponseMessage, 'type' | 'mac1' | 'mac2'>): Uint8Array {
  const bytes = new Uint8Array(RESPONSE_BYTES)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, RESPONSE_TYPE, true)
  view.setUint32(4, message.sender, true)
  view.setUint32(8, message.receiver, true)
  bytes.set(message.ephemeral, RESPONSE_EPHEMERAL_AT)
  bytes.set(message.sealedEmpty, RESPONSE_EMPTY_AT)
  return bytes
}

/** The bytes of a cookie reply. */
export function encodeCookieReply(receiver: number, nonce: Uint8Array, sealedCookie: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(COOKIE_REPLY_BYTES)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, COOKIE_REPLY_TYPE, true)
  view.setUint32(4, receiver, true)
  bytes.set(nonce.subarray(0, COOKIE_NONCE_BYTES), COOKIE_NONCE_AT)
  bytes.set(sealedCookie, COOKIE_SEALED_AT)
  return bytes
}

/** Writes the 16-byte head of a transport message at `offset`. */
export function writeTransportHeader(view: DataView, offset: number, receiver: number, counterLow: number, counterHigh: number): void {
  view.setUint32(offset, TRANSPORT_TYPE, true)
  view.setUint32(offset + 4, receiver, true)
  view.setUint32(offset + 8, counterLow, true)
  view.setUint32(offset + 12, counterHigh, true)
}
