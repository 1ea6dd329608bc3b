import { MessageChannel, type MessagePort, receiveMessageOnPort, SHARE_ENV, Worker } from 'node:worker_threads'
import { isMeshwrightError } from '@meshwright/core'
import { findKoffi } from '../koffi-functions.ts'
import { type KernelBorder, linuxBorder } from './kernel-border.ts'
import { DataPlaneError } from './lane-mode.ts'
import { PULSE_BYTES, PULSE_HEARD, PULSE_TAKEN, PULSE_TURNS } from './pulse.ts'
import { LIVED_MS, QUICK_RESTARTS, type Restart, restartLine, RestartPlan } from './restart-plan.ts'
import type { Scratch } from './udp-pair.ts'

const SCRATCH_BYTES = 4_096
/** A worker turns its lane once a second even when there is nothing to do: one that did not for so long does not work any more. */
export const HUNG_MS = 10_000
/** Looks at its pulse within that time. Looks are counted, not time: a computer that slept, or was too busy to look, is no reason. */
const LOOKS = 5
/** So many times as long it may take to get ready: a busy machine starts threads slowly. */
const START_FACTOR = 6
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
  /** Whether the worker uses offloads that could be left out. */
  readonly hasOffloads: boolean
  /** The worker ended by itself, was ended since it hung, or could not be started again: a line about that, and about what is done. */
  readonly onDeath: (line: string) => void
  /** Starts the next worker (`start`), now that the time for it has come. What it rejects with counts as another death. */
  readonly onRestart: (restart: Restart) => Promise<void>
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
  /** See {@link PULSE_TURNS}, {@link PULSE_TAKEN} and {@link PULSE_HEARD}. */
  readonly pulse: Int32Array
  /** Messages to it. */
  posted: number
  readonly startedAt: number
  watch: NodeJS.Timeout | undefined
  isReady: boolean
  /** It said that it ends: the device is gone, or it cannot run here. */
  mayEnd: boolean
  over: boolean
  /** Takes what it has posted and nobody has taken yet. */
  hear: () => void
}

/**
 * A worker thread that carries a lane: started, spoken to, watched, started again when it dies or hangs. It blocks in `poll`, so each message
 * is followed by a write to its wake descriptor. One that dies again and again is still started again: see {@link RestartPlan}.
 */
export class LaneThread<To, From extends { readonly type: string }> {
  readonly wake: number
  readonly #main: MainBorder
  readonly #options: LaneThreadOptions<From>
  readonly #plan: RestartPlan
  #running: Running | undefined
  #waiting: NodeJS.Timeout | undefined
  #lastDeath = ''
  #closing = false
  /** How often one that died was started again. */
  restarts = 0

  constructor(main: MainBorder, options: LaneThreadOptions<From>) {
    this.#main = main
    this.#options = options
    this.#plan = new RestartPlan(options.hasOffloads)
    this.wake = main.border.eventfd()
  }

