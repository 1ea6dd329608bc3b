import { ByteReader, ByteWriter } from '@meshwright/core'
import { readUdpRelayEndpoint, type UdpRelayEndpoint, writeUdpRelayEndpoint } from './udp-relay-endpoint.ts'

/** Tells a peer, over its relay (DERP), of an allocation at a UDP peer relay, so that both bind to it. */
export interface CallMeMaybeVia {
  readonly type: 'call-me-maybe-via'
  readonly endpoint: UdpRelayEndpoint
}

/** The body of type 0x07: one {@link UdpRelayEndpoint}. */
export function encodeCallMeMaybeVia(message: CallMeMaybeVia): Uint8Array {
  const w = new ByteWriter(142)
  writeUdpRelayEndpoint(w, message.endpoint)
  return w.finish()
}

/** The body of type 0x07; `undefined` when malformed. */
export function decodeCallMeMaybeVia(body: Uint8Array): CallMeMaybeVia | undefined {
  const endpoint = readUdpRelayEndpoint(new ByteReader(body))
  return endpoint && { type: 'call-me-maybe-via', endpoint }
}
