import { type Instant, instant } from '@meshwright/core'
import { expect, test } from 'vitest'
import { FairShare } from './fair-share.ts'

/** Work that is named, and done with a cost: gives who was served, and when each began. */
function serve(share: FairShare<string>, from: number, until: number, cost: (work: string) => number, known: boolean): { readonly work: string; readonly at: number; readonly ms: number }[] {
  const served: { work: string; at: number; ms: number }[] = []
  let now = instant(from)
  for (;;) {
    if (known) share.busy(now)
    const due = share.nextAt(now)
    if (due === undefined || due >= until) return served
    now = due
    if (known) share.busy(now)
    const work = share.next(now)
    if (work === undefined) continue
    const ms = cost(work)
    served.push({ work, at: now, ms })
    now = (now + ms) as Instant
    share.charge(now, ms)
  }
}

const many = (share: FairShare<string>, source: string, count: number): void => {
  for (let i = 0; i < count; i += 1) share.add(instant(0), source, source)
}

test('while known machines have work, strangers get a tenth of the time, all together', () => {
  const share = new FairShare<string>()
  for (const source of ['a', 'b', 'c']) many(share, source, 1_000)
  const served = serve(share, 0, 1_000, () => 1, true)
  expect(served.length).toBeGreaterThanOrEqual(98)
  expect(served.length).toBeLessThanOrEqual(103)
})

test('when no known machine has asked for 25 ms, strangers get all of it', () => {
  const share = new FairShare<string>()
  many(share, 'a', 1_000)
  expect(serve(share, 0, 100, () => 1, false)).toHaveLength(100)
  share.busy(instant(100))
  const served = serve(share, 100, 200, () => 1, false)
  expect(served.filter(({ at }) => at < 125).length).toBeLessThan(6)
  expect(served.filter(({ at }) => at >= 125)).toHaveLength(75)
})

test('work that took longer than the share allows is paid back before the next', () => {
  const share = new FairShare<string>()
  many(share, 'a', 2)
  const [first, second] = serve(share, 0, 1_000, () => 20, true)
  expect([first?.at, second?.at]).toEqual([0, 200]) // 20 ms, of which 2 were saved up: 18 are earned in 180
})

test('sources take turns: a newcomer is served after one piece of work of every other source', () => {
  const share = new FairShare<string>()
  for (const source of ['liar 1', 'liar 2', 'liar 3']) many(share, source, 500)
  share.add(instant(0), 'newcomer', 'newcomer')
  const order = serve(share, 0, 100, () => 1, true).map(({ work }) => work)
  expect(order.slice(0, 4)).toEqual(['liar 1', 'liar 2', 'liar 3', 'newcomer'])
})

test('a trusted source comes first while its allowance lasts, and then waits with the strangers', () => {
  const share = new FairShare<string>({ share: 0.25 })
  many(share, 'stranger', 1_000)
  share.trust(instant(0), 'site', { atOnceMs: 5, share: 0.01 })
  many(share, 'site', 1_000)
  const served = serve(share, 0, 1_000, () => 1, true)
  expect(served.slice(0, 5).map(({ work }) => work)).toEqual(Array.from({ length: 5 }, () => 'site'))
  const rest = served.slice(5).filter(({ work }) => work === 'site')
  expect(rest.length).toBeGreaterThan(100) // its turn among the strangers
  expect(rest.length).toBeLessThan(140)
})

test('who turns out to be known costs strangers nothing, and they may not save it up', () => {
  const share = new FairShare<string>({ share: 0.1, savedMs: 2 })
  many(share, 'a', 100)
  share.busy(instant(0))
  expect(share.next(instant(0))).toBe('a')
  share.charge(instant(1), 12) // 2 were saved: 10 are owed
  share.busy(instant(1))
  expect(share.nextAt(instant(1))).toBeGreaterThan(25)
  share.refund(instant(1), 10)
  expect(share.nextAt(instant(1))).toBe(1)
  for (let i = 0; i < 10; i += 1) share.refund(instant(1), 10)
  expect(serve(share, 1, 11, () => 1, true).length).toBeLessThanOrEqual(4)
})

test('a source is trusted for the first time once', () => {
  const share = new FairShare<string>()
  expect([1, 2].map((at) => share.trust(instant(at), 'machine', { atOnceMs: 10, share: 0.1 }))).toEqual([true, false])
})

test('trust comes back with time, and what was spent beside the row counts', () => {
  const share = new FairShare<string>()
  share.trust(instant(0), 'machine', { atOnceMs: 10, share: 0.1 })
  expect(share.trusts(instant(0), 'machine')).toBe(true)
  share.spent(instant(0), 'machine', 15)
  share.trust(instant(0), 'machine', { atOnceMs: 10, share: 0.1 }) // saying it again gives nothing back
  expect(share.trusts(instant(49), 'machine')).toBe(false)
  expect(share.trusts(instant(51), 'machine')).toBe(true)
  expect(share.trusts(instant(0), 'nobody')).toBe(false)
})

test('trust is remembered of so many sources, those that were used last', () => {
  const share = new FairShare<string>({ maxTrusted: 2 })
  for (const source of ['a', 'b', 'a', 'c']) share.trust(instant(0), source, { atOnceMs: 1, share: 0 })
  expect(['a', 'b', 'c'].map((source) => share.trusts(instant(0), source))).toEqual([true, false, true])
})

test('nothing waits: there is no time to wait for, and no work', () => {
  const share = new FairShare<string>()
  expect([share.nextAt(instant(0)), share.next(instant(0)), share.size]).toEqual([undefined, undefined, 0])
})

test('a debt is never greater than the allowance, so that who was flooded in its name is trusted again soon', () => {
  const share = new FairShare<string>()
  share.trust(instant(0), 'a', { atOnceMs: 10, share: 0.5 })
  share.spent(instant(0), 'a', 1_000)
  expect(share.trusts(instant(20), 'a')).toBe(false)
  expect(share.trusts(instant(21), 'a')).toBe(true)
})

test.each([false, true])('work of a trusted source that has no end: strangers get their share where it is guaranteed, and nothing elsewhere (%s)', (guaranteed) => {
  const share = new FairShare<string>({ guaranteed })
  share.trust(instant(0), 'known', { atOnceMs: Number.POSITIVE_INFINITY, share: 1 })
  many(share, 'stranger', 1_000)
  for (let i = 0; i < 3_000; i += 1) share.add(instant(0), 'known', 'known')
  const served = serve(share, 0, 1_000, () => 0.5, true)
  const ms = served.filter(({ work }) => work === 'stranger').length * 0.5
  expect(ms).toBeGreaterThanOrEqual(guaranteed ? 95 : 0)
  expect(ms).toBeLessThanOrEqual(guaranteed ? 105 : 0)
})
