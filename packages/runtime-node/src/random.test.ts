import { expect, test } from 'vitest'
import { systemRandom } from './random.ts'

test('every length comes as asked, and no bytes come twice', () => {
  const seen = new Set<string>()
  for (let round = 0; round < 2_000; round += 1) {
    for (const length of [8, 24, 32, 64, 65]) {
      const bytes = systemRandom(length)
      expect(bytes).toHaveLength(length)
      seen.add(Buffer.from(bytes).toString('hex'))
    }
  }
  expect(seen.size).toBe(10_000)
  expect(systemRandom(0)).toHaveLength(0)
})

test('what is handed out belongs to the caller', () => {
  const first = systemRandom(16)
  const copy = Uint8Array.from(first)
  systemRandom(16).fill(0xff)
  for (let round = 0; round < 1_000; round += 1) systemRandom(16)
  expect(first).toEqual(copy)
})
