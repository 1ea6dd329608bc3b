import type { Ip } from '@meshwright/ip'
import type { PortRange } from '@meshwright/packet-filter'
import type { Place } from './diagnostics.ts'
import type { Engine } from './engine.ts'
import type { NodeRecord } from './inventory.ts'
import type { NamedPlace } from './meaning.ts'
import type { LocatedAlias, Statement } from './policy.ts'
import { assertionHolds, formatAssertion } from './posture.ts'
import { protocolName } from './protocol-name.ts'
import { allowingTarget, allowingTargets, type Connection, DEFAULT_PROTOCOLS } from './reach.ts'
import { INTERNET, type Resolved } from './resolve.ts'
import { type CompiledStatement, isTold, type Target } from './statements.ts'

/** What a statement lacks to allow a connection. */
export type Lack = 'source' | 'posture' | 'destination' | 'protocol' | 'port' | 'receiver'

/** A statement that would allow a connection if it had what it lacks. */
export interface NearMiss {
  readonly kind: Statement['kind']
  readonly at: Place
  /** Names of its sources and destinations, as they are written. */
  readonly sources: readonly string[]
  readonly destinations: readonly string[]
  readonly lacks: readonly Lack[]
  /** Each lack as a sentence for people, in the same order. */
  readonly reasons: readonly string[]
}

/** What a statement lacks; `undefined` when it allows the connection. `candidates` are the nodes that could let it in. */
export function nearMissOf(
  engine: Engine,
  compiled: CompiledStatement,
  connection: Connection,
  candidates: readonly NodeRecord[],
): NearMiss | undefined {
  const { statement, sources, targets, self } = compiled
  const found: (readonly [Lack, string])[] = []
  if (!sources.set(engine.inventory).contains(connection.source)) found.push(missingSource(engine, compiled, connection.source))
  if (!statement.protocols.some((each) => fits(each, connection.protocol))) {
    const names = statement.protocols.map((each) => (each === undefined ? 'tcp, udp, icmp' : protocolName(each)))
    const only = names.length === 0 ? 'it opens no port, it grants capabilities only' : `it allows ${names.join(', ')}`
    found.push(['protocol', `${protocolName(connection.protocol)}: ${only}`])
  }
  const reached = [...targets, ...(self === undefined ? [] : [self])].filter(({ resolved }) => coversAddress(engine, resolved, connection))
  if (reached.length === 0) found.push(['destination', `${labelOf(engine, connection.destination)} is not ${anyOf(statement.destinations)}`])
  if (found.length === 0 && allowingTarget(engine, compiled, connection) === undefined)
    found.push(['port', `${connection.port}: it allows ${portsOf(statement, reached, connection.protocol)}`])
  if (found.length === 0 && !candidates.some((record) => receives(compiled, engine, record, connection))) found.push(['receiver', missingReceiver(statement)])
  if (found.length === 0) return undefined
  return {
    kind: statement.kind,
    at: statement.at,
    sources: statement.sources.map(({ alias }) => alias.text),
    destinations: statement.destinations.map(({ alias }) => alias.text),
    lacks: found.map(([lack]) => lack),
    reasons: found.map(([, reason]) => reason),
  }
}

/** Whether a node is given a rule of the statement that lets the connection in. */
export function receives(compiled: CompiledStatement, engine: Engine, record: NodeRecord, connection: Connection): boolean {
  const { statement, receivers, self } = compiled
  const via = statement.via.length > 0
  return allowingTargets(engine, compiled, connection).some((target) =>
    target === self
      ? !via && engine.inventory.ownerOf(record.node) !== undefined
      : receivers.has(record.slot) && isTold(target, record, via, connection.destination),
  )
}

