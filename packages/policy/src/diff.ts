import type { UnixMillis } from '@meshwright/core'
import { IpSet } from '@meshwright/ip'
import type { PortRange } from '@meshwright/packet-filter'
import type { CompiledPolicy } from './compiled.ts'
import type { Engine } from './engine.ts'
import type { NodeRecord } from './inventory.ts'
import { DEFAULT_PROTOCOLS } from './reach.ts'
import { INTERNET, type Resolved } from './resolve.ts'
import { rangeTexts } from './sources.ts'
import type { Sources } from './sources.ts'

/** Access that one of two policies gives and the other does not. */
export interface AccessChange {
  readonly change: 'gained' | 'lost'
  readonly kind: 'ip' | 'app' | 'ssh'
  /** A user's login, a node's tags, a network behind a router, or `autogroup:internet`. */
  readonly source: string
  readonly destination: string
  /** Protocol number for `ip`, capability name for `app`, login name for `ssh`. */
  readonly what: string
  /** Port ranges for `ip`, values for `app`, `accept` or `check` for `ssh`. */
  readonly detail: string
}

/**
 * The access gained and lost by people and machines between two policies for the same tailnet; empty is the proof that nothing changed.
 * Nodes that both policies treat alike are one line: a user or a set of tags, with the node's name where they do not.
 */
export function diffAccess(before: CompiledPolicy, after: CompiledPolicy, wallNow?: UnixMillis): readonly AccessChange[] {
  const engines = [before.engineAt(wallNow), after.engineAt(wallNow)] as const
  const subjects = subjectsOf(engines)
  const [old, now] = [accessOf(engines[0], subjects), accessOf(engines[1], subjects)]
  const changes: AccessChange[] = []
  for (const key of [...new Set([...old.keys(), ...now.keys()])].sort()) {
    const entry = old.get(key) ?? now.get(key)
    if (entry === undefined) continue
    const lost = subtract(old.get(key)?.details ?? [], now.get(key)?.details ?? [], entry.kind)
    const gained = subtract(now.get(key)?.details ?? [], old.get(key)?.details ?? [], entry.kind)
    const { kind, source, destination, what } = entry
    for (const detail of lost) changes.push({ change: 'lost', kind, source, destination, what, detail })
    for (const detail of gained) changes.push({ change: 'gained', kind, source, destination, what, detail })
  }
  return changes
}

/** Nodes or addresses that both policies treat alike. */
interface Subject {
  readonly label: string
  /** One node that stands for all. */
  readonly record: NodeRecord | undefined
  /** Addresses behind routers; or the internet. */
  readonly set: IpSet | undefined
}

interface Access {
  readonly kind: AccessChange['kind']
  readonly source: string
  readonly destination: string
  readonly what: string
  readonly details: (string | PortRange)[]
}

/** Splits the tailnet into the fewest parts that no statement of either policy tells apart. */
function subjectsOf(engines: readonly [Engine, Engine]): readonly Subject[] {
  const { inventory } = engines[1]
  const literals = engines.flatMap((engine) =>
    engine.statements.flatMap(({ targets, sources }) => [
      sources.literals,
      ...targets.flatMap(({ resolved }) => (resolved.kind === 'addresses' ? [resolved.set] : [])),
    ]),
  )
  const distinct = [...new Map(literals.filter((set) => !set.isEmpty).map((set) => [set.toString(), set])).values()]
  const classes = new Map<string, { label: string; records: NodeRecord[] }>()
  for (const record of inventory.records) {
    if (record === undefined) continue
    const label =
      inventory.ownerOf(record.node)?.login ?? (record.node.tags.length > 0 ? [...record.node.tags].sort().join(' ') : record.node.name)
    const marks = distinct.map((set, i) => (set.overlaps(record.addresses) || set.overlaps(record.subnetSet) ? i : '')).join()
    const postures = engines
      .map((engine) => engine.statements.map(({ sources }) => (sources.nodes.has(record.slot) ? 1 : 0)).join(''))
      .join('/')
    const key = `${label}|${marks}|${postures}`
    const known = classes.get(key)
    if (known === undefined) classes.set(key, { label, records: [record] })
    else known.records.push(record)
  }
  const labels = [...classes.values()].map(({ label }) => label)
  const nodes = [...classes.values()].map(({ label, records }): Subject => {
    const shared = labels.filter((each) => each === label).length > 1
    return { label: shared ? `${label} (${records.map(({ node }) => node.name).join(', ')})` : label, record: records[0], set: undefined }
  })
  return [...nodes, ...networksOf(engines, distinct)]
}

/** Served networks, cut at every literal of either policy, and the internet where there is an exit node. */
function networksOf(engines: readonly [Engine, Engine], literals: readonly IpSet[]): readonly Subject[] {
  const { inventory } = engines[1]
  let parts = [...inventory.routes.values()].map(({ set }) => set)
  const cuts = [...literals, ...parts]
  parts = parts.length === 0 ? [] : [IpSet.from(parts)]
  for (const cut of cuts)
    parts = parts.flatMap((part) => (part.overlaps(cut) && !cut.covers(part) ? [part.intersect(cut), part.remove(cut)] : [part]))
  const networks = parts.map((set): Subject => ({ label: rangeTexts(set).join(', '), record: undefined, set }))
  const exits = inventory.records.some((record) => record !== undefined && record.exitRoutes.length > 0)
  return exits ? [...networks, { label: 'autogroup:internet', record: undefined, set: INTERNET }] : networks
}

