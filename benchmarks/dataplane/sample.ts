import type { Opponent } from './lab.ts'
import { cpuSeconds, type End, Lab, rssMegabytes } from './lab.ts'

/** What can be measured of an opponent. */
export type Part = 'tcp' | 'udp' | 'ping' | 'clean' | 'star'

/** What one round of one opponent gives. */
export interface Sample {
  readonly tcpGbits?: number
  readonly cpuPerGbit?: number
  readonly udpGbits?: number
  readonly pingMs?: number
  /** Of one daemon, behind TCP and UDP. */
  readonly rssMb?: number
  /** The highest rate of datagrams of 1200 bytes with at most 1 % loss, Mbit/s. */
  readonly cleanMbits?: number
  readonly tcp64Gbits?: number
}

/** What is to be measured. */
export interface SampleOptions {
  /** Whole: iperf3 takes a fraction for "without end". */
  readonly seconds: number
  readonly parts: ReadonlySet<Part>
  /** Peers of a hub, and who they are. */
  readonly star: { readonly peers: number; readonly spoke: Opponent }
}

const UDP_BYTES = 1360
const CLEAN_BYTES = 1200
/** Above what any of them carries. */
const UDP_RATE = '4G'
const MAX_LOSS_PERCENT = 1
const CLEAN_STEPS = 6
const CLEAN_SECONDS = 2
const FLOWS_PER_PEER = 4
const WARM_SECONDS = 2
const WARM_PINGS = 200
const PINGS = 400
const PING_SECONDS = '0.01'

interface IperfReport {
  readonly end?: {
    readonly sum_received?: { readonly bits_per_second?: number }
    readonly sum?: { readonly bits_per_second?: number; readonly lost_percent?: number }
  }
}

/** Starts an opponent on both ends, measures it, and ends it. */
export async function sample(lab: Lab, opponent: Opponent, { seconds, parts, star }: SampleOptions): Promise<Sample> {
  const pair = [...parts].some((part) => part !== 'star') ? await samplePair(lab, opponent, seconds, parts) : {}
  return parts.has('star') ? { ...pair, tcp64Gbits: await flowsToMany(lab, opponent, star.spoke, star.peers, seconds) } : pair
}

async function samplePair(lab: Lab, opponent: Opponent, seconds: number, parts: ReadonlySet<Part>): Promise<Sample> {
  const ends = await lab.pair(opponent)
  const children = ends.map(({ child }) => child)
  try {
    await iperf(lab, ['-t', '1']) // warm
    let result: Sample = {}
    if (parts.has('tcp')) {
      const { cpuSeconds: spent, gbits } = await tcpCost(lab, ends, seconds)
      result = { ...result, tcpGbits: gbits / seconds, cpuPerGbit: spent / gbits }
    }
    if (parts.has('udp')) result = { ...result, udpGbits: (await udp(lab, UDP_RATE, UDP_BYTES, seconds)).received / 1e9, rssMb: rssMegabytes(children) / children.length }
    if (parts.has('ping')) result = { ...result, pingMs: await ping(lab) }
    if (parts.has('clean')) result = { ...result, cleanMbits: await clean(lab) }
    return result
  } finally {
    await lab.stop(...children)
  }
}

/** Processor time of both daemons of a pair for one TCP flow, and what it carried. */
export async function tcpCost(lab: Lab, ends: readonly End[], seconds: number): Promise<{ readonly cpuSeconds: number; readonly gbits: number }> {
  const children = ends.map(({ child }) => child)
  const before = cpuSeconds(children)
  const { end } = await iperf(lab, ['-t', String(seconds)])
  return { cpuSeconds: cpuSeconds(children) - before, gbits: ((end?.sum_received?.bits_per_second ?? Number.NaN) / 1e9) * seconds }
}

/** Median of the round trips of an idle tunnel, in milliseconds, behind as many as it takes to get used to being idle. */
async function ping(lab: Lab): Promise<number> {
  await lab.inA('ping', '-q', '-c', String(WARM_PINGS), '-i', PING_SECONDS, '10.88.0.2')
  const text = await lab.inA('ping', '-c', String(PINGS), '-i', PING_SECONDS, '10.88.0.2')
  const times = [...text.matchAll(/time=([\d.]+) ms/g)].map(([, ms]) => Number(ms)).sort((a, b) => a - b)
  return times[times.length >> 1] ?? Number.NaN
}

async function udp(lab: Lab, rate: string, bytes: number, seconds: number): Promise<{ readonly received: number; readonly lostPercent: number }> {
  const sum = (await iperf(lab, ['-u', '-b', rate, '-l', String(bytes), '-t', String(seconds)])).end?.sum
  const lostPercent = sum?.lost_percent ?? 100
  return { received: (sum?.bits_per_second ?? Number.NaN) * (1 - lostPercent / 100), lostPercent }
}

/** Halves the interval in which the rate lies. */
async function clean(lab: Lab): Promise<number> {
  let [low, high] = [50, 3_200]
  for (let step = 0; step < CLEAN_STEPS; step += 1) {
    const rate = Math.sqrt(low * high)
    const { lostPercent } = await udp(lab, `${Math.round(rate)}M`, CLEAN_BYTES, CLEAN_SECONDS)
    if (lostPercent <= MAX_LOSS_PERCENT) low = rate
    else high = rate
  }
  return low
}

/** 64 flows from one hub to many peers, behind a moment in which they find their rates. */
async function flowsToMany(lab: Lab, hub: Opponent, spoke: Opponent, peers: number, seconds: number): Promise<number> {
  const ends: readonly End[] = await lab.star(hub, spoke, peers)
  try {
    const args = ['-P', String(FLOWS_PER_PEER), '-O', String(WARM_SECONDS), '-t', String(seconds)]
    const reports = await Promise.all(Array.from({ length: peers }, (_, i) => iperf(lab, args, `10.88.${i + 1}.2`, 5300 + i)))
    return reports.reduce((sum, report) => sum + (report.end?.sum_received?.bits_per_second ?? 0), 0) / 1e9
  } finally {
    await lab.stop(...ends.map(({ child }) => child))
  }
}

async function iperf(lab: Lab, args: readonly string[], to: string = '10.88.0.2', port: number = 5201): Promise<IperfReport> {
  const server = lab.background('iperf3', '-s', '-1', '-B', to, '-p', String(port))
  try {
    await new Promise<void>((resolve) => {
      server.stdout?.once('data', () => resolve())
      setTimeout(resolve, 400)
    })
    for (let attempt = 0; ; attempt += 1) {
      try {
        const report: IperfReport = JSON.parse(await lab.inA('iperf3', '-c', to, '-p', String(port), '-J', ...args))
        return report
      } catch (error) {
        if (attempt === 5) throw error
        await new Promise((resolve) => setTimeout(resolve, 200))
      }
    }
  } finally {
    await lab.stop(server)
  }
}
