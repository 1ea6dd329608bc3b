import { ByteReader, ByteWriter } from '@meshwright/core'
import { DiscoPublicKey, KEY_BYTES } from '@meshwright/crypto'

/** Length of the challenge of a peer relay's bind handshake, in bytes. */
export const BIND_CHALLENGE_BYTES = 32

/** Which message of the three-way handshake between a client and a UDP peer relay. */
export type BindUdpRelayType = 'bind-udp-relay' | 'bind-udp-relay-challenge' | 'bind-udp-relay-answer'

/** The three messages of the bind handshake share one body. */
export interface BindUdpRelay {
  readonly type: BindUdpRelayType
  /** The allocation, 1 to 2^24 - 1. */
  readonly vni: number
  /** Chosen by the client, never zero, new for each handshake. */
  readonly generation: number
  /** Disco key of the client at the other end of the allocation. */
  readonly remoteKey: DiscoPublicKey
  /** 32 bytes: zeros in a bind, where they only keep answers from being longer than requests. Decoded ones are views. */
  readonly challenge: Uint8Array
}

/**
 * The body of types 0x04 to 0x06 (tailscale/tailscale:disco/disco.go).
 *
 * | offset | size | field |
 * |---|---|---|
 * | 0 | 4 | VNI, big-endian |
 * | 4 | 4 | generation, big-endian |
 * | 8 | 32 | disco key of the remote client |
 * | 40 | 32 | challenge |
 */
export function encodeBindUdpRelay(message: BindUdpRelay): Uint8Array {
  return new ByteWriter(72).u32be(message.vni).u32be(message.generation).bytes(message.remoteKey.bytes).bytes(message.challenge).finish()
}

/** The body of a bind, challenge or answer; `undefined` when it is cut. */
export function decodeBindUdpRelay(type: BindUdpRelayType, body: Uint8Array): BindUdpRelay | undefined {
  const r = new ByteReader(body)
  const vni = r.u32be()
  const generation = r.u32be()
  const remoteKey = DiscoPublicKey.fromBytes(r.bytes(KEY_BYTES))
  const challenge = r.bytes(BIND_CHALLENGE_BYTES)
  return r.ok && remoteKey !== undefined ? { type, vni, generation, remoteKey, challenge } : undefined
}
