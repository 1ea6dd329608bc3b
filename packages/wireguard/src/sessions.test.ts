import { instant } from '@meshwright/core'
import { nobleProvider } from '@meshwright/crypto'
import { describe, expect, test } from 'vitest'
import { ipv4, Link } from './link.test.ts'
import { Session, SessionSlots } from './session.ts'

describe('the three slots', () => {
  const make = (index: number, initiator: boolean): Session<string> => {
    const keys = { send: new Uint8Array(32).fill(index), receive: new Uint8Array(32).fill(index) }
    return new Session('peer', nobleProvider, keys, index, index, initiator, instant(0))
  }
  const setup = (): { slots: SessionSlots<string>; dropped: number[]; show: () => (number | undefined)[] } => {
    const dropped: number[] = []
    const slots = new SessionSlots<string>((session) => dropped.push(session.localIndex))
    return { slots, dropped, show: () => [slots.previous, slots.current, slots.next].map((session) => session?.localIndex) }
  }

  test('as initiator: current becomes previous, and the session before that is dropped with its keys', () => {
    const { slots, dropped, show } = setup()
    const sessions = [1, 2, 3].map((index) => make(index, true))
    for (const session of sessions) slots.installAsInitiator(session)
    expect([show(), dropped]).toEqual([[2, 3, undefined], [1]])
    expect(sessions.map((session) => session.alive)).toEqual([false, true, true])
  })

  test('as responder: current stays until the first packet on next', () => {
    const { slots, dropped, show } = setup()
    slots.installAsInitiator(make(1, true))
    const next = make(2, false)
    slots.installAsResponder(next)
    expect(show()).toEqual([undefined, 1, 2])
    expect([slots.confirm(next, true), slots.confirm(next, true)]).toEqual([true, false])
    expect([show(), dropped]).toEqual([[1, 2, undefined], []])
    slots.installAsResponder(make(3, false))
    slots.installAsResponder(make(4, false))
    expect([show(), dropped]).toEqual([[undefined, 2, 4], [1, 3]])
    slots.clear()
    expect([show(), slots.isEmpty, dropped]).toEqual([[undefined, undefined, undefined], true, [1, 3, 2, 4]])
  })

  test.each([
    [true, [2, 3, undefined]],
    [false, [3, 2, undefined]],
  ])('crossed: the session of the end with precedence (ours: %s) is sent on, the other one received', (ours, expected) => {
    const { slots, show } = setup()
    slots.installAsInitiator(make(1, true))
    const [theirs, own] = [make(2, false), make(3, true)]
    slots.installAsResponder(theirs)
    slots.installAsInitiator(own)
    expect(show()).toEqual([1, 3, 2])
    slots.confirm(theirs, ours)
    expect(show()).toEqual(expected)
    slots.heardOn(own)
    slots.heardOn(theirs)
    expect(show()).toEqual([2, 3, undefined]) // a peer that uses our session after all gets it
  })
})

test('a responder sends nothing on a new session before it is confirmed, and goes on with the old one', () => {
  const link = new Link(1)
  link.establish()
  link.run(120_100)
  let confirmations = 0
  link.wire = (from, bytes) => {
    if (from === link.a && bytes[0] === 4 && link.a.ofType(1).length === 2) {
      confirmations += 1
      return []
    }
    return [bytes]
  }
  link.send(link.a)
  link.run(50)
  const oldIndex = link.b.ofType(4).at(-1)?.subarray(4, 8)
  link.send(link.b, ipv4(40))
  expect(confirmations).toBeGreaterThan(0)
  expect(link.b.ofType(4).at(-1)?.subarray(4, 8)).toEqual(oldIndex ?? link.a.ofType(1)[0]?.subarray(4, 8))
  link.run(10)
  expect(link.a.delivered.at(-1)?.bytes).toHaveLength(40)
})

test('a handshake that is asked for makes a new session beside the old one; packets go on all the time', () => {
  const link = new Link(2)
  link.establish()
  const first = link.b.ofType(4).length + link.a.ofType(4).length
  expect(first).toBeGreaterThan(0)
  const indexOf = (): Uint8Array | undefined => link.a.ofType(4).at(-1)?.slice(4, 8)
  link.send(link.a)
  const before = indexOf()
  link.run(6_000)
  link.a.device.rekey(link.now, link.b.id)
  link.run(50)
  expect(link.a.ofType(1)).toHaveLength(2)
  link.send(link.a)
  link.run(10)
  expect(indexOf()).not.toEqual(before)
  // Not at once again: a second one waits until five seconds are over.
  for (let i = 0; i < 3; i += 1) link.a.device.rekey(link.now, link.b.id)
  link.run(50)
  expect(link.a.ofType(1)).toHaveLength(2)
})

test('without staged packets an empty one confirms the session', () => {
  const link = new Link(2)
  link.a.device.connect(link.now, link.b.id)
  link.run(10)
  expect(link.a.ofType(4).map((bytes) => bytes.length)).toEqual([32])
  expect(link.b.eventTypes()).toEqual(['established'])
  expect(link.b.delivered).toEqual([])
})

test('a session works at 179.9 s and neither sends nor receives after 180 s', () => {
  for (const [age, works] of [[179_900, true], [180_100, false]] as const) {
    const link = new Link(3)
    link.establish()
    const start = link.a.events[0]?.at ?? 0
    link.wire = (_from, bytes) => (bytes[0] === 4 ? [bytes] : [])
    link.run(start + age - link.now)
    link.send(link.b, ipv4(50))
    link.run(5)
    expect(link.a.delivered.length).toBe(works ? 1 : 0)
    expect(link.b.ofType(1)).toHaveLength(works ? 0 : 1)
  }
})

