import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { type Figure, measure, type Measurement, type Question } from './measure.ts'
import { type Held, held, heldLine } from './targets.ts'

const HERE = import.meta.dirname
const BASELINES = path.join(HERE, 'baselines', 'ratios.json')
/** A ratio under this share of the recorded one (or the share that its question names) is measured again behind everything else, up to twice, and then fails. */
const TOLERANCE = 0.6
const REPEATS = 2
/** What is recorded is the lowest median of so many measurements: what a quiet run can be held to. */
const RECORDINGS = 3

const USAGE = `usage: npm run bench [-- --grep TEXT] [--json] [--check] [--record]

Answers each question of benchmarks/*.bench.ts as a ratio to a baseline in the same run, and measures sizes and times. At the end stands
what must be reached (benchmarks/targets.ts).
  --grep TEXT  only questions and measurements whose name holds TEXT
  --json       print {machine, figures, held} alone on standard output; held: [{name, value, unit, must, aim, met}]
  --check      compare with benchmarks/baselines; what falls under ${TOLERANCE} of it (look-ups: 0.35) is measured again twice behind the rest,
               then fails
  --record     write the ratios to benchmarks/baselines

Exit status: 0 measured (and, with --check, nothing fell), 1 a ratio fell, 2 wrong usage.
`

interface Recorded {
  readonly machine: string
  readonly ratios: Readonly<Record<string, number>>
  /** Sizes and times: written down, not compared. */
  readonly values?: Readonly<Record<string, number>>
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: { grep: { type: 'string' }, json: { type: 'boolean' }, check: { type: 'boolean' }, record: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
  })
  if (values.help === true) {
    process.stdout.write(USAGE)
    return 0
  }
  const machine = `${os.cpus()[0]?.model ?? 'unknown'}, ${os.cpus().length} cores, ${process.platform} ${process.arch}, Node ${process.versions.node}`
  const all = await readAll()
  const isWanted = ({ name }: { readonly name: string }): boolean => name.includes(values.grep ?? '')
  const [questions, measurements] = [all.questions.filter(isWanted), all.measurements.filter(isWanted)]
  if (questions.length + measurements.length === 0) {
    process.stderr.write(`bench: no question has '${values.grep ?? ''}' in its name\n`)
    return 2
  }
  const recorded = values.check === true ? readRecorded() : undefined
  const figures: Figure[] = []
  const fallen: string[] = []
  const suspects: { readonly question: Question; readonly measured: readonly Figure[] }[] = []
  if (values.json !== true) process.stdout.write(`${machine}\n\n`)
  for (const question of questions) {
    process.stderr.write(`${question.name}...\r`)
    let measured = await measure(question)
    for (let again = 1; values.record === true && again < RECORDINGS; again += 1) measured = choose(measured, await measure(question), (a, b) => b < a)
    if (recorded !== undefined && fell(question, measured, recorded).length > 0) suspects.push({ question, measured })
    else figures.push(...measured)
    if (values.json !== true) for (const figure of measured) process.stdout.write(`${row(figure, recorded)}\n`)
  }
  const measured = await takeAll(measurements, values.json !== true)
  // What fell is asked again behind everything else, when whatever else the machine did may be over.
  for (const { question, measured: first } of suspects) {
    let best = first
    for (let again = 0; recorded !== undefined && again < REPEATS && fell(question, best, recorded).length > 0; again += 1) {
      process.stderr.write(`${question.name}, again...\r`)
      best = choose(best, await measure(question), (a, b) => b > a)
    }
    figures.push(...best)
    if (recorded !== undefined) fallen.push(...fell(question, best, recorded))
    if (values.json !== true) for (const figure of best) process.stdout.write(`${row(figure, recorded)}  (measured again)\n`)
  }
  const table = [...figures.map(({ name, baseline, ratio }) => held(name, `x ${baseline}`, ratio)), ...measured.map(({ name, unit, value }) => held(name, unit, value))].filter((each) => each !== undefined)
  if (values.json !== true && table.length > 0) process.stdout.write(`\n${table.map(heldLine).join('\n')}\n`)
  if (values.record === true) {
    const before = existsSync(BASELINES) && values.grep !== undefined ? readRecorded() : undefined
    const ratios = { ...before?.ratios, ...Object.fromEntries(figures.map((figure) => [figure.name, Number(figure.ratio.toPrecision(3))])) }
    const sizes = { ...before?.values, ...Object.fromEntries(measured.map(({ name, value }) => [name, Number(value.toPrecision(3))])) }
    writeFileSync(BASELINES, `${JSON.stringify({ machine, ratios, values: sizes } satisfies Recorded, null, 2)}\n`)
  }
  if (values.json === true) process.stdout.write(`${JSON.stringify({ machine, figures, held: table satisfies readonly Held[] }, null, 2)}\n`)
  for (const line of fallen) process.stderr.write(`bench: ${line}\n`)
  return fallen.length > 0 ? 1 : 0
}

