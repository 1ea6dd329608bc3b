import { type Ip, parseIp } from '@meshwright/ip'
import { checkPolicy, compilePolicy, type CompiledPolicy, type Diagnostic, explainAccess, parsePolicy, type TailnetView } from '@meshwright/policy'
import { patchHuJson } from '@meshwright/policy/hujson'
import { SeededRandom } from '@meshwright/testkit'
import { type PolicyJson, randomPolicy, randomTailnet } from './policy-generator.ts'
import { mutatePolicy } from './policy-mutate.ts'
import type { FuzzTarget } from './targets.ts'

/** Inputs made from one policy before the next one is grown. */
const PER_POLICY = 40
/** Things that are readable nowhere in a policy. */
const JUNK: readonly unknown[] = ['%bogus%', 'tag:gone', 'group:gone', 'ipset:gone', 'autogroup:gone', 'posture:gone', '10.0.0.0/99', { junk: 1 }, [['junk']], 7, true]
const OUTSIDE = ['10.0.1.7', '192.168.0.3', '8.8.8.8', 'fd00:1::7']

/** Policies with random changes: nothing throws; a policy or diagnostics, never both; every repair makes its problem vanish. */
export const mutatedPolicies: FuzzTarget = {
  name: 'mutated policies',
  defaultInputs: 100_000,
  run(inputs, seed, progress) {
    const random = new SeededRandom(seed)
    const outcomes = { accepted: 0, refused: 0, repaired: 0 }
    let policy: PolicyJson = {}
    let tailnet: TailnetView = { users: [], nodes: [], domains: [] }
    for (let round = 0; round < inputs; round += 1) {
      if (round % PER_POLICY === 0) [policy, tailnet] = [randomPolicy(random), randomTailnet(random, 4)]
      const text = JSON.stringify(mutatePolicy(random, withTests(policy)), null, random.below(2))
      try {
        const parsed = parsePolicy(text)
        if ((parsed.policy === undefined) !== parsed.diagnostics.length > 0) throw new Error('neither a policy nor a diagnostic, or both')
        if (parsed.policy === undefined) outcomes.refused += 1
        else {
          outcomes.accepted += 1
          checkPolicy(parsed.policy, tailnet)
          const compiled = compilePolicy(parsed.policy, tailnet)
          for (const { id } of tailnet.nodes.slice(0, 2)) if (compiled.filterFor(id).length > 0) compiled.peersFor(id)
        }
        for (const diagnostic of parsed.diagnostics) checkPlace(text, diagnostic)
        outcomes.repaired += checkRepairs(text, parsed.diagnostics)
      } catch (error) {
        throw new Error(`mutated policies: ${text} (seed ${seed}, round ${round})`, { cause: error })
      }
      if (round % 1_000 === 999) progress(round + 1)
    }
    return { inputs, grownBytes: 0, outcomes }
  },
}

/** A statement that a change made unreadable: the policy is refused, or what the rest still allows was allowed before. */
export const unreadableStatements: FuzzTarget = {
  name: 'statements made unreadable',
  defaultInputs: 20_000,
  run(inputs, seed, progress) {
    const random = new SeededRandom(seed)
    const outcomes = { refused: 0, narrower: 0 }
    let policy: PolicyJson = {}
    let tailnet: TailnetView = randomTailnet(random, 4)
    let before: CompiledPolicy | undefined
    for (let round = 0; round < inputs; round += 1) {
      if (round % PER_POLICY === 0) {
        ;[policy, tailnet] = [randomPolicy(random), randomTailnet(random, 4)]
        before = compile(policy, tailnet)
        if (before === undefined) throw new Error(`refused: ${JSON.stringify(policy)}`)
      }
      const changed = withJunk(random, policy)
      const after = compile(changed, tailnet)
      if (after === undefined) outcomes.refused += 1
      else {
        outcomes.narrower += 1
        for (const probe of probes(random, tailnet))
          if (explainAccess(after, probe).allowed && before?.policy !== undefined && !explainAccess(before, probe).allowed)
            throw new Error(`wider: ${JSON.stringify(policy)} by ${JSON.stringify(changed)} (seed ${seed}, round ${round})`)
      }
      if (round % 1_000 === 999) progress(round + 1)
    }
    return { inputs, grownBytes: 0, outcomes }
  },
}

function withTests(policy: PolicyJson): PolicyJson {
  return { ...policy, tests: [{ src: 'alice@example.com', accept: ['tag:web:443'], proto: 'tcp' }], sshTests: [{ src: 'alice@example.com', dst: ['tag:web'], accept: ['root'] }] }
}

function compile(policy: PolicyJson, tailnet: TailnetView): CompiledPolicy | undefined {
  const parsed = parsePolicy(JSON.stringify(policy))
  return parsed.policy && compilePolicy(parsed.policy, tailnet)
}

function checkPlace(text: string, { line, column, offset, path, message }: Diagnostic): void {
  const bytes = Buffer.from(text)
  const before = bytes.subarray(0, offset).toString('latin1').split('\n')
  if (before.length !== line || (before.at(-1)?.length ?? 0) + 1 !== column) throw new Error(`${message}: line ${line}, column ${column} is not offset ${offset}`)
  if (path !== '' && !path.startsWith('/')) throw new Error(`not a pointer: ${path}`)
}

/** Applies every repair alone and looks whether its problem is gone. Gives their number. */
function checkRepairs(text: string, diagnostics: readonly Diagnostic[]): number {
  const repairable = diagnostics.filter(({ fix }) => fix !== undefined)
  for (const { fix, path, message } of repairable) {
    const patched = patchHuJson(text, JSON.stringify(fix))
    if (!patched.ok) throw new Error(`the repair of ${message} at ${path} fails: ${patched.error.message}`)
    const still = parsePolicy(patched.value).diagnostics.filter((each) => each.message === message && each.path === path)
    if (still.length >= diagnostics.filter((each) => each.message === message && each.path === path).length) throw new Error(`the repair of ${message} at ${path} repairs nothing`)
  }
  return repairable.length
}

/** Junk in place of some value inside a statement. */
function withJunk(random: SeededRandom, policy: PolicyJson): PolicyJson {
  const section = random.pick(['acls', 'grants', 'ssh', 'groups', 'hosts', 'tagOwners', 'ipsets', 'postures', 'nodeAttrs', 'autoApprovers', 'defaultSrcPosture'])
  return { ...policy, [section]: random.chance(0.1) ? random.pick(JUNK) : replaceSome(random, policy[section]) }
}

function replaceSome(random: SeededRandom, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || random.chance(0.15)) return random.pick(JUNK)
  if (Array.isArray(value)) {
    const at = random.below(value.length)
    return value.length === 0 ? random.pick(JUNK) : value.map((each: unknown, i) => (i === at ? replaceSome(random, each) : each))
  }
  const entries: [string, unknown][] = Object.entries(value)
  const at = random.below(entries.length)
  return entries.length === 0 ? random.pick(JUNK) : Object.fromEntries(entries.map(([key, each], i) => [key, i === at ? replaceSome(random, each) : each]))
}

function probes(random: SeededRandom, { nodes }: TailnetView): { readonly source: Ip; readonly destination: Ip; readonly protocol: number; readonly port: number }[] {
  const addresses = [...nodes.flatMap((node) => node.addresses), ...OUTSIDE.flatMap((text) => parseIp(text) ?? [])]
  return Array.from({ length: 30 }, () => ({ source: random.pick(addresses), destination: random.pick(addresses), protocol: random.pick([6, 17, 1]), port: random.pick([22, 53, 80, 443, 8080]) }))
}
