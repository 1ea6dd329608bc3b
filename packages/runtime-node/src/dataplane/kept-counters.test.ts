import { expect, test } from 'vitest'
import { KeptCounters } from './kept-counters.ts'

test('counters go on from what was shown, however often what counts begins anew', () => {
  const kept = new KeptCounters()
  const show = (reads: number, drops: number): unknown => kept.showAll('lane', { reads, drops })
  expect(show(10, 1)).toEqual({ reads: 10, drops: 1 })
  kept.restart()
  expect(show(0, 0)).toEqual({ reads: 10, drops: 1 })
  expect(show(5, 0)).toEqual({ reads: 15, drops: 1 })
  kept.restart()
  kept.restart()
  expect(show(1, 1)).toEqual({ reads: 16, drops: 2 })
})

test('counters by name that are there once they have counted stay', () => {
  const kept = new KeptCounters()
  const show = (...counts: readonly (readonly [string, number])[]): unknown => [...kept.showMap('drops', new Map(counts))]
  expect(show(['a', 3])).toEqual([['a', 3]])
  kept.restart()
  expect(show()).toEqual([['a', 3]])
  expect(show(['a', 1], ['b', 1])).toEqual([['a', 4], ['b', 1]])
})

test('who is gone is forgotten: when it comes back it begins at zero', () => {
  const kept = new KeptCounters()
  kept.show('peer a', 5)
  kept.show('peer b', 7)
  kept.restart()
  kept.forget((name) => name === 'peer a')
  expect([kept.show('peer a', 1), kept.show('peer b', 1)]).toEqual([1, 8])
})
