import { type Instant, instant } from '@meshwright/core'
import type { CryptoProvider } from '@meshwright/crypto'
import { type LaneContext, noLaneCounters } from '../dataplane/lane-context.ts'
import { Lane } from '../dataplane/lane.ts'
import { MemoryKernel } from '../dataplane/memory-kernel.ts'
import { arenaOf, type LaneArena } from '../dataplane/memory-lane.ts'
import type { FromEngine, ToEngine } from './engine-messages.ts'
import { MeshLane } from './mesh-lane.ts'

/** Settings of a {@link MemoryMeshLane}. */
export interface MemoryMeshLaneOptions {
  readonly provider: CryptoProvider
  /** Default: a new one in the provider's memory, which must be WASM's then. */
  readonly arena?: LaneArena | undefined
  readonly random: (length: number) => Uint8Array
  /** Wall clock of the engine. */
  readonly wallClock: () => number
  readonly mtu?: number
  /** See `EngineHostDoors`. */
  readonly untaken?: () => number
}

/** The lane of a mesh node over a kernel made of arrays, in this thread and with a clock that stands still: for tests. */
export class MemoryMeshLane {
  readonly kernel: MemoryKernel
  readonly context: LaneContext
  readonly lane: Lane
  readonly mesh: MeshLane
  /** What was posted to the node's thread. */
  readonly posted: FromEngine[] = []
  now: Instant = instant(1_000)

  constructor({ provider, arena, random, wallClock, mtu = 1280, untaken }: MemoryMeshLaneOptions) {
    const memory = arena ?? arenaOf(provider)
    this.kernel = new MemoryKernel(memory.bytes)
    this.mesh = new MeshLane({ random, wallClock, stopwatch: () => 0, provider, post: (message) => this.posted.push(structuredClone(message)), ...(untaken !== undefined && { untaken }) })
    this.context = {
      ...memory,
      border: this.kernel,
      engine: this.mesh,
      offloads: { tso: true, uso: true, udpJoin: true, gso: true, gro: true },
      counters: noLaneCounters(),
      tun: { fd: MemoryKernel.TUN, hasVnetHeader: true },
      sockets: { ipv4: MemoryKernel.IPV4, ipv6: MemoryKernel.IPV6, port: 5000 },
      mtu,
    }
    this.lane = new Lane(this.context, MemoryKernel.WAKE, () => this.now)
  }

  /** Takes a message of the node's thread, as the worker does. */
  take(message: ToEngine): void {
    this.mesh.take(this.now, structuredClone(message))
    this.lane.settle(this.now)
  }

  /** Turns until there is nothing to read. */
  run(): void {
    do this.lane.turn(0)
    while (this.kernel.tunIn.length > 0 || this.kernel.udpIn.length > 0)
  }
}
