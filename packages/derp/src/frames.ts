import { ByteReader, ByteWriter, equalBytes, utf8Decode, utf8Encode } from '@meshwright/core'
import { NodePublicKey } from '@meshwright/crypto'
import { type Endpoint, Ip } from '@meshwright/ip'
import { DerpError } from './errors.ts'
import * as T from './frame-types.ts'

const { KEY_BYTES } = T

/** One DERP frame, decoded. Byte arrays are views of what was decoded: copy before keeping. */
export type DerpFrame =
  | { readonly type: 'serverKey'; readonly key: NodePublicKey }
  | { readonly type: 'clientInfo'; readonly key: NodePublicKey; readonly box: Uint8Array }
  | { readonly type: 'serverInfo'; readonly box: Uint8Array }
  | { readonly type: 'sendPacket'; readonly destination: NodePublicKey; readonly packet: Uint8Array }
  | { readonly type: 'recvPacket'; readonly source: NodePublicKey; readonly packet: Uint8Array }
  | { readonly type: 'keepAlive' }
  | { readonly type: 'notePreferred'; readonly preferred: boolean }
  | { readonly type: 'peerGone'; readonly peer: NodePublicKey; readonly reason: number }
  | { readonly type: 'peerPresent'; readonly peer: NodePublicKey; readonly from?: Endpoint; readonly flags?: number }
  | { readonly type: 'forwardPacket'; readonly source: NodePublicKey; readonly destination: NodePublicKey; readonly packet: Uint8Array }
  | { readonly type: 'watchConns' }
  | { readonly type: 'closePeer'; readonly peer: NodePublicKey }
  | { readonly type: 'ping'; readonly data: Uint8Array }
  | { readonly type: 'pong'; readonly data: Uint8Array }
  | { readonly type: 'health'; readonly text: string }
  | { readonly type: 'restarting'; readonly reconnectInMs: number; readonly tryForMs: number }
  | { readonly type: 'unknown'; readonly code: number; readonly payload: Uint8Array }

/**
 * Bytes of a frame, header included; the caller owns them.
 *
 * | offset | size | field |
 * |---|---|---|
 * | 0 | 1 | type |
 * | 1 | 4 | length of the payload, big-endian, header not counted |
 * | 5 | length | payload, as {@link decodeFrame} lists it |
 *
 * Source: tailscale/tailscale:derp/derp.go.
 * @throws DERP_PACKET_TOO_LARGE for a packet over 65536 bytes
 */
export function encodeFrame(frame: DerpFrame): Uint8Array {
  switch (frame.type) {
    case 'serverKey':
      return join(T.FRAME_SERVER_KEY, T.DERP_MAGIC, frame.key.bytes)
    case 'clientInfo':
      return join(T.FRAME_CLIENT_INFO, frame.key.bytes, frame.box)
    case 'serverInfo':
      return join(T.FRAME_SERVER_INFO, frame.box)
    case 'sendPacket':
      return encodePacketFrame(T.FRAME_SEND_PACKET, frame.destination.bytes, frame.packet)
    case 'recvPacket':
      return encodePacketFrame(T.FRAME_RECV_PACKET, frame.source.bytes, frame.packet)
    case 'keepAlive':
      return join(T.FRAME_KEEP_ALIVE)
    case 'notePreferred':
      return join(T.FRAME_NOTE_PREFERRED, Uint8Array.of(frame.preferred ? 1 : 0))
    case 'peerGone':
      return join(T.FRAME_PEER_GONE, frame.peer.bytes, Uint8Array.of(frame.reason))
    case 'peerPresent':
      return encodePeerPresent(frame.peer, frame.from, frame.flags)
    case 'forwardPacket':
      checkPacket(frame.packet)
      return join(T.FRAME_FORWARD_PACKET, frame.source.bytes, frame.destination.bytes, frame.packet)
    case 'watchConns':
      return join(T.FRAME_WATCH_CONNS)
    case 'closePeer':
      return join(T.FRAME_CLOSE_PEER, frame.peer.bytes)
    case 'ping':
      return join(T.FRAME_PING, frame.data)
    case 'pong':
      return join(T.FRAME_PONG, frame.data)
    case 'health':
      return join(T.FRAME_HEALTH, utf8Encode(frame.text))
    case 'restarting':
      return join(T.FRAME_RESTARTING, new ByteWriter(8).u32be(frame.reconnectInMs).u32be(frame.tryForMs).finish())
    case 'unknown':
      return join(frame.code, frame.payload)
  }
}

