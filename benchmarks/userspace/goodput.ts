import { Line, type Side } from '../../tests/interop/netstack-line.ts'
import { ADDRESSES, OurHost, PeerHost, type PeerKind, streamHash, type TcpHost } from '../../tests/interop/netstack-hosts.ts'

/** A sender and a receiver. */
export interface Pair {
  readonly from: Kind
  readonly to: Kind
}

/** Whose TCP. */
export type Kind = 'ours' | PeerKind

/** What one transfer reached. */
export interface Goodput {
  readonly megabitsPerSecond: number
  /** Bytes that left, for each byte that had to. */
  readonly sentPerByte: number
}

/** The line of all transfers. */
export interface LineSettings {
  readonly loss: number
  readonly reordering: number
  /** One way. */
  readonly delayMs: number
}

async function host(kind: Kind, line: Line, side: Side, seed: number): Promise<TcpHost> {
  return kind === 'ours' ? new OurHost(line, side, seed) : PeerHost.start(kind, line, side)
}

/** Moves bytes one way over a line with faults both ways; real time. */
export async function goodput(pair: Pair, settings: LineSettings, bytes: number, seed: number): Promise<Goodput> {
  const line = new Line(seed, settings)
  const [from, to] = await Promise.all([host(pair.from, line, 0, seed + 1), host(pair.to, line, 1, seed + 2)])
  let sent = 0
  line.tap = (side, packet) => {
    if (side === 0) sent += Math.max(0, packet.length - 52)
    return true
  }
  try {
    const accepted = await to.listen(80, { hold: true }) // gVisor tells no SACK blocks once it has sent FIN
    const [there, here] = await Promise.all([accepted.next(), from.connect(ADDRESSES[1].v4, 80, { send: bytes, key: 1 })])
    if (there.bytes !== bytes || there.sha256 !== streamHash(1, bytes) || there.error !== '' || here.error !== '') throw new Error(`${from.name} to ${to.name}: ${JSON.stringify([here, there])}`)
    return { megabitsPerSecond: (bytes * 8) / 1000 / there.ms, sentPerByte: sent / bytes }
  } finally {
    await Promise.all([from.close(), to.close()])
    line.close()
  }
}

const LOSSES: readonly { readonly loss: number; readonly bytes: number }[] = [
  { loss: 0.001, bytes: 4e6 },
  { loss: 0.01, bytes: 2e6 },
  { loss: 0.05, bytes: 600e3 },
  { loss: 0.1, bytes: 250e3 },
]
/** Each of ours beside what takes its place. */
const COMPARISONS: readonly { readonly name: string; readonly ours: Pair; readonly baseline: Pair }[] = [
  { name: 'sending to gVisor', ours: { from: 'ours', to: 'gvisor' }, baseline: { from: 'gvisor', to: 'gvisor' } },
  { name: 'receiving from gVisor', ours: { from: 'gvisor', to: 'ours' }, baseline: { from: 'gvisor', to: 'gvisor' } },
  { name: 'both ends ours, both gVisor', ours: { from: 'ours', to: 'ours' }, baseline: { from: 'gvisor', to: 'gvisor' } },
  { name: 'sending to the kernel', ours: { from: 'ours', to: 'kernel' }, baseline: { from: 'kernel', to: 'kernel' } },
]
/** Ratio to the baseline. */
const MUST = 0.5
const AIM = 1
const ONE_WAY_MS = 10
/** The line, in words. */
export const GOODPUT_LINE: string = `one connection, ${2 * ONE_WAY_MS} ms round trip, losses both ways, all pairs at the same time`

/** Goodput beside a baseline. */
export interface GoodputFigure {
  readonly name: string
  readonly ratio: number
  readonly ours: number
  readonly baseline: number
  readonly must: number
  readonly aim: number
  readonly rounds: number
}

/** Goodput at each loss rate: all pairs at the same time, so that what else this computer does touches all alike. */
export async function measureGoodput(rounds: number, say: (line: string) => void): Promise<readonly GoodputFigure[]> {
  const figures: GoodputFigure[] = []
  const key = (pair: Pair): string => `${pair.from} to ${pair.to}`
  const pairs = new Map(COMPARISONS.flatMap(({ ours, baseline }) => [ours, baseline]).map((pair) => [key(pair), pair]))
  for (const { loss, bytes } of LOSSES) {
    const times = new Map<string, number>()
    for (let round = 0; round < rounds; round += 1) {
      // The same seed: the same packets by number are lost to all.
      await Promise.all([...pairs].map(async ([name, pair]) => times.set(name, (times.get(name) ?? 0) + 1 / (await goodput(pair, { loss, reordering: 0, delayMs: ONE_WAY_MS }, bytes, 1000 * round + 7)).megabitsPerSecond)))
    }
    const of = (pair: Pair): number => rounds / (times.get(key(pair)) ?? Number.NaN)
    say(`${loss * 100} % loss, ${2 * ONE_WAY_MS} ms round trip: ${[...pairs].map(([name, pair]) => `${name} ${of(pair).toFixed(2)}`).join(', ')} Mbit/s`)
    for (const { name, ours, baseline } of COMPARISONS) figures.push({ name: `goodput, ${loss * 100} % loss, ${name}`, ratio: of(ours) / of(baseline), ours: of(ours), baseline: of(baseline), must: MUST, aim: AIM, rounds })
  }
  return figures
}
