import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { gzipSync } from 'node:zlib'
import { build } from 'esbuild'
import { compilePolicy, type CompiledPolicy, parsePolicy, type Policy } from '@meshwright/policy'
import { type Arms, type Measurement, type Question } from './measure.ts'
import { compileNaively, type NaiveRule, rulesNaively } from './policy-naive.ts'
import { makeWorkload, type Size, type Workload } from './policy-workload.ts'

const ROOT = path.resolve(import.meta.dirname, '..')
const CHILD = path.join(import.meta.dirname, 'policy-child.ts')
const SIZES: readonly Size[] = [
  { grants: 200, groups: 50, nodes: 200 },
  { grants: 1000, groups: 100, nodes: 500 },
]
/** The naive way is slow: it makes the rules of so few nodes only, which is counted. */
const NAIVE_NODES = 5
const COLD_STARTS = 9

/** How many nodes' rules, peers and routes, compile included, against a naive compile that looks at every grant for every node? */
export function questions(): readonly Question[] {
  return SIZES.map((size) => ({ name: `policy/all-nodes-${size.grants}-grants-${size.nodes}-nodes`, unit: 'nodes', setup: (): Arms => arms(size) }))
}

/** How long a whole tailnet and one change take, how long a check from a cold start, how large the bundle for a browser and a tailnet in memory are. */
export function measurements(): readonly Measurement[] {
  return [
    { name: 'policy/5000-grants-1000-nodes', unit: 's', measure: async () => inChild('whole', 'seconds') },
    ...['join', 'tag', 'route', 'offline', 'leave'].map((change): Measurement => ({ name: `policy/update-${change}`, unit: 'ms', measure: async () => inChild('updates', change) })),
    { name: 'policy/memory-10000-nodes', unit: 'MB', measure: async () => inChild('memory', 'megabytes') },
    { name: 'policy/check-cold', unit: 'ms', measure: async () => coldCheck() },
    { name: 'policy/bundle-browser', unit: 'kB', measure: async () => bundleSize("export * from '@meshwright/policy'") },
    { name: 'policy/bundle-browser-with-hujson', unit: 'kB', measure: async () => bundleSize("export * from '@meshwright/policy'\nexport * as hujson from '@meshwright/policy/hujson'") },
  ]
}

function arms(size: Size): Arms {
  const { text, tailnet } = makeWorkload(size)
  const policy = read(text)
  agree(compilePolicy(policy, tailnet), { text, tailnet })
  return {
    baseline: {
      name: 'every grant for every node',
      count: NAIVE_NODES,
      run(): void {
        const naive = compileNaively(text, tailnet)
        for (const node of tailnet.nodes.slice(0, NAIVE_NODES)) {
          rulesNaively(naive, node)
          for (const other of tailnet.nodes) if (other !== node && naive.sees(node, other)) naive.seen += 1
        }
      },
    },
    contenders: [
      {
        name: 'compilePolicy',
        count: tailnet.nodes.length,
        run(): void {
          const compiled = compilePolicy(policy, tailnet)
          for (const { id } of tailnet.nodes) {
            compiled.filterFor(id)
            compiled.peersFor(id)
            compiled.routesFor(id)
          }
        },
      },
    ],
  }
}

/** Both ways give the same access: whatever is timed, is the same work. */
function agree(compiled: CompiledPolicy, { text, tailnet }: Workload): void {
  const naive = compileNaively(text, tailnet)
  const flat = (rules: readonly NaiveRule[]): string => [...new Set(rules.map(({ source, destination, port, protocol }) => `${source} ${destination} ${port} ${protocol}`))].sort().join()
  for (const node of tailnet.nodes.slice(0, NAIVE_NODES)) {
    const rules = compiled.filterFor(node.id).flatMap(({ SrcIPs, DstPorts = [], IPProto }) =>
      naive.expand(SrcIPs).flatMap((source) => DstPorts.map(({ IP, Ports }): NaiveRule => ({ source, destination: IP, port: `${Ports.First}-${Ports.Last}`, protocol: String(IPProto ?? '') }))),
    )
    if (flat(rules) !== flat(rulesNaively(naive, node))) throw new Error(`the two ways disagree about ${node.name}`)
  }
}

function read(text: string): Policy {
  const { policy, diagnostics } = parsePolicy(text)
  if (policy === undefined) throw new Error(diagnostics[0]?.message)
  return policy
}

function inChild(mode: string, field: string): number {
  const { stdout, stderr, status } = spawnSync(process.execPath, [...process.execArgv, '--expose-gc', CHILD, mode], { encoding: 'utf8', timeout: 120_000 })
  if (status !== 0) throw new Error(stderr)
  return Number((JSON.parse(stdout) as Record<string, number>)[field])
}

/** The built program, from its start to its end, on a policy of 200 lines: the quickest of some starts, which no other program has disturbed. */
function coldCheck(): number | undefined {
  const program = path.join(ROOT, 'examples', 'policy-cli', 'dist', 'main.js')
  const folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-bench-'))
  try {
    const file = path.join(folder, 'policy.hujson')
    const { text } = makeWorkload({ grants: 16, groups: 12, nodes: 60 })
    writeFileSync(file, text.split('\n').length < 200 ? `${text}${'\n'.repeat(200 - text.split('\n').length)}` : text)
    const times = Array.from({ length: COLD_STARTS }, () => {
      const before = performance.now()
      if (spawnSync(process.execPath, [program, 'check', file]).status !== 0) return undefined
      return performance.now() - before
    })
    return times.some((time) => time === undefined) ? undefined : Math.min(...times.map((time) => time ?? 0))
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** All that an entry exports, with all that it needs. */
async function bundleSize(contents: string): Promise<number> {
  const { outputFiles } = await build({ stdin: { contents, resolveDir: ROOT }, bundle: true, minify: true, format: 'esm', platform: 'browser', target: 'es2022', conditions: ['@meshwright/source'], write: false, logLevel: 'silent' })
  return gzipSync(outputFiles[0]?.contents ?? new Uint8Array(), { level: 9 }).length / 1000
}
