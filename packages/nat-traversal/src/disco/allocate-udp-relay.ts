import { ByteReader, ByteWriter } from '@meshwright/core'
import { DiscoPublicKey, KEY_BYTES } from '@meshwright/crypto'
import { readUdpRelayEndpoint, type UdpRelayEndpoint, writeUdpRelayEndpoint } from './udp-relay-endpoint.ts'

/** Asks a node that is a UDP peer relay, over DERP, for an allocation between two clients. */
export interface AllocateUdpRelayRequest {
  readonly type: 'allocate-udp-relay-request'
  readonly clients: readonly [DiscoPublicKey, DiscoPublicKey]
  /** Chosen by the asking node to match the response. */
  readonly generation: number
}

/** The answer to an {@link AllocateUdpRelayRequest}. */
export interface AllocateUdpRelayResponse {
  readonly type: 'allocate-udp-relay-response'
  readonly generation: number
  readonly endpoint: UdpRelayEndpoint
}

/** The body of type 0x08: the two clients' disco keys (64 bytes) and the generation (u32, big-endian). */
export function encodeAllocateUdpRelayRequest(message: AllocateUdpRelayRequest): Uint8Array {
  return new ByteWriter(68).bytes(message.clients[0].bytes).bytes(message.clients[1].bytes).u32be(message.generation).finish()
}

/** The body of type 0x08; `undefined` when it is cut. */
export function decodeAllocateUdpRelayRequest(body: Uint8Array): AllocateUdpRelayRequest | undefined {
  const r = new ByteReader(body)
  const first = DiscoPublicKey.fromBytes(r.bytes(KEY_BYTES))
  const second = DiscoPublicKey.fromBytes(r.bytes(KEY_BYTES))
  const generation = r.u32be()
  if (!r.ok || first === undefined || second === undefined) return undefined
  return { type: 'allocate-udp-relay-request', clients: [first, second], generation }
}

/** The body of type 0x09: the generation (u32, big-endian) and one {@link UdpRelayEndpoint}. */
export function encodeAllocateUdpRelayResponse(message: AllocateUdpRelayResponse): Uint8Array {
  const w = new ByteWriter(146).u32be(message.generation)
  writeUdpRelayEndpoint(w, message.endpoint)
  return w.finish()
}

/** The body of type 0x09; `undefined` when malformed. */
export function decodeAllocateUdpRelayResponse(body: Uint8Array): AllocateUdpRelayResponse | undefined {
  const r = new ByteReader(body)
  const generation = r.u32be()
  const endpoint = readUdpRelayEndpoint(r)
  return endpoint && { type: 'allocate-udp-relay-response', generation, endpoint }
}
