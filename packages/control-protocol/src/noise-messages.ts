import { ByteReader, ByteWriter, formatBase64, parseBase64, utf8Decode, utf8Encode } from '@meshwright/core'

/** The value of the `Upgrade` header on both sides, and the WebSocket subprotocol. */
export const NOISE_UPGRADE = 'tailscale-control-protocol'
/** The request header that carries the initiation in base64. */
export const NOISE_HANDSHAKE_HEADER = 'X-Tailscale-Handshake'

/** Whole size of an initiation, in bytes. */
export const INITIATION_BYTES = 101
/** Whole size of a response, in bytes. */
export const RESPONSE_BYTES = 51
/** Largest frame with its header, in bytes. */
export const MAX_FRAME_BYTES = 4096
/** Largest plaintext of one record, in bytes. */
export const MAX_RECORD_PLAINTEXT_BYTES = 4077

/** Frame type of an initiation. */
export const TYPE_INITIATION = 1
/** Frame type of a response. */
export const TYPE_RESPONSE = 2
/** Frame type of an unauthenticated error text. */
export const TYPE_ERROR = 3
/** Frame type of a record. */
export const TYPE_RECORD = 4
/** Type and length in front of every frame but the initiation. */
export const HEADER_BYTES = 3
/** Poly1305 tag behind every ciphertext. */
export const TAG_BYTES = 16
const INITIATION_NOISE_BYTES = 96
const EARLY_MAGIC = Uint8Array.of(0xff, 0xff, 0xff, 0x54, 0x53)
/** Magic and length in front of an early payload; an HTTP/2 frame header is as long. */
export const EARLY_HEADER_BYTES = 9
/** Longest early payload that is read: real ones have about 100 bytes; the protocol would allow 10 MiB. */
export const MAX_EARLY_PAYLOAD_BYTES = 65_536
const MAX_ERROR_TEXT = 200

/** The prologue of the handshake: both sides must mean the same version. */
export function noisePrologue(version: number): Uint8Array {
  return utf8Encode(`Tailscale Control Protocol v${version}`)
}

/**
 * | offset | bytes | field |
 * |---|---|---|
 * | 0 | 2 | capability version, big-endian |
 * | 2 | 1 | type 1 |
 * | 3 | 2 | length 96, big-endian |
 * | 5 | 96 | Noise message: ephemeral key 32, sealed static key 48, tag 16 |
 */
export function encodeInitiation(version: number, noise: Uint8Array): Uint8Array {
  return new ByteWriter(INITIATION_BYTES).u16be(version).u8(TYPE_INITIATION).u16be(noise.length).bytes(noise).finish()
}

/** Version and Noise message of an initiation; `undefined` when it is not one. */
export function decodeInitiation(bytes: Uint8Array): { readonly version: number; readonly noise: Uint8Array } | undefined {
  const reader = new ByteReader(bytes)
  const version = reader.u16be()
  const type = reader.u8()
  const length = reader.u16be()
  const noise = reader.bytes(INITIATION_NOISE_BYTES)
  return reader.finished && type === TYPE_INITIATION && length === INITIATION_NOISE_BYTES ? { version, noise } : undefined
}

/** The initiation in the value of the request header; `undefined` when it is not one. */
export function parseHandshakeHeader(value: string): Uint8Array | undefined {
  const bytes = value.length > 200 ? undefined : parseBase64(value)
  return bytes && decodeInitiation(bytes) ? bytes : undefined
}

/** The value of the request header. */
export function formatHandshakeHeader(initiation: Uint8Array): string {
  return formatBase64(initiation)
}

/** Type (1 byte), length (2, big-endian), body: every frame but the initiation. */
export function encodeFrame(type: number, body: Uint8Array): Uint8Array {
  return new ByteWriter(HEADER_BYTES + body.length).u8(type).u16be(body.length).bytes(body).finish()
}

/** An unauthenticated hint why the handshake failed. */
export function encodeErrorFrame(text: string): Uint8Array {
  return encodeFrame(TYPE_ERROR, utf8Encode(text.slice(0, MAX_ERROR_TEXT)))
}

/** The text of an error frame, made safe to show: it is not authentic. */
export function errorFrameText(body: Uint8Array): string {
  return utf8Decode(body.subarray(0, MAX_ERROR_TEXT)).replace(/[^\x20-\x7e]/g, '?')
}

/** `ff ff ff 54 53`, length as u32 big-endian, JSON: what may come before HTTP/2 from the server. */
export function encodeEarlyPayload(json: Uint8Array): Uint8Array {
  return new ByteWriter(EARLY_HEADER_BYTES + json.length).bytes(EARLY_MAGIC).u32be(json.length).bytes(json).finish()
}

/** Length of the early payload that these 9 bytes announce; `undefined` when they begin HTTP/2 instead. */
export function decodeEarlyHeader(bytes: Uint8Array): number | undefined {
  for (let i = 0; i < EARLY_MAGIC.length; i += 1) if (bytes[i] !== EARLY_MAGIC[i]) return undefined
  return new ByteReader(bytes.subarray(EARLY_MAGIC.length)).u32be()
}