/**
 * A SendPacket or RecvPacket frame in one allocation: the codec of the hot path.
 * @param key 32 bytes of the destination (SendPacket) or source (RecvPacket)
 * @throws DERP_PACKET_TOO_LARGE for a packet over 65536 bytes
 */
export function encodePacketFrame(type: typeof T.FRAME_SEND_PACKET | typeof T.FRAME_RECV_PACKET, key: Uint8Array, packet: Uint8Array): Uint8Array {
  checkPacket(packet)
  return join(type, key, packet)
}

/** As {@link encodePacketFrame}, into memory of the caller's: writes the frame at `at`, and gives where the next one may begin. */
export function writePacketFrame(into: Uint8Array, at: number, type: typeof T.FRAME_SEND_PACKET | typeof T.FRAME_RECV_PACKET, key: Uint8Array, packet: Uint8Array): number {
  checkPacket(packet)
  const body = at + T.FRAME_HEADER_BYTES
  writeHeader(into, at, type, key.length + packet.length)
  into.set(key, body)
  into.set(packet, body + key.length)
  return body + key.length + packet.length
}

/**
 * Reads a payload; `undefined` when it has not the form of its type. An unknown type is no error: such frames are to be passed over.
 *
 * | type | payload: size and field |
 * |---|---|
 * | serverKey | 8 magic, 32 key, future bytes |
 * | clientInfo | 32 key, 24 nonce, box (at least 56 bytes in all) |
 * | serverInfo | 24 nonce, box |
 * | sendPacket, recvPacket | 32 key, packet (0 to 65536) |
 * | keepAlive | anything |
 * | notePreferred | 1 flag |
 * | peerGone | 32 key, 1 reason (absent: 0) |
 * | peerPresent | 32 key, then perhaps 16 IP (IPv4 as v4-mapped) and 2 port, then perhaps 1 flags, future bytes |
 * | forwardPacket | 32 source, 32 destination, packet |
 * | watchConns | none |
 * | closePeer | 32 key |
 * | ping, pong | at least 8, of which the first 8 count |
 * | health | UTF-8 |
 * | restarting | 4 reconnect-in, 4 try-for, both milliseconds, future bytes |
 */
