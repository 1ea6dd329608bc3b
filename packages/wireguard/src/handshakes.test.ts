import { concatBytes } from '@meshwright/core'
import { NodePublicKey } from '@meshwright/crypto'
import { expect, test } from 'vitest'
import { ipv4, Link } from './link.test.ts'

const LOW_ORDER = '0000000000000000000000000000000000000000000000000000000000000000'

function dropsOf(link: Link, node: 'a' | 'b'): Record<string, number> {
  return Object.fromEntries(link[node].device.status(link.now).drops)
}

test('a preshared key on both ends makes a session', () => {
  const link = new Link(1, { psk: new Uint8Array(32).fill(9) })
  link.establish()
  expect(link.b.delivered).toHaveLength(1)
})

test('a response under the wrong preshared key is dropped, and the genuine one is still accepted', () => {
  const link = new Link(2, { psk: new Uint8Array(32).fill(9) })
  link.wire = (from, bytes) => (from === link.b ? [] : [bytes])
  link.b.device.setPeer(link.now, { publicKey: link.a.id, presharedKey: new Uint8Array(32).fill(8) })
  link.send(link.a)
  link.run(30)
  const wrong = link.b.ofType(2)[0]
  const initiation = link.a.ofType(1)[0]
  if (wrong === undefined || initiation === undefined) throw new Error('no handshake')
  link.inject(link.a, wrong)
  expect(link.a.eventTypes()).toEqual([])
  expect(dropsOf(link, 'a')).toEqual({ 'handshake-auth': 1 })
  link.b.device.resetPeer(link.now, link.a.id)
  const genuine = new Link(2, { psk: new Uint8Array(32).fill(9) }) // the same seed: the same keys, ephemerals and time
  genuine.send(genuine.a)
  genuine.run(30)
  expect(genuine.a.ofType(1)[0]).toEqual(initiation)
  link.inject(link.a, genuine.b.ofType(2)[0] ?? new Uint8Array(0))
  expect(link.a.eventTypes()).toEqual(['established'])
})

test('an initiation from an unknown key, a repeated one, and one of an old timestamp get no answer', () => {
  const link = new Link(3)
  const stranger = new Link(4)
  stranger.b.device.setPrivateKey(stranger.now, link.b.key)
  stranger.a.device.setPeer(stranger.now, { publicKey: link.b.id, path: link.b.path })
  stranger.a.device.handleInput(stranger.now, { type: 'packet', peer: link.b.id, bytes: ipv4() })
  stranger.collect()
  link.inject(link.b, stranger.a.ofType(1)[0] ?? new Uint8Array(0))
  expect(dropsOf(link, 'b')).toEqual({ 'unknown-peer': 1 })
  link.wire = () => []
  link.send(link.a)
  link.run(6_000)
  const [first, second] = link.a.ofType(1)
  if (first === undefined || second === undefined) throw new Error('no initiations')
  link.inject(link.b, second)
  link.run(30)
  link.inject(link.b, second)
  link.inject(link.b, first)
  expect(link.b.ofType(2)).toHaveLength(1)
  expect(dropsOf(link, 'b')).toEqual({ 'unknown-peer': 1, 'initiation-replay': 2 })
})

test('initiations less than 20 ms apart are a flood, 20 ms apart they are answered', () => {
  const link = new Link(5)
  link.wire = () => []
  link.send(link.a)
  link.run(12_000)
  const [first, second, third] = link.a.ofType(1)
  if (first === undefined || second === undefined || third === undefined) throw new Error('no initiations')
  link.inject(link.b, first)
  link.run(19)
  link.inject(link.b, second)
  expect(dropsOf(link, 'b')).toEqual({ 'initiation-flood': 1 })
  link.run(1)
  link.inject(link.b, third)
  expect(link.b.ofType(2)).toHaveLength(2)
})

test('a response is taken once, and only by the initiation that it answers', () => {
  const link = new Link(6)
  link.wire = (from, bytes) => (from === link.b ? [] : [bytes])
  link.send(link.a)
  link.run(6_000)
  const [late, right] = link.b.ofType(2)
  if (late === undefined || right === undefined) throw new Error('no responses')
  link.inject(link.a, late)
  expect(link.a.eventTypes()).not.toContain('established')
  link.inject(link.a, right)
  link.inject(link.a, right)
  expect(link.a.eventTypes().filter((type) => type === 'established')).toHaveLength(1)
  expect(dropsOf(link, 'a')).toEqual({ 'unknown-index': 2 })
})

