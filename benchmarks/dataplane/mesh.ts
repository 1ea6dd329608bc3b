import { mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fetchControlKey } from '@meshwright/runtime-node/control'
import { OurNode } from '../../tests/interop/lab-ours.ts'
import { Lab, type LabProcess, type RunResult } from '../../tests/interop/lab-process.ts'
import { Space } from '../../tests/interop/lab-space.ts'
import { Tailscaled } from '../../tests/interop/lab-tailscaled.ts'
import { LightClient } from '../../tests/load/light-client.ts'
import { startTailnet } from '../tailnet.ts'

/** So many nodes there are beside each pair, and so many rules in everybody's filter. */
const PEERS = 100
const RULES = 1_000
const JOIN_AT_ONCE = 10
const READY_MS = 60_000

/** A node with a TUN device. */
interface TunNode {
  readonly pid: number | undefined
  ip(): Promise<string>
  inside(file: string, args: readonly string[], timeoutMs?: number): Promise<RunResult>
  run(args: readonly string[]): Promise<RunResult>
}

interface Pair {
  readonly name: string
  readonly nodes: readonly [TunNode, TunNode]
  readonly spaces: readonly [Space, Space]
}

/** What one round of one pair gives. */
export interface MeshSample {
  readonly tcpGbits: number
  /** Of both daemons. */
  readonly cpuPerGbit: number
  readonly rssMb: number
}

/** What iperf3 tells as JSON, as far as it is read. */
interface IperfReport {
  readonly error?: string
  readonly end: { readonly sum_received: { readonly bits_per_second: number; readonly bytes: number } }
}

/**
 * A tailnet of 102 nodes with a thousand rules for packets: a pair of meshwrightd with TUN devices and a pair of tailscaled, each between
 * two namespaces that a wire joins, with paths that disco found. All stay while rounds go on.
 */
export class MeshLab {
  readonly #lab: Lab = new Lab()
  readonly #pairs: Pair[] = []
  readonly #bin: string

  /** @param programs the files of tailscaled and tailscale; without them ours is alone */
  constructor(programs: readonly string[]) {
    this.#bin = mkdtempSync(path.join(os.tmpdir(), 'meshwright-bench-'))
    for (const file of programs) symlinkSync(file, path.join(this.#bin, path.basename(file)))
  }

  /** Starts all; resolves when packets of both pairs go directly. */
  async start(withTailscaled: boolean): Promise<void> {
    const lab = this.#lab
    const { programs, control, authKey: key } = await startTailnet(lab, [...manyRules(), { action: 'accept', src: ['*'], dst: ['*:*'] }])
    await join(control.url, key)
    for (const name of withTailscaled ? ['mesh', 'tailscaled'] : ['mesh']) {
      const spaces = [await Space.make(lab, `${name}a`, { url: control.url }), await Space.make(lab, `${name}b`, { url: control.url })] as const
      await spaces[0].join(spaces[1])
      const ours = name === 'mesh'
      const make = (at: 0 | 1): OurNode | Tailscaled => (ours ? new OurNode(lab, programs, `ours-${at}`, [], {}, spaces[at].name) : new Tailscaled(lab, this.#bin, `real-${at}`, { netns: spaces[at].name }))
      const nodes = [make(0), make(1)] as const
      await Promise.all(nodes.map((node) => node.start()))
      await Promise.all(nodes.map((node) => (node instanceof OurNode ? node.up(control.url, key) : node.up(control.url, key, '--netfilter-mode=off'))))
      this.#pairs.push({ name, nodes, spaces })
    }
    for (const { name, nodes: [from, to] } of this.#pairs) {
      const ip = await to.ip()
      await lab.until(`${name} is connected`, async () => (await from.inside('ping', ['-n', '-q', '-c', '1', '-W', '2', ip])).status === 0, READY_MS)
      await lab.until(`${name} is direct`, async () => / via (?!DERP)[^ ]*:\d+ in/.test((await from.run(['ping', '--c', '10', '--timeout', '2s', ip])).out), READY_MS)
    }
  }

  /** One TCP flow of a pair, behind a second to get warm. */
  async sample(name: 'mesh' | 'tailscaled', seconds: number): Promise<MeshSample> {
    const pair = this.#pairs.find((each) => each.name === name)
    if (pair === undefined) throw new RangeError(name)
    await this.#flow(pair, 1)
    return this.#flow(pair, seconds)
  }

  async stop(): Promise<void> {
    await this.#lab.stop()
    rmSync(this.#bin, { recursive: true, force: true })
  }

  async #flow({ nodes: [from, to], spaces }: Pair, seconds: number): Promise<MeshSample> {
    const ip = await to.ip()
    const server: LabProcess = this.#lab.start('iperf3', 'ip', ['netns', 'exec', spaces[1].name, 'iperf3', '-s', '-1', '-B', ip, '--forceflush'])
    await this.#lab.until('iperf3 listens', () => server.log.includes('listening'))
    const before = cpuSeconds(from.pid) + cpuSeconds(to.pid)
    const { out } = await from.inside('iperf3', ['-c', ip, '-t', String(seconds), '-J'], (seconds + 30) * 1_000)
    const spent = cpuSeconds(from.pid) + cpuSeconds(to.pid) - before
    const report = JSON.parse(out) as IperfReport // iperf3's own words
    if (report.error !== undefined) throw new Error(`iperf3: ${report.error}`)
    await server.stop()
    const { bits_per_second: rate, bytes } = report.end.sum_received
    return { tcpGbits: rate / 1e9, cpuPerGbit: spent / ((bytes * 8) / 1e9), rssMb: (rssMegabytes(from.pid) + rssMegabytes(to.pid)) / 2 }
  }
}

/** Rules that no two of are alike, so that nobody makes one of them. */
function manyRules(): readonly object[] {
  return Array.from({ length: RULES }, (_, i) => ({ action: 'accept', proto: 'tcp', src: [`10.${i >> 8}.${i & 255}.0/24`], dst: [`*:${10_000 + i}`] }))
}

/** Nodes that are members and away. */
async function join(url: string, authKey: string): Promise<void> {
  const serverKey = await fetchControlKey({ url })
  for (let from = 0; from < PEERS; from += JOIN_AT_ONCE) {
    await Promise.all(Array.from({ length: JOIN_AT_ONCE }, async (_, i) => {
      const client = new LightClient(from + i, { frame: () => undefined, lost: () => undefined })
      await client.join(url, serverKey, authKey)
      await client.update()
      client.drop()
    }))
  }
}

/** Processor time of a process so far, in seconds: fields 14 and 15 of /proc/PID/stat, proc(5). */
function cpuSeconds(pid: number | undefined): number {
  if (pid === undefined) return Number.NaN
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
  return (Number(fields[11]) + Number(fields[12])) / 100
}

function rssMegabytes(pid: number | undefined): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? Number.NaN) / 1024
}
