import { expect, test } from 'vitest'
import { LIVED_MS, RestartPlan, restartLine } from './restart-plan.ts'

const died = (plan: RestartPlan, times: number, livedMs: number = 100): readonly (readonly [number, boolean])[] =>
  Array.from({ length: times }, () => plan.died(livedMs)).map(({ afterMs, withoutOffloads }) => [afterMs, withoutOffloads] as const)

test('five deaths in a row change nothing, the sixth leaves offloads out, and after six more the tries become rarer, without an end', () => {
  const plan = new RestartPlan(true)
  expect(died(plan, 5)).toEqual(Array(5).fill([0, false]))
  expect([plan.isSteppedDown, plan.inARow]).toEqual([false, 5])
  expect(died(plan, 1)).toEqual([[0, true]])
  expect(plan.isSteppedDown).toBe(true)
  expect(died(plan, 5)).toEqual(Array(5).fill([0, true]))
  expect(died(plan, 9)).toEqual([1, 2, 4, 8, 16, 32, 60, 60, 60].map((seconds) => [seconds * 1000, true]))
})

test('where there are no offloads, pauses begin with the sixth death', () => {
  const plan = new RestartPlan(false)
  expect(died(plan, 8)).toEqual([0, 0, 0, 0, 0, 1, 2, 4].map((seconds) => [seconds * 1000, false]))
  expect(plan.isSteppedDown).toBe(false)
})

test('a worker that lived for a minute begins a new row; what was left out stays out', () => {
  const plan = new RestartPlan(true)
  died(plan, 4)
  expect(died(plan, 1, LIVED_MS)).toEqual([[0, false]])
  expect(plan.inARow).toBe(1)
  expect(died(plan, 5)).toEqual([[0, false], [0, false], [0, false], [0, false], [0, true]])
  died(plan, 20)
  expect(died(plan, 1, LIVED_MS)).toEqual([[0, true]])
})

test('deaths that are a minute apart never count as a row', () => {
  expect(died(new RestartPlan(true), 50, LIVED_MS).every(([afterMs, withoutOffloads]) => afterMs === 0 && !withoutOffloads)).toBe(true)
})

test('a line says what died, what is done about it, and for how long nothing passes', () => {
  expect(restartLine('oh', { afterMs: 0, withoutOffloads: false }, false)).toBe('the data plane died (oh): it is started again, and sessions are made anew')
  expect(restartLine('oh', { afterMs: 0, withoutOffloads: true }, true)).toContain('without offloads')
  expect(restartLine('oh', { afterMs: 4_000, withoutOffloads: true }, false)).toContain('in 4 s; no packets pass until then')
})
