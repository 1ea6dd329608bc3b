import type { UnixMillis } from '@meshwright/core'
import { Ip, singleAddress, type Prefix } from '@meshwright/ip'
import { type Alias, parseAlias } from './aliases.ts'
import type { CompiledPolicy } from './compiled.ts'
import type { Located, Place } from './diagnostics.ts'
import type { Engine } from './engine.ts'
import { quoteText } from './hujson/quote.ts'
import type { NodeRecord } from './inventory.ts'
import { undefinedName } from './names.ts'
import { unbracket } from './parse-access.ts'
import type { PolicyTest, SshTest, Statement } from './policy.ts'
import { parseProtocol } from './ports.ts'
import { allowingTarget } from './reach.ts'
import { localpartDomain, type SshCompiler } from './ssh.ts'
import type { CompiledStatement } from './statements.ts'

/** How one entry of tests or sshTests went. */
export interface TestResult {
  readonly section: 'tests' | 'sshTests'
  /** Position in its section. */
  readonly index: number
  readonly at: Place
  readonly passed: boolean
  /** Every reason for which it failed; empty when it passed. */
  readonly failures: readonly TestFailure[]
}

/** One reason for which a test failed. */
export interface TestFailure {
  readonly at: Place
  readonly message: string
}

const TCP = 6
const UDP = 17

/**
 * Runs the policy's own tests against the rules of the whole tailnet. In tests every address of the source must reach some address of the
 * destination; malformed entries fail.
 */
export function runPolicyTests(compiled: CompiledPolicy, wallNow?: UnixMillis): readonly TestResult[] {
  const engine = compiled.engineAt(wallNow)
  const { tests, sshTests } = compiled.policy
  const result = (section: TestResult['section'], index: number, at: Place, failures: readonly TestFailure[]): TestResult => ({
    section,
    index,
    at,
    passed: failures.length === 0,
    failures,
  })
  return [
    ...tests.map((test, i) => result('tests', i, test.at, failuresOf(engine, test))),
    ...sshTests.map((test, i) => result('sshTests', i, test.at, sshFailuresOf(engine, test))),
  ]
}

/** Addresses that a name in a test means, or why it means none. */
function addressesOf(engine: Engine, alias: Alias, role: string): readonly Ip[] | string {
  const missing = undefinedName(alias, engine.policy)
  if (missing !== undefined) return missing.message
  const prefix = alias.kind === 'prefix' ? alias.prefix : alias.kind === 'host' ? engine.policy.hosts.get(alias.name)?.value : undefined
  if (prefix !== undefined)
    return isSingle(prefix) && !(alias.kind === 'prefix' && alias.text.includes('/'))
      ? [prefix.ip]
      : `${role} ${quoteText(alias.text)} is a network, not one address`
  const resolved = engine.resolver.resolve(alias)
  if (alias.kind === 'service' && role === 'destination') {
    const virtual = (engine.inventory.view.services ?? []).filter(({ name }) => name === alias.text).flatMap(({ addresses }) => addresses)
    return virtual.length === 0 ? `destination ${quoteText(alias.text)} has no addresses` : virtual
  }
  if (resolved.kind !== 'nodes') return `${quoteText(alias.text)} cannot be the ${role} of a test`
  const found = recordsOf(engine, resolved.nodes.slots()).flatMap((record) => record.node.addresses)
  return found.length === 0 ? `${role} ${quoteText(alias.text)} has no nodes` : found
}

function isSingle(prefix: Prefix): boolean {
  return prefix.bits === singleAddress(prefix.ip).bits
}

function recordsOf(engine: Engine, slots: readonly number[]): NodeRecord[] {
  return slots.flatMap((slot) => engine.inventory.records[slot] ?? [])
}

function failuresOf(engine: Engine, test: PolicyTest): readonly TestFailure[] {
  const fail = (message: string, at: Place = test.at): readonly TestFailure[] => [{ at, message }]
  if (test.src === '') return fail('a test needs a src')
  if (test.accept.length + test.deny.length === 0) return fail('a test needs accept or deny')
  const sources = addressesOf(engine, parseAlias(test.src), 'src')
  if (typeof sources === 'string') return fail(sources)
  const protocol = test.proto === undefined || test.proto === '' ? undefined : parseProtocol(test.proto)
  if (test.proto !== undefined && test.proto !== '' && protocol === undefined) return fail(`unknown protocol ${quoteText(test.proto)}`)
  const statements = engine.plan.postured ? withAttributes(engine, test) : engine.statements
  const reaches = (destinations: readonly Ip[], port: number, source: Ip): boolean =>
    destinations.some((destination) =>
      (protocol === undefined ? [TCP, UDP] : [protocol]).some((each) =>
        statements.some((statement) => allowingTarget(engine, statement, { source, destination, protocol: each, port }) !== undefined),
      ),
    )
  const failures: TestFailure[] = []
  for (const [expected, entries] of [
    ['accept', test.accept],
    ['deny', test.deny],
  ] as const) {
    for (const { value, at } of entries) {
      const target = readDestination(engine, value)
      if (typeof target === 'string') {
        failures.push({ at, message: target })
        continue
      }
      const reached = sources.filter((source) => reaches(target.addresses, target.port, source))
      if (expected === 'accept' && reached.length < sources.length) failures.push({ at, message: `${test.src} does not reach ${value}` })
      if (expected === 'deny' && reached.length > 0) failures.push({ at, message: `${test.src} reaches ${value}` })
    }
  }
  return failures
}

