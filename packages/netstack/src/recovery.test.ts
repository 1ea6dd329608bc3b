import { describe, expect, test } from 'vitest'
import { endpoint, type Host, noise, Pump, VirtualLink } from '../test/virtual-link.ts'
import { decodeIpPacket, IpPacket } from './ip-packet.ts'
import type { FlowId } from './index.ts'
import { decodeTcpSegment, TcpSegment } from './tcp-segment.ts'

const MSS = 1_228
const ONE_WAY_MS = 10
const RTT = 2 * ONE_WAY_MS
/** The least retransmission timeout: who waits for one takes longer. */
const TIMEOUT_MS = 200

/** What a packet says; the object is used again. */
const segment = new TcpSegment()
const packet = new IpPacket()
function read(bytes: Uint8Array): TcpSegment {
  if (!decodeIpPacket(bytes, packet) || !decodeTcpSegment(packet.view, packet.payloadAt, packet.end, packet.pseudoSum(), segment)) throw new Error('not TCP')
  return segment
}

/** A connection over a line that is as it should be, its slow start behind it. */
function warm(bytes = 40 * MSS): { readonly link: VirtualLink; readonly flow: FlowId; readonly arrived: () => number; readonly window: () => number } {
  const link = new VirtualLink(1, { delayMs: ONE_WAY_MS })
  const { a, b } = link
  b.stack.listenTcp(80)
  const flow = a.stack.connectTcp(link.now, endpoint('100.64.0.2', 80))
  new Pump(link, a, flow, noise(1, bytes))
  let arrived = 0
  b.onEvent = (event) => {
    if (event.type === 'data') arrived += event.bytes.length
  }
  // Not idle for long: then the window would be the first one again.
  expect(link.run(1_000, () => arrived === bytes)).toBe(true)
  link.run(60)
  return { link, flow, arrived: () => arrived, window: () => a.stack.flowStatus(flow)?.congestionWindowBytes ?? 0 }
}

/** What leaves a host from now on. Loses the data segments that `lost` says, by their place in the stream and how often they left before. */
function lose(link: VirtualLink, from: Host, lost: (index: number, before: number) => boolean): { readonly sent: readonly number[] } {
  const sent: number[] = []
  let base: number | undefined
  link.tap = (host, bytes) => {
    if (host !== from) return true
    const { sequence, payloadLength } = read(bytes)
    if (payloadLength === 0) return true
    base ??= sequence
    const index = ((sequence - base) | 0) / MSS
    const before = sent.filter((each) => each === index).length
    sent.push(index)
    return !lost(index, before)
  }
  return { sent }
}

/** Writes so many segments and gives the time until all have come. */
function timeOf({ link, flow, arrived }: ReturnType<typeof warm>, segments: number): number {
  const [start, goal] = [link.now, arrived() + segments * MSS]
  expect(link.a.stack.write(link.now, flow, noise(2, segments * MSS))).toBe(segments * MSS)
  expect(link.run(60_000, () => arrived() >= goal)).toBe(true)
  return link.now - start
}

describe('losses are repaired without a timeout (virtual time)', () => {
  for (const [lost, roundTrips] of [
    // A lone segment may be acknowledged late: 50 ms more.
    [1, 7],
    [2, 4.6],
    [3, 4.6],
    // Nothing is on the way any more: repairing doubles with each round trip.
    [5, 5.6],
    [9, 8],
  ] as const) {
    test(`the last ${lost} of ten segments: a probe after two round trips finds them`, () => {
      const world = warm()
      lose(world.link, world.link.a, (i, before) => i >= 10 - lost && before === 0)
      // Half a round trip there, two and a half until the probe, one for its answer, half for the rest.
      expect(timeOf(world, 10)).toBeLessThan(roundTrips * RTT)
    })
  }

  test('all of a flight: a probe, and one round trip', () => {
    const world = warm()
    lose(world.link, world.link.a, (_, before) => before === 0)
    expect(timeOf(world, 10)).toBeLessThan(TIMEOUT_MS)
  })

  test('all of a flight, while the other side talks all the time: what it sends tells nothing new and puts no probe off', () => {
    const world = warm()
    const { link } = world
    const { flow } = link.b.event('opened') ?? { flow: undefined }
    if (flow === undefined) throw new Error('nobody has come')
    let told = 0
    const before = link.a.onEvent
    link.a.onEvent = (event) => {
      before(event)
      if (event.type === 'data') told += event.bytes.length
    }
    let said = 0
    const speak = (): void => {
      for (; said < link.now; said += 5) link.b.stack.write(link.now, flow, noise(3, 100))
    }
    said = link.now
    // They have talked for a while: nothing of it waits for a session's first steps.
    for (let i = 0; i < 40; i += 1) {
      speak()
      link.run(5)
    }
    lose(link, link.a, (_, times) => times === 0)
    const [start, goal] = [link.now, world.arrived() + 10 * MSS]
    link.a.stack.write(link.now, world.flow, noise(2, 10 * MSS))
    for (let i = 0; i < 2_000 && world.arrived() < goal; i += 1) {
      speak()
      link.run(5)
    }
    expect(told).toBeGreaterThan(40 * 100)
    expect(link.now - start).toBeLessThan(TIMEOUT_MS)
  })

  test('one in the middle takes one round trip more', () => {
    const world = warm()
    lose(world.link, world.link.a, (i, before) => i === 4 && before === 0)
    expect(timeOf(world, 20)).toBeLessThanOrEqual(2.6 * RTT)
  })

  test('every second of twenty takes one round trip more: SACK tells of all of them at once', () => {
    const world = warm()
    lose(world.link, world.link.a, (i, before) => i % 2 === 1 && i < 19 && before === 0)
    expect(timeOf(world, 20)).toBeLessThanOrEqual(3.6 * RTT)
  })

  test('what was sent again and lost again is sent a third time as soon as what left later has arrived', () => {
    const world = warm()
    const { sent } = lose(world.link, world.link.a, (i, before) => i === 4 && before < 2)
    expect(timeOf(world, 100)).toBeLessThan(TIMEOUT_MS)
    expect(sent.filter((index) => index === 4)).toHaveLength(3)
  })

  test('few segments: with two behind the lost one there is no third duplicate, and none is waited for', () => {
    const world = warm()
    lose(world.link, world.link.a, (i, before) => i === 0 && before === 0)
    expect(timeOf(world, 3)).toBeLessThan(3 * RTT)
  })
})

