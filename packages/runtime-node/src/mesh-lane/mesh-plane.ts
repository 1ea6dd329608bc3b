import type { Endpoint } from '@meshwright/ip'
import type { EngineOptions } from '@meshwright/mesh'
import type { LaneOffloads, SocketPair } from '../dataplane/lane-context.ts'
import type { LaneTest } from '../dataplane/lane-loop.ts'
import { giveUpOffloads, NO_OFFLOADS } from '../dataplane/give-up-offloads.ts'
import { KeptCounters } from '../dataplane/kept-counters.ts'
import type { LaneMode } from '../dataplane/lane-mode.ts'
import { LaneThread, type MainBorder, mainBorder } from '../dataplane/lane-thread.ts'
import type { Restart } from '../dataplane/restart-plan.ts'
import { openTunDescriptor, type TunDescriptor } from '../dataplane/tun-descriptor.ts'
import { closeSockets } from '../dataplane/udp-pair.ts'
import type { FromMeshWorker, MeshLaneStatus, ToMeshWorker } from './mesh-messages.ts'
import type { MeshWorkerStart } from './mesh-worker.ts'
import { toPortable } from './portable-values.ts'
import { RemoteEngine } from './remote-engine.ts'

const STOP_MS = 2_000
const LOOK_MS = 1_000
/** Messages that wait for the worker, at most, before connections with relays are not read any more: each brings some 64 KiB at most. */
const MAX_UNTAKEN = 32

/** How the data plane of a node is started. */
export interface MeshPlaneOptions {
  /** Name of the TUN device; `%d` in it becomes a number. */
  readonly name: string
  readonly mtu: number
  readonly mode: LaneMode
  /** UDP port, 0 for any. */
  readonly udpPort: number
  /** SO_MARK of the UDP sockets. */
  readonly mark: number
  /** The worker's program, for bundled programs. */
  readonly workerUrl?: URL | undefined
  /** Without a sign of life for so long, in milliseconds, the worker is ended and started again. Default: 10,000. */
  readonly hungMs?: number | undefined
  /** An engine owes its node something now. */
  readonly onStirred: () => void
  /** A packet of this computer for the node itself. */
  readonly onService: (bytes: Uint8Array) => void
  readonly log: (level: 'warn' | 'debug', line: string) => void
  /** The TUN device is gone: nothing more will come. */
  readonly onGone: (reason: string) => void
}

/**
 * Starts the data plane of a mesh node: a TUN device, UDP sockets, and a worker that carries packets between them. The engines that it makes
 * work there. A worker that dies is started again over the same device and sockets; its engine is told everything again. If it dies again and
 * again it is started without offloads, and then ever more rarely (`restart-plan.ts`): a node with a device is not left alone.
 * @throws DataPlaneError where it cannot run, TunError where the device cannot be had (the promise rejects)
 */
export async function startMeshPlane(options: MeshPlaneOptions): Promise<MeshPlane> {
  const main = mainBorder()
  const tun = openTunDescriptor(main.border, main, { name: options.name, tso: options.mode.tso, uso: options.mode.uso, udpJoin: options.mode.udpJoin })
  const plane = new MeshPlane(options, main, tun)
  try {
    await plane.begin()
  } catch (error) {
    await plane.close()
    throw error
  }
  return plane
}

/** A running data plane; made by {@link startMeshPlane}. */
export class MeshPlane {
  /** Name of the TUN device. */
  readonly name: string
  readonly #options: MeshPlaneOptions
  readonly #main: MainBorder
  readonly #tun: TunDescriptor
  readonly #thread: LaneThread<ToMeshWorker, FromMeshWorker>
  readonly #kept: KeptCounters = new KeptCounters()
  #sockets: SocketPair | undefined
  #engine: RemoteEngine | undefined
  #engines = 0
  #lastStatus: MeshLaneStatus | undefined
  #onView: (() => void)[] = []
  #onStatus: ((status: MeshLaneStatus | undefined) => void)[] = []
  #onStopped: (() => void) | undefined
  #closed = false
  #gone: string | undefined

