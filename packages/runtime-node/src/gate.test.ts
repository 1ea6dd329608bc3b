import { expect, test } from 'vitest'
import { GateTurns } from '../test/gate-turns.ts'
import { Gate } from './gate.ts'

const KNOWN = { atOnceMs: Number.POSITIVE_INFINITY, share: 1 }

test('who is trusted does not wait until strangers have earned their next turn', () => {
  const turns = new GateTurns()
  const gate = new Gate({}, turns)
  gate.trust('known', KNOWN)
  const order: string[] = []
  gate.busy()
  for (let i = 0; i < 3; i += 1) gate.add('stranger', () => (order.push('stranger'), (turns.clock += 5)))
  turns.turn() // the first is paid for in 50 ms
  const before = turns.clock
  gate.add('known', () => order.push('known'))
  turns.turn()
  expect([order, turns.clock]).toEqual([['stranger', 'known'], before])
  while (turns.turn()) expect(order.length).toBeLessThanOrEqual(4)
  expect(order).toEqual(['stranger', 'known', 'stranger', 'stranger'])
})

test('however often that happens, one wait is set at a time that still counts', () => {
  const turns = new GateTurns()
  let waits = 0
  const later = turns.later.bind(turns)
  turns.later = (ms, run) => {
    waits += 1
    later(ms, run)
  }
  const gate = new Gate({ guaranteed: true }, turns)
  gate.trust('known', KNOWN)
  let [strangers, known] = [0, 0]
  for (let i = 0; i < 200; i += 1) gate.add('stranger', () => ((strangers += 1), (turns.clock += 1)))
  for (let i = 0; i < 2_000; i += 1) {
    gate.busy()
    gate.add('known', () => (known += 1))
    turns.turn()
    turns.clock += 0.1
  }
  expect(known).toBe(2_000)
  expect(strangers).toBeGreaterThan(10)
  expect(waits).toBeLessThanOrEqual(4_000)
  const before = waits
  while (turns.turn());
  expect([strangers, waits - before < 400]).toEqual([200, true])
})

test('work of those who are trusted is done together for a quarter of a millisecond, strangers\' one by one', () => {
  const turns = new GateTurns()
  const gate = new Gate({}, turns)
  gate.trust('known', KNOWN)
  let [known, strangers] = [0, 0]
  for (let i = 0; i < 10; i += 1) {
    gate.add('known', () => ((known += 1), (turns.clock += 0.05)))
    gate.add('stranger', () => ((strangers += 1), (turns.clock += 0.05)))
  }
  turns.turn()
  expect([known, strangers]).toEqual([5, 0])
  turns.turn()
  expect([known, strangers]).toEqual([10, 0])
  turns.turn()
  expect(strangers).toBe(1)
})

test('what is done at once is charged, and no longer done at once when it has cost too much', () => {
  const turns = new GateTurns()
  const gate = new Gate({}, turns)
  gate.trust('known', { atOnceMs: 1, share: 0.1 })
  let done = 0
  const work = (): void => {
    done += 1
    turns.clock += 0.4
  }
  for (let i = 0; i < 10; i += 1) gate.atOnce('known', 0.1, work)
  expect(done).toBeLessThanOrEqual(3)
  expect(gate.atOnce('known', 0.1, work)).toBe(false)
  turns.clock += 100
  expect(gate.atOnce('known', 0.1, work)).toBe(true)
  expect(gate.atOnce('nobody', 0, work)).toBe(false)
})
