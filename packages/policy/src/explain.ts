import type { UnixMillis } from '@meshwright/core'
import { type Ip, parseIp } from '@meshwright/ip'
import { type Alias, parseAlias } from './aliases.ts'
import type { CompiledPolicy } from './compiled.ts'
import type { Place } from './diagnostics.ts'
import type { Engine } from './engine.ts'
import type { NodeRecord } from './inventory.ts'
import { undefinedName } from './names.ts'
import type { LocatedAlias, Statement } from './policy.ts'
import { allowingTarget, type Connection, DEFAULT_PROTOCOLS } from './reach.ts'
import { INTERNET, type Resolved } from './resolve.ts'
import type { CompiledStatement } from './statements.ts'
import type { TailnetNode } from './tailnet.ts'

/** What a statement lacks to allow a connection. */
export type Lack = 'source' | 'posture' | 'destination' | 'protocol' | 'port' | 'receiver'

/** An alias that takes part, where it stands, and where its meaning comes from (a member of a group, a host, an ipset). */
export interface Involved {
  readonly text: string
  readonly at: Place
  readonly through: readonly Place[]
}

/** A statement that allows a connection. */
export interface Contribution {
  readonly kind: Statement['kind']
  readonly at: Place
  readonly sources: readonly Involved[]
  readonly destinations: readonly Involved[]
  /** Tags of routers that the traffic must take. */
  readonly via: readonly string[]
  /** Nodes that let the connection in: the destination itself, or routers that serve it. */
  readonly receivers: readonly TailnetNode[]
}

/** A statement that would allow a connection if it had what it lacks. */
export interface NearMiss {
  readonly kind: Statement['kind']
  readonly at: Place
  readonly lacks: readonly Lack[]
}

/** Whether a connection is allowed and why. */
export interface Explanation {
  readonly allowed: boolean
  /** Every statement that allows it, in the order of the tailnet's list. */
  readonly contributions: readonly Contribution[]
  /** When it is not allowed: the statements that lack least, at most five. */
  readonly nearest: readonly NearMiss[]
  /** Nodes that could let it in at all; none: nobody has or serves the destination. */
  readonly candidates: readonly TailnetNode[]
}

const MOST_NEAREST = 5

/** Whether `source` may connect to `destination`, with every statement that says so, or what the nearest ones lack. */
export function explainAccess(compiled: CompiledPolicy, connection: Connection, wallNow?: UnixMillis): Explanation {
  const engine = compiled.engineAt(wallNow)
  const candidates = candidatesFor(engine, connection.destination)
  const contributions: Contribution[] = []
  const misses: NearMiss[] = []
  for (const statement of engine.statements) {
    const { kind, at } = statement.statement
    const lacks = lacksOf(engine, statement, connection, candidates)
    if (lacks.length > 0) misses.push({ kind, at, lacks })
    else contributions.push(contributionOf(engine, statement, connection, candidates))
  }
  const allowed = contributions.length > 0
  const nearest = allowed ? [] : misses.sort((a, b) => a.lacks.length - b.lacks.length).slice(0, MOST_NEAREST)
  return { allowed, contributions, nearest, candidates: candidates.map(({ node }) => node) }
}

/** The addresses that a name means: a node's name, an address, or any name of the policy; empty when it means none. */
export function addressesNamed(compiled: CompiledPolicy, name: string): readonly Ip[] {
  const engine = compiled.engineAt()
  const ip = parseIp(name)
  if (ip !== undefined) return [ip]
  const nodes = engine.inventory.view.nodes.filter((node) => node.name === name || node.name.split('.')[0] === name)
  if (nodes.length > 0) return nodes.flatMap((node) => node.addresses)
  const alias = parseAlias(name)
  if (undefinedName(alias, engine.policy) !== undefined) return []
  if (alias.kind === 'host')
    return [
      ...(engine.policy.hosts.get(alias.name)?.value.ip === undefined ? [] : [engine.policy.hosts.get(alias.name)?.value.ip]),
    ].flatMap((found) => found ?? [])
  const resolved = engine.resolver.resolve(alias)
  return resolved.kind === 'nodes' ? recordsOf(engine, resolved.nodes.slots()).flatMap((record) => record.node.addresses) : []
}

function recordsOf(engine: Engine, slots: readonly number[]): NodeRecord[] {
  return slots.flatMap((slot) => engine.inventory.records[slot] ?? [])
}

