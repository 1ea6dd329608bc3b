import { type NetworkMap, plainText } from '@meshwright/control-client'
import { type FilterRule, parseFilterRules } from '@meshwright/packet-filter'
import type { EngineWatch, NodeEngine } from './node-engine.ts'
import type { PeerLieKind } from './peer-lies.ts'

/** More lines than this are counted, not shown. */
const MAX_HEALTH_LINES = 50

/** What a person should know of a node, by where it comes from. */
export interface HealthSources {
  readonly map: NetworkMap | undefined
  readonly warnings: readonly string[]
  /** The last thing that failed at the control server, until it works again. */
  readonly lastError: string | undefined
  readonly namesProblem: string | undefined
  /** What is wrong with the names of the mesh and does not keep them from being used. */
  readonly namesWarnings: readonly string[]
  readonly relayProblem: string | undefined
  /** What the engine has seen of liars. */
  readonly watch: EngineWatch | undefined
  readonly expired: boolean
}

/** Warnings for people, with a remedy each where one is known; what others wrote is cut and stripped of control characters. */
export function healthLines(from: HealthSources): readonly string[] {
  const { map } = from
  const lines: string[] = [...from.warnings, ...from.namesWarnings, ...watched(from.watch, map)]
  if (map !== undefined) lines.push(...filterProblems(map.packetFilter), ...doubles(map), ...map.health.slice(0, MAX_HEALTH_LINES + 1))
  let messages = 0
  for (const message of map?.displayMessages.values() ?? []) {
    if (message.Text === '' || messages > MAX_HEALTH_LINES) continue
    messages += 1
    lines.push(message.Text)
  }
  const own = [
    from.lastError,
    from.namesProblem === undefined ? undefined : `The names of the mesh cannot be used: ${from.namesProblem}`,
    from.relayProblem,
    from.expired ? 'The node key has expired: log in again with "meshwright up"' : undefined,
  ].filter((line) => line !== undefined)
  const told = (map?.health.length ?? 0) + (map?.displayMessages.size ?? 0)
  const shown = lines.slice(0, MAX_HEALTH_LINES - own.length)
  const left = Math.max(0, lines.length - shown.length, told - shown.length)
  if (left > 0) own.push(`${left} more warnings of the control server are not shown`)
  return [...shown, ...own].map(plainText).filter((line) => line !== '')
}

const LIES: Readonly<Record<PeerLieKind, (name: string, count: number) => string>> = {
  source: (name, count) => `${name} sends packets from addresses that are not its own: ${count} were dropped. If it is a router, its routes are let in by "meshwright set --accept-routes"; else it is broken or lies: look at it, or take it out of the mesh`,
  packet: (name, count) => `${name} sends packets that are no IP packets: ${count} were dropped. It is broken or lies: look at it, or take it out of the mesh`,
  disco: (name, count) => `${name} says of its paths what no honest node says (addresses that can be nobody's, answers that nobody asked for): ${count} times it was ignored. Its version is to be checked; if it goes on, take it out of the mesh`,
}
const MAX_LIARS = 5

/** Who lies, and whether a flood is on. */
function watched(watch: EngineWatch | undefined, map: NetworkMap | undefined): readonly string[] {
  if (watch === undefined) return []
  const names = new Map<string, string>()
  if (watch.lies.length > 0) for (const peer of map?.peers.values() ?? []) names.set(peer.nodeKey.text, peer.name.split('.')[0] || peer.stableId)
  const lines = watch.lies.slice(0, MAX_LIARS).map(({ peer, kind, count }) => LIES[kind](`The node ${names.get(peer.text) ?? peer.short}`, count))
  if (watch.lies.length > MAX_LIARS) lines.push(`${watch.lies.length - MAX_LIARS} more nodes send what is refused`)
  if (watch.flooded) lines.push('This node is flooded with handshakes: senders must prove their address first, sessions go on. If it lasts, close its UDP port to the sender in a firewall')
  return lines
}

/** What is wrong with the home relay, if anything. */
export function relayProblemLine(engine: Pick<NodeEngine, 'relayProblem' | 'isRelayConnected'>, home: number, map: NetworkMap | undefined): string | undefined {
  const problem = engine.relayProblem(home)
  if (problem === undefined) return undefined
  const name = `The home relay (${plainText(map?.relays.regions.get(home)?.code ?? '') || `region ${home}`})`
  if (engine.isRelayConnected(home)) return `${name} says that it has a problem: ${plainText(problem)}`
  return `${name} cannot be reached: ${plainText(problem)}. It is tried again by itself; until then only peers with a direct path are reached`
}

// Asked with every status; the rules stay the same object until they change.
const known = new WeakMap<readonly FilterRule[], readonly string[]>()

/** What of the packet filter admits nobody because it cannot be read. */
function filterProblems(rules: readonly FilterRule[]): readonly string[] {
  const before = known.get(rules)
  if (before !== undefined) return before
  const { problems } = parseFilterRules(rules)
  const [first] = problems
  const more = problems.length > 1 ? `, and ${problems.length - 1} more` : ''
  const lines = first === undefined ? [] : [`The control server sent filter entries that cannot be read; they admit nobody: rule ${first.rule + 1}, ${first.path} ${first.message}${more}. Its policy or its version is to be checked`]
  known.set(rules, lines)
  return lines
}

const knownDoubles = new WeakMap<object, readonly string[]>()

/** Nodes that cannot all be who the map says they are. */
function doubles(map: NetworkMap): readonly string[] {
  const before = knownDoubles.get(map)
  if (before !== undefined) return before
  const lines: string[] = []
  const owners = new Map(map.self.addresses.map((own) => [own.ip.key, 'this node']))
  const keys = new Map([[map.self.nodeKey.text, 'this node']])
  const tell = (what: string, one: string, other: string): unknown => lines.length < 3 && lines.push(`The control server gives ${one} and ${other} the same ${what}: only one of them can be reached. Its database is to be checked`)
  for (const peer of map.peers.values()) {
    const name = peer.name.split('.')[0] || peer.stableId
    const twin = keys.get(peer.nodeKey.text)
    if (twin !== undefined) tell('node key', twin, name)
    else keys.set(peer.nodeKey.text, name)
    for (const { ip } of peer.addresses) {
      const owner = owners.get(ip.key)
      if (owner !== undefined) tell(`address ${ip.key}`, owner, name)
      else owners.set(ip.key, name)
    }
  }
  knownDoubles.set(map, lines)
  return lines
}
