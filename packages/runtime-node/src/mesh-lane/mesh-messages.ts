import type { LaneCounters, LaneOffloads, SocketPair } from '../dataplane/lane-context.ts'
import type { LaneTest } from '../dataplane/lane-loop.ts'
import type { FromEngine, ToEngine } from './engine-messages.ts'

/** From the node's thread to the worker; each is followed by a write to the wake descriptor. */
export type ToMeshWorker =
  | ToEngine
  | { readonly type: 'laneStatus' }
  | { readonly type: 'stop' }
  /** For tests. */
  | { readonly type: 'test'; readonly what: LaneTest | 'rekey' }

/** How a lane is doing. */
export interface MeshLaneStatus {
  readonly offloads: Readonly<LaneOffloads>
  readonly counters: Readonly<LaneCounters>
  readonly joined: { readonly rows: number; readonly packets: number }
  /** Bytes of heap that the worker's thread uses. */
  readonly heapBytes: number
}

/** From the worker. */
export type FromMeshWorker =
  | FromEngine
  | { readonly type: 'ready' }
  /** It cannot run here. */
  | { readonly type: 'unavailable'; readonly reason: string }
  /** The sockets are these: whoever starts the next worker needs them. */
  | { readonly type: 'sockets'; readonly pair: SocketPair }
  | ({ readonly type: 'laneStatus' } & MeshLaneStatus)
  | { readonly type: 'stopped' }
  /** The TUN device is gone. */
  | { readonly type: 'gone'; readonly errno: number }
