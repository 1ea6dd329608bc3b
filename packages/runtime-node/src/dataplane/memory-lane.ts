import { type Instant, instant } from '@meshwright/core'
import type { CryptoProvider, NodePrivateKey } from '@meshwright/crypto'
import type { UapiChange } from '@meshwright/wireguard/text'
import { arenaIn, isWasmProvider, type LaneContext, type LaneOffloads, noLaneCounters } from './lane-context.ts'
import { Lane } from './lane.ts'
import { MemoryKernel } from './memory-kernel.ts'
import { type UdpPath, udpPathTo } from './socket-address.ts'
import { TunnelEngine } from './tunnel-engine.ts'
import { TunnelLane, type TunnelOutput } from './tunnel-lane.ts'

/** The memory of a lane, for several that take turns with it. */
export type LaneArena = ReturnType<typeof arenaIn>

/** Settings of a {@link MemoryLane}. */
export interface MemoryLaneOptions {
  readonly provider: CryptoProvider
  /** Default: a new one in the provider's memory, which must be WASM's then. */
  readonly arena?: LaneArena | undefined
  readonly key: NodePrivateKey
  readonly mtu?: number
  readonly hasVnetHeader?: boolean
  readonly gso?: boolean
  /** Offloads that are otherwise than `hasVnetHeader` and `gso` have them. */
  readonly offloads?: Partial<LaneOffloads>
  readonly random?: (length: number) => Uint8Array
  /** Wall clock of the engine; with it nothing depends on how fast this computer is. */
  readonly wallClock?: () => number
  readonly onOutput?: (output: TunnelOutput) => void
  /** See `LaneOptions.prompt`. */
  readonly prompt?: boolean
}

/** A worker's lane over a kernel made of arrays, in this thread and with a clock that stands still: for tests and benchmarks. */
export class MemoryLane {
  readonly kernel: MemoryKernel
  readonly context: LaneContext
  readonly lane: Lane
  readonly engine: TunnelEngine<UdpPath>
  now: Instant = instant(1_000)

  constructor(options: MemoryLaneOptions) {
    const memory = options.arena ?? arenaOf(options.provider)
    const { random, wallClock, mtu = 1420, hasVnetHeader = true, gso = true } = options
    this.kernel = new MemoryKernel(memory.bytes)
    this.engine = new TunnelEngine<UdpPath>({ name: 'memory', pathTo: udpPathTo, provider: options.provider, mtu, ...(random !== undefined && { random }), ...(wallClock !== undefined && { wallClock, stopwatch: false }) })
    this.context = {
      ...memory,
      border: this.kernel,
      engine: new TunnelLane(this.engine, options.onOutput),
      offloads: { tso: hasVnetHeader, uso: hasVnetHeader, udpJoin: hasVnetHeader, gso, gro: gso, ...options.offloads },
      counters: noLaneCounters(),
      tun: { fd: MemoryKernel.TUN, hasVnetHeader },
      sockets: { ipv4: MemoryKernel.IPV4, ipv6: MemoryKernel.IPV6, port: 5000 },
      mtu,
    }
    this.lane = new Lane(this.context, MemoryKernel.WAKE, () => this.now, { prompt: options.prompt === true })
    this.engine.change(this.now, { type: 'privateKey', key: options.key })
  }

  /** Changes the engine. */
  change(...changes: readonly Extract<UapiChange, { readonly type: 'privateKey' | 'peer' }>[]): void {
    for (const change of changes) this.engine.change(this.now, change)
    this.lane.settle(this.now)
  }

  /** Turns until there is nothing to read. */
  run(): void {
    do this.lane.turn(0)
    while (this.kernel.tunIn.length > 0 || this.kernel.udpIn.length > 0)
  }
}

/** An arena of its own in the memory of a provider that has one. */
export function arenaOf(provider: CryptoProvider): LaneArena {
  if (!isWasmProvider(provider)) throw new TypeError(`the cryptography ${provider.name} has no memory to share`)
  return arenaIn(provider)
}