describe('a needless timeout', () => {
  test('takes nothing: the window is what it was once the late acknowledgments show that all had come', () => {
    const world = warm()
    const before = world.window()
    world.link.faults = { delayMs: 150 }
    timeOf(world, 20)
    world.link.run(100) // the timeout, and no answer yet
    expect(world.window()).toBeLessThan(before)
    world.link.faults = { delayMs: ONE_WAY_MS }
    world.link.run(200)
    expect(world.window()).toBeGreaterThanOrEqual(before)
  })

  test('after a change of the path to four times the round trip comes once: the estimate follows', () => {
    const world = warm()
    world.link.faults = { delayMs: 8 * ONE_WAY_MS }
    timeOf(world, 10)
    world.link.run(1_000)
    const { sent } = lose(world.link, world.link.a, () => false)
    for (let i = 0; i < 10; i += 1) timeOf(world, 10)
    expect(sent.length).toBeLessThan(105)
  })
})

describe('what a receiver does for senders that know less', () => {
  /** Acknowledgments of the receiver from now on. */
  function listen(link: VirtualLink, lost: (index: number) => boolean = () => false): { readonly acks: { readonly at: number; readonly acknowledgment: number; readonly window: number; readonly blocks: number }[] } {
    const acks: { at: number; acknowledgment: number; window: number; blocks: number }[] = []
    const before = link.tap
    link.tap = (host, bytes) => {
      if (host !== link.b) return before(host, bytes)
      const { acknowledgment, window, sackEdgeCount } = read(bytes)
      acks.push({ at: link.now, acknowledgment, window, blocks: sackEdgeCount / 2 })
      return !lost(acks.length - 1)
    }
    return { acks }
  }

  test('duplicate acknowledgments all have the same window, or gVisor would not count them', () => {
    const world = warm()
    lose(world.link, world.link.a, (i, before) => i === 3 && before === 0)
    const { acks } = listen(world.link)
    timeOf(world, 20)
    const told = acks[0]?.acknowledgment
    const duplicates = acks.filter(({ blocks, acknowledgment }) => blocks > 0 && acknowledgment === acks.find((each) => each.blocks > 0)?.acknowledgment)
    expect(told).toBeDefined()
    expect(duplicates.length).toBeGreaterThan(10)
    expect(new Set(duplicates.map(({ window }) => window)).size).toBe(1)
  })

  test('after a loss a window is acknowledged in pieces: one lost acknowledgment makes nobody wait', () => {
    const world = warm()
    lose(world.link, world.link.a, (i, before) => i === 3 && before === 0)
    timeOf(world, 20)
    world.link.run(1_000)
    const { acks } = listen(world.link)
    timeOf(world, 12)
    world.link.run(1_000)
    expect(acks.length).toBeGreaterThanOrEqual(6)
  })

  test('where nothing is lost, what came together is acknowledged together', () => {
    const world = warm()
    const { acks } = listen(world.link)
    timeOf(world, 12)
    world.link.run(1_000)
    expect(acks.length).toBeLessThanOrEqual(2)
  })

  test('a lone segment is acknowledged after a quarter of the round trip', () => {
    const world = warm()
    const { acks } = listen(world.link)
    const start = world.link.now
    timeOf(world, 1)
    world.link.run(1_000)
    expect(acks).toHaveLength(1)
    expect((acks[0]?.at ?? 0) - start).toBeLessThanOrEqual(ONE_WAY_MS + RTT / 4 + 1)
  })
})

// Mathis et al. (1997): MSS / RTT * sqrt(3/2) / sqrt(p) is what a sender that halves its window reaches that never waits for a timeout.
describe('goodput on a line that loses, as a part of the bound of Mathis (virtual time, both ways lossy)', () => {
  for (const [roundTrip, loss, least] of [
    [20, 0.001, 1.2],
    [20, 0.01, 1],
    [20, 0.05, 0.8],
    [20, 0.1, 0.5],
    [100, 0.01, 1],
    [100, 0.05, 0.8],
  ] as const) {
    test(`${loss * 100} % loss, ${roundTrip} ms round trip: at least ${least}`, () => {
      const size = loss < 0.01 ? 2_000_000 : loss < 0.05 ? 1_000_000 : 400_000
      let ms = 0
      const seeds = [1, 2, 3, 4, 5, 6]
      for (const seed of seeds) {
        const link = new VirtualLink(seed, { loss, delayMs: roundTrip / 2 })
        link.b.stack.listenTcp(80)
        const flow = link.a.stack.connectTcp(link.now, endpoint('100.64.0.2', 80))
        const start = link.now
        new Pump(link, link.a, flow, noise(seed, size), () => link.a.stack.shutdownWrite(link.now, flow))
        expect(link.run(600_000, () => link.b.count('ended') === 1)).toBe(true)
        ms += link.now - start
      }
      const bound = (MSS / roundTrip) * Math.sqrt(3 / 2 / loss)
      expect((seeds.length * size) / ms / bound).toBeGreaterThanOrEqual(least)
    })
  }
})
