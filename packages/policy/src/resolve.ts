import { IpSet, parsePrefix } from '@meshwright/ip'
import { type Alias, type Autogroup, isRoleAutogroup } from './aliases.ts'
import { BitSet } from './bits.ts'
import type { Inventory, NodeRecord, RecordChange } from './inventory.ts'
import { LayeredMap } from './layered-map.ts'
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

type ResolvedNodes = Extract<Resolved, { kind: 'nodes' | 'addresses' }>

interface Known {
  readonly alias: Alias
  readonly resolved: Resolved
}

/** Looks names up in a tailnet, each only once. */
export class Resolver {
  readonly #policy: Policy
  readonly #inventory: Inventory
  readonly #known: LayeredMap<string, Known>
  readonly #ipsets: Map<string, IpSet>
  readonly #users: Map<string, ReadonlySet<number>>
  /** Names that stand for something else than in the earlier state, if one is followed: what means the same is the same object. */
  readonly moved: readonly string[]
  /** Names of addresses of which the changed node's routes covered some then or cover some now, and not both. */
  readonly rerouted: readonly string[]

  /** @param previous the resolver of an earlier state of the same tailnet and policy, with the same users */
  constructor(policy: Policy, inventory: Inventory, previous?: Resolver) {
    this.#policy = policy
    this.#inventory = inventory
    const [moved, rerouted]: [string[], string[]] = [[], []]
    const { changed } = inventory
    if (previous === undefined || changed === undefined) {
      this.#known = new LayeredMap()
      this.#ipsets = new Map()
      this.#users = new Map()
    } else {
      this.#known = previous.#known.branch()
      this.#ipsets = previous.#ipsets
      this.#users = previous.#users
      previous.#known.forEach((known) => {
        const { alias, resolved } = known
        if (resolved.kind !== 'nodes' && resolved.kind !== 'addresses') return
        const now = this.#advance(alias, resolved, changed)
        if (now !== resolved) {
          moved.push(alias.text)
          this.#known.set(alias.text, { alias, resolved: now })
        }
        if (resolved.kind === 'addresses' && !changed.sameRoutes && servesSome(resolved.set, changed.old) !== servesSome(resolved.set, changed.now))
          rerouted.push(alias.text)
      })
    }
    this.moved = moved
    this.rerouted = rerouted
  }

  resolve(alias: Alias): Resolved {
    const known = this.#known.get(alias.text)
    if (known !== undefined) return known.resolved
    const resolved = this.#lookUp(alias)
    this.#known.set(alias.text, { alias, resolved })
    return resolved
  }

  /** All nodes that an alias selects, as approvers and targets do: by their identity or their addresses. */
  nodesOf(alias: Alias): BitSet {
    const resolved = this.resolve(alias)
    if (resolved.kind === 'nodes' || resolved.kind === 'addresses') return resolved.nodes
    return resolved.kind === 'any' || resolved.kind === 'dangerAll' ? this.#inventory.everyone : new BitSet(this.#inventory.room)
  }

  /** What an alias stands for after a node changed: the same object where nothing about it did. */
  #advance(alias: Alias, old: ResolvedNodes, { slot, old: before, now, sameAddresses }: RecordChange): Resolved {
    const selected = now !== undefined && this.#selects(alias, old, now)
    const nodes = old.nodes.with(slot, selected, this.#inventory.room)
    // A node that came in at another's place is never the same: its addresses are others.
    if (nodes === old.nodes) return selected && before !== undefined && !sameAddresses ? { ...old } : old
    return { ...old, nodes }
  }

  #selects(alias: Alias, resolved: ResolvedNodes, { node, addresses }: NodeRecord): boolean {
    if (resolved.kind === 'addresses') return resolved.set.overlaps(addresses)
    if (alias.kind === 'tag') return node.tags.includes(alias.text)
    if (alias.kind === 'autogroup' && alias.autogroup === 'tagged') return node.tags.length > 0
    const owner = this.#inventory.ownerOf(node)
    return owner !== undefined && this.#userIds(alias).has(owner.id)
  }

  /** The users that an alias of users means. */
  #userIds(alias: Alias): ReadonlySet<number> {
    const known = this.#users.get(alias.text)
    if (known !== undefined) return known
    const ids = new Set(this.#usersOf(alias).map(({ id }) => id))
    this.#users.set(alias.text, ids)
    return ids
  }

  #usersOf(alias: Alias): readonly TailnetUser[] {
    const { users } = this.#inventory.view
    if (alias.kind === 'user') return this.#inventory.usersNamed(alias.login)
    if (alias.kind === 'domain') return users.filter((user) => user.external !== true && domainOf(user.login) === alias.domain)
    if (alias.kind === 'group')
      return (this.#policy.groups.get(alias.text)?.value ?? []).flatMap((member) => this.#inventory.usersNamed(member.value))
    if (alias.kind !== 'autogroup') return []
    const { autogroup } = alias
    if (isRoleAutogroup(autogroup))
      return users.filter((user) => user.external !== true && (user.role === autogroup || (autogroup === 'admin' && user.role === 'owner')))
    return users.filter((user) => (autogroup === 'shared' ? user.external === true : autogroup === 'member' && user.external !== true))
  }

  #lookUp(alias: Alias): Resolved {
    const { hosts } = this.#policy
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
      case 'domain':
      case 'group':
        return this.#owned(alias)
      case 'tag':
        return this.#nodes(this.#inventory.tagged(alias.text))
      case 'autogroup':
        return this.#autogroup(alias, alias.autogroup)
      case 'service':
        return this.#service(alias.text)
      case 'unknownAutogroup':
        return { kind: 'nothing' }
    }
  }

  #autogroup(alias: Alias, autogroup: Autogroup): Resolved {
    if (isRoleAutogroup(autogroup)) return this.#owned(alias)
    switch (autogroup) {
      case 'member':
      case 'shared':
        return this.#owned(alias)
      case 'tagged':
        return this.#nodes(this.#inventory.records.filter((record) => record !== undefined && record.node.tags.length > 0))
      case 'self':
      case 'internet':
        return { kind: autogroup }
      case 'danger-all':
        return { kind: 'dangerAll' }
    }
  }

  #owned(alias: Alias): Resolved {
    return this.#nodes([...this.#userIds(alias)].flatMap((id) => this.#inventory.owned(id)))
  }

  #nodes(records: readonly (NodeRecord | undefined)[]): Resolved {
    const nodes = new BitSet(this.#inventory.room)
    for (const record of records) if (record !== undefined) nodes.add(record.slot)
    return { kind: 'nodes', nodes }
  }

  #addresses(set: IpSet): Resolved {
    return { kind: 'addresses', set, nodes: this.#inventory.within(set) }
  }

  /** The addresses of a service; nodes have them by serving them as routes. */
  #service(name: string): Resolved {
    const services = (this.#inventory.view.services ?? []).filter((service) => service.name === name)
    return services.length === 0 ? { kind: 'nothing' } : this.#addresses(IpSet.from(services.flatMap(({ addresses }) => addresses)))
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

function servesSome(set: IpSet, record: NodeRecord | undefined): boolean {
  return record !== undefined && record.routeKeys.length > 0 && set.overlaps(record.subnetSet)
}

/** What stands behind the last `@` of a login; `undefined` without one. */
export function domainOf(login: string): string | undefined {
  const at = login.lastIndexOf('@')
  return at < 0 ? undefined : login.slice(at + 1)
}

function setOf(...prefixes: readonly string[]): IpSet {
  return IpSet.from(prefixes.flatMap((text) => parsePrefix(text) ?? []))
}
