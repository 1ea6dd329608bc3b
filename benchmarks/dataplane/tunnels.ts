import { figure, type Figure, middle, round3 } from './goals.ts'
import { buildOurs, Lab, type Opponent } from './lab.ts'
import { MeshLab, type MeshSample } from './mesh.ts'
import { type Part, sample, type Sample } from './sample.ts'

const STAR_PEERS = 16
/** Of a mesh node's device: the bare engine that it is set against has the same, so that both have as many packets. */
const MESH_MTU = 1280
const SIGNALS = ['SIGINT', 'SIGTERM'] as const
const WIREGUARD_GO = 'wireguard-go'

type OpponentName = 'go' | 'go1' | 'ours' | 'wasm' | 'portable' | 'bare'

/** One figure of two namespaces: whose sample against whose, and what it takes to have both. */
interface TunnelFigure {
  readonly name: string
  readonly unit: string
  readonly ours: OpponentName
  readonly other: 'go' | 'go1'
  readonly part: Part
  readonly of: (sample: Sample) => number | undefined
  /** Only when it is asked for. */
  readonly extra?: true
}

const tcp = ({ tcpGbits }: Sample): number | undefined => tcpGbits
const cpu = ({ cpuPerGbit }: Sample): number | undefined => cpuPerGbit
const udp = ({ udpGbits }: Sample): number | undefined => udpGbits
const GBITS = 'Gbit/s'
const CPU = 'CPU s per Gbit'

const TUNNEL_FIGURES: readonly TunnelFigure[] = [
  { name: 'tcp-tun', unit: GBITS, ours: 'ours', other: 'go', part: 'tcp', of: tcp },
  { name: 'udp-tun', unit: GBITS, ours: 'ours', other: 'go', part: 'udp', of: udp },
  { name: 'cpu-tun', unit: CPU, ours: 'ours', other: 'go', part: 'tcp', of: cpu },
  { name: 'tcp-tun-go1', unit: GBITS, ours: 'ours', other: 'go1', part: 'tcp', of: tcp },
  { name: 'udp-tun-go1', unit: GBITS, ours: 'ours', other: 'go1', part: 'udp', of: udp },
  { name: 'cpu-tun-go1', unit: CPU, ours: 'ours', other: 'go1', part: 'tcp', of: cpu },
  { name: 'tcp-tun-wasm', unit: GBITS, ours: 'wasm', other: 'go', part: 'tcp', of: tcp },
  { name: 'udp-tun-wasm', unit: GBITS, ours: 'wasm', other: 'go', part: 'udp', of: udp },
  { name: 'cpu-tun-wasm', unit: CPU, ours: 'wasm', other: 'go', part: 'tcp', of: cpu },
  { name: 'tcp-tun-portable', unit: GBITS, ours: 'portable', other: 'go', part: 'tcp', of: tcp, extra: true },
  { name: 'udp-clean', unit: 'Mbit/s', ours: 'ours', other: 'go', part: 'clean', of: ({ cleanMbits }) => cleanMbits },
  { name: 'ping', unit: 'ms', ours: 'ours', other: 'go', part: 'ping', of: ({ pingMs }) => pingMs },
  { name: 'tcp-64', unit: GBITS, ours: 'ours', other: 'go', part: 'star', of: ({ tcp64Gbits }) => tcp64Gbits },
  { name: 'rss', unit: 'MB', ours: 'ours', other: 'go', part: 'udp', of: ({ rssMb }) => rssMb },
]
const MESH_FIGURES = ['tcp-mesh', 'cpu-mesh', 'rss-mesh', 'mesh-share'] as const

/** The names of all figures that need a TUN device. */
export const TUNNEL_FIGURE_NAMES: readonly string[] = [...TUNNEL_FIGURES.map(({ name }) => name), ...MESH_FIGURES]

/** What is to be measured, how often. */
export interface TunnelRequest {
  readonly rounds: number
  readonly seconds: number
  readonly wants: (name: string) => boolean
  readonly say: (line: string) => void
  /** The file of wireguard-go. */
  readonly go: string
  /** The files of tailscaled and tailscale; `undefined`: the mesh node is not set against them. */
  readonly tailscale: readonly string[] | undefined
}

