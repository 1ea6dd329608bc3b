import { expect, test } from 'vitest'
import { GateTurns } from '../../../../packages/runtime-node/test/gate-turns.ts'
import { Gate } from '../runtime.ts'
import { trustMachine } from './visitor.ts'

const ANYBODY = '192.0.2.1'

test('nothing is done before its turn, and a turn does one piece of work', () => {
  const turns = new GateTurns()
  const gate = new Gate({}, turns)
  let done = 0
  for (let i = 0; i < 100; i += 1) gate.add(ANYBODY, () => ((done += 1), (turns.clock += 1)))
  expect(done).toBe(0)
  turns.turn()
  expect([done, gate.size]).toEqual([1, 99])
  while (turns.turn()) expect(gate.size).toBeGreaterThanOrEqual(0)
  expect([done, gate.size, turns.clock]).toEqual([100, 0, 100])
})

test('while a registered machine asks, strangers get a tenth of the time, whatever they send', () => {
  const turns = new GateTurns()
  const gate = new Gate({}, turns)
  trustMachine(gate, 'mkey:1', '192.0.2.9')
  let done = 0
  for (let i = 0; i < 1_000; i += 1) gate.add(`192.0.2.${i % 8}`, () => ((done += 1), (turns.clock += 1)))
  while (turns.clock < 1_000) {
    expect(gate.admits('mkey:1')).toBe(true)
    turns.turn()
  }
  expect(done).toBeGreaterThan(96)
  expect(done).toBeLessThan(106)
})

test('a thousand registered machines that come at once from a thousand addresses are not held up as strangers are', () => {
  const turns = new GateTurns()
  const gate = new Gate({}, turns)
  let back = 0
  for (let i = 0; i < 1_000; i += 1) {
    gate.add(`site ${i}`, () => {
      turns.clock += 1.5
      back += 1
      trustMachine(gate, `mkey:${i}`, `site ${i}`)
      gate.admits(`mkey:${i}`)
    })
  }
  while (back < 1_000) expect(turns.turn()).toBe(true)
  expect(turns.clock).toBeLessThan(1_600) // and 15,000 at a tenth of the time
})

test('a machine that comes again and again gives strangers nothing more', () => {
  const turns = new GateTurns()
  const gate = new Gate({}, turns)
  let done = 0
  for (let i = 0; i < 1_000; i += 1) gate.add(ANYBODY, () => ((done += 1), (turns.clock += 1)))
  while (turns.clock < 1_000) {
    trustMachine(gate, 'mkey:1', 'site')
    gate.admits('mkey:1')
    turns.turn()
  }
  expect(done).toBeLessThan(110)
})

test('sources take turns: one that floods delays itself', () => {
  const turns = new GateTurns()
  const gate = new Gate({}, turns)
  const order: string[] = []
  const add = (source: string): void => gate.add(source, () => (order.push(source), (turns.clock += 3)))
  for (let i = 0; i < 50; i += 1) add('liar')
  add('honest')
  add('another')
  while (order.length < 4) turns.turn()
  expect(order).toEqual(['liar', 'honest', 'another', 'liar'])
})

test('an address from which a registered machine came is served before strangers', () => {
  const turns = new GateTurns()
  const gate = new Gate({}, turns)
  trustMachine(gate, 'mkey:1', 'site')
  const order: string[] = []
  for (const source of ['liar', 'liar', 'site', 'site']) gate.add(source, () => (order.push(source), (turns.clock += 1)))
  while (turns.turn()) expect(order.length).toBeLessThanOrEqual(4)
  expect(order).toEqual(['site', 'site', 'liar', 'liar'])
})

test('a registered machine that costs too much is a stranger until it has paid back', () => {
  const turns = new GateTurns()
  const gate = new Gate({}, turns)
  trustMachine(gate, 'mkey:1', 'site')
  gate.spent('mkey:1', 250)
  expect(gate.admits('mkey:1')).toBe(false)
  turns.clock += 501 // 50 ms at a tenth of the time
  expect(gate.admits('mkey:1')).toBe(true)
})

test('what work sets going for later counts as its own cost', () => {
  const turns = new GateTurns()
  const gate = new Gate({}, turns)
  trustMachine(gate, 'mkey:1', 'site')
  let done = 0
  for (let i = 0; i < 100; i += 1) gate.add(ANYBODY, () => ((done += 1), gate.beside(10)))
  while (turns.clock < 400) {
    gate.admits('mkey:1')
    if (!turns.turn()) break
  }
  expect(done).toBeGreaterThanOrEqual(4) // a tenth of 400 ms, at 10 ms each
  expect(done).toBeLessThanOrEqual(6)
})

test('work that puts more work in is served too', () => {
  const turns = new GateTurns()
  const gate = new Gate({}, turns)
  const order: number[] = []
  gate.add('a', () => {
    order.push(1)
    gate.add('b', () => order.push(2))
  })
  while (turns.turn()) expect(order.length).toBeGreaterThan(0)
  expect(order).toEqual([1, 2])
})
