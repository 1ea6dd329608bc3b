import { describe, expect, test } from 'vitest'
import { findKoffi } from '../koffi-functions.ts'
import { LaneThread, type MainBorder, mainBorder } from './lane-thread.ts'
import type { Restart } from './restart-plan.ts'

// Workers of a few lines in the place of a lane: what becomes of the thread that has them.
const worker = (body: string, first: string = "port.postMessage({ type: 'ready' })"): URL => new URL(`data:text/javascript,${encodeURIComponent(`
import { workerData } from 'node:worker_threads'
const { port, pulse, generation } = workerData
const beat = setInterval(() => Atomics.add(pulse, 0, 1), 5)
const end = () => { clearInterval(beat); port.close() }
port.on('message', () => undefined)
${first}
${body}`)}`)

interface Watched {
  readonly thread: LaneThread<string, { readonly type: string }>
  readonly deaths: string[]
  readonly restarts: Restart[]
  /** What workers have said, and when one was started. */
  readonly heard: string[]
  /** Resolves at the next death, or when the worker is gone. */
  readonly next: (event: 'death' | 'exit') => Promise<void>
}

interface WatchOptions {
  readonly hasOffloads?: boolean
  readonly hungMs?: number
  readonly onDeath?: () => void
  readonly onMessage?: (type: string) => void
  readonly main?: MainBorder
}

function watched(workerUrl: URL, { hasOffloads = true, hungMs = 2_000, onDeath, onMessage, main = mainBorder() }: WatchOptions = {}): Watched {
  const deaths: string[] = []
  const restarts: Restart[] = []
  const heard: string[] = []
  const waiting = { death: [] as (() => void)[], exit: [] as (() => void)[] }
  let generation = 1
  const thread: Watched['thread'] = new LaneThread(main, {
    name: 'test', workerUrl, hungMs, hasOffloads,
    onMessage: ({ type }) => {
      heard.push(type)
      onMessage?.(type)
    },
    onExit: () => waiting.exit.splice(0).forEach((done) => done()),
    onDeath: (line) => {
      deaths.push(line)
      onDeath?.()
      for (const done of waiting.death.splice(0)) done()
    },
    onRestart: (restart) => {
      restarts.push(restart)
      generation += 1
      heard.push('restart')
      return thread.start({ generation, ...restart })
    },
  })
  return { thread, deaths, restarts, heard, next: (event) => new Promise((resolve) => waiting[event].push(resolve)) }
}

const DIED_AGAIN = 'it is started again, and sessions are made anew'

