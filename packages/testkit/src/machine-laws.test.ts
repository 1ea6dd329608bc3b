import { after, type Instant, type Machine, Outbox } from '@meshwright/core'
import { describe, expect, test } from 'vitest'
import { machineLaws, type MachineLawsSubject, runTimers, SeededRandom, VirtualClock } from './index.ts'

/** Repeats what it is told after a wait; each flag breaks one law. */
class Echo implements Machine<number, number> {
  readonly #outbox = new Outbox<number>()
  readonly #random: SeededRandom
  readonly #fault: string
  #due: Instant | undefined
  #value = 0
  #polls = 0
  kept: number[] = []

  constructor(random: SeededRandom, fault: string) {
    this.#random = random
    this.#fault = fault
  }

  get state(): string {
    return this.#due === undefined ? 'idle' : 'waiting'
  }

  handleInput(now: Instant, value: number): void {
    if (this.#fault === 'throws' && value === 77) throw new Error('77')
    if (this.#fault === 'memory') this.kept.push(value)
    this.#value = this.#fault === 'random' ? Math.random() : value + this.#random.below(2)
    this.#due = after(now, 10)
  }

  handleTimeout(now: Instant): void {
    if (this.#due === undefined || (now < this.#due && this.#fault !== 'early')) return
    if (this.#fault === 'stuck') return
    this.#outbox.push(this.#value)
    this.#due = undefined
  }

  pollOutput(): number | undefined {
    this.#polls += 1
    if (this.#fault === 'polling' && this.#polls % 5 === 4) this.#value += 1
    return this.#outbox.poll()
  }

  pollTimeout(): Instant | undefined {
    return this.#due
  }
}

const subject = (fault: string): MachineLawsSubject<number, number> => ({
  make: (random) => new Echo(random, fault),
  arbitraryInput: (random) => random.below(100),
  stateOf: (machine) => (machine instanceof Echo ? machine.state : '?'),
  states: fault === 'unreached' ? ['idle', 'waiting', 'never'] : ['idle', 'waiting'],
  memory: { size: (machine) => (machine instanceof Echo ? machine.kept.length : 0), bound: 100 },
})

test('a machine that keeps the laws passes', () => machineLaws(subject('none')))

describe('each law finds the machine that breaks it', () => {
  test.each([
    ['random', /determinism/],
    ['throws', /no input throws/],
    ['stuck', /moves forward or goes/],
    ['early', /early handleTimeout|deadline/],
    ['polling', /polls change nothing/],
    ['memory', /within the bound/],
    ['unreached', /never in state 'never'/],
  ])('%s', (fault, message) => expect(() => machineLaws(subject(fault))).toThrow(message))
})

test('runTimers jumps from deadline to deadline and finds a deadline that does not move', () => {
  const clock = new VirtualClock(0)
  const machine = new Echo(new SeededRandom(1), 'none')
  machine.handleInput(clock.now, 5)
  expect(runTimers(machine, clock, after(clock.now, 1000)).map(({ at }) => at)).toEqual([10])
  expect(clock.now).toBe(1000)
  const stuck = new Echo(new SeededRandom(1), 'stuck')
  stuck.handleInput(clock.now, 5)
  expect(() => runTimers(stuck, clock, after(clock.now, 1000))).toThrow(/busy loop/)
})

test('seeded randomness repeats, differs by seed and is spread evenly', () => {
  const take = (seed: number): number[] => Array.from({ length: 5 }, ((random) => () => random.u32())(new SeededRandom(seed)))
  expect(take(1)).toEqual(take(1))
  expect(take(1)).not.toEqual(take(2))
  const random = new SeededRandom(3)
  const counts = new Array<number>(10).fill(0)
  for (let i = 0; i < 10_000; i += 1) counts[random.below(10)]! += 1
  for (const count of counts) expect(Math.abs(count - 1000)).toBeLessThan(150)
})
