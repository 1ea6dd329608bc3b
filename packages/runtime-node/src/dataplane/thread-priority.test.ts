import { spawnSync } from 'node:child_process'
import os from 'node:os'
import { Worker } from 'node:worker_threads'
import { describe, expect, test } from 'vitest'
import { LANE_NICE, type LaneThreadTime, MANY_PEERS, ThreadPriority } from './thread-priority.ts'

/** A thread that runs for a share of each quarter of a second between two looks. */
class Thread implements LaneThreadTime {
  readonly set: number[] = []
  #nice: number
  #now = 1_000
  #ranMs: number | undefined = 7
  mayRaise = true
  peers = MANY_PEERS
  readonly #priority: ThreadPriority = new ThreadPriority(this)

  constructor(nice: number = 0) {
    this.#nice = nice
  }

  nice(): number {
    return this.#nice
  }

  setNice(nice: number): void {
    if (!this.mayRaise && nice < this.#nice) throw new Error('EACCES')
    this.#nice = nice
    this.set.push(nice)
  }

  ranMs(): number | undefined {
    return this.#ranMs
  }

  now(): number {
    return this.#now
  }

  uncounted(): this {
    this.#ranMs = undefined
    return this
  }

  /** How nice it is behind each look. */
  work(...shares: readonly number[]): readonly number[] {
    return shares.map((share) => {
      this.#now += 250
      if (this.#ranMs !== undefined) this.#ranMs += 250 * share
      this.#priority.look(this.peers)
      return this.#nice
    })
  }
}

describe('a thread that carries packets', () => {
  test('of a few peers is like any other, whatever it does', () => {
    const thread = new Thread()
    thread.peers = MANY_PEERS - 1
    thread.work(0, 0.5, 1, 0.2)
    expect(thread.set).toEqual([])
  })

  test('is like any other again two seconds after it was last seen to serve many', () => {
    const thread = new Thread()
    thread.work(0.5)
    thread.peers = 1
    expect(thread.work(0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5)).toEqual([-15, -15, -15, -15, -15, -15, -15, 0, 0])
  })

  test('that serves many comes before programs as long as it waits for work now and then, and is told so once', () => {
    const thread = new Thread()
    expect(thread.work(1, 0, 0.5, 0.89, 0.2)).toEqual([-15, -15, -15, -15, -15])
    expect(thread.set).toEqual([LANE_NICE])
  })

  test('that works all the time is like any other for two looks of three', () => {
    expect(new Thread().work(1, 1, 1, 1, 1, 1, 1, 0.5, 0.5)).toEqual([-15, 0, 0, -15, 0, 0, -15, -15, -15])
  })

  test('that may not be raised goes on without, and does not ask again', () => {
    const thread = new Thread()
    thread.mayRaise = false
    expect(thread.work(1, 0.1, 1)).toEqual([0, 0, 0])
    thread.mayRaise = true
    expect([...thread.work(0.1), ...thread.set]).toEqual([0])
  })

  test('that loses the right while it is like any other stays so', () => {
    const thread = new Thread()
    thread.work(0.1, 1)
    thread.mayRaise = false
    expect(thread.work(0.1, 0.1, 0.1)).toEqual([0, 0, 0])
  })

  test.each([5, 19, -3, -20])('that was started with niceness %i keeps it', (nice) => {
    const thread = new Thread(nice)
    expect(thread.work(0.1, 1, 0.1)).toEqual([nice, nice, nice])
    expect(thread.set).toEqual([])
  })

  test('whose time nobody counts is not raised, and put back when the counting ends', () => {
    expect(new Thread().uncounted().work(0.1, 0.1)).toEqual([0, 0])
    const thread = new Thread()
    thread.work(0.1)
    expect(thread.uncounted().work(0.1, 0.1)).toEqual([0, 0])
  })
})

const mayRaise = process.platform === 'linux' && os.getPriority(0) === 0 && spawnSync('nice', ['-n', '-1', 'true']).status === 0

describe.skipIf(!mayRaise)('on Linux', () => {
  test('a worker raises itself and not the thread that started it', async () => {
    const body = `import os from 'node:os'; import { parentPort } from 'node:worker_threads'; os.setPriority(0, ${LANE_NICE}); parentPort.postMessage(os.getPriority(0))`
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(body)}`))
    const nice = await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
    await worker.terminate()
    expect([nice, os.getPriority(0)]).toEqual([LANE_NICE, 0])
  })
})
