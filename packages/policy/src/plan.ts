import { formatIpRange, prefixRange } from '@meshwright/ip'
import { BitSet } from './bits.ts'
import type { Destination, Policy, Statement } from './policy.ts'

/** Capabilities that make a second one in the opposite direction. */
export const COMPANIONS: readonly (readonly [string, string])[] = [
  ['tailscale.com/cap/drive', 'tailscale.com/cap/drive-sharer'],
  ['tailscale.com/cap/relay', 'tailscale.com/cap/relay-target'],
]

/** A destination as it is delivered: with all ports that the statement gives for the same alias. */
export interface PlannedTarget {
  readonly destination: Destination
  /** How a literal stands in rules; empty for other kinds. */
  readonly literals: readonly string[]
}

/** What can be said of a statement without a tailnet. */
export interface StatementPlan {
  readonly statement: Statement
  readonly index: number
  /** Destinations with the same alias joined, in the order of delivery, without `autogroup:self`. */
  readonly targets: readonly PlannedTarget[]
  /** The part of `autogroup:self`, if it is a destination. */
  readonly self: PlannedTarget | undefined
  /** Whether the rules of self come before those of the other destinations. */
  readonly selfFirst: boolean
  /** Whether it also gives its sources a rule. */
  readonly companions: boolean
  /** Whether sources are narrowed to those that meet a posture. */
  readonly postured: boolean
}

/** What can be said of all statements of a policy without a tailnet: made once, and the same in all states of a tailnet. */
export class PolicyPlan {
  readonly statements: readonly StatementPlan[]
  /** Statements that must be looked at for every node (self), and those that must be for all their sources (companions). */
  readonly special: { readonly always: BitSet; readonly apps: BitSet }
  /** Statements with a source or destination that stands for everybody, or for the internet. */
  readonly everybody: readonly number[]
  /** Whether some statement, or some rule of ssh, asks for a posture. */
  readonly postured: boolean
  readonly #byAlias: Map<string, number[]> = new Map()
  readonly #byRouter: Map<string, number[]> = new Map()

  constructor(policy: Policy) {
    this.statements = policy.statements.map((statement, index) => planOf(statement, index, policy, isPostured(policy, statement)))
    this.postured = asksForPostures(policy)
    this.special = { always: new BitSet(this.statements.length), apps: new BitSet(this.statements.length) }
    const everybody: number[] = []
    for (const { statement, index, self, companions } of this.statements) {
      if (self !== undefined) this.special.always.add(index)
      if (companions) this.special.apps.add(index)
      const aliases = [...statement.sources, ...statement.destinations].map(({ alias }) => alias)
      for (const text of new Set(aliases.map((alias) => alias.text))) push(this.#byAlias, text, index)
      for (const text of new Set(statement.via.map(({ alias }) => alias.text))) push(this.#byRouter, text, index)
      if (aliases.some((alias) => alias.kind === 'any' || (alias.kind === 'autogroup' && (alias.autogroup === 'danger-all' || alias.autogroup === 'internet'))))
        everybody.push(index)
    }
    this.everybody = everybody
  }

  /** The statements of which the alias is a source or a destination. */
  naming(alias: string): readonly number[] {
    return this.#byAlias.get(alias) ?? []
  }

  /** The statements that go over routers with the tag. */
  over(tag: string): readonly number[] {
    return this.#byRouter.get(tag) ?? []
  }
}

/** Whether some statement, or some rule of ssh, asks for a posture. */
export function asksForPostures(policy: Policy): boolean {
  return [...policy.statements, ...policy.ssh].some((rule) => isPostured(policy, rule))
}

function isPostured(policy: Policy, { srcPosture }: { readonly srcPosture: readonly string[] | undefined }): boolean {
  return policy.defaultSrcPosture.length > 0 || (srcPosture ?? []).length > 0
}

function planOf(statement: Statement, index: number, policy: Policy, postured: boolean): StatementPlan {
  const merged = mergeTargets(statement, policy)
  const companions = statement.app.some(({ name }) => COMPANIONS.some(([capability]) => capability === name))
  return {
    statement,
    index,
    targets: merged.filter((target) => !isSelf(target)),
    self: merged.find(isSelf),
    selfFirst: statement.kind === 'acl' && merged[0] !== undefined && isSelf(merged[0]) && merged.every(({ destination }) => destination.alias.kind === 'autogroup'),
    companions,
    postured,
  }
}

/** Destinations with the same alias joined at the place of the first; `*` before all others, groups not before users. */
function mergeTargets(statement: Statement, policy: Policy): PlannedTarget[] {
  const byAlias = new Map<string, Destination>()
  for (const destination of statement.destinations) {
    const known = byAlias.get(destination.alias.text)
    if (known === undefined) byAlias.set(destination.alias.text, destination)
    else
      byAlias.set(destination.alias.text, { ...known, ports: known.ports.map((ports, i) => [...ports, ...(destination.ports[i] ?? [])]) })
  }
  const all = [...byAlias.values()]
  const lastUser = all.findLastIndex(({ alias }) => alias.kind === 'user')
  const isAny = ({ alias }: Destination): boolean => alias.kind === 'any'
  const waits = (destination: Destination, i: number): boolean => destination.alias.kind === 'group' && i < lastUser
  const ordered = [
    ...all.filter(isAny),
    ...all.filter((destination, i) => i <= lastUser && !isAny(destination) && !waits(destination, i)),
    ...all.filter(waits),
    ...all.filter((destination, i) => i > lastUser && !isAny(destination)),
  ]
  return ordered.map((destination) => ({ destination, literals: literalsOf(destination, policy) }))
}

/** A literal as it was written, except that a single address has no length. */
function literalsOf({ alias }: Destination, policy: Policy): readonly string[] {
  const prefix = alias.kind === 'prefix' ? alias.prefix : alias.kind === 'host' ? policy.hosts.get(alias.name)?.value : undefined
  return prefix === undefined ? [] : [formatIpRange(prefixRange(prefix))]
}

function isSelf({ destination: { alias } }: PlannedTarget): boolean {
  return alias.kind === 'autogroup' && alias.autogroup === 'self'
}

function push(map: Map<string, number[]>, key: string, index: number): void {
  const list = map.get(key)
  if (list === undefined) map.set(key, [index])
  else list.push(index)
}