interface Bench {
  questions?(): Promise<readonly Question[]> | readonly Question[]
  measurements?(): readonly Measurement[]
}

async function readAll(): Promise<{ readonly questions: readonly Question[]; readonly measurements: readonly Measurement[] }> {
  const files = readdirSync(HERE).filter((name) => name.endsWith('.bench.ts')).sort()
  const modules = await Promise.all(files.map(async (name) => (await import(`./${name}`)) as Bench))
  const questions = await Promise.all(modules.map((module) => module.questions?.() ?? []))
  return { questions: questions.flat(), measurements: modules.flatMap((module) => module.measurements?.() ?? []) }
}

interface Measured {
  readonly name: string
  readonly unit: string
  readonly value: number
}

async function takeAll(measurements: readonly Measurement[], shown: boolean): Promise<readonly Measured[]> {
  const taken: Measured[] = []
  for (const { name, unit, measure: take } of measurements) {
    process.stderr.write(`${name}...\r`)
    const value = await take()
    if (value === undefined) continue // not on this machine
    taken.push({ name, unit, value })
    if (shown) process.stdout.write(`${name.padEnd(46)} ${value.toPrecision(4).padStart(8)} ${unit}\n`)
  }
  return taken
}

function readRecorded(): Recorded {
  return JSON.parse(readFileSync(BASELINES, 'utf8')) as Recorded
}

function fell({ tolerance = TOLERANCE }: Question, figures: readonly Figure[], recorded: Recorded): readonly string[] {
  return figures.flatMap((figure) => {
    const before = recorded.ratios[figure.name]
    if (before === undefined || figure.ratio >= before * tolerance) return []
    return [`${figure.name} fell to ${figure.ratio.toFixed(2)} times ${figure.baseline}; ${before} is recorded (${recorded.machine})`]
  })
}

// Of each pair the second, where its ratio is preferred.
function choose(first: readonly Figure[], second: readonly Figure[], prefers: (first: number, second: number) => boolean): readonly Figure[] {
  return first.map((figure, i) => {
    const other = second[i]
    return other !== undefined && prefers(figure.ratio, other.ratio) ? other : figure
  })
}

function row(figure: Figure, recorded: Recorded | undefined): string {
  const before = recorded?.ratios[figure.name]
  const compared = before === undefined ? '' : `  recorded ${before.toFixed(2)}`
  return `${figure.name.padEnd(46)} ${figure.ratio.toFixed(2).padStart(8)} x ${figure.baseline.padEnd(22)} [${figure.min.toFixed(2)}..${figure.max.toFixed(2)}] ${rate(figure.rate).padStart(9)} ${figure.unit}/s${compared}`
}

function rate(value: number): string {
  return value >= 1e6 ? `${(value / 1e6).toFixed(2)} M` : value >= 1e3 ? `${(value / 1e3).toFixed(1)} k` : value.toFixed(1)
}

process.stdout.on('error', () => undefined) // whoever read it may have seen enough (`| head`)
main().then(
  (status) => {
    process.exitCode = status
  },
  (error: unknown) => {
    process.stderr.write(`bench: ${error instanceof Error ? (error instanceof TypeError && 'code' in error ? error.message : (error.stack ?? error.message)) : String(error)}\n`)
    process.exitCode = 2
  },
)
