import { type Instant, instant } from '@meshwright/core'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { FairShare } from './fair-share.ts'

const SHARE = 0.25
const SAVED_MS = 2
const UNTIL = 400

interface Served {
  readonly source: string
  readonly at: number
  readonly ms: number
}

/** Strangers that come at any time with work of any cost, while known machines never rest. */
const scene = fc.array(fc.record({ at: fc.double({ min: 0, max: UNTIL, noNaN: true }), source: fc.constantFrom('a', 'b', 'c', 'd', 'e'), ms: fc.double({ min: 0.01, max: 3, noNaN: true }) }), { minLength: 1, maxLength: 200 })

function play(works: readonly Served[]): { readonly served: readonly Served[]; readonly left: number } {
  const share = new FairShare<Served>({ share: SHARE, savedMs: SAVED_MS })
  const coming = works.toSorted((a, b) => a.at - b.at)
  const served: Served[] = []
  let now = instant(0)
  for (;;) {
    while (coming[0] !== undefined && coming[0].at <= now) {
      const [work] = coming.splice(0, 1)
      if (work !== undefined) share.add(now, work.source, work)
    }
    share.busy(now)
    const due = share.nextAt(now)
    const next = Math.min(due ?? Number.POSITIVE_INFINITY, coming[0]?.at ?? Number.POSITIVE_INFINITY)
    if (next > UNTIL * 100) return { served, left: share.size + coming.length }
    if (next > now) {
      now = instant(next)
      continue
    }
    const work = share.next(now)
    if (work === undefined) return { served, left: share.size + coming.length }
    served.push({ ...work, at: now })
    now = (now + work.ms) as Instant
    share.charge(now, work.ms)
  }
}

test('in no stretch of time do strangers take more than their share, what they saved up, and one piece of work', () => {
  fc.assert(
    fc.property(scene, (works) => {
      const { served } = play(works)
      served.forEach((first, i) => {
        let sum = 0
        for (const each of served.slice(i)) {
          // Until the next begins: only then the share is judged.
          expect(sum).toBeLessThanOrEqual(SHARE * (each.at - first.at) + SAVED_MS + 3 + 1e-3)
          sum += each.ms
        }
      })
    }),
    { numRuns: 200 },
  )
})

test('nothing is lost, and a source is served in the order in which it asked', () => {
  fc.assert(
    fc.property(scene, (works) => {
      const { served, left } = play(works)
      expect([served.length, left]).toEqual([works.length, 0])
      for (const source of ['a', 'b', 'c', 'd', 'e']) {
        const asked = works.toSorted((a, b) => a.at - b.at).filter((each) => each.source === source)
        expect(served.filter((each) => each.source === source).map(({ ms }) => ms)).toEqual(asked.map(({ ms }) => ms))
      }
    }),
    { numRuns: 200 },
  )
})

test('who waits is served before anybody else is served twice', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 2, maxLength: 12 }), (counts) => {
      const works = counts.flatMap((count, i) => Array.from({ length: count }, () => ({ source: `s${i}`, at: 0, ms: 1 })))
      const { served } = play(works)
      const left = counts.slice()
      let round = new Set<string>()
      for (const { source } of served) {
        if (round.has(source)) {
          // A new round begins: all that still have work were in the last one.
          left.forEach((count, i) => expect(count === 0 || round.has(`s${i}`)).toBe(true))
          round = new Set()
        }
        round.add(source)
        const index = Number(source.slice(1))
        left[index] = (left[index] ?? 0) - 1
      }
    }),
    { numRuns: 200 },
  )
})
