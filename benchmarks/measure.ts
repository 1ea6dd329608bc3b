import { Bench } from 'tinybench'

/** One thing to be timed: `run` does `count` units of work. */
export interface Contender {
  readonly name: string
  /** Units of work that one call does (packets, look-ups); default 1. */
  readonly count?: number
  run(): void
}

/** A question that a benchmark file answers: contenders against a baseline that runs in the same process, interleaved. */
export interface Question {
  /** Unique over all files: `aead/seal-1420`. */
  readonly name: string
  readonly unit: string
  /** The share of the recorded ratio that no figure may fall under; less than the usual where something else decides with us. */
  readonly tolerance?: number
  /** Builds what is timed, only when the question is asked. */
  setup(): Arms
}

/** What a question sets against each other. */
export interface Arms {
  readonly baseline: Contender
  readonly contenders: readonly Contender[]
}

/** The answer for one contender. */
export interface Figure {
  readonly name: string
  readonly baseline: string
  /** Median of the rounds' ratios: how many times the baseline's rate. */
  readonly ratio: number
  readonly min: number
  readonly max: number
  readonly rounds: number
  /** Units per second of CPU time of the contender and of the baseline, medians: only comparable on one machine. */
  readonly rate: number
  readonly baselineRate: number
  readonly unit: string
}

/** A figure that is no rate against a baseline: a size, a time, a share. */
export interface Measurement {
  /** Unique over all files: `memory/peer-configured`. */
  readonly name: string
  readonly unit: string
  /** The value; `undefined` where this machine has not what is measured. */
  measure(): Promise<number | undefined>
}

const ROUNDS = 7
const ROUND_MS = 15
/** A sample shorter than this is not told from the clock's own cost: `run` is repeated until it is as long. */
const SAMPLE_MS = 1
const WARMING_MS = 20

/**
 * CPU time of this process in milliseconds: what other programs on the machine do in between is not in it. It includes garbage collection,
 * which belongs to the price, and which `--single-threaded-gc` (package.json) keeps on this thread: on busy processors its helpers burn time
 * waiting for each other, and one question was answered with 2.6 and with 5.6.
 */
export function cpuTime(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

/** Times all contenders of a question and its baseline in turn, round by round, in CPU time. */
export async function measure(question: Question, rounds: number = ROUNDS, roundMs: number = ROUND_MS): Promise<readonly Figure[]> {
  const { baseline, contenders } = question.setup()
  const all = [baseline, ...contenders]
  const rates = all.map((): number[] => [])
  const repeats = all.map(repeatsFor)
  for (let round = 0; round <= rounds; round += 1) {
    const bench = new Bench({ now: cpuTime, time: roundMs, warmup: round === 0, warmupTime: roundMs, iterations: 1 })
    // The order turns from round to round, so that no contender always runs behind the same neighbour.
    const order = all.map((_, i) => (i + round) % all.length)
    for (const i of order) {
      const contender = all[i]
      const repeat = repeats[i] ?? 1
      if (contender === undefined) continue
      bench.add(String(i), () => {
        for (let n = 0; n < repeat; n += 1) contender.run()
      })
    }
    await bench.run()
    if (round === 0) continue // warm-up
    for (const task of bench.tasks) {
      const i = Number(task.name)
      const result = task.result
      if (!('latency' in result)) throw new Error(`${question.name}: ${all[i]?.name ?? task.name} failed`, 'error' in result ? { cause: result.error } : undefined)
      rates[i]?.push(((all[i]?.count ?? 1) * (repeats[i] ?? 1) * 1000) / result.latency.p50)
    }
  }
  const base = rates[0] ?? []
  return contenders.map((contender, i) => {
    const own = rates[i + 1] ?? []
    const ratios = own.map((rate, round) => rate / (base[round] ?? Number.NaN)).sort((a, b) => a - b)
    return {
      name: `${question.name}/${contender.name}`,
      baseline: baseline.name,
      ratio: median(ratios),
      min: ratios[0] ?? Number.NaN,
      max: ratios[ratios.length - 1] ?? Number.NaN,
      rounds,
      rate: median(own),
      baselineRate: median(base),
      unit: question.unit,
    }
  })
}

/** How many runs make a sample, of code that is warm: what is counted cold is a sample too short to be told from the clock's own jumps. */
function repeatsFor(contender: Contender): number {
  const cold = cpuTime()
  do contender.run()
  while (cpuTime() - cold < WARMING_MS)
  for (let repeat = 1; ; repeat *= 2) {
    const start = cpuTime()
    for (let n = 0; n < repeat; n += 1) contender.run()
    if (cpuTime() - start >= SAMPLE_MS) return repeat
  }
}

/** The middle one, or the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? (sorted[middle] ?? Number.NaN) : ((sorted[middle - 1] ?? Number.NaN) + (sorted[middle] ?? Number.NaN)) / 2
}
