import { Concerns, type StatementChange } from './concerns.ts'
import { FilterCompiler } from './filter.ts'
import type { Inventory, NodeRecord, RecordChange } from './inventory.ts'
import { PolicyPlan, type StatementPlan } from './plan.ts'
import type { Policy, SshRule } from './policy.ts'
import { assertionHolds, type NodeAttributeValue, type PostureValue } from './posture.ts'
import { type Resolved, Resolver } from './resolve.ts'
import { SourceLists } from './sources.ts'
import { SshCompiler } from './ssh.ts'
import { advanceStatement, type CompiledStatement, compileStatement } from './statements.ts'
import { Visibility } from './visibility.ts'

/** A policy looked up in a tailnet at one moment: valid until the next device attribute expires. */
export class Engine {
  readonly policy: Policy
  readonly plan: PolicyPlan
  readonly inventory: Inventory
  readonly resolver: Resolver
  readonly lists: SourceLists
  readonly statements: readonly CompiledStatement[]
  /** What differs from the engine that this one followed; `undefined` when it followed none. */
  readonly changes: readonly StatementChange[] | undefined
  readonly concerns: Concerns
  readonly filter: FilterCompiler
  readonly visibility: Visibility
  readonly ssh: SshCompiler
  readonly #now: number | undefined
  readonly #sshCheckUrl: string

  /** @param now wall clock for attributes that expire; without it those are not set
   *  @param previous an engine for the same policy and an earlier state of the same tailnet at the same time: what did not change is shared */
  constructor(policy: Policy, inventory: Inventory, sshCheckUrl: string, now: number | undefined, previous?: Engine) {
    this.policy = policy
    this.inventory = inventory
    this.#now = now
    this.#sshCheckUrl = sshCheckUrl
    this.plan = previous?.plan ?? new PolicyPlan(policy)
    this.resolver = new Resolver(policy, inventory, previous?.resolver)
    this.lists = new SourceLists(inventory, previous?.lists)
    const { changed } = inventory
    if (previous === undefined || changed === undefined) {
      this.statements = this.plan.statements.map((plan) => this.#compile(plan, this.#meets(plan.statement.srcPosture)))
      this.changes = undefined
    } else {
      this.changes = this.#advance(previous, changed)
      const statements = previous.statements.slice()
      for (const { now: statement } of this.changes) statements[statement.index] = statement
      this.statements = statements
    }
    this.concerns = new Concerns(this.statements, inventory.room)
    this.filter = new FilterCompiler(this.plan, this.statements, this.lists, inventory, this.concerns)
    this.visibility = new Visibility(this.statements, inventory, this.concerns)
    this.ssh = new SshCompiler(policy, inventory, this.resolver, (rule: SshRule) => this.#meets(rule.srcPosture), sshCheckUrl)
  }

  /** The statements that mean something else than before one node changed. */
  #advance(previous: Engine, change: RecordChange): StatementChange[] {
    const changes: StatementChange[] = []
    for (const index of this.#candidates(previous, change)) {
      const [old, plan] = [previous.statements[index], this.plan.statements[index]]
      if (old === undefined || plan === undefined) continue
      const compiled =
        plan.postured || !this.inventory.sameBehind
          ? this.#compile(plan, this.#meets(plan.statement.srcPosture))
          : advanceStatement(old, change, this.inventory, this.resolver, this.lists)
      if (compiled !== old) changes.push({ old, now: compiled })
    }
    return changes
  }

  /** Positions of all statements that may mean something else: only what names the changed node, or names networks that it served or serves. */
  #candidates(previous: Engine, { slot, old, now, sameAddresses, sameRoutes }: RecordChange): Iterable<number> {
    if (!this.inventory.sameBehind) return this.plan.statements.keys()
    const found = new Set<number>()
    const add = (indexes: readonly number[]): void => {
      for (const index of indexes) found.add(index)
    }
    for (const alias of this.resolver.moved) add(this.plan.naming(alias))
    for (const alias of this.resolver.rerouted) add(this.plan.naming(alias))
    for (const tag of new Set([...(old?.node.tags ?? []), ...(now?.node.tags ?? [])])) add(this.plan.over(tag))
    if (!sameAddresses || !sameRoutes) add(this.plan.everybody)
    // Whether a node meets a posture may differ wherever it is one of those who are asked.
    if (this.plan.postured)
      for (const { index, parts } of previous.statements)
        if (this.plan.statements[index]?.postured === true && parts.some((part) => asks(part, slot))) found.add(index)
    return found
  }

  /** A statement as it would be if every source met its postures. */
  withoutPostures(compiled: CompiledStatement): CompiledStatement {
    const plan = this.plan.statements[compiled.index]
    return plan === undefined || !plan.postured ? compiled : this.#compile(plan, undefined)
  }

  #compile(plan: StatementPlan, meets: ((record: NodeRecord) => boolean) | undefined): CompiledStatement {
    return compileStatement(plan, this.inventory, this.resolver, this.lists, meets)
  }

  /** The names of the postures of which a source must meet one; empty: none is asked for. */
  posturesOf(own: readonly string[] | undefined): readonly string[] {
    return own === undefined || own.length === 0 ? this.policy.defaultSrcPosture : own
  }

  /** The SSH rules as they would be if every source had just these attributes. */
  sshWith(attributes: ReadonlyMap<string, PostureValue>): SshCompiler {
    const meets = (rule: SshRule): (() => boolean) | undefined => {
      const postures = this.posturesOf(rule.srcPosture)
      if (postures.length === 0) return undefined
      const met = this.meetsAny(postures, (key) => attributes.get(key))
      return () => met
    }
    return new SshCompiler(this.policy, this.inventory, this.resolver, meets, this.#sshCheckUrl)
  }

  /** Whether the attributes meet one of the postures. */
  meetsAny(postures: readonly string[], attributeOf: (key: string) => PostureValue | undefined): boolean {
    return postures.some((name) => {
      const assertions = this.policy.postures.get(name)?.value
      return assertions !== undefined && assertions.length > 0 && assertions.every((assertion) => assertionHolds(assertion, attributeOf))
    })
  }

  /** An attribute of a node as it stands now. */
  attributeOf(record: NodeRecord, key: string): PostureValue | undefined {
    const attribute: NodeAttributeValue | undefined = record.node.attributes?.get(key)
    if (attribute === undefined) return undefined
    const expired = attribute.expires !== undefined && (this.#now === undefined || attribute.expires <= this.#now)
    return expired ? undefined : attribute.value
  }

  #meets(own: readonly string[] | undefined): ((record: NodeRecord) => boolean) | undefined {
    const postures = this.posturesOf(own)
    if (postures.length === 0) return undefined
    const known = new Map<NodeRecord, boolean>()
    return (record) => {
      // Devices that other tailnets share are not asked.
      if (this.inventory.ownerOf(record.node)?.external === true) return true
      let meets = known.get(record)
      if (meets === undefined) {
        meets = this.meetsAny(postures, (key) => this.attributeOf(record, key))
        known.set(record, meets)
      }
      return meets
    }
  }
}

/** Whether a node is among those whom a posture narrows. */
function asks(part: Resolved, slot: number): boolean {
  return part.kind === 'any' || part.kind === 'dangerAll' || (part.kind === 'nodes' && part.nodes.has(slot))
}