  /** Internal: see {@link startMeshPlane}. */
  constructor(options: MeshPlaneOptions, main: MainBorder, tun: TunDescriptor) {
    this.#options = options
    this.#main = main
    this.#tun = tun
    this.name = tun.name
    this.#thread = new LaneThread(main, {
      name: tun.name,
      workerUrl: options.workerUrl,
      hungMs: options.hungMs,
      hasOffloads: Object.values(this.#offloads()).includes(true),
      onMessage: (message) => this.#take(message),
      onDeath: (line) => this.#died(line),
      onRestart: (restart) => this.#restart(restart),
      onExit: () => this.#unanswered(),
    })
  }

  /** Internal: starts the first worker. */
  begin(): Promise<void> {
    return this.#startWorker(this.#offloads())
  }

  /** UDP ports, `undefined` where a family is not there. */
  get ports(): { readonly ipv4: number | undefined; readonly ipv6: number | undefined } {
    const pair = this.#sockets
    return { ipv4: pair === undefined || pair.ipv4 < 0 ? undefined : pair.port, ipv6: pair === undefined || pair.ipv6 < 0 ? undefined : pair.port }
  }

  /** How often a worker that died was started again. */
  get restarts(): number {
    return this.#thread.restarts
  }

  /** What a person should know, with the remedy; `undefined` while all is well. */
  get trouble(): string | undefined {
    return this.#gone === undefined ? this.#thread.trouble : `${this.#gone}, so no packets pass: start the program anew`
  }

  /** Whether so much waits for the worker that relays are to keep what they have for now. */
  get isBehind(): boolean {
    return this.#thread.untaken >= MAX_UNTAKEN
  }

  /** Makes the engine of a node, in the worker, in the place of the one before. */
  makeEngine(options: EngineOptions): RemoteEngine {
    this.#engines += 1
    this.#engine = new RemoteEngine(this.#engines, options, (message, given) => this.#thread.tell(message, given))
    return this.#engine
  }

  /** Hands a packet to the programs of this computer. */
  deliver(bytes: Uint8Array): void {
    this.#thread.tell({ type: 'deliver', bytes })
  }

  /** Sends a datagram of the node itself. */
  send(to: Endpoint, bytes: Uint8Array): void {
    this.#thread.tell({ type: 'send', bytes, to: toPortable(to) })
  }

  /** Resolves when looks at the engine show this moment, or after a second. */
  fresh(): Promise<void> {
    const engine = this.#engine
    if (engine === undefined || !this.#thread.isRunning) return Promise.resolve()
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, LOOK_MS)
      this.#onView.push(() => {
        clearTimeout(timer)
        resolve()
      })
      engine.look()
    })
  }

  /** What went through, and which offloads are in use; between two workers what was last told, `undefined` if nothing was. */
  status(): Promise<MeshLaneStatus | undefined> {
    if (!this.#thread.isRunning) return Promise.resolve(this.#lastStatus)
    return new Promise((resolve) => {
      this.#onStatus.push(resolve)
      this.#thread.tell({ type: 'laneStatus' })
    })
  }

  /**
   * For tests: the worker dies as an error in it would have it, hangs, collects garbage (with `--expose-gc`), or shakes hands anew with all peers
   * that have a session.
   */
  testWorker(what: LaneTest | 'rekey'): void {
    this.#thread.tell({ type: 'test', what })
  }

  /** Stops; the device is gone when this resolves. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    this.#thread.expectEnd()
    if (this.#thread.isRunning) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, STOP_MS)
        this.#onStopped = () => {
          clearTimeout(timer)
          resolve()
        }
        this.#thread.tell({ type: 'stop' })
      })
    }
    await this.#thread.close()
    this.#unanswered()
    closeSockets(this.#main.border, this.#sockets)
    this.#main.border.close(this.#tun.fd)
  }

  #offloads(): LaneOffloads {
    const { mode } = this.#options
    return { tso: this.#tun.tso, uso: this.#tun.uso, udpJoin: mode.udpJoin && this.#tun.hasVnetHeader, gso: mode.gso, gro: mode.gro }
  }

  #startWorker(offloads: LaneOffloads): Promise<void> {
    const { mode, mtu, udpPort, mark } = this.#options
    const { hasVnetHeader, fd, name } = this.#tun
    const start: MeshWorkerStart = { meshwrightMeshLane: 1, name, mtu, tun: { fd, hasVnetHeader }, offloads, priority: mode.priority, wake: this.#thread.wake, sockets: this.#sockets, udpPort, mark, timeOrigin: performance.timeOrigin }
    return this.#thread.start({ ...start })
  }

  #take(message: FromMeshWorker): void {
    switch (message.type) {
      case 'outputs':
        this.#engine?.receive(message)
        return this.#options.onStirred()
      case 'view':
        this.#engine?.receive(message)
        if (message.asked) for (const done of this.#onView.splice(0)) done()
        return
      case 'service':
        return this.#options.onService(message.bytes)
      case 'sockets':
        this.#sockets = message.pair
        return
      case 'laneStatus':
        this.#lastStatus = { ...message, counters: this.#kept.showAll('lane', { ...message.counters }), joined: this.#kept.showAll('joined', { ...message.joined }) }
        for (const done of this.#onStatus.splice(0)) done(this.#lastStatus)
        return
      case 'stopped':
        this.#sockets = undefined // it has closed them
        return this.#onStopped?.()
      case 'gone':
        return this.#end(`the TUN device ${this.name} is gone (errno ${message.errno})`)
      default: // 'ready' and 'unavailable' are the thread's own
    }
  }

  #died(line: string): void {
    this.#kept.restart()
    this.#options.log('warn', line)
    this.#lost()
  }

  async #restart({ withoutOffloads }: Restart): Promise<void> {
    if (withoutOffloads) giveUpOffloads(this.#main.border, this.#main, this.#tun, this.#sockets)
    await this.#startWorker(withoutOffloads ? NO_OFFLOADS : this.#offloads())
    this.#engine?.revive()
    this.#options.onStirred()
  }

  // The engine's connections with relays end with it: the next worker makes its own.
  #lost(): void {
    this.#engine?.lost()
    this.#options.onStirred()
  }

  #end(reason: string): void {
    this.#gone = reason
    this.#options.onGone(reason)
    this.#lost()
  }

  #unanswered(): void {
    for (const done of this.#onView.splice(0)) done()
    for (const done of this.#onStatus.splice(0)) done(this.#lastStatus)
    this.#onStopped?.()
  }
}