/** All figures with TUN devices, opponents in turns within each round. */
export async function measureTunnels(request: TunnelRequest): Promise<readonly Figure[]> {
  const { rounds, seconds, wants, say } = request
  const wanted = TUNNEL_FIGURES.filter(({ name, extra }) => (extra === true ? wants(`${name}!`) : wants(name)))
  const mesh = MESH_FIGURES.filter((name) => wants(name) && (request.tailscale !== undefined || name === 'mesh-share'))
  const partsOf = (opponent: OpponentName): ReadonlySet<Part> => new Set([
    ...wanted.filter(({ ours, other }) => ours === opponent || other === opponent).map(({ part }) => part),
    ...(opponent === 'bare' && mesh.includes('mesh-share') ? (['tcp'] as const) : []),
  ])
  const ours = buildOurs()
  const baseline: Opponent = { name: 'go', file: request.go, args: ['-f'], env: { LOG_LEVEL: 'silent' } }
  const node = (name: OpponentName, env: Readonly<Record<string, string>>): Opponent => ({ name, file: process.execPath, args: [ours.file, '-f'], env: { LOG_LEVEL: 'silent', ...env } })
  const opponents: readonly Opponent[] = [baseline, node('ours', {}), { ...baseline, name: 'go1', env: { ...baseline.env, GOMAXPROCS: '1' } }, node('wasm', { MESHWRIGHT_CRYPTO: 'wasm' }), node('portable', { MESHWRIGHT_DATAPLANE: 'portable' }), { ...node('bare', {}), mtu: MESH_MTU }]
  const lab = new Lab()
  const meshLab = mesh.length > 0 ? new MeshLab(request.tailscale ?? []) : undefined
  const abandon = (): void => {
    lab.abandon()
    ours.remove()
    void meshLab?.stop().finally(() => process.exit(1))
    if (meshLab === undefined) process.exit(1)
  }
  for (const signal of SIGNALS) process.once(signal, abandon)
  try {
    await meshLab?.start(request.tailscale !== undefined)
    const samples = new Map<string, Sample[]>()
    const meshSamples = new Map<string, MeshSample[]>()
    const meshNames = mesh.length === 0 ? [] : mesh.some((name) => name !== 'mesh-share') ? (['mesh', 'tailscaled'] as const) : (['mesh'] as const)
    const steps: (readonly [string, () => Promise<void>])[] = []
    for (const opponent of opponents) {
      const parts = partsOf(opponent.name as OpponentName) // they are made right above
      if (parts.size === 0) continue
      steps.push([opponent.name, async () => keep(samples, opponent.name, await sample(lab, opponent, { seconds, parts, star: { peers: STAR_PEERS, spoke: baseline } }), say)])
    }
    for (const name of meshNames) steps.push([name, async () => keep(meshSamples, name, await mustBe(meshLab).sample(name, seconds), say)])
    for (let round = 0; round < rounds; round += 1) {
      // The order turns, so that nobody always follows the same neighbour.
      for (let i = 0; i < steps.length; i += 1) await steps[(i + round) % steps.length]?.[1]()
    }
    return [...tunnelFigures(wanted, samples), ...meshFigures(mesh, meshSamples, samples)]
  } finally {
    for (const signal of SIGNALS) process.off(signal, abandon)
    await lab.close()
    ours.remove()
    await meshLab?.stop()
  }
}

function mustBe(lab: MeshLab | undefined): MeshLab {
  if (lab === undefined) throw new RangeError('no mesh')
  return lab
}

function keep<T extends object>(all: Map<string, T[]>, name: string, got: T, say: (line: string) => void): void {
  const list = all.get(name) ?? []
  list.push(got)
  all.set(name, list)
  say(`round ${list.length} ${name.padEnd(10)} ${Object.entries(got).map(([what, value]) => `${what} ${round3(Number(value))}`).join(', ')}`)
}

function tunnelFigures(wanted: readonly TunnelFigure[], samples: ReadonlyMap<string, readonly Sample[]>): readonly Figure[] {
  return wanted.flatMap(({ name, unit, ours, other, of }) => ratios(name, unit, other === 'go1' ? `${WIREGUARD_GO}, GOMAXPROCS=1` : WIREGUARD_GO, samples.get(ours)?.map(of), samples.get(other)?.map(of)))
}

function meshFigures(wanted: readonly string[], mesh: ReadonlyMap<string, readonly MeshSample[]>, bare: ReadonlyMap<string, readonly Sample[]>): readonly Figure[] {
  const own = mesh.get('mesh')
  const other = mesh.get('tailscaled')
  return wanted.flatMap((name) => {
    switch (name) {
      case 'tcp-mesh':
        return ratios(name, GBITS, 'tailscaled', own?.map(({ tcpGbits }) => tcpGbits), other?.map(({ tcpGbits }) => tcpGbits))
      case 'cpu-mesh':
        return ratios(name, CPU, 'tailscaled', own?.map(({ cpuPerGbit }) => cpuPerGbit), other?.map(({ cpuPerGbit }) => cpuPerGbit))
      case 'rss-mesh':
        return ratios(name, 'MB', 'tailscaled', own?.map(({ rssMb }) => rssMb), other?.map(({ rssMb }) => rssMb))
      default:
        return ratios(name, GBITS, `our bare engine, MTU ${MESH_MTU}`, own?.map(({ tcpGbits }) => tcpGbits), bare.get('bare')?.map(tcp))
    }
  })
}

function ratios(name: string, unit: string, baseline: string, own: readonly (number | undefined)[] = [], other: readonly (number | undefined)[] = []): readonly Figure[] {
  const pairs = own.flatMap((a, round) => {
    const b = other[round]
    return a === undefined || b === undefined || !(a > 0) || !(b > 0) ? [] : [[a, b] as const]
  })
  if (pairs.length === 0) return []
  const medians = { own: round3(middle(pairs.map(([a]) => a))), other: round3(middle(pairs.map(([, b]) => b))) }
  return [figure(name, unit, baseline, 'ratio', pairs.map(([a, b]) => a / b), medians)]
}
