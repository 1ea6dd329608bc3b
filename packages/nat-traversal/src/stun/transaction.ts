import { after, equalBytes, type Instant, type Machine, Outbox } from '@meshwright/core'
import type { Endpoint } from '@meshwright/ip'
import { decodeBindingAnswer, encodeBindingRequest } from './binding.ts'

const INITIAL_RTO_MS = 500 //   RFC 8489 section 6.2.1
const MAX_SENDS = 7 //          "Rc"
const FINAL_WAIT_FACTOR = 16 // "Rm"

/** Bytes that came from the server's address. */
export interface BindingInput {
  readonly type: 'datagram'
  readonly bytes: Uint8Array
}

/** What a {@link BindingTransaction} owes: the request, once or more, and then exactly one of the two outcomes. */
export type BindingOutput =
  | { readonly type: 'transmit'; readonly bytes: Uint8Array }
  | {
      readonly type: 'mapped'
      /** Our address as the server sees it. */
      readonly endpoint: Endpoint
      /** Since the first request; exact only where `sends` is 1. */
      readonly roundTripMs: number
      readonly sends: number
    }
  | { readonly type: 'failed'; readonly code: 'STUN_TIMEOUT' | 'STUN_REFUSED' }

/** How to ask. */
export interface BindingConfig {
  /** 12 fresh random bytes. */
  readonly transactionId: Uint8Array
  /** SOFTWARE of the request; default: what relays demand. */
  readonly software?: string
}

/**
 * One STUN binding over UDP: sends again after doubling waits until answered or given up (RFC 8489 section 6.2.1: requests at 0, 500,
 * 1500, 3500, 7500, 15500 and 31500 ms, given up at 39500 ms).
 *
 * | state | event | next |
 * |---|---|---|
 * | waiting | deadline, fewer than 7 sends | waiting; `transmit` |
 * | waiting | deadline, 7 sends | done; `failed` |
 * | waiting | answer of this transaction | done; `mapped` or `failed` |
 * | done | anything | done; nothing |
 */
export class BindingTransaction implements Machine<BindingInput, BindingOutput> {
  readonly #outbox: Outbox<BindingOutput> = new Outbox()
  readonly #transactionId: Uint8Array
  readonly #request: Uint8Array
  readonly #started: Instant
  #sends = 0
  #due: Instant | undefined

  constructor(now: Instant, config: BindingConfig) {
    this.#transactionId = config.transactionId.slice()
    this.#request = encodeBindingRequest(this.#transactionId, config.software)
    this.#started = now
    this.#due = now
    this.handleTimeout(now)
  }

  /** `waiting` until an outcome has been given, then `done`. */
  get state(): 'waiting' | 'done' {
    return this.#due === undefined ? 'done' : 'waiting'
  }

  handleInput(now: Instant, input: BindingInput): void {
    if (this.#due === undefined) return // a late duplicate
    const answer = decodeBindingAnswer(input.bytes)
    if (answer === undefined || !equalBytes(answer.transactionId, this.#transactionId)) return
    if (answer.type === 'refused') return this.#settle({ type: 'failed', code: 'STUN_REFUSED' })
    this.#settle({ type: 'mapped', endpoint: answer.endpoint, roundTripMs: now - this.#started, sends: this.#sends })
  }

  handleTimeout(now: Instant): void {
    if (this.#due === undefined || now < this.#due) return
    if (this.#sends === MAX_SENDS) return this.#settle({ type: 'failed', code: 'STUN_TIMEOUT' })
    this.#outbox.push({ type: 'transmit', bytes: this.#request })
    this.#sends += 1
    const factor = this.#sends === MAX_SENDS ? FINAL_WAIT_FACTOR : 2 ** (this.#sends - 1)
    this.#due = after(now, INITIAL_RTO_MS * factor)
  }

  pollOutput(): BindingOutput | undefined {
    return this.#outbox.poll()
  }

  pollTimeout(): Instant | undefined {
    return this.#due
  }

  #settle(outcome: BindingOutput): void {
    this.#due = undefined
    this.#outbox.push(outcome)
  }
}
