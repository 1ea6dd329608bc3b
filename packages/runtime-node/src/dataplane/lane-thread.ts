import { MessageChannel, type MessagePort, SHARE_ENV, Worker } from 'node:worker_threads'
import { findKoffi } from '../koffi-functions.ts'
import { type KernelBorder, linuxBorder } from './kernel-border.ts'
import { DataPlaneError } from './lane-mode.ts'
import type { Scratch } from './udp-pair.ts'

const MAX_RESTARTS = 5
const RESTARTS_WITHIN_MS = 60_000
const SCRATCH_BYTES = 4_096
/** A worker turns its lane once a second even when there is nothing to do: one that did not for so long does not work any more. */
export const HUNG_MS = 10_000
/** Looks at its pulse within that time. Looks are counted, not time: a computer that slept, or was too busy to look, is no reason. */
const LOOKS = 5
/** So long an ended worker is waited for; one that is stuck in a system call never ends. */
const END_MS = 2_000

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
  /** Without a sign of life for so long the worker is ended, as if it had died. Default: {@link HUNG_MS}. */
  readonly hungMs?: number | undefined
  /** The worker ended by itself, or was ended since it hung. With `again` it may be started again; else it has died too often. */
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

/** A worker as this thread knows it. */
interface Running {
  readonly worker: Worker
  readonly port: MessagePort
  /** Counts the turns of its lane. */
  readonly pulse: Int32Array
  watch: NodeJS.Timeout | undefined
  isReady: boolean
  /** It said that it ends: the device is gone, or it cannot run here. */
  mayEnd: boolean
  over: boolean
}

/**
 * A worker thread that carries a lane: started, spoken to, watched, started again when it dies or hangs. It blocks in `poll`, so each message
 * is followed by a write to its wake descriptor. More than five deaths within a minute are too many.
 */
export class LaneThread<To, From extends { readonly type: string }> {
  readonly wake: number
  readonly #main: MainBorder
  readonly #options: LaneThreadOptions<From>
  readonly #deaths: number[] = []
  #running: Running | undefined
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

  /**
   * Starts the worker with this data and a port; resolves when it is ready. One that is started again and dies at once has died once more
   * (`onDeath`).
   * @throws DataPlaneError when it cannot run (the promise rejects)
   */
  async start(data: Readonly<Record<string, unknown>>): Promise<void> {
    const { port1, port2 } = new MessageChannel()
    const pulse = new Int32Array(new SharedArrayBuffer(4))
    const worker = new Worker(this.#options.workerUrl ?? defaultWorkerUrl(), { workerData: { ...data, port: port2, pulse }, transferList: [port2], env: SHARE_ENV, name: `meshwright ${this.#options.name}` })
    const running: Running = { worker, port: port1, pulse, watch: undefined, isReady: false, mayEnd: false, over: false }
    this.#running = running
    await new Promise<void>((resolve, reject) => {
      port1.on('message', (message: From | Begun) => {
        if (message.type === 'unavailable' || message.type === 'gone' || message.type === 'stopped') running.mayEnd = true
        if (message.type === 'ready') {
          running.isReady = true
          this.#watch(running)
          resolve()
        } else if (message.type === 'unavailable') reject(new DataPlaneError('DATAPLANE_UNAVAILABLE', 'reason' in message ? String(message.reason) : 'the data plane cannot run here'))
        else this.#options.onMessage(message as From) // 'ready' and 'unavailable' are the only ones of Begun
      })
      worker.once('error', (error) => {
        reject(new DataPlaneError('DATAPLANE_WORKER', `the data plane ended: ${error.message}`, { cause: error }))
        this.#over(running, error.message)
      })
      worker.once('exit', () => {
        reject(new DataPlaneError('DATAPLANE_WORKER', 'the data plane ended at its start'))
        port1.close()
        this.#over(running, running.mayEnd ? undefined : 'it ended by itself')
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

  /** From now on the end of the worker is no death: it is going to be asked for. */
  expectEnd(): void {
    this.#closing = true
  }

  /** Ends the worker, whatever it does; nothing is told of it. */
  async close(): Promise<void> {
    this.#closing = true
    const running = this.#running
    this.#running = undefined
    if (running !== undefined) {
      clearInterval(running.watch)
      await endOf(running.worker)
    }
    this.#main.border.close(this.wake)
  }

  #watch(running: Running): void {
    const hungMs = this.#options.hungMs ?? HUNG_MS
    let [last, silent] = [Atomics.load(running.pulse, 0), 0]
    running.watch = setInterval(() => {
      const turns = Atomics.load(running.pulse, 0)
      silent = turns === last ? silent + 1 : 0
      last = turns
      if (silent < LOOKS) return
      // Nothing that it would still do can reach the device: it is ended before its next line.
      void endOf(running.worker)
      this.#over(running, `no sign of life for ${hungMs / 1000} s`)
    }, hungMs / LOOKS)
    running.watch.unref()
  }

  #over(running: Running, why: string | undefined): void {
    if (running.over) return
    running.over = true
    clearInterval(running.watch)
    if (this.#running === running) this.#running = undefined
    this.#options.onExit?.()
    // Whoever waits for the first start learns of it by that.
    if (why !== undefined && (running.isReady || this.restarts > 0)) this.#died(why)
  }

  #died(why: string): void {
    if (this.#closing) return
    const now = Date.now()
    while (this.#deaths.length > 0 && now - (this.#deaths[0] ?? 0) > RESTARTS_WITHIN_MS) this.#deaths.shift()
    const again = this.#deaths.length < MAX_RESTARTS
    this.#deaths.push(now)
    if (again) this.restarts += 1
    this.#options.onDeath(why, again)
  }
}

function endOf(worker: Worker): Promise<unknown> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise((resolve) => {
    timer = setTimeout(resolve, END_MS)
    timer.unref()
  })
  return Promise.race([worker.terminate(), late]).finally(() => clearTimeout(timer))
}

/** Beside this file: as source, or as the package was built. */
function defaultWorkerUrl(): URL {
  return import.meta.url.endsWith('.ts') ? new URL('./worker-entry.ts', import.meta.url) : new URL('./dataplane-worker.js', import.meta.url)
}
