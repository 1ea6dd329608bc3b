import { NodePublicKey } from '@meshwright/crypto'
import { type Endpoint, parseEndpoint } from '@meshwright/ip'
import type { DeviceStatus } from '@meshwright/wireguard'
import { formatUapiSet, parseUapiAnswer, type ShownDevice, UAPI_EIO, type UapiChange } from '@meshwright/wireguard/text'
import { ConfigMemory } from './config-memory.ts'
import { giveUpOffloads, NO_OFFLOADS } from './give-up-offloads.ts'
import { KeptCounters } from './kept-counters.ts'
import { type CountingStatus, keptShown, keptStatus, withoutSessions } from './kept-status.ts'
import type { LaneOffloads, SocketPair } from './lane-context.ts'
import type { LaneTest } from './lane-loop.ts'
import { DataPlaneError, type LaneMode } from './lane-mode.ts'
import { LaneThread, type MainBorder, mainBorder } from './lane-thread.ts'
import type { Restart } from './restart-plan.ts'
import { adoptTunDescriptor, openTunDescriptor, type TunDescriptor } from './tun-descriptor.ts'
import type { EndpointPath, PeerPlace, TunnelDrops } from './tunnel-engine.ts'
import { closeSockets } from './udp-pair.ts'
import { type FromWorker, type LaneStatus, placesPeer, type ToWorker, unpackStatus, type WorkerStart } from './worker-messages.ts'

const MAX_PLACES = 8
/** How a data plane is started. */
export interface DataPlaneOptions {
  /** Interface name, at most 15 bytes. */
  readonly name: string
  /** An open TUN descriptor to take over; `name` does not count then. */
  readonly tunFd?: number
  readonly mtu: number
  readonly mode: LaneMode
  /** The worker's program. Default: that of this package; bundled programs give their own file (see `runDataPlaneWorker`). */
  readonly workerUrl?: URL
  /** Without a sign of life for so long, in milliseconds, the worker is ended and started again. Default: 10,000. */
  readonly hungMs?: number
  readonly log?: (level: 'error' | 'verbose', line: string) => void
  /** A handshake stays without answer, or is given up. */
  readonly onUnanswered?: (peer: NodePublicKey, tried: Endpoint | undefined) => void
  /** The TUN device is gone: nothing more will come. */
  readonly onGone?: (reason: string) => void
}

/** All that is known of a data plane at a moment. */
export interface DataPlaneStatus {
  readonly device: DeviceStatus<EndpointPath>
  readonly drops: Readonly<TunnelDrops>
  readonly lane: LaneStatus
  /** How often a worker that died was started again. */
  readonly restarts: number
  /** What a person should know of its deaths, with the remedy; `undefined` while there is nothing. */
  readonly trouble: string | undefined
}

/**
 * Starts a data plane: a TUN device, and a worker that hosts the engine and moves packets in rows between the device and UDP sockets.
 * This thread only configures it. Descriptors belong to the process: a worker that dies is started again over the same device and
 * sockets, with the same configuration, and shakes hands anew with the peers that had a session.
 * @throws DataPlaneError where it cannot run, TunError where the device cannot be had
 */
export async function startDataPlane(options: DataPlaneOptions): Promise<DataPlane> {
  const main = mainBorder()
  const { mode, name } = options
  const wanted = { name, tso: mode.tso, uso: mode.uso, udpJoin: mode.udpJoin }
  const tun = options.tunFd === undefined ? openTunDescriptor(main.border, main, wanted) : adoptTunDescriptor(main.border, main, options.tunFd, wanted)
  const plane = new DataPlane(options, main, tun)
  try {
    await plane.begin()
  } catch (error) {
    await plane.close()
    throw error
  }
  return plane
}

/** A running data plane; made by {@link startDataPlane}. */
export class DataPlane {
  /** Name of the interface. */
  readonly name: string
  readonly #options: DataPlaneOptions
  readonly #main: MainBorder
  readonly #tun: TunDescriptor
  readonly #thread: LaneThread<ToWorker, FromWorker>
  readonly #config: ConfigMemory = new ConfigMemory()
  readonly #places: Map<string, PeerPlace[]> = new Map()
  readonly #waiting: Map<number, (answer: Extract<FromWorker, { readonly type: 'answer' }> | undefined) => void> = new Map()
  readonly #kept: KeptCounters = new KeptCounters()
  #sockets: SocketPair | undefined
  /** Those before, as long as the worker reads them: it closes them, or they are closed when it has died. */
  #oldSockets: SocketPair | undefined
  /** Peers that were given a place by requests that wait for an answer, and by how many: what a worker says of older places is no news. */
  readonly #placing: Map<string, number> = new Map()
  #mtu: number
  #nextId = 1
  #lastStatus: CountingStatus | undefined
  #closing = false

