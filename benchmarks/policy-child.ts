import { compilePolicy, type CompiledPolicy, parsePolicy, type TailnetChange } from '@meshwright/policy'
import { cpuTime, median } from './measure.ts'
import { LARGE_POLICY, LARGE_TAILNET, makeNode, makeWorkload, prefix, type Workload } from './policy-workload.ts'

// Run by policy.bench.ts in a process of its own: `whole`, `updates` or `memory`. Prints one JSON value.
const ROUNDS = 3
const CHANGES = 12

function compile({ text, tailnet }: Workload): CompiledPolicy {
  const { policy } = parsePolicy(text)
  if (policy === undefined) throw new Error('the workload is refused')
  return compilePolicy(policy, tailnet)
}

/** From the text to every node's rules, peers and routes: the quickest of some rounds, the first being cold. */
function whole(): { readonly seconds: number } {
  const work = makeWorkload(LARGE_POLICY)
  const times = Array.from({ length: ROUNDS }, () => {
    const before = cpuTime()
    const compiled = compile(work)
    for (const { id } of work.tailnet.nodes) {
      compiled.filterFor(id)
      compiled.peersFor(id)
      compiled.routesFor(id)
    }
    return (cpuTime() - before) / 1000
  })
  return { seconds: Math.min(...times) }
}

/** One change after another in a tailnet where every node was told its rules: the affected nodes and their rules. */
function updates(): Readonly<Record<string, number>> {
  const work = makeWorkload(LARGE_TAILNET)
  let compiled = compile(work)
  for (const { id } of work.tailnet.nodes) compiled.filterFor(id)
  const times = new Map<string, number[]>()
  const apply = (name: string, change: TailnetChange): void => {
    const before = cpuTime()
    const { policy, affected } = compiled.update(change)
    for (const id of affected) if (change.type !== 'nodeRemoved' || id !== change.id) policy.filterFor(id)
    times.set(name, [...(times.get(name) ?? []), cpuTime() - before])
    compiled = policy
  }
  for (let i = 0; i < CHANGES; i += 1) {
    const tag = `tag:t${i}`
    const fresh = makeNode(20_001 + i * 10, tag, 5)
    const routes = { advertisedRoutes: [prefix(`10.${70 + i}.0.0/16`)], approvedRoutes: [prefix(`10.${70 + i}.0.0/16`)] }
    apply('join', { type: 'nodeSet', node: fresh })
    apply('tag', { type: 'nodeSet', node: { ...fresh, tags: [`tag:t${i + 20}`] } })
    apply('route', { type: 'nodeSet', node: { ...fresh, tags: [`tag:t${i + 20}`], ...routes } })
    apply('offline', { type: 'nodeSet', node: { ...fresh, tags: [`tag:t${i + 20}`], ...routes, online: false } })
    apply('leave', { type: 'nodeRemoved', id: fresh.id })
  }
  return Object.fromEntries([...times].map(([name, values]) => [name, median(values)]))
}

/** What a compiled policy holds when every node was told its rules and a few nodes have changed, without the tailnet itself and its text. */
function memory(): { readonly megabytes: number } {
  const work = makeWorkload(LARGE_TAILNET)
  const collect = (globalThis as { readonly gc?: () => void }).gc ?? ((): void => undefined)
  const used = (): number => {
    collect()
    const { heapUsed, arrayBuffers } = process.memoryUsage()
    return heapUsed + arrayBuffers
  }
  const before = used()
  let compiled = compile(work)
  for (const { id } of work.tailnet.nodes) compiled.filterFor(id)
  for (let i = 0; i < CHANGES; i += 1) compiled = compiled.update({ type: 'nodeSet', node: makeNode(20_001 + i * 10, 'tag:t1', 5) }).policy
  const megabytes = (used() - before) / 1e6
  if (compiled.tailnet.nodes.length === 0) throw new Error('nobody is left')
  return { megabytes }
}

const modes = { whole, updates, memory }
const mode = process.argv[2] ?? ''
if (!Object.hasOwn(modes, mode)) throw new Error(`no mode ${mode}`)
process.stdout.write(`${JSON.stringify(modes[mode as keyof typeof modes]())}\n`)
