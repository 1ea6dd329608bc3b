import type { UnixMillis } from '@meshwright/core'
import { type Ip, parseIp, type Prefix, prefixContains } from '@meshwright/ip'
import { parseAlias } from './aliases.ts'
import type { CompiledPolicy } from './compiled.ts'
import type { Place } from './diagnostics.ts'
import type { Engine } from './engine.ts'
import type { NodeRecord } from './inventory.ts'
import { type Involved, meaningOf, type NamedPlace } from './meaning.ts'
import { undefinedName } from './names.ts'
import type { LocatedAlias, Statement } from './policy.ts'
import { coversAddress, type NearMiss, nearMissOf, posturesMet, receives } from './near-miss.ts'
import type { Connection } from './reach.ts'
import { INTERNET } from './resolve.ts'
import { type SshAccess, sshAccessOf } from './ssh-access.ts'
import type { CompiledStatement } from './statements.ts'
import type { TailnetNode } from './tailnet.ts'

/** A statement that allows a connection. */
export interface Contribution {
  readonly kind: Statement['kind']
  readonly at: Place
  readonly sources: readonly Involved[]
  readonly destinations: readonly Involved[]
  /** Tags of routers that the traffic must take. */
  readonly via: readonly string[]
  /** Postures that the source meets, where the statement asks for one. */
  readonly postures: readonly NamedPlace[]
  /** Nodes that let the connection in: the destination itself, or routers that serve it. */
  readonly receivers: readonly TailnetNode[]
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
  /** Routers that lead there for the source, where the destination is no node's address; empty: none does. */
  readonly routes: readonly { readonly node: TailnetNode; readonly route: Prefix }[]
  /** Entries of ssh that let the source into the destination, in the order in which its server goes through them: the first that fits decides. */
  readonly ssh: readonly SshAccess[]
}

const MOST_NEAREST = 5

/** Whether `source` may connect to `destination`, with every statement that says so, or what the nearest ones lack. */
export function explainAccess(compiled: CompiledPolicy, connection: Connection, wallNow?: UnixMillis): Explanation {
  const engine = compiled.engineAt(wallNow)
  const candidates = candidatesFor(engine, connection.destination)
  const contributions: Contribution[] = []
  const misses: NearMiss[] = []
  for (const statement of engine.statements) {
    const miss = nearMissOf(engine, statement, connection, candidates)
    if (miss !== undefined) misses.push(miss)
    else contributions.push(contributionOf(engine, statement, connection, candidates))
  }
  const allowed = contributions.length > 0
  const nearest = allowed ? [] : misses.sort((a, b) => a.lacks.length - b.lacks.length).slice(0, MOST_NEAREST)
  return {
    allowed,
    contributions,
    nearest,
    candidates: candidates.map(({ node }) => node),
    routes: routesTo(engine, connection),
    ssh: sshAccessOf(engine, connection),
  }
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

/** The longest of the routes that lead to an address over the peers of its source. */
function routesTo(engine: Engine, { source, destination }: Connection): { readonly node: TailnetNode; readonly route: Prefix }[] {
  if (engine.inventory.recordsAt(destination).length > 0) return []
  const routes = engine.inventory.recordsAt(source).flatMap((viewer) =>
    engine.visibility.routesOf(viewer).flatMap(({ record, subnetRoutes, exitRoutes }) =>
      [...subnetRoutes, ...exitRoutes].filter((route) => prefixContains(route, destination)).map((route) => ({ node: record.node, route })),
    ),
  )
  const longest = routes.reduce((most, { route }) => Math.max(most, route.bits), 0)
  return routes.filter(({ route }) => route.bits === longest)
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
    postures: posturesMet(engine, statement.srcPosture, connection.source),
    receivers: candidates.filter((record) => receives(compiled, engine, record, connection)).map(({ node }) => node),
  }
}
