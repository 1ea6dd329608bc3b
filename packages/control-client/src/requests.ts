import { after, concatBytes, earlier, type Instant, type Outbox } from '@meshwright/core'
import { encodeJson } from '@meshwright/control-protocol'
import type { ControlClientOutput, ControlResponseInput } from './events.ts'

/** The outcome of a request whose whole answer was awaited. */
export type Answer =
  | { readonly type: 'answer'; readonly status: number; readonly retryAfter: string | undefined; readonly body: Uint8Array }
  | { readonly type: 'failed'; readonly message: string }

/** What a stream's owner is told. */
export type StreamEvent =
  | { readonly type: 'head'; readonly status: number }
  | { readonly type: 'chunk'; readonly bytes: Uint8Array }
  | { readonly type: 'end' }
  | { readonly type: 'failed'; readonly message: string }

interface Open {
  /** When to give up. */
  readonly due: Instant | undefined
  readonly take: (now: Instant, event: StreamEvent | Answer) => void
  readonly stream: boolean
  readonly maxBytes: number
  status: number
  retryAfter: string | undefined
  parts: Uint8Array[]
  bytes: number
}

/** Numbers requests, collects whole answers within a bound and a time, and forgets what nobody waits for any more. */
export class Requests {
  readonly #outbox: Outbox<ControlClientOutput>
  readonly #open = new Map<number, Open>()
  #nextId = 1

  constructor(outbox: Outbox<ControlClientOutput>) {
    this.#outbox = outbox
  }

  /** How many requests are under way. */
  get size(): number {
    return this.#open.size
  }

  /** Sends JSON and waits for the whole answer: at most `maxBytes`, at most `timeoutMs` (undefined: for ever). */
  ask(
    now: Instant,
    request: { path: string; body: object; nodeKeys: readonly string[]; maxBytes: number; timeoutMs: number | undefined },
    take: (now: Instant, answer: Answer) => void,
  ): number {
    const id = this.#add(now, false, request.maxBytes, request.timeoutMs, (at, event) => {
      if (event.type === 'answer' || event.type === 'failed') take(at, event)
    })
    this.#outbox.push({ type: 'request', id, method: 'POST', path: request.path, headers: headers(request.nodeKeys), body: encodeJson(request.body), stream: false })
    return id
  }

  /** Sends JSON and hands on the answer as it comes. */
  stream(now: Instant, request: { path: string; body: object; nodeKeys: readonly string[] }, take: (now: Instant, event: StreamEvent) => void): number {
    const id = this.#add(now, true, 0, undefined, (at, event) => {
      if (event.type !== 'answer') take(at, event)
    })
    this.#outbox.push({ type: 'request', id, method: 'POST', path: request.path, headers: headers(request.nodeKeys), body: encodeJson(request.body), stream: true })
    return id
  }

  /** Sends bytes and does not care for the answer's body. */
  tell(now: Instant, method: 'HEAD' | 'POST', path: string, body: Uint8Array | undefined, timeoutMs: number): void {
    const id = this.#add(now, false, 0, timeoutMs, () => {})
    this.#outbox.push({ type: 'request', id, method, path, headers: {}, body, stream: false })
  }

  /** Gives a request up: its owner hears nothing more. */
  cancel(id: number | undefined): void {
    if (id !== undefined && this.#open.delete(id)) this.#outbox.push({ type: 'cancel', id })
  }

  take(now: Instant, input: ControlResponseInput): void {
    const open = this.#open.get(input.id)
    if (open === undefined) return // an answer that nobody waits for any more
    if (input.type === 'failed') return this.#settle(now, input.id, open, { type: 'failed', message: input.message })
    if (input.type === 'response') {
      open.status = input.status
      open.retryAfter = input.retryAfter
      if (open.stream) open.take(now, { type: 'head', status: input.status })
    } else if (input.type === 'chunk') {
      if (open.stream) return open.take(now, { type: 'chunk', bytes: input.bytes })
      if (open.bytes + input.bytes.length > open.maxBytes) {
        if (open.maxBytes === 0) return // nobody reads it
        this.cancel(input.id)
        return open.take(now, { type: 'failed', message: `the answer is longer than ${open.maxBytes} bytes` })
      }
      open.parts.push(Uint8Array.from(input.bytes))
      open.bytes += input.bytes.length
    } else if (open.stream) {
      this.#settle(now, input.id, open, { type: 'end' })
    } else if (open.status === 0) {
      this.#settle(now, input.id, open, { type: 'failed', message: 'the control server ended the request without an answer' })
    } else {
      this.#settle(now, input.id, open, { type: 'answer', status: open.status, retryAfter: open.retryAfter, body: concatBytes(...open.parts) })
    }
  }

  get due(): Instant | undefined {
    let due: Instant | undefined
    for (const open of this.#open.values()) due = earlier(due, open.due)
    return due
  }

  handleTimeout(now: Instant): void {
    for (const [id, open] of [...this.#open]) {
      if (open.due === undefined || now < open.due) continue
      this.cancel(id)
      open.take(now, { type: 'failed', message: 'the control server did not answer in time' })
    }
  }

  #add(now: Instant, stream: boolean, maxBytes: number, timeoutMs: number | undefined, take: Open['take']): number {
    const id = this.#nextId
    this.#nextId += 1
    const due = timeoutMs === undefined ? undefined : after(now, timeoutMs)
    this.#open.set(id, { due, take, stream, maxBytes, status: 0, retryAfter: undefined, parts: [], bytes: 0 })
    return id
  }

  #settle(now: Instant, id: number, open: Open, event: StreamEvent | Answer): void {
    this.#open.delete(id)
    open.take(now, event)
  }
}

// A hint for load balancers in front of servers, not an authentication.
function headers(nodeKeys: readonly string[]): Readonly<Record<string, string>> {
  return { 'content-type': 'application/json', ...(nodeKeys.length > 0 && { 'ts-lb': nodeKeys.join(', ') }) }
}
