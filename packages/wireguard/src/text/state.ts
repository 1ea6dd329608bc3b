import type { UnixMillis } from '@meshwright/core'
import type { NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import type { Endpoint, Prefix } from '@meshwright/ip'

/** A peer as `wg` shows it: the device's status joined with what router and sockets know. */
export interface ShownPeer {
  readonly publicKey: NodePublicKey
  /** 32 bytes; absent or all zero for none. */
  readonly presharedKey?: Uint8Array
  readonly endpoint?: Endpoint
  /** In the order in which they were added. */
  readonly allowedIps: readonly Prefix[]
  /** Absent: never. */
  readonly latestHandshake?: UnixMillis
  readonly receivedBytes: number
  readonly sentBytes: number
  /** 0 for off. */
  readonly persistentKeepaliveSeconds: number
}

/** An interface as `wg` shows it. */
export interface ShownDevice {
  /** Interface name, as `wg0`. */
  readonly name: string
  readonly privateKey?: NodePrivateKey
  /** 0 or absent: none. */
  readonly listenPort?: number
  /** 0 or absent: off. */
  readonly fwmark?: number
  readonly peers: readonly ShownPeer[]
}

/** The peer's preshared key if it has one: all zero counts as none. */
export function presharedKeyOf(peer: ShownPeer): Uint8Array | undefined {
  return peer.presharedKey?.some((byte) => byte !== 0) ? peer.presharedKey : undefined
}
