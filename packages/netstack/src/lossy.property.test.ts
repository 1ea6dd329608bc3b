import { SeededRandom } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { endpoint, noise, Pump, VirtualLink } from '../test/virtual-link.ts'

const BUFFER = 65_536
const SIZE = 120_000
/** Virtual time in which bytes must go on, whatever the line does: some timeouts in a row. */
const PROGRESS_MS = 120_000

// Integrity, progress and bounded memory at once, over lines that lose, double, spoil and mix up packets, and that get better and worse.
for (let seed = 1; seed <= 16; seed += 1) {
  test(`over an unsteady line every byte arrives once and in order, something always goes on, and memory stays bounded, seed ${seed}`, () => {
    const random = new SeededRandom(seed * 31)
    const weather = () => ({ loss: random.below(15) / 100, duplication: random.below(10) / 100, reordering: random.below(40) / 100, corruption: random.below(4) / 100, delayMs: 1 + random.below(80) })
    const options = { maxSendBufferBytes: BUFFER, maxReceiveBufferBytes: BUFFER, timeWaitMs: 1_000, selectiveAcks: random.chance(0.8), timestamps: random.chance(0.8) }
    const link = new VirtualLink(seed, weather(), options, random.chance(0.5) ? options : {})
    const { a, b } = link
    const [up, down] = [noise(seed, SIZE), noise(seed + 100, SIZE)]
    b.stack.listenTcp(80)
    b.onEvent = (event) => {
      if (event.type === 'opened') new Pump(link, b, event.flow, down, () => b.stack.shutdownWrite(link.now, event.flow))
    }
    const flow = a.stack.connectTcp(link.now, endpoint(seed % 2 === 0 ? 'fd7a::2' : '100.64.0.2', 80))
    new Pump(link, a, flow, up, () => a.stack.shutdownWrite(link.now, flow))
    const arrived = (): number => [...a.received.values(), ...b.received.values()].reduce((sum, parts) => sum + parts.reduce((bytes, part) => bytes + part.length, 0), 0)
    const over = (): boolean => a.count('closed') === 1 && b.count('closed') === 1
    for (let before = -1, since = 0; !over(); ) {
      since = link.run(2_000, over) || arrived() > before ? 0 : since + 2_000
      before = arrived()
      expect(since).toBeLessThan(PROGRESS_MS)
      const status = a.stack.flowStatus(flow)
      expect(status?.queuedBytes ?? 0).toBeLessThanOrEqual(BUFFER)
      expect(status?.unconsumedBytes ?? 0).toBeLessThanOrEqual(BUFFER)
      expect(status?.congestionWindowBytes ?? 0).toBeLessThanOrEqual(BUFFER)
      expect(status?.inFlightBytes ?? 0).toBeLessThanOrEqual(BUFFER)
      link.faults = weather()
    }
    expect(Buffer.compare(a.bytesOf(flow), down)).toBe(0)
    const opened = b.event('opened')
    if (opened === undefined) throw new Error('never opened')
    expect(Buffer.compare(b.bytesOf(opened.flow), up)).toBe(0)
    // Nothing of it stays: not in TIME-WAIT, not as a timer.
    link.run(120_000)
    expect([a.stack.flowCount, b.stack.flowCount]).toEqual([0, 0])
    expect([a.stack.pollTimeout(), b.stack.pollTimeout()]).toEqual([undefined, undefined])
  })
}
