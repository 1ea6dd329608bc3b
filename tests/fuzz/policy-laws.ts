import { type Ip, parseIp } from '@meshwright/ip'
import { compilePolicy, type CompiledPolicy, explainAccess, parsePolicy, type TailnetView } from '@meshwright/policy'
import { SeededRandom } from '@meshwright/testkit'
import { type PolicyJson, randomAcl, randomGrant, randomPolicy, randomTailnet } from './policy-generator.ts'
import type { FuzzTarget } from './targets.ts'

const PROBES = 60
const OUTSIDE = ['10.0.1.7', '10.0.9.9', '192.168.0.3', '203.0.113.9', '8.8.8.8', 'fd00:1::7', '2001:db8:5::1']
const MOMENTS = [undefined, 500, 2500] as const
const LAWS = ['order', 'more', 'fewer', 'grants', 'names'] as const
/** Names and what they are called after a renaming; none is part of another. */
const NAMES: Readonly<Record<string, string>> = {
  'alice@example.com': 'zoe@example.com', 'bob@example.com': 'yan@example.com', 'frank': 'xaver', 'group:ops': 'group:a1', 'group:dev': 'group:zz', 'tag:web': 'tag:q', 'tag:db': 'tag:a', 'tag:router': 'tag:zz',
  'ipset:inner': 'ipset:zz', 'ipset:outer': 'ipset:aa', 'posture:mac': 'posture:zz', 'posture:new': 'posture:aa', '"lan"': '"zlan"', 'host:lan': 'host:zlan', '"lan:': '"zlan:', '"one"': '"aone"', 'host:one': 'host:aone', '"one:': '"aone:',
}

/** Statements only allow, whatever they are made of: addresses, applications, via, self, postures. */
export const lawfulPolicies: FuzzTarget = {
  name: 'statements only allow',
  defaultInputs: 10_000,
  run(inputs, seed, progress) {
    const random = new SeededRandom(seed)
    const outcomes: Record<string, number> = Object.fromEntries(LAWS.map((law) => [law, 0]))
    for (let round = 0; round < inputs; round += 1) {
      const [policy, tailnet] = [randomPolicy(random), randomTailnet(random)]
      const law = random.pick(LAWS)
      const other = otherPolicy(random, law, policy)
      const now = MOMENTS[random.below(MOMENTS.length)]
      const probes = probesFor(random, tailnet)
      try {
        const [before, after] = [compile(policy, tailnet), compile(other, law === 'names' ? renamedTailnet(tailnet) : tailnet)]
        const [was, is] = [verdicts(before, probes, now), verdicts(after, probes, now)]
        for (const [i, allowed] of was.entries()) {
          if (allowed && is[i] !== true && law !== 'fewer') throw new Error(`${law}: ${text(probes[i])} is no longer allowed`)
          if (!allowed && is[i] === true && law !== 'more') throw new Error(`${law}: ${text(probes[i])} is allowed now`)
        }
        if (law === 'order' && capabilities(before, now) !== capabilities(after, now)) throw new Error('order: other capabilities')
        if (law === 'names' && rules(before, now) !== rules(after, now)) throw new Error(`names: ${rules(before, now)} became ${rules(after, now)}`)
      } catch (error) {
        throw new Error(`statements only allow: ${JSON.stringify(policy)} and ${JSON.stringify(other)} for ${JSON.stringify(tailnet)} (seed ${seed}, round ${round})`, { cause: error })
      }
      outcomes[law] = (outcomes[law] ?? 0) + 1
      if (round % 100 === 99) progress(round + 1)
    }
    return { inputs, grownBytes: 0, outcomes }
  },
}

function otherPolicy(random: SeededRandom, law: (typeof LAWS)[number], policy: PolicyJson): PolicyJson {
  const { grants, acls } = policy as { readonly grants: readonly PolicyJson[]; readonly acls: readonly PolicyJson[] }
  switch (law) {
    case 'order':
      return { ...policy, grants: mixed(random, grants), acls: mixed(random, acls) }
    case 'more': {
      if (random.chance(0.5)) return { ...policy, acls: mixed(random, [...acls, randomAcl(random)]) }
      return { ...policy, grants: mixed(random, [...grants, randomGrant(random, false)]) }
    }
    case 'fewer': {
      const plain = grants.filter(({ via }) => via === undefined)
      const gone = [...plain, ...acls].length === 0 ? undefined : random.pick([...plain, ...acls])
      return { ...policy, grants: grants.filter((each) => each !== gone), acls: acls.filter((each) => each !== gone) }
    }
    case 'grants': {
      const [asAcl, asGrants] = [acls.filter((each) => !mayBeGrant(each)), acls.filter(mayBeGrant)]
      return { ...policy, grants: [...grants, ...asGrants.flatMap(grantsFor)], acls: asAcl }
    }
    case 'names':
      return renamedPolicy(policy)
  }
}

