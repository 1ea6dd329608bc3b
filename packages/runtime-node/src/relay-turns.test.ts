import fc from 'fast-check'
import { expect, test } from 'vitest'
import { GateTurns } from '../test/gate-turns.ts'
import { relayGate, type RelayTurn, RelayTurns } from './relay-turns.ts'

/** Virtual milliseconds that a KiB of work takes. */
const KIB_MS = 0.02
const ARRIVAL_MS = 2

interface Visitor {
  readonly turn: RelayTurn
  readonly taken: Uint8Array[]
  /** Bytes that were worked on. */
  readonly bytes: () => number
  /** What happens when it is let in, with the first that it says. */
  letIn: (() => void) | undefined
  isRead: boolean
  isEnded: boolean
  /** `undefined`: it is not let in. */
  carried: number | undefined
}

/** A relay whose turns the test takes; of some connections everything is carried. */
function relay(): { readonly turns: GateTurns; readonly waiting: () => number; add(source: string, who: 'stranger' | 'idle' | 'carried'): Visitor } {
  const turns = new GateTurns()
  const all = new RelayTurns(relayGate(turns))
  return {
    turns,
    waiting: () => all.waitingBytes,
    add: (source, who) => {
      const taken: Uint8Array[] = []
      const visitor: Visitor = {
        taken,
        bytes: () => taken.reduce((sum, { length }) => sum + length, 0),
        letIn: undefined,
        isRead: true,
        isEnded: false,
        carried: who === 'stranger' ? undefined : 0,
        turn: all.add({
          source,
          arrivalMs: ARRIVAL_MS,
          carried: () => visitor.carried,
          take: (bytes) => {
            taken.push(bytes)
            if (visitor.letIn !== undefined) visitor.carried ??= 0
            visitor.letIn?.()
            visitor.letIn = undefined
            turns.clock += (bytes.length / 1_024) * KIB_MS
            if (who === 'carried') visitor.carried = (visitor.carried ?? 0) + bytes.length
          },
          read: (on) => (visitor.isRead = on),
          end: () => (visitor.isEnded = true),
        }),
      }
      return visitor
    },
  }
}

const piece = (bytes: number): Uint8Array => new Uint8Array(bytes)

test('who was let in and says little is served at once', () => {
  const { turns, add } = relay()
  const honest = add('a', 'idle')
  for (let i = 0; i < 100; i += 1) {
    honest.turn.push(piece(200))
    expect(honest.bytes()).toBe((i + 1) * 200)
    turns.clock += 10
  }
})

test('who says much through many connections is not light by that: an address is, or is not', () => {
  const { add } = relay()
  const many = Array.from({ length: 100 }, () => add('a', 'idle'))
  for (const one of many) one.turn.push(piece(200))
  expect(many.filter((one) => one.bytes() > 0).length).toBeLessThan(50)
  const other = add('b', 'idle')
  other.turn.push(piece(200))
  expect(other.bytes()).toBe(200)
})

test('who is not let in waits for a turn, however little is said', () => {
  const { turns, add } = relay()
  const stranger = add('a', 'stranger')
  stranger.turn.push(piece(100))
  expect(stranger.bytes()).toBe(0)
  turns.turn()
  expect(stranger.bytes()).toBe(100)
})

/** Virtual time in which one says much without end, beside a client that was let in and asks every millisecond. */
function flooded(who: 'stranger' | 'idle' | 'carried'): { readonly share: number; readonly longestTurnMs: number } {
  const { turns, add } = relay()
  const [honest, flooding] = [add('honest', 'idle'), add('flood', who)]
  let [longestTurnMs, asked] = [0, 0]
  while (turns.clock < 2_000) {
    if (flooding.isRead) flooding.turn.push(piece(65_536))
    if (turns.clock >= asked) {
      asked = turns.clock + 1
      const before = honest.bytes()
      honest.turn.push(piece(100))
      expect(honest.bytes()).toBe(before + 100) // whatever the other does
    }
    const before = turns.clock
    const had = flooding.bytes()
    const did = turns.turn()
    if (flooding.bytes() > had) longestTurnMs = Math.max(longestTurnMs, turns.clock - before)
    if (!did) turns.clock += 0.1
  }
  return { share: ((flooding.bytes() / 1_024) * KIB_MS) / turns.clock, longestTurnMs }
}

test('what is carried gets all the time that is left over, in short turns', () => {
  const { share, longestTurnMs } = flooded('carried')
  expect(share).toBeGreaterThan(0.9)
  expect(longestTurnMs).toBeLessThan(0.25 + 2 * 8 * KIB_MS)
})

test.each(['stranger', 'idle'] as const)('who says much that reaches nobody gets three hundredths while others have work, 8 KiB in a turn: %s', (who) => {
  const { share, longestTurnMs } = flooded(who)
  expect(share).toBeGreaterThan(0.004)
  expect(share).toBeLessThan(0.035)
  expect(longestTurnMs).toBeLessThanOrEqual(8 * KIB_MS + 1e-9)
})

test('a newcomer gets a turn also while those whose packets are carried always have more', () => {
  const { turns, add } = relay()
  const senders = Array.from({ length: 50 }, (_, i) => add(`sender ${i}`, 'carried'))
  for (const sender of senders) sender.turn.push(piece(300_000)) // until it is known that it is carried
  while (turns.turn());
  const newcomers = Array.from({ length: 20 }, (_, i) => add(`newcomer ${i}`, 'stranger'))
  for (const newcomer of newcomers) newcomer.turn.push(piece(1_024))
  const begun = turns.clock
  while (newcomers.some((newcomer) => newcomer.bytes() === 0)) {
    expect(turns.clock - begun).toBeLessThan(100)
    for (const sender of senders) if (sender.isRead) sender.turn.push(piece(65_536))
    turns.turn()
  }
  const shareOfSenders = senders.reduce((sum, sender) => sum + sender.bytes() - 300_000, 0) / 1_024 * KIB_MS / (turns.clock - begun)
  expect(shareOfSenders).toBeGreaterThan(0.5)
})

