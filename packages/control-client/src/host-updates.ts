import { after, type Instant, type Outbox, type RandomSource } from '@meshwright/core'
import type { MapRequest } from '@meshwright/control-protocol'
import { Backoff } from './backoff.ts'
import type { ControlClientOutput } from './events.ts'
import type { Requests } from './requests.ts'

/** What the updates need from the client around them. */
export interface HostUpdatesSurroundings {
  readonly outbox: Outbox<ControlClientOutput>
  readonly requests: Requests
  readonly random: RandomSource
  readonly request: () => MapRequest
}

const UPDATE_TIMEOUT_MS = 30_000

/**
 * Lite updates: tells the server what changed of this node, the newest state only, one request at a time, again until it has arrived.
 *
 * | state | edge | to |
 * |---|---|---|
 * | idle | changed while enabled | sending |
 * | sending | arrived; nothing changed since | idle |
 * | sending | arrived; changed since | sending |
 * | sending | failed | waiting |
 * | waiting | time or a change | sending (a change does not shorten the wait) |
 */
export class HostUpdates {
  readonly #around: HostUpdatesSurroundings
  readonly #backoff: Backoff
  #enabled = false
  #changed = 0
  #arrived = 0
  #sending: { readonly id: number; readonly generation: number } | undefined
  #due: Instant | undefined

  constructor(around: HostUpdatesSurroundings) {
    this.#around = around
    this.#backoff = new Backoff(around.random)
  }

  get state(): 'idle' | 'sending' | 'waiting' {
    return this.#sending !== undefined ? 'sending' : this.#due !== undefined ? 'waiting' : 'idle'
  }

  /** Whether the server has taken everything that is to be told. */
  get isDone(): boolean {
    return this.#enabled && this.#sending === undefined && this.#arrived === this.#changed
  }

  get due(): Instant | undefined {
    return this.#due
  }

  /** Something of this node changed, or the login did. */
  changed(now: Instant): void {
    this.#changed += 1
    this.#send(now)
  }

  /** Logged in: updates may flow, and the first one does. */
  enable(now: Instant): void {
    this.stop()
    this.#enabled = true
    this.changed(now)
  }

  stop(): void {
    this.#enabled = false
    this.#around.requests.cancel(this.#sending?.id)
    this.#sending = undefined
    this.#due = undefined
    this.#backoff.reset()
  }

  /** This node itself gives its connection up: an update that was on it is sent again, as it is now. */
  reconnect(now: Instant): void {
    this.#around.requests.cancel(this.#sending?.id)
    this.#sending = undefined
    this.#due = undefined
    this.#backoff.reset()
    this.#send(now)
  }

  handleTimeout(now: Instant): void {
    if (this.#due === undefined || now < this.#due) return
    this.#due = undefined
    this.#send(now)
  }

  #send(now: Instant): void {
    if (!this.#enabled || this.#sending !== undefined || this.#due !== undefined || this.#arrived === this.#changed) return
    const body = this.#around.request()
    const generation = this.#changed
    const ask = { path: '/machine/map', body, nodeKeys: [body.NodeKey], maxBytes: 0, timeoutMs: UPDATE_TIMEOUT_MS }
    const id = this.#around.requests.ask(now, ask, (at, answer) => {
      this.#sending = undefined
      if (answer.type === 'answer' && answer.status === 200) {
        this.#backoff.reset()
        this.#arrived = generation
        if (this.isDone) this.#around.outbox.push({ type: 'told' })
        return this.#send(at)
      }
      const waitMs = this.#backoff.nextMs()
      const reason = answer.type === 'failed' ? answer.message : `status ${answer.status}`
      this.#around.outbox.push({ type: 'problem', code: 'CONTROL_UPDATE_FAILED', message: `the control server did not take an update of this node: ${reason}`, retryInMs: waitMs })
      this.#due = after(at, waitMs)
    })
    this.#sending = { id, generation }
  }
}
