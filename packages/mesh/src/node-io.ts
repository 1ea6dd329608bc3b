import type { ControlClientInput, ControlClientOutput, ControlState } from '@meshwright/control-client'
import type { MapResponse } from '@meshwright/control-protocol'
import type { RandomSource, RelayNode, RelayRegion, WallClock } from '@meshwright/core'
import type { CryptoProvider } from '@meshwright/crypto'
import type { Endpoint, Ip } from '@meshwright/ip'
import type { DnsTransport } from '@meshwright/magicdns'
import type { NetstackOutput } from '@meshwright/netstack'
import type { EngineOptions } from './engine.ts'
import type { NodeEngine } from './node-engine.ts'
import type { Prefs } from './prefs.ts'
import type { RelayLinksInput } from './relay-links.ts'
import type { MeshState, PingResult } from './status.ts'

/** What a node is made of. */
export interface MeshNodeConfig {
  readonly random: RandomSource
  readonly wallClock: WallClock
  readonly provider?: CryptoProvider
  /** Reads a clock of fine resolution, in milliseconds: what handshakes take decides about load (see `WireGuardDeviceOptions`). */
  readonly stopwatch?: () => number
  /** Where the control server is: shown, and compared with by those who store state. */
  readonly controlUrl: string
  /** Keys of an earlier run, as `saveState` gave them. */
  readonly state?: ControlState
  /** The map of an earlier run under these keys, for when the server is away: see `ControlClientOptions.lastMap`. */
  readonly lastMap?: MapResponse
  readonly prefs?: Prefs
  /** `linux`, `darwin`...: told to the control server. */
  readonly os?: string
  readonly osVersion?: string
  /** Version text of the program, told to the control server and shown. */
  readonly version?: string
  /** Inner packets go to a TUN device (`deliver`) instead of to the node's own TCP/IP stack. */
  readonly tun?: boolean
  /** The driver takes the packets of the node's own stack by `node.packets.nextRow`, and not as `datagram` outputs. */
  readonly rows?: boolean
  /** MTU of the tunnel (default 1280). */
  readonly mtu?: number
  /** Loopback endpoints count: only where several nodes share one machine on purpose. */
  readonly allowLoopback?: boolean
  /** No UDP at all: everything by relay. */
  readonly blockUdp?: boolean
  /** Asks to be forgotten when offline. */
  readonly ephemeral?: boolean
  /** Makes what moves packets, anew for each node key. Default: {@link Engine}, in this thread. */
  readonly makeEngine?: (options: EngineOptions) => NodeEngine
}

/** What comes from outside. */
export type MeshInput =
  /** A datagram on the node's UDP socket. */
  | { readonly type: 'datagram'; readonly bytes: Uint8Array; readonly from: Endpoint }
  /** A connection with a relay: `link` as in the `relayDial` output. */
  | { readonly type: 'relay'; readonly input: RelayLinksInput }
  /** What became of a request to the control server. */
  | { readonly type: 'control'; readonly input: ControlClientInput }
  /** An inner packet from the TUN device. */
  | { readonly type: 'packet'; readonly bytes: Uint8Array }
  /** The addresses of this computer, with the port of the UDP socket; best first. Connections that work go on; what failed is tried again. */
  | { readonly type: 'localEndpoints'; readonly endpoints: readonly Endpoint[] }
  /** An engine that `makeEngine` made has something to tell by itself. */
  | { readonly type: 'engineStirred' }
  /** Connections may be dead without knowing it: the network is another one, or the computer slept. Close that with the control server first. */
  | { readonly type: 'linkChanged' }
  /** A server that `dnsForward` named has answered, or (without bytes) cannot be asked. */
  | { readonly type: 'dnsAnswer'; readonly token: number; readonly upstream: string; readonly transport: DnsTransport; readonly bytes: Uint8Array | undefined }
  /** Addresses of a relay's name; none when it has none. */
  | { readonly type: 'relayResolved'; readonly hostName: string; readonly ips: readonly Ip[] }
  /** How long a connection with a region's relay took; `undefined` when it failed. */
  | { readonly type: 'relayMeasured'; readonly region: number; readonly latencyMs: number | undefined }

/** What a node owes. */
export type MeshOutput =
  | { readonly type: 'datagram'; readonly bytes: Uint8Array; readonly to: Endpoint }
  | { readonly type: 'relayDial'; readonly link: number; readonly region: RelayRegion; readonly node: RelayNode }
  | { readonly type: 'relayWrite'; readonly link: number; readonly bytes: Uint8Array }
  | { readonly type: 'relayClose'; readonly link: number }
  /** A request to the control server, or the end of one: inside the Noise channel of `controlIdentity`. */
  | { readonly type: 'control'; readonly output: Extract<ControlClientOutput, { readonly type: 'request' | 'cancel' }> }
  /** An inner packet for the TUN device. */
  | { readonly type: 'deliver'; readonly bytes: Uint8Array }
  /** What the node's own TCP/IP stack tells. */
  | { readonly type: 'flow'; readonly output: Exclude<NetstackOutput, { readonly type: 'packet' }> }
  /** A person must open this URL to log the node in. */
  | { readonly type: 'openUrl'; readonly url: string }
  /** Store this before anything else is performed. It holds secrets. */
  | { readonly type: 'saveState'; readonly state: ControlState }
  | { readonly type: 'state'; readonly state: MeshState }
  /** Something that `status` shows has changed. */
  | { readonly type: 'changed' }
  | { readonly type: 'pinged'; readonly id: number; readonly result: PingResult }
  | { readonly type: 'loggedOut' }
  /** Ask each of these servers and feed `dnsAnswer`. */
  | { readonly type: 'dnsForward'; readonly token: number; readonly bytes: Uint8Array; readonly upstreams: readonly string[]; readonly transport: DnsTransport }
  /** Nobody waits for the answers of this token any more. */
  | { readonly type: 'dnsCancel'; readonly token: number }
  /** Look up a relay's name and feed `relayResolved`. */
  | { readonly type: 'resolveRelay'; readonly hostName: string }
  /** Time a TCP connection with a relay of the region and feed `relayMeasured`. */
  | { readonly type: 'measureRelay'; readonly region: RelayRegion }
  /** What happens, in words for a log; without secrets. */
  | { readonly type: 'log'; readonly level: 'debug' | 'info' | 'warn'; readonly line: string }
