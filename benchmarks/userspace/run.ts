import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { build } from 'esbuild'
import { OurNode, type OurPrograms } from '../../tests/interop/lab-ours.ts'
import { Lab } from '../../tests/interop/lab-process.ts'
import { Tailscaled } from '../../tests/interop/lab-tailscaled.ts'
import { startTailnet } from '../tailnet.ts'
import { GOODPUT_LINE, measureGoodput } from './goodput.ts'
import { measureMemory } from './memory.ts'
import { measure, median, type Round, type SocksNode, startSource } from './throughput.ts'

const USAGE = `usage: npm run bench:userspace [-- --rounds N] [--mb N] [--relay] [--portable] [--json] [--record] [--profile FOLDER]
       npm run bench:userspace -- --only-ours [...]
       npm run bench:userspace -- --goodput [--rounds N] [--json] [--record]
       npm run bench:userspace -- --memory

Bytes through two nodes in userspace mode, from SOCKS5 port to SOCKS5 port: two of ours, and two real tailscaled, in turns; then single
bytes there and back. Each figure is the median of the rounds' ratios, ours to tailscaled's. The last line of each tells whether the must is
met; the command ends with status 1 where one is missed, or nothing could be measured.

  --rounds N        measured rounds, after one to warm up (default 5)
  --mb N            megabytes a round (default 50)
  --relay           no UDP: all by our relay
  --portable        a third pair: ours as it is without the optional package koffi (MESHWRIGHT_DATAPLANE=portable, MESHWRIGHT_CRYPTO=wasm)
  --only-ours       without tailscaled, and so without ratios
  --profile FOLDER  CPU profiles of our two daemons (slower)
  --json            {machine, path, figures} on standard output
  --record          writes benchmarks/baselines/userspace.json, with --goodput goodput.json
  --memory          what an idle node with 100 peers and 1,000 filter rules costs that is not the first of its process: must 25 MB; needs no
                    other program
  --goodput         the stack alone on a line that loses packets, beside gVisor's (set up as tailscaled sets it up) and the kernel's on
                    lines that lose the same. Needs tcp-peer in MESHWRIGHT_INTEROP_BIN, and root.

Needs tailscaled and tailscale in the folder MESHWRIGHT_INTEROP_BIN.
`
const BASELINES = path.resolve(import.meta.dirname, '../baselines/userspace.json')
const GOODPUT_BASELINES = path.resolve(import.meta.dirname, '../baselines/goodput.json')
const FIGURES = [
  { name: 'userspace-throughput', what: 'megabitsPerSecond', unit: 'Mbit/s', must: 0.2, aim: 0.5 },
  { name: 'userspace-latency-p50', what: 'latencyMs', unit: 'ms', must: 1.3, less: true },
  { name: 'userspace-cpu', what: 'cpuSecondsPerGigabit', unit: 'CPU s per Gbit' },
] as const
type Goal = (typeof FIGURES)[number]

interface Figure {
  readonly name: string
  readonly unit: string
  readonly ratio: number
  readonly min: number
  readonly max: number
  readonly ours: number
  readonly baseline: number
  readonly must?: number
  readonly aim?: number
  readonly met?: boolean
  readonly rounds: number
}

interface Pair {
  readonly name: 'ours' | 'portable' | 'tailscaled'
  readonly nodes: readonly [SocksNode, SocksNode]
  readonly rounds: Round[]
}

interface Settings {
  readonly rounds: number
  readonly bytes: number
  readonly relay: boolean
  readonly portable: boolean
  readonly bin: string | undefined
  readonly profile: string | undefined
  readonly say: (line: string) => void
}

async function ours(lab: Lab, programs: OurPrograms, join: readonly [string, string], name: string, flags: readonly string[], env: Readonly<Record<string, string>>): Promise<readonly [OurNode, OurNode]> {
  const pair = [new OurNode(lab, programs, `${name}-a`, flags, env), new OurNode(lab, programs, `${name}-b`, flags, env)] as const
  await Promise.all(pair.map((node) => node.start()))
  await Promise.all(pair.map((node) => node.up(...join)))
  return pair
}

