import { formatPrefix } from '@meshwright/ip'
import { compilePolicy, parsePolicy, type TailnetView } from '@meshwright/policy'
import { SeededRandom } from '@meshwright/testkit'
import { type PolicyJson, randomPolicy, randomTailnet } from './policy-generator.ts'
import { Oracle } from './policy-oracle.ts'
import type { FuzzTarget } from './targets.ts'

/** Rules in their order, peers and routes of every node are those that the plainest reading of the language gives. */
export const asWritten: FuzzTarget = {
  name: 'rules, peers and routes as written',
  defaultInputs: 10_000,
  run(inputs, seed, progress) {
    const random = new SeededRandom(seed)
    const outcomes = { rules: 0, peers: 0 }
    for (let round = 0; round < inputs; round += 1) {
      const [policy, tailnet] = [shuffled(random, withoutPostures(randomPolicy(random))), randomTailnet(random)]
      try {
        check(policy, tailnet, outcomes)
      } catch (error) {
        throw new Error(`as written: ${JSON.stringify(policy)} for ${JSON.stringify(tailnet)} (seed ${seed}, round ${round})`, { cause: error })
      }
      if (round % 100 === 99) progress(round + 1)
    }
    return { inputs, grownBytes: 0, outcomes }
  },
}

function check(json: PolicyJson, tailnet: TailnetView, outcomes: { rules: number; peers: number }): void {
  const { policy, diagnostics } = parsePolicy(JSON.stringify(json))
  if (policy === undefined) throw new Error(`refused: ${diagnostics[0]?.message ?? ''}`)
  const [compiled, oracle] = [compilePolicy(policy, tailnet), new Oracle(json, tailnet)]
  for (const node of tailnet.nodes) {
    const [rules, expected] = [compiled.filterFor(node.id), oracle.rulesFor(node)]
    if (canonical(rules) !== canonical(expected)) throw new Error(`rules of ${node.name}: ${canonical(rules)} instead of ${canonical(expected)}`)
    const peers = compiled.peersFor(node.id).map((peer) => ({ id: peer.node.id, routes: [...peer.subnetRoutes, ...peer.exitRoutes].map(formatPrefix).sort() }))
    const seen = JSON.stringify(peers.sort((a, b) => a.id - b.id))
    const written = JSON.stringify(oracle.peersFor(node).sort((a, b) => a.id - b.id))
    if (seen !== written) throw new Error(`peers of ${node.name}: ${seen} instead of ${written}`)
    outcomes.rules += rules.length
    outcomes.peers += peers.length
  }
}

/** Members in one order: only that of lists has a meaning. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, each: unknown) => (typeof each === 'object' && each !== null && !Array.isArray(each) ? Object.fromEntries(Object.entries(each).sort(([a], [b]) => (a < b ? -1 : 1))) : each))
}

function withoutPostures(policy: PolicyJson): PolicyJson {
  const { defaultSrcPosture: _default, ...rest } = policy
  const bare = (each: unknown): unknown => {
    const { srcPosture: _own, ...statement } = each as PolicyJson
    return statement
  }
  return { ...rest, grants: (rest.grants as unknown[]).map(bare), acls: (rest.acls as unknown[]).map(bare) }
}

/** Names in any order, some twice. */
function shuffled(random: SeededRandom, policy: PolicyJson): PolicyJson {
  const names = (value: unknown): unknown[] => {
    const items: unknown[] = Array.isArray(value) ? [...(value as unknown[])] : []
    if (items.length > 0 && random.chance(0.2)) items.push(random.pick(items))
    return items.map((item) => ({ item, order: random.below(1000) })).sort((a, b) => a.order - b.order).map(({ item }) => item)
  }
  const each = (statement: unknown): unknown => ({ ...(statement as PolicyJson), src: names((statement as PolicyJson).src), dst: names((statement as PolicyJson).dst) })
  return { ...policy, grants: (policy.grants as unknown[]).map(each), acls: (policy.acls as unknown[]).map(each) }
}
