import fc from 'fast-check'
import { expect, test } from 'vitest'
import { ipv4, Link } from './link.test.ts'

type Side = 'a' | 'b'

/** What whoever uses a tunnel may count on, in ten lines: what comes out was sent, and comes out once; and in the end it works. */
class Model {
  readonly #onTheWay = { a: new Set<number>(), b: new Set<number>() }
  send(from: Side, mark: number): void {
    this.#onTheWay[from].add(mark)
  }
  delivered(from: Side, mark: number): void {
    if (!this.#onTheWay[from].delete(mark)) throw new Error(`${mark} was never sent by ${from}, or came twice`)
  }
}

/** The real thing: two devices, and a network that loses, repeats, delays and reorders as it is told. */
class Real {
  readonly link: Link
  loss = 0
  copies = 0
  spreadMs = 0
  #marks = 0

  constructor(seed: number) {
    const limits = { rekeyAfterMessages: 40n, rejectAfterMessages: 60n }
    this.link = new Link(seed, { both: seed % 2 === 0 ? {} : { limits } })
    const random = this.link.random
    this.link.delayMs = () => 1 + random.below(this.spreadMs + 1)
    this.link.wire = (_from, bytes) => (random.chance(this.loss) ? [] : random.chance(this.copies) ? [bytes, bytes, bytes] : [bytes])
  }

  send(model: Model, from: Side): number {
    const mark = (this.#marks += 1)
    const packet = ipv4(24)
    new DataView(packet.buffer).setUint32(20, mark)
    model.send(from, mark)
    this.link.send(this.link[from], packet)
    return mark
  }

  /** Time passes; what comes out is held against the model. Gives the marks that came. */
  run(model: Model, ms: number): Set<number> {
    this.link.run(ms)
    const came = new Set<number>()
    for (const to of ['a', 'b'] as const) {
      for (const { bytes } of this.link[to].delivered.splice(0)) {
        const mark = new DataView(bytes.buffer, bytes.byteOffset).getUint32(20)
        model.delivered(to === 'a' ? 'b' : 'a', mark)
        came.add(mark)
      }
    }
    return came
  }
}

type Command = fc.Command<Model, Real>

const sides = fc.constantFrom<Side>('a', 'b')

const sends = fc.tuple(sides, fc.integer({ min: 1, max: 30 })).map(
  ([from, count]): Command => ({
    check: () => true,
    run: (model, real) => {
      for (let i = 0; i < count; i += 1) real.send(model, from)
      real.run(model, 1)
    },
    toString: () => `${from} sends ${count}`,
  }),
)
const waits = fc.oneof(fc.integer({ min: 1, max: 100 }), fc.integer({ min: 100, max: 20_000 }), fc.constantFrom(121_000, 181_000, 600_000)).map(
  (ms): Command => ({
    check: () => true,
    run: (model, real) => void real.run(model, ms),
    toString: () => `${ms} ms pass`,
  }),
)
const weathers = fc.record({ loss: fc.constantFrom(0, 0.1, 0.5, 1), copies: fc.constantFrom(0, 0.3), spreadMs: fc.constantFrom(0, 5, 300) }).map(
  (weather): Command => ({
    check: () => true,
    run: (_model, real) => void Object.assign(real, weather),
    toString: () => `the network: ${JSON.stringify(weather)}`,
  }),
)
// What a caller may do at any time. Only sessions are lost by it, and those come back.
const meddling = fc.tuple(sides, fc.constantFrom('reset', 'connect', 'keepalive', 'setPeer', 'replacePeers', 'remove and add')).map(
  ([side, what]): Command => ({
    check: () => true,
    run: (model, real) => {
      const { link } = real
      const { device } = link[side]
      const publicKey = link.other(link[side]).id
      const config = { publicKey, path: link.other(link[side]).path }
      if (what === 'reset') device.resetPeer(link.now, publicKey)
      else if (what === 'connect') device.connect(link.now, publicKey)
      else if (what === 'keepalive') device.sendKeepalive(link.now, publicKey)
      else if (what === 'setPeer') device.setPeer(link.now, config)
      else if (what === 'replacePeers') device.replacePeers(link.now, [config])
      else {
        device.removePeer(link.now, publicKey)
        device.setPeer(link.now, config)
      }
      real.run(model, 1)
    },
    toString: () => `${side}: ${what}`,
  }),
)

test('whatever the network does: nothing comes out that was not sent, nothing twice, and once it is whole, all comes again', { timeout: 120_000 }, () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 1_000_000 }), fc.commands([sends, sends, waits, waits, weathers, meddling], { maxCommands: 30 }), (seed, commands) => {
      const model = new Model()
      const real = new Real(seed)
      fc.modelRun(() => ({ model, real }), commands)
      Object.assign(real, { loss: 0, copies: 0, spreadMs: 0 })
      // The longest way back: an end that lost all is noticed after 15 s of silence, and may then wait 5 s more for its next try.
      for (let second = 0; second < 30; second += 1) {
        real.send(model, 'a')
        real.send(model, 'b')
        real.run(model, 1_000)
      }
      const marks = [real.send(model, 'a'), real.send(model, 'b')]
      const came = real.run(model, 1_000)
      expect(marks.filter((mark) => !came.has(mark))).toEqual([])
    }),
    { numRuns: Number(process.env['MODEL_RUNS'] ?? 25), seed: 1 },
  )
})