test('no flipped bit of an initiation or a response gets any output', { timeout: 60_000 }, () => {
  const link = new Link(7)
  link.wire = () => []
  link.send(link.a)
  const initiation = link.a.ofType(1)[0] ?? new Uint8Array(0)
  const outputs = (): number => link.a.sent.length + link.b.sent.length + link.a.events.length + link.b.events.length
  const before = outputs()
  const flip = (bytes: Uint8Array, bit: number): Uint8Array => bytes.map((byte, i) => (i === bit >> 3 ? byte ^ (1 << (bit & 7)) : byte))
  for (let bit = 0; bit < 132 * 8; bit += 1) link.inject(link.b, flip(initiation, bit)) // mac2 is not looked at when not under load
  expect(outputs()).toBe(before)
  link.inject(link.b, initiation)
  const response = link.b.ofType(2)[0] ?? new Uint8Array(0)
  const answered = outputs()
  for (let bit = 0; bit < 76 * 8; bit += 1) link.inject(link.a, flip(response, bit))
  expect(outputs()).toBe(answered)
  link.inject(link.a, response)
  expect(link.a.eventTypes()).toEqual(['established'])
})

test('only exact lengths and zero reserved bytes are messages', () => {
  const link = new Link(8)
  for (const type of [0, 1, 2, 3, 5, 255]) {
    for (let length = 0; length <= 200; length += 1) {
      if ((type === 1 && length === 148) || (type === 2 && length === 92) || (type === 3 && length === 64)) continue
      const bytes = new Uint8Array(length)
      if (length > 0) bytes[0] = type
      link.inject(link.b, bytes)
    }
  }
  link.send(link.a)
  const initiation = link.a.ofType(1)[0] ?? new Uint8Array(0)
  const before = dropsOf(link, 'b').malformed ?? 0
  for (const at of [1, 2, 3]) link.inject(link.b, initiation.map((byte, i) => (i === at ? 1 : byte)))
  expect(Object.keys(dropsOf(link, 'b'))).toEqual(['malformed'])
  expect(dropsOf(link, 'b').malformed).toBe(before + 3)
})

test('a peer with a low-order key is never called, our own key is no peer, and no key is silent', () => {
  const link = new Link(9)
  const low = NodePublicKey.parse(`nodekey:${LOW_ORDER}`)
  if (low === undefined) throw new Error('no key')
  link.a.device.setPeer(link.now, { publicKey: low, path: link.b.path })
  link.a.device.handleInput(link.now, { type: 'packet', peer: low, bytes: ipv4() })
  link.collect()
  expect(link.a.sent).toEqual([])
  expect(link.a.device.setPeer(link.now, { publicKey: link.a.id })).toBe(false)
  link.a.device.setPrivateKey(link.now, undefined)
  link.send(link.a)
  link.send(link.b)
  link.run(10)
  expect(link.a.sent).toEqual([])
})

test('keys are compared as bytes: the same point with the high bit set is another peer', () => {
  const link = new Link(10)
  const twin = NodePublicKey.fromBytes(link.a.id.bytes.map((byte, i) => (i === 31 ? byte | 0x80 : byte)))
  if (twin === undefined) throw new Error('no key')
  link.b.device.removePeer(link.now, link.a.id)
  link.b.device.setPeer(link.now, { publicKey: twin, path: link.a.path })
  link.send(link.a)
  link.run(10)
  expect(link.b.ofType(2)).toEqual([])
})

test('an index that is in use is not given out again', () => {
  const fixed = Uint8Array.of(1, 0, 0, 0)
  const link = new Link(11)
  let forced = 3
  const random = (length: number): Uint8Array => (length === 4 && forced-- > 0 ? Uint8Array.from(fixed) : link.random.bytes(length))
  const forcedLink = new Link(11, { a: { random } })
  forcedLink.wire = () => []
  forcedLink.send(forcedLink.a)
  const other = new Link(12)
  forcedLink.a.device.setPeer(forcedLink.now, { publicKey: other.b.id, path: forcedLink.b.path })
  forcedLink.a.device.handleInput(forcedLink.now, { type: 'packet', peer: other.b.id, bytes: ipv4() })
  forcedLink.collect()
  const indices = forcedLink.a.ofType(1).map((bytes) => bytes.subarray(4, 8).join())
  expect(indices).toHaveLength(2)
  expect(indices[0]).toBe('1,0,0,0')
  expect(indices[1]).not.toBe('1,0,0,0')
})

test('crossing initiations end in a session after one round trip, and data flows both ways', () => {
  const link = new Link(13)
  link.delayMs = () => 50
  link.send(link.a, ipv4(30, 1))
  link.send(link.b, ipv4(30, 2))
  link.run(160)
  expect(link.b.delivered.map((each) => each.bytes[29])).toEqual([1])
  expect(link.a.delivered.map((each) => each.bytes[29])).toEqual([2])
  for (let i = 0; i < 5; i += 1) {
    link.send(link.a)
    link.send(link.b)
    link.run(60)
  }
  expect([link.a.delivered.length, link.b.delivered.length]).toEqual([6, 6])
  expect(link.a.ofType(1).length + link.b.ofType(1).length).toBe(2)
})

