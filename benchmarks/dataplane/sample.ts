import type { Opponent } from './lab.ts'
import { cpuSeconds, type End, Lab, rssMegabytes } from './lab.ts'

/** What one round of one opponent gives. */
export interface Sample {
  readonly tcpGbits: number
  readonly cpuPerGbit: number
  readonly udpGbits: number
  readonly pingMs: number
  readonly rssMb: number
  /** The highest rate of datagrams of 1200 bytes with at most 1 % loss, Mbit/s. */
  readonly cleanMbits: number | undefined
  readonly tcp64Gbits: number | undefined
}

/** What is measured beside the quick ones. */
export interface SampleOptions {
  /** Whole: iperf3 takes a fraction for "without end". */
  readonly seconds: number
  readonly clean: boolean
  /** Peers of a hub, and who they are. */
  readonly star: { readonly peers: number; readonly spoke: Opponent } | undefined
}

const UDP_BYTES = 1360
const CLEAN_BYTES = 1200
/** Above what any of them carries. */
const UDP_RATE = '4G'
const MAX_LOSS_PERCENT = 1
const CLEAN_STEPS = 6
const CLEAN_SECONDS = 2
const FLOWS_PER_PEER = 4

interface IperfReport {
  readonly end?: {
    readonly sum_received?: { readonly bits_per_second?: number }
    readonly sum?: { readonly bits_per_second?: number; readonly lost_percent?: number }
  }
}

/** Starts an opponent on both ends, measures it, and ends it. */
export async function sample(lab: Lab, opponent: Opponent, options: SampleOptions): Promise<Sample> {
  const ends = await lab.pair(opponent)
  const children = ends.map(({ child }) => child)
  try {
    await iperf(lab, ['-t', '1']) // warm
    const before = cpuSeconds(children)
    const tcp = await iperf(lab, ['-t', String(options.seconds)])
    const spent = cpuSeconds(children) - before
    const tcpGbits = (tcp.end?.sum_received?.bits_per_second ?? Number.NaN) / 1e9
    const udpGbits = (await udp(lab, UDP_RATE, UDP_BYTES, options.seconds)).received / 1e9
    const pingMs = await ping(lab)
    const rssMb = rssMegabytes(children) / children.length
    const cleanMbits = options.clean ? await clean(lab) : undefined
    await lab.stop(...children)
    const tcp64Gbits = options.star === undefined ? undefined : await star(lab, opponent, options.star.spoke, options.star.peers, options.seconds)
    return { tcpGbits, cpuPerGbit: spent / (tcpGbits * options.seconds), udpGbits, pingMs, rssMb, cleanMbits, tcp64Gbits }
  } finally {
    await lab.stop(...children)
  }
}

/** Median of the round trips of an idle tunnel, in milliseconds. */
async function ping(lab: Lab): Promise<number> {
  const text = await lab.inA('ping', '-c', '100', '-i', '0.01', '10.88.0.2')
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

/** 64 flows from one hub to many peers. */
async function star(lab: Lab, hub: Opponent, spoke: Opponent, peers: number, seconds: number): Promise<number> {
  const ends: readonly End[] = await lab.star(hub, spoke, peers)
  try {
    const reports = await Promise.all(Array.from({ length: peers }, (_, i) => iperf(lab, ['-P', String(FLOWS_PER_PEER), '-t', String(seconds)], `10.88.${i + 1}.2`, 5300 + i)))
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
