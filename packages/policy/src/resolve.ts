import { IpSet, parsePrefix } from '@meshwright/ip'
import { type Alias, isRoleAutogroup } from './aliases.ts'
import { BitSet } from './bits.ts'
import type { Inventory, NodeRecord } from './inventory.ts'
import type { Policy } from './policy.ts'
import type { TailnetUser } from './tailnet.ts'

/** 0.0.0.0/0 and 2000::/3 less private, shared and link-local IPv4: what `autogroup:internet` means. */
export const INTERNET: IpSet = setOf('0.0.0.0/0', '2000::/3').remove(
  setOf('10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '100.64.0.0/10', '169.254.0.0/16'),
)

/** What an alias stands for in a tailnet. */
export type Resolved =
  /** Whole nodes: both families of their addresses. */
  | { readonly kind: 'nodes'; readonly nodes: BitSet }
  /** Addresses as written, and the nodes that have some of them. */
  | { readonly kind: 'addresses'; readonly set: IpSet; readonly nodes: BitSet }
  | { readonly kind: 'any' | 'dangerAll' | 'internet' | 'self' | 'nothing' }

/** Looks names up in a tailnet, each only once. */
export class Resolver {
  readonly #policy: Policy
  readonly #inventory: Inventory
  readonly #known: Map<string, Resolved> = new Map()
  readonly #ipsets: Map<string, IpSet> = new Map()
  #previous: Resolver | undefined

  /** @param previous the resolver of an earlier state of the same tailnet and policy: what means the same now is the same object */
  constructor(policy: Policy, inventory: Inventory, previous?: Resolver) {
    this.#policy = policy
    this.#inventory = inventory
    this.#previous = previous
  }

  resolve(alias: Alias): Resolved {
    const known = this.#known.get(alias.text)
    if (known !== undefined) return known
    const fresh = this.#lookUp(alias)
    const previous = this.#previous
    const old = previous === undefined ? undefined : previous.#known.get(alias.text)
    const resolved = old !== undefined && isSame(old, fresh) && !this.#isReaddressed(old) ? old : fresh
    this.#known.set(alias.text, resolved)
    return resolved
  }

  /** Lets go of the earlier state; what it knew is used no more. */
  settle(): void {
    this.#previous = undefined
  }

  /** All nodes that an alias selects, as approvers and targets do: by their identity or their addresses. */
  nodesOf(alias: Alias): BitSet {
    const resolved = this.resolve(alias)
    if (resolved.kind === 'nodes' || resolved.kind === 'addresses') return resolved.nodes
    return resolved.kind === 'any' || resolved.kind === 'dangerAll' ? this.#inventory.everyone : new BitSet(this.#inventory.room)
  }

  #isReaddressed(resolved: Resolved): boolean {
    return resolved.kind === 'nodes' && this.#inventory.readdressed.intersects(resolved.nodes)
  }

  #lookUp(alias: Alias): Resolved {
    const { groups, hosts } = this.#policy
    switch (alias.kind) {
      case 'any':
        return { kind: 'any' }
      case 'prefix':
        return this.#addresses(IpSet.of(alias.prefix))
      case 'range':
        return this.#addresses(IpSet.of(alias.range))
      case 'host': {
        const host = hosts.get(alias.name)
        return host === undefined ? { kind: 'nothing' } : this.#addresses(IpSet.of(host.value))
      }
      case 'ipset':
        return this.#addresses(this.#ipset(alias.text))
      case 'user':
        return this.#users(this.#inventory.usersNamed(alias.login))
      case 'domain':
        return this.#users(this.#inventory.view.users.filter((user) => domainOf(user.login) === alias.domain))
      case 'group':
        return this.#users((groups.get(alias.text)?.value ?? []).flatMap((member) => this.#inventory.usersNamed(member.value)))
      case 'tag':
        return this.#nodes(this.#inventory.tagged(alias.text))
      case 'autogroup':
        return this.#autogroup(alias.autogroup)
      case 'service':
      case 'unknownAutogroup':
        return { kind: 'nothing' }
    }
  }

  #autogroup(autogroup: Extract<Alias, { kind: 'autogroup' }>['autogroup']): Resolved {
    const { users } = this.#inventory.view
    if (isRoleAutogroup(autogroup))
      return this.#users(users.filter((user) => user.role === autogroup || (autogroup === 'admin' && user.role === 'owner')))
    switch (autogroup) {
      case 'member':
        return this.#users(users)
      case 'tagged':
        return this.#nodes(this.#inventory.records.filter((record) => record !== undefined && record.node.tags.length > 0))
      case 'self':
      case 'internet':
        return { kind: autogroup }
      case 'danger-all':
        return { kind: 'dangerAll' }
      case 'shared':
        return { kind: 'nothing' }
    }
  }

  #users(users: readonly TailnetUser[]): Resolved {
    return this.#nodes(users.flatMap((user) => this.#inventory.owned(user.id)))
  }

  #nodes(records: readonly (NodeRecord | undefined)[]): Resolved {
    const nodes = new BitSet(this.#inventory.room)
    for (const record of records) if (record !== undefined) nodes.add(record.slot)
    return { kind: 'nodes', nodes }
  }

  #addresses(set: IpSet): Resolved {
    return { kind: 'addresses', set, nodes: this.#inventory.within(set) }
  }

  /** An ipset's steps in order, starting empty. Sets hold no cycles: the parser has refused them. */
  #ipset(name: string): IpSet {
    const known = this.#ipsets.get(name)
    if (known !== undefined) return known
    let set = IpSet.empty
    for (const { add, target } of this.#policy.ipsets.get(name)?.value ?? []) {
      const item = this.#ipsetTarget(target)
      set = add ? set.union(item) : set.remove(item)
    }
    this.#ipsets.set(name, set)
    return set
  }

  #ipsetTarget(target: Alias): IpSet {
    if (target.kind === 'prefix') return IpSet.of(target.prefix)
    if (target.kind === 'range') return IpSet.of(target.range)
    if (target.kind === 'ipset') return this.#ipset(target.text)
    if (target.kind === 'autogroup') return INTERNET
    const host = target.kind === 'host' ? this.#policy.hosts.get(target.name) : undefined
    return host === undefined ? IpSet.empty : IpSet.of(host.value)
  }
}

function isSame(a: Resolved, b: Resolved): boolean {
  if (a.kind === 'nodes') return b.kind === 'nodes' && a.nodes.equals(b.nodes)
  if (a.kind === 'addresses') return b.kind === 'addresses' && a.set.equals(b.set) && a.nodes.equals(b.nodes)
  return a.kind === b.kind
}

/** What stands behind the last `@` of a login; `undefined` without one. */
export function domainOf(login: string): string | undefined {
  const at = login.lastIndexOf('@')
  return at < 0 ? undefined : login.slice(at + 1)
}

function setOf(...prefixes: readonly string[]): IpSet {
  return IpSet.from(prefixes.flatMap((text) => parsePrefix(text) ?? []))
}
