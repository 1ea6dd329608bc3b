import { ByteWriter, concatBytes, formatHex, type UnixMillis, utf8Decode, utf8Encode } from '@meshwright/core'
import { NodePublicKey } from '@meshwright/crypto'
import { DERP_VERSION } from './frame-types.ts'

const COMMON_NAME_PREFIX = 'derpkey'
const DAY_MS = 86_400_000
/** Validity of a metacert, on both sides of now. */
const METACERT_DAYS = 30

/** What a self-signed X.509 certificate is made of. */
export interface SelfSignedCertificate {
  readonly commonName: string
  /** Positive, at most 2^31-1; must differ between certificates of one name. */
  readonly serial: number
  readonly notBefore: UnixMillis
  readonly notAfter: UnixMillis
  /** DER of the SubjectPublicKeyInfo. */
  readonly publicKeyInfo: Uint8Array
  /** Ed25519 (RFC 8410), or ECDSA with SHA-256 and a DER signature (RFC 5758). */
  readonly algorithm: 'ed25519' | 'ecdsa-sha256'
  /** Signs the bytes it is given with the key that belongs to `publicKeyInfo`. */
  readonly sign: (bytes: Uint8Array) => Uint8Array
  /** Names and addresses (4 or 16 bytes) that the certificate is for. */
  readonly dnsNames?: readonly string[]
  readonly addresses?: readonly Uint8Array[]
}

/** DER of a self-signed certificate (RFC 5280): for relays that are pinned by their hash, and for metacerts. */
export function encodeSelfSignedCertificate(certificate: SelfSignedCertificate): Uint8Array {
  const algorithm = sequence(oid(certificate.algorithm === 'ed25519' ? OID_ED25519 : OID_ECDSA_SHA256))
  const name = sequence(set(sequence(oid(OID_COMMON_NAME), der(0x0c, utf8Encode(certificate.commonName)))))
  const signed = sequence(
    der(0xa0, der(0x02, Uint8Array.of(2))), // version 3
    der(0x02, integerBytes(certificate.serial)),
    algorithm,
    name, // the issuer is the subject
    sequence(time(certificate.notBefore), time(certificate.notAfter)),
    name,
    certificate.publicKeyInfo,
    der(0xa3, sequence(...extensions(certificate))),
  )
  return sequence(signed, algorithm, der(0x03, Uint8Array.of(0), certificate.sign(signed)))
}

/**
 * DER of the certificate by which a server tells its key inside TLS, so that clients need not wait for it: behind the leaf in the
 * chain. A server that sends it must support fast start. Source: tailscale/tailscale:derp/derpserver/derpserver.go (initMetacert).
 * @param publicKeyInfo DER of a fresh Ed25519 key's SubjectPublicKeyInfo
 */
export function encodeMetacert(serverKey: NodePublicKey, now: UnixMillis, publicKeyInfo: Uint8Array, sign: (bytes: Uint8Array) => Uint8Array): Uint8Array {
  return encodeSelfSignedCertificate({
    commonName: COMMON_NAME_PREFIX + formatHex(serverKey.bytes),
    serial: DERP_VERSION,
    notBefore: now - METACERT_DAYS * DAY_MS,
    notAfter: now + METACERT_DAYS * DAY_MS,
    publicKeyInfo,
    algorithm: 'ed25519',
    sign,
  })
}

/**
 * Reads the server's key from a metacert's DER; `undefined` for every other certificate. Look at all certificates that the server sent,
 * and trust the answer only under TLS 1.3 or newer: in older versions certificates travel unencrypted.
 */
export function decodeMetacert(certificate: Uint8Array): { serverKey: NodePublicKey; version: number } | undefined {
  const signed = inner(inner(certificate, 0, 0x30), 0, 0x30)
  const version = signed && element(signed, 0)
  if (signed === undefined || version?.tag !== 0xa0) return undefined
  const serial = element(signed, version.end)
  if (serial?.tag !== 0x02 || serial.value.length !== 1) return undefined
  let at = serial.end
  for (const _ of ['algorithm', 'issuer', 'validity']) {
    const skipped = element(signed, at)
    if (skipped === undefined) return undefined
    at = skipped.end
  }
  const attribute = inner(inner(inner(signed, at, 0x30), 0, 0x31), 0, 0x30)
  const type = attribute && element(attribute, 0)
  if (attribute === undefined || type?.tag !== 0x06 || formatHex(type.value) !== formatHex(OID_COMMON_NAME)) return undefined
  const name = element(attribute, type.end)
  const text = name?.tag === 0x0c || name?.tag === 0x13 ? utf8Decode(name.value) : ''
  const number = serial.value[0] ?? 0
  if (!text.startsWith(COMMON_NAME_PREFIX) || number === 0 || number > 0x7f) return undefined
  const serverKey = NodePublicKey.parse(`nodekey:${text.slice(COMMON_NAME_PREFIX.length)}`)
  return serverKey && { serverKey, version: number }
}

