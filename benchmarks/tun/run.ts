import { readFileSync } from 'node:fs'
import os from 'node:os'
import { parseArgs } from 'node:util'
import { bundlePrograms, OurControl, OurNode, OurRelay, type OurPrograms } from '../../tests/interop/lab-ours.ts'
import { interfaceAddress, Lab, type LabProcess, type RunResult } from '../../tests/interop/lab-process.ts'
import { Space, whyNoSpaces } from '../../tests/interop/lab-space.ts'
import { Tailscaled } from '../../tests/interop/lab-tailscaled.ts'

// One question: how much does a pair of our nodes with TUN devices carry between two kernels, beside a pair of real tailscaled in the same run?
const USAGE = `usage: node --conditions=@meshwright/source --import tsx benchmarks/tun/run.ts [--rounds N] [--seconds N] [--relay]

TCP of iperf3, one connection, between two network namespaces that a wire joins; meshwrightd with --tun at both ends, the same with
MESHWRIGHT_DATAPLANE=portable, and tailscaled with its TUN device, in turns. Needs Linux, root, koffi, iperf3, and tailscaled in MESHWRIGHT_INTEROP_BIN: without it only ours is measured, and no ratio is given.
`
const PINGS = 100
/** Packets one by one through Node, as where there are no offloads. */
const PORTABLE = { MESHWRIGHT_DATAPLANE: 'portable' }

/** A node with a TUN device. */
interface TunNode {
  readonly pid: number | undefined
  ip(): Promise<string>
  inside(file: string, args: readonly string[], timeoutMs?: number): Promise<RunResult>
  run(args: readonly string[]): Promise<RunResult>
}

interface Round {
  readonly megabitsPerSecond: number
  readonly cpuSecondsPerGigabit: number
  readonly latencyMs: number
}

/** Processor time of a process so far, in seconds: fields 14 and 15 of /proc/PID/stat, proc(5). */
function cpuSeconds(pid: number | undefined): number {
  if (pid === undefined) return Number.NaN
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
  return (Number(fields[11]) + Number(fields[12])) / 100
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[sorted.length >> 1] ?? Number.NaN
}

/** What iperf3 tells as JSON, as far as it is read. */
interface IperfReport {
  readonly error?: string
  readonly end: { readonly sum_received: { readonly bits_per_second: number; readonly bytes: number } }
}

