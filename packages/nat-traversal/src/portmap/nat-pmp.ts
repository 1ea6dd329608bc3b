import { ByteReader, ByteWriter } from '@meshwright/core'
import { Ip } from '@meshwright/ip'

/** UDP port of NAT-PMP and PCP servers: on the default gateway (RFC 6886 section 1.1, RFC 6887 section 19). */
export const GATEWAY_PORT = 5351

const VERSION = 0
const OP_EXTERNAL_ADDRESS = 0
const OP_MAP_UDP = 1
const RESPONSE_BIT = 0x80

/** Asks a NAT-PMP gateway for its external address: 2 zero bytes (RFC 6886 section 3.2). */
export function encodeNatPmpAddressRequest(): Uint8Array {
  return Uint8Array.of(VERSION, OP_EXTERNAL_ADDRESS)
}

/** What is asked of a gateway: UDP from an external port to a port of ours. */
export interface PortMapRequest {
  readonly internalPort: number
  /** Wished external port; 0 for any. */
  readonly suggestedPort: number
  /** 0 deletes the mapping. */
  readonly lifetimeSeconds: number
}

/**
 * A NAT-PMP mapping request for UDP (RFC 6886 section 3.3).
 *
 * | offset | size | field |
 * |---|---|---|
 * | 0 | 1 | version 0 |
 * | 1 | 1 | opcode 1, map UDP |
 * | 2 | 2 | zero |
 * | 4 | 2 | internal port, big-endian |
 * | 6 | 2 | suggested external port, big-endian |
 * | 8 | 4 | lifetime in seconds, big-endian |
 */
export function encodeNatPmpMapRequest(request: PortMapRequest): Uint8Array {
  return new ByteWriter(12).u8(VERSION).u8(OP_MAP_UDP).u16be(0).u16be(request.internalPort).u16be(request.suggestedPort).u32be(request.lifetimeSeconds).finish()
}

/** An answer of a NAT-PMP gateway. `result` 0 is success (RFC 6886 section 3.5); `epochSeconds` counts from its last restart. */
export type NatPmpResponse =
  | { readonly type: 'address'; readonly result: number; readonly epochSeconds: number; readonly externalIp: Ip | undefined }
  | {
      readonly type: 'mapped'
      readonly result: number
      readonly epochSeconds: number
      readonly internalPort: number
      readonly externalPort: number
      readonly lifetimeSeconds: number
    }

/** Decodes an answer; `undefined` when it is none. Failures may be cut after the epoch. */
export function decodeNatPmpResponse(bytes: Uint8Array): NatPmpResponse | undefined {
  const r = new ByteReader(bytes)
  const version = r.u8()
  const op = r.u8()
  const result = r.u16be()
  const epochSeconds = r.u32be()
  if (!r.ok || version !== VERSION) return undefined
  if (op === (OP_EXTERNAL_ADDRESS | RESPONSE_BIT)) {
    const externalIp = Ip.fromBytes(r.bytes(4))
    return result === 0 && externalIp === undefined ? undefined : { type: 'address', result, epochSeconds, externalIp }
  }
  if (op !== (OP_MAP_UDP | RESPONSE_BIT)) return undefined
  const response = { type: 'mapped', result, epochSeconds, internalPort: r.u16be(), externalPort: r.u16be(), lifetimeSeconds: r.u32be() } as const
  return r.ok || result !== 0 ? response : undefined
}
