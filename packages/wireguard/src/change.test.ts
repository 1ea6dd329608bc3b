import { NodePrivateKey } from '@meshwright/crypto'
import { expect, test } from 'vitest'
import type { PeerConfig } from './index.ts'
import { ipv4, Link, path } from './link.test.ts'

const strangers = (link: Link, count: number): PeerConfig[] =>
  Array.from({ length: count }, (_, i) => ({ publicKey: NodePrivateKey.generate(link.random.bytes).publicKey(), path: path(`s${i}`, 100 + i) }))

/** Both send a packet every 5 ms for `ms`; gives how many arrived of those of each, all in order and none twice. */
function chatter(link: Link, ms: number, change: (at: number) => void): { readonly sent: number; readonly byA: number; readonly byB: number } {
  const before = [link.a.delivered.length, link.b.delivered.length] as const
  let sent = 0
  for (let at = 0; at < ms; at += 5) {
    change(at)
    link.collect()
    link.send(link.a, ipv4(22, sent & 255))
    link.send(link.b, ipv4(22, sent & 255))
    sent += 1
    link.run(5)
  }
  link.run(100)
  for (const [i, node] of [link.a, link.b].entries()) {
    const marks = node.delivered.slice(before[i]).map((each) => each.bytes[21])
    expect(marks).toEqual(Array.from({ length: sent }, (_, n) => n & 255))
  }
  return { sent, byA: link.a.delivered.length - before[0], byB: link.b.delivered.length - before[1] }
}

test('peers are replaced, added, removed and given other keys and intervals under traffic, and no packet of a session is lost', () => {
  const link = new Link(31)
  link.establish()
  const others = strangers(link, 40)
  const a = link.a.device
  const keep = { publicKey: link.b.id }
  const result = chatter(link, 2_000, (at) => {
    if (at === 100) a.replacePeers(link.now, [...others, keep])
    if (at === 300) a.replacePeers(link.now, [keep])
    if (at === 500) a.replacePeers(link.now, [{ ...keep, presharedKey: new Uint8Array(32).fill(5), persistentKeepaliveSeconds: 1 }, ...others.slice(0, 3)])
    if (at === 700) for (const other of others) a.setPeer(link.now, other)
    if (at === 900) for (const other of others) a.removePeer(link.now, other.publicKey)
    if (at === 1_100) a.setMtu(1_280)
    if (at === 1_300) link.b.device.setPeer(link.now, { publicKey: link.a.id, presharedKey: new Uint8Array(32).fill(5) })
  })
  expect(result).toEqual({ sent: 400, byA: 400, byB: 400 })
  expect([a.peerKeys().map(String), link.a.eventTypes().filter((type) => type === 'established')]).toEqual([[String(link.b.id)], ['established']])
  // The new preshared key is what the next handshake goes by.
  link.run(121_000)
  expect(chatter(link, 100, () => undefined).byB).toBe(20)
  expect(link.a.device.peerStatus(link.now, link.b.id)?.handshakesCompleted).toBe(2)
})

test('a key is rotated under traffic: prepared at the peer, changed, moved over, and no packet is lost', () => {
  const link = new Link(32)
  link.establish()
  const oldKey = link.a.id
  const newKey = NodePrivateKey.generate(link.random.bytes)
  link.b.device.setPeer(link.now, { publicKey: newKey.publicKey(), path: link.a.path })
  const [byA, byB] = [link.a.delivered.length, link.b.delivered.length]
  let current = oldKey
  for (let at = 0; at < 600; at += 5) {
    if (at === 200) link.a.device.setPrivateKey(link.now, newKey)
    if (at === 250) current = newKey.publicKey() // B moves the routes to the new key: what it sent before still opens
    if (at === 400) link.b.device.removePeer(link.now, oldKey)
    link.send(link.a, ipv4(22, at & 255))
    link.b.device.handleInput(link.now, { type: 'packet', peer: current, bytes: ipv4(22, at & 255) })
    link.collect()
    link.run(5)
  }
  link.run(100)
  expect([link.a.delivered.length - byA, link.b.delivered.length - byB]).toEqual([120, 120])
})

test('whoever is replaced is wiped, what a config leaves out is off, and a refused config changes nothing', () => {
  const link = new Link(33, { a: { maxPeers: 3 } })
  link.establish()
  const [first, second, third, fourth] = strangers(link, 4)
  if (first === undefined || second === undefined || third === undefined || fourth === undefined) throw new Error('four are needed')
  const a = link.a.device
  a.setPeer(link.now, { publicKey: link.b.id, presharedKey: new Uint8Array(32).fill(1), persistentKeepaliveSeconds: 9 })
  expect(() => a.replacePeers(link.now, [first, second, third, fourth])).toThrow(/3 peers/)
  expect(() => a.replacePeers(link.now, [{ publicKey: first.publicKey, persistentKeepaliveSeconds: -1 }])).toThrow(/keepalive/)
  expect(a.peerKeys().map(String)).toEqual([String(link.b.id)])
  a.replacePeers(link.now, [first, { publicKey: link.b.id }])
  expect(a.peerStatus(link.now, link.b.id)).toMatchObject({ state: 'established', hasPresharedKey: false, persistentKeepaliveSeconds: 0, path: { id: 'b' } })
  a.replacePeers(link.now, [second])
  expect(a.status(link.now).tables.indices).toBe(0)
  link.send(link.b)
  link.run(10)
  expect(a.status(link.now).drops.get('unknown-index')).toBe(1)
})

test('a new address for a peer that does not answer is asked at once, and not every address waits five seconds', () => {
  const link = new Link(34)
  const a = link.a.device
  a.setPeer(link.now, { publicKey: link.b.id, path: path('nowhere', 66) })
  link.send(link.a)
  link.run(1_000)
  expect(link.b.delivered).toEqual([])
  a.setPeer(link.now, { publicKey: link.b.id, path: path('nowhere', 66) })
  link.collect()
  expect(link.a.ofType(1), 'the same address again is no news').toHaveLength(1)
  a.setPeer(link.now, { publicKey: link.b.id, path: link.b.path })
  link.run(10)
  expect(link.a.ofType(1)).toHaveLength(2)
  expect(link.b.delivered).toHaveLength(1)
})

test('every retry of a handshake is told before it is sent, so that a name can be resolved again; success ends it', () => {
  const link = new Link(35)
  link.wire = () => []
  link.send(link.a)
  link.run(11_000)
  const retries = link.a.events.filter((event) => event.type === 'handshakeRetry')
  expect(retries.map((event) => [event.attempt, event.at])).toEqual(link.a.times(1).slice(1).map((at, i) => [i + 1, at]))
  link.wire = (_from, bytes) => [bytes]
  link.run(200_000)
  expect(link.a.events.filter((event) => event.type === 'handshakeRetry')).toHaveLength(3)
})