/** Grants know neither `*` beside autogroup:self nor all addresses as a prefix. */
function mayBeGrant({ src, dst }: PolicyJson): boolean {
  return !((src as string[]).includes('*') && (dst as string[]).some((name) => name.startsWith('autogroup:self:')))
}

function grantsFor({ src, dst, proto, srcPosture }: PolicyJson): readonly PolicyJson[] {
  return (dst as string[]).map((destination) => {
    const colon = destination.lastIndexOf(':')
    const ports = destination.slice(colon + 1)
    const name = destination.slice(0, colon).replace(/[[\]]/g, '')
    return { src, dst: [name], ip: [proto === undefined ? ports : `${String(proto)}:${ports}`], ...(srcPosture === undefined ? {} : { srcPosture }) }
  })
}

function renamedText(value: unknown): string {
  return Object.entries(NAMES).reduce((json, [name, other]) => json.replaceAll(name, other), JSON.stringify(value))
}

function renamedPolicy(policy: PolicyJson): PolicyJson {
  return JSON.parse(renamedText(policy)) as PolicyJson
}

/** Only users and tags have names. */
function renamedTailnet({ users, nodes, ...rest }: TailnetView): TailnetView {
  const tags = JSON.parse(renamedText(nodes.map((node) => node.tags))) as readonly string[][]
  return { ...rest, users: JSON.parse(renamedText(users)) as TailnetView['users'], nodes: nodes.map((node, i) => ({ ...node, tags: tags[i] ?? [] })) }
}

function mixed<T>(random: SeededRandom, items: readonly T[]): T[] {
  return items.map((item) => ({ item, order: random.below(1_000_000) })).sort((a, b) => a.order - b.order).map(({ item }) => item)
}

interface Probe {
  readonly source: Ip
  readonly destination: Ip
  readonly protocol: number
  readonly port: number
}

function probesFor(random: SeededRandom, { nodes }: TailnetView): readonly Probe[] {
  const addresses = [...nodes.flatMap((node) => node.addresses), ...OUTSIDE.flatMap((each) => parseIp(each) ?? [])]
  return Array.from({ length: PROBES }, () => ({ source: random.pick(addresses), destination: random.pick(addresses), protocol: random.pick([6, 17, 1, 47, 132]), port: random.pick([22, 53, 80, 443, 8050]) }))
}

function verdicts(compiled: CompiledPolicy, probes: readonly Probe[], now: number | undefined): readonly boolean[] {
  return probes.map((probe) => explainAccess(compiled, probe, now).allowed)
}

function capabilities(compiled: CompiledPolicy, now: number | undefined): string {
  return compiled.tailnet.nodes.map(({ id }) => compiled.filterFor(id, now).filter(({ CapGrant }) => CapGrant !== undefined).map((rule) => JSON.stringify(rule)).sort().join('\n')).join('\n\n')
}

function rules(compiled: CompiledPolicy, now: number | undefined): string {
  return JSON.stringify(compiled.tailnet.nodes.map(({ id }) => [compiled.filterFor(id, now), compiled.peersFor(id, now).map((peer) => [peer.node.id, peer.subnetRoutes, peer.exitRoutes])]))
}

function compile(policy: PolicyJson, tailnet: TailnetView): CompiledPolicy {
  const parsed = parsePolicy(JSON.stringify(policy))
  if (parsed.policy === undefined) throw new Error(`refused: ${parsed.diagnostics[0]?.message ?? ''}`)
  return compilePolicy(parsed.policy, tailnet)
}

function text(probe: Probe | undefined): string {
  return probe === undefined ? '' : `${probe.source.key} to ${probe.destination.key} ${probe.protocol}/${probe.port}`
}
