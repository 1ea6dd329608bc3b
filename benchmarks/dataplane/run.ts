import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { retainedHeap, userspaceShare } from './children.ts'
import { checkCpu } from './check.ts'
import { leftOutStatus } from './check-rule.ts'
import { figure, type Figure, GOALS, isMet, report, withoutRounds } from './goals.ts'
import { goProgram, whyNoTunnels } from './needs.ts'
import { measureTunnels, TUNNEL_FIGURE_NAMES } from './tunnels.ts'

const USAGE = `usage: npm run bench:dataplane [-- [--rounds N] [--seconds N] [--figure NAME,...] [--json] [--record] | --check]

The data plane against real programs, in turns within each round: ratios per round, their median and range, and medians of both. meshwright-wg
and wireguard-go between two network namespaces over veth, MTU 1420; a pair of meshwrightd with TUN devices and a pair of tailscaled in a
tailnet of 102 nodes with 1,000 rules for packets.
  --rounds N     rounds (default 6)
  --seconds N    so long each flow (default 4)
  --figure NAME  only these: ${[...TUNNEL_FIGURE_NAMES, 'userspace', 'retained-heap'].join(', ')}; tcp-tun-portable only when it is named
  --json         print {machine, figures, leftOut} alone on standard output
  --record       write the figures to benchmarks/baselines/dataplane.json
  --check        the short form: only cpu-tun, against what is recorded there; when recorded / measured falls under 0.75 it is measured again
                 twice, then it has failed (under 90 seconds); where it cannot be measured it fails with REQUIRE_INTEROP=1 alone

Needs root, iperf3, ping, ip, koffi, and go to build wireguard-go and tailscaled with once; says what it left out.
Exit status: 0 all that was measured is as it must be, 1 a figure misses its "must" (with --check: has fallen), 2 wrong usage.
`
const BASELINES = path.resolve(import.meta.dirname, '../baselines/dataplane.json')
const DEFAULT_ROUNDS = 6
const DEFAULT_SECONDS = 4
const PACKETS = 1e7

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string' }, seconds: { type: 'string' }, figure: { type: 'string', multiple: true }, json: { type: 'boolean' }, check: { type: 'boolean' }, record: { type: 'boolean' },
      baseline: { type: 'string', default: BASELINES }, help: { type: 'boolean', short: 'h' },
    },
  })
  if (values.help === true) {
    process.stdout.write(USAGE)
    return 0
  }
  const say = (line: string): void => void process.stderr.write(`${line}\n`)
  const noTunnels = whyNoTunnels(say)
  const go = noTunnels === undefined ? goProgram('wireguard', say) : undefined
  const whyNot = noTunnels ?? (go === undefined ? 'wireguard-go is not there and cannot be built' : undefined)
  if (values.check === true) {
    if (go === undefined) return leftOutStatus(whyNot ?? 'all', process.env['REQUIRE_INTEROP'] === '1', say)
    return checkCpu(go, recordedRatio(values.baseline, 'cpu-tun'), say)
  }
  const rounds = wholeNumber(values.rounds, DEFAULT_ROUNDS, '--rounds')
  const seconds = wholeNumber(values.seconds, DEFAULT_SECONDS, '--seconds')
  const named = new Set(values.figure?.flatMap((text) => text.split(',')))
  const unknown = [...named].find((name) => ![...TUNNEL_FIGURE_NAMES, 'userspace', 'retained-heap'].includes(name))
  if (unknown !== undefined) throw new RangeError(`there is no figure ${unknown}\n\n${USAGE}`)
  // What ends in "!" is only measured when it is named.
  const wants = (name: string): boolean => (name.endsWith('!') ? named.has(name.slice(0, -1)) : named.size === 0 || named.has(name))
  const machine = `${os.cpus()[0]?.model ?? 'unknown'}, ${os.cpus().length} cores, Linux ${os.release()} ${process.arch}, Node ${process.versions.node}, ${congestionControl()}, load ${os.loadavg()[0]?.toFixed(1)}`
  const leftOut: string[] = []
  const figures: Figure[] = []
  if (TUNNEL_FIGURE_NAMES.some((name) => wants(name) || named.has(name))) {
    if (go === undefined) leftOut.push(`all figures with a TUN device: ${whyNot}`)
    else figures.push(...(await measureTunnels({ rounds, seconds, wants, say, go, tailscale: tailscalePrograms(wants, say, leftOut) })))
  }
  leftOut.push(...withoutRounds(TUNNEL_FIGURE_NAMES.filter((name) => go !== undefined && (named.has(name) || (wants(name) && name !== 'tcp-tun-portable'))), figures, leftOut))
  if (wants('userspace')) figures.push(figure('userspace', 'packets per CPU second', 'the same loop without crypto', 'ratio', await userspaceShare(rounds)))
  if (wants('retained-heap')) figures.push(figure('retained-heap', 'KiB', `none; after ${PACKETS.toExponential()} packets`, 'value', [retainedHeap(PACKETS)]))
  if (values.record === true) record(values.baseline, machine, figures, leftOut)
  process.stdout.write(values.json === true ? `${JSON.stringify({ machine, figures, leftOut }, undefined, 2)}\n` : report(machine, figures, leftOut))
  const missed = figures.filter((each) => !isMet(each))
  for (const { name, ratio, value } of missed) say(`${name} is ${ratio ?? value} and must be ${GOALS[name]?.must ?? '?'}`)
  return missed.length > 0 ? 1 : 0
}

