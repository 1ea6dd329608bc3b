import { BitSet } from './bits.ts'
import type { StatementChange } from './concerns.ts'
import type { Engine } from './engine.ts'
import type { NodeRecord, RecordChange } from './inventory.ts'
import type { SshRule } from './policy.ts'
import { localpartDomain } from './ssh.ts'

/** Whom a change concerns, by ids. */
export interface Affected {
  /** The nodes for which some answer may differ. */
  readonly affected: ReadonlySet<number>
  /** The nodes where that begins: how one node sees another may differ only where one of the two is among them. */
  readonly moved: ReadonlySet<number>
}

/**
 * The nodes for which some answer may differ between two states of the same policy; slots must agree. What the earlier state has made and
 * still holds is handed on to the later one.
 */
export function affectedBy(before: Engine, after: Engine): Affected {
  const { changed } = after.inventory
  if (changed === undefined || after.changes === undefined) {
    const all = idsOf(everything(before, after), before, after)
    return { affected: all, moved: all }
  }
  const { affected, moved } = affectedSlots(before, after, changed, after.changes)
  return { affected: idsOf(affected, before, after), moved: idsOf(moved, before, after) }
}

function idsOf(slots: BitSet, before: Engine, after: Engine): ReadonlySet<number> {
  const ids = new Set<number>()
  for (const slot of slots.slots()) {
    const [old, now] = [before.inventory.records[slot], after.inventory.records[slot]]
    if (now !== undefined) ids.add(now.node.id)
    if (old !== undefined && old !== now) ids.add(old.node.id)
  }
  return ids
}

/** Users changed: what names mean may differ everywhere, and the tailnet is compared node by node. */
function everything(before: Engine, after: Engine): BitSet {
  const slots = before.inventory.everyone.clone(Math.max(before.inventory.room, after.inventory.room))
  slots.or(after.inventory.everyone)
  return slots
}

function affectedSlots(before: Engine, after: Engine, changed: RecordChange, changes: readonly StatementChange[]): { readonly affected: BitSet; readonly moved: BitSet } {
  const engines = [before, after] as const
  const records = [changed.old, changed.now].flatMap((record) => record ?? [])
  const anew = touchedWhole(after, changed, records, engines)
  const rules = touchedRules(changes, anew)
  after.concerns.inherit(before.concerns, changes)
  after.filter.inherit(before.filter, changes, rules, anew)
  // From here on also what is no rule: peers, routes, SSH.
  const slots = rules.clone()
  const moved = new BitSet(after.inventory.room)
  moved.add(changed.slot)
  for (const { old, now } of changes) {
    const sources = old.sources.nodes.difference(now.sources.nodes)
    for (const slot of sources) slots.add(slot)
    for (const slot of [...sources, ...old.receivers.difference(now.receivers)]) moved.add(slot)
    // A router that is covered for what is behind it sees other peers, and they see it.
    if (sources.some((slot) => slot !== changed.slot)) for (const each of [old, now]) slots.or(each.receivers)
  }
  // Whoever sees a changed node, or saw it, is shown another peer; whoever sees a router whose route moved, too.
  for (const engine of engines) addPeers(slots, engine, changed.slot)
  for (const key of movedRoutes(before, after, records)) {
    for (const engine of engines) {
      for (const server of engine.inventory.routes.get(key)?.allServers.slots() ?? []) {
        slots.add(server)
        moved.add(server)
        addPeers(slots, engine, server)
      }
    }
  }
  for (const rule of after.policy.ssh) addSsh(slots, rule, engines, records)
  return { affected: slots, moved }
}

/** The changed node, and those whose rules of `autogroup:self` may differ. */
function touchedWhole(after: Engine, { slot }: RecordChange, records: readonly NodeRecord[], engines: readonly Engine[]): BitSet {
  const slots = new BitSet(after.inventory.room)
  slots.add(slot)
  if (!after.plan.special.always.isEmpty) addOwn(slots, engines, records)
  return slots
}

/** All nodes whose packet filter may differ. */
function touchedRules(changes: readonly StatementChange[], anew: BitSet): BitSet {
  const slots = anew.clone()
  for (const { old, now } of changes) {
    // Who receives a rule or is a source differs in the changed node alone; what the rule says, for all.
    if (old.list !== now.list || now.companions) for (const { receivers } of [old, now]) slots.or(receivers)
    if (now.companions) for (const { sources } of [old, now]) slots.or(sources.nodes)
  }
  return slots
}

/** The other nodes of the changed nodes' users. */
function addOwn(slots: BitSet, engines: readonly Engine[], records: readonly NodeRecord[]): void {
  for (const { inventory } of engines)
    for (const { node } of records) for (const own of inventory.owned(inventory.ownerOf(node)?.id ?? Number.NaN)) slots.add(own.slot)
}

function addPeers(slots: BitSet, engine: Engine, slot: number): void {
  const record = engine.inventory.records[slot]
  if (record !== undefined) slots.or(engine.visibility.peersOf(record))
}

/** Where a changed node is a source or a recorder of an SSH rule, or was one, all servers of the rule are told. */
function addSsh(slots: BitSet, rule: SshRule, engines: readonly Engine[], records: readonly NodeRecord[]): void {
  const names = (engine: Engine, aliases: SshRule['sources']): boolean =>
    aliases.some(({ alias }) => {
      const nodes = engine.resolver.nodesOf(alias)
      return records.some(({ slot }) => nodes.has(slot))
    })
  const recorder = engines.some((engine) => names(engine, rule.recorder))
  if (!recorder && !engines.some((engine) => names(engine, rule.sources))) return
  for (const engine of engines) {
    for (const { alias } of rule.destinations) slots.or(engine.resolver.nodesOf(alias))
    if (recorder) for (const { alias } of rule.sources) slots.or(engine.resolver.nodesOf(alias))
  }
  // Own devices, as destinations of autogroup:self or as sources that are told of themselves.
  const own = rule.destinations.some(({ alias }) => alias.kind === 'autogroup') || rule.users.some(({ value }) => localpartDomain(value) !== undefined)
  if (own) addOwn(slots, engines, records)
}

/** Routes whose routers are others, in another order, or with other tags: only those of the changed node can be. */
function movedRoutes(before: Engine, after: Engine, records: readonly NodeRecord[]): string[] {
  if (before.inventory.routes === after.inventory.routes) return []
  return [...new Set(records.flatMap(({ routeKeys }) => routeKeys))].filter((key) => {
    const old = before.inventory.routes.get(key)
    const now = after.inventory.routes.get(key)
    if (old === now) return false
    return old === undefined || now === undefined || !old.allServers.equals(now.allServers) || !sameServers(old.servers, now.servers)
  })
}

function sameServers(old: readonly NodeRecord[], now: readonly NodeRecord[]): boolean {
  return (
    old.length === now.length &&
    old.every((server, i) => {
      const other = now[i]
      return other !== undefined && (server === other || (server.slot === other.slot && server.node.tags.join() === other.node.tags.join()))
    })
  )
}