function readDestination(engine: Engine, text: string): { readonly addresses: readonly Ip[]; readonly port: number } | string {
  const colon = text.lastIndexOf(':')
  const name = colon < 0 ? undefined : unbracket(text.slice(0, colon))
  if (name === undefined) return `${quoteText(text)}: write NAME:PORT`
  const digits = text.slice(colon + 1)
  const port = /^[0-9]{1,5}$/.test(digits) ? Number(digits) : 0
  if (port < 1 || port > 65535) return `${quoteText(text)}: a test needs one port from 1 to 65535`
  const addresses = addressesOf(engine, parseAlias(name), 'destination')
  return typeof addresses === 'string' ? addresses : { addresses, port }
}

/** Statements as they would be if the source had just the attributes that the test gives it. */
function withAttributes(engine: Engine, test: PolicyTest): readonly CompiledStatement[] {
  return engine.statements
    .filter(({ statement }: { readonly statement: Statement }) => {
      const postures = engine.posturesOf(statement.srcPosture)
      return postures.length === 0 || engine.meetsAny(postures, (key) => test.srcPostureAttrs.get(key))
    })
    .map((compiled) => engine.withoutPostures(compiled))
}

function sshFailuresOf(engine: Engine, test: SshTest): readonly TestFailure[] {
  const fail = (message: string, at: Place = test.at): readonly TestFailure[] => [{ at, message }]
  const logins = [...test.accept, ...test.check, ...test.deny]
  if (logins.length === 0) return fail('an SSH test needs accept, check or deny')
  if (logins.includes('')) return fail('a login name is empty')
  const sources = test.src === '' ? 'an SSH test needs a src' : addressesOf(engine, parseAlias(test.src), 'src')
  if (typeof sources === 'string') return fail(sources)
  if (test.dst.length === 0) return fail('an SSH test needs a dst')
  const failures: TestFailure[] = []
  const ssh = engine.plan.postured ? engine.sshWith(test.srcPostureAttrs) : engine.ssh
  for (const { value, at } of test.dst) {
    const nodes = sshDestinations(engine, { value, at })
    if (typeof nodes === 'string') {
      failures.push({ at, message: nodes })
      continue
    }
    for (const [expected, names] of [
      ['accept', test.accept],
      ['check', test.check],
      ['deny', test.deny],
    ] as const) {
      for (const name of names) {
        const wrong = nodes.some((node) => sources.some((source) => !isAsExpected(expected, sshVerdict(ssh, source, node, name))))
        if (wrong) failures.push({ at, message: `${test.src} as ${name} on ${value}: not ${expected}` })
      }
    }
  }
  return failures
}

function isAsExpected(expected: 'accept' | 'check' | 'deny', verdict: 'accept' | 'check' | 'deny'): boolean {
  return expected === 'accept' ? verdict !== 'deny' : verdict === expected
}

function sshDestinations(engine: Engine, { value }: Located<string>): readonly NodeRecord[] | string {
  const alias = parseAlias(value)
  const missing = undefinedName(alias, engine.policy)
  if (missing !== undefined) return missing.message
  const nodes = recordsOf(engine, engine.resolver.nodesOf(alias).slots())
  return nodes.length === 0 ? `dst ${quoteText(value)} has no nodes` : nodes
}

/** What the node's SSH server says: the first rule that lets the source be the local user. */
export function sshVerdict(ssh: SshCompiler, source: Ip, node: NodeRecord, login: string): 'accept' | 'check' | 'deny' {
  for (const { principals, sshUsers, action } of ssh.rulesFor(node)) {
    if (!principals.some(({ nodeIP }) => nodeIP === source.key)) continue
    const exact = Object.hasOwn(sshUsers, login) ? sshUsers[login] : undefined
    const local = exact ?? (login === 'root' ? '' : sshUsers['*']) ?? ''
    if (local === '') continue
    return action.accept === true ? 'accept' : 'check'
  }
  return 'deny'
}

/** Domains that expressions of the policy name and the tailnet does not have, in the hosted service's words. */
export function foreignDomains(engine: Engine): readonly { readonly at: Place; readonly message: string }[] {
  const found: { at: Place; message: string }[] = []
  const { domains } = engine.inventory.view
  const suffix = 'is not associated with this Tailnet and cannot be used in user:*@<domain> expressions'
  const check = (alias: Alias, at: Place, prefix: string): void => {
    if (alias.kind === 'domain' && !domains.includes(alias.domain)) found.push({ at, message: `${prefix}${alias.domain} ${suffix}` })
  }
  for (const { sources, destinations } of engine.policy.statements)
    for (const { alias, at } of [...sources, ...destinations]) check(alias, at, '')
  for (const rule of engine.policy.ssh) {
    for (const { alias, at } of rule.sources) check(alias, at, '[ssh] ')
    for (const { value, at } of rule.users) {
      const domain = localpartDomain(value)
      if (domain !== undefined && !domains.includes(domain)) found.push({ at, message: `${domain} ${suffix}` })
    }
  }
  for (const { targets } of engine.policy.nodeAttrs) for (const { alias, at } of targets) check(alias, at, '')
  return found
}
