import { NodePublicKey } from '@meshwright/crypto'
import { type Endpoint, formatEndpoint, parseEndpoint } from '@meshwright/ip'
import type { DeviceStatus, PeerStatus } from '@meshwright/wireguard'
import type { UapiPeerChange } from '@meshwright/wireguard/text'
import type { LaneCounters, LaneOffloads, SocketPair } from './lane-context.ts'
import type { LaneTest } from './lane-loop.ts'
import type { EndpointPath, TunnelDrops } from './tunnel-engine.ts'

/** What a worker is started with. Descriptors belong to the process, so they outlive it. */
export interface WorkerStart {
  readonly meshwrightDataPlane: 1
  readonly name: string
  readonly mtu: number
  readonly tun: { readonly fd: number; readonly hasVnetHeader: boolean }
  readonly offloads: LaneOffloads
  /** Whether the thread asks for more processor time than programs have. */
  readonly priority: boolean
  readonly wake: number
  /** Sockets of a worker that died. */
  readonly sockets: SocketPair | undefined
  /** A UAPI `set` that makes the interface what it was. It holds secrets. */
  readonly config: string
  /** Public keys of peers to shake hands with at once. */
  readonly reconnect: readonly Uint8Array[]
  readonly port: MessagePortLike
}

/** What is used of a port. */
export interface MessagePortLike {
  postMessage(message: unknown): void
}

/** From the main thread to the worker; each is followed by a write to the wake descriptor. */
export type ToWorker =
  /** A UAPI `set`, as text. */
  | { readonly type: 'set'; readonly id: number; readonly text: string }
  /** A UAPI `get`. */
  | { readonly type: 'get'; readonly id: number }
  | { readonly type: 'status'; readonly id: number }
  | { readonly type: 'mtu'; readonly mtu: number }
  | { readonly type: 'close'; readonly id: number }
  /** For tests. */
  | { readonly type: 'test'; readonly what: LaneTest | 'rekey' | 'load' }

/** From the worker to the main thread. */
export type FromWorker =
  | { readonly type: 'ready' }
  /** It cannot run here. */
  | { readonly type: 'unavailable'; readonly reason: string }
  | { readonly type: 'answer'; readonly id: number; readonly errno: number; readonly text?: string; readonly status?: PackedStatus }
  /** The sockets are these now: whoever starts the next worker needs them. */
  | { readonly type: 'sockets'; readonly pair: SocketPair }
  /** The sockets before those are closed now. */
  | { readonly type: 'closing' }
  | { readonly type: 'roamed'; readonly peer: Uint8Array; readonly endpoint: string }
  | { readonly type: 'unanswered'; readonly peer: Uint8Array; readonly endpoint: string | undefined }
  | { readonly type: 'log'; readonly level: 'error' | 'verbose'; readonly line: string }
  /** The TUN device is gone. */
  | { readonly type: 'gone'; readonly errno: number }

/** Whether a change says where a peer is from now on, nowhere included. */
export function placesPeer({ endpoint, remove }: UapiPeerChange): boolean {
  return remove || endpoint !== undefined
}

/** How a lane is doing. */
export interface LaneStatus {
  readonly provider: string
  readonly offloads: Readonly<LaneOffloads>
  readonly counters: Readonly<LaneCounters>
  readonly joined: { readonly rows: number; readonly packets: number }
  readonly port: number
  /** Bytes of heap that the worker's thread uses. */
  readonly heapBytes: number
}

/** A status as it travels between threads: keys as bytes, paths as text. */
export interface PackedStatus {
  readonly lane: LaneStatus
  readonly drops: Readonly<TunnelDrops>
  readonly device: Omit<DeviceStatus, 'publicKey' | 'peers'> & { readonly publicKey: Uint8Array | undefined }
  readonly peers: readonly (Omit<PeerStatus, 'publicKey' | 'path'> & { readonly publicKey: Uint8Array; readonly endpoint: string | undefined })[]
}

/** Makes a status ready to travel. */
export function packStatus(status: DeviceStatus<EndpointPath>, drops: TunnelDrops, lane: LaneStatus): PackedStatus {
  const { peers, publicKey, ...device } = status
  return {
    lane,
    drops: { ...drops },
    device: { ...device, publicKey: publicKey?.bytes },
    peers: peers.map(({ publicKey: key, path, ...peer }) => ({ ...peer, publicKey: key.bytes, endpoint: path && formatEndpoint(path.endpoint) })),
  }
}

/** Makes of it what it was. */
export function unpackStatus({ device, peers }: PackedStatus): DeviceStatus<EndpointPath> {
  return {
    ...device,
    publicKey: device.publicKey && NodePublicKey.fromBytes(device.publicKey),
    peers: peers.flatMap(({ publicKey, endpoint, ...peer }) => {
      const key = NodePublicKey.fromBytes(publicKey)
      const to = endpoint === undefined ? undefined : parseEndpoint(endpoint)
      return key === undefined ? [] : [{ ...peer, publicKey: key, path: to && plainPath(to) }]
    }),
  }
}

/** A path that nothing is sent by. */
export function plainPath(endpoint: Endpoint): EndpointPath {
  return { id: formatEndpoint(endpoint), cookieBytes: new Uint8Array(0), endpoint }
}
