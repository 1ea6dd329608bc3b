import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { cacheFolder, PROGRAMS, programPath } from '../../tests/interop/programs.ts'
import { median } from '../measure.ts'
import { retainedHeap, userspaceShare } from './children.ts'
import { buildOurs, Lab, type Opponent } from './lab.ts'
import { sample, type Sample } from './sample.ts'

const USAGE = `usage: npm run bench:dataplane [-- [--rounds N] [--short] [--json] [--check] [--record] [--only NAME,...]]

meshwright-wg and wireguard-go in turns, each between two network namespaces over veth, MTU 1420: ratios per round, their median and range.
  --rounds N  rounds (default 6)
  --short     two rounds of what is quick, for CI
  --json      print {machine, figures} alone on standard output
  --check     compare with benchmarks/baselines/dataplane.json: a CPU ratio that is worse by more than a third is measured again twice, then fails
  --record    write the medians there
  --only      opponents: go, go1, ours, wasm, portable (ours and go always)

Needs root, iperf3, ping, ip, koffi, and go to build wireguard-go with once; says what it left out.
Exit status: 0 measured, 1 a figure fell, 2 wrong usage.
`
const BASELINES = path.resolve(import.meta.dirname, '../baselines/dataplane.json')
const TOLERANCE = 0.75
const REPEATS = 2
const STAR_PEERS = 16
const SIGNALS = ['SIGINT', 'SIGTERM'] as const

/** A figure, as it is printed. */
interface Figure {
  readonly name: string
  readonly ratio?: number
  readonly value?: number
  readonly unit: string
  readonly min: number
  readonly max: number
  readonly rounds: number
  readonly baseline: string
  readonly must?: number
  readonly aim?: number
}

/** What must be reached, and what is aimed at; for some, less is better. */
const GOALS: Readonly<Record<string, { readonly must: number; readonly aim: number; readonly less?: true }>> = {
  'tcp-tun': { must: 1.25, aim: 1.7 },
  'udp-tun': { must: 2, aim: 3.2 },
  'cpu-tun': { must: 0.75, aim: 0.55, less: true },
  'tcp-tun-wasm': { must: 0.9, aim: 1.15 },
  'udp-clean': { must: 1.5, aim: 2.5 },
  ping: { must: 1, aim: 0.7, less: true },
  'tcp-64': { must: 1, aim: 1.3 },
  userspace: { must: 0.6, aim: 0.75 },
  rss: { must: 0.6, aim: 0.35, less: true },
  'retained-heap': { must: 0, aim: 0, less: true },
}

interface Settings {
  readonly rounds: number
  readonly short: boolean
  readonly only: readonly string[]
  readonly say: (line: string) => void
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: { rounds: { type: 'string' }, short: { type: 'boolean' }, json: { type: 'boolean' }, check: { type: 'boolean' }, record: { type: 'boolean' }, only: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
  })
  if (values.help === true) {
    process.stdout.write(USAGE)
    return 0
  }
  const rounds = Number(values.rounds ?? (values.short === true ? 2 : 6))
  if (!Number.isInteger(rounds) || rounds < 1) throw new RangeError(`--rounds takes a whole number\n\n${USAGE}`)
  const machine = `${os.cpus()[0]?.model ?? 'unknown'}, ${os.cpus().length} cores, Linux ${os.release()} ${process.arch}, Node ${process.versions.node}, load ${os.loadavg()[0]?.toFixed(1)}`
  const say = (line: string): void => void process.stderr.write(`${line}\n`)
  const settings: Settings = { rounds, short: values.short === true, only: values.only?.split(',') ?? ['go1', 'wasm'], say }
  const leftOut = whatIsMissing(say)
  let figures = await measureAll(settings, leftOut)
  const fallen = (): readonly string[] => (values.check === true ? fell(figures) : [])
  for (let again = 0; again < REPEATS && fallen().length > 0; again += 1) {
    say(`measured again: ${fallen().join(', ')}`)
    figures = await measureAll(settings, leftOut)
  }
  if (values.record === true) record(machine, figures)
  process.stdout.write(values.json === true ? `${JSON.stringify({ machine, figures, leftOut }, undefined, 2)}\n` : report(machine, figures, leftOut))
  for (const name of fallen()) say(`${name} fell under ${TOLERANCE} of what was recorded`)
  return fallen().length > 0 ? 1 : 0
}

