import { getHeapStatistics } from 'node:v8'
import { isMainThread, MessagePort, workerData } from 'node:worker_threads'
import { type Instant, instant } from '@meshwright/core'
import type { WasmProvider } from '@meshwright/crypto/wasm'
import { suspendAwareClock } from '../clock.ts'
import { Lane } from '../dataplane/lane.ts'
import { arenaIn, type LaneContext, type LaneOffloads, noLaneCounters, type SocketPair } from '../dataplane/lane-context.ts'
import { CountedPosts } from '../dataplane/counted-posts.ts'
import { laneNeeds } from '../dataplane/lane-needs.ts'
import { LaneLoop, obeyTest } from '../dataplane/lane-loop.ts'
import { linuxBorder } from '../dataplane/kernel-border.ts'
import { optimizeSooner } from '../dataplane/tier-up.ts'
import { gsoMaxBytes, setGsoMaxBytes } from '../dataplane/tun-descriptor.ts'
import { openUdpPair } from '../dataplane/udp-pair.ts'
import { systemRandom } from '../random.ts'
import { MeshLane } from './mesh-lane.ts'
import type { FromMeshWorker, ToMeshWorker } from './mesh-messages.ts'

/** While packets pass, `status` learns of them this often. */
const VIEW_MS = 1_000

/** What a worker is started with; descriptors belong to the process. */
export interface MeshWorkerStart {
  readonly meshwrightMeshLane: 1
  readonly name: string
  readonly mtu: number
  readonly tun: { readonly fd: number; readonly hasVnetHeader: boolean }
  readonly offloads: LaneOffloads
  /** Whether the thread asks for more processor time than programs have. */
  readonly priority: boolean
  readonly wake: number
  /** Sockets of a worker that died. */
  readonly sockets: SocketPair | undefined
  /** Wanted UDP port, 0 for any. */
  readonly udpPort: number
  /** SO_MARK of the sockets. */
  readonly mark: number
  /** `performance.timeOrigin` of the node's thread: instants of both mean the same. */
  readonly timeOrigin: number
}

type Start = MeshWorkerStart & { readonly port: MessagePort; readonly pulse: Int32Array }

/** Whether this thread was started to carry a mesh node's packets. */
export function isMeshLaneWorker(): boolean {
  return !isMainThread && isStart(workerData)
}

/** Carries them. Programs that are bundled into one file call it when `isMeshLaneWorker()`. */
export function runMeshLaneWorker(): void {
  const start: unknown = workerData
  if (isMainThread || !isStart(start)) throw new TypeError('this thread was not started for a mesh node')
  optimizeSooner()
  const post = (message: FromMeshWorker, given: readonly ArrayBuffer[] = []): void => start.port.postMessage(message, given)
  const needs = laneNeeds()
  if ('reason' in needs) {
    post({ type: 'unavailable', reason: needs.reason })
    return start.port.close()
  }
  new MeshLaneThread(start, needs.koffi, needs.provider, post).run()
}

class MeshLaneThread {
  readonly #start: Start
  readonly #post: (message: FromMeshWorker, given?: readonly ArrayBuffer[]) => void
  readonly #clock: () => Instant
  readonly #engine: MeshLane
  readonly #context: LaneContext
  readonly #lane: Lane
  readonly #loop: LaneLoop
  #viewedAt: Instant
  #packets = 0

