import { DONE, DROPPED, PacketBatch } from '@meshwright/core'
import { nobleProvider } from '@meshwright/crypto'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { markCongestion, outerTrafficClass, REPLAY_WINDOW, ReplayWindow, WireGuardDevice, WireGuardError } from './index.ts'
import { ipv4, Link, type Node, path } from './link.test.ts'
import { innerLength, paddedLength } from './padding.ts'

function drops(link: Link, node: Node): Record<string, number> {
  return Object.fromEntries(node.device.status(link.now).drops)
}

// A device whose packets carry any plaintext: seals by hand with keys that a recording provider has seen.
function forging(seed: number): { readonly link: Link; forge(counter: bigint, plaintext: Uint8Array): Uint8Array } {
  const keys: Uint8Array[] = []
  const provider = {
    ...nobleProvider,
    keySlot: (key: Uint8Array) => {
      keys.push(Uint8Array.from(key))
      return nobleProvider.keySlot(key)
    },
  }
  const link = new Link(seed, { a: { provider } })
  link.establish()
  const index = link.a.ofType(4)[0]?.subarray(4, 8) ?? new Uint8Array(4)
  const [sendKey = new Uint8Array(32)] = keys
  return {
    link,
    forge(counter, plaintext) {
      const datagram = new Uint8Array(16 + plaintext.length + 16)
      datagram[0] = 4
      datagram.set(index, 4)
      new DataView(datagram.buffer).setBigUint64(8, counter, true)
      const nonce = new Uint8Array(12)
      nonce.set(datagram.subarray(8, 16), 4)
      datagram.set(nobleProvider.aeadSeal(sendKey, nonce, plaintext), 16)
      return datagram
    },
  }
}

test('packets are padded to 16 but never past the MTU', () => {
  for (const [mtu, length, padded] of [[1420, 1409, 1420], [1420, 1408, 1408], [1420, 1420, 1420], [1280, 21, 32], [9000, 8999, 9000], [0, 1409, 1424]] as const) {
    const link = new Link(1, { both: { mtu } })
    link.establish()
    link.send(link.a, ipv4(length))
    link.run(5)
    expect(link.a.ofType(4).at(-1)).toHaveLength(padded + 32)
    expect(link.b.delivered.at(-1)?.bytes).toEqual(ipv4(length))
  }
})

test('padding is the least multiple of 16 that fits, for every length and MTU', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 9000 }), fc.integer({ min: 576, max: 9000 }), (length, mtu) => {
      const padded = paddedLength(length, mtu)
      expect(padded).toBeGreaterThanOrEqual(length)
      expect(padded - length).toBeLessThan(16)
      if (length <= mtu) expect(padded).toBeLessThanOrEqual(mtu)
      expect(padded % 16 === 0 || padded % mtu === 0 || length > mtu).toBe(true)
    }),
  )
})

test('unpadded and over-padded packets are trimmed to their IP length', () => {
  const { link, forge } = forging(2)
  link.inject(link.b, forge(10n, ipv4(33)))
  const over = new Uint8Array(500)
  over.set(ipv4(33))
  link.inject(link.b, forge(11n, over))
  expect(link.b.delivered.slice(1).map((each) => each.bytes)).toEqual([ipv4(33), ipv4(33)])
})

test('packets that lie about their length are dropped, but what their authenticity implies stays', () => {
  const { link, forge } = forging(3)
  const v6 = new Uint8Array(48)
  v6[0] = 0x60
  v6[5] = 9
  const lies = [ipv4(40).subarray(0, 39), ipv4(21).subarray(0, 19), v6, Uint8Array.from({ length: 64 }, () => 0x50), Uint8Array.of(0x45), v6.subarray(0, 39)]
  lies.forEach((plaintext, i) => link.inject(link.b, forge(BigInt(20 + i), plaintext), path('moved', 8)))
  expect(link.b.delivered).toHaveLength(1)
  expect(drops(link, link.b)).toEqual({ 'inner-malformed': lies.length })
  expect(link.b.device.pathOf(link.a.id)?.id).toBe('moved')
  v6[5] = 8
  link.inject(link.b, forge(40n, v6))
  expect(link.b.delivered.at(-1)?.bytes).toEqual(v6)
})

test('a keepalive is 32 bytes and is never delivered', () => {
  const link = new Link(4)
  link.establish()
  link.a.device.sendKeepalive(link.now, link.b.id)
  link.run(5)
  expect(link.a.ofType(4).at(-1)).toHaveLength(32)
  expect(link.b.delivered).toHaveLength(1)
})