async function measure(lab: Lab, pair: readonly [TunNode, TunNode], spaces: readonly [Space, Space], seconds: number): Promise<Round> {
  const [from, to] = pair
  const ip = await to.ip()
  const server: LabProcess = lab.start('iperf3', 'ip', ['netns', 'exec', spaces[1].name, 'iperf3', '-s', '-1', '-B', ip, '--forceflush'])
  await lab.until('iperf3 listens', () => server.log.includes('listening'))
  const before = cpuSeconds(from.pid) + cpuSeconds(to.pid)
  const { out } = await from.inside('iperf3', ['-c', ip, '-t', String(seconds), '-J'], (seconds + 30) * 1000)
  const spent = cpuSeconds(from.pid) + cpuSeconds(to.pid) - before
  const report = JSON.parse(out) as IperfReport // iperf3's own words
  if (report.error !== undefined) throw new Error(`iperf3: ${report.error}`)
  await server.stop()
  const { bits_per_second, bytes } = report.end.sum_received
  const ping = await from.inside('ping', ['-n', '-q', '-i', '0.01', '-c', String(PINGS), ip])
  const latencyMs = Number(/= [\d.]+\/([\d.]+)\//.exec(ping.out)?.[1] ?? Number.NaN)
  return { megabitsPerSecond: bits_per_second / 1e6, cpuSecondsPerGigabit: spent / ((bytes * 8) / 1e9), latencyMs }
}

/** Two computers on a wire. */
async function twoSpaces(lab: Lab, label: string, url: string): Promise<readonly [Space, Space]> {
  const spaces = [await Space.make(lab, `${label}a`, { url }), await Space.make(lab, `${label}b`, { url })] as const
  await spaces[0].join(spaces[1])
  return spaces
}

async function ours(lab: Lab, programs: OurPrograms, spaces: readonly [Space, Space], url: string, key: string, name: string, flags: readonly string[], env: Readonly<Record<string, string>>): Promise<readonly [OurNode, OurNode]> {
  const pair = [new OurNode(lab, programs, `${name}-a`, flags, env, spaces[0].name), new OurNode(lab, programs, `${name}-b`, flags, env, spaces[1].name)] as const
  await Promise.all(pair.map((node) => node.start()))
  await Promise.all(pair.map((node) => node.up(url, key)))
  return pair
}

async function theirs(lab: Lab, bin: string, spaces: readonly [Space, Space], url: string, key: string, relayOnly: boolean): Promise<readonly [Tailscaled, Tailscaled]> {
  const pair = [new Tailscaled(lab, bin, 'real-a', { netns: spaces[0].name, relayOnly }), new Tailscaled(lab, bin, 'real-b', { netns: spaces[1].name, relayOnly })] as const
  await Promise.all(pair.map((node) => node.start()))
  await Promise.all(pair.map((node) => node.up(url, key, '--netfilter-mode=off')))
  return pair
}

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { rounds: { type: 'string', default: '5' }, seconds: { type: 'string', default: '5' }, relay: { type: 'boolean', default: false }, help: { type: 'boolean', short: 'h' } } })
  if (values.help === true) {
    process.stdout.write(USAGE)
    return 0
  }
  const say = (line: string): void => void process.stderr.write(`${line}\n`)
  const reason = whyNoSpaces()
  if (reason !== undefined) {
    say(`bench:tun: ${reason}`)
    return 2
  }
  const bin = process.env['MESHWRIGHT_INTEROP_BIN'] ?? ''
  const lab = new Lab()
  try {
    const programs = await bundlePrograms(lab)
    const relay = new OurRelay(lab, programs)
    await relay.start(interfaceAddress() ?? '127.0.0.1')
    const control = new OurControl(lab, programs)
    await control.start(relay.mapFile)
    const alice = await control.createUser('alice')
    await control.setPolicy({ acls: [{ action: 'accept', src: ['*'], dst: ['*:*'] }] })
    const key = await control.authKey('-u', alice, '--reusable')
    const pairs: { readonly name: string; readonly nodes: readonly [TunNode, TunNode]; readonly spaces: readonly [Space, Space]; readonly rounds: Round[] }[] = []
    const flags = values.relay ? ['--block-udp'] : []
    for (const [name, env] of [['ours', {}], ['portable', PORTABLE]] as const) {
      const spaces = await twoSpaces(lab, name, control.url)
      pairs.push({ name, spaces, nodes: await ours(lab, programs, spaces, control.url, key, name, flags, env), rounds: [] })
    }
    if (bin === '') say('left out: tailscaled (MESHWRIGHT_INTEROP_BIN is not set)')
    else {
      const others = await twoSpaces(lab, 'real', control.url)
      pairs.push({ name: 'tailscaled', spaces: others, nodes: await theirs(lab, bin, others, control.url, key, values.relay), rounds: [] })
    }
    for (const { name, nodes: [from, to] } of pairs) {
      const ip = await to.ip()
      await lab.until(`${name} is connected`, async () => (await from.inside('ping', ['-n', '-q', '-c', '1', '-W', '2', ip])).status === 0)
      if (!values.relay) await lab.until(`${name} is direct`, async () => / via (?!DERP)[^ ]*:\d+ in/.test((await from.run(['ping', '--c', '10', '--timeout', '2s', ip])).out))
    }
    for (let round = 0; round <= Number(values.rounds); round += 1) {
      for (const pair of pairs) {
        const result = await measure(lab, pair.nodes, pair.spaces, Number(values.seconds))
        say(`${round === 0 ? 'warm-up' : `round ${round}`} ${pair.name.padEnd(10)} ${result.megabitsPerSecond.toFixed(0).padStart(6)} Mbit/s  ${result.cpuSecondsPerGigabit.toFixed(2)} CPU s/Gbit  ${result.latencyMs.toFixed(2)} ms`)
        if (round > 0) pair.rounds.push(result)
      }
    }
    const of = (name: string, what: keyof Round): number => median(pairs.find((pair) => pair.name === name)?.rounds.map((round) => round[what]) ?? [])
    const figure = (name: string, what: keyof Round): object => ({
      name, ratio: of('ours', what) / of('tailscaled', what), portableRatio: of('portable', what) / of('tailscaled', what), ours: of('ours', what), portable: of('portable', what), baseline: of('tailscaled', what), rounds: Number(values.rounds),
    })
    const machine = `${os.cpus()[0]?.model ?? '?'} x ${os.cpus().length}, Node ${process.version}`
    const figures = [figure('tun-throughput', 'megabitsPerSecond'), figure('tun-latency-mean', 'latencyMs'), figure('tun-cpu', 'cpuSecondsPerGigabit')]
    process.stdout.write(`${JSON.stringify({ machine, load: os.loadavg()[0], path: values.relay ? 'relay' : 'direct', figures }, null, 2)}\n`)
    return 0
  } finally {
    await lab.stop()
  }
}

main().then(
  (status) => (process.exitCode = status),
  (error: unknown) => {
    process.stderr.write(`bench:tun: ${error instanceof Error ? error.message : String(error)}\n`)
    process.exitCode = 1
  },
)
