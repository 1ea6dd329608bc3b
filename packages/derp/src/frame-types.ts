/**
 * Names and numbers of the DERP wire, version 2 (tailscale/tailscale:derp/derp.go). C is a client, S a server, M a client that holds
 * the mesh key.
 */

/** S to C, first: magic, the server's public key, then bytes of the future. */
export const FRAME_SERVER_KEY = 0x01
/** C to S, first: the client's public key and a box with a JSON object. */
export const FRAME_CLIENT_INFO = 0x02
/** S to C, once: a box with a JSON object. */
export const FRAME_SERVER_INFO = 0x03
/** C to S: destination key and packet. */
export const FRAME_SEND_PACKET = 0x04
/** S to C: source key and packet. */
export const FRAME_RECV_PACKET = 0x05
/** S to C: nothing; says that the connection lives. */
export const FRAME_KEEP_ALIVE = 0x06
/** C to S: one byte, 1 when this region is the client's home. */
export const FRAME_NOTE_PREFERRED = 0x07
/** S to C: a key and why it cannot be reached. */
export const FRAME_PEER_GONE = 0x08
/** S to M: a key that has connected, and from where. */
export const FRAME_PEER_PRESENT = 0x09
/** M to S: source key, destination key and packet. */
export const FRAME_FORWARD_PACKET = 0x0a
/** M to S: asks to be told who comes and goes. */
export const FRAME_WATCH_CONNS = 0x10
/** M to S: closes every connection of a key. */
export const FRAME_CLOSE_PEER = 0x11
/** Both ways: eight bytes to be sent back. */
export const FRAME_PING = 0x12
/** Both ways: the eight bytes of a ping. */
export const FRAME_PONG = 0x13
/** S to C: text of a problem; empty when all is well again. */
export const FRAME_HEALTH = 0x14
/** S to C: the server will be away. */
export const FRAME_RESTARTING = 0x15

/** `DERP` and a key emoji: the first bytes of a server. */
export const DERP_MAGIC: Uint8Array = Uint8Array.of(0x44, 0x45, 0x52, 0x50, 0xf0, 0x9f, 0x94, 0x91)
/** The protocol version that both sides speak. */
export const DERP_VERSION = 2
/** Type and length in front of every payload. */
export const FRAME_HEADER_BYTES = 5
/** The largest packet that a relay carries, keys not counted. */
export const MAX_PACKET_BYTES = 65_536
/** Clients hang up on a larger frame. */
export const MAX_CLIENT_FRAME_BYTES = 1_048_576
/** Our server hangs up on a larger ClientInfo. Real ones have less than 300 bytes; a real relay takes 256 KiB, which strangers by the thousand would hold. */
export const MAX_CLIENT_INFO_BYTES = 16_384
/** Servers hang up on a larger ping. */
export const MAX_PING_BYTES = 1_000
/** The part of a ping that counts. */
export const PING_BYTES = 8
/** Length of a node or server key. */
export const KEY_BYTES = 32

/** PeerGone: the peer has left the region. */
export const PEER_GONE_DISCONNECTED = 0x00
/** PeerGone: the region does not know the peer. */
export const PEER_GONE_NOT_HERE = 0x01
/** PeerGone, never on the wire: the connection that told of the peer broke. */
export const PEER_GONE_CONNECTION_BROKE = 0xf0

/** PeerPresent: an ordinary client; set only when no other flag is. */
export const PRESENT_REGULAR = 1
/** PeerPresent: another relay of the region. */
export const PRESENT_MESH_PEER = 2
/** PeerPresent: a client that watches the relay's health. */
export const PRESENT_PROBER = 4
/** PeerPresent: a client that would rather have reached another relay of the region. */
export const PRESENT_NOT_IDEAL = 8
