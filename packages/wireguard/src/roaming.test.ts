import { instant } from '@meshwright/core'
import { NodePrivateKey, NodePublicKey, nobleProvider } from '@meshwright/crypto'
import { machineLaws, SeededRandom } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { DueHeap } from './due-heap.ts'
import { type PeerState, WireGuardDevice, type WireGuardInput, type WireGuardOutput, type WireGuardPath } from './index.ts'
import { ipv4, Link, path } from './link.test.ts'

const V6: WireGuardPath = { id: 'a6', cookieBytes: new Uint8Array(18).fill(6) }

test('a peer is answered where it was last heard from, also across families', () => {
  const link = new Link(1)
  link.establish()
  link.a.path = V6
  link.send(link.a)
  link.run(5)
  expect(link.b.device.pathOf(link.a.id)?.id).toBe('a6')
  expect(link.b.events.at(-1)).toMatchObject({ type: 'roamed', path: V6 })
  link.send(link.b)
  link.run(5)
  expect(link.a.delivered).toHaveLength(1)
  link.a.path = path('a', 1)
  link.a.device.sendKeepalive(link.now, link.b.id)
  link.run(5)
  expect(link.b.device.pathOf(link.a.id)?.id).toBe('a')
})

test('a repeated initiation from elsewhere moves nothing, a fresh one does', () => {
  const link = new Link(2)
  link.send(link.a)
  link.run(100)
  link.inject(link.b, link.a.ofType(1)[0] ?? new Uint8Array(0), path('attacker', 9))
  expect(link.b.device.pathOf(link.a.id)?.id).toBe('a')
  link.a.path = path('moved', 3)
  link.a.device.resetPeer(link.now, link.b.id)
  link.send(link.a)
  link.run(100)
  expect(link.b.device.pathOf(link.a.id)?.id).toBe('moved')
})

test('only what is authentic and new moves a peer: not a repeat, not a forgery, not a cookie; two sources in turn do', () => {
  const link = new Link(22)
  link.establish()
  link.send(link.a)
  link.run(5)
  const packet = link.a.ofType(4).at(-1) ?? new Uint8Array(0)
  const elsewhere = path('elsewhere', 9)
  const stays = (bytes: Uint8Array): void => {
    link.inject(link.b, bytes, elsewhere)
    expect(link.b.device.pathOf(link.a.id)?.id).toBe('a')
  }
  stays(packet)
  stays(packet.map((byte, i) => (i === 8 ? byte + 1 : byte)))
  stays(link.b.ofType(2)[0] ?? packet)
  link.a.load.on = true
  link.b.device.resetPeer(link.now, link.a.id)
  link.send(link.b)
  link.run(1)
  const cookie = link.a.ofType(3)[0] ?? new Uint8Array(0)
  expect(cookie).toHaveLength(64)
  stays(cookie)
  link.a.load.on = false
  link.run(6_000)
  for (const id of ['one', 'two', 'one', 'two']) {
    link.a.path = path(id, 40)
    link.send(link.a)
    link.run(5)
    expect(link.b.device.pathOf(link.a.id)?.id).toBe(id)
  }
})

test('no answer to whoever has proved nothing is longer than the question', () => {
  const link = new Link(23)
  link.b.load.on = true
  link.wire = () => []
  link.send(link.a)
  for (const bytes of link.a.ofType(1)) link.inject(link.b, bytes)
  expect(link.b.sent.map((each) => each.bytes.length)).toEqual([64])
})

test('a peer without path can only answer: said once, tried again when a path is known', () => {
  const link = new Link(3)
  link.b.device.removePeer(link.now, link.a.id)
  link.b.device.setPeer(link.now, { publicKey: link.a.id, persistentKeepaliveSeconds: 10 })
  for (let i = 0; i < 5; i += 1) link.send(link.b)
  link.run(30_000)
  expect(link.b.sent).toEqual([])
  expect(link.b.eventTypes()).toEqual(['noEndpoint'])
  link.b.device.setPeer(link.now, { publicKey: link.a.id, path: link.a.path })
  link.run(10)
  expect(link.a.delivered).toHaveLength(5)
})

