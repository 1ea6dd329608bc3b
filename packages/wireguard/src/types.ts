import type { RandomSource, UnixMillis, WallClock } from '@meshwright/core'
import type { CryptoProvider, NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import type { DropReason } from './drop-counters.ts'
import type { LoadMonitor } from './load-monitor.ts'

/**
 * Where a datagram came from or goes to. Opaque to the engine, so that a relay is a path too: the caller may give any richer type and
 * gets its own objects back.
 */
export interface WireGuardPath {
  /** Tells paths apart: equal ids are the same path. */
  readonly id: string
  /**
   * What cookies are bound to. For an Internet address: its 4 or 16 bytes and the port, big-endian; a relay: any bytes that name the
   * sender. Rate limits count by IPv4 address or IPv6 /64 of it.
   */
  readonly cookieBytes: Uint8Array
  /**
   * Who stands behind this path as far as the caller knows, for example because a relay says so. Named, a peer that sends on a session
   * which is unknown here while we have none with it either is called at once (some 10 of them a second at most): it would notice only
   * after 15 seconds. Not named, such packets are dropped without a word, as WireGuard has it.
   */
  readonly peer?: NodePublicKey
}

/** What is to be known of a peer. Fields left out keep their value; a new peer has none of them. */
export interface PeerConfig<Path extends WireGuardPath = WireGuardPath> {
  /** The peer's static key: who it is. */
  readonly publicKey: NodePublicKey
  /** 32 bytes mixed into handshakes; all zero for none. Copied. Used from the next handshake on. */
  readonly presharedKey?: Uint8Array
  /** Where to send until the peer is heard from elsewhere. */
  readonly path?: Path
  /** Seconds between empty packets that keep a NAT's memory fresh, 1 to 65535; 0 for off. */
  readonly persistentKeepaliveSeconds?: number
}

/** What goes into a {@link WireGuardDevice}. */
export type WireGuardInput<Path extends WireGuardPath = WireGuardPath> =
  /**
   * A datagram has arrived. `from` may be missing where the source is not known. `congested`: its outer header said "congestion
   * experienced" (ECN 3), which is passed on to the inner packet. The bytes are not kept.
   */
  | { readonly type: 'datagram'; readonly bytes: Uint8Array; readonly from?: Path; readonly congested?: boolean }
  /** An inner packet is to be sent to a peer. The bytes are not kept. */
  | { readonly type: 'packet'; readonly peer: NodePublicKey; readonly bytes: Uint8Array }

/** A datagram to be sent. */
export interface Transmit<Path extends WireGuardPath = WireGuardPath> {
  readonly type: 'transmit'
  readonly kind: 'handshake' | 'cookie' | 'transport'
  /** Missing for cookie replies, which go to whoever asked. */
  readonly peer?: NodePublicKey
  /** Missing when the device leaves paths to the caller. */
  readonly to?: Path
  /** DSCP and ECN for the outer header, where a socket can set them: ECN of the inner packet, AF41 for handshakes. */
  readonly trafficClass: number
  readonly bytes: Uint8Array
}

/** What comes out of a {@link WireGuardDevice}. Byte arrays belong to the receiver. */
export type WireGuardOutput<Path extends WireGuardPath = WireGuardPath> =
  /** Send this datagram: see {@link Transmit}. */
  | Transmit<Path>
  /** An authentic inner packet, trimmed to its IP length. Its source address is yet to be checked against the peer's allowed IPs. */
  | { readonly type: 'packet'; readonly peer: NodePublicKey; readonly bytes: Uint8Array }
  /** A session is confirmed by both ends. */
  | { readonly type: 'established'; readonly peer: NodePublicKey; readonly initiator: boolean }
  /** A peer was created because it was heard from, or because a packet was to be sent to it (`peerLookup`). */
  | { readonly type: 'peerAdded'; readonly peer: NodePublicKey }
  /** All sessions of a peer are gone: too old, or reset. */
  | { readonly type: 'expired'; readonly peer: NodePublicKey }
  /** A peer was heard from on another path, and is answered there from now on. */
  | { readonly type: 'roamed'; readonly peer: NodePublicKey; readonly path: Path }
  /** Something is to be sent to a peer and no path is known. Said once, until a path is known. */
  | { readonly type: 'noEndpoint'; readonly peer: NodePublicKey }
  /** An initiation stayed without answer and is sent again: a good moment to resolve a name or choose another path. */
  | { readonly type: 'handshakeRetry'; readonly peer: NodePublicKey; readonly attempt: number }
  /** No answer to 20 initiations: staged packets are dropped, and nothing more is sent until there is new traffic. */
  | { readonly type: 'handshakeFailed'; readonly peer: NodePublicKey }

/** Where a session's message numbers bring changes: the protocol's limits, or lower ones. */
export interface MessageLimits {
  /** A new handshake is started when more messages were sent; at most 2^60, which is the default. */
  readonly rekeyAfterMessages?: bigint
  /** No message number reaches this; at most 2^64 - 2^13 - 1, which is the default. */
  readonly rejectAfterMessages?: bigint
}

/** What a {@link WireGuardDevice} is made of. */
export interface WireGuardDeviceOptions<Path extends WireGuardPath = WireGuardPath> {
  /** Ephemeral keys, indices, nonces and jitter come from here. */
  readonly random: RandomSource
  /** For the timestamps of handshakes, and for the times that status shows. */
  readonly wallClock: WallClock
  /** Default: `nobleProvider`. */
  readonly provider?: CryptoProvider
  /** The device's static key. Without one it is silent. Copied. */
  readonly privateKey?: NodePrivateKey
  /** MTU of the tunnel, which padding does not exceed; 0 for unknown. Default 1420. */
  readonly mtu?: number
  /** Whether the device follows its peers from path to path. `false`: the caller chooses paths, `transmit` names the peer only. Default `true`. */
  readonly roaming?: boolean
  /**
   * Asked for a peer that is not configured: when an unknown static key has been read from an initiation, or a packet is to be sent.
   * The peer is created only once it has proved to own the key. The answer's public key must be the one asked for.
   */
  readonly peerLookup?: (publicKey: NodePublicKey) => PeerConfig<Path> | undefined
  /** Decides when the device is under load. Default: `HandshakeLoadMonitor`. */
  readonly loadMonitor?: LoadMonitor
  /**
   * Reads a clock of fine resolution, in milliseconds, around the work for a handshake message: what it took decides about load and about
   * what is left for handshakes. Without it the load is judged by their number, and costs are assumed.
   */
  readonly stopwatch?: () => number
  /** The most peers (default 65536). */
  readonly maxPeers?: number
  /** Packets kept for each peer while a handshake runs (default 128). */
  readonly maxStagedPackets?: number
  readonly limits?: MessageLimits
}

/** How far a peer is. */
export type PeerState =
  /** No session and none wanted. */
  | 'idle'
  /** An initiation is out. */
  | 'handshaking'
  /** We answered; the peer's first packet is awaited. */
  | 'answered'
  /** There is a session to send on. */
  | 'established'

/** What is known of one peer at a moment. */
export interface PeerStatus<Path extends WireGuardPath = WireGuardPath> {
  readonly publicKey: NodePublicKey
  readonly state: PeerState
  readonly path: Path | undefined
  readonly hasPresharedKey: boolean
  readonly persistentKeepaliveSeconds: number
  /** When the last handshake was completed. */
  readonly latestHandshake: UnixMillis | undefined
  /** Age of the session that is sent on, in milliseconds. */
  readonly sessionAgeMs: number | undefined
  /** Bytes of authentic datagrams received, with all WireGuard overhead. */
  readonly receivedBytes: number
  /** Bytes of datagrams sent, with all WireGuard overhead. */
  readonly sentBytes: number
  readonly receivedPackets: number
  readonly sentPackets: number
  readonly stagedPackets: number
  readonly handshakesCompleted: number
  /** Cookies that the peer, being under load, has asked us to come back with. */
  readonly cookiesReceived: number
  /** Drops that could be laid to this peer. */
  readonly drops: ReadonlyMap<DropReason, number>
}

/** Sizes of a device's tables. */
export interface DeviceTables {
  /** Indices in use: unanswered initiations and sessions, four for each peer at most. */
  readonly indices: number
  /** Sources that are remembered to limit their rate, while under load; 16384 at most. */
  readonly sources: number
  /** Outputs that nobody has drained. */
  readonly outputs: number
}

/** What is known of a device at a moment, without its peers. */
export interface DeviceFigures {
  readonly publicKey: NodePublicKey | undefined
  readonly provider: string
  readonly mtu: number
  readonly underLoad: boolean
  readonly cookieRepliesSent: number
  /** How full the tables are that packets from outside can reach into. */
  readonly tables: DeviceTables
  /** All drops, those of peers included. */
  readonly drops: ReadonlyMap<DropReason, number>
}

/** What is known of a device at a moment. */
export interface DeviceStatus<Path extends WireGuardPath = WireGuardPath> extends DeviceFigures {
  readonly peers: readonly PeerStatus<Path>[]
}

