import { parseIp } from '@meshwright/ip'
import { compilePolicy, type CompiledPolicy, parsePolicy, type Policy, type TailnetChange, type TailnetNode, type TailnetView } from '@meshwright/policy'
import { SeededRandom } from '@meshwright/testkit'
import { definitions, type PolicyJson, randomNode, randomPolicy, randomTailnet } from './policy-generator.ts'
import type { FuzzTarget } from './targets.ts'

/** Changes of one tailnet before the next policy is grown. */
const PER_POLICY = 8
const IDS = 10
const OFTEN = 70
/** Of so many moments one is chosen, between which attributes expire. */
const MOMENTS = [undefined, 500, 1500, 2500] as const

/**
 * Whatever is changed about a tailnet, in any order: the updated policy tells every node what a policy compiled anew tells it, names every
 * node for which something changed, and leaves the policy that it came from as it was.
 */
export const updatedPolicies: FuzzTarget = {
  name: 'updates equal a full compile',
  defaultInputs: 20_000,
  run(inputs, seed, progress) {
    const random = new SeededRandom(seed)
    const outcomes = { nodes: 0, users: 0, unchanged: 0, affected: 0 }
    let compiled: CompiledPolicy | undefined
    let now: number | undefined
    let story: unknown[] = []
    for (let round = 0; round < inputs; round += 1) {
      if (round % PER_POLICY === 0 || compiled === undefined) {
        const [text, tailnet] = [policyText(random), randomTailnet(random)]
        now = MOMENTS[random.below(MOMENTS.length)]
        compiled = compilePolicy(read(text), { ...tailnet, nodes: tailnet.nodes.map((node) => crowded(random, node)) })
        story = [text]
        // What has been asked for often is kept in another way.
        if (random.chance(0.5)) for (let i = 0; i < OFTEN; i += 1) for (const { id } of compiled.tailnet.nodes.slice(0, 1)) compiled.peersFor(id, now)
      }
      const current = compiled
      const change = randomChange(random, current)
      story.push(change)
      try {
        // What was never asked for is not handed on: some nodes are, others not.
        const asked = random.chance(0.7) ? current.tailnet.nodes.filter(() => random.chance(0.9)) : []
        const before = new Map(asked.map(({ id }) => [id, answersOf(current, id, now)]))
        const seen = pairsOf(current, now)
        const { policy, affected, moved } = current.update(change, now)
        comparePairs(seen, pairsOf(policy, now), moved)
        compare(policy, compilePolicy(policy.policy, policy.tailnet), before, affected, now, outcomes)
        for (const [id, answer] of before) if (answersOf(current, id, now) !== answer) throw new Error(`node ${id} of the old policy changed`)
        outcomes[change.type === 'nodeSet' || change.type === 'nodeRemoved' ? 'nodes' : 'users'] += 1
        // Now and then the older state has another successor.
        if (random.chance(0.9)) compiled = policy
      } catch (error) {
        throw new Error(`updates: ${JSON.stringify(story, (_key, value: unknown) => (value instanceof Map ? [...value] : value))} (seed ${seed}, round ${round})`, { cause: error })
      }
      if (round % 100 === 99) progress(round + 1)
    }
    return { inputs, grownBytes: 0, outcomes }
  },
}

function compare(policy: CompiledPolicy, full: CompiledPolicy, before: ReadonlyMap<number, string>, affected: ReadonlySet<number>, now: number | undefined, outcomes: { unchanged: number; affected: number }): void {
  for (const { id } of policy.tailnet.nodes) {
    const [answer, expected] = [answersOf(policy, id, now), answersOf(full, id, now)]
    if (answer !== expected) throw new Error(`node ${id} is told ${answer}, and by a full compile ${expected}`)
    if (before.has(id) && before.get(id) !== answer && !affected.has(id)) throw new Error(`node ${id} is not named as affected: ${before.get(id) ?? ''} became ${answer}`)
    outcomes[affected.has(id) ? 'affected' : 'unchanged'] += 1
  }
}

/** How nodes see each other, asked pair by pair, must differ only where one of both is named. */
function comparePairs(before: ReadonlyMap<string, string>, after: ReadonlyMap<string, string>, moved: ReadonlySet<number>): void {
  for (const pair of new Set([...before.keys(), ...after.keys()])) {
    if (before.get(pair) === after.get(pair) || pair.split(' ').some((id) => moved.has(Number(id)))) continue
    throw new Error(`pair ${pair} is not named as moved: ${before.get(pair) ?? 'unseen'} became ${after.get(pair) ?? 'unseen'}`)
  }
}

