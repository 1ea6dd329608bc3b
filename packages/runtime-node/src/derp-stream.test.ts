import { expect, test } from 'vitest'
import { GatheredReader } from './derp-stream.ts'

test('what arrives in one turn of the event loop is handed on as one piece, in its order', async () => {
  const pieces: Uint8Array[] = []
  const reader = new GatheredReader((bytes) => pieces.push(bytes))
  reader.push(Uint8Array.of(1, 2))
  reader.push(Uint8Array.of(3))
  expect(pieces).toEqual([])
  await new Promise((resolve) => setImmediate(resolve))
  reader.push(Uint8Array.of(4))
  await new Promise((resolve) => setImmediate(resolve))
  expect(pieces).toEqual([Uint8Array.of(1, 2, 3), Uint8Array.of(4)])
})

test('however much arrives in one turn: no more than 64 KiB and a chunk are kept', () => {
  const pieces: Uint8Array[] = []
  const reader = new GatheredReader((bytes) => pieces.push(bytes))
  for (let i = 0; i < 100; i += 1) reader.push(new Uint8Array(10_000).fill(i))
  expect(pieces.map(({ length }) => length)).toEqual(Array.from({ length: 14 }, () => 70_000))
  reader.flush()
  reader.flush()
  expect(pieces.map(({ length }) => length).slice(14)).toEqual([20_000])
  expect(Buffer.concat(pieces).every((byte, i) => byte === Math.floor(i / 10_000))).toBe(true)
})