test('crossing initiations over a bad network always converge', { timeout: 60_000 }, () => {
  for (let seed = 100; seed < 130; seed += 1) {
    const link = new Link(seed)
    link.delayMs = () => 1 + link.random.below(120)
    link.wire = (_from, bytes) => (link.random.chance(0.2) ? [] : [bytes])
    link.send(link.a)
    link.run(link.random.below(100))
    link.send(link.b)
    link.run(60_000)
    link.wire = (_from, bytes) => [bytes]
    link.send(link.a) // may still be on a session whose confirmation was lost
    link.send(link.b)
    link.run(25_000)
    link.send(link.a, ipv4(40, 3))
    link.send(link.b, ipv4(40, 4))
    link.run(1_000)
    expect(link.b.delivered.some((each) => each.bytes.length === 40)).toBe(true)
    expect(link.a.delivered.some((each) => each.bytes.length === 40)).toBe(true)
  }
})

test('two ends that began at once settle on one session, and renew it every two minutes without losing a packet', () => {
  const link = new Link(14)
  link.delayMs = () => 20
  for (let i = 0; i < 4_000; i += 1) {
    link.send(link.a)
    link.send(link.b)
    link.run(100)
  }
  expect([link.a.delivered.length, link.b.delivered.length]).toEqual([4_000, 4_000])
  expect([link.a.ofType(1).length, link.b.ofType(1).length].toSorted()).toEqual([1, 4])
})

test('a renewal that both ends begin at once loses no packet', () => {
  const limits = { rekeyAfterMessages: 20n } // the one rule by which both ends renew
  const link = new Link(20, { both: { limits } })
  link.delayMs = () => 20
  link.establish()
  link.run(6_000)
  for (let i = 0; i < 300; i += 1) {
    link.send(link.a)
    link.send(link.b)
    link.run(7)
  }
  link.run(100)
  expect([link.a.delivered.length, link.b.delivered.length]).toEqual([300, 301])
  expect(Math.min(link.a.ofType(1).length, link.b.ofType(1).length)).toBeGreaterThan(0)
})

test('an initiation that is held back for 5 seconds after a response is sent when they are over', () => {
  const link = new Link(15)
  link.wire = (from, bytes) => (from === link.b ? [] : [bytes])
  link.send(link.a) // b answers; the answer is lost, so b has no session and may not call for 5 seconds
  link.run(10)
  const answeredAt = link.b.times(2)[0] ?? 0
  link.wire = () => []
  link.send(link.b)
  expect(link.b.times(1)).toEqual([])
  link.run(6_000)
  const [at = 0] = link.b.times(1)
  expect(at - answeredAt).toBeGreaterThanOrEqual(5_000)
  expect(at - answeredAt).toBeLessThanOrEqual(5_333)
})

test('timestamps never repeat or go back, also when the wall clock does', () => {
  let wall = 1_700_000_000_000
  const link = new Link(16, { a: { wallClock: () => wall } })
  link.wire = (from, bytes) => (from === link.b ? [] : [bytes])
  link.send(link.a)
  link.run(5_400)
  wall -= 3_600_000
  link.run(6_000)
  expect(link.b.ofType(2)).toHaveLength(3)
})

test('a private key change sends a new handshake for the next packet, while the old session still receives', () => {
  const link = new Link(17)
  link.establish()
  const renewed = new Link(18)
  link.b.device.setPeer(link.now, { publicKey: renewed.a.id, path: link.a.path })
  link.a.device.setPrivateKey(link.now, renewed.a.key)
  link.send(link.b, ipv4(33))
  link.run(20)
  expect(link.a.delivered.at(-1)?.bytes).toHaveLength(33)
  const before = link.a.ofType(1).length
  link.send(link.a, ipv4(34))
  link.run(20)
  expect(link.a.ofType(1)).toHaveLength(before + 1)
  expect(link.b.delivered.at(-1)?.bytes).toHaveLength(34)
  expect(link.b.delivered.at(-1)?.from.equals(renewed.a.id)).toBe(true)
  link.a.device.setPrivateKey(link.now, renewed.a.key)
  link.send(link.a)
  link.run(20)
  expect(link.a.ofType(1)).toHaveLength(before + 1)
  link.a.device.setPrivateKey(link.now, link.b.key)
  expect(link.a.device.hasPeer(link.b.id)).toBe(false)
})

test('what is said in a handshake is not repeated in the messages around it', () => {
  const link = new Link(19)
  link.establish()
  const all = concatBytes(...link.a.sent.map((each) => each.bytes), ...link.b.sent.map((each) => each.bytes))
  expect(Buffer.from(all).includes(Buffer.from(link.a.id.bytes))).toBe(false)
  expect(Buffer.from(all).includes(Buffer.from(link.b.id.bytes))).toBe(false)
})