test('a packet that comes after its session is over is dropped', () => {
  const link = new Link(4)
  link.establish()
  link.run(170_000)
  link.wire = () => []
  link.send(link.b)
  const late = link.b.ofType(4).at(-1) ?? new Uint8Array(0)
  link.run(11_000)
  link.inject(link.a, late)
  expect(link.a.delivered).toEqual([])
  expect(link.a.device.status(link.now).drops.get('session-expired')).toBe(1)
})

test('a session takes packets until it is 180 s old, and not a millisecond longer; it sends none from then on', () => {
  for (const [age, received, sent] of [[179_999, 1, 1], [180_000, 1, 0], [180_001, 0, 0]] as const) {
    const link = new Link(4)
    link.establish()
    const start = link.a.events[0]?.at ?? 0
    link.wire = () => []
    link.send(link.b)
    const late = link.b.ofType(4).at(-1) ?? new Uint8Array(0)
    link.run(start + age - link.now)
    link.inject(link.a, late)
    expect([age, link.a.delivered.length]).toEqual([age, received])
    const before = link.a.ofType(4).length
    link.send(link.a, ipv4(90))
    expect([age, link.a.ofType(4).length - before]).toEqual([age, sent])
  }
})

test('after the message limit for renewal a handshake begins, and the last message number is never used', () => {
  const link = new Link(5, { a: { limits: { rekeyAfterMessages: 10n, rejectAfterMessages: 20n } } })
  link.establish()
  link.run(6_000)
  link.wire = (_from, bytes) => (bytes[0] === 4 ? [bytes] : [])
  for (let i = 0; i < 9; i += 1) link.send(link.a)
  expect(link.a.ofType(1)).toHaveLength(1)
  link.send(link.a)
  expect(link.a.ofType(1)).toHaveLength(2)
  for (let i = 0; i < 20; i += 1) link.send(link.a)
  const counters = link.a.ofType(4).map((bytes) => bytes[8])
  expect(counters).toEqual(Array.from({ length: 20 }, (_, i) => i))
  expect(link.a.device.peerStatus(link.now, link.b.id)?.stagedPackets).toBe(11)
  link.wire = (_from, bytes) => [bytes]
  link.run(6_000)
  expect(link.b.delivered).toHaveLength(31)
})

test('a removed peer leaves no timer, no index and no packet; added again it starts afresh', () => {
  const link = new Link(6)
  link.establish()
  link.wire = () => []
  link.send(link.b)
  const late = link.b.ofType(4).at(-1) ?? new Uint8Array(0)
  expect(link.a.device.removePeer(link.now, link.b.id)).toBe(true)
  expect(link.a.device.removePeer(link.now, link.b.id)).toBe(false)
  expect(link.a.device.pollTimeout()).toBeUndefined()
  link.inject(link.a, late)
  expect(link.a.delivered).toEqual([])
  expect(link.a.device.status(link.now).drops.get('unknown-index')).toBe(1)
  link.a.device.setPeer(link.now, { publicKey: link.b.id, path: link.b.path })
  link.wire = (_from, bytes) => [bytes]
  link.run(6_000)
  link.send(link.a)
  link.run(10)
  expect(link.b.delivered).toHaveLength(2)
})

test('a reset peer has no sessions, but its old initiations stay replays', () => {
  const link = new Link(7)
  link.establish()
  const old = link.a.ofType(1)[0] ?? new Uint8Array(0)
  link.b.device.resetPeer(link.now, link.a.id)
  link.collect()
  expect(link.b.eventTypes()).toEqual(['established', 'expired'])
  link.run(100)
  link.inject(link.b, old)
  expect(link.b.ofType(2)).toHaveLength(1)
  link.send(link.b)
  link.run(10)
  expect(link.a.delivered).toHaveLength(1)
})

test('128 packets wait for a session, the oldest give way, and they come in order', () => {
  const link = new Link(8)
  for (let i = 0; i < 130; i += 1) link.send(link.a, ipv4(21, i))
  link.run(10)
  expect(link.b.delivered.map((each) => each.bytes[20])).toEqual(Array.from({ length: 128 }, (_, i) => i + 2))
  expect(link.a.ofType(4).every((bytes) => bytes.length === 64)).toBe(true)
})

test('a preshared key that changes is used from the next handshake on', () => {
  const link = new Link(9)
  link.establish()
  const presharedKey = new Uint8Array(32).fill(3)
  link.a.device.setPeer(link.now, { publicKey: link.b.id, presharedKey })
  link.b.device.setPeer(link.now, { publicKey: link.a.id, presharedKey })
  link.send(link.a)
  link.run(121_000)
  link.send(link.a)
  link.run(20)
  link.send(link.a)
  link.run(20)
  expect(link.b.delivered).toHaveLength(4)
  expect(link.a.eventTypes()).toEqual(['established', 'established'])
})

test('message numbers go on behind 2^32, and none is given twice', () => {
  const keys = { send: new Uint8Array(32).fill(1), receive: new Uint8Array(32).fill(2) }
  const session = new Session('peer', nobleProvider, keys, 1, 2, true, instant(0))
  const given: bigint[] = []
  for (const count of [1, 2 ** 32 - 2, 1, 1, 2 ** 32 - 1, 3]) {
    given.push(session.sendCounter)
    session.advance(count)
  }
  expect(given).toEqual([0n, 1n, (1n << 32n) - 1n, 1n << 32n, (1n << 32n) + 1n, 1n << 33n])
  expect(session.sendCounter).toBe((1n << 33n) + 3n)
  expect(session.messagesBefore(2, 10)).toBe(7)
})
