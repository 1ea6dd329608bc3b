import type { DerpPacketKind } from './server-stats.ts'

/** The first bytes of a disco message: `TS` and a speech balloon emoji (tailscale/tailscale:disco/disco.go). */
const DISCO_MAGIC = Uint8Array.of(0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac)
/** Magic, sender's key and nonce: the least that a disco message has. */
const DISCO_HEADER_BYTES = 62

/** Whether a packet looks like disco: by its first bytes and its length, since relays cannot open it. */
export function packetKind(packet: Uint8Array): DerpPacketKind {
  if (packet.length < DISCO_HEADER_BYTES) return 'other'
  for (let i = 0; i < DISCO_MAGIC.length; i += 1) if (packet[i] !== DISCO_MAGIC[i]) return 'other'
  return 'disco'
}
