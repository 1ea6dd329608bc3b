import { after, instant } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { SeededRandom } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { PeerLies } from './peer-lies.ts'

const random = new SeededRandom(7)
const key = (): ReturnType<NodePrivateKey['publicKey']> => NodePrivateKey.generate(random.bytes).publicKey()
const start = instant(1_000)

test('a peer is told of once it has lied thirty times in a minute, and no longer than a minute after that', () => {
  const lies = new PeerLies()
  const peer = key()
  for (let times = 0; times < 29; times += 1) lies.note(start, peer, 'source')
  expect(lies.told(start)).toEqual([])
  lies.note(start, peer, 'source')
  expect(lies.told(start)).toEqual([{ peer, kind: 'source', count: 30 }])
  expect(lies.told(after(start, 59_999))).toHaveLength(1)
  expect(lies.told(after(start, 60_000))).toEqual([])
})

test('a stray packet every few seconds is never told of', () => {
  const lies = new PeerLies()
  const peer = key()
  for (let ms = 0; ms < 3_600_000; ms += 3_000) lies.note(after(start, ms), peer, 'source')
  expect(lies.told(after(start, 3_600_000))).toEqual([])
})

test('lies that go on are counted on', () => {
  const lies = new PeerLies()
  const peer = key()
  for (let ms = 0; ms <= 180_000; ms += 1_000) lies.note(after(start, ms), peer, 'packet')
  expect(lies.told(after(start, 180_000))).toEqual([{ peer, kind: 'packet', count: 181 }])
})

test('a thousand liars are 256 entries, the newest', () => {
  const lies = new PeerLies()
  for (let each = 0; each < 1_000; each += 1) lies.note(start, key(), 'disco', 100)
  const last = key()
  lies.note(start, last, 'disco', 100)
  expect([lies.size, lies.told(start).length, lies.told(start).at(-1)?.peer]).toEqual([256, 256, last])
})

test('a hundred cookies in a minute are a flood', () => {
  const lies = new PeerLies()
  for (let times = 0; times < 99; times += 1) lies.noteCookie(start)
  expect(lies.flooded(start)).toBe(false)
  lies.noteCookie(start)
  expect([lies.flooded(start), lies.flooded(after(start, 60_000))]).toEqual([true, false])
})
