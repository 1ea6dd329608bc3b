import type { ReadyStep } from '@meshwright/mesh'
import { parseIp } from '@meshwright/ip'
import { describe, expect, test } from 'vitest'
import { type Awaited, NotReadyError, untilReady } from './until-ready.ts'

/** A node that is led by hand through its steps. */
class Led implements Awaited {
  step: ReadyStep | undefined
  closed = false
  url: string | undefined
  error: string | undefined
  peers: Record<string, { online: boolean; answers: boolean }> = {}
  readonly asked: string[] = []
  readonly #listeners = new Set<() => void>()

  constructor(step: ReadyStep | undefined) {
    this.step = step
  }

  waitsFor(): ReadyStep | undefined {
    return this.step
  }

  isClosed(): boolean {
    return this.closed
  }

  status(): ReturnType<Awaited['status']> {
    const peers = Object.entries(this.peers).map(([address, { online }]) => ({ online, expired: false, addresses: [parseIp(address) ?? expect.fail(address)] }))
    return { authUrl: this.url, lastError: this.error, health: [], peers }
  }

  probe(address: string): ReturnType<Awaited['probe']> {
    this.asked.push(address)
    return Promise.resolve({ error: this.peers[address]?.answers === true ? undefined : 'no answer in time' })
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  change(what: Partial<Pick<Led, 'step' | 'closed' | 'url' | 'error' | 'peers'>>): void {
    Object.assign(this, what)
    for (const listener of [...this.#listeners]) listener()
  }

  get listeners(): number {
    return this.#listeners.size
  }
}

const outcome = (promise: Promise<void>): Promise<unknown> => promise.then(() => 'ready', (error: unknown) => error)

describe('a node is ready', () => {
  test('when its last step is done, and not before', async () => {
    const node = new Led('login')
    let ready = false
    const waiting = untilReady(node, {}).then(() => (ready = true))
    for (const step of ['map', 'approval', 'relay', 'told'] as const) {
      node.change({ step })
      await new Promise(setImmediate)
      expect(ready).toBe(false)
    }
    node.change({ step: undefined })
    await waiting
    expect(node.listeners).toBe(0)
  })

  test('once the peers that are online have answered: who is offline is not asked, who goes is not waited for', async () => {
    const node = new Led(undefined)
    node.peers = { '100.64.0.2': { online: true, answers: true }, '100.64.0.3': { online: false, answers: false }, '100.64.0.4': { online: true, answers: false } }
    const waiting = outcome(untilReady(node, {}))
    node.peers['100.64.0.4'] = { online: false, answers: false }
    expect(await waiting).toBe('ready')
    expect(new Set(node.asked)).toEqual(new Set(['100.64.0.2', '100.64.0.4']))
  })

  test('although a peer that is called online says nothing: after three seconds, having asked it again and again', async () => {
    const node = new Led(undefined)
    node.peers = { '100.64.0.2': { online: true, answers: false } }
    expect(await outcome(untilReady(node, { timeoutMs: 60_000 }))).toBe('ready')
    expect(node.asked.length).toBeGreaterThan(3)
  })

  test('by the word of the control server alone, where no peers are to be asked', async () => {
    const node = new Led(undefined)
    node.peers = { '100.64.0.2': { online: true, answers: false } }
    expect(await outcome(untilReady(node, { peers: 0 }))).toBe('ready')
    expect(node.asked).toEqual([])
  })
})

describe('a node that does not become ready', () => {
  test.each([
    ['up', /it is down/],
    ['login', /not let it in/],
    ['map', /has not sent a network map/],
    ['approval', /an admin approves/],
    ['relay', /no connection with its home relay/],
    ['told', /has not taken its endpoints and home relay/],
  ] as const)('names the step "%s" when the time is over', async (step, words) => {
    const error = await outcome(untilReady(new Led(step), { timeoutMs: 5 }))
    expect(error).toBeInstanceOf(NotReadyError)
    expect(error).toMatchObject({ code: 'RUNTIME_NOT_READY', step, message: expect.stringMatching(words) as string })
  })

  test('tells what is known of why: the URL that someone must open, else the last error', async () => {
    const node = new Led('login')
    node.error = 'cannot reach https://control.example: timeout'
    expect(await outcome(untilReady(node, { timeoutMs: 5 }))).toMatchObject({ message: expect.stringContaining('cannot reach https://control.example') as string })
    node.url = 'https://control.example/register/1'
    expect(await outcome(untilReady(node, { timeoutMs: 5 }))).toMatchObject({ message: expect.stringContaining('someone must open https://control.example/register/1') as string })
  })

  test('rejects when the signal aborts, with its reason; also when it had aborted before', async () => {
    const node = new Led('map')
    const reason = new Error('enough')
    const abort = new AbortController()
    const waiting = outcome(untilReady(node, { signal: abort.signal, timeoutMs: 60_000 }))
    abort.abort(reason)
    expect(await waiting).toMatchObject({ code: 'RUNTIME_ABORTED', step: 'map', cause: reason })
    expect(await outcome(untilReady(node, { signal: abort.signal }))).toMatchObject({ code: 'RUNTIME_ABORTED' })
    expect(node.listeners).toBe(0)
  })

  test('rejects when it is closed, also while peers are asked', async () => {
    const node = new Led('relay')
    const waiting = outcome(untilReady(node, {}))
    node.change({ closed: true })
    expect(await waiting).toMatchObject({ code: 'RUNTIME_CLOSED', step: 'relay' })
    const asking = new Led(undefined)
    asking.peers = { '100.64.0.2': { online: true, answers: false } }
    const asked = outcome(untilReady(asking, {}))
    asking.change({ closed: true })
    expect(await asked).toMatchObject({ code: 'RUNTIME_CLOSED', step: 'peers' })
  })
})
