import type { Instant } from '@meshwright/core'
import type { DiscoPrivateKey, DiscoPublicKey, NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import type { Endpoint } from '@meshwright/ip'
import type { AppliedMap, DeniedPacket, EngineInput, EngineOutput, EnginePeer, EngineTraffic, EngineWatch } from '@meshwright/mesh'
import type { RelayMap } from '@meshwright/core'
import type { PathExplanation } from '@meshwright/nat-traversal'
import type { Portable } from './portable-values.ts'

/** What an engine in another thread is made from; the rest it has there. */
export interface EngineSeed {
  readonly privateKey: NodePrivateKey
  readonly discoKey: DiscoPrivateKey
  readonly mtu: number
  readonly allowLoopback: boolean
  readonly blockUdp: boolean
  /** Relay links of this engine are numbered from here. */
  readonly firstLink: number
}

/** A command of a node to its engine, in the order they are given. */
export type EngineCommand =
  | { readonly do: 'apply'; readonly applied: AppliedMap }
  | { readonly do: 'setShieldsUp'; readonly up: boolean }
  | { readonly do: 'setRelayMap'; readonly map: RelayMap }
  | { readonly do: 'setHome'; readonly region: number }
  | { readonly do: 'setSelfEndpoints'; readonly endpoints: readonly Endpoint[] }
  | { readonly do: 'setUdpBlocked'; readonly blocked: boolean }
  | { readonly do: 'rebind' }
  | { readonly do: 'ping'; readonly peer: NodePublicKey; readonly id: number; readonly sizeBytes?: number }
  | { readonly do: 'sendTo'; readonly peer: NodePublicKey; readonly packet: Uint8Array }
  | { readonly do: 'setPeerDiscoKey'; readonly peer: NodePublicKey; readonly key: DiscoPublicKey }
  | { readonly do: 'input'; readonly input: EngineInput }

/** To the thread of the engine. */
export type ToEngine =
  /** A new engine in the place of the one before. */
  | { readonly type: 'make'; readonly engine: number; readonly seed: Portable<EngineSeed> }
  | { readonly type: 'command'; readonly engine: number; readonly command: Portable<EngineCommand> }
  | { readonly type: 'close'; readonly engine: number }
  /** A packet for the programs of this computer. */
  | { readonly type: 'deliver'; readonly bytes: Uint8Array }
  /** A datagram of the node itself: STUN. */
  | { readonly type: 'send'; readonly bytes: Uint8Array; readonly to: Portable<Endpoint> }
  /** A view is wanted now. */
  | { readonly type: 'look'; readonly engine: number }

/** What an engine showed at one moment. */
export interface EngineView {
  readonly at: Instant
  readonly traffic: EngineTraffic
  readonly drops: Readonly<Record<string, number>>
  readonly watch: EngineWatch
  /** Only when a view was asked for. */
  readonly denied: readonly DeniedPacket[]
  readonly peers: ReadonlyMap<string, EnginePeer>
  /** Of peers with a path that was used lately; of all when a view was asked for. */
  readonly explanations: ReadonlyMap<string, PathExplanation>
  readonly homeRelay: number
  readonly connectedRelays: readonly number[]
  readonly relayProblems: ReadonlyMap<number, string>
  readonly isActive: boolean
}

/** From the thread of the engine. */
export type FromEngine =
  | { readonly type: 'outputs'; readonly engine: number; readonly outputs: Portable<readonly EngineOutput[]> }
  | { readonly type: 'view'; readonly engine: number; readonly asked: boolean; readonly view: Portable<EngineView> }
  /** A packet of a program of this computer for the node itself: a question for a name. */
  | { readonly type: 'service'; readonly bytes: Uint8Array }