test('a packet with any byte changed is dropped and moves neither window nor path', () => {
  const link = new Link(5)
  link.establish()
  link.wire = () => []
  link.send(link.a, ipv4(30, 5))
  const genuine = link.a.ofType(4).at(-1) ?? new Uint8Array(0)
  for (let at = 0; at < genuine.length; at += 1) link.inject(link.b, genuine.map((byte, i) => (i === at ? byte ^ 0x40 : byte)), path('attacker', 66))
  expect(link.b.delivered).toHaveLength(1)
  expect(link.b.device.pathOf(link.a.id)?.id).toBe('a')
  link.inject(link.b, genuine)
  expect(link.b.delivered).toHaveLength(2)
  link.inject(link.b, genuine, path('replayer', 67))
  expect(link.b.delivered).toHaveLength(2)
  expect(link.b.device.pathOf(link.a.id)?.id).toBe('a')
})

test('message numbers beyond 2^53 are exact, and the limit is never accepted', () => {
  const { link, forge } = forging(6)
  const limit = (1n << 64n) - (1n << 13n) - 1n
  const counters = [(1n << 32n) - 1n, 1n << 32n, (1n << 53n) + 1n, (1n << 53n) + 2n, 1n << 60n, limit - 1n]
  for (const counter of counters) for (const copy of [1, 2]) link.inject(link.b, forge(counter, ipv4(21, copy)))
  expect(link.b.delivered).toHaveLength(1 + counters.length)
  link.inject(link.b, forge(limit, ipv4()))
  link.inject(link.b, forge((1n << 64n) - 1n, ipv4()))
  expect(link.b.delivered).toHaveLength(1 + counters.length)
  expect(drops(link, link.b)).toEqual({ 'packet-replay': counters.length, 'session-expired': 2 })
})

test('the window accepts what a list of all numbers would', () => {
  const U32 = 0x1_0000_0000
  const steps = fc.array(fc.oneof(fc.integer({ min: -9_000, max: 40 }), fc.integer({ min: 0, max: 9_000 }), fc.constant(2 ** 40)), { minLength: 1, maxLength: 300 })
  fc.assert(
    fc.property(steps, (jumps) => {
      const window = new ReplayWindow()
      const seen = new Set<number>()
      let top = 0
      for (const jump of jumps) {
        const n = Math.max(0, top + jump)
        const expected = !seen.has(n) && top - n <= REPLAY_WINDOW
        expect(window.wouldAccept(n % U32, Math.floor(n / U32))).toBe(expected)
        expect(window.accept(n % U32, Math.floor(n / U32))).toBe(expected)
        if (expected) seen.add(n)
        top = Math.max(top, expected ? n : top)
      }
    }),
    { numRuns: 60 },
  )
})

test('over a network that loses, reorders and duplicates, every packet arrives at most once', () => {
  const link = new Link(7)
  link.establish()
  link.delayMs = () => 1 + link.random.below(200)
  link.wire = (_from, bytes) => (link.random.chance(0.1) ? [] : link.random.chance(0.2) ? [bytes, bytes] : [bytes])
  for (let i = 0; i < 500; i += 1) {
    const packet = ipv4(24)
    packet.set([i >> 8, i & 255], 20)
    link.send(link.a, packet)
    link.run(3)
  }
  link.run(1_000)
  const arrived = link.b.delivered.slice(1).map((each) => (each.bytes[20] ?? 0) * 256 + (each.bytes[21] ?? 0))
  expect(new Set(arrived).size).toBe(arrived.length)
  expect(arrived.length).toBeGreaterThan(400)
})

test('the inner length is found in IPv4 and IPv6 headers only', () => {
  expect(innerLength(ipv4(40), 0, 40)).toBe(40)
  expect(innerLength(new Uint8Array(60), 0, 60)).toBe(-1)
})

