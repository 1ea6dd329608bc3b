import { formatIpRange, formatPrefix, IpSet, type IpRange, prefixRange } from '@meshwright/ip'
import type { PortRange } from '@meshwright/packet-filter'
import type { Alias } from './aliases.ts'
import { BitSet } from './bits.ts'
import type { Inventory, NodeRecord, RecordChange } from './inventory.ts'
import { sameItems } from './inventory-index.ts'
import type { Destination, Policy, Statement } from './policy.ts'
import { INTERNET, type Resolved, type Resolver } from './resolve.ts'
import { coversNetworks, type SourceList, type SourceLists, type Sources } from './sources.ts'

/** One destination alias of a statement, with all ports that the statement gives for it. */
export interface Target {
  readonly destination: Destination
  readonly resolved: Resolved
  /** As `Destination.ports`, of all destinations with the same alias. */
  readonly ports: readonly (readonly PortRange[])[]
  /** How a literal stands in rules; empty for other kinds. */
  readonly literals: readonly string[]
}

/** A statement looked up in a tailnet. */
export interface CompiledStatement {
  readonly statement: Statement
  readonly index: number
  /** What the sources stand for, before postures narrow them. */
  readonly parts: readonly Resolved[]
  readonly sources: Sources
  readonly list: SourceList
  /** In the order of delivery, without `autogroup:self`. */
  readonly targets: readonly Target[]
  /** The part of `autogroup:self`, if it is a destination. */
  readonly self: Target | undefined
  /** Whether the rules of self come before those of the other destinations. */
  readonly selfFirst: boolean
  /** Nodes for which some target remains; with `via`, the routers that serve one. Self does not count. */
  readonly receivers: BitSet
}

/** `autogroup:internet` as rules carry it: always as ranges. */
const INTERNET_TEXTS: readonly string[] = INTERNET.ranges().map(({ first, last }) => `${first.key}-${last.key}`)

/** Looks a statement up. `postures` narrows the sources to the nodes that meet one of the statement's postures. */
export function compileStatement(
  statement: Statement,
  index: number,
  policy: Policy,
  inventory: Inventory,
  resolver: Resolver,
  lists: SourceLists,
  meets: ((record: NodeRecord) => boolean) | undefined,
): CompiledStatement {
  const parts = statement.sources.map(({ alias }) => resolver.resolve(alias))
  const sources = lists.combine(meets === undefined ? parts : parts.flatMap((part) => narrow(part, inventory, meets)))
  const merged = mergeTargets(statement, resolver, policy)
  const isSelf = (target: Target): boolean => target.resolved.kind === 'self'
  const self = merged.find(isSelf)
  const targets = merged.filter((target) => !isSelf(target))
  const allAutogroups = statement.kind === 'acl' && merged.every((target) => target.destination.alias.kind === 'autogroup')
  const receivers = new BitSet(inventory.room)
  if (statement.via.length > 0) {
    for (const { alias } of statement.via) {
      for (const router of inventory.tagged(alias.text))
        if (targets.some((target) => isServedBy(target, router))) receivers.add(router.slot)
    }
  } else {
    for (const target of targets) addReceivers(receivers, target, inventory)
  }
  return {
    statement,
    index,
    parts,
    sources,
    list: targets.length === 0 ? lists.nobody : lists.listOf(sources),
    targets,
    self,
    selfFirst: allAutogroups && merged[0] !== undefined && isSelf(merged[0]),
    receivers,
  }
}

/** Whether a statement means in the new state of a tailnet exactly what it meant in the old one, so that it can be kept. */
export function isUnchanged(old: CompiledStatement, inventory: Inventory, resolver: Resolver): boolean {
  const { statement, parts, targets, sources } = old
  if (inventory.changed === undefined || (!inventory.sameBehind && !sources.identities.isEmpty)) return false
  return (
    parts.every((part, i) => resolver.resolve(statement.sources[i]?.alias ?? NOBODY) === part) &&
    targets.every(({ resolved, destination }) => resolver.resolve(destination.alias) === resolved) &&
    inventory.changed.every((change) => {
      const { slot } = change.now ?? change.old ?? { slot: -1 }
      const everybody = sources.wildcard || sources.dangerAll || (statement.app.length > 0 && targets.some(({ resolved }) => resolved.kind === 'any'))
      if (everybody && !sameNetworks(change)) return false
      const covered = change.now !== undefined && isCovered(old, change.now, inventory)
      const receives = change.now !== undefined && isReceiver(old, change.now)
      return sources.nodes.has(slot) === covered && old.receivers.has(slot) === receives
    })
  )
}

/** The node was there and is there, with the same addresses and subnet routes. */
function sameNetworks({ old, now }: RecordChange): boolean {
  if (old === undefined || now === undefined) return false
  return old.addresses.equals(now.addresses) && sameItems(old.routeKeys, now.routeKeys)
}

/** What an alias stands for is known to be the same; is the node among the sources, as one of them or as their router? */
function isCovered({ sources }: CompiledStatement, record: NodeRecord, inventory: Inventory): boolean {
  if (sources.identities.has(record.slot) || sources.dangerAll) return true
  if (sources.wildcard && inventory.tailnetNodes.has(record.slot)) return true
  return (!sources.literals.isEmpty && sources.literals.overlaps(record.addresses)) || coversNetworks(sources, record, inventory)
}

