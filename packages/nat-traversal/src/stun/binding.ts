import { utf8Encode } from '@meshwright/core'
import type { Endpoint } from '@meshwright/ip'
import {
  decodeMappedAddress,
  decodeXorMappedAddress,
  ERROR_CODE,
  MAPPED_ADDRESS,
  SOFTWARE,
  XOR_MAPPED_ADDRESS,
  XOR_MAPPED_ADDRESS_DRAFT,
} from './attributes.ts'
import { BINDING_ERROR, BINDING_REQUEST, BINDING_RESPONSE, decodeStunMessage, encodeStunMessage, findAttribute } from './message.ts'

/** The SOFTWARE that relays (DERP servers) demand of clients, and answer nobody without (tailscale/tailscale:net/stun/stun.go). */
export const RELAY_CLIENT_SOFTWARE = 'tailnode'

/** A Binding request with SOFTWARE and FINGERPRINT: 40 bytes with the default software, which every DERP server answers. */
export function encodeBindingRequest(transactionId: Uint8Array, software: string = RELAY_CLIENT_SOFTWARE): Uint8Array {
  const attributes = [{ type: SOFTWARE, value: utf8Encode(software) }]
  return encodeStunMessage({ type: BINDING_REQUEST, transactionId, attributes }, true)
}

/** What a server said. */
export type BindingAnswer =
  | { readonly type: 'mapped'; readonly transactionId: Uint8Array; readonly endpoint: Endpoint }
  /** `code` is 300 to 699 (RFC 8489 section 14.8), or 0 where the server named none. */
  | { readonly type: 'refused'; readonly transactionId: Uint8Array; readonly code: number }

/**
 * Reads the answer to a Binding request; `undefined` when it is none. XOR-MAPPED-ADDRESS wins over its draft number, that over
 * MAPPED-ADDRESS, in any order; IPv4-mapped addresses become IPv4, since dual-stack servers answer so. As in the real client, neither
 * FINGERPRINT nor what stands behind the message is looked at. `transactionId` is a copy.
 */
export function decodeBindingAnswer(bytes: Uint8Array): BindingAnswer | undefined {
  const message = decodeStunMessage(bytes)
  if (message === undefined) return undefined
  const transactionId = message.transactionId.slice()
  if (message.type === BINDING_ERROR) {
    const error = findAttribute(message, ERROR_CODE)
    return { type: 'refused', transactionId, code: error === undefined || error.length < 4 ? 0 : ((error[2] ?? 0) & 7) * 100 + (error[3] ?? 0) }
  }
  if (message.type !== BINDING_RESPONSE) return undefined
  let endpoint: Endpoint | undefined
  for (const type of [XOR_MAPPED_ADDRESS, XOR_MAPPED_ADDRESS_DRAFT, MAPPED_ADDRESS]) {
    const value = findAttribute(message, type)
    if (value !== undefined) endpoint ??= type === MAPPED_ADDRESS ? decodeMappedAddress(value) : decodeXorMappedAddress(value, transactionId)
  }
  return endpoint && { type: 'mapped', transactionId, endpoint }
}
