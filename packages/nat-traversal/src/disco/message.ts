import { assertNever, concatBytes } from '@meshwright/core'
import {
  type AllocateUdpRelayRequest,
  type AllocateUdpRelayResponse,
  decodeAllocateUdpRelayRequest,
  decodeAllocateUdpRelayResponse,
  encodeAllocateUdpRelayRequest,
  encodeAllocateUdpRelayResponse,
} from './allocate-udp-relay.ts'
import { type BindUdpRelay, decodeBindUdpRelay, encodeBindUdpRelay } from './bind-udp-relay.ts'
import { type CallMeMaybe, decodeCallMeMaybe, encodeCallMeMaybe } from './call-me-maybe.ts'
import { type CallMeMaybeVia, decodeCallMeMaybeVia, encodeCallMeMaybeVia } from './call-me-maybe-via.ts'
import { decodePing, type DiscoPing, encodePing } from './ping.ts'
import { decodePong, type DiscoPong, encodePong } from './pong.ts'

/** Every disco message, told apart by `type`. */
export type DiscoMessage =
  | DiscoPing
  | DiscoPong
  | CallMeMaybe
  | BindUdpRelay
  | CallMeMaybeVia
  | AllocateUdpRelayRequest
  | AllocateUdpRelayResponse

const TYPE_PING = 0x01
const TYPE_PONG = 0x02
const TYPE_CALL_ME_MAYBE = 0x03
const TYPE_BIND_UDP_RELAY = 0x04
const TYPE_BIND_UDP_RELAY_CHALLENGE = 0x05
const TYPE_BIND_UDP_RELAY_ANSWER = 0x06
const TYPE_CALL_ME_MAYBE_VIA = 0x07
const TYPE_ALLOCATE_UDP_RELAY_REQUEST = 0x08
const TYPE_ALLOCATE_UDP_RELAY_RESPONSE = 0x09
const VERSION = 0

/** The plaintext of a disco message: type (1 byte), version 0 (1 byte), body (tailscale/tailscale:disco/disco.go). */
export function encodeDiscoMessage(message: DiscoMessage): Uint8Array {
  switch (message.type) {
    case 'ping':
      return withHeader(TYPE_PING, encodePing(message))
    case 'pong':
      return withHeader(TYPE_PONG, encodePong(message))
    case 'call-me-maybe':
      return withHeader(TYPE_CALL_ME_MAYBE, encodeCallMeMaybe(message))
    case 'bind-udp-relay':
      return withHeader(TYPE_BIND_UDP_RELAY, encodeBindUdpRelay(message))
    case 'bind-udp-relay-challenge':
      return withHeader(TYPE_BIND_UDP_RELAY_CHALLENGE, encodeBindUdpRelay(message))
    case 'bind-udp-relay-answer':
      return withHeader(TYPE_BIND_UDP_RELAY_ANSWER, encodeBindUdpRelay(message))
    case 'call-me-maybe-via':
      return withHeader(TYPE_CALL_ME_MAYBE_VIA, encodeCallMeMaybeVia(message))
    case 'allocate-udp-relay-request':
      return withHeader(TYPE_ALLOCATE_UDP_RELAY_REQUEST, encodeAllocateUdpRelayRequest(message))
    case 'allocate-udp-relay-response':
      return withHeader(TYPE_ALLOCATE_UDP_RELAY_RESPONSE, encodeAllocateUdpRelayResponse(message))
    default:
      return assertNever(message)
  }
}

/**
 * Decodes the plaintext of a disco message; `undefined` for an unknown type or a cut body. Bytes behind a known body are ignored, and so
 * is the version of all but call-me-maybe, as in the real client.
 */
export function decodeDiscoMessage(plaintext: Uint8Array): DiscoMessage | undefined {
  const version = plaintext[1]
  if (version === undefined) return undefined
  const body = plaintext.subarray(2)
  switch (plaintext[0]) {
    case TYPE_PING:
      return decodePing(body)
    case TYPE_PONG:
      return decodePong(body)
    case TYPE_CALL_ME_MAYBE:
      return decodeCallMeMaybe(body, version)
    case TYPE_BIND_UDP_RELAY:
      return decodeBindUdpRelay('bind-udp-relay', body)
    case TYPE_BIND_UDP_RELAY_CHALLENGE:
      return decodeBindUdpRelay('bind-udp-relay-challenge', body)
    case TYPE_BIND_UDP_RELAY_ANSWER:
      return decodeBindUdpRelay('bind-udp-relay-answer', body)
    case TYPE_CALL_ME_MAYBE_VIA:
      return decodeCallMeMaybeVia(body)
    case TYPE_ALLOCATE_UDP_RELAY_REQUEST:
      return decodeAllocateUdpRelayRequest(body)
    case TYPE_ALLOCATE_UDP_RELAY_RESPONSE:
      return decodeAllocateUdpRelayResponse(body)
    default:
      return undefined
  }
}

function withHeader(type: number, body: Uint8Array): Uint8Array {
  return concatBytes(Uint8Array.of(type, VERSION), body)
}
