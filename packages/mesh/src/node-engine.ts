import type { Instant, Machine, RelayMap, RelayNode, RelayRegion, UnixMillis } from '@meshwright/core'
import type { DiscoPublicKey, NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import type { Endpoint, Ip } from '@meshwright/ip'
import type { Path, PathExplanation, PathFinderOutput } from '@meshwright/nat-traversal'
import type { PacketFilter } from '@meshwright/packet-filter'
import type { AppliedMap } from './apply-network-map.ts'
import type { DeniedPacket } from './denied-packets.ts'
import type { PeerLie } from './peer-lies.ts'
import type { RelayLinksInput } from './relay-links.ts'
import type { WayCounts } from './way-counts.ts'

/** What comes from sockets and from this node's own programs. */
export type EngineInput =
  | { readonly type: 'datagram'; readonly bytes: Uint8Array; readonly from: Endpoint }
  | { readonly type: 'relay'; readonly input: RelayLinksInput }
  /** An inner packet that this node wants to send. */
  | { readonly type: 'packet'; readonly bytes: Uint8Array }

/** What goes to sockets and to this node's own programs. */
export type EngineOutput =
  | { readonly type: 'datagram'; readonly bytes: Uint8Array; readonly to: Endpoint }
  | { readonly type: 'relayDial'; readonly link: number; readonly region: RelayRegion; readonly node: RelayNode }
  | { readonly type: 'relayWrite'; readonly link: number; readonly bytes: Uint8Array }
  | { readonly type: 'relayClose'; readonly link: number }
  | { readonly type: 'stun'; readonly bytes: Uint8Array; readonly from: Endpoint }
  | { readonly type: 'deliver'; readonly bytes: Uint8Array; readonly peer: NodePublicKey }
  | { readonly type: 'tsmp'; readonly bytes: Uint8Array; readonly peer: NodePublicKey }
  | { readonly type: 'relayConnected'; readonly region: number }
  | { readonly type: 'relayDisconnected'; readonly region: number; readonly reason: string }
  | { readonly type: 'endpointsWanted' }
  | { readonly type: 'changed' }
  | Extract<PathFinderOutput, { readonly type: 'pinged' | 'pingFailed' }>

/** What an engine has moved since it came to be. `relayIn` and `relayOut` are all bytes of the connections with relays. */
export interface EngineTraffic {
  readonly packetsIn: number
  readonly packetsOut: number
  readonly received: WayCounts
  readonly sent: WayCounts
  readonly relayIn: number
  readonly relayOut: number
}

/** What an engine knows of one peer. */
export interface EnginePeer {
  readonly path: Path
  readonly receivedBytes: number
  readonly sentBytes: number
  readonly latestHandshake: UnixMillis | undefined
  /** When this node last sent to it, and whether that was within the last 45 s. */
  readonly lastSend: { readonly at: UnixMillis; readonly active: boolean } | undefined
}

/** What an engine has seen of those who mean no good, and what it keeps because of them. */
export interface EngineWatch {
  /** Peers that lie, and go on with it. */
  readonly lies: readonly PeerLie[]
  /** Handshakes have come faster than they are answered: senders had to prove their address first. */
  readonly flooded: boolean
  /** How many entries the tables hold that others can reach into, by table. Each has a bound. */
  readonly held: Readonly<Record<string, number>>
}

/**
 * Everything of a node that moves packets under one node key, as a node sees it: commands, and looks that change nothing. It may work
 * elsewhere, in a thread of its own; then a look shows what was so a moment ago.
 */
export interface NodeEngine extends Machine<EngineInput, EngineOutput> {
  /** The node key that this engine works under. */
  readonly privateKey: NodePrivateKey
  /** Takes a network map: rights are taken away before any are given, in this one call. */
  apply(now: Instant, applied: AppliedMap): void
  /** While up, no connection from outside is accepted. */
  setShieldsUp(up: boolean): void
  /** Takes the relay regions. */
  setRelayMap(now: Instant, map: RelayMap): void
  /** Chooses the home relay. */
  setHome(now: Instant, region: number): void
  /** Takes this node's own endpoints. */
  setSelfEndpoints(now: Instant, endpoints: readonly Endpoint[]): void
  /** Blocks or frees UDP. */
  setUdpBlocked(now: Instant, blocked: boolean): void
  /** Sockets were bound anew or the network changed. */
  rebind(now: Instant): void
  /** Pings a peer by disco, by datagrams of that length if it is given: `pinged` or `pingFailed` follows. */
  ping(now: Instant, peer: NodePublicKey, id: number, sizeBytes?: number): void
  /** Sends an inner packet to a known peer, past filter and router. */
  sendTo(now: Instant, peer: NodePublicKey, packet: Uint8Array): void
  /** A peer's disco key became known inside the tunnel. */
  setPeerDiscoKey(now: Instant, peer: NodePublicKey, key: DiscoPublicKey): void
  /** Ends everything: sessions, keys, relay connections. */
  close(now: Instant): void
  traffic(): EngineTraffic
  /** Packets that went nowhere, by reason; reasons that did not occur are left out. */
  drops(now: Instant): Readonly<Record<string, number>>
  watch(now: Instant): EngineWatch
  /** The last inner packets that did not pass, oldest first: a bounded number. */
  denied(): readonly DeniedPacket[]
  /** `undefined` for somebody who is no peer. */
  peer(now: Instant, key: NodePublicKey): EnginePeer | undefined
  /** What came of every way to a peer. */
  explain(now: Instant, peer: NodePublicKey): PathExplanation | undefined
  /** As `PacketFilter.capsFor`. */
  capsFor(source: Ip, destination: Ip): ReturnType<PacketFilter['capsFor']>
  /** The home relay's region, 0 for none. */
  readonly homeRelay: number
  isRelayConnected(region: number): boolean
  /** Why a region's relay cannot be reached. */
  relayProblem(region: number): string | undefined
  /** Whether a packet was sent to any peer within the last 45 s. */
  isActive(now: Instant): boolean
}
