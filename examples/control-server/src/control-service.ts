import zlib from 'node:zlib'
import { type AdminCommand, ControlServer, type ControlServerConfig, type ControlServerInput, type ControlServerOutput } from '@meshwright/control-server'
import type { Instant } from '@meshwright/core'
import { reasonOf } from './failure.ts'
import type { Log } from './log.ts'
import { drive, type Driver, serverCrypto, systemRandom } from './runtime.ts'
import { type SqliteStore, StoreBroken } from './store-sqlite.ts'

/** A flush of the disk costs more than the changes in it: one that follows another so soon waits so long for company. */
const BUSY_MS = 20
const GATHER_MS = 4

/** Who waits for what the server says to a request. */
export interface Reply {
  respond(status: number, body: unknown, retryAfterSeconds: number | undefined): void
  /** Bytes of a stream; false when no more should come until `drained` is fed. */
  chunk?(bytes: Uint8Array): boolean
  end?(): void
}

type NewRequest = Extract<ControlServerInput, { type: 'register' | 'map' | 'sshAction' | 'pong' | 'admin' }> extends infer Input ? (Input extends unknown ? Omit<Input, 'request'> : never) : never

/** The state machine, driven in real time: requests in, answers out, commits to the store. */
export class ControlService {
  readonly machine: ControlServer
  readonly #driver: Driver<ControlServerInput>
  readonly #replies = new Map<number, Reply>()
  readonly #store: SqliteStore
  readonly #log: Log
  readonly #onBroken: (error: Error) => void
  #nextRequest = 1
  #committedAt = Number.NEGATIVE_INFINITY
  #stopped = false

  /** @param options `onBroken`: the store has lost its disk, and nothing more is answered */
  constructor(options: {
    readonly config: ControlServerConfig
    readonly store: SqliteStore
    readonly log: Log
    readonly clock: () => Instant
    readonly allowLoopbackEndpoints: boolean
    readonly onBroken: (error: Error) => void
  }) {
    this.#store = options.store
    this.#log = options.log
    const compress = zstdCompressor()
    this.machine = new ControlServer(options.clock(), {
      config: options.config,
      state: options.store.load(),
      random: systemRandom,
      wallClock: Date.now,
      provider: serverCrypto,
      allowLoopbackEndpoints: options.allowLoopbackEndpoints,
      ...(compress !== undefined && { compress }),
    })
    this.#onBroken = options.onBroken
    this.#driver = drive(this.machine, options.clock, (output) => this.#perform(output))
  }

  /** Puts a request to the server. Call {@link ControlService.closed} when nobody waits any more. */
  request(input: NewRequest, reply: Reply): number {
    const request = this.#nextRequest
    this.#nextRequest += 1
    this.#replies.set(request, reply)
    this.#driver.feed({ ...input, request })
    return request
  }

  /** Carries out a command and waits for its answer. */
  command(command: AdminCommand): Promise<{ readonly status: number; readonly body: unknown }> {
    return new Promise((resolve) => {
      this.request({ type: 'admin', command }, { respond: (status, body) => resolve({ status, body }) })
    })
  }

  /** Nobody waits for this request any more. */
  closed(request: number): void {
    this.#replies.delete(request)
    this.#driver.feed({ type: 'closed', request })
  }

  /** The stream of a request takes bytes again. */
  drained(request: number): void {
    if (this.#replies.has(request)) this.#driver.feed({ type: 'drained', request })
  }

  configure(config: ControlServerConfig): void {
    this.#driver.act((now) => this.machine.configure(now, config))
  }

  /** Ends all streams; nothing is answered any more. */
  stop(): void {
    this.#stopped = true
    this.#driver.stop()
    for (const reply of this.#replies.values()) reply.end?.()
    this.#replies.clear()
  }

  #perform(output: ControlServerOutput): void {
    switch (output.type) {
      case 'respond': {
        const reply = this.#replies.get(output.request)
        this.#replies.delete(output.request)
        return reply?.respond(output.status, output.body, output.retryAfterSeconds)
      }
      case 'mapChunk': {
        const reply = this.#replies.get(output.request)
        if (reply?.chunk?.(output.bytes) === false) this.#driver.feed({ type: 'blocked', request: output.request })
        return
      }
      case 'endMap': {
        const reply = this.#replies.get(output.request)
        this.#replies.delete(output.request)
        return reply?.end?.()
      }
      case 'audit':
        return this.#log.info(output.event.detail, { audit: output.event.action, actor: output.event.actor, target: output.event.target })
      case 'commit':
        // In the next turn, or a little later while there is much to write: what arrives meanwhile shares the next flush of the disk.
        if (performance.now() - this.#committedAt < BUSY_MS) setTimeout(() => void this.#commit(output), GATHER_MS)
        else setImmediate(() => void this.#commit(output))
        return
    }
  }

  async #commit(output: Extract<ControlServerOutput, { type: 'commit' }>): Promise<void> {
    if (this.#stopped) return // nobody has been answered yet
    try {
      await this.#store.commit(output.changes)
      this.#committedAt = performance.now()
    } catch (error) {
      if (this.#stopped) return // closed under its hands
      if (error instanceof StoreBroken) return this.#onBroken(error)
      this.#log.error('a change could not be stored and was undone: check the disk', { reason: reasonOf(error) })
      return this.#driver.feed({ type: 'commitFailed', commit: output.commit, reason: reasonOf(error) })
    }
    this.#driver.feed({ type: 'committed', commit: output.commit })
  }
}

/** Node has zstd from 22.15 on; without it frames are stored uncompressed, which every client reads. */
function zstdCompressor(): ((json: Uint8Array) => Uint8Array) | undefined {
  const compress: unknown = Object.getOwnPropertyDescriptor(zlib, 'zstdCompressSync')?.value
  return typeof compress === 'function' ? (json) => new Uint8Array(compress(json)) : undefined
}