test('a batch is sealed and opened in place, with the same bytes as one packet at a time', () => {
  const [one, many] = [new Link(8), new Link(8)]
  one.establish()
  many.establish()
  const packets = Array.from({ length: 8 }, (_, i) => ipv4(21 + i * 150, i))
  one.wire = () => []
  const before = one.a.sent.length
  for (const packet of packets) one.send(one.a, packet)
  const batch = PacketBatch.slab(8, 1500)
  for (const packet of packets) batch.addCopy(packet)
  expect(many.a.device.seal(many.now, many.b.id, batch)).toBe(8)
  const datagrams = packets.map((_, i) => Uint8Array.from(batch.result(i)))
  expect(datagrams).toEqual(one.a.sent.slice(before).map((each) => each.bytes))
  expect(many.a.device.pathOf(many.b.id)?.id).toBe('b')

  const received = new PacketBatch(batch.memory, 8)
  packets.forEach((_, i) => received.addSlot(batch.target[i] ?? 0, batch.targetLength[i] ?? 0))
  const plan = many.b.device.open(many.now, many.a.path, received)
  packets.forEach((packet, i) => {
    expect(received.verdict[i]).toBe(DONE)
    expect(plan.peerOf(i)?.equals(many.a.id)).toBe(true)
    expect(received.result(i)).toEqual(packet)
  })
})

test('a batch may hold anything: handshakes are handled, keepalives, repeats and noise are dropped', () => {
  const link = new Link(9)
  link.wire = () => []
  link.send(link.a)
  const batch = PacketBatch.slab(4, 1500)
  batch.addCopy(link.a.ofType(1)[0] ?? new Uint8Array(0))
  batch.addCopy(new Uint8Array(100).fill(4))
  batch.addCopy(new Uint8Array(3))
  link.b.device.open(link.now, link.a.path, batch)
  link.collect()
  expect([batch.verdict[0], batch.verdict[1], batch.verdict[2]]).toEqual([DROPPED, DROPPED, DROPPED])
  link.inject(link.a, link.b.ofType(2)[0] ?? new Uint8Array(0))
  const data = link.a.ofType(4)[0] ?? new Uint8Array(0)
  batch.reset()
  for (const bytes of [data, data, new Uint8Array(0)]) batch.addCopy(bytes)
  const plan = link.b.device.open(link.now, link.a.path, batch)
  expect([batch.verdict[0], batch.verdict[1], batch.verdict[2]]).toEqual([DONE, DROPPED, DROPPED])
  expect([plan.peerOf(0)?.equals(link.a.id), plan.peerOf(1)]).toEqual([true, undefined])
})

test.each(['before', 'after'])('what is being opened while its peer is removed does not come out: %s it is deciphered', (when) => {
  const link = new Link(12)
  link.establish()
  link.wire = () => []
  link.send(link.a, ipv4(40))
  const batch = PacketBatch.slab(1, 1500)
  batch.addCopy(link.a.ofType(4).at(-1) ?? new Uint8Array(0))
  const plan = link.b.device.openPlan(1)
  link.b.device.prepareOpen(link.now, batch, plan)
  if (when === 'before') link.b.device.removePeer(link.now, link.a.id)
  link.b.device.cryptOpen(batch, plan)
  if (when === 'after') link.b.device.removePeer(link.now, link.a.id)
  expect(link.b.device.commitOpen(link.now, link.a.path, batch, plan)).toBe(0)
  expect(batch.verdict[0]).toBe(DROPPED)
})

test('a batch without session is staged, and comes out when there is one', () => {
  const link = new Link(10)
  const batch = PacketBatch.slab(3, 1500)
  for (let i = 0; i < 3; i += 1) batch.addCopy(ipv4(30, i))
  expect(link.a.device.seal(link.now, link.b.id, batch)).toBe(0)
  link.run(10)
  expect(link.b.delivered.map((each) => each.bytes[29])).toEqual([0, 1, 2])
})

test('the three steps can run apart, also when the session goes away between them', () => {
  const link = new Link(11)
  link.establish()
  const batch = PacketBatch.slab(2, 1500)
  batch.addCopy(ipv4(30))
  const plan = link.a.device.sealPlan()
  link.a.device.prepareSeal(link.now, link.b.id, batch, plan)
  link.a.device.removePeer(link.now, link.b.id)
  link.a.device.cryptSeal(batch, plan)
  expect(link.a.device.commitSeal(link.now, batch, plan)).toBe(0)
  expect(batch.verdict[0]).toBe(DROPPED)
})

test('slots without room for header, padding or tag are dropped', () => {
  const link = new Link(12)
  link.establish()
  const batch = new PacketBatch(new Uint8Array(100), 3)
  batch.memory.set(ipv4(21), 8)
  batch.memory.set(ipv4(21), 70)
  batch.addSlot(8, 21)
  batch.addSlot(70, 21)
  expect(link.a.device.seal(link.now, link.b.id, batch)).toBe(0)
  expect(drops(link, link.a)).toEqual({ 'too-large': 2 })
})