/** Who has the address, else who serves a route to it, else the exit nodes. */
function candidatesFor(engine: Engine, destination: Ip): readonly NodeRecord[] {
  const owners = engine.inventory.recordsAt(destination)
  if (owners.length > 0) return owners
  const routers = engine.inventory.routers.filter((router) => router.subnetSet.contains(destination))
  if (routers.length > 0) return routers
  return INTERNET.contains(destination)
    ? engine.inventory.records.flatMap((record) => (record !== undefined && record.exitRoutes.length > 0 ? [record] : []))
    : []
}

function receives(compiled: CompiledStatement, engine: Engine, record: NodeRecord): boolean {
  return compiled.receivers.has(record.slot) || (compiled.self !== undefined && engine.inventory.ownerOf(record.node) !== undefined)
}

function lacksOf(engine: Engine, compiled: CompiledStatement, connection: Connection, candidates: readonly NodeRecord[]): Lack[] {
  const lacks: Lack[] = []
  const { statement, sources, targets, self } = compiled
  if (!sources.set(engine.inventory).contains(connection.source)) {
    const unrestricted =
      engine.posturesOf(statement.srcPosture).length > 0 &&
      engine.compile(statement, compiled.index, undefined).sources.set(engine.inventory).contains(connection.source)
    lacks.push(unrestricted ? 'posture' : 'source')
  }
  const protocols = statement.protocols.filter((each) =>
    each === undefined ? DEFAULT_PROTOCOLS.includes(connection.protocol) : each === connection.protocol,
  )
  if (protocols.length === 0) lacks.push('protocol')
  const reached = [...targets, ...(self === undefined ? [] : [self])].filter(({ resolved }) => coversAddress(engine, resolved, connection))
  if (reached.length === 0) lacks.push('destination')
  if (lacks.length === 0 && allowingTarget(engine, compiled, connection) === undefined) lacks.push('port')
  if (lacks.length === 0 && !candidates.some((record) => receives(compiled, engine, record))) lacks.push('receiver')
  return lacks
}

function coversAddress(engine: Engine, resolved: Resolved, { source, destination }: Connection): boolean {
  if (resolved.kind === 'any') return true
  if (resolved.kind === 'addresses') return resolved.set.contains(destination)
  if (resolved.kind === 'internet') return INTERNET.contains(destination)
  const owners = engine.inventory.recordsAt(destination)
  if (resolved.kind === 'nodes') return owners.some(({ slot }) => resolved.nodes.has(slot))
  if (resolved.kind !== 'self') return false
  const users = new Set(engine.inventory.recordsAt(source).flatMap(({ node }) => engine.inventory.ownerOf(node)?.id ?? []))
  return owners.some(({ node }) => users.has(engine.inventory.ownerOf(node)?.id ?? Number.NaN))
}

function contributionOf(
  engine: Engine,
  compiled: CompiledStatement,
  connection: Connection,
  candidates: readonly NodeRecord[],
): Contribution {
  const { statement } = compiled
  const source = { ...connection, destination: connection.source, source: connection.source }
  const involved = (aliases: readonly LocatedAlias[], towards: Connection, isSource: boolean): Involved[] =>
    aliases
      .filter(({ alias }) => {
        const resolved = engine.resolver.resolve(alias)
        if (isSource && (resolved.kind === 'any' || resolved.kind === 'dangerAll'))
          return compiled.sources.set(engine.inventory).contains(connection.source)
        return coversAddress(engine, resolved, towards)
      })
      .map(({ alias, at }) => ({ text: alias.text, at, through: meaningOf(engine, alias, towards.destination) }))
  return {
    kind: statement.kind,
    at: statement.at,
    sources: involved(statement.sources, source, true),
    destinations: involved(statement.destinations, connection, false),
    via: statement.via.map(({ alias }) => alias.text),
    receivers: candidates.filter((record) => receives(compiled, engine, record)).map(({ node }) => node),
  }
}

/** Where the meaning of a name comes from: the members of a group that have the address, the definition of a host or ipset. */
function meaningOf(engine: Engine, alias: Alias, address: Ip): readonly Place[] {
  const { groups, hosts, ipsets } = engine.policy
  if (alias.kind === 'host') return [hosts.get(alias.name)?.at].flatMap((at) => at ?? [])
  if (alias.kind === 'ipset') return [ipsets.get(alias.text)?.at].flatMap((at) => at ?? [])
  if (alias.kind !== 'group') return []
  const owners = new Set(engine.inventory.recordsAt(address).flatMap(({ node }) => engine.inventory.ownerOf(node)?.id ?? []))
  const members = groups.get(alias.text)?.value ?? []
  return members.filter((member) => engine.inventory.usersNamed(member.value).some(({ id }) => owners.has(id))).map(({ at }) => at)
}