describe.skipIf(process.platform !== 'linux' || findKoffi() === undefined)('a worker', () => {
  test('that hangs is ended and counted as dead; the one after it lives', async () => {
    const { thread, deaths, heard, next } = watched(worker("if (generation === 1) setTimeout(() => { for (;;); }, 20)\nelse setTimeout(() => port.postMessage({ type: 'lives' }), 2_500)"))
    const death = next('death')
    await thread.start({ generation: 1 })
    await death
    expect([deaths, thread.restarts, thread.isRunning]).toEqual([[`the data plane died (no sign of life for 2 s): ${DIED_AGAIN}`], 1, true])
    expect(thread.trouble).toBe(undefined)
    await expect.poll(() => heard).toContain('lives') // longer than one that hangs
    expect([deaths.length, thread.isRunning]).toEqual([1, true])
    await thread.close()
  })

  test('that throws, or ends without a word, is dead', async () => {
    for (const [body, why] of [["if (generation === 1) setTimeout(() => { throw new Error('oh') }, 20)", 'oh'], ['if (generation === 1) setTimeout(() => process.exit(0), 20)', 'it ended by itself']] as const) {
      const { thread, deaths, next } = watched(worker(body))
      const death = next('death')
      await thread.start({ generation: 1 })
      await death
      expect([deaths, thread.restarts]).toEqual([[`the data plane died (${why}): ${DIED_AGAIN}`], 1])
      await thread.close()
    }
  })

  test('sees how many of its messages were taken', async () => {
    const { thread, deaths, next } = watched(worker("for (let i = 0; i < 3; i += 1) port.postMessage({ type: 'more' })\nif (generation === 1) setInterval(() => { if (pulse[1] === 4) throw new Error('all four') }, 5)"))
    const death = next('death')
    await thread.start({ generation: 1 })
    await death
    expect(deaths).toEqual([`the data plane died (all four): ${DIED_AGAIN}`])
    await thread.close()
  })

  test('is seen to have taken what it was told, or not', async () => {
    const { thread } = watched(worker("port.on('message', (text) => { if (text !== 'last') Atomics.add(pulse, 2, 1); else port.postMessage({ type: 'heard' }) })"), { onMessage: () => heard() })
    let heard: () => void = () => undefined
    const last = new Promise<void>((resolve) => (heard = resolve))
    expect(thread.untaken).toBe(0)
    await thread.start({ generation: 1 })
    for (const text of ['one', 'two', 'three', 'last']) thread.tell(text)
    await last
    expect(thread.untaken).toBe(1)
    await thread.close()
    expect(thread.untaken).toBe(0)
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

  test('that dies again and again goes on without offloads; who looks is told why and what to do', async () => {
    const { thread, deaths, restarts, next } = watched(worker("if (!workerData.withoutOffloads) setTimeout(() => { throw new Error('of a row') }, 20)"))
    await thread.start({ generation: 1 })
    while (restarts.length < 6) await next('death')
    expect(restarts).toEqual([...Array(5).fill({ afterMs: 0, withoutOffloads: false }), { afterMs: 0, withoutOffloads: true }])
    await new Promise((resolve) => setTimeout(resolve, 300))
    expect([deaths.length, thread.restarts, thread.isRunning]).toEqual([6, 6, true])
    expect(deaths.at(-1)).toContain('without offloads')
    expect(thread.trouble).toMatch(/of a row.*without offloads.*start the program anew/)
    await thread.close()
  })

  test('that dies even so is tried again after a pause, and no more once it is closed', async () => {
    const { thread, deaths, restarts, next } = watched(worker("if (generation < 8) setTimeout(() => { throw new Error('oh') }, 20)"), { hasOffloads: false })
    await thread.start({ generation: 1 })
    while (deaths.length < 7) await next('death')
    expect(restarts.map(({ afterMs }) => afterMs)).toEqual([0, 0, 0, 0, 0, 1_000])
    expect(deaths.at(-1)).toContain('in 2 s; no packets pass until then')
    expect(thread.isRunning).toBe(false)
    expect(thread.trouble).toMatch(/oh.*no packets pass.*start the program anew/)
    await thread.close()
    await new Promise((resolve) => setTimeout(resolve, 2_200))
    expect([restarts.length, thread.isRunning]).toEqual([6, false])
  })

  test('that cannot run any more, although one before it could, is tried again like one that died', async () => {
    const first = "if (generation === 1) port.postMessage({ type: 'ready' })\nelse { port.postMessage({ type: 'unavailable', reason: 'no koffi' }); end() }"
    const { thread, deaths, next } = watched(worker("if (generation === 1) setTimeout(() => { throw new Error('oh') }, 20)", first), { hasOffloads: false })
    await thread.start({ generation: 1 })
    while (deaths.length < 6) await next('death')
    expect(deaths.at(-1)).toContain('(no koffi), again and again: it is started again in 1 s')
    await thread.close()
  })

  test('that cannot run any more, and does not end by itself either, is ended, and is no further death beside the one that runs now', async () => {
    const first = "if (generation !== 2) port.postMessage({ type: 'ready' })\nelse port.postMessage({ type: 'unavailable', reason: 'no koffi' })\nif (generation === 3) setTimeout(() => port.postMessage({ type: 'lives' }), 5_000)"
    const { thread, deaths, heard } = watched(worker("if (generation === 1) setTimeout(() => { throw new Error('oh') }, 20)", first), { hungMs: 700 })
    await thread.start({ generation: 1 })
    await expect.poll(() => heard).toContain('lives') // longer than a worker may take to get ready
    expect([deaths.length, thread.restarts, thread.isRunning]).toEqual([2, 2, true])
    await thread.close()
  })

  test('that died is heard to the end before the next one is started, and not after', async () => {
    for (const how of ["throw new Error('oh')", 'process.exit(0)', 'for (;;);']) {
      // More than Node takes at a time, while this thread has something else to do: then the end is at hand before the rest of them.
      const onMessage = (type: string): void => void (type === 'begin' && Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 250))
      const { thread, heard, next } = watched(worker(`if (generation === 1) setTimeout(() => { port.postMessage({ type: 'begin' }); for (let i = 0; i < 3000; i += 1) port.postMessage({ type: 'said' })\n${how} }, 10)`), { onMessage })
      const exit = next('exit')
      await thread.start({ generation: 1 })
      await exit
      while (thread.restarts === 0) await new Promise(setImmediate)
      await new Promise((resolve) => setTimeout(resolve, 20))
      expect(heard.length).toBe(3_002)
      expect([heard[0], heard[3_000], heard[3_001]]).toEqual(['begin', 'said', 'restart'])
      await thread.close()
    }
  })

  test('is not started again when it is closed by whoever hears of its death', async () => {
    let closed: Promise<void> | undefined
    const { thread, deaths, restarts, next } = watched(worker("if (generation === 1) setTimeout(() => { throw new Error('oh') }, 20)"), { onDeath: () => void (closed = thread.close()) })
    const death = next('death')
    await thread.start({ generation: 1 })
    await death
    await closed
    await new Promise((resolve) => setTimeout(resolve, 50))
    expect([deaths.length, restarts, thread.restarts, thread.isRunning]).toEqual([1, [], 0, false])
  })

  test('that does not get ready is ended: at first it is told to whoever starts it, then it is a death', async () => {
    const never = watched(worker('', ''), { hungMs: 50 })
    await expect(never.thread.start({ generation: 1 })).rejects.toMatchObject({ code: 'DATAPLANE_WORKER', message: 'the data plane is not ready within 0.3 s' })
    expect([never.deaths, never.thread.isRunning]).toEqual([[], false])
    await never.thread.close()
    const later = watched(worker("if (generation === 1) setTimeout(() => { throw new Error('oh') }, 20)", "if (generation !== 2) port.postMessage({ type: 'ready' })"), { hungMs: 1_000 })
    await later.thread.start({ generation: 1 })
    while (later.deaths.length < 2) await later.next('death')
    expect(later.deaths[1]).toContain('not ready within 6 s')
    await later.thread.close()
  })

  test('that is no more is not woken: the number of its wake descriptor may be somebody else\'s', async () => {
    const main = mainBorder()
    const written: number[] = []
    const border = Object.assign(Object.create(main.border) as typeof main.border, { write: (fd: number, at: number, length: number) => written.push(fd) && main.border.write(fd, at, length) }) // the same, watched
    const { thread } = watched(worker(''), { main: { ...main, border } })
    await thread.start({ generation: 1 })
    thread.tell('one')
    expect(written).toEqual([thread.wake])
    await thread.close()
    thread.tell('two')
    expect(written).toEqual([thread.wake])
  })

  test('that cannot start is told to whoever starts it, and is no death', async () => {
    const { thread, deaths } = watched(new URL(`data:text/javascript,${encodeURIComponent("throw new Error('no')")}`))
    await expect(thread.start({})).rejects.toMatchObject({ code: 'DATAPLANE_WORKER' })
    expect(deaths).toEqual([])
    await thread.close()
  })
})