test('with paths left to the caller, transmits name the peer alone and nothing roams', () => {
  const link = new Link(4, { both: { roaming: false } })
  link.establish()
  link.inject(link.b, new Uint8Array(0), path('x', 5))
  link.a.path = path('other', 5)
  link.send(link.a)
  link.run(10)
  expect(link.b.eventTypes()).toEqual(['established'])
  link.a.device.handleInput(link.now, { type: 'packet', peer: link.b.id, bytes: ipv4() })
  expect(link.a.device.pollOutput()).toMatchObject({ type: 'transmit', kind: 'transport', peer: link.b.id })
})

test('unknown peers are looked up: made when they have proved their key or are sent to, and not otherwise', () => {
  const asked: string[] = []
  const link = new Link(5)
  let known = true
  const device = new WireGuardDevice({
    random: link.random.bytes,
    wallClock: link.clock.wallClock,
    privateKey: link.b.key,
    peerLookup: (publicKey) => {
      asked.push(publicKey.text)
      return known ? { publicKey } : undefined
    },
  })
  link.send(link.a)
  const initiation = link.a.ofType(1)[0] ?? new Uint8Array(0)
  known = false
  device.handleInput(link.now, { type: 'datagram', bytes: initiation, from: link.a.path })
  expect(device.status(link.now).peers).toEqual([])
  known = true
  device.handleInput(link.now, { type: 'datagram', bytes: initiation, from: link.a.path })
  expect(asked).toEqual([link.a.id.text, link.a.id.text])
  expect(device.pollOutput()).toMatchObject({ type: 'peerAdded' })
  expect(device.pollOutput()).toMatchObject({ type: 'transmit', kind: 'handshake' })
  const stranger = NodePrivateKey.generate(link.random.bytes).publicKey()
  device.handleInput(link.now, { type: 'packet', peer: stranger, bytes: ipv4() })
  expect(device.peerKeys().map((key) => key.text)).toEqual([link.a.id.text, stranger.text])
})

test('status tells handshake time, bytes, path and age; bytes count what is on the wire', () => {
  const link = new Link(6)
  link.establish()
  for (let i = 0; i < 9; i += 1) link.send(link.a, ipv4(84))
  link.run(1_000)
  const status = link.b.device.peerStatus(link.now, link.a.id)
  expect(status).toMatchObject({ state: 'established', receivedPackets: 10, handshakesCompleted: 1, stagedPackets: 0 })
  expect(status?.receivedBytes).toBe(148 + 64 + 9 * 128)
  expect(link.a.device.peerStatus(link.now, link.b.id)?.sentBytes).toBe(148 + 64 + 9 * 128)
  expect(status?.latestHandshake).toBe(link.clock.wallClock() - (link.now - (link.b.events[0]?.at ?? 0)))
  expect(status?.path?.id).toBe('a')
})

test('a destroyed device is silent and keeps nothing', () => {
  const link = new Link(7)
  link.establish()
  link.b.device.destroy(link.now)
  link.send(link.a)
  link.run(10)
  expect(link.b.delivered).toHaveLength(1)
  expect([link.b.device.pollTimeout(), link.b.device.publicKey, link.b.device.status(link.now).peers]).toEqual([undefined, undefined, []])
})

test('the heap gives whoever is due first, however deadlines move', () => {
  const random = new SeededRandom(8)
  const items = Array.from({ length: 50 }, () => ({ due: Infinity, heapIndex: -1, heapKey: 0 }))
  const heap = new DueHeap<(typeof items)[number]>()
  for (let round = 0; round < 5_000; round += 1) {
    const item = random.pick(items)
    item.due = random.chance(0.2) ? Infinity : random.below(1_000)
    if (random.chance(0.1)) {
      heap.remove(item)
      item.due = Infinity
    } else {
      heap.update(item)
    }
    const least = Math.min(...items.map((each) => each.due))
    expect(heap.first()?.due ?? Infinity).toBe(least)
  }
})

