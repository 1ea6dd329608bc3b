import { PassThrough } from 'node:stream'
import { expect, test } from 'vitest'
import { BodyBudget, readBody } from './body.ts'

const LIMITS = { bytes: 10, withinMs: 5_000, budgets: [] }

test('a body within the limit comes whole, one byte more does not', async () => {
  const [fits, tooLong] = [new PassThrough(), new PassThrough()]
  fits.write('01234')
  fits.end('56789')
  tooLong.end('0123456789x')
  expect(Buffer.from((await readBody(fits, LIMITS)) as Uint8Array).toString()).toBe('0123456789')
  expect(await readBody(tooLong, LIMITS)).toBe('too-long')
})

test('a body that does not end is given up, and one that breaks off is noticed', async () => {
  const [slow, gone] = [new PassThrough(), new PassThrough()]
  slow.write('1')
  const reading = readBody(gone, LIMITS)
  gone.destroy()
  expect([await readBody(slow, { ...LIMITS, withinMs: 20 }), await reading]).toEqual(['too-slow', 'gone'])
})

test('bodies that are being read share a budget, and give it back when they are done', async () => {
  const [own, shared] = [new BodyBudget(8), new BodyBudget(10)]
  const limits = { ...LIMITS, budgets: [own, shared] }
  const [first, second] = [new PassThrough(), new PassThrough()]
  const reading = readBody(first, limits)
  first.write('012345')
  await new Promise((resolve) => setImmediate(resolve))
  second.end('0123')
  expect(await readBody(second, limits)).toBe('busy')
  first.end()
  expect(await reading).toHaveLength(6)
  expect([own.take(8), shared.take(10), own.take(1)]).toEqual([true, true, false])
})

test('what is long shares a budget of its own, which short bodies never wait for', async () => {
  const [all, long] = [new BodyBudget(100), new BodyBudget(5)]
  const limits = { ...LIMITS, budgets: [all], long: { beyond: 4, budget: long } }
  const [first, second, short] = [new PassThrough(), new PassThrough(), new PassThrough()]
  const reading = readBody(first, limits)
  first.write('0123')
  first.write('4567') // four of them beyond
  await new Promise((resolve) => setImmediate(resolve))
  second.end('012345')
  expect(await readBody(second, limits)).toBe('busy')
  short.end('0123')
  expect(await readBody(short, limits)).toHaveLength(4)
  first.end()
  expect(await reading).toHaveLength(8)
  expect([all.take(100), long.take(5), long.take(1)]).toEqual([true, true, false])
})

test('what a body says of its length is enough to refuse it before it comes; one that says less than it is gains nothing', async () => {
  const [budget, long] = [new BodyBudget(8), new BodyBudget(2)]
  const limits = { ...LIMITS, budgets: [budget] }
  expect(await readBody(new PassThrough(), { ...limits, declared: 11 })).toBe('too-long')
  expect(await readBody(new PassThrough(), { ...limits, declared: 9 })).toBe('busy')
  expect(await readBody(new PassThrough(), { ...limits, declared: 7, long: { beyond: 4, budget: long } })).toBe('busy')
  const liar = new PassThrough()
  liar.end('0123456789')
  expect(await readBody(liar, { ...limits, declared: 1 })).toBe('busy')
  const honest = new PassThrough()
  honest.end('012345')
  expect(await readBody(honest, { ...limits, declared: 6, long: { beyond: 4, budget: long } })).toHaveLength(6)
  expect([budget.taken, long.taken]).toEqual([0, 0])
})
