import { type ByteReader, type ByteWriter } from '@meshwright/core'
import { DiscoPublicKey, KEY_BYTES } from '@meshwright/crypto'
import type { Endpoint } from '@meshwright/ip'
import { ADDRESS_PORT_BYTES, readAddressPort, writeAddressPort } from './address-port.ts'

/** One allocation at a UDP peer relay, as it is told to both clients. */
export interface UdpRelayEndpoint {
  /** The relay's disco key, fresh at each of its starts: not the one of the network map. */
  readonly relayKey: DiscoPublicKey
  /** The two clients' disco keys, the smaller one first. */
  readonly clients: readonly [DiscoPublicKey, DiscoPublicKey]
  /** Which of two endpoints of one relay is newer. */
  readonly lamportId: bigint
  /** 1 to 2^24 - 1. */
  readonly vni: number
  /** How long both clients have to bind, in nanoseconds as on the wire. */
  readonly bindLifetimeNs: bigint
  /** How long the allocation lives without packets, in nanoseconds as on the wire. */
  readonly steadyLifetimeNs: bigint
  /** Where the relay listens: at least one. */
  readonly addresses: readonly Endpoint[]
}

/**
 * Writes an allocation (tailscale/tailscale:disco/disco.go, UDPRelayEndpoint).
 *
 * | offset | size | field |
 * |---|---|---|
 * | 0 | 32 | disco key of the relay |
 * | 32 | 64 | disco keys of the two clients |
 * | 96 | 8 | Lamport id, big-endian |
 * | 104 | 4 | VNI, big-endian |
 * | 108 | 8 | bind lifetime, nanoseconds, big-endian |
 * | 116 | 8 | steady-state lifetime, nanoseconds, big-endian |
 * | 124 | 18 n | addresses and ports |
 */
export function writeUdpRelayEndpoint(w: ByteWriter, endpoint: UdpRelayEndpoint): void {
  w.bytes(endpoint.relayKey.bytes).bytes(endpoint.clients[0].bytes).bytes(endpoint.clients[1].bytes)
  w.u64be(endpoint.lamportId).u32be(endpoint.vni).u64be(endpoint.bindLifetimeNs).u64be(endpoint.steadyLifetimeNs)
  for (const address of endpoint.addresses) writeAddressPort(w, address)
}

/** Reads an allocation up to the end of the bytes; `undefined` when it is cut, has no address or a broken one. */
export function readUdpRelayEndpoint(r: ByteReader): UdpRelayEndpoint | undefined {
  const relayKey = DiscoPublicKey.fromBytes(r.bytes(KEY_BYTES))
  const first = DiscoPublicKey.fromBytes(r.bytes(KEY_BYTES))
  const second = DiscoPublicKey.fromBytes(r.bytes(KEY_BYTES))
  const lamportId = r.u64be()
  const vni = r.u32be()
  const bindLifetimeNs = r.u64be()
  const steadyLifetimeNs = r.u64be()
  if (!r.ok || relayKey === undefined || first === undefined || second === undefined) return undefined
  if (r.remaining === 0 || r.remaining % ADDRESS_PORT_BYTES !== 0) return undefined
  const addresses: Endpoint[] = []
  while (r.remaining > 0) {
    const address = readAddressPort(r)
    if (address === undefined) return undefined
    addresses.push(address)
  }
  return { relayKey, clients: [first, second], lamportId, vni, bindLifetimeNs, steadyLifetimeNs, addresses }
}
