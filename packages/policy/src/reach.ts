import type { Ip } from '@meshwright/ip'
import type { Engine } from './engine.ts'
import { INTERNET } from './resolve.ts'
import type { CompiledStatement, Target } from './statements.ts'

/** Protocols of a statement that names none. */
export const DEFAULT_PROTOCOLS: readonly number[] = [6, 17, 1, 58]

/** A possible connection. */
export interface Connection {
  readonly source: Ip
  readonly destination: Ip
  /** IP protocol number. */
  readonly protocol: number
  readonly port: number
}

/** The target of a statement that allows a connection, judged by the whole tailnet's rules; `undefined` when none does. */
export function allowingTarget(engine: Engine, compiled: CompiledStatement, connection: Connection): Target | undefined {
  return allowingTargets(engine, compiled, connection)[0]
}

/** All targets of a statement that allow a connection. */
export function allowingTargets(engine: Engine, compiled: CompiledStatement, connection: Connection): readonly Target[] {
  const { sources, self, targets, statement } = compiled
  const named = statement.protocols.some((protocol) =>
    protocol === undefined ? DEFAULT_PROTOCOLS.includes(connection.protocol) : protocol === connection.protocol,
  )
  if (!named || !sources.set(engine.inventory).contains(connection.source)) return []
  return (self === undefined ? targets : [...targets, self]).filter((target) => portFits(target, compiled, connection) && holds(engine, target, connection))
}

function portFits(target: Target, { statement }: CompiledStatement, { protocol, port }: Connection): boolean {
  return statement.protocols.some((each, i) => {
    const named = each === undefined ? DEFAULT_PROTOCOLS.includes(protocol) : each === protocol
    return named && (target.ports[i] ?? []).some(({ First, Last }) => First <= port && port <= Last)
  })
}

function holds(engine: Engine, { resolved }: Target, { source, destination }: Connection): boolean {
  switch (resolved.kind) {
    case 'any':
      return true
    case 'addresses':
      return resolved.set.contains(destination)
    case 'nodes':
      return engine.inventory.recordsAt(destination).some(({ slot }) => resolved.nodes.has(slot))
    case 'internet':
      return INTERNET.contains(destination)
    case 'self':
      return engine.inventory.recordsAt(destination).some((node) => {
        const user = engine.inventory.ownerOf(node.node)
        return (
          user !== undefined && engine.inventory.recordsAt(source).some((other) => engine.inventory.ownerOf(other.node)?.id === user.id)
        )
      })
    case 'dangerAll':
    case 'nothing':
      return false
  }
}
