import { expect, test } from 'vitest'
import { HandshakeQueue } from './handshake-queue.ts'

/** Turns that the test takes, and a clock that only work moves. */
class Turns {
  readonly #next: (() => void)[] = []
  clock = 0

  now(): number {
    return this.clock
  }

  next(run: () => void): void {
    this.#next.push(run)
  }

  /** One turn of the event loop; whether there was something to do. */
  turn(): boolean {
    const run = this.#next.shift()
    run?.()
    return run !== undefined
  }
}

test('nothing is computed before its turn, and a turn takes 4 ms of work and no more', () => {
  const turns = new Turns()
  const queue = new HandshakeQueue(turns)
  let done = 0
  for (let i = 0; i < 100; i += 1) queue.add('a', () => ((done += 1), (turns.clock += 1)))
  expect(done).toBe(0)
  turns.turn()
  expect([done, queue.size]).toEqual([4, 96])
  turns.turn()
  expect(done).toBe(8)
  while (turns.turn()) expect(queue.size).toBeGreaterThanOrEqual(0)
  expect([done, queue.size]).toEqual([100, 0])
})

test('sources take turns: one that floods delays itself', () => {
  const turns = new Turns()
  const queue = new HandshakeQueue(turns)
  const order: string[] = []
  const add = (source: string): void => queue.add(source, () => (order.push(source), (turns.clock += 3)))
  for (let i = 0; i < 50; i += 1) add('liar')
  add('honest')
  add('another')
  turns.turn()
  turns.turn()
  expect(order.slice(0, 4)).toEqual(['liar', 'honest', 'another', 'liar'])
})

test('work that puts more work in is served too', () => {
  const turns = new Turns()
  const queue = new HandshakeQueue(turns)
  const order: number[] = []
  queue.add('a', () => {
    order.push(1)
    queue.add('b', () => order.push(2))
  })
  while (turns.turn()) expect(order.length).toBeGreaterThan(0)
  expect(order).toEqual([1, 2])
})