test('when nobody else has work, who says much that reaches nobody is not held up', () => {
  const { turns, add } = relay()
  const stranger = add('a', 'stranger')
  stranger.turn.push(piece(65_536))
  for (let i = 0; i < 8; i += 1) turns.turn()
  expect([stranger.bytes(), turns.clock < 2]).toEqual([65_536, true])
})

/** Virtual seconds until five hundred clients are let in, one after the other, while somebody else always has something to say. */
function arrivals(stay: boolean): number {
  const { turns, add } = relay()
  const honest = add('honest', 'idle')
  let [letIn, asked] = [0, 0]
  for (let i = 0; i < 500; i += 1) {
    const visitor = add(`site ${i}`, 'stranger')
    visitor.letIn = () => {
      turns.clock += ARRIVAL_MS
      letIn += 1
      if (!stay) visitor.turn.close()
    }
    visitor.turn.push(piece(300))
  }
  while (letIn < 500) {
    if (turns.clock >= asked) {
      asked = turns.clock + 5
      honest.turn.push(piece(100))
    }
    if (!turns.turn()) turns.clock += 0.1
  }
  return turns.clock / 1_000
}

test('who is let in and stays gives back what that took: many who come again at once hold each other up far less than liars', () => {
  const [honest, liars] = [arrivals(true), arrivals(false)]
  expect(liars).toBeGreaterThan(25) // a second of work, at three hundredths of the time
  expect(honest).toBeLessThan(liars / 2)
})

test('addresses take turns: who waits longest is next', () => {
  const { turns, add } = relay()
  const floods = Array.from({ length: 20 }, () => add('flood', 'stranger'))
  for (const flood of floods) flood.turn.push(piece(8_192))
  const newcomer = add('newcomer', 'stranger')
  newcomer.turn.push(piece(300))
  turns.turn()
  turns.turn()
  expect(newcomer.bytes()).toBe(300)
})

test('nothing more is read of whom much waits, until it is worked on', () => {
  const { turns, add } = relay()
  const stranger = add('a', 'stranger')
  stranger.turn.push(piece(10_000))
  expect(stranger.isRead).toBe(true)
  stranger.turn.push(piece(10_000))
  expect(stranger.isRead).toBe(false)
  while (turns.turn());
  expect([stranger.isRead, stranger.bytes()]).toEqual([true, 20_000])
})

test('of whom is held nothing is worked on and nothing read, until it is let go', () => {
  const { turns, add } = relay()
  const client = add('a', 'carried')
  client.turn.push(piece(30_000))
  turns.turn()
  const before = client.bytes()
  client.turn.hold(true)
  while (turns.turn());
  expect([client.isRead, client.bytes()]).toEqual([false, before])
  client.turn.push(piece(100)) // was on its way
  expect(client.bytes()).toBe(before)
  client.turn.hold(false)
  while (turns.turn());
  expect([client.isRead, client.bytes()]).toEqual([true, 30_100])
})

test('who ends is ended when everything has had its turn; of whom is gone nothing is worked on', () => {
  const { turns, waiting, add } = relay()
  const [ending, gone] = [add('a', 'stranger'), add('b', 'stranger')]
  for (const one of [ending, gone]) one.turn.push(piece(20_000))
  ending.turn.finish()
  gone.turn.close()
  expect(ending.isEnded).toBe(false)
  while (turns.turn());
  expect([ending.isEnded, ending.bytes(), gone.bytes()]).toEqual([true, 20_000, 0])
  ending.turn.close()
  expect(waiting()).toBe(0)
  const silent = add('c', 'stranger')
  silent.turn.finish()
  expect(silent.isEnded).toBe(true)
})

test('where too much waits, whose packets are carried does not wait any more, and who has none carried is ended', () => {
  const { turns, waiting, add } = relay()
  const client = add('client', 'carried')
  client.turn.push(piece(100_000))
  while (turns.turn());
  const strangers = Array.from({ length: 600 }, (_, i) => add(`s${i}`, 'stranger'))
  for (const stranger of strangers) if (!stranger.isEnded) stranger.turn.push(piece(65_536))
  expect(strangers.filter((stranger) => stranger.isEnded).length).toBeGreaterThan(80)
  expect(waiting()).toBeLessThanOrEqual(600 * 65_536)
  const before = client.bytes()
  client.turn.push(piece(65_536))
  expect([client.bytes() - before, client.isEnded]).toEqual([65_536, false])
})

test('bytes are worked on in their order, all of them, however they came', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 40_000 }), { minLength: 1, maxLength: 20 }), fc.constantFrom('stranger' as const, 'idle' as const, 'carried' as const), fc.integer({ min: 0, max: 3 }), (sizes, who, turnsBetween) => {
      const { turns, add } = relay()
      const visitor = add('a', who)
      let at = 0
      for (const size of sizes) {
        visitor.turn.push(Uint8Array.from({ length: size }, (_, i) => (at + i) % 251))
        at += size
        for (let i = 0; i < turnsBetween; i += 1) turns.turn()
      }
      while (turns.turn());
      expect(Buffer.concat(visitor.taken).every((byte, i) => byte === i % 251)).toBe(true)
      expect(visitor.bytes()).toBe(at)
    }),
    { numRuns: 50 },
  )
})
