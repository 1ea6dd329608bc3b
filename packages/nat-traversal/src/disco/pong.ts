import { ByteReader, ByteWriter } from '@meshwright/core'
import type { Endpoint } from '@meshwright/ip'
import { ADDRESS_PORT_BYTES, readAddressPort, writeAddressPort } from './address-port.ts'
import { TX_ID_BYTES } from './ping.ts'

/** Answers a ping. */
export interface DiscoPong {
  readonly type: 'pong'
  /** The ping's. Decoded ones are views: copy before keeping. */
  readonly txId: Uint8Array
  /** Where the ping came from as the answering side saw it; 127.3.3.40 and the region's number as port for a relay. */
  readonly source: Endpoint
}

/**
 * The body of a pong, type 0x02 (tailscale/tailscale:disco/disco.go).
 *
 * | offset | size | field |
 * |---|---|---|
 * | 0 | 12 | transaction id |
 * | 12 | 16 | source address, IPv4 as `::ffff:a.b.c.d` |
 * | 28 | 2 | source port, big-endian |
 */
export function encodePong(pong: DiscoPong): Uint8Array {
  const w = new ByteWriter(TX_ID_BYTES + ADDRESS_PORT_BYTES).bytes(pong.txId)
  writeAddressPort(w, pong.source)
  return w.finish()
}

/** A pong's body, more bytes behind it are ignored; `undefined` when it is cut. */
export function decodePong(body: Uint8Array): DiscoPong | undefined {
  const r = new ByteReader(body)
  const txId = r.bytes(TX_ID_BYTES)
  const source = readAddressPort(r)
  return source && { type: 'pong', txId, source }
}