/** Whether the destination of a connection is part of what a name stands for. */
export function coversAddress(engine: Engine, resolved: Resolved, { source, destination }: Connection): boolean {
  if (resolved.kind === 'any') return true
  if (resolved.kind === 'addresses') return resolved.set.contains(destination)
  if (resolved.kind === 'internet') return INTERNET.contains(destination)
  const owners = engine.inventory.recordsAt(destination)
  if (resolved.kind === 'nodes') return owners.some(({ slot }) => resolved.nodes.has(slot))
  if (resolved.kind !== 'self') return false
  const users = new Set(engine.inventory.recordsAt(source).flatMap(({ node }) => engine.inventory.ownerOf(node)?.id ?? []))
  return owners.some(({ node }) => users.has(engine.inventory.ownerOf(node)?.id ?? Number.NaN))
}

/** Those of the postures that are asked for and that the node with the address meets. */
export function posturesMet(engine: Engine, own: readonly string[] | undefined, source: Ip): readonly NamedPlace[] {
  const records = engine.inventory.recordsAt(source)
  return engine.posturesOf(own).flatMap((name) => {
    const definition = engine.policy.postures.get(name)
    const met = records.some((record) => engine.meetsAny([name], (key) => engine.attributeOf(record, key)))
    return definition === undefined || !met ? [] : [{ ...definition.at, text: name }]
  })
}

function missingSource(engine: Engine, compiled: CompiledStatement, source: Ip): readonly ['source' | 'posture', string] {
  const { statement } = compiled
  const postures = engine.posturesOf(statement.srcPosture)
  const label = labelOf(engine, source)
  const unrestricted = postures.length > 0 && engine.withoutPostures(compiled).sources.set(engine.inventory).contains(source)
  if (!unrestricted) return ['source', `${label} is not ${anyOf(statement.sources)}`]
  const [record] = engine.inventory.recordsAt(source)
  const failed = postures.map((name) => {
    const assertions = engine.policy.postures.get(name)?.value ?? []
    const attributeOf = (key: string): ReturnType<Engine['attributeOf']> => (record === undefined ? undefined : engine.attributeOf(record, key))
    const broken = assertions.filter((assertion) => !assertionHolds(assertion, attributeOf))
    return `${name} (${broken.map((each) => `${formatAssertion(each)}: it is ${String(attributeOf(each.key) ?? 'not set')}`).join('; ')})`
  })
  return ['posture', `${label} does not meet ${failed.join(' or ')}`]
}

function missingReceiver({ via, destinations }: Statement): string {
  if (via.length > 0) return `no router with ${via.map(({ alias }) => alias.text).join(' or ')} serves ${destinations.map(({ alias }) => alias.text).join(', ')}`
  return 'no node has or serves the destination'
}

function portsOf({ protocols }: Statement, reached: readonly Target[], protocol: number): string {
  const ranges = reached.flatMap(({ ports }) => protocols.flatMap((each, i) => (fits(each, protocol) ? ports[i] ?? [] : [])))
  return [...new Set(ranges.map(formatPorts))].join(', ')
}

/** `443`, `8000-8999`, or `*` for all. */
export function formatPorts({ First, Last }: PortRange): string {
  return First <= 1 && Last === 65535 ? '*' : First === Last ? String(First) : `${First}-${Last}`
}

function fits(named: number | undefined, protocol: number): boolean {
  return named === undefined ? DEFAULT_PROTOCOLS.includes(protocol) : named === protocol
}

function anyOf(aliases: readonly LocatedAlias[]): string {
  return aliases.length === 0 ? 'anybody: the list is empty' : aliases.map(({ alias }) => alias.text).join(' or ')
}

/** `laptop (alice@example.com)`, `web (tag:web)`, or the address when nobody has it. */
export function labelOf(engine: Engine, address: Ip): string {
  const [record] = engine.inventory.recordsAt(address)
  if (record === undefined) return address.key
  const owner = engine.inventory.ownerOf(record.node)?.login ?? record.node.tags.join(' ')
  return owner === '' ? record.node.name : `${record.node.name} (${owner})`
}
