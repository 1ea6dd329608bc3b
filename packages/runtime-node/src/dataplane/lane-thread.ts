import { MessageChannel, type MessagePort, SHARE_ENV, Worker } from 'node:worker_threads'
import { findKoffi } from '../koffi-functions.ts'
import { type KernelBorder, linuxBorder } from './kernel-border.ts'
import { DataPlaneError } from './lane-mode.ts'
import type { Scratch } from './udp-pair.ts'

const MAX_RESTARTS = 5
const RESTARTS_WITHIN_MS = 60_000
const SCRATCH_BYTES = 4_096

/** What is used of the language's WebAssembly object: memory that never moves. */
declare const WebAssembly: { readonly Memory: new (limits: { readonly initial: number; readonly maximum: number }) => { readonly buffer: ArrayBuffer } }

/** What every worker says of itself. */
interface Begun {
  readonly type: 'ready' | 'unavailable'
  readonly reason?: string
}

/** How a thread is made. */
export interface LaneThreadOptions<From> {
  /** For its name. */
  readonly name: string
  /** The worker's program. Default: that of this package; bundled programs give their own file. */
  readonly workerUrl?: URL | undefined
  readonly onMessage: (message: From) => void
  /** The worker ended by itself. With `again` it may be started again; else it has died too often. */
  readonly onDeath: (why: string, again: boolean) => void
  /** The worker is gone, for whatever reason: it answers nothing any more. */
  readonly onExit?: () => void
}

/** Somebody's kernel border for calls of this thread, with memory for their arguments. */
export interface MainBorder extends Scratch {
  readonly border: KernelBorder
  readonly arena: Uint8Array
}

/** @throws DATAPLANE_UNAVAILABLE without Linux or koffi */
export function mainBorder(): MainBorder {
  const koffi = findKoffi()
  if (koffi === undefined || process.platform !== 'linux') throw new DataPlaneError('DATAPLANE_UNAVAILABLE', 'the data plane needs Linux and the optional package koffi')
  const arena = new Uint8Array(new WebAssembly.Memory({ initial: 1, maximum: 1 }).buffer, 0, SCRATCH_BYTES)
  return { border: linuxBorder(koffi, arena), arena, view: new DataView(arena.buffer), at: 64 }
}

/**
 * A worker thread that carries a lane: started, spoken to, started again when it dies. It blocks in `poll`, so each message is followed by
 * a write to its wake descriptor. More than five deaths within a minute are too many.
 */
export class LaneThread<To, From extends { readonly type: string }> {
  readonly wake: number
  readonly #main: MainBorder
  readonly #options: LaneThreadOptions<From>
  readonly #deaths: number[] = []
  #running: { readonly worker: Worker; readonly port: MessagePort } | undefined
  #closing = false
  /** How often it died. */
  restarts = 0

  constructor(main: MainBorder, options: LaneThreadOptions<From>) {
    this.#main = main
    this.#options = options
    this.wake = main.border.eventfd()
  }

  get isRunning(): boolean {
    return this.#running !== undefined
  }

  /** Starts the worker with this data and a port; resolves when it is ready. @throws DataPlaneError when it cannot run (the promise rejects) */
  async start(data: Readonly<Record<string, unknown>>): Promise<void> {
    const { port1, port2 } = new MessageChannel()
    const worker = new Worker(this.#options.workerUrl ?? defaultWorkerUrl(), { workerData: { ...data, port: port2 }, transferList: [port2], env: SHARE_ENV, name: `meshwright ${this.#options.name}` })
    const running = { worker, port: port1 }
    this.#running = running
    await new Promise<void>((resolve, reject) => {
      port1.on('message', (message: From | Begun) => {
        if (message.type === 'ready') resolve()
        else if (message.type === 'unavailable') reject(new DataPlaneError('DATAPLANE_UNAVAILABLE', 'reason' in message ? String(message.reason) : 'the data plane cannot run here'))
        else this.#options.onMessage(message as From) // 'ready' and 'unavailable' are the only ones of Begun
      })
      worker.once('error', (error) => {
        reject(new DataPlaneError('DATAPLANE_WORKER', `the data plane ended: ${error.message}`, { cause: error }))
        this.#died(error.message)
      })
      worker.once('exit', () => {
        reject(new DataPlaneError('DATAPLANE_WORKER', 'the data plane ended at its start'))
        if (this.#running === running) this.#running = undefined
        port1.close()
        this.#options.onExit?.()
      })
    })
  }

  /** Posts a message, waking the worker. Without a worker it is lost. */
  tell(message: To): void {
    this.#running?.port.postMessage(message)
    const { arena, border } = this.#main
    arena.fill(0, 0, 8)
    arena[0] = 1
    border.write(this.wake, 0, 8)
  }

  /** Ends the worker, whatever it does; nothing is told of it. */
  async close(): Promise<void> {
    this.#closing = true
    await this.#running?.worker.terminate()
    this.#running = undefined
    this.#main.border.close(this.wake)
  }

  #died(why: string): void {
    this.#running = undefined
    if (this.#closing) return
    const now = Date.now()
    while (this.#deaths.length > 0 && now - (this.#deaths[0] ?? 0) > RESTARTS_WITHIN_MS) this.#deaths.shift()
    const again = this.#deaths.length < MAX_RESTARTS
    this.#deaths.push(now)
    if (again) this.restarts += 1
    this.#options.onDeath(why, again)
  }
}

/** Beside this file: as source, or as the package was built. */
function defaultWorkerUrl(): URL {
  return import.meta.url.endsWith('.ts') ? new URL('./worker-entry.ts', import.meta.url) : new URL('./dataplane-worker.js', import.meta.url)
}