function isReceiver({ statement, targets }: CompiledStatement, record: NodeRecord): boolean {
  if (statement.via.length > 0)
    return statement.via.some(({ alias }) => record.node.tags.includes(alias.text)) && targets.some((target) => isServedBy(target, record))
  return targets.some(({ resolved }) => {
    if (resolved.kind === 'nodes') return resolved.nodes.has(record.slot)
    if (resolved.kind === 'addresses') return resolved.nodes.has(record.slot) || (record.routeKeys.length > 0 && resolved.set.overlaps(record.subnetSet))
    return resolved.kind === 'any' || (resolved.kind === 'internet' && record.exitRoutes.length > 0)
  })
}

const NOBODY: Alias = { kind: 'unknownAutogroup', text: '' }

/** What of a destination a node is told: texts in the order of delivery. */
export function textsFor(target: Target, record: NodeRecord, via: boolean): readonly string[] {
  const { resolved } = target
  if (via) return isServedBy(target, record) ? (resolved.kind === 'internet' ? INTERNET_TEXTS : literalPrefixes(target, record)) : []
  switch (resolved.kind) {
    case 'any':
      return ['*']
    case 'nodes':
      return resolved.nodes.has(record.slot) ? record.addressTexts : []
    case 'self':
      return record.addressTexts
    case 'addresses':
      return isConcerned(resolved.set, record) ? literalsFor(resolved.set, target, record) : []
    case 'internet':
      return record.exitRoutes.length > 0 ? INTERNET_TEXTS : []
    case 'dangerAll':
    case 'nothing':
      return []
  }
}

/** Whether a via router serves some route that the destination overlaps. */
export function isServedBy(target: Target, router: NodeRecord): boolean {
  if (target.resolved.kind === 'internet') return router.exitRoutes.length > 0
  return target.resolved.kind === 'addresses' && router.subnetSet.overlaps(target.resolved.set)
}

/** True when a literal has an address of the node or overlaps one of its subnet routes. */
export function isConcerned(set: IpSet, record: NodeRecord): boolean {
  return set.overlaps(record.addresses) || set.overlaps(record.subnetSet)
}

/** An ipset is delivered as those of its ranges that concern the node; other literals are one range. */
function literalsFor(set: IpSet, target: Target, record: NodeRecord): readonly string[] {
  if (target.literals.length > 0) return target.literals
  return set.ranges().flatMap((range: IpRange) => (isConcerned(IpSet.of(range), record) ? [formatIpRange(range)] : []))
}

/** With via, prefixes keep their length even when they are one address. */
function literalPrefixes(target: Target, record: NodeRecord): readonly string[] {
  if (target.resolved.kind !== 'addresses') return []
  return target.resolved.set.prefixes().flatMap((prefix) => (record.subnetSet.overlaps(prefix) ? [formatPrefix(prefix)] : []))
}

function addReceivers(receivers: BitSet, { resolved }: Target, inventory: Inventory): void {
  if (resolved.kind === 'nodes') receivers.or(resolved.nodes)
  else if (resolved.kind === 'addresses') {
    receivers.or(resolved.nodes)
    if (resolved.set.overlaps(inventory.routed))
      for (const router of inventory.routers) if (router.subnetSet.overlaps(resolved.set)) receivers.add(router.slot)
  } else if (resolved.kind === 'any') receivers.or(inventory.everyone)
  else if (resolved.kind === 'internet')
    for (const record of inventory.records) if (record !== undefined && record.exitRoutes.length > 0) receivers.add(record.slot)
}

/** Destinations with the same alias joined at the place of the first; `*` before all others, groups not before users. */
function mergeTargets(statement: Statement, resolver: Resolver, policy: Policy): Target[] {
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
  return ordered.map((destination) => ({
    destination,
    ports: destination.ports,
    resolved: resolver.resolve(destination.alias),
    literals: literalsOf(destination, policy),
  }))
}

/** A literal as it was written, except that a single address has no length. */
function literalsOf({ alias }: Destination, policy: Policy): readonly string[] {
  const prefix = alias.kind === 'prefix' ? alias.prefix : alias.kind === 'host' ? policy.hosts.get(alias.name)?.value : undefined
  return prefix === undefined ? [] : [formatIpRange(prefixRange(prefix))]
}

/** Postures narrow what names nodes of the tailnet. Networks behind routers and addresses written as such pass. */
function narrow(part: Resolved, inventory: Inventory, meets: (record: NodeRecord) => boolean): readonly Resolved[] {
  if (part.kind !== 'nodes' && part.kind !== 'any' && part.kind !== 'dangerAll') return [part]
  const nodes = new BitSet(inventory.room)
  for (const slot of (part.kind === 'nodes' ? part.nodes : inventory.everyone).slots()) {
    const record = inventory.records[slot]
    if (record !== undefined && meets(record)) nodes.add(slot)
  }
  if (part.kind === 'nodes') return [{ kind: 'nodes', nodes }]
  return [
    { kind: 'nodes', nodes },
    { kind: 'addresses', set: inventory.routed, nodes: new BitSet(inventory.room) },
  ]
}
