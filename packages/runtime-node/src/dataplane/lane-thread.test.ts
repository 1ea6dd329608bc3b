import { describe, expect, test } from 'vitest'
import { findKoffi } from '../koffi-functions.ts'
import { LaneThread, mainBorder } from './lane-thread.ts'

// Workers of a few lines in the place of a lane: what becomes of the thread that has them.
const worker = (body: string): URL => new URL(`data:text/javascript,${encodeURIComponent(`
import { workerData } from 'node:worker_threads'
const { port, pulse, generation } = workerData
const beat = setInterval(() => Atomics.add(pulse, 0, 1), 5)
const end = () => { clearInterval(beat); port.close() }
port.on('message', () => undefined)
port.postMessage({ type: 'ready' })
${body}`)}`)

interface Watched {
  readonly thread: LaneThread<string, { readonly type: string }>
  readonly deaths: string[]
  /** Resolves at the next death, or when the worker is gone. */
  readonly next: (event: 'death' | 'exit') => Promise<void>
}

function watched(workerUrl: URL, restart: boolean = false): Watched {
  const deaths: string[] = []
  const waiting = { death: [] as (() => void)[], exit: [] as (() => void)[] }
  let generation = 1
  const thread: Watched['thread'] = new LaneThread(mainBorder(), {
    name: 'test', workerUrl, hungMs: 2_000,
    onMessage: () => undefined,
    onExit: () => waiting.exit.splice(0).forEach((done) => done()),
    onDeath: (why, again) => {
      deaths.push(`${why}${again ? '' : ', for good'}`)
      generation += 1
      if (restart && again) thread.start({ generation }).catch(() => undefined)
      for (const done of waiting.death.splice(0)) done()
    },
  })
  return { thread, deaths, next: (event) => new Promise((resolve) => waiting[event].push(resolve)) }
}

describe.skipIf(process.platform !== 'linux' || findKoffi() === undefined)('a worker', () => {
  test('that hangs is ended and counted as dead; the one after it lives', async () => {
    const { thread, deaths, next } = watched(worker('if (generation === 1) setTimeout(() => { for (;;); }, 20)'), true)
    const death = next('death')
    await thread.start({ generation: 1 })
    await death
    expect([deaths, thread.restarts, thread.isRunning]).toEqual([['no sign of life for 2 s'], 1, true])
    await new Promise((resolve) => setTimeout(resolve, 1_200))
    expect([deaths.length, thread.isRunning]).toEqual([1, true])
    await thread.close()
  })

  test('that throws, or ends without a word, is dead', async () => {
    for (const [body, why] of [["setTimeout(() => { throw new Error('oh') }, 20)", 'oh'], ['setTimeout(() => process.exit(0), 20)', 'it ended by itself']] as const) {
      const { thread, deaths, next } = watched(worker(body))
      const death = next('death')
      await thread.start({ generation: 1 })
      await death
      expect([deaths, thread.restarts, thread.isRunning]).toEqual([[why], 1, false])
      await thread.close()
    }
  })

  test('that says that its device is gone, or that is asked to end, is not', async () => {
    const gone = watched(worker("port.postMessage({ type: 'gone', errno: 77 }); setTimeout(end, 20)"))
    const exit = gone.next('exit')
    await gone.thread.start({ generation: 1 })
    await exit
    expect(gone.deaths).toEqual([])
    await gone.thread.close()
    const asked = watched(worker('port.on("message", end)'))
    const end = asked.next('exit')
    await asked.thread.start({ generation: 1 })
    asked.thread.expectEnd()
    asked.thread.tell('end')
    await end
    expect(asked.deaths).toEqual([])
    await asked.thread.close()
  })

  test('that dies at every start is given up, with the last death said to be for good', async () => {
    const { thread, deaths, next } = watched(worker("setTimeout(() => { throw new Error('again') }, 20)"), true)
    await thread.start({ generation: 1 })
    while (deaths.at(-1)?.endsWith('for good') !== true) await next('death')
    expect([deaths.length, thread.restarts, thread.isRunning]).toEqual([6, 5, false])
    await thread.close()
  })

  test('that cannot start is told to whoever starts it, and is no death', async () => {
    const { thread, deaths } = watched(new URL(`data:text/javascript,${encodeURIComponent("throw new Error('no')")}`))
    await expect(thread.start({})).rejects.toMatchObject({ code: 'DATAPLANE_WORKER' })
    expect(deaths).toEqual([])
    await thread.close()
  })
})