function pairsOf(compiled: CompiledPolicy, now: number | undefined): ReadonlyMap<string, string> {
  const found = new Map<string, string>()
  for (const { id } of compiled.tailnet.nodes) {
    for (const other of compiled.tailnet.nodes) {
      const peer = compiled.peerFor(id, other.id, now)
      if (peer !== undefined) found.set(`${id} ${other.id}`, JSON.stringify({ ...peer, node: peer.node.id }))
    }
    const whole = compiled.peersFor(id, now).map((peer) => JSON.stringify({ ...peer, node: peer.node.id })).sort()
    const single = [...found].flatMap(([pair, text]) => (pair.startsWith(`${id} `) ? [text] : [])).sort()
    if (whole.join() !== single.join()) throw new Error(`node ${id} sees ${whole.join()}, and asked one by one ${single.join()}`)
  }
  return found
}

/** Everything that a node is told, as one text. */
function answersOf(compiled: CompiledPolicy, id: number, now: number | undefined): string {
  const peers = compiled.peersFor(id, now).map((peer) => ({ ...peer, node: peer.node.id }))
  return JSON.stringify([
    compiled.filterFor(id, now),
    peers.sort((a, b) => a.node - b.node),
    compiled.sshFor(id, now),
    [...compiled.attrsFor(id)],
    compiled.routesFor(id),
    compiled.addressesFor(id),
  ])
}

function randomChange(random: SeededRandom, { tailnet }: CompiledPolicy): TailnetChange {
  const known = tailnet.nodes.length > 0 ? random.pick(tailnet.nodes) : undefined
  return random.pick<() => TailnetChange>([
    () => ({ type: 'nodeSet', node: crowded(random, randomNode(random, 1 + random.below(IDS))) }),
    () => ({ type: 'nodeSet', node: crowded(random, randomNode(random, 1 + random.below(IDS))) }),
    () => ({ type: 'nodeSet', node: known === undefined ? randomNode(random, 1) : partly(random, known) }),
    () => ({ type: 'nodeSet', node: known === undefined ? randomNode(random, 1) : partly(random, known) }),
    () => ({ type: 'nodeRemoved', id: 1 + random.below(IDS) }),
    () => (random.chance(0.5) ? { type: 'nodeRemoved', id: 1 + random.below(IDS) } : userChange(random, tailnet)),
  ])()
}

function userChange(random: SeededRandom, { users }: TailnetView): TailnetChange {
  const user = users.length > 0 ? random.pick(users) : undefined
  if (user === undefined) return { type: 'userSet', user: { id: 1, login: 'alice@example.com', role: 'owner' } }
  return random.chance(0.3) ? { type: 'userRemoved', id: user.id } : { type: 'userSet', user: { ...user, role: random.pick(['member', 'admin', 'auditor']) } }
}

/** A node of which one thing changes. */
function partly(random: SeededRandom, node: TailnetNode): TailnetNode {
  const other = randomNode(random, node.id)
  const { user, tags, advertisedRoutes, approvedRoutes, attributes } = other
  const { user: _user, ...rest } = node
  return random.pick([
    { ...node, online: node.online === false },
    { ...rest, tags, ...(user === undefined ? {} : { user }) },
    { ...node, advertisedRoutes, approvedRoutes },
    { ...node, ...(attributes === undefined ? {} : { attributes }) },
    crowded(random, node),
  ])
}

/** Many addresses lie side by side, so that they are told as ranges. No two are the same: a tailnet gives each once. */
function crowded(random: SeededRandom, node: TailnetNode): TailnetNode {
  if (random.chance(0.3)) return node
  return { ...node, addresses: [`100.64.20.${node.id}`, `fd7a:115c:a1e0::20:${node.id}`].flatMap((text) => parseIp(text) ?? []) }
}

function policyText(random: SeededRandom): string {
  const policy: PolicyJson = { ...definitions(), ...randomPolicy(random) }
  return JSON.stringify(policy)
}

function read(text: string): Policy {
  const { policy, diagnostics } = parsePolicy(text)
  if (policy === undefined) throw new Error(`refused: ${diagnostics[0]?.message ?? ''} ${text}`)
  return policy
}
