import { type RunningNode, startMeshNode } from '@meshwright/runtime-node'

// Run by memory.ts with --expose-gc: starts nodes one after the other in this process and prints what each costs, as JSON.
const [controlUrl = '', authKey = '', count = '2'] = process.argv.slice(2)
const SETTLE_MS = 4_000
const collect = (globalThis as { readonly gc?: () => void }).gc ?? ((): void => undefined)

interface Sample {
  readonly peers: number
  readonly heapMegabytes: number
  readonly rssMegabytes: number
}

async function sample(node: RunningNode): Promise<Sample> {
  await new Promise((resolve) => setTimeout(resolve, SETTLE_MS))
  for (let i = 0; i < 3; i += 1) collect()
  const { heapUsed, external, rss } = process.memoryUsage()
  return { peers: node.status().peers.length, heapMegabytes: (heapUsed + external) / 1e6, rssMegabytes: rss / 1e6 }
}

async function main(): Promise<void> {
  const nodes: RunningNode[] = []
  const samples: Sample[] = []
  for (let i = 0; i < Number(count); i += 1) {
    const node = await startMeshNode({ controlUrl, authKey, hostname: `idle-${i}`, allowLoopback: true })
    nodes.push(node)
    await node.ready({ timeoutMs: 60_000, peers: 0 }) // the other nodes are control clients alone
    samples.push(await sample(node))
  }
  process.stdout.write(`${JSON.stringify(samples)}\n`)
  await Promise.all(nodes.map((node) => node.close()))
}

await main()
process.exit(0)
