import { instant } from '@meshwright/core'
import { expect, test } from 'vitest'
import { HandshakeLoadMonitor } from './index.ts'
import { Link, path } from './link.test.ts'
import { RateLimiter } from './rate-limiter.ts'

function underLoad(seed: number): Link {
  const link = new Link(seed)
  link.b.load.on = true
  return link
}

test('not under load, a wrong mac2 does not matter', () => {
  const link = new Link(1)
  link.wire = () => []
  link.send(link.a)
  link.inject(link.b, (link.a.ofType(1)[0] ?? new Uint8Array(0)).map((byte, i) => (i >= 132 ? 0xaa : byte)))
  expect(link.b.ofType(2)).toHaveLength(1)
})

test('under load, an initiation gets a cookie and succeeds with it 5 seconds later, no sooner', () => {
  const link = underLoad(2)
  link.send(link.a)
  link.run(4_900)
  const first = link.a.ofType(1)[0] ?? new Uint8Array(0)
  const reply = link.b.ofType(3)[0] ?? new Uint8Array(0)
  expect(link.b.sent).toHaveLength(1)
  expect(reply).toHaveLength(64)
  expect(reply.length).toBeLessThan(first.length)
  expect(reply.subarray(4, 8)).toEqual(first.subarray(4, 8))
  expect(link.a.sent).toHaveLength(1)
  expect(link.b.device.peerStatus(link.now, link.a.id)?.state).toBe('idle')
  link.run(600)
  const second = link.a.ofType(1)[1] ?? new Uint8Array(148)
  expect(second.subarray(132).every((byte) => byte === 0)).toBe(false)
  expect(link.a.eventTypes()).toContain('established')
})

test('a cookie counts for its own address and port only, and every bit of mac2 matters', () => {
  const link = underLoad(3)
  link.send(link.a)
  link.run(10)
  link.wire = () => []
  link.run(5_400)
  const stamped = link.a.ofType(1)[1] ?? new Uint8Array(0)
  const refused = [path('a', 1, 51821), path('a', 9), undefined].map((from) => {
    const before = link.b.ofType(2).length
    link.b.device.handleInput(link.now, { type: 'datagram', bytes: stamped, ...(from === undefined ? {} : { from }) })
    link.collect()
    return link.b.ofType(2).length - before
  })
  link.inject(link.b, stamped.map((byte, i) => (i === 147 ? byte ^ 1 : byte)))
  expect(refused).toEqual([0, 0, 0])
  expect(link.b.ofType(2)).toHaveLength(0)
  expect(link.b.ofType(3)).toHaveLength(4) // none where there is no source to send it to
  link.inject(link.b, stamped)
  expect(link.b.ofType(2)).toHaveLength(1)
})

test('a cookie is refused once its secret is older than 120 seconds, and not used by its owner after 115', () => {
  const link = underLoad(4)
  link.send(link.a)
  link.run(10)
  link.wire = () => []
  link.run(114_000)
  const macs = link.a.ofType(1).map((bytes) => bytes.subarray(132).some((byte) => byte !== 0))
  expect(macs.slice(0, 20)).toEqual([false, ...new Array<boolean>(19).fill(true)])
  link.run(2_000)
  link.send(link.a)
  expect(link.a.ofType(1).at(-1)?.subarray(132).every((byte) => byte === 0)).toBe(true)
  link.run(10_000)
  link.inject(link.b, link.a.ofType(1)[5] ?? new Uint8Array(0))
  expect(link.b.ofType(2)).toEqual([])
  expect(link.b.ofType(3)).toHaveLength(2)
})

test('a cookie reply for no message of ours, a repeated one, or one with a wrong bit changes nothing', () => {
  const link = underLoad(5)
  link.send(link.a)
  link.run(10)
  const reply = link.b.ofType(3)[0] ?? new Uint8Array(0)
  const due = link.a.device.pollTimeout()
  link.inject(link.a, reply)
  link.inject(link.a, reply.map((byte, i) => (i === 40 ? byte ^ 1 : byte)))
  link.inject(link.a, reply.map((byte, i) => (i === 4 ? byte ^ 1 : byte)), path('elsewhere', 7))
  expect(Object.fromEntries(link.a.device.status(link.now).drops)).toEqual({ 'cookie-auth': 2, 'unknown-index': 1 })
  expect(link.a.device.pollTimeout()).toBe(due)
  expect(link.a.device.pathOf(link.b.id)?.id).toBe('b')
  expect(link.a.sent).toHaveLength(1)
})

test('responses are refused with cookies too', () => {
  const link = new Link(6)
  link.a.load.on = true
  link.send(link.a)
  link.run(20)
  expect(link.a.ofType(3)).toHaveLength(1)
  link.run(12_000)
  expect(link.a.eventTypes()).toContain('established')
})

test('under load, messages with a wrong mac1 get nothing at all', () => {
  const link = underLoad(7)
  link.wire = () => []
  link.send(link.a)
  const initiation = link.a.ofType(1)[0] ?? new Uint8Array(0)
  for (let i = 0; i < 1_000; i += 1) link.inject(link.b, initiation.map((byte, at) => (at === 120 ? byte ^ ((i & 127) + 1) : byte)))
  expect(link.b.sent).toEqual([])
})

test('load is a rate of handshakes or a share of time, and lasts one second', () => {
  const monitor = new HandshakeLoadMonitor({ messagesPerSecond: 100, burst: 5 })
  const arrivals = Array.from({ length: 6 }, () => monitor.handshakeArrived(instant(1_000)))
  expect(arrivals).toEqual([false, false, false, false, false, true])
  expect(monitor.isUnderLoad(instant(1_999))).toBe(true)
  expect(monitor.isUnderLoad(instant(2_000))).toBe(false)
  expect(monitor.handshakeArrived(instant(2_000))).toBe(false)
  monitor.worked(instant(2_000), 300)
  expect(monitor.isUnderLoad(instant(2_500))).toBe(true)
})

test('a source begins five handshakes at once, then one in 50 ms; an IPv6 /64 is one source; a full table refuses new ones', () => {
  const limiter = new RateLimiter(2)
  const v4 = path('x', 1).cookieBytes
  const allowed = (at: number, bytes: Uint8Array, times: number): number => Array.from({ length: times }, () => limiter.allow(instant(at), bytes)).filter(Boolean).length
  expect(allowed(0, v4, 10)).toBe(5)
  expect(allowed(49, v4, 1)).toBe(0)
  expect(allowed(50, v4, 2)).toBe(1)
  expect(allowed(150, v4, 3)).toBe(2)
  const v6 = (host: number): Uint8Array => Uint8Array.from({ length: 18 }, (_, i) => (i === 15 ? host : 32))
  expect(allowed(150, v6(1), 3) + allowed(150, v6(2), 3)).toBe(5)
  expect(allowed(150, path('y', 2).cookieBytes, 1)).toBe(0)
  expect(allowed(1_300, path('y', 2).cookieBytes, 1)).toBe(1)
  expect(limiter.size).toBeLessThanOrEqual(2)
})

test('under load with a valid cookie, the sixth handshake of a source is limited', () => {
  const link = underLoad(8)
  link.send(link.a)
  link.run(10)
  link.wire = () => []
  link.run(60_000)
  for (const bytes of link.a.ofType(1).slice(1, 8)) link.inject(link.b, bytes)
  expect(link.b.device.status(link.now).drops.get('rate-limited')).toBe(2)
})