function accessOf(engine: Engine, subjects: readonly Subject[]): Map<string, Access> {
  const access = new Map<string, Access>()
  const add = (
    kind: Access['kind'],
    source: Subject,
    destination: Subject,
    what: string,
    details: readonly (string | PortRange)[],
  ): void => {
    const key = [kind, source.label, destination.label, what].join('\0')
    const known = access.get(key)
    if (known === undefined) access.set(key, { kind, source: source.label, destination: destination.label, what, details: [...details] })
    else for (const detail of details) known.details.push(detail)
  }
  for (const { statement, sources, targets, self } of engine.statements) {
    const from = subjects.filter((subject) => isSource(engine, sources, subject))
    if (from.length === 0) continue
    const via = statement.via.map(({ alias }) => alias.text).join(', ')
    for (const target of [...targets, ...(self === undefined ? [] : [self])]) {
      const to = subjects.filter((subject) => isDestination(target.resolved, subject))
      for (const source of from) {
        for (const destination of target.resolved.kind === 'self' ? to.filter((each) => sameUser(engine, source, each)) : to) {
          for (const [i, protocol] of statement.protocols.entries()) {
            for (const each of protocol === undefined ? DEFAULT_PROTOCOLS : [protocol])
              add('ip', source, destination, via === '' ? String(each) : `${each} via ${via}`, target.ports[i] ?? [])
          }
          for (const { name, values } of statement.app) add('app', source, destination, name, [JSON.stringify(values)])
        }
      }
    }
  }
  for (const destination of subjects) {
    if (destination.record === undefined) continue
    for (const { principals, sshUsers, action } of engine.ssh.rulesFor(destination.record)) {
      const allowed = new Set(principals.map(({ nodeIP }) => nodeIP))
      const from = subjects.filter(({ record }) => record?.addressTexts.some((text) => allowed.has(text)))
      for (const source of from)
        for (const [login, local] of Object.entries(sshUsers))
          if (local !== '') add('ssh', source, destination, login, [action.accept === true ? 'accept' : 'check'])
    }
  }
  return access
}

function isSource(engine: Engine, sources: Sources, { record, set }: Subject): boolean {
  if (record !== undefined) return sources.nodes.has(record.slot) && sources.set(engine.inventory).overlaps(record.addresses)
  return set !== undefined && set !== INTERNET && sources.set(engine.inventory).covers(set)
}

function isDestination(resolved: Resolved, { record, set }: Subject): boolean {
  if (resolved.kind === 'any') return true
  if (record !== undefined) {
    if (resolved.kind === 'nodes') return resolved.nodes.has(record.slot)
    return resolved.kind === 'addresses' ? resolved.set.overlaps(record.addresses) : resolved.kind === 'self'
  }
  if (set === INTERNET) return resolved.kind === 'internet'
  return set !== undefined && resolved.kind === 'addresses' && resolved.set.covers(set)
}

function sameUser(engine: Engine, source: Subject, destination: Subject): boolean {
  if (source.record === undefined || destination.record === undefined) return false
  const user = engine.inventory.ownerOf(source.record.node)
  return user !== undefined && engine.inventory.ownerOf(destination.record.node)?.id === user.id
}

/** What the first has and the second has not: port ranges as sets of ports, other details as they are. */
function subtract(first: readonly (string | PortRange)[], second: readonly (string | PortRange)[], kind: AccessChange['kind']): string[] {
  if (kind !== 'ip') return [...new Set(first.flatMap((each) => (typeof each === 'string' && !second.includes(each) ? [each] : [])))]
  const isRange = (each: string | PortRange): each is PortRange => typeof each !== 'string'
  let left = merge(first.filter(isRange))
  for (const { First, Last } of merge(second.filter(isRange))) {
    left = left.flatMap((range) => {
      if (range.Last < First || range.First > Last) return [range]
      return [
        { First: range.First, Last: First - 1 },
        { First: Last + 1, Last: range.Last },
      ].filter((part) => part.First <= part.Last)
    })
  }
  return left.length === 0
    ? []
    : [left.map(({ First, Last }) => (First <= 1 && Last === 65535 ? '*' : First === Last ? String(First) : `${First}-${Last}`)).join(',')]
}

function merge(ranges: readonly PortRange[]): PortRange[] {
  const merged: PortRange[] = []
  for (const range of [...ranges].sort((a, b) => a.First - b.First)) {
    const last = merged.at(-1)
    if (last !== undefined && range.First <= last.Last + 1)
      merged[merged.length - 1] = { First: last.First, Last: Math.max(last.Last, range.Last) }
    else merged.push(range)
  }
  return merged
}