  /** Internal: see {@link startDataPlane}. */
  constructor(options: DataPlaneOptions, main: MainBorder, tun: TunDescriptor) {
    this.#options = options
    this.#main = main
    this.#tun = tun
    this.name = tun.name
    this.#mtu = options.mtu
    this.#thread = new LaneThread(main, {
      name: tun.name, workerUrl: options.workerUrl, hungMs: options.hungMs, hasOffloads: Object.values(this.#offloads()).includes(true), onMessage: (message) => this.#handle(message),
      onDeath: (line) => this.#died(line), onRestart: (restart) => this.#restart(restart), onExit: () => this.#unanswered(),
    })
  }

  /** Internal: starts the first worker. */
  begin(): Promise<void> {
    return this.#startWorker(this.#offloads(), [])
  }

  /** Makes the changes of a UAPI `set`, in order; resolves with 0 or the negative errno of the one that failed, where it stopped. */
  async apply(changes: readonly UapiChange[]): Promise<number> {
    // Remembered first: a worker that dies over it is followed by one that knows. What failed is corrected by whoever asked.
    this.#config.apply(changes)
    for (const peer of [...this.#places.keys()]) if (!this.#config.knows(peer)) this.#places.delete(peer)
    const placed = new Set(changes.flatMap((change) => (change.type === 'peer' && placesPeer(change) ? [change.publicKey.text] : [])))
    for (const peer of placed) this.#placing.set(peer, (this.#placing.get(peer) ?? 0) + 1)
    const answer = await this.#ask((id) => ({ type: 'set', id, text: formatUapiSet(changes) }), () => this.#placed(placed))
    return answer?.errno ?? UAPI_EIO
  }

  /** The state as `wg` shows it, secrets included. */
  async shown(): Promise<ShownDevice> {
    const answer = await this.#ask((id) => ({ type: 'get', id }))
    const parsed = answer?.text === undefined ? undefined : parseUapiAnswer(answer.text, this.name)
    // Between two workers it is as it was configured to be, without sessions.
    return keptShown(this.#kept, parsed?.device ?? this.#config.shown(this.name, this.#sockets?.port ?? 0))
  }

  /** Counters, states, offloads; no secrets. Counters go on when a worker died: from what was last asked for. */
  async status(): Promise<DataPlaneStatus> {
    const packed = (await this.#ask((id) => ({ type: 'status', id })))?.status
    if (packed !== undefined) this.#lastStatus = keptStatus(this.#kept, { device: unpackStatus(packed), drops: packed.drops, lane: packed.lane })
    // Between two workers it is what was last shown.
    if (this.#lastStatus === undefined) throw new DataPlaneError('DATAPLANE_WORKER', 'the data plane does not answer')
    return { ...this.#lastStatus, restarts: this.#thread.restarts, trouble: this.#thread.trouble }
  }

  /** Where a peer moved to lately, oldest first. */
  placesOf(publicKey: NodePublicKey): readonly PeerPlace[] {
    return this.#places.get(publicKey.text) ?? []
  }

  /** The MTU of the interface has changed. */
  setMtu(mtu: number): void {
    this.#mtu = mtu
    this.#thread.tell({ type: 'mtu', mtu })
  }

  /**
   * For tests: the worker dies as an error in it would have it, hangs, collects garbage (with `--expose-gc`), shakes hands anew with all peers
   * that have a session, or takes itself for being under load for a second, so that handshakes cost a cookie first.
   */
  testWorker(what: LaneTest | 'rekey' | 'load'): void {
    this.#thread.tell({ type: 'test', what })
  }

  /** Stops; keys are wiped, the interface is gone when this resolves. */
  async close(): Promise<void> {
    if (this.#closing) return
    this.#closing = true
    this.#thread.expectEnd()
    const closed = await this.#ask((id) => ({ type: 'close', id }))
    await this.#thread.close()
    // A worker that is there closes them.
    if (closed === undefined) {
      this.#closeOldSockets()
      closeSockets(this.#main.border, this.#sockets)
    }
    this.#config.wipe()
    this.#main.border.close(this.#tun.fd)
  }

  #offloads(): LaneOffloads {
    const { mode } = this.#options
    return { tso: this.#tun.tso, uso: this.#tun.uso, udpJoin: mode.udpJoin && this.#tun.hasVnetHeader, gso: mode.gso, gro: mode.gro }
  }

  #startWorker(offloads: LaneOffloads, reconnect: readonly Uint8Array[]): Promise<void> {
    const start: Omit<WorkerStart, 'port'> = {
      meshwrightDataPlane: 1,
      name: this.name,
      mtu: this.#mtu,
      tun: { fd: this.#tun.fd, hasVnetHeader: this.#tun.hasVnetHeader },
      offloads,
      priority: this.#options.mode.priority,
      wake: this.#thread.wake,
      sockets: this.#sockets,
      config: formatUapiSet(this.#config.changes()),
      reconnect,
    }
    return this.#thread.start({ ...start })
  }

  #handle(message: FromWorker): void {
    switch (message.type) {
      case 'answer':
        return this.#waiting.get(message.id)?.(message)
      case 'sockets':
        this.#oldSockets = this.#sockets
        this.#sockets = message.pair
        return
      case 'closing':
        this.#oldSockets = undefined
        return
      case 'roamed': {
        const [peer, endpoint] = [NodePublicKey.fromBytes(message.peer), parseEndpoint(message.endpoint)]
        if (peer !== undefined && endpoint !== undefined) this.#moved(peer, endpoint)
        return
      }
      case 'unanswered': {
        const peer = NodePublicKey.fromBytes(message.peer)
        if (peer !== undefined) this.#options.onUnanswered?.(peer, message.endpoint === undefined ? undefined : parseEndpoint(message.endpoint))
        return
      }
      case 'log':
        return this.#options.log?.(message.level, message.line)
      case 'gone':
        return this.#options.onGone?.(`the TUN device is gone (errno ${message.errno})`)
      default:
    }
  }

  #moved(peer: NodePublicKey, endpoint: Endpoint): void {
    if (!(this.#placing.has(peer.text) ? this.#config.knows(peer.text) : this.#config.moved(peer, endpoint))) return
    const places = this.#places.get(peer.text) ?? []
    places.push({ endpoint, at: Date.now() })
    if (places.length > MAX_PLACES) places.shift()
    this.#places.set(peer.text, places)
  }

  #placed(peers: ReadonlySet<string>): void {
    for (const peer of peers) {
      const left = (this.#placing.get(peer) ?? 0) - 1
      if (left > 0) this.#placing.set(peer, left)
      else this.#placing.delete(peer)
    }
  }

  #closeOldSockets(): void {
    closeSockets(this.#main.border, this.#oldSockets)
    this.#oldSockets = undefined
  }

  #unanswered(): void {
    for (const done of [...this.#waiting.values()]) done(undefined)
  }

  #died(line: string): void {
    this.#kept.restart()
    this.#closeOldSockets()
    this.#lastStatus = this.#lastStatus && withoutSessions(this.#lastStatus)
    this.#options.log?.('error', line)
  }

  async #restart({ withoutOffloads }: Restart): Promise<void> {
    if (withoutOffloads) giveUpOffloads(this.#main.border, this.#main, this.#tun, this.#sockets)
    const peers = this.#config.changes().flatMap((change) => (change.type === 'peer' && change.endpoint !== undefined ? [change.publicKey.bytes] : []))
    await this.#startWorker(withoutOffloads ? NO_OFFLOADS : this.#offloads(), peers)
  }

  /** @param onAnswer called with the answer, or without one, before anything else that the worker says is heard */
  #ask(make: (id: number) => ToWorker, onAnswer?: () => void): Promise<Extract<FromWorker, { readonly type: 'answer' }> | undefined> {
    const id = this.#nextId
    this.#nextId += 1
    return new Promise((resolve) => {
      const done = (answer?: Extract<FromWorker, { readonly type: 'answer' }>): void => {
        this.#waiting.delete(id)
        onAnswer?.()
        resolve(answer)
      }
      if (!this.#thread.isRunning) return done()
      this.#waiting.set(id, done)
      this.#thread.tell(make(id))
    })
  }
}