async function theirs(lab: Lab, bin: string, join: readonly [string, string], relay: boolean): Promise<readonly [Tailscaled, Tailscaled]> {
  const pair = [new Tailscaled(lab, bin, 'real-a', { relayOnly: relay }), new Tailscaled(lab, bin, 'real-b', { relayOnly: relay })] as const
  await Promise.all(pair.map((node) => node.start()))
  await Promise.all(pair.map((node) => node.up(...join)))
  return pair
}

async function bundlePreload(lab: Lab): Promise<string> {
  const outfile = lab.at('profile-preload.mjs')
  await build({ entryPoints: [path.join(import.meta.dirname, 'profile-preload.ts')], outfile, platform: 'node', format: 'esm' })
  return outfile
}

async function measurePairs({ rounds, bytes, relay: isRelayed, portable, bin, profile, say }: Settings): Promise<readonly Pair[]> {
  const lab = new Lab()
  const source = await startSource()
  try {
    const { programs, control, authKey } = await startTailnet(lab, [{ action: 'accept', src: ['*'], dst: ['*:*'] }])
    const join = [control.url, authKey] as const
    const flags = isRelayed ? ['--block-udp'] : []
    const env: Readonly<Record<string, string>> = profile === undefined ? {} : { NODE_OPTIONS: `--import ${await bundlePreload(lab)}`, MESHWRIGHT_BENCH_PROFILE: path.resolve(profile) }
    const pairs: Pair[] = [{ name: 'ours', nodes: await ours(lab, programs, join, 'ours', flags, env), rounds: [] }]
    if (portable) pairs.push({ name: 'portable', nodes: await ours(lab, programs, join, 'portable', flags, { MESHWRIGHT_DATAPLANE: 'portable', MESHWRIGHT_CRYPTO: 'wasm' }), rounds: [] })
    if (bin !== undefined) pairs.push({ name: 'tailscaled', nodes: await theirs(lab, bin, join, isRelayed), rounds: [] })
    for (let round = 0; round <= rounds; round += 1) {
      for (const pair of pairs) {
        const result = await measure(pair.nodes[0], pair.nodes[1], source.port, bytes)
        say(`${round === 0 ? 'warm-up' : `round ${round}`} ${pair.name.padEnd(10)} ${result.megabitsPerSecond.toFixed(0).padStart(6)} Mbit/s  ${result.cpuSecondsPerGigabit.toFixed(2)} CPU s/Gbit  ${result.latencyMs.toFixed(2)} ms`)
        if (round > 0) pair.rounds.push(result)
      }
    }
    return pairs
  } finally {
    source.close()
    await lab.stop()
  }
}

/** Ratios of rounds that stand beside each other: what else the computer did touched both alike. */
function figure(goal: Goal, pair: Pair, baseline: Pair): Figure {
  const { what } = goal
  const ratios = pair.rounds.map((round, i) => round[what] / (baseline.rounds[i]?.[what] ?? Number.NaN))
  const ratio = median(ratios)
  const held = 'must' in goal ? { must: goal.must, ...('aim' in goal && { aim: goal.aim }), met: 'less' in goal ? ratio <= goal.must : ratio >= goal.must } : {}
  const name = pair.name === 'ours' ? goal.name : `${goal.name}-${pair.name}`
  const of = (rounds: readonly Round[]): number => three(median(rounds.map((round) => round[what])))
  return { name, unit: goal.unit, ratio: three(ratio), min: three(Math.min(...ratios)), max: three(Math.max(...ratios)), ours: of(pair.rounds), baseline: of(baseline.rounds), ...held, rounds: ratios.length }
}

function three(value: number): number {
  return Number(value.toPrecision(3))
}

