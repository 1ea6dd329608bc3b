import { describe, expect, test } from 'vitest'
import { endpoint, type LinkFaults, noise, Pump, VirtualLink } from '../test/virtual-link.ts'
import type { NetstackOptions } from './index.ts'

/** Moves bytes both ways over one connection and closes it in order. */
function exchange(
  seed: number,
  faults: LinkFaults,
  size: number,
  options: { a?: NetstackOptions; b?: NetstackOptions; ipv6?: boolean } = {},
): VirtualLink {
  const link = new VirtualLink(seed, faults, options.a, options.b)
  const { a, b } = link
  const up = noise(seed + 10, size)
  const down = noise(seed + 20, size)
  b.stack.listenTcp(80)
  b.onEvent = (event) => {
    if (event.type === 'opened') new Pump(link, b, event.flow, down, () => b.stack.shutdownWrite(link.now, event.flow))
  }
  const flow = a.stack.connectTcp(link.now, endpoint(options.ipv6 ? 'fd7a::2' : '100.64.0.2', 80))
  new Pump(link, a, flow, up, () => a.stack.shutdownWrite(link.now, flow))
  const closed = link.run(600_000, () => a.count('closed') === 1 && b.count('closed') === 1)
  const opened = b.event('opened')
  expect(opened).toBeDefined()
  if (opened === undefined) return link
  expect(Buffer.compare(b.bytesOf(opened.flow), up)).toBe(0)
  expect(Buffer.compare(a.bytesOf(flow), down)).toBe(0)
  expect(closed).toBe(true)
  expect(a.event('closed')).toMatchObject({ reason: 'finished' })
  expect(b.event('closed')).toMatchObject({ reason: 'finished' })
  return link
}

describe('bytes arrive intact both ways', () => {
  test('over a clean line', () => {
    exchange(1, {}, 300_000)
  })

  test('over IPv6', () => {
    exchange(2, {}, 300_000, { ipv6: true })
  })

  for (let seed = 1; seed <= 12; seed += 1) {
    test(`with 10 % loss, reordering, duplication and corruption, seed ${seed}`, () => {
      exchange(seed, { loss: 0.1, duplication: 0.05, reordering: 0.2, corruption: 0.02 }, 60_000, { ipv6: seed % 2 === 0 })
    })
  }

  test('without SACK, timestamps and window scaling', () => {
    const plain: NetstackOptions = { selectiveAcks: false, timestamps: false, windowScaling: false }
    for (let seed = 1; seed <= 6; seed += 1) exchange(seed, { loss: 0.05, reordering: 0.1, duplication: 0.02 }, 60_000, { a: plain })
  })
})

describe('time to deliver 2 MB one way over a round trip of 10 ms (virtual time)', () => {
  function milliseconds(faults: LinkFaults, seed: number): number {
    const link = new VirtualLink(seed, faults)
    const { a, b } = link
    b.stack.listenTcp(80)
    const flow = a.stack.connectTcp(link.now, endpoint('100.64.0.2', 80))
    const start = link.now
    new Pump(link, a, flow, noise(seed, 2_000_000), () => a.stack.shutdownWrite(link.now, flow))
    expect(link.run(60_000, () => b.count('ended') === 1)).toBe(true)
    return link.now - start
  }

  test('a clean line is filled by slow start in about ten round trips', () => {
    expect(milliseconds({}, 1)).toBeLessThanOrEqual(110)
  })

  test('reordering is not taken for loss: windows shrunk by mistake are restored', () => {
    const times = [1, 2, 3, 4, 5].map((seed) => milliseconds({ reordering: 0.1 }, seed))
    expect(Math.max(...times)).toBeLessThan(1_000)
  })

  test('one packet in a thousand lost costs little', () => {
    const times = [1, 2, 3, 4, 5].map((seed) => milliseconds({ loss: 0.001 }, seed))
    expect(Math.max(...times)).toBeLessThan(2_000)
  })
})

test('a delay of one second is not taken for loss: the window comes back once late acknowledgments prove it', () => {
  const link = new VirtualLink(1)
  const { a, b } = link
  b.stack.listenTcp(80)
  const flow = a.stack.connectTcp(link.now, endpoint('100.64.0.2', 80))
  new Pump(link, a, flow, noise(1, 4_000_000))
  link.run(60)
  const before = a.stack.flowStatus(flow)?.congestionWindowBytes ?? 0
  link.faults = { delayMs: 1_000 }
  link.run(1_000)
  expect(a.stack.flowStatus(flow)?.congestionWindowBytes).toBeLessThan(before / 10)
  link.faults = {}
  link.run(100)
  expect(a.stack.flowStatus(flow)?.congestionWindowBytes).toBeGreaterThanOrEqual(before)
})