test('the device keeps the laws of machines', () => {
  const ourKey = NodePrivateKey.generate(new SeededRandom(99).bytes)
  const peerKey = NodePrivateKey.generate(new SeededRandom(98).bytes)
  const stateOf = (device: unknown): PeerState => (device instanceof WireGuardDevice ? (device.peerStatus(instant(0), peerKey.publicKey())?.state ?? 'idle') : 'idle')
  const valid: Uint8Array[] = []
  const seen: string[] = []
  // A peer of its own for each run, which sends an initiation and answers one, so that every state is passed through.
  machineLaws<WireGuardInput, WireGuardOutput>({
    make: (random) => new WireGuardDevice({ random: random.bytes, wallClock: () => 1_700_000_000_000, privateKey: ourKey, provider: nobleProvider }),
    exercise: (machine, now, random) => {
      if (!(machine instanceof WireGuardDevice)) return
      const peer = new WireGuardDevice({ random: random.bytes, wallClock: () => 1_700_000_000_000, privateKey: peerKey })
      const note = (): void => {
        seen.push(stateOf(machine))
      }
      const exchange = (from: WireGuardDevice, to: WireGuardDevice): void => {
        for (let output = from.pollOutput(); output !== undefined; output = from.pollOutput()) {
          if (output.type !== 'transmit') continue
          valid.push(output.bytes)
          to.handleInput(now, { type: 'datagram', bytes: output.bytes, from: path('p', 4) })
        }
        note()
      }
      machine.setPeer(now, { publicKey: peerKey.publicKey(), path: path('p', 4), persistentKeepaliveSeconds: 20 })
      peer.setPeer(now, { publicKey: ourKey.publicKey(), path: path('us', 5) })
      note()
      exchange(machine, peer)
      exchange(peer, machine)
      exchange(machine, peer)
      machine.resetPeer(now, peerKey.publicKey())
      note()
      peer.resetPeer(now, ourKey.publicKey())
      peer.connect(now, ourKey.publicKey())
      exchange(peer, machine)
    },
    arbitraryInput: (random) => {
      if (random.chance(0.2)) return { type: 'packet', peer: peerKey.publicKey(), bytes: random.chance(0.5) ? ipv4(60) : random.bytes(random.below(90)) }
      const bytes = valid.length > 0 && random.chance(0.6) ? Uint8Array.from(random.pick(valid.slice(0, 4))) : random.bytes(random.pick([0, 31, 32, 64, 92, 148, 300]))
      if (bytes.length > 0 && random.chance(0.5)) bytes[random.below(bytes.length)] = random.below(256)
      if (bytes.length > 3 && random.chance(0.7)) bytes.set([1 + random.below(4), 0, 0, 0])
      return { type: 'datagram', bytes, from: path('z', random.below(200)) }
    },
    stateOf,
    memory: { size: (machine) => (machine instanceof WireGuardDevice ? machine.peerKeys().length : 0), bound: 1 },
    inputs: 120,
    seeds: 3,
  })
  expect(new Set(seen)).toEqual(new Set(['idle', 'handshaking', 'established', 'answered']))
})

test('ten thousand peers added and removed leave nothing', () => {
  const random = new SeededRandom(11)
  const device = new WireGuardDevice({ random: random.bytes, wallClock: () => 0 })
  const link = new Link(12)
  for (let i = 0; i < 10_000; i += 1) {
    const publicKey = NodePublicKey.fromBytes(random.bytes(32))
    if (publicKey === undefined) throw new Error('no key')
    device.setPeer(link.now, { publicKey, path: path('p', 1) })
    device.removePeer(link.now, publicKey)
  }
  expect([device.peerKeys(), device.pollTimeout(), device.pollOutput()]).toEqual([[], undefined, undefined])
})
