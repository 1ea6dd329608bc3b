import { ByteReader, ByteWriter } from '@meshwright/core'
import { KEY_BYTES, NodePublicKey } from '@meshwright/crypto'

/** Length of a ping's transaction id, in bytes. */
export const TX_ID_BYTES = 12

/** Asks whether a path works; the answer is a pong over the same path. */
export interface DiscoPing {
  readonly type: 'ping'
  /** 12 random bytes. Decoded ones are views: copy before keeping. */
  readonly txId: Uint8Array
  /** Who asks; absent in very old clients. */
  readonly nodeKey?: NodePublicKey
  /** Bytes behind the fields, to probe the path MTU. */
  readonly padding: number
}

/**
 * The body of a ping, type 0x01 (tailscale/tailscale:disco/disco.go).
 *
 * | offset | size | field |
 * |---|---|---|
 * | 0 | 12 | transaction id |
 * | 12 | 0 or 32 | sender's node key |
 * | ... | any | zeros |
 */
export function encodePing(ping: DiscoPing): Uint8Array {
  const w = new ByteWriter(TX_ID_BYTES + KEY_BYTES + ping.padding).bytes(ping.txId)
  if (ping.nodeKey !== undefined) w.bytes(ping.nodeKey.bytes)
  return w.zeros(ping.padding).finish()
}

/** A ping's body; `undefined` when the transaction id is cut. */
export function decodePing(body: Uint8Array): DiscoPing | undefined {
  const r = new ByteReader(body)
  const txId = r.bytes(TX_ID_BYTES)
  if (!r.ok) return undefined
  const nodeKey = r.remaining >= KEY_BYTES ? NodePublicKey.fromBytes(r.bytes(KEY_BYTES)) : undefined
  return { type: 'ping', txId, ...(nodeKey !== undefined && { nodeKey }), padding: r.remaining }
}
