import { formatIpRange, formatPrefix, type Ip, IpSet, type IpRange, prefixContains } from '@meshwright/ip'
import type { PortRange } from '@meshwright/packet-filter'
import { BitSet } from './bits.ts'
import type { SourceList } from './interned-lists.ts'
import type { Inventory, NodeRecord, RecordChange } from './inventory.ts'
import { sameItems } from './inventory-index.ts'
import type { PlannedTarget, StatementPlan } from './plan.ts'
import type { Destination, Statement } from './policy.ts'
import { INTERNET, type Resolved, type Resolver } from './resolve.ts'
import type { SourceLists, Sources } from './sources.ts'

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
  /** Whether it also gives its sources a rule. */
  readonly companions: boolean
  /** Nodes for which some target remains; with `via`, the routers that serve one. Self does not count. */
  readonly receivers: BitSet
}

/** `autogroup:internet` as rules carry it: always as ranges. */
const INTERNET_TEXTS: readonly string[] = INTERNET.ranges().map(({ first, last }) => `${first.key}-${last.key}`)

/** Looks a statement up. `meets` narrows the sources to the nodes that meet one of the statement's postures. */
export function compileStatement(
  plan: StatementPlan,
  inventory: Inventory,
  resolver: Resolver,
  lists: SourceLists,
  meets: ((record: NodeRecord) => boolean) | undefined,
): CompiledStatement {
  const { statement, index, selfFirst, companions } = plan
  const parts = statement.sources.map(({ alias }) => resolver.resolve(alias))
  const sources = lists.combine(meets === undefined ? parts : parts.flatMap((part) => narrow(part, inventory, meets)))
  const targets = plan.targets.map((target) => targetOf(target, resolver))
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
    self: plan.self === undefined ? undefined : targetOf(plan.self, resolver),
    selfFirst,
    companions,
    receivers,
  }
}

/**
 * A statement without postures after one node changed, the same object where it means the same. What follows from other nodes stays as it is,
 * for which reason nobody may live behind a router (see {@link SourceLists.advance}).
 */
export function advanceStatement(
  old: CompiledStatement,
  change: RecordChange,
  inventory: Inventory,
  resolver: Resolver,
  lists: SourceLists,
): CompiledStatement {
  const { statement } = old
  const parts = sameOr(old.parts, statement.sources.map(({ alias }) => resolver.resolve(alias)))
  const targets = sameOr(
    old.targets,
    old.targets.map((target) => {
      const resolved = resolver.resolve(target.destination.alias)
      return resolved === target.resolved ? target : { ...target, resolved }
    }),
  )
  const sources = lists.advance(old.sources, parts, change)
  const list = targets.length === 0 ? old.list : lists.advanceList(old.sources, old.list, sources, change)
  const receives = change.now !== undefined && isReceiver(statement, targets, change.now)
  const receivers = old.receivers.with(change.slot, receives, inventory.room)
  // Companions make lists of destinations, and routes are part of what `*` means there.
  const sameReverse = !old.companions || inventory.samePrefixes || !targets.some(({ resolved }) => resolved.kind === 'any')
  const same = sameReverse && parts === old.parts && targets === old.targets && sources === old.sources && list === old.list && receivers === old.receivers
  return same ? old : { ...old, parts, targets, sources, list, receivers }
}

/** The later items; the earlier ones where all are the same. */
function sameOr<T>(earlier: readonly T[], later: readonly T[]): readonly T[] {
  return sameItems(earlier, later) ? earlier : later
}

function targetOf({ destination, literals }: PlannedTarget, resolver: Resolver): Target {
  return { destination, ports: destination.ports, resolved: resolver.resolve(destination.alias), literals }
}

function isReceiver(statement: Statement, targets: readonly Target[], record: NodeRecord): boolean {
  if (statement.via.length > 0)
    return statement.via.some(({ alias }) => record.node.tags.includes(alias.text)) && targets.some((target) => isServedBy(target, record))
  return targets.some(({ resolved }) => {
    if (resolved.kind === 'nodes') return resolved.nodes.has(record.slot)
    if (resolved.kind === 'addresses') return resolved.nodes.has(record.slot) || (record.routeKeys.length > 0 && resolved.set.overlaps(record.subnetSet))
    return resolved.kind === 'any' || (resolved.kind === 'internet' && record.exitRoutes.length > 0)
  })
}

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

/** Whether what a node is told of a destination holds an address that the destination holds. */
export function isTold(target: Target, record: NodeRecord, via: boolean, ip: Ip): boolean {
  const { resolved } = target
  if (resolved.kind !== 'addresses') return textsFor(target, record, via).length > 0
  if (via) return resolved.set.prefixes().some((prefix) => prefixContains(prefix, ip) && record.subnetSet.overlaps(prefix))
  // Of an ipset a node is told some ranges, of other names all or nothing.
  const parts = target.literals.length > 0 ? [resolved.set] : resolved.set.ranges().map((range) => IpSet.of(range))
  return parts.some((part) => part.contains(ip) && isConcerned(part, record))
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
