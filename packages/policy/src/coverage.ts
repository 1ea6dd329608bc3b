import type { UnixMillis } from '@meshwright/core'
import type { Ip } from '@meshwright/ip'
import { parseAlias } from './aliases.ts'
import type { CompiledPolicy } from './compiled.ts'
import type { Place } from './diagnostics.ts'
import type { Engine } from './engine.ts'
import { addressesNamed } from './explain.ts'
import { unbracket } from './parse-access.ts'
import type { PolicyTest, SshRule } from './policy.ts'
import { parseProtocol } from './ports.ts'
import { allowingTarget } from './reach.ts'
import type { CompiledStatement } from './statements.ts'

/** A statement that no test exercises: it could be removed, or changed, and all tests would still pass. */
export interface Untested {
  readonly section: 'grants' | 'acls' | 'ssh'
  /** Position in its section. */
  readonly index: number
  readonly at: Place
  /** What it allows, in short. */
  readonly summary: string
  /** Tests cannot name it: it grants capabilities only. */
  readonly untestable: boolean
}

const TCP = 6
const UDP = 17

/**
 * The grants, acls and entries of ssh that take no part in any expectation of the policy's own tests: no `accept` of tests is allowed by
 * them, no `accept` or `check` of sshTests is decided by them. Expectations that fail or are malformed exercise nothing.
 */
export function untestedStatements(compiled: CompiledPolicy, wallNow?: UnixMillis): readonly Untested[] {
  const engine = compiled.engineAt(wallNow)
  const statements = new Set(compiled.policy.tests.flatMap((test) => [...exercisedBy(compiled, engine, test)]))
  const rules = exercisedRules(compiled, engine)
  const counts = { grants: 0, acls: 0 }
  const found: Untested[] = []
  for (const { statement, index } of engine.statements) {
    if (statement.kind === 'implicit') continue
    const section = statement.kind === 'acl' ? 'acls' : 'grants'
    const position = counts[section]
    counts[section] += 1
    if (statements.has(index)) continue
    const summary = `${names(statement.sources)} -> ${names(statement.destinations)}`
    found.push({ section, index: position, at: statement.at, summary, untestable: statement.protocols.length === 0 })
  }
  for (const [index, rule] of compiled.policy.ssh.entries()) {
    if (rules.has(rule)) continue
    found.push({ section: 'ssh', index, at: rule.at, summary: `${names(rule.sources)} -> ${names(rule.destinations)}`, untestable: false })
  }
  return found
}

/** The statements that let through what a test expects to be let through. */
function exercisedBy(compiled: CompiledPolicy, engine: Engine, test: PolicyTest): ReadonlySet<number> {
  const exercised = new Set<number>()
  const protocol = test.proto === undefined || test.proto === '' ? undefined : parseProtocol(test.proto)
  const statements = statementsFor(engine, test)
  for (const { value } of test.accept) {
    const colon = value.lastIndexOf(':')
    const port = Number(value.slice(colon + 1))
    for (const source of addressesNamed(compiled, test.src)) {
      for (const destination of addressesNamed(compiled, unbracket(value.slice(0, Math.max(0, colon))) ?? '')) {
        for (const each of protocol === undefined ? [TCP, UDP] : [protocol]) {
          const connection = { source, destination, protocol: each, port }
          for (const statement of statements) if (allowingTarget(engine, statement, connection) !== undefined) exercised.add(statement.index)
        }
      }
    }
  }
  return exercised
}

/** Statements as they are for a source with the attributes that the test gives it. */
function statementsFor(engine: Engine, test: PolicyTest): readonly CompiledStatement[] {
  if (test.srcPostureAttrs.size === 0) return engine.statements
  return engine.statements.flatMap((compiled) => {
    const postures = engine.posturesOf(compiled.statement.srcPosture)
    const met = postures.length === 0 || engine.meetsAny(postures, (key) => test.srcPostureAttrs.get(key))
    return met ? [engine.withoutPostures(compiled)] : []
  })
}

/** The entries of ssh that decide what some SSH test expects. */
function exercisedRules(compiled: CompiledPolicy, engine: Engine): ReadonlySet<SshRule> {
  const exercised = new Set<SshRule>()
  for (const test of compiled.policy.sshTests) {
    const sources = addressesNamed(compiled, test.src)
    for (const { value } of test.dst) {
      for (const slot of engine.resolver.nodesOf(parseAlias(value)).slots()) {
        const server = engine.inventory.records[slot]
        if (server === undefined) continue
        const list = engine.ssh.originsFor(server)
        for (const source of sources) for (const login of [...test.accept, ...test.check]) addDeciding(exercised, list, source, login)
      }
    }
  }
  return exercised
}

function addDeciding(exercised: Set<SshRule>, list: ReturnType<Engine['ssh']['originsFor']>, source: Ip, login: string): void {
  for (const { rule, view } of list) {
    if (!view.principals.some(({ nodeIP }) => nodeIP === source.key)) continue
    const exact = Object.hasOwn(view.sshUsers, login) ? view.sshUsers[login] : undefined
    if (((exact ?? (login === 'root' ? '' : view.sshUsers['*'])) ?? '') === '') continue
    exercised.add(rule)
    return
  }
}

function names(aliases: SshRule['sources']): string {
  return aliases.map(({ alias }) => alias.text).join(', ')
}
