import { expect, test } from 'vitest'
import { Gate } from '../runtime.ts'
import { BodyBudget } from './body.ts'
import { Visitor } from './visitor.ts'

/** A gate whose turns the test takes. */
function rig(): { readonly gate: Gate; turn(): boolean } {
  const next: { readonly run: () => void; readonly done: () => void }[] = []
  const gate = new Gate({}, { now: () => 0, next: (run, done) => void next.push({ run, done }), later: () => undefined })
  return {
    gate,
    turn: () => {
      const one = next.shift()
      one?.run()
      one?.done()
      return one !== undefined
    },
  }
}

test('a stranger is read in steps of 512 bytes at its turns, a registered machine at once and in longer ones', () => {
  const { gate, turn } = rig()
  const visitor = new Visitor(gate, '192.0.2.1', new BodyBudget(1_000))
  let steps = 0
  const step = (): boolean => ((steps += 1), false)
  visitor.wait(step)
  expect([steps, visitor.stepBytes]).toEqual([0, 512])
  turn()
  expect(steps).toBe(1)
  visitor.proved('mkey:1')
  visitor.wait(step)
  expect([steps, visitor.stepBytes]).toEqual([2, 1_024])
})

test('a registered machine beyond its allowance waits at the gate, and is read in short steps there', () => {
  const { gate, turn } = rig()
  const visitor = new Visitor(gate, '192.0.2.1', new BodyBudget(1_000))
  visitor.proved('mkey:1')
  gate.spent('mkey:1', 1_000)
  let [steps, size] = [0, 0]
  visitor.wait(() => ((steps += 1), (size = visitor.stepBytes), false))
  expect(steps).toBe(0)
  turn()
  expect([steps, size]).toEqual([1, 512])
})

test('of whom was refused nothing more is read, not even what waits for its turn already', () => {
  const { gate, turn } = rig()
  const visitor = new Visitor(gate, '192.0.2.1', new BodyBudget(1_000))
  let steps = 0
  const step = (): boolean => {
    steps += 1
    if (steps === 2) visitor.refuse()
    return true
  }
  visitor.wait(step)
  while (turn()) expect(steps).toBeLessThanOrEqual(2)
  visitor.wait(step)
  expect([steps, gate.size]).toEqual([2, 0])
})

test('what strangers have sent and nobody has worked on yet shares one budget, and is given back', () => {
  const { gate } = rig()
  const unread = new BodyBudget(1_000)
  const [one, two] = [new Visitor(gate, '192.0.2.1', unread), new Visitor(gate, '192.0.2.2', unread)]
  expect([one.hold(800), two.hold(300), two.hold(200), unread.taken]).toEqual([true, false, true, 1_000])
  one.hold(-800)
  expect(unread.taken).toBe(200)
})
