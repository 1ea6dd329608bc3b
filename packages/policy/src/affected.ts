import type { Engine } from './engine.ts'
import type { NodeRecord } from './inventory.ts'
import type { CompiledStatement } from './statements.ts'

/** Ids of the nodes for which some answer may differ between two states of the same policy; slots must agree. */
export function affectedBy(before: Engine, after: Engine): ReadonlySet<number> {
  const slots = new Set<number>()
  const changed = changedSlots(before, after)
  for (const slot of changed) slots.add(slot)
  for (const [i, now] of after.statements.entries()) {
    const old = before.statements[i]
    if (old !== undefined && old !== now) addAffected(slots, old, now)
  }
  // Whoever sees a changed node, or saw it, is shown another peer; whoever sees a router whose route moved, too.
  for (const engine of [before, after]) {
    for (const slot of changed) {
      const record = engine.inventory.records[slot]
      if (record !== undefined) for (const peer of engine.visibility.peersOf(record).slots()) slots.add(peer)
    }
  }
  for (const key of movedRoutes(before, after)) {
    for (const engine of [before, after]) {
      for (const server of engine.inventory.routes.get(key)?.allServers.slots() ?? []) {
        slots.add(server)
        const record = engine.inventory.records[server]
        if (record !== undefined) for (const peer of engine.visibility.peersOf(record).slots()) slots.add(peer)
      }
    }
  }
  const ids = new Set<number>()
  for (const slot of slots) for (const { inventory } of [before, after]) addId(ids, inventory.records[slot])
  return ids
}

function addAffected(slots: Set<number>, old: CompiledStatement, now: CompiledStatement): void {
  const sourcesChanged = old.list.texts !== now.list.texts && !sameTexts(old.list.texts, now.list.texts)
  const coverChanged = !old.sources.nodes.equals(now.sources.nodes)
  const receiversChanged = !old.receivers.equals(now.receivers)
  const companions = now.statement.app.length > 0
  if (sourcesChanged || coverChanged) for (const statement of [old, now]) for (const slot of statement.receivers.slots()) slots.add(slot)
  if (receiversChanged || (companions && (sourcesChanged || coverChanged)))
    for (const statement of [old, now]) for (const slot of statement.sources.nodes.slots()) slots.add(slot)
  if ((old.self !== undefined || now.self !== undefined) && coverChanged)
    for (const statement of [old, now]) for (const slot of statement.sources.nodes.slots()) slots.add(slot)
}

function sameTexts(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((text, i) => text === b[i])
}

function changedSlots(before: Engine, after: Engine): number[] {
  const { changed } = after.inventory
  if (changed !== undefined) return changed.flatMap(({ old, now }) => (old ?? now)?.slot ?? [])
  const found: number[] = []
  const length = Math.max(before.inventory.room, after.inventory.room)
  for (let slot = 0; slot < length; slot += 1) {
    const old = before.inventory.records[slot]
    const now = after.inventory.records[slot]
    if (old !== now || ownerOf(before, old) !== ownerOf(after, now)) found.push(slot)
  }
  return found
}

function ownerOf(engine: Engine, record: NodeRecord | undefined): unknown {
  return record === undefined ? undefined : engine.inventory.ownerOf(record.node)
}

function movedRoutes(before: Engine, after: Engine): string[] {
  if (before.inventory.routes === after.inventory.routes) return []
  const keys = new Set([...before.inventory.routes.keys(), ...after.inventory.routes.keys()])
  return [...keys].filter((key) => {
    const old = before.inventory.routes.get(key)
    const now = after.inventory.routes.get(key)
    return (
      old === undefined ||
      now === undefined ||
      old.servers.length !== now.servers.length ||
      old.servers.some((server, i) => server !== now.servers[i])
    )
  })
}

function addId(ids: Set<number>, record: NodeRecord | undefined): void {
  if (record !== undefined) ids.add(record.node.id)
}