const OID_ED25519 = Uint8Array.of(0x2b, 0x65, 0x70)
const OID_ECDSA_SHA256 = Uint8Array.of(0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02)
const OID_COMMON_NAME = Uint8Array.of(0x55, 0x04, 0x03)
const OID_BASIC_CONSTRAINTS = Uint8Array.of(0x55, 0x1d, 0x13)
const OID_ALTERNATIVE_NAMES = Uint8Array.of(0x55, 0x1d, 0x11)

function extensions(certificate: SelfSignedCertificate): Uint8Array[] {
  const names = [
    ...(certificate.dnsNames ?? []).map((name) => der(0x82, utf8Encode(name))),
    ...(certificate.addresses ?? []).map((address) => der(0x87, address)),
  ]
  const list = [sequence(oid(OID_BASIC_CONSTRAINTS), der(0x01, Uint8Array.of(0xff)), der(0x04, sequence()))]
  if (names.length > 0) list.push(sequence(oid(OID_ALTERNATIVE_NAMES), der(0x04, sequence(...names))))
  return list
}

function der(tag: number, ...parts: readonly Uint8Array[]): Uint8Array {
  const body = concatBytes(...parts)
  const w = new ByteWriter(body.length + 4).u8(tag)
  if (body.length < 0x80) w.u8(body.length)
  else if (body.length < 0x100) w.u8(0x81).u8(body.length)
  else w.u8(0x82).u16be(body.length)
  return w.bytes(body).finish()
}

function sequence(...parts: readonly Uint8Array[]): Uint8Array {
  return der(0x30, ...parts)
}

function set(...parts: readonly Uint8Array[]): Uint8Array {
  return der(0x31, ...parts)
}

function oid(bytes: Uint8Array): Uint8Array {
  return der(0x06, bytes)
}

/** Two's complement, shortest form. */
function integerBytes(value: number): Uint8Array {
  const bytes = [value & 0xff]
  for (let rest = value >>> 8; rest > 0; rest >>>= 8) bytes.unshift(rest & 0xff)
  if ((bytes[0] ?? 0) >= 0x80) bytes.unshift(0)
  return Uint8Array.from(bytes)
}

/** UTCTime up to 2049, GeneralizedTime from 2050 (RFC 5280 section 4.1.2.5). */
function time(at: UnixMillis): Uint8Array {
  const days = Math.floor(at / DAY_MS)
  const seconds = Math.floor((at - days * DAY_MS) / 1000)
  const { year, month, day } = civil(days)
  const two = (value: number): string => String(value).padStart(2, '0')
  const rest = `${two(month)}${two(day)}${two(Math.floor(seconds / 3600))}${two(Math.floor(seconds / 60) % 60)}${two(seconds % 60)}Z`
  return year < 2050 ? der(0x17, utf8Encode(two(year % 100) + rest)) : der(0x18, utf8Encode(String(year).padStart(4, '0') + rest))
}

/** Calendar date of a day count since 1970-01-01: `Date` is not available on this floor. Works in eras of 400 years that begin on 1 March. */
function civil(days: number): { year: number; month: number; day: number } {
  const shifted = days + 719_468
  const era = Math.floor(shifted / 146_097)
  const dayOfEra = shifted - era * 146_097
  const yearOfEra = Math.floor((dayOfEra - Math.floor(dayOfEra / 1_460) + Math.floor(dayOfEra / 36_524) - Math.floor(dayOfEra / 146_096)) / 365)
  const dayOfYear = dayOfEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100))
  const shiftedMonth = Math.floor((5 * dayOfYear + 2) / 153)
  const month = shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9
  return { year: yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month, day: dayOfYear - Math.floor((153 * shiftedMonth + 2) / 5) + 1 }
}

interface Element {
  readonly tag: number
  readonly value: Uint8Array
  readonly end: number
}

/** The DER element at `at`; `undefined` when it does not fit. Lengths of up to two bytes: larger certificates are no metacerts. */
function element(bytes: Uint8Array, at: number): Element | undefined {
  const tag = bytes[at]
  const first = bytes[at + 1]
  if (tag === undefined || first === undefined) return undefined
  const extra = first < 0x80 ? 0 : first - 0x80
  if (extra > 2 || first === 0x80 || at + 2 + extra > bytes.length) return undefined
  let length = extra === 0 ? first : 0
  for (let i = 0; i < extra; i += 1) length = length * 256 + (bytes[at + 2 + i] ?? 0)
  const start = at + 2 + extra
  return start + length <= bytes.length ? { tag, value: bytes.subarray(start, start + length), end: start + length } : undefined
}

function inner(bytes: Uint8Array | undefined, at: number, tag: number): Uint8Array | undefined {
  const found = bytes && element(bytes, at)
  return found?.tag === tag ? found.value : undefined
}
