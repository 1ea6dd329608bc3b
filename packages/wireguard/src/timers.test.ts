import { after } from '@meshwright/core'
import { expect, test } from 'vitest'
import { ipv4, Link } from './link.test.ts'

test('without answer: 20 initiations 5.000 to 5.334 s apart, then silence until new traffic', () => {
  const link = new Link(1)
  link.wire = () => []
  for (let i = 0; i < 130; i += 1) link.send(link.a)
  link.run(300_000)
  const times = link.a.times(1)
  expect(times).toHaveLength(20)
  for (let i = 1; i < times.length; i += 1) {
    const gap = (times[i] ?? 0) - (times[i - 1] ?? 0)
    expect(gap).toBeGreaterThanOrEqual(5_000)
    expect(gap).toBeLessThan(5_334)
  }
  expect(link.a.eventTypes().filter((type) => type === 'handshakeFailed')).toHaveLength(1)
  const drops = link.a.device.status(link.now).drops
  expect([drops.get('staging-full'), drops.get('staging-given-up')]).toEqual([2, 128])
  link.send(link.a)
  link.run(6_000)
  expect(link.a.times(1)).toHaveLength(22)
})

test('an empty packet answers data after 10 s, and once more when more data came meanwhile', () => {
  const link = new Link(2)
  link.establish() // its one packet arrives at 1003
  expect(link.b.delivered[0]?.at).toBe(1_003)
  link.run(3_000)
  link.send(link.a)
  link.run(40_000)
  expect(link.b.times(4)).toEqual([11_003, 21_003])
})

test('a packet of its own saves the empty one, and two idle ends go silent', () => {
  const link = new Link(3)
  link.establish()
  link.run(5_000)
  link.send(link.b)
  link.run(30_000)
  expect(link.b.ofType(4).map((bytes) => bytes.length)).toEqual([64])
  expect(link.a.ofType(4).map((bytes) => bytes.length)).toEqual([64, 32])
})

test('data without any answer begins a new handshake after 15.000 to 15.334 s, which later data does not put off', () => {
  const link = new Link(4)
  link.establish()
  link.run(30_000)
  link.wire = () => []
  const start = link.now
  link.send(link.a)
  link.run(7_000)
  link.send(link.a)
  link.run(9_000)
  const [, second = 0] = link.a.times(1)
  expect(second - start).toBeGreaterThanOrEqual(15_000)
  expect(second - start).toBeLessThan(15_334)
})

test('only the initiator renews by age, on a packet sent after more than 120 s', () => {
  const link = new Link(5)
  link.establish()
  link.clock.advanceTo(after(link.now, 0))
  link.run(119_800)
  link.send(link.b)
  link.run(50)
  expect(link.b.ofType(1)).toHaveLength(0)
  expect(link.a.ofType(1)).toHaveLength(1)
  link.run(200)
  link.send(link.b)
  expect(link.b.ofType(1)).toHaveLength(0)
  link.send(link.a)
  expect(link.a.ofType(1)).toHaveLength(2)
})

test('the initiator renews once when it receives on a session older than 165 s', () => {
  const link = new Link(6)
  link.establish()
  link.wire = (from, bytes) => (from === link.b ? [bytes] : [])
  link.run(164_000)
  link.send(link.b)
  link.run(10)
  expect(link.a.ofType(1)).toHaveLength(1)
  link.run(1_100)
  link.send(link.b)
  link.run(10)
  expect(link.a.ofType(1)).toHaveLength(2)
})

test('persistent keepalives: one at once, then at every interval without other traffic, without session too; 0 stops them', () => {
  const link = new Link(7)
  link.a.device.setPeer(link.now, { publicKey: link.b.id, persistentKeepaliveSeconds: 25 })
  link.run(26_000)
  expect(link.a.times(1)).toEqual([1_000])
  expect(link.a.times(4)).toEqual([1_002, 26_002])
  link.run(14_000)
  link.send(link.a)
  const restarted = link.now
  link.run(26_000)
  expect(link.a.times(4).at(-1)).toBeLessThanOrEqual(restarted + 10_001 + 25_000)
  link.a.device.setPeer(link.now, { publicKey: link.b.id, persistentKeepaliveSeconds: 0 })
  const before = link.a.sent.length
  link.run(100_000)
  expect(link.a.sent.length - before).toBeLessThanOrEqual(1)
})

test('an idle device has no deadline, and one late call does all that is overdue once', () => {
  const link = new Link(8)
  expect(link.a.device.pollTimeout()).toBeUndefined()
  link.establish()
  link.run(1_000_000)
  expect(link.a.device.pollTimeout()).toBeUndefined()
  expect(link.a.eventTypes()).toEqual(['established', 'expired'])
  link.establish()
  link.wire = () => []
  link.send(link.b)
  const sent = link.a.sent.length + link.b.sent.length
  link.clock.advance(3_600_000)
  link.b.device.handleTimeout(link.now)
  link.collect()
  expect(link.a.sent.length + link.b.sent.length - sent).toBeLessThanOrEqual(2)
  const due = link.b.device.pollTimeout()
  expect(due === undefined || due > link.now).toBe(true)
})

test('all keys are gone 540 s after the last session began', () => {
  const link = new Link(9)
  link.establish()
  link.run(539_000)
  expect(link.a.device.peerStatus(link.now, link.b.id)?.state).toBe('established')
  link.run(1_100)
  expect(link.a.device.peerStatus(link.now, link.b.id)?.state).toBe('idle')
  expect(link.b.device.peerStatus(link.now, link.a.id)?.state).toBe('idle')
})

test('the same seed gives the same jitter', () => {
  const run = (): number[] => {
    const link = new Link(10)
    link.wire = () => []
    link.send(link.a, ipv4())
    link.run(60_000)
    return link.a.times(1)
  }
  expect(run()).toEqual(run())
})

test('hours of packets with pauses longer than a session lives: nothing is lost', { timeout: 60_000 }, () => {
  const link = new Link(11)
  link.delayMs = () => 30
  for (let i = 0; i < 2 * 3_600; i += 1) {
    link.send(i % 2 === 0 ? link.a : link.b)
    link.run(i % 900 === 899 ? 300_000 : 1_000) // with pauses longer than a session lives
  }
  expect(link.a.delivered.length + link.b.delivered.length).toBe(2 * 3_600)
})

test('an initiation that never left is asked for again at once; one that was answered, or never made, is not', () => {
  const link = new Link(11)
  link.a.device.askAgain(link.now, link.b.id)
  link.wire = () => []
  link.send(link.a)
  link.run(100)
  link.a.device.askAgain(link.now, link.b.id)
  link.run(100)
  expect(link.a.times(1)).toEqual([1_000, 1_100])
  link.wire = (_from, bytes) => [bytes]
  link.run(6_000)
  expect(link.a.eventTypes()).toContain('established')
  const sent = link.a.times(1).length
  expect(sent).toBe(3)
  link.a.device.askAgain(link.now, link.b.id)
  link.run(100)
  expect(link.a.times(1)).toHaveLength(sent)
})
