import type { RandomSource } from '@meshwright/core'
import type { CryptoProvider, NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import type { Endpoint } from '@meshwright/ip'
import type { DerpServerInfo } from './handshake.ts'
import type { DerpConnectionId } from './server-connection.ts'
import type { DerpCloseReason } from './server-stats.ts'

/** What a server is made of. */
export interface DerpServerOptions {
  readonly privateKey: NodePrivateKey
  readonly random: RandomSource
  /** Who computes X25519, twice for each client (default: noble). */
  readonly provider?: CryptoProvider
  /** Ask with `verify` before a client is let in (default false: everybody who owns a key). */
  readonly admission?: boolean
  /** The region's shared secret, 32 bytes; without it nobody is privileged. */
  readonly meshKey?: Uint8Array
  /** Packets that wait for one destination, disco and other apart; the oldest gives way (default 32 each). */
  readonly queueDepth?: number
  /** Bytes on their way to one transport before `writable` must be heard (default 131072). */
  readonly windowBytes?: number
  /** How long a transport may take nothing before the connection is closed, 0 for ever (default 2000; other relays 30000). */
  readonly writeTimeoutMs?: number
  /** Receive limit per client: above it reading pauses; other relays are exempt. */
  readonly receiveLimit?: { readonly bytesPerSecond: number; readonly burstBytes: number }
  /** Announced to clients, which then limit themselves. */
  readonly serverInfo?: DerpServerInfo
  /** Ping silent clients that answer pings, and close those that do not (default true). */
  readonly pingSilentClients?: boolean
  /** The most connections at once (default 100000); more are closed at once. */
  readonly maxConnections?: number
  /** The most connections that have not been let in (default 2048), half as many of one address (a /64 of IPv6); the oldest of whoever has most gives way. */
  readonly maxNewcomers?: number
}

/** What happens to connections. Inputs for a connection that is gone are ignored. */
export type DerpServerInput =
  /** A stream is ready for frames: the upgrade has been answered, or fast start wants no answer. */
  | { readonly type: 'accepted'; readonly conn: DerpConnectionId; readonly from?: Endpoint; readonly notIdeal?: boolean }
  /** Bytes of the client; they must not change until outputs are drained. */
  | { readonly type: 'bytes'; readonly conn: DerpConnectionId; readonly bytes: Uint8Array }
  /** The transport has taken `bytes` of what was written to this connection; absent: all of it. */
  | { readonly type: 'writable'; readonly conn: DerpConnectionId; readonly bytes?: number }
  /** The answer to `verify`. */
  | { readonly type: 'verified'; readonly conn: DerpConnectionId; readonly allow: boolean }
  /** The stream has ended or broken. */
  | { readonly type: 'closed'; readonly conn: DerpConnectionId }

/** What the server wants done. */
export type DerpServerOutput =
  | { readonly type: 'write'; readonly conn: DerpConnectionId; readonly bytes: Uint8Array }
  /** Close the stream; nothing more is said of this connection. */
  | { readonly type: 'close'; readonly conn: DerpConnectionId; readonly reason: DerpCloseReason }
  /** Ask whether this key may use the relay, then feed `verified`. */
  | { readonly type: 'verify'; readonly conn: DerpConnectionId; readonly nodeKey: NodePublicKey; readonly from?: Endpoint }
  /** Stop reading from the transport, and go on with it. */
  | { readonly type: 'pause'; readonly conn: DerpConnectionId }
  | { readonly type: 'resume'; readonly conn: DerpConnectionId }
  /** Hand a packet to another relay: `DerpClient.forward` of that link. */
  | { readonly type: 'forward'; readonly link: number; readonly source: NodePublicKey; readonly destination: NodePublicKey; readonly packet: Uint8Array }
  /** A key has come to, or left, this relay. */
  | { readonly type: 'peerConnected'; readonly peer: NodePublicKey }
  | { readonly type: 'peerDisconnected'; readonly peer: NodePublicKey }
