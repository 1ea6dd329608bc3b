import { expect, test } from 'vitest'
import { BoundedQueue, Outbox } from './index.ts'

test('an outbox gives effects in the order they were pushed, also when pushes and polls mix', () => {
  const outbox = new Outbox<number>()
  const seen: number[] = []
  for (let i = 0; i < 100; i += 1) {
    outbox.push(i)
    if (i % 3 === 0) seen.push(outbox.poll() ?? -1)
  }
  expect(outbox.size).toBe(100 - seen.length)
  for (let item = outbox.poll(); item !== undefined; item = outbox.poll()) seen.push(item)
  expect(seen).toEqual(Array.from({ length: 100 }, (_, i) => i))
  expect(outbox.poll()).toBeUndefined()
})

test('a cleared outbox owes nothing', () => {
  const outbox = new Outbox<string>()
  outbox.push('a')
  outbox.clear()
  expect(outbox.poll()).toBeUndefined()
  outbox.push('b')
  expect(outbox.poll()).toBe('b')
})

test('a bounded queue refuses what does not fit and keeps order across its seam', () => {
  const queue = new BoundedQueue<number>(3)
  expect([1, 2, 3, 4].map((item) => queue.offer(item))).toEqual([true, true, true, false])
  expect(queue.poll()).toBe(1)
  expect(queue.offer(5)).toBe(true)
  expect(queue.peek()).toBe(2)
  expect([queue.poll(), queue.poll(), queue.poll(), queue.poll()]).toEqual([2, 3, 5, undefined])
})

test('offerEvicting gives back the oldest when full', () => {
  const queue = new BoundedQueue<number>(2)
  expect([1, 2, 3, 4].map((item) => queue.offerEvicting(item))).toEqual([undefined, undefined, 1, 2])
  expect([queue.poll(), queue.poll()]).toEqual([3, 4])
})

test('a queue without room is refused at construction', () => {
  for (const capacity of [0, -1, 1.5, Number.NaN]) expect(() => new BoundedQueue(capacity)).toThrow(RangeError)
})
