import { ByteWriter } from '@meshwright/core'
import { DiscoPublicKey } from '@meshwright/crypto'
import { encodeIpPacket, type Ip, type PacketView, PROTOCOL_TSMP } from '@meshwright/ip'

const PING = 0x70
const PONG = 0x6f
const REJECT = 0x21
const DISCO_KEY = 0x61
/** Bytes that a ping carries and its pong repeats. */
export const TSMP_PING_BYTES = 8

/**
 * A message between nodes inside the tunnel, IP protocol 99, behind the IP header (tailscale/tailscale:net/packet/tsmp.go).
 *
 * | type | bytes |
 * |---|---|
 * | ping | `p`, 8 bytes |
 * | pong | `o`, the 8 bytes, PeerAPI port (u16 big-endian) |
 * | reject | `!`, protocol, reason, source port, destination port (u16 big-endian), optional flags |
 * | disco key | `a`, 32 bytes: the sender's disco key, right after a session is established |
 */
export type TsmpMessage =
  | { readonly type: 'ping'; readonly data: Uint8Array }
  | { readonly type: 'pong'; readonly data: Uint8Array; readonly peerApiPort: number }
  | { readonly type: 'reject'; readonly protocol: number; readonly reason: string; readonly sourcePort: number; readonly destinationPort: number }
  | { readonly type: 'discoKey'; readonly key: DiscoPublicKey }

/** Reads the message of a TSMP packet; `undefined` for anything else and for what is cut short. */
export function decodeTsmp(view: PacketView): TsmpMessage | undefined {
  if (!view.valid || view.protocol !== PROTOCOL_TSMP || view.isFragment) return undefined
  const bytes = view.memory.subarray(view.offset + view.headerLength, view.offset + view.totalLength)
  const at = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  switch (bytes[0]) {
    case PING:
      return bytes.length < 1 + TSMP_PING_BYTES ? undefined : { type: 'ping', data: bytes.slice(1, 1 + TSMP_PING_BYTES) }
    case PONG:
      if (bytes.length < 1 + TSMP_PING_BYTES) return undefined
      return { type: 'pong', data: bytes.slice(1, 1 + TSMP_PING_BYTES), peerApiPort: bytes.length < 11 ? 0 : at.getUint16(9) }
    case REJECT:
      if (bytes.length < 7) return undefined
      return { type: 'reject', protocol: at.getUint8(1), reason: String.fromCharCode(at.getUint8(2)), sourcePort: at.getUint16(3), destinationPort: at.getUint16(5) }
    case DISCO_KEY: {
      const key = bytes.length < 33 ? undefined : DiscoPublicKey.fromBytes(bytes.subarray(1, 33))
      return key === undefined || key.isZero ? undefined : { type: 'discoKey', key }
    }
    default:
      return undefined
  }
}

/** A ping to a peer's address; `data` has 8 bytes, which the pong repeats. */
export function encodeTsmpPing(src: Ip, dst: Ip, data: Uint8Array): Uint8Array {
  return encodeIpPacket({ src, dst, protocol: PROTOCOL_TSMP, payload: new ByteWriter(9).u8(PING).bytes(data).finish() })
}

/** The answer to a ping. */
export function encodeTsmpPong(src: Ip, dst: Ip, data: Uint8Array, peerApiPort: number): Uint8Array {
  return encodeIpPacket({ src, dst, protocol: PROTOCOL_TSMP, payload: new ByteWriter(11).u8(PONG).bytes(data).u16be(peerApiPort).finish() })
}