function line({ name, unit, ratio, min, max, ours: own, baseline, must, aim, met }: Figure): string {
  const verdict = must === undefined ? '' : `; must ${must}${aim === undefined ? '' : `, aim ${aim}`}: ${met === true ? 'met' : 'NOT MET'}`
  return `${name.padEnd(32)} ${String(ratio).padStart(6)} x tailscaled [${min} to ${max}]  (${own} against ${baseline} ${unit})${verdict}`
}

function positive(name: string, text: string): number {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 1) throw new RangeError(`--${name} takes a whole number from 1 on, not '${text}'`)
  return value
}

async function main(): Promise<number> {
  const flag = { type: 'boolean', default: false } as const
  const { values } = parseArgs({ options: { rounds: { type: 'string', default: '5' }, mb: { type: 'string', default: '50' }, relay: flag, portable: flag, 'only-ours': flag, profile: { type: 'string' }, json: flag, record: flag, goodput: flag, memory: flag, help: { type: 'boolean', short: 'h' } } })
  if (values.help === true) {
    process.stdout.write(USAGE)
    return 0
  }
  const rounds = positive('rounds', values.rounds)
  const bytes = positive('mb', values.mb) * 1e6
  const say = (text: string): void => void process.stderr.write(`${text}\n`)
  const machine = `${os.cpus()[0]?.model ?? '?'}, ${os.cpus().length} cores, Linux ${os.release()} ${process.arch}, Node ${process.versions.node}, load ${os.loadavg()[0]?.toFixed(1) ?? '?'}`
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8', cwd: import.meta.dirname }).trim()
  if (values.memory === true) return measureMemory()
  if (values.goodput) {
    const figures = await measureGoodput(rounds, say)
    const report = `${JSON.stringify({ machine, commit, line: GOODPUT_LINE, figures }, null, 2)}\n`
    if (values.json) process.stdout.write(report)
    else for (const { name, ratio, ours: own, baseline, must, aim } of figures) process.stdout.write(`${name.padEnd(46)} ${ratio.toFixed(2).padStart(6)} x (${own.toFixed(2)} against ${baseline.toFixed(2)} Mbit/s); must ${must}, aim ${aim}: ${ratio >= must ? 'met' : 'NOT MET'}\n`)
    if (values.record) writeFileSync(GOODPUT_BASELINES, report)
    return figures.some(({ ratio, must }) => !(ratio >= must)) ? 1 : 0
  }
  const bin = process.env['MESHWRIGHT_INTEROP_BIN'] ?? ''
  if (bin === '' && !values['only-ours']) {
    say('bench:userspace: MESHWRIGHT_INTEROP_BIN names no folder with tailscaled and tailscale, and without them there is no ratio (--only-ours measures ours alone)')
    return 1
  }
  const pairs = await measurePairs({ rounds, bytes, relay: values.relay, portable: values.portable, bin: values['only-ours'] ? undefined : bin, profile: values.profile, say })
  const baseline = pairs.find(({ name }) => name === 'tailscaled')
  const figures = baseline === undefined ? [] : pairs.flatMap((pair) => (pair === baseline ? [] : FIGURES.map((goal) => figure(goal, pair, baseline))))
  const report = `${JSON.stringify({ machine, commit, path: values.relay ? 'relay' : 'direct', figures }, null, 2)}\n`
  if (values.json) process.stdout.write(report)
  else for (const each of figures) process.stdout.write(`${line(each)}\n`)
  if (values.record && figures.length > 0) writeFileSync(BASELINES, report)
  return figures.some(({ met }) => met === false) ? 1 : 0
}

process.stdout.on('error', () => undefined) // whoever read it may have seen enough (`| head`)
main().then(
  (status) => (process.exitCode = status),
  (error: unknown) => {
    process.stderr.write(`bench:userspace: ${error instanceof Error ? error.message : String(error)}\n`)
    process.exitCode = error instanceof RangeError || (error instanceof TypeError && 'code' in error) ? 2 : 1
  },
)
