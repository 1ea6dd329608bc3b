import { Concerns } from './concerns.ts'
import { FilterCompiler } from './filter.ts'
import type { Inventory, NodeRecord } from './inventory.ts'
import type { Policy, SshRule, Statement } from './policy.ts'
import { assertionHolds, type NodeAttributeValue, type PostureValue } from './posture.ts'
import { Resolver } from './resolve.ts'
import { SourceLists } from './sources.ts'
import { SshCompiler } from './ssh.ts'
import { type CompiledStatement, compileStatement, isUnchanged } from './statements.ts'
import { Visibility } from './visibility.ts'

/** A policy looked up in a tailnet at one moment: valid until the next device attribute expires. */
export class Engine {
  readonly policy: Policy
  readonly inventory: Inventory
  readonly resolver: Resolver
  readonly lists: SourceLists
  readonly statements: readonly CompiledStatement[]
  readonly concerns: Concerns
  readonly filter: FilterCompiler
  readonly visibility: Visibility
  readonly ssh: SshCompiler
  readonly #now: number | undefined
  readonly #sshCheckUrl: string

  /** @param now wall clock for attributes that expire; without it those are not set
   *  @param previous an engine for the same policy and an earlier state of the same tailnet: what did not change is shared */
  constructor(policy: Policy, inventory: Inventory, sshCheckUrl: string, now: number | undefined, previous?: Engine) {
    this.policy = policy
    this.inventory = inventory
    this.#now = now
    this.#sshCheckUrl = sshCheckUrl
    this.resolver = new Resolver(policy, inventory, previous?.resolver)
    this.lists = new SourceLists(inventory, previous?.lists)
    this.statements = policy.statements.map((statement, i) => {
      const old = previous?.statements[i]
      const meets = this.#meets(statement.srcPosture)
      if (old !== undefined && meets === undefined && isUnchanged(old, inventory, this.resolver)) {
        if (old.targets.length > 0) this.lists.adopt(old.sources, old.list)
        return old
      }
      return this.compile(statement, i, meets)
    })
    if (previous !== undefined)
      for (const { sources, destinations, recorder } of policy.ssh)
        for (const { alias } of [...sources, ...destinations, ...recorder]) this.resolver.resolve(alias)
    this.resolver.settle()
    this.lists.settle()
    this.concerns = new Concerns(this.statements, inventory.room)
    this.filter = new FilterCompiler(this.statements, this.lists, inventory, this.concerns)
    this.visibility = new Visibility(this.statements, inventory, this.concerns)
    this.ssh = new SshCompiler(policy, inventory, this.resolver, (rule: SshRule) => this.#meets(rule.srcPosture), sshCheckUrl)
  }

  /** Looks one statement up, with sources narrowed by `meets`. */
  compile(statement: Statement, index: number, meets: ((record: NodeRecord) => boolean) | undefined): CompiledStatement {
    return compileStatement(statement, index, this.policy, this.inventory, this.resolver, this.lists, meets)
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

/** True when some rule of the policy asks for a posture. */
export function usesPostures(policy: Policy): boolean {
  return (
    policy.defaultSrcPosture.length > 0 || [...policy.statements, ...policy.ssh].some(({ srcPosture }) => (srcPosture ?? []).length > 0)
  )
}
