import { readdirSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { collectTargets, type FuzzTarget, takeTargets } from './targets.ts'

const DECODER_INPUTS = 20_000
const DEFAULT_SEED = 1
const PROGRESS_MS = 1_000

const USAGE = `usage: npm run fuzz [-- --count N --package NAME --target TEXT --seed S --json]

Feeds everything that eats bytes from the network with random and mutated inputs. The whole WireGuard device gets 1000000 datagrams, every decoder
${DECODER_INPUTS} inputs.
  --count N       so many inputs for each target
  --package NAME  only targets of this package (a file of tests/fuzz without its ending)
  --target TEXT   only targets whose name holds TEXT
  --seed S        another sequence of inputs (default ${DEFAULT_SEED}); the same seed gives the same inputs
  --json          print {seed, targets} alone on standard output

Exit status: 0 all held, 1 a rule was broken (seed and input are told), 2 wrong usage.
`

interface Result {
  readonly package: string
  readonly target: string
  readonly ok: boolean
  readonly inputs: number
  readonly ms: number
  readonly grownBytes?: number
  readonly outcomes?: Readonly<Record<string, number>>
  readonly error?: string
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: { count: { type: 'string' }, package: { type: 'string' }, target: { type: 'string' }, seed: { type: 'string' }, json: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
  })
  if (values.help === true) {
    process.stdout.write(USAGE)
    return 0
  }
  const count = values.count === undefined ? undefined : wholeNumber('--count', values.count, 1)
  const seed = values.seed === undefined ? DEFAULT_SEED : wholeNumber('--seed', values.seed, 0)
  const targets = (await allTargets(values.package)).filter(({ target }) => target.name.includes(values.target ?? ''))
  if (targets.length === 0) throw new UsageError('no target is called so')
  const results: Result[] = []
  for (const { name, target } of targets) {
    const result = runOne(name, target, count ?? target.defaultInputs ?? DECODER_INPUTS, seed)
    results.push(result)
    if (values.json !== true) process.stdout.write(`${line(result)}\n`)
  }
  const failed = results.filter((result) => !result.ok)
  if (values.json === true) process.stdout.write(`${JSON.stringify({ seed, targets: results }, undefined, 2)}\n`)
  else process.stdout.write(`\n${results.length - failed.length} of ${results.length} targets held, ${results.reduce((sum, each) => sum + each.inputs, 0)} inputs, seed ${seed}\n`)
  return failed.length === 0 ? 0 : 1
}

function runOne(name: string, target: FuzzTarget, inputs: number, seed: number): Result {
  const begun = performance.now()
  let told = begun
  const progress = (done: number): void => {
    const now = performance.now()
    if (now - told < PROGRESS_MS || !process.stderr.isTTY) return
    told = now
    process.stderr.write(`${name}, ${target.name}: ${done} of ${inputs}\r`)
  }
  const common = { package: name, target: target.name, inputs }
  try {
    const report = target.run(inputs, seed, progress)
    return { ...common, ok: true, ms: Math.round(performance.now() - begun), grownBytes: report.grownBytes, ...(report.outcomes !== undefined && { outcomes: report.outcomes }) }
  } catch (error) {
    const cause = error instanceof Error && error.cause instanceof Error ? `\n  ${error.cause.stack ?? error.cause.message}` : ''
    return { ...common, ok: false, ms: Math.round(performance.now() - begun), error: `${error instanceof Error ? error.message : String(error)}${cause}` }
  }
}

function line(result: Result): string {
  if (!result.ok) return `FAILED ${result.package}, ${result.target}: ${result.error ?? ''}`
  const outcomes = result.outcomes === undefined ? '' : `\n         ${Object.entries(result.outcomes).map(([what, times]) => `${what} ${times}`).join(', ')}`
  return `ok     ${result.package}, ${result.target}: ${result.inputs} inputs in ${(result.ms / 1000).toFixed(1)} s${outcomes}`
}

async function allTargets(wanted: string | undefined): Promise<readonly { readonly name: string; readonly target: FuzzTarget }[]> {
  collectTargets()
  const files = readdirSync(import.meta.dirname).filter((file) => file.endsWith('.test.ts')).sort()
  const names = files.map((file) => file.slice(0, -'.test.ts'.length))
  if (wanted !== undefined && !names.includes(wanted)) throw new UsageError(`no package '${wanted}'; there are ${names.join(', ')}`)
  const found: { readonly name: string; readonly target: FuzzTarget }[] = []
  for (const name of names) {
    if (wanted !== undefined && name !== wanted) continue
    await import(path.join(import.meta.dirname, `${name}.test.ts`))
    for (const target of takeTargets()) found.push({ name, target })
  }
  return found
}

class UsageError extends Error {}

function wholeNumber(option: string, text: string, least: number): number {
  const value = Number(text)
  if (!Number.isSafeInteger(value) || value < least) throw new UsageError(`${option} takes a whole number from ${least}`)
  return value
}

process.stdout.on('error', () => undefined) // whoever read it may have seen enough (`| head`)
try {
  process.exitCode = await main()
} catch (error) {
  process.stderr.write(`fuzz: ${error instanceof Error ? error.message : String(error)}\n${USAGE}`)
  process.exitCode = 2
}
