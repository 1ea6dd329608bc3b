import net from 'node:net'
import { tlsLies } from '../hostile/tls-liars.ts'
import { Crowd, LIAR_ADDRESSES, talk } from '../hostile/wire.ts'
import type { LiarResult } from './liar-rounds.ts'
import type { TlsLieKind } from './lies.ts'
import { pause } from './process.ts'

/** Conversations that go on at any time, without a pause: there is always more to do for the server than it does. */
export const AT_ONCE = 24
const REOPENED_EVERY_MS = 10
const REOPENED_AT_ONCE = 10
const GIVEN_UP_MS = 2_000
/** With a number of lies a second: begun whatever became of those before, as long as no more than so many are open. */
const MAX_OPEN = 4_000
const OFFERED_EVERY_MS = 5

/** How long is lied, to whom, and how fast. */
export interface LyingOptions {
  readonly port: number
  readonly ms: number
  /** Lies are begun at this pace; without, each of a few liars begins the next when it is done with one. */
  readonly perSecond: number | undefined
  /** What is to stand before the time runs, stands. */
  onBegun(): void
}

/** Lies for some time, and counts what came of them. */
export class Lying {
  readonly perSecond: number | undefined
  readonly #port: number
  readonly #ms: number
  readonly #onBegun: () => void
  #until = 0
  #conversations = 0
  #offered = 0
  #turn = 0

  constructor({ port, ms, perSecond, onBegun }: LyingOptions) {
    this.#port = port
    this.#ms = ms
    this.perSecond = perSecond
    this.#onBegun = onBegun
  }

  get result(): LiarResult {
    return { conversations: this.#conversations, offered: this.#offered }
  }

  get over(): boolean {
    return performance.now() > this.#until
  }

  /** From now on the time runs. */
  begin(): void {
    this.#onBegun()
    this.#until = performance.now() + this.#ms
  }

  /** One after the other, round and round. */
  next<T>(list: readonly T[]): T | undefined {
    return list[(this.#turn += 1) % list.length]
  }

  /** Where the next liar comes from. */
  from(): string {
    return this.next(LIAR_ADDRESSES) ?? ''
  }

  /** Has this conversation again and again, some at once, until the time is over. */
  async repeat(one: () => Promise<unknown>, atOnce: number = AT_ONCE): Promise<void> {
    if (this.perSecond !== undefined) return this.#offer(one, (this.perSecond * atOnce) / AT_ONCE)
    const again = async (): Promise<void> => {
      while (!this.over) {
        this.#offered += 1
        await Promise.race([one().catch(() => undefined), pause(Math.max(0, this.#until - performance.now()) + GIVEN_UP_MS)]) // refused: as it should be
        this.#conversations += 1
      }
    }
    await Promise.all(Array.from({ length: atOnce }, again))
  }

  /** Holds so many connections, and begins when they stand: those that are closed are opened again. */
  async hold(count: number, first: Uint8Array | string): Promise<void> {
    const crowd = new Crowd()
    await crowd.open(this.#port, count, first, 250, LIAR_ADDRESSES)
    this.begin()
    let seen = crowd.closed
    let due = 0
    while (!this.over) {
      await pause(REOPENED_EVERY_MS)
      due = (due % 1) + ((this.perSecond ?? 0) * REOPENED_EVERY_MS) / 1000
      const gone = this.perSecond === undefined ? Math.min(REOPENED_AT_ONCE, crowd.closed - seen) : Math.floor(due)
      const done = Math.min(gone, crowd.closed - seen)
      seen += done
      this.#conversations += done
      this.#offered += gone
      await crowd.open(this.#port, gone, first, 250, LIAR_ADDRESSES)
    }
    crowd.close()
  }

  /** Holds connections, and has conversations beside. @param all each with its share of those that go on at once */
  async holdBeside(count: number, first: Uint8Array | string, atOnce: number, all: readonly (() => Promise<unknown>)[]): Promise<void> {
    const held = this.hold(count, first)
    while (this.#until === 0) await pause(10)
    await Promise.all([held, ...all.map((one) => this.repeat(one, atOnce))])
  }

  async #offer(one: () => Promise<unknown>, pace: number): Promise<void> {
    const from = performance.now()
    let [begun, open] = [0, 0]
    while (!this.over) {
      for (const due = ((performance.now() - from) / 1000) * pace; begun < due; begun += 1) {
        if (open >= MAX_OPEN) continue
        open += 1
        this.#offered += 1
        const over = (): void => {
          open -= 1
          if (!this.over) this.#conversations += 1
        }
        one().then(over, over)
      }
      await pause(OFFERED_EVERY_MS)
    }
    for (const limit = performance.now() + GIVEN_UP_MS; open > 0 && performance.now() < limit; ) await pause(OFFERED_EVERY_MS)
  }
}

/** Lies before HTTP, to whoever speaks TLS at that port. */
export async function lieInTls(lying: Lying, kind: TlsLieKind, port: number, halfOpen: number): Promise<void> {
  const inTls = await tlsLies()
  const [hello = Buffer.alloc(0)] = inTls.flatMap(([name, bytes]) => (name.startsWith('a ClientHello, and') ? [bytes] : []))
  const garbage = inTls.flatMap(([name, bytes]) => (bytes.length > 1 && !name.startsWith('half') && bytes !== hello ? [bytes] : []))
  const half = hello.subarray(0, hello.length >> 1)
  const garbled = (): Promise<unknown> => talk(port, [lying.next(garbage) ?? ''], 200, lying.from())
  const brokenOff = (): Promise<void> => breakOff(port, hello, lying.from())
  switch (kind) {
    case 'half-open TLS handshakes':
      return lying.hold(halfOpen, half)
    case 'all TLS lies at once':
      return lying.holdBeside(halfOpen, half, AT_ONCE / 2, [garbled, brokenOff])
    case 'TLS handshakes broken off':
    case 'garbage ClientHellos':
      lying.begin()
      return lying.repeat(kind === 'garbage ClientHellos' ? garbled : brokenOff)
  }
}

/** Begins a TLS handshake, and goes when the server has done its part of it. */
function breakOff(port: number, hello: Uint8Array, localAddress: string): Promise<void> {
  return new Promise((resolve) => {
    const socket = net.connect({ port, host: '127.0.0.1', localAddress }, () => socket.write(hello))
    socket.on('error', () => undefined) // ended by the server
    socket.once('data', () => socket.destroy())
    socket.once('close', () => resolve())
  })
}
