import { expect, test } from 'vitest'
import { suspendAwareClock } from './clock.ts'

test('suspended time counts, a clock set back does not, small differences do not', () => {
  let monotonic = 1_000
  let wall = 50_000
  const clock = suspendAwareClock(() => monotonic, () => wall)
  const start = clock()
  monotonic += 100
  wall += 103
  expect(clock() - start).toBe(100)
  wall += 600_000 // ten minutes asleep: the monotonic clock stood still
  expect(clock() - start).toBe(600_100)
  wall -= 3_600_000 // an operator sets the clock back
  monotonic += 50
  expect(clock() - start).toBe(600_150)
})

test('sleep is told of, once', () => {
  let wall = 0
  const slept: number[] = []
  const clock = suspendAwareClock(() => 0, () => wall, (ms) => slept.push(ms))
  wall = 4_000
  clock()
  wall += 600_000
  clock()
  clock()
  expect(slept).toEqual([600_000])
})