test('the ECN bits of a packet stand on its datagram, and congestion on the way comes back into it with a right checksum', () => {
  const sum = (packet: Uint8Array): number => {
    let total = 0
    for (let i = 0; i < 20; i += 2) total += ((packet[i] ?? 0) << 8) | (packet[i + 1] ?? 0)
    while (total > 0xffff) total = (total & 0xffff) + (total >> 16)
    return total
  }
  for (const [inner, outer, received] of [[0, 0, 0], [1, 1, 3], [2, 2, 3], [3, 2, 3]] as const) {
    const link = new Link(14)
    link.establish()
    const packet = ipv4(40)
    packet[1] = 0xb8 | inner
    const missing = 0xffff - sum(packet)
    packet.set([missing >> 8, missing & 255], 10)
    link.a.device.handleInput(link.now, { type: 'packet', peer: link.b.id, bytes: packet })
    const transmit = link.a.device.pollOutput()
    if (transmit?.type !== 'transmit') throw new Error('nothing was sent')
    expect(transmit.trafficClass).toBe(outer)
    link.b.device.handleInput(link.now, { type: 'datagram', bytes: transmit.bytes, congested: true })
    const delivered = link.b.device.pollOutput()
    if (delivered?.type !== 'packet') throw new Error('nothing was delivered')
    expect((delivered.bytes[1] ?? 0) & 3).toBe(received)
    expect(sum(delivered.bytes)).toBe(0xffff)
  }
  const v6 = new Uint8Array(40)
  v6.set([0x60, 0x25])
  markCongestion(v6, 0, 40)
  expect([v6[0], v6[1]]).toEqual([0x60, 0x35])
  expect(outerTrafficClass(v6, 0, 40)).toBe(2)
})

test('misuse is told', () => {
  const link = new Link(13)
  const options = { random: link.random.bytes, wallClock: link.clock.wallClock }
  expect(() => link.a.device.setPeer(link.now, { publicKey: link.b.id, presharedKey: new Uint8Array(31) })).toThrow(WireGuardError)
  expect(() => link.a.device.setPeer(link.now, { publicKey: link.b.id, persistentKeepaliveSeconds: 65_536 })).toThrow(/65535/)
  expect(() => link.a.device.setMtu(-1)).toThrow(/MTU/)
  expect(() => new WireGuardDevice({ ...options, limits: { rejectAfterMessages: 1n << 64n } })).toThrow(/lower/)
  expect(() => new WireGuardDevice({ ...options, maxPeers: 0 }).setPeer(link.now, { publicKey: link.b.id })).toThrow(/0 peers/)
  expect(() => link.a.device.prepareOpen(link.now, Object.assign(PacketBatch.slab(4, 100), { count: 4 }), link.a.device.openPlan(2))).toThrow(/plan/)
})

test('the window reaches exactly 8128 numbers back', () => {
  for (const top of [REPLAY_WINDOW, 20_000, 2 ** 32 + 5, 2 ** 53 - 1]) {
    const window = new ReplayWindow()
    const take = (n: number): readonly [boolean, boolean] => [window.wouldAccept(n % 2 ** 32, Math.floor(n / 2 ** 32)), window.accept(n % 2 ** 32, Math.floor(n / 2 ** 32))]
    expect(take(top)).toEqual([true, true])
    if (top > REPLAY_WINDOW) expect(take(top - REPLAY_WINDOW - 1)).toEqual([false, false])
    expect(take(top - REPLAY_WINDOW)).toEqual([true, true])
    expect(take(top - REPLAY_WINDOW)).toEqual([false, false])
  }
})

test('numbers that a jump leaves out are taken later, though others stood in their places when the window was a round behind', () => {
  for (const jump of [1, 31, 33, 64, 65, 200]) {
    const window = new ReplayWindow()
    for (let n = 0; n < 8_192; n += 1) window.accept(n, 0) // all places are taken: 256 blocks of 32
    expect(window.accept(8_191 + jump, 0)).toBe(true)
    const left = Array.from({ length: jump - 1 }, (_, i) => 8_192 + i)
    expect(left.filter((n) => !window.accept(n, 0))).toEqual([])
    expect(left.filter((n) => window.accept(n, 0))).toEqual([])
  }
})
