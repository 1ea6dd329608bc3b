import { MessageChannel, type MessagePort, SHARE_ENV, Worker } from 'node:worker_threads'
import { NodePublicKey } from '@meshwright/crypto'
import { type Endpoint, parseEndpoint } from '@meshwright/ip'
import type { DeviceStatus } from '@meshwright/wireguard'
import { formatUapiSet, parseUapiAnswer, type ShownDevice, UAPI_EIO, type UapiChange } from '@meshwright/wireguard/text'
import { findKoffi } from '../koffi-functions.ts'
import { ConfigMemory } from './config-memory.ts'
import { type KernelBorder, linuxBorder } from './kernel-border.ts'
import type { LaneOffloads, SocketPair } from './lane-context.ts'
import { DataPlaneError, type LaneMode } from './lane-mode.ts'
import { adoptTunDescriptor, openTunDescriptor, type TunDescriptor } from './tun-descriptor.ts'
import type { EndpointPath, PeerPlace, TunnelDrops } from './tunnel-engine.ts'
import { type FromWorker, type LaneStatus, type ToWorker, unpackStatus, type WorkerStart } from './worker-messages.ts'

const MAX_PLACES = 8
const MAX_RESTARTS = 5
const RESTARTS_WITHIN_MS = 60_000
const SCRATCH_BYTES = 4_096

/** What is used of the language's WebAssembly object: memory that never moves. */
declare const WebAssembly: { readonly Memory: new (limits: { readonly initial: number; readonly maximum: number }) => { readonly buffer: ArrayBuffer } }

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
  readonly log?: (level: 'error' | 'verbose', line: string) => void
  /** A handshake stays without answer, or is given up. */
  readonly onUnanswered?: (peer: NodePublicKey, tried: Endpoint | undefined) => void
  /** The TUN device is gone, or the worker dies again and again: nothing more will come. */
  readonly onGone?: (reason: string) => void
}

/** All that is known of a data plane at a moment. */
export interface DataPlaneStatus {
  readonly device: DeviceStatus<EndpointPath>
  readonly drops: Readonly<TunnelDrops>
  readonly lane: LaneStatus
  /** How often a worker that died was started again. */
  readonly restarts: number
}

/**
 * Starts a data plane: a TUN device, and a worker that hosts the engine and moves packets in rows between the device and UDP sockets.
 * This thread only configures it. Descriptors belong to the process: a worker that dies is started again over the same device and
 * sockets, with the same configuration, and shakes hands anew with the peers that had a session.
 * @throws DataPlaneError where it cannot run, TunError where the device cannot be had
 */