export function decodeFrame(code: number, payload: Uint8Array): DerpFrame | undefined {
  const r = new ByteReader(payload)
  switch (code) {
    case T.FRAME_SERVER_KEY: {
      const magic = r.bytes(T.DERP_MAGIC.length)
      const key = readKey(r)
      return key && equalBytes(magic, T.DERP_MAGIC) ? { type: 'serverKey', key } : undefined
    }
    case T.FRAME_CLIENT_INFO: {
      const key = readKey(r)
      return key && r.remaining >= 24 ? { type: 'clientInfo', key, box: r.rest() } : undefined
    }
    case T.FRAME_SERVER_INFO:
      return r.remaining >= 24 ? { type: 'serverInfo', box: r.rest() } : undefined
    case T.FRAME_SEND_PACKET: {
      const destination = readKey(r)
      return destination && r.remaining <= T.MAX_PACKET_BYTES ? { type: 'sendPacket', destination, packet: r.rest() } : undefined
    }
    case T.FRAME_RECV_PACKET: {
      const source = readKey(r)
      return source && r.remaining <= T.MAX_PACKET_BYTES ? { type: 'recvPacket', source, packet: r.rest() } : undefined
    }
    case T.FRAME_KEEP_ALIVE:
      return { type: 'keepAlive' }
    case T.FRAME_NOTE_PREFERRED:
      return payload.length === 1 ? { type: 'notePreferred', preferred: r.u8() !== 0 } : undefined
    case T.FRAME_PEER_GONE: {
      const peer = readKey(r)
      return peer && { type: 'peerGone', peer, reason: r.remaining > 0 ? r.u8() : T.PEER_GONE_DISCONNECTED }
    }
    case T.FRAME_PEER_PRESENT:
      return decodePeerPresent(r)
    case T.FRAME_FORWARD_PACKET: {
      const source = readKey(r)
      const destination = readKey(r)
      return source && destination && r.remaining <= T.MAX_PACKET_BYTES ? { type: 'forwardPacket', source, destination, packet: r.rest() } : undefined
    }
    case T.FRAME_WATCH_CONNS:
      return payload.length === 0 ? { type: 'watchConns' } : undefined
    case T.FRAME_CLOSE_PEER: {
      const peer = readKey(r)
      return peer && r.finished ? { type: 'closePeer', peer } : undefined
    }
    case T.FRAME_PING:
      return payload.length >= T.PING_BYTES ? { type: 'ping', data: r.bytes(T.PING_BYTES) } : undefined
    case T.FRAME_PONG:
      return payload.length >= T.PING_BYTES ? { type: 'pong', data: r.bytes(T.PING_BYTES) } : undefined
    case T.FRAME_HEALTH:
      return { type: 'health', text: utf8Decode(payload) }
    case T.FRAME_RESTARTING:
      return payload.length >= 8 ? { type: 'restarting', reconnectInMs: r.u32be(), tryForMs: r.u32be() } : undefined
    default:
      return { type: 'unknown', code, payload }
  }
}

function readKey(r: ByteReader): NodePublicKey | undefined {
  return NodePublicKey.fromBytes(r.bytes(KEY_BYTES))
}

function decodePeerPresent(r: ByteReader): DerpFrame | undefined {
  const peer = readKey(r)
  if (peer === undefined) return undefined
  if (r.remaining < 18) return { type: 'peerPresent', peer }
  const ip = Ip.fromBytes(r.bytes(16))?.unmapped()
  const port = r.u16be()
  if (ip === undefined) return undefined
  const from: Endpoint = { ip, port }
  return r.remaining > 0 ? { type: 'peerPresent', peer, from, flags: r.u8() } : { type: 'peerPresent', peer, from }
}

function encodePeerPresent(peer: NodePublicKey, from: Endpoint | undefined, flags: number | undefined): Uint8Array {
  const w = new ByteWriter(KEY_BYTES + 19).bytes(peer.bytes)
  if (from !== undefined || flags !== undefined) {
    if (from?.ip.family === 4) w.zeros(10).u16be(0xffff)
    w.bytes(from?.ip.bytes ?? new Uint8Array(16)).u16be(from?.port ?? 0)
    if (flags !== undefined) w.u8(flags)
  }
  return join(T.FRAME_PEER_PRESENT, w.finish())
}

function checkPacket(packet: Uint8Array): void {
  if (packet.length > T.MAX_PACKET_BYTES) {
    throw new DerpError('DERP_PACKET_TOO_LARGE', `a relay carries packets of up to ${T.MAX_PACKET_BYTES} bytes, not ${packet.length}`)
  }
}

const NONE = new Uint8Array(0)

function join(type: number, first: Uint8Array = NONE, second: Uint8Array = NONE, third: Uint8Array = NONE): Uint8Array {
  const length = first.length + second.length + third.length
  const frame = new Uint8Array(T.FRAME_HEADER_BYTES + length)
  writeHeader(frame, 0, type, length)
  frame.set(first, T.FRAME_HEADER_BYTES)
  frame.set(second, T.FRAME_HEADER_BYTES + first.length)
  frame.set(third, T.FRAME_HEADER_BYTES + first.length + second.length)
  return frame
}

function writeHeader(frame: Uint8Array, at: number, type: number, length: number): void {
  frame[at] = type
  frame[at + 1] = length >>> 24
  frame[at + 2] = length >>> 16
  frame[at + 3] = length >>> 8
  frame[at + 4] = length
}
