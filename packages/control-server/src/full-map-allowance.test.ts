import { after, instant } from '@meshwright/core'
import { expect, test } from 'vitest'
import { FullMapAllowance } from './full-map-allowance.ts'

test('a node gets ten whole maps at once and one in every second after that; others are not touched by it', () => {
  const [allowance, start] = [new FullMapAllowance(), instant(0)]
  const granted = (at: number, tries: number, node = 1): number => Array.from({ length: tries }, () => allowance.allows(after(start, at), node)).filter(Boolean).length
  expect(granted(0, 100)).toBe(10)
  expect(granted(0, 1, 2)).toBe(1)
  expect(granted(5_000, 100)).toBe(5)
  expect(granted(3_600_000, 100)).toBe(10)
  allowance.forget(1)
  expect(granted(3_600_000, 100)).toBe(10)
})
