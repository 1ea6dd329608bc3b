import { after, type Instant, instant, type Machine } from '@meshwright/core'
import { SeededRandom } from './seeded-random.ts'

/** What the laws need to know of a machine. */
export interface MachineLawsSubject<Input, Output> {
  /** A fresh machine; everything random in it comes from `random`. */
  make(random: SeededRandom, now: Instant): Machine<Input, Output>
  /** Any input, honest or hostile: random bytes wherever bytes come from the wire. */
  arbitraryInput(random: SeededRandom): Input
  /** A script that leads the machine through its states; called with each fresh machine before random inputs are fed. */
  exercise?(machine: Machine<Input, Output>, now: Instant, random: SeededRandom): void
  /** The state the machine is in, by name: with `states`, every one of them must have been seen. */
  stateOf?(machine: Machine<Input, Output>): string
  /** All names that `stateOf` must have given in the course of the run. */
  readonly states?: readonly string[]
  /** Text form of an output for comparison; default: JSON with byte arrays as hex. */
  describe?(output: Output): string
  /** A number that grows with what the machine keeps, and the most it may be after a flood. */
  readonly memory?: { size(machine: Machine<Input, Output>): number; readonly bound: number }
  /** How many random inputs a run feeds (default 200). */
  readonly inputs?: number
  /** How many seeds are tried (default 5). */
  readonly seeds?: number
}

/** A law that was broken: which, by which seed, and how. */
export class MachineLawError extends Error {
  constructor(law: string, seed: number, detail: string) {
    super(`machine law broken (seed ${seed}): ${law}: ${detail}`)
    this.name = 'MachineLawError'
  }
}

const START = 1_000
const MAX_DRAIN = 1_000_000

/**
 * Checks the laws that hold for every {@link Machine}; throws a {@link MachineLawError} naming the first that is broken:
 * same seed and inputs give the same outputs; `handleTimeout` before the deadline changes nothing; at the deadline the deadline moves
 * forward or goes; polling changes nothing else; no input throws; a flood stays within the stated bound; every named state is reached.
 */
export function machineLaws<Input, Output>(subject: MachineLawsSubject<Input, Output>): void {
  const reached = new Set<string>()
  for (let seed = 1; seed <= (subject.seeds ?? 5); seed += 1) {
    const first = run(subject, seed, reached, false)
    const second = run(subject, seed, reached, false)
    if (first !== second) throw new MachineLawError('determinism', seed, difference(first, second))
    const early = run(subject, seed, reached, true)
    if (first !== early) throw new MachineLawError('an early handleTimeout and repeated polls change nothing', seed, difference(first, early))
  }
  for (const state of subject.states ?? []) {
    if (!reached.has(state)) throw new MachineLawError('every state is reached', 0, `never in state '${state}', only in ${[...reached].join(', ')}`)
  }
}

function run<Input, Output>(subject: MachineLawsSubject<Input, Output>, seed: number, reached: Set<string>, meddle: boolean): string {
  const random = new SeededRandom(seed)
  const inputs = new SeededRandom(seed + 1_000_003)
  let now = instant(START)
  const machine = subject.make(random, now)
  const lines: string[] = []
  const note = (): void => {
    if (subject.stateOf) reached.add(subject.stateOf(machine))
  }
  const settle = (): void => {
    note()
    for (let count = 0; ; count += 1) {
      const output = machine.pollOutput()
      if (output === undefined) break
      if (count > MAX_DRAIN) throw new MachineLawError('draining ends', seed, `more than ${MAX_DRAIN} outputs`)
      lines.push((subject.describe ?? describe)(output))
    }
    if (!meddle) return
    const due = machine.pollTimeout()
    if (due === undefined || due > now) machine.handleTimeout(now)
    if (machine.pollTimeout() !== due) throw new MachineLawError('an early handleTimeout changes nothing', seed, `deadline ${due} became ${machine.pollTimeout()}`)
    if (machine.pollOutput() !== undefined) throw new MachineLawError('an early handleTimeout changes nothing', seed, 'it owed an output')
  }
  settle()
  subject.exercise?.(machine, now, random)
  settle()
  for (let i = 0; i < (subject.inputs ?? 200); i += 1) {
    const input = subject.arbitraryInput(inputs)
    try {
      machine.handleInput(now, input)
    } catch (error) {
      throw new MachineLawError('no input throws', seed, `${describe(input)}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`)
    }
    settle()
    const due = machine.pollTimeout()
    const jump = inputs.chance(0.3)
    if (due !== undefined && jump) {
      if (due > now) now = due
      machine.handleTimeout(now)
      const next = machine.pollTimeout()
      if (next !== undefined && next <= now) throw new MachineLawError('at the deadline it moves forward or goes', seed, `still ${next} at ${now}`)
      settle()
    } else if (inputs.chance(0.5)) {
      const step = after(now, inputs.below(50))
      if (due === undefined || step < due) now = step
    }
  }
  if (subject.memory && subject.memory.size(machine) > subject.memory.bound) {
    throw new MachineLawError('a flood stays within the bound', seed, `${subject.memory.size(machine)} > ${subject.memory.bound}`)
  }
  return lines.join('\n')
}

function describe(value: unknown): string {
  return JSON.stringify(value, (_key, item: unknown) =>
    item instanceof Uint8Array ? Array.from(item, (byte) => byte.toString(16).padStart(2, '0')).join('') : typeof item === 'bigint' ? `${item}n` : item,
  )
}

function difference(a: string, b: string): string {
  const left = a.split('\n')
  const right = b.split('\n')
  const at = left.findIndex((line, i) => line !== right[i])
  const index = at < 0 ? left.length : at
  return `output ${index}: ${left[index]?.slice(0, 200) ?? '(none)'} / ${right[index]?.slice(0, 200) ?? '(none)'}`
}
