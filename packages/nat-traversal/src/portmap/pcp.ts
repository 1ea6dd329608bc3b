import { ByteReader, ByteWriter } from '@meshwright/core'
import { Ip } from '@meshwright/ip'
import type { PortMapRequest } from './nat-pmp.ts'

const VERSION = 2
const OP_ANNOUNCE = 0
const OP_MAP = 1
const RESPONSE_BIT = 0x80
const PROTOCOL_UDP = 17
/** Length of the nonce that names a PCP mapping, in bytes. */
export const PCP_NONCE_BYTES = 12
const IPV4_MAPPED_PREFIX = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff)
const ANY_IPV4 = Uint8Array.of(0, 0, 0, 0)

/** Asks whether a PCP server is there: the 24-byte header with opcode ANNOUNCE (RFC 6887 section 14.1). */
export function encodePcpAnnounce(clientIp: Ip): Uint8Array {
  return header(OP_ANNOUNCE, 0, clientIp).finish()
}

/**
 * A PCP MAP request for UDP (RFC 6887 sections 7.1 and 11.1).
 *
 * | offset | size | field |
 * |---|---|---|
 * | 0 | 1 | version 2 |
 * | 1 | 1 | opcode 1 |
 * | 2 | 2 | zero |
 * | 4 | 4 | lifetime in seconds, big-endian |
 * | 8 | 16 | client address, IPv4 as `::ffff:a.b.c.d` |
 * | 24 | 12 | nonce: the same for renewals and deletion |
 * | 36 | 1 | protocol 17 |
 * | 37 | 3 | zero |
 * | 40 | 2 | internal port, big-endian |
 * | 42 | 2 | suggested external port, big-endian |
 * | 44 | 16 | suggested external address |
 */
export function encodePcpMapRequest(clientIp: Ip, nonce: Uint8Array, request: PortMapRequest, suggestedIp: Ip | undefined): Uint8Array {
  const w = header(OP_MAP, request.lifetimeSeconds, clientIp).bytes(nonce).u8(PROTOCOL_UDP).zeros(3).u16be(request.internalPort).u16be(request.suggestedPort)
  writeMapped(w, suggestedIp?.bytes ?? ANY_IPV4)
  return w.finish()
}

/** An answer of a PCP server. `result` 0 is success (RFC 6887 section 7.4); the mapping's fields are there for MAP only. */
export type PcpResponse =
  | { readonly type: 'announced'; readonly result: number; readonly epochSeconds: number }
  | {
      readonly type: 'mapped'
      readonly result: number
      readonly epochSeconds: number
      readonly lifetimeSeconds: number
      /** A view of the input. */
      readonly nonce: Uint8Array
      readonly internalPort: number
      readonly externalPort: number
      readonly externalIp: Ip
    }

/** Decodes an answer; `undefined` when it is none, or for another transport protocol. */
export function decodePcpResponse(bytes: Uint8Array): PcpResponse | undefined {
  const r = new ByteReader(bytes)
  const version = r.u8()
  const op = r.u8()
  r.skip(1)
  const result = r.u8()
  const lifetimeSeconds = r.u32be()
  const epochSeconds = r.u32be()
  r.skip(12)
  if (!r.ok || version !== VERSION) return undefined
  if (op === (OP_ANNOUNCE | RESPONSE_BIT)) return { type: 'announced', result, epochSeconds }
  if (op !== (OP_MAP | RESPONSE_BIT)) return undefined
  const nonce = r.bytes(PCP_NONCE_BYTES)
  const protocol = r.u8()
  r.skip(3)
  const internalPort = r.u16be()
  const externalPort = r.u16be()
  const externalIp = Ip.fromBytes(r.bytes(16))?.unmapped()
  if (!r.ok || protocol !== PROTOCOL_UDP || externalIp === undefined) return undefined
  return { type: 'mapped', result, epochSeconds, lifetimeSeconds, nonce, internalPort, externalPort, externalIp }
}

function header(op: number, lifetimeSeconds: number, clientIp: Ip): ByteWriter {
  const w = new ByteWriter(60).u8(VERSION).u8(op).u16be(0).u32be(lifetimeSeconds)
  writeMapped(w, clientIp.bytes)
  return w
}

function writeMapped(w: ByteWriter, address: Uint8Array): void {
  if (address.length === 4) w.bytes(IPV4_MAPPED_PREFIX)
  w.bytes(address)
}
