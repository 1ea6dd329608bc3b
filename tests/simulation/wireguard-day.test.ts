import { expect, test } from 'vitest'
import { ipv4, Link, type Node } from '../../packages/wireguard/src/link.test.ts'
import { nodeCryptoProvider } from '../../packages/runtime-node/src/node-crypto.ts'
import { wasmCryptoProvider } from '../../packages/runtime-node/src/wasm-crypto.ts'

// Long stretches of virtual time with the real engine and real cryptography, on the fast provider.
const provider = wasmCryptoProvider(nodeCryptoProvider) ?? nodeCryptoProvider
const HOUR_MS = 3_600_000

/** Reads every datagram once, when it is sent: message numbers of an index must count up by one, so that none is used twice. */
class Wiretap {
  readonly #next: Map<string, bigint> = new Map()
  readonly #link: Link
  greatest = 0n
  sessions = 0

  constructor(link: Link) {
    this.#link = link
  }

  /** Takes what was sent since it last looked, and forgets it. */
  look(): void {
    for (const node of [this.#link.a, this.#link.b]) {
      for (const { bytes } of node.sent.splice(0)) {
        if (bytes[0] !== 4) continue
        const view = new DataView(bytes.buffer, bytes.byteOffset)
        const key = `${node.name} ${view.getUint32(4, true)}`
        const counter = view.getBigUint64(8, true)
        expect(counter).toBe(this.#next.get(key) ?? 0n)
        if (counter === 0n) this.sessions += 1
        if (counter > this.greatest) this.greatest = counter
        this.#next.set(key, counter + 1n)
      }
    }
  }
}

/** Every packet that was sent has been delivered, once; forgets them. */
function allArrived(link: Link, from: Node, count: number): void {
  expect(link.other(from).delivered.splice(0)).toHaveLength(count)
}

test('24 hours of packets: a session every two minutes, none lost, no message number twice, and nothing piles up', { timeout: 120_000 }, () => {
  const link = new Link(1, { both: { provider } })
  link.delayMs = () => 30
  const tap = new Wiretap(link)
  link.establish()
  link.b.delivered.splice(0)
  for (let hour = 0; hour < 24; hour += 1) {
    for (let second = 0; second < 3_600; second += 1) {
      link.send(link.a, ipv4(60, second & 255))
      if (second % 3 === 0) link.send(link.b, ipv4(60, second & 255))
      link.run(1_000)
    }
    tap.look()
    allArrived(link, link.a, 3_600)
    allArrived(link, link.b, 1_200)
    for (const { device } of [link.a, link.b]) expect(device.status(link.now).tables.indices).toBeLessThanOrEqual(3)
  }
  const handshakes = link.a.events.filter((event) => event.type === 'established')
  // The first packet after more than 120 s begins the next one: 24 h of 121 s, save for the last.
  expect(handshakes.length).toBeGreaterThanOrEqual(713)
  expect(handshakes.length).toBeLessThanOrEqual(716)
  expect(new Set(link.a.eventTypes())).toEqual(new Set(['established']))
  expect(handshakes.every((event) => event.type === 'established' && event.initiator)).toBe(true)
  expect(Object.fromEntries(link.b.device.status(link.now).drops)).toEqual({})
})

test('sessions change by messages alone where few are allowed: no number reaches the limit, none is lost', { timeout: 60_000 }, () => {
  const link = new Link(2, { both: { provider, limits: { rekeyAfterMessages: 300n, rejectAfterMessages: 700n } } })
  link.delayMs = () => 10
  const tap = new Wiretap(link)
  for (let i = 0; i < 50 * 600; i += 1) {
    link.send(link.a, ipv4(40, i & 255))
    link.run(20)
  }
  link.run(100)
  tap.look()
  allArrived(link, link.a, 30_000)
  expect(tap.greatest).toBe(300n) // the message after that finds the new session in place
  expect(link.a.device.peerStatus(link.now, link.b.id)?.handshakesCompleted).toBeGreaterThan(90)
})

test('a limit that is reached before a new session is possible stages packets, and they come when it is there', () => {
  const link = new Link(3, { both: { provider, limits: { rekeyAfterMessages: 50n, rejectAfterMessages: 60n } } })
  for (let i = 0; i < 150; i += 1) link.send(link.a, ipv4(22, i))
  link.run(100)
  for (let i = 0; i < 20; i += 1) link.send(link.a, ipv4(22, 200 + i))
  link.run(20_000)
  // 128 wait for the first session, which takes 60 of them; the rest waits 5 s for the next one, and the one after that.
  const marks = link.b.delivered.map((each) => each.bytes[21])
  expect(marks).toEqual([...Array.from({ length: 128 }, (_, i) => 22 + i), ...Array.from({ length: 20 }, (_, i) => 200 + i)])
  const tap = new Wiretap(link)
  tap.look()
  expect(tap.greatest).toBeLessThan(60n)
})

test('a computer that slept finds its sessions over, and the first packet makes a new one', () => {
  const link = new Link(4, { both: { provider } })
  link.establish()
  link.send(link.b)
  link.run(10)
  for (const asleepMs of [200_000, HOUR_MS, 30 * 24 * HOUR_MS]) {
    link.clock.advance(asleepMs) // nobody ran a timer meanwhile
    const before = link.b.delivered.length
    link.send(link.a, ipv4(30, 9))
    link.run(100)
    expect(link.b.delivered.length - before).toBe(1)
    expect(link.a.device.pollTimeout() ?? Infinity).toBeGreaterThan(link.now)
  }
})

test('the wall clock may jump: sessions go on, and renewals are still newer than those before', () => {
  const offsets = [0, 0]
  const wall = (i: 0 | 1): (() => number) => () => 1_700_000_000_000 + (link?.now ?? 0) + (offsets[i] ?? 0)
  let link: Link | undefined = undefined
  const made = new Link(5, { a: { provider, wallClock: wall(0) }, b: { provider, wallClock: wall(1) } })
  link = made
  made.establish()
  for (const offset of [-HOUR_MS, -40 * 365 * 24 * HOUR_MS, HOUR_MS, 10 * 365 * 24 * HOUR_MS, 0]) {
    offsets[0] = offset
    for (let second = 0; second < 300; second += 1) {
      made.send(made.a, ipv4(30, second & 255))
      made.run(1_000)
    }
  }
  expect(made.b.delivered).toHaveLength(1 + 5 * 300)
  expect(Object.fromEntries(made.b.device.status(made.now).drops)).toEqual({})
})

test('a peer that was started anew with its clock set back is not heard, but is reached', () => {
  const link = new Link(6, { both: { provider } })
  link.run(1_000_000)
  link.establish()
  link.a.device.destroy(link.now)
  const again = new Link(6, { both: { provider, wallClock: () => 1_000 } }) // the same keys; its clock says 1970
  again.send(again.a)
  const early = again.a.ofType(1)[0] ?? new Uint8Array(0)
  link.inject(link.b, early)
  expect(link.b.device.status(link.now).drops.get('initiation-replay')).toBe(1)
  link.b.device.resetPeer(link.now, link.a.id)
  link.send(link.b)
  const call = link.b.ofType(1).at(-1) ?? new Uint8Array(0)
  again.inject(again.a, call)
  expect(again.a.ofType(2)).toHaveLength(1)
})