/** Why figures are left out, one line each. */
function whatIsMissing(say: (line: string) => void): readonly string[] {
  if (process.platform !== 'linux') return ['all figures with a TUN device: they need Linux']
  if (process.getuid?.() !== 0) return ['all figures with a TUN device: they need root']
  if (!existsSync('/dev/net/tun')) return ['all figures with a TUN device: there is no /dev/net/tun']
  for (const [program, debian] of [['iperf3', 'iperf3'], ['ping', 'iputils-ping'], ['ip', 'iproute2']] as const) {
    if (spawnSync('sh', ['-c', `command -v ${program}`]).status === 0) continue
    say(`installing ${debian}...`)
    spawnSync('apt-get', ['install', '-y', '-qq', '--no-install-recommends', debian], { stdio: 'ignore', env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' } })
    if (spawnSync('sh', ['-c', `command -v ${program}`]).status !== 0) return [`all figures with a TUN device: ${program} is not installed (Debian package ${debian})`]
  }
  return wireguardGo(say) === undefined ? ['all figures with a TUN device: wireguard-go is not there and cannot be built'] : []
}

/** The opponent's file; built once. */
function wireguardGo(say: (line: string) => void): string | undefined {
  const program = PROGRAMS.find(({ name }) => name === 'wireguard')
  if (program === undefined || program.source.kind !== 'go') return undefined
  const file = programPath(program)
  if (existsSync(file)) return file
  say(`building wireguard-go ${program.version}...`)
  mkdirSync(path.dirname(file), { recursive: true })
  spawnSync('go', ['install', `${program.source.goPackage}@${program.version}`], { env: { ...process.env, GOBIN: path.dirname(file), GOFLAGS: '' }, cwd: cacheFolder(), stdio: 'ignore' })
  return existsSync(file) ? file : undefined
}

async function measureAll(settings: Settings, leftOut: readonly string[]): Promise<readonly Figure[]> {
  const figures: Figure[] = []
  const go = leftOut.length === 0 ? wireguardGo(settings.say) : undefined
  if (go !== undefined) figures.push(...(await measureTunnels(go, settings)))
  const share = await userspaceShare(settings.short ? 2 : 5)
  figures.push({ name: 'userspace', unit: 'packets per CPU second', baseline: 'the same loop without crypto', ...spread(share, 'ratio') })
  const heap = retainedHeap(settings.short ? 1e6 : 1e7)
  figures.push({ name: 'retained-heap', value: heap, unit: 'KiB', min: heap, max: heap, rounds: 1, baseline: `none; after ${settings.short ? '10^6' : '10^7'} packets` })
  return figures.map((figure) => ({ ...figure, ...pick(GOALS[figure.name]) }))
}

async function measureTunnels(go: string, { rounds, short, only, say }: Settings): Promise<readonly Figure[]> {
  const ours = buildOurs()
  const node = (name: string, env: Readonly<Record<string, string>>): Opponent => ({ name, file: process.execPath, args: [ours.file, '-f'], env: { LOG_LEVEL: 'silent', ...env } })
  const baseline: Opponent = { name: 'go', file: go, args: ['-f'], env: { LOG_LEVEL: 'silent' } }
  const opponents: readonly Opponent[] = [
    baseline,
    node('ours', {}),
    ...[{ ...baseline, name: 'go1', env: { GOMAXPROCS: '1' } }, node('wasm', { MESHWRIGHT_CRYPTO: 'wasm' }), node('portable', { MESHWRIGHT_DATAPLANE: 'portable' })].filter(({ name }) => only.includes(name)),
  ]
  const lab = new Lab()
  const abandon = (): void => {
    lab.abandon()
    ours.remove()
    process.exit(1)
  }
  for (const signal of SIGNALS) process.once(signal, abandon)
  try {
    const samples = new Map<string, Sample[]>(opponents.map(({ name }) => [name, []]))
    for (let round = 0; round < rounds; round += 1) {
      // The order turns, so that nobody always follows the same neighbour.
      for (let i = 0; i < opponents.length; i += 1) {
        const opponent = opponents[(i + round) % opponents.length]
        if (opponent === undefined) continue
        const isMain = opponent.name === 'go' || opponent.name === 'ours'
        const got = await sample(lab, opponent, { seconds: short ? 2 : 4, clean: isMain && !short, star: isMain && !short ? { peers: STAR_PEERS, spoke: baseline } : undefined })
        samples.get(opponent.name)?.push(got)
        say(`round ${round + 1} ${opponent.name.padEnd(8)} tcp ${got.tcpGbits.toFixed(2)} Gbit/s, cpu ${got.cpuPerGbit.toFixed(3)} s/Gbit, udp ${got.udpGbits.toFixed(2)} Gbit/s, ping ${got.pingMs} ms, rss ${got.rssMb.toFixed(0)} MB${got.cleanMbits === undefined ? '' : `, clean ${got.cleanMbits.toFixed(0)} Mbit/s`}${got.tcp64Gbits === undefined ? '' : `, 64 flows ${got.tcp64Gbits.toFixed(2)} Gbit/s`}`)
      }
    }
    return compare(samples)
  } finally {
    for (const signal of SIGNALS) process.off(signal, abandon)
    await lab.close()
    ours.remove()
  }
}

function compare(samples: ReadonlyMap<string, readonly Sample[]>): readonly Figure[] {
  const figures: Figure[] = []
  const add = (name: string, ours: string, baseline: string, of: (sample: Sample) => number | undefined, unit: string): void => {
    const [own, other] = [samples.get(ours) ?? [], samples.get(baseline) ?? []]
    const ratios = own.flatMap((each, round) => {
      const [a, b] = [of(each), other[round] && of(other[round])]
      return a === undefined || b === undefined ? [] : [a / b]
    })
    if (ratios.length > 0) figures.push({ name, unit, baseline: baseline === 'go1' ? 'wireguard-go, GOMAXPROCS=1' : 'wireguard-go', ...spread(ratios, 'ratio') })
  }
  const tcp = ({ tcpGbits }: Sample): number => tcpGbits
  const cpu = ({ cpuPerGbit }: Sample): number => cpuPerGbit
  const udp = ({ udpGbits }: Sample): number => udpGbits
  add('tcp-tun', 'ours', 'go', tcp, 'Gbit/s')
  add('udp-tun', 'ours', 'go', udp, 'Gbit/s')
  add('cpu-tun', 'ours', 'go', cpu, 'CPU s per Gbit')
  add('tcp-tun-go1', 'ours', 'go1', tcp, 'Gbit/s')
  add('udp-tun-go1', 'ours', 'go1', udp, 'Gbit/s')
  add('cpu-tun-go1', 'ours', 'go1', cpu, 'CPU s per Gbit')
  add('tcp-tun-wasm', 'wasm', 'go', tcp, 'Gbit/s')
  add('udp-tun-wasm', 'wasm', 'go', udp, 'Gbit/s')
  add('cpu-tun-wasm', 'wasm', 'go', cpu, 'CPU s per Gbit')
  add('tcp-tun-portable', 'portable', 'go', tcp, 'Gbit/s')
  add('udp-clean', 'ours', 'go', ({ cleanMbits }) => cleanMbits, 'Mbit/s')
  add('ping', 'ours', 'go', ({ pingMs }) => pingMs, 'ms')
  add('tcp-64', 'ours', 'go', ({ tcp64Gbits }) => tcp64Gbits, 'Gbit/s')
  add('rss', 'ours', 'go', ({ rssMb }) => rssMb, 'MB')
  return figures
}

function spread(values: readonly number[], kind: 'ratio' | 'value'): { readonly ratio?: number; readonly value?: number; readonly min: number; readonly max: number; readonly rounds: number } {
  const middle = round3(median(values))
  return { ...(kind === 'ratio' ? { ratio: middle } : { value: middle }), min: round3(Math.min(...values)), max: round3(Math.max(...values)), rounds: values.length }
}

function pick(goal: (typeof GOALS)[string] | undefined): { readonly must?: number; readonly aim?: number } {
  return goal === undefined ? {} : { must: goal.must, aim: goal.aim }
}

function round3(value: number): number {
  return Math.round(value * 1000) / 1000
}

function report(machine: string, figures: readonly Figure[], leftOut: readonly string[]): string {
  const lines = figures.map(({ name, ratio, value, unit, min, max, rounds, baseline, must, aim }) => {
    const got = ratio ?? value ?? Number.NaN
    const less = GOALS[name]?.less === true
    const verdict = must === undefined ? '' : (less ? got <= must : got >= must) ? 'met' : 'NOT MET'
    return `${name.padEnd(18)}${String(got).padStart(7)}  [${min} to ${max}]  ${rounds} rounds  ${unit}, against ${baseline}${must === undefined ? '' : `; must ${must}, aim ${aim}: ${verdict}`}`
  })
  return `${machine}\n\n${lines.join('\n')}\n${leftOut.map((line) => `left out: ${line}\n`).join('')}`
}

/** CPU ratios that are worse than recorded by more than the tolerance. */
function fell(figures: readonly Figure[]): readonly string[] {
  if (!existsSync(BASELINES)) return []
  const { ratios } = JSON.parse(readFileSync(BASELINES, 'utf8')) as { readonly ratios: Readonly<Record<string, number>> }
  return figures.flatMap(({ name, ratio }) => {
    const recorded = ratios[name]
    return name === 'cpu-tun' && recorded !== undefined && ratio !== undefined && ratio * TOLERANCE > recorded ? [name] : []
  })
}

function record(machine: string, figures: readonly Figure[]): void {
  const ratios = Object.fromEntries(figures.flatMap(({ name, ratio, value }) => (ratio === undefined && value === undefined ? [] : [[name, ratio ?? value]])))
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD']).toString().trim()
  writeFileSync(BASELINES, `${JSON.stringify({ machine, commit, ratios, figures }, undefined, 2)}\n`)
}

main().then(
  (status) => {
    process.exitCode = status
  },
  (error: unknown) => {
    process.stderr.write(`bench:dataplane: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`)
    process.exitCode = error instanceof RangeError ? 2 : 1
  },
)
