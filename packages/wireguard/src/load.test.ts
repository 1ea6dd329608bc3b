import { instant } from '@meshwright/core'
import { nobleProvider } from '@meshwright/crypto'
import { expect, test } from 'vitest'
import { CookieJar } from './cookie.ts'
import { mac1KeyOf } from './identity.ts'
import { HandshakeLoadMonitor } from './index.ts'
import { encodeInitiation } from './messages.ts'
import { ipv4, Link, path } from './link.test.ts'
import { WorkBudget } from './work-budget.ts'

/** An initiation that only knowledge of the responder's public key has gone into: mac1 is right, all else noise. */
export function forgedInitiation(link: Link, sender: number): Uint8Array {
  const random = link.random.bytes
  const message = encodeInitiation({ sender, ephemeral: random(32), sealedStatic: random(48), sealedTimestamp: random(28) })
  new CookieJar().stamp(link.now, nobleProvider, mac1KeyOf(nobleProvider, link.b.id.bytes), message)
  return message
}

test('a budget of work allows a burst, then its share of the time', () => {
  const budget = new WorkBudget(0.1, 50)
  const work = (at: number): number => {
    let done = 0
    for (; budget.allows(instant(at)); done += 1) budget.spend(instant(at), 10)
    return done
  }
  expect([work(0), work(0), work(99), work(100), work(1_100)]).toEqual([5, 0, 1, 0, 5])
  budget.spend(instant(2_000), 3_600_000)
  expect([budget.allows(instant(2_400)), budget.allows(instant(2_600))]).toEqual([false, true])
})

test('a quarter of a fifth of a second spent on handshakes is load, however few they were', () => {
  const monitor = new HandshakeLoadMonitor()
  monitor.worked(instant(1_000), 49)
  expect(monitor.handshakeArrived(instant(1_000))).toBe(false)
  monitor.worked(instant(1_000), 2)
  expect(monitor.handshakeArrived(instant(1_000))).toBe(true)
  expect(new HandshakeLoadMonitor({ windowMs: 1_000 }).handshakeArrived(instant(0))).toBe(false)
})

test('time that handshakes take makes the device ask for cookies, and beyond half of all time they are dropped unread', () => {
  let clock = 0
  const link = new Link(1, { b: { loadMonitor: new HandshakeLoadMonitor(), stopwatch: () => (clock += 10) } }) // every message seems to take 10 ms, every cookie reply too
  const answers = new Map<string, number>()
  for (let i = 0; i < 100; i += 1) link.inject(link.b, forgedInitiation(link, i), path(`s${i}`, 9, i))
  for (const [reason, count] of link.b.device.status(link.now).drops) answers.set(reason, count)
  // Six of 10 ms until 50 ms are passed; then cookies, of which 50 ms worth, each with its message 30 ms; then time is up.
  expect([...answers]).toEqual([['handshake-auth', 6], ['cookie-required', 5], ['overloaded', 89]])
  expect(link.b.sent).toHaveLength(5)
  expect(link.b.device.status(link.now).underLoad).toBe(true)
  link.run(2_000)
  link.send(link.a)
  link.run(100)
  expect(link.b.delivered).toHaveLength(1)
})

test('a late event loop is load too', () => {
  const link = new Link(2, { b: { loadMonitor: new HandshakeLoadMonitor() } })
  link.b.device.noteLag(link.now, 60)
  expect(link.b.device.status(link.now).underLoad).toBe(true)
  link.run(1_000)
  expect(link.b.device.status(link.now).underLoad).toBe(false)
})

test('a flood from changing sources costs a bounded number of answers, and whoever has a session notices nothing', () => {
  const link = new Link(3, { b: { loadMonitor: new HandshakeLoadMonitor() } })
  link.establish()
  const forged = Array.from({ length: 300 }, (_, i) => forgedInitiation(link, i))
  const before = link.b.delivered.length
  const sent = link.b.sent.length
  const worked = link.b.device.status(link.now).drops.get('handshake-auth') ?? 0
  for (let ms = 0; ms < 1_000; ms += 10) {
    link.send(link.a, ipv4(100, ms & 255))
    for (let i = 0; i < 100; i += 1) link.inject(link.b, forged[(ms + i) % forged.length] ?? new Uint8Array(0), path(`s${ms}.${i}`, i, 1_000 + ms))
    link.run(10)
  }
  const { drops, cookieRepliesSent, tables } = link.b.device.status(link.now)
  expect(link.b.delivered.length - before).toBe(100)
  // 10,000 in a second: a burst of 200 was worked on (the rate lets one or two more in); replies took a tenth of the time after a burst; the rest got nothing.
  expect((drops.get('handshake-auth') ?? 0) - worked).toBeLessThanOrEqual(202)
  expect(cookieRepliesSent).toBeLessThanOrEqual((50 + 100 + 1) / 0.05)
  expect(link.b.sent.length - sent).toBeLessThanOrEqual(cookieRepliesSent + 100)
  expect(tables).toEqual({ indices: 1, sources: 0, outputs: 0 })
})
