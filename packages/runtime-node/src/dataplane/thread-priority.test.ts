import { spawnSync } from 'node:child_process'
import os from 'node:os'
import { Worker } from 'node:worker_threads'
import { describe, expect, test } from 'vitest'
import { LANE_NICE, raisePriority, type ThreadNice } from './thread-priority.ts'

function threadOf(nice: number, least: number = -20): ThreadNice {
  let now = nice
  return {
    get: () => now,
    set: (wanted) => {
      if (wanted < least) throw new Error('EACCES')
      now = wanted
    },
  }
}

test('a thread of no niceness gets its priority', () => {
  expect(raisePriority(threadOf(0))).toBe(LANE_NICE)
})

test('who may not have it goes on without', () => {
  expect(raisePriority(threadOf(0, 0))).toBe(0)
})

test.each([5, 19, -3, -20])('who was started with niceness %i keeps it', (nice) => {
  expect(raisePriority(threadOf(nice))).toBe(nice)
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