  /** What a person should know of its deaths, with the remedy; `undefined` while there is nothing. */
  get trouble(): string | undefined {
    const why = `The thread that carries packets has died again and again (${this.#lastDeath}; the log has each time)`
    const remedy = 'start the program anew, and report what it has logged'
    const isYoung = this.#running === undefined || performance.now() - this.#running.startedAt < LIVED_MS
    if (this.#plan.inARow > QUICK_RESTARTS && isYoung) return `${why}: between the tries, which are up to a minute apart, no packets pass. If it goes on, ${remedy}`
    return this.#plan.isSteppedDown ? `${why}: it goes on without offloads, which is slower. To have them tried again, ${remedy}` : undefined
  }

  /** How many messages the worker has not taken yet: what others can make this thread post waits while there are many. 0 without a worker. */
  get untaken(): number {
    return this.#running === undefined ? 0 : (this.#running.posted - Atomics.load(this.#running.pulse, PULSE_HEARD)) | 0
  }

  get isRunning(): boolean {
    return this.#running !== undefined
  }

  /**
   * Starts the worker with this data and a port; resolves when it is ready. One that is started again and dies at once has died once more
   * (`onDeath`), like one that is not ready within six times `hungMs`.
   * @throws DataPlaneError when it cannot run (the promise rejects)
   */
  async start(data: Readonly<Record<string, unknown>>): Promise<void> {
    const { port1, port2 } = new MessageChannel()
    const pulse = new Int32Array(new SharedArrayBuffer(PULSE_BYTES))
    const worker = new Worker(this.#options.workerUrl ?? defaultWorkerUrl(), { workerData: { ...data, port: port2, pulse }, transferList: [port2], env: SHARE_ENV, name: `meshwright ${this.#options.name}` })
    const running: Running = { worker, port: port1, pulse, posted: 0, startedAt: performance.now(), watch: undefined, isReady: false, mayEnd: false, over: false, hear: () => undefined }
    this.#running = running
    await new Promise<void>((resolve, reject) => {
      const take = (message: From | Begun): void => {
        Atomics.add(pulse, PULSE_TAKEN, 1)
        if (message.type === 'unavailable' || message.type === 'gone' || message.type === 'stopped') running.mayEnd = true
        if (message.type === 'ready') {
          running.isReady = true
          clearTimeout(running.watch)
          this.#watch(running)
          resolve()
        } else if (message.type === 'unavailable') reject(new DataPlaneError('DATAPLANE_UNAVAILABLE', 'reason' in message ? String(message.reason) : 'the data plane cannot run here'))
        else this.#options.onMessage(message as From) // 'ready' and 'unavailable' are the only ones of Begun
      }
      // Its end comes by a way of its own, and may come first: what it has said before is heard before, and nothing of it after.
      running.hear = () => {
        for (let left = receiveMessageOnPort(port1); left !== undefined; left = receiveMessageOnPort(port1)) take(left.message as From | Begun) // as it posts them
      }
      port1.on('message', take)
      const startMs = START_FACTOR * (this.#options.hungMs ?? HUNG_MS)
      running.watch = setTimeout(() => {
        running.hear()
        if (running.isReady) return
        const why = `not ready within ${startMs / 1000} s`
        reject(new DataPlaneError('DATAPLANE_WORKER', `the data plane is ${why}`))
        void endOf(worker)
        this.#over(running, running.mayEnd ? undefined : why)
      }, startMs)
      running.watch.unref()
      worker.once('error', (error) => {
        running.hear()
        reject(new DataPlaneError('DATAPLANE_WORKER', `the data plane ended: ${error.message}`, { cause: error }))
        this.#over(running, error.message)
      })
      worker.once('exit', () => {
        running.hear()
        reject(new DataPlaneError('DATAPLANE_WORKER', 'the data plane ended at its start'))
        this.#over(running, running.mayEnd ? undefined : 'it ended by itself')
      })
    })
  }

  /** Posts a message, waking the worker. Without a worker it is lost. @param given memory that goes with it and is not copied */
  tell(message: To, given: readonly ArrayBuffer[] = []): void {
    // Also since the wake descriptor is closed with the last one: its number may be somebody else's by now.
    if (this.#running === undefined) return
    this.#running.posted += 1
    this.#running.port.postMessage(message, given)
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
    clearTimeout(this.#waiting)
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
    let [last, silent] = [Atomics.load(running.pulse, PULSE_TURNS), 0]
    running.watch = setInterval(() => {
      const turns = Atomics.load(running.pulse, PULSE_TURNS)
      silent = turns === last ? silent + 1 : 0
      last = turns
      if (silent < LOOKS) return
      // Nothing that it would still do can reach the device: it is ended before its next line.
      void endOf(running.worker)
      running.hear()
      this.#over(running, `no sign of life for ${hungMs / 1000} s`)
    }, hungMs / LOOKS)
    running.watch.unref()
  }

  #over(running: Running, why: string | undefined): void {
    if (running.over) return
    running.over = true
    running.port.close()
    clearInterval(running.watch)
    if (this.#running === running) this.#running = undefined
    this.#options.onExit?.()
    // Whoever waits for the first start learns of it by that.
    if (why !== undefined && (running.isReady || this.restarts > 0)) this.#died(why, performance.now() - running.startedAt)
  }

  #died(why: string, livedMs: number): void {
    if (this.#closing) return
    this.#lastDeath = why
    const wasSteppedDown = this.#plan.isSteppedDown
    const restart = this.#plan.died(livedMs)
    if (restart.afterMs > 0) this.#waiting = setTimeout(() => this.#again(restart), restart.afterMs)
    this.#options.onDeath(restartLine(why, restart, this.#plan.isSteppedDown && !wasSteppedDown))
    if (restart.afterMs === 0) this.#again(restart)
  }

  #again(restart: Restart): void {
    if (this.#closing) return // by whoever was told of the death
    this.restarts += 1
    const began = performance.now()
    this.#options.onRestart(restart).catch((error: unknown) => {
      // A worker that died at its start is told of as such.
      if (isMeshwrightError(error, 'DATAPLANE_WORKER')) return
      this.#died(error instanceof Error ? error.message : 'it does not start again', performance.now() - began)
    })
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