function tailscalePrograms(wants: (name: string) => boolean, say: (line: string) => void, leftOut: string[]): readonly string[] | undefined {
  if (!['tcp-mesh', 'cpu-mesh', 'rss-mesh'].some(wants)) return undefined
  const files = ['tailscaled', 'tailscale'].flatMap((name) => goProgram(name, say) ?? [])
  if (files.length === 2) return files
  leftOut.push('tcp-mesh, cpu-mesh, rss-mesh: tailscaled is not there and cannot be built')
  return undefined
}

function wholeNumber(text: string | undefined, otherwise: number, flag: string): number {
  const value = Number(text ?? otherwise)
  if (!Number.isInteger(value) || value < 1) throw new RangeError(`${flag} takes a whole number\n\n${USAGE}`)
  return value
}

function congestionControl(): string {
  const file = '/proc/sys/net/ipv4/tcp_congestion_control'
  return existsSync(file) ? `TCP ${readFileSync(file, 'utf8').trim()}` : 'TCP unknown'
}

function recordedRatio(file: string, name: string): number {
  const recorded: unknown = JSON.parse(readFileSync(file, 'utf8'))
  const figures = typeof recorded === 'object' && recorded !== null && 'figures' in recorded && Array.isArray(recorded.figures) ? recorded.figures : []
  const ratio: unknown = figures.find((each: unknown) => typeof each === 'object' && each !== null && 'name' in each && each.name === name)?.ratio
  if (typeof ratio !== 'number' || !(ratio > 0)) throw new RangeError(`${file} holds no ${name}`)
  return ratio
}

function record(file: string, machine: string, figures: readonly Figure[], leftOut: readonly string[]): void {
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD']).toString().trim()
  writeFileSync(file, `${JSON.stringify({ machine, commit, figures, leftOut }, undefined, 2)}\n`)
}

process.stdout.on('error', () => undefined) // whoever read it may have seen enough (`| head`)
main().then(
  (status) => {
    process.exitCode = status
  },
  (error: unknown) => {
    const isUsage = error instanceof RangeError || (error instanceof TypeError && 'code' in error)
    process.stderr.write(`bench:dataplane: ${error instanceof Error ? (isUsage ? error.message : (error.stack ?? error.message)) : String(error)}\n`)
    process.exitCode = isUsage ? 2 : 1
  },
)
