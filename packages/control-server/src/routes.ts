import { isExitRoute, servedRoutes } from './host-facts.ts'
import type { NodeRecord } from './records.ts'

/**
 * Chooses for each subnet route the one node that carries it. Several nodes may serve the same prefix; the rest stand by. Prefixes of
 * different length are independent. Exit routes have no primary: the user picks the exit node.
 */
export class PrimaryRoutes {
  #primaries = new Map<string, number>()
  #routesOf = new Map<number, readonly string[]>()
  #rivals: ReadonlyMap<number, ReadonlySet<number>> = new Map()

  /** Connected nodes that share a prefix with other connected nodes, and with whom. */
  get rivals(): ReadonlyMap<number, ReadonlySet<number>> {
    return this.#rivals
  }

  /** The node that carries a prefix. */
  primaryOf(route: string): number | undefined {
    return this.#primaries.get(route)
  }

  /** Prefixes that a node carries now. */
  routesOf(nodeId: number): readonly string[] {
    return this.#routesOf.get(nodeId) ?? NONE
  }

  /**
   * Chooses again: of those that are connected, and not known to be silent, the node created first (what Tailscale does in all recorded
   * cases); nobody when none is. Gives the nodes whose share changed.
   */
  update(nodes: Iterable<NodeRecord>, connected: (node: NodeRecord) => boolean, isSilent: (id: number) => boolean): number[] {
    const servers = new Map<string, NodeRecord[]>()
    for (const node of nodes) {
      if (node.advertisedRoutes.length === 0 || !connected(node)) continue
      for (const route of servedRoutes(node)) {
        if (isExitRoute(route)) continue
        const others = servers.get(route)
        if (others === undefined) servers.set(route, [node])
        else others.push(node)
      }
    }
    const rivals = new Map<number, Set<number>>()
    const primaries = new Map<string, number>()
    for (const [route, candidates] of servers) {
      const answering = candidates.filter((node) => !isSilent(node.id))
      const [first] = answering.sort((a, b) => a.createdAt - b.createdAt || a.id - b.id)
      if (first !== undefined) primaries.set(route, first.id)
      if (candidates.length < 2) continue
      for (const { id } of candidates) {
        const known = rivals.get(id) ?? new Set()
        for (const other of candidates) if (other.id !== id) known.add(other.id)
        rivals.set(id, known)
      }
    }
    this.#rivals = rivals
    return this.#swap(primaries)
  }

  #swap(primaries: Map<string, number>): number[] {
    const routesOf = new Map<number, string[]>()
    for (const [route, id] of primaries) {
      const routes = routesOf.get(id)
      if (routes === undefined) routesOf.set(id, [route])
      else routes.push(route)
    }
    for (const routes of routesOf.values()) routes.sort()
    const changed: number[] = []
    for (const id of new Set([...this.#routesOf.keys(), ...routesOf.keys()])) {
      if ((this.#routesOf.get(id) ?? NONE).join() !== (routesOf.get(id) ?? NONE).join()) changed.push(id)
    }
    this.#primaries = primaries
    this.#routesOf = routesOf
    return changed
  }
}

const NONE: readonly string[] = []
