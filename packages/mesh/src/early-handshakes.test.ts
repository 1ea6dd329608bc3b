import { instant } from '@meshwright/core'
import { expect, test } from 'vitest'
import { EarlyHandshakes } from './early-handshakes.ts'
import { keysOf } from './mesh-lab.test.ts'

const NOW = instant(1_000)
const key = (n: number): ReturnType<ReturnType<typeof keysOf>['node']['publicKey']> => keysOf(n).node.publicKey()
const initiation = (mark: number): Uint8Array => Uint8Array.from({ length: 148 }, (_, i) => (i === 0 ? 1 : mark))

test('the newest initiation of a key is kept, as a copy, and given once', () => {
  const early = new EarlyHandshakes()
  const bytes = initiation(7)
  early.keep(NOW, initiation(6), 1, key(1))
  early.keep(NOW, bytes, 2, key(1))
  bytes.fill(0)
  expect(early.take(NOW, key(2))).toBeUndefined()
  expect(early.take(NOW, key(1))).toMatchObject({ region: 2, bytes: initiation(7) })
  expect(early.take(NOW, key(1))).toBeUndefined()
})

test('nothing but initiations is kept, and none longer than its sender waits', () => {
  const early = new EarlyHandshakes()
  for (const bytes of [new Uint8Array(0), initiation(1).subarray(1), new Uint8Array(148), new Uint8Array(149).fill(1)]) early.keep(NOW, bytes, 1, key(1))
  expect(early.size).toBe(0)
  early.keep(NOW, initiation(1), 1, key(1))
  early.keep(NOW, initiation(2), 1, key(2))
  expect(early.take(instant(NOW + 5_000), key(1))).toBeDefined()
  expect(early.take(instant(NOW + 5_001), key(2))).toBeUndefined()
})

test('however many keys there are, 32 are kept: the oldest gives way', () => {
  const early = new EarlyHandshakes()
  for (let n = 1; n <= 40; n += 1) early.keep(NOW, initiation(n), 1, key(n))
  expect(early.size).toBe(32)
  expect(early.take(NOW, key(8))).toBeUndefined()
  expect(early.take(NOW, key(9))).toBeDefined()
})
