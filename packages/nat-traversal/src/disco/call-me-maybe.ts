import { ByteReader, ByteWriter } from '@meshwright/core'
import type { Endpoint } from '@meshwright/ip'
import { ADDRESS_PORT_BYTES, readAddressPort, writeAddressPort } from './address-port.ts'

/** Asks a peer, over its relay, to ping these endpoints of ours now: our own pings have just opened our NAT for it. */
export interface CallMeMaybe {
  readonly type: 'call-me-maybe'
  /** All of our endpoints. Never send an empty list: real clients then forget every address they had learnt this way. */
  readonly endpoints: readonly Endpoint[]
}

/** The body of a call-me-maybe, type 0x03: n times 16 bytes of address and 2 of port (tailscale/tailscale:disco/disco.go). */
export function encodeCallMeMaybe(message: CallMeMaybe): Uint8Array {
  const w = new ByteWriter(ADDRESS_PORT_BYTES * message.endpoints.length)
  for (const endpoint of message.endpoints) writeAddressPort(w, endpoint)
  return w.finish()
}

/** A call-me-maybe's body. A length that does not fit or another version than 0 stands for an empty list, as in the real client. */
export function decodeCallMeMaybe(body: Uint8Array, version: number): CallMeMaybe {
  const endpoints: Endpoint[] = []
  if (version === 0 && body.length % ADDRESS_PORT_BYTES === 0) {
    const r = new ByteReader(body)
    for (let left = body.length / ADDRESS_PORT_BYTES; left > 0; left -= 1) {
      const endpoint = readAddressPort(r)
      if (endpoint !== undefined) endpoints.push(endpoint)
    }
  }
  return { type: 'call-me-maybe', endpoints }
}