  constructor(start: Start, koffi: unknown, provider: WasmProvider, post: (message: FromMeshWorker, given?: readonly ArrayBuffer[]) => void) {
    this.#start = start
    const posts = new CountedPosts(start.pulse, post)
    this.#post = (message, given) => posts.post(message, given)
    const own = suspendAwareClock()
    const behind = performance.timeOrigin - start.timeOrigin
    this.#clock = () => instant(own() + behind)
    this.#viewedAt = this.#clock()
    const memory = arenaIn(provider)
    this.#engine = new MeshLane({ random: systemRandom, wallClock: () => Date.now(), stopwatch: () => performance.now(), provider, post: this.#post, untaken: () => posts.untaken })
    this.#context = {
      ...memory,
      border: linuxBorder(koffi, memory.bytes),
      engine: this.#engine,
      offloads: { ...start.offloads },
      counters: noLaneCounters(),
      tun: start.tun,
      sockets: undefined,
      mtu: start.mtu,
    }
    this.#lane = new Lane(this.#context, start.wake, this.#clock, { prompt: true })
    this.#loop = new LaneLoop(this.#lane, start.wake, start.port, start.pulse, start.priority, {
      onMessage: (message) => void (isToWorker(message) && this.#take(message)),
      onGone: (errno) => this.#post({ type: 'gone', errno }),
      onTurn: () => {
        this.#engine.host.showLater(this.#clock())
        this.#showTraffic()
      },
    })
  }

  run(): void {
    const { sockets } = this.#start
    if (sockets === undefined && !this.#listen()) return this.#loop.end()
    if (sockets !== undefined) this.#lane.useSockets(this.#clock(), sockets)
    const { border, tun, mtu, view, map } = this.#context
    if (tun.hasVnetHeader && this.#context.offloads.tso) setGsoMaxBytes(border, { view, at: map.scratch }, this.#start.name, gsoMaxBytes(mtu))
    this.#post({ type: 'ready' })
    this.#loop.run()
  }

  #listen(): boolean {
    const { border, offloads, view, map } = this.#context
    const pair = openUdpPair(border, { view, at: map.scratch }, { port: this.#start.udpPort, mark: this.#start.mark, gro: offloads.gro })
    if (typeof pair === 'number') {
      this.#post({ type: 'unavailable', reason: `UDP port ${this.#start.udpPort} cannot be had (errno ${-pair})` })
      return false
    }
    offloads.gro = pair.gro
    offloads.gso = offloads.gso && pair.gso
    this.#lane.useSockets(this.#clock(), { ipv4: pair.ipv4, ipv6: pair.ipv6, port: pair.port })
    this.#post({ type: 'sockets', pair: { ipv4: pair.ipv4, ipv6: pair.ipv6, port: pair.port } })
    return true
  }

  #take(message: ToMeshWorker): void {
    const now = this.#clock()
    switch (message.type) {
      case 'stop':
        this.#lane.close()
        this.#post({ type: 'stopped' })
        return this.#loop.end()
      case 'test':
        return message.what === 'rekey' ? this.#rekey(now) : obeyTest(message.what)
      case 'laneStatus':
        return this.#post({ type: 'laneStatus', offloads: { ...this.#context.offloads }, counters: { ...this.#context.counters }, joined: this.#lane.joined, heapBytes: getHeapStatistics().used_heap_size })
      default:
        this.#engine.take(now, message)
        this.#lane.settle(now)
    }
  }

  #rekey(now: Instant): void {
    const { engine } = this.#engine.host
    for (const key of engine?.peerKeys() ?? []) if (engine?.plane.device.peerStatus(now, key)?.state === 'established') engine.plane.device.rekey(now, key)
    this.#lane.settle(now)
  }

  // Also while nobody asks: what hangs on the traffic of a node, such as how often it looks at the network, is decided in its own thread.
  #showTraffic(): void {
    const now = this.#clock()
    const { tunPackets, udpDatagrams } = this.#context.counters
    if (now - this.#viewedAt < VIEW_MS || tunPackets + udpDatagrams === this.#packets) return
    this.#viewedAt = now
    this.#packets = tunPackets + udpDatagrams
    this.#engine.host.showChanges(now)
  }
}

function isStart(data: unknown): data is Start {
  return typeof data === 'object' && data !== null && 'meshwrightMeshLane' in data && 'port' in data && data.port instanceof MessagePort && 'pulse' in data && data.pulse instanceof Int32Array
}

function isToWorker(message: unknown): message is ToMeshWorker {
  return typeof message === 'object' && message !== null && 'type' in message
}