export async function startDataPlane(options: DataPlaneOptions): Promise<DataPlane> {
  const koffi = findKoffi()
  if (koffi === undefined || process.platform !== 'linux') throw new DataPlaneError('DATAPLANE_UNAVAILABLE', 'the data plane needs Linux and the optional package koffi')
  const arena = new Uint8Array(new WebAssembly.Memory({ initial: 1, maximum: 1 }).buffer, 0, SCRATCH_BYTES)
  const border = linuxBorder(koffi, arena)
  const scratch = { view: new DataView(arena.buffer), at: 64 }
  const { mode, name } = options
  const wanted = { name, tso: mode.tso, uso: mode.uso }
  const tun = options.tunFd === undefined ? openTunDescriptor(border, scratch, wanted) : adoptTunDescriptor(border, scratch, options.tunFd, wanted)
  const plane = new DataPlane(options, border, arena, tun)
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
  readonly #border: KernelBorder
  readonly #arena: Uint8Array
  readonly #tun: TunDescriptor
  readonly #wake: number
  readonly #config: ConfigMemory = new ConfigMemory()
  readonly #places: Map<string, PeerPlace[]> = new Map()
  readonly #waiting: Map<number, (answer: Extract<FromWorker, { readonly type: 'answer' }> | undefined) => void> = new Map()
  readonly #restartTimes: number[] = []
  #worker: { readonly worker: Worker; readonly port: MessagePort; readonly ended: Promise<void> } | undefined
  #sockets: SocketPair | undefined
  #mtu: number
  #nextId = 1
  #restarts = 0
  #closing = false

  /** Internal: see {@link startDataPlane}. */
  constructor(options: DataPlaneOptions, border: KernelBorder, arena: Uint8Array, tun: TunDescriptor) {
    this.#options = options
    this.#border = border
    this.#arena = arena
    this.#tun = tun
    this.name = tun.name
    this.#mtu = options.mtu
    this.#wake = border.eventfd()
  }

  /** Internal: starts the first worker. */
  begin(): Promise<void> {
    return this.#startWorker([])
  }

  /** Makes the changes of a UAPI `set`, in order; resolves with 0 or the negative errno of the one that failed, where it stopped. */
  async apply(changes: readonly UapiChange[]): Promise<number> {
    // Remembered first: a worker that dies over it is followed by one that knows. What failed is corrected by whoever asked.
    this.#config.apply(changes)
    const answer = await this.#ask((id) => ({ type: 'set', id, text: formatUapiSet(changes) }))
    return answer?.errno ?? UAPI_EIO
  }

  /** The state as `wg` shows it, secrets included. */
  async shown(): Promise<ShownDevice> {
    const answer = await this.#ask((id) => ({ type: 'get', id }))
    const parsed = answer?.text === undefined ? undefined : parseUapiAnswer(answer.text, this.name)
    if (parsed === undefined) throw new DataPlaneError('DATAPLANE_WORKER', 'the data plane does not answer')
    return parsed.device
  }

  /** Counters, states, offloads; no secrets. */
  async status(): Promise<DataPlaneStatus> {
    const packed = (await this.#ask((id) => ({ type: 'status', id })))?.status
    if (packed === undefined) throw new DataPlaneError('DATAPLANE_WORKER', 'the data plane does not answer')
    return { device: unpackStatus(packed), drops: packed.drops, lane: packed.lane, restarts: this.#restarts }
  }

  /** Where a peer moved to lately, oldest first. */
  placesOf(publicKey: NodePublicKey): readonly PeerPlace[] {
    return this.#places.get(publicKey.text) ?? []
  }

  /** The MTU of the interface has changed. */
  setMtu(mtu: number): void {
    this.#mtu = mtu
    this.#tell({ type: 'mtu', mtu })
  }

  /** For tests: the worker dies, as an error in it would have it. */
  failWorker(): void {
    this.#tell({ type: 'fail' })
  }

  /** Stops; keys are wiped, the interface is gone when this resolves. */
  async close(): Promise<void> {
    if (this.#closing) return
    this.#closing = true
    const running = this.#worker
    if (running !== undefined) {
      await this.#ask((id) => ({ type: 'close', id }))
      await running.worker.terminate()
    }
    this.#config.wipe()
    for (const fd of [this.#tun.fd, this.#wake]) this.#border.close(fd)
  }

  async #startWorker(reconnect: readonly Uint8Array[]): Promise<void> {
    const { mode } = this.#options
    const { port1, port2 } = new MessageChannel()
    const offloads: LaneOffloads = { tso: this.#tun.tso, uso: this.#tun.uso, udpJoin: mode.udpJoin && this.#tun.hasVnetHeader, gso: mode.gso, gro: mode.gro }
    const start: WorkerStart = {
      meshwrightDataPlane: 1,
      name: this.name,
      mtu: this.#mtu,
      tun: { fd: this.#tun.fd, hasVnetHeader: this.#tun.hasVnetHeader },
      offloads,
      wake: this.#wake,
      sockets: this.#sockets,
      config: formatUapiSet(this.#config.changes()),
      reconnect,
      port: port2,
    }
    const worker = new Worker(this.#options.workerUrl ?? defaultWorkerUrl(), { workerData: start, transferList: [port2], env: SHARE_ENV, name: `meshwright ${this.name}` })
    const ended = new Promise<void>((resolve) => worker.once('exit', () => resolve()))
    this.#worker = { worker, port: port1, ended }
    await new Promise<void>((resolve, reject) => {
      port1.on('message', (message: FromWorker) => {
        if (message.type === 'ready') resolve()
        else if (message.type === 'unavailable') reject(new DataPlaneError('DATAPLANE_UNAVAILABLE', message.reason))
        else this.#handle(message)
      })
      worker.once('error', (error) => {
        reject(new DataPlaneError('DATAPLANE_WORKER', `the data plane ended: ${error.message}`, { cause: error }))
        this.#died(error.message)
      })
      worker.once('exit', () => {
        reject(new DataPlaneError('DATAPLANE_WORKER', 'the data plane ended at its start'))
        for (const done of [...this.#waiting.values()]) done(undefined)
        port1.close()
      })
    })
  }

  #handle(message: FromWorker): void {
    switch (message.type) {
      case 'answer':
        return this.#waiting.get(message.id)?.(message)
      case 'sockets':
        this.#sockets = message.pair
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
        this.#worker = undefined
        return this.#options.onGone?.(`the TUN device is gone (errno ${message.errno})`)
      default:
    }
  }

  #moved(peer: NodePublicKey, endpoint: Endpoint): void {
    this.#config.moved(peer, endpoint)
    const places = this.#places.get(peer.text) ?? []
    places.push({ endpoint, at: Date.now() })
    if (places.length > MAX_PLACES) places.shift()
    this.#places.set(peer.text, places)
  }

  #died(why: string): void {
    this.#worker = undefined
    if (this.#closing) return
    const now = Date.now()
    while (this.#restartTimes.length > 0 && now - (this.#restartTimes[0] ?? 0) > RESTARTS_WITHIN_MS) this.#restartTimes.shift()
    if (this.#restartTimes.length >= MAX_RESTARTS) return this.#options.onGone?.(`the data plane dies again and again: ${why}`)
    this.#restartTimes.push(now)
    this.#restarts += 1
    this.#options.log?.('error', `the data plane died (${why}): it is started again, and sessions are made anew`)
    const peers = this.#config.changes().flatMap((change) => (change.type === 'peer' && change.endpoint !== undefined ? [change.publicKey.bytes] : []))
    this.#startWorker(peers).catch((error: unknown) => this.#options.log?.('error', error instanceof Error ? error.message : 'the data plane does not start again'))
  }

  #ask(make: (id: number) => ToWorker): Promise<Extract<FromWorker, { readonly type: 'answer' }> | undefined> {
    const id = this.#nextId
    this.#nextId += 1
    return new Promise((resolve) => {
      if (this.#worker === undefined) return resolve(undefined)
      this.#waiting.set(id, (answer) => {
        this.#waiting.delete(id)
        resolve(answer)
      })
      this.#tell(make(id))
    })
  }

  #tell(message: ToWorker): void {
    this.#worker?.port.postMessage(message)
    this.#arena.fill(0, 0, 8)
    this.#arena[0] = 1
    this.#border.write(this.#wake, 0, 8)
  }
}

/** Beside this file: as source, or as the package was built. */
function defaultWorkerUrl(): URL {
  return import.meta.url.endsWith('.ts') ? new URL('./worker-entry.ts', import.meta.url) : new URL('./dataplane-worker.js', import.meta.url)
}
