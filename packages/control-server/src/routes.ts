import { isExitRoute, servedRoutes } from './host-facts.ts'
import type { NodeRecord } from './records.ts'

/**
 * Chooses for each subnet route the one node that carries it. Several nodes may serve the same prefix; the rest stand by. Prefixes of
 * different length are independent. Exit routes have no primary: the user picks the exit node.
 */
export class PrimaryRoutes {
  #primaries = new Map<string, number>()
  #routesOf = new Map<number, readonly string[]>()

  /** The node that carries a prefix. */
  primaryOf(route: string): number | undefined {
    return this.#primaries.get(route)
  }

  /** Prefixes that a node carries now. */
  routesOf(nodeId: number): readonly string[] {
    return this.#routesOf.get(nodeId) ?? NONE
  }

  /**
   * Chooses again: who has a route keeps it while online, so nothing flaps; else the node created first of those online; when all are
   * offline, who has it keeps it. Gives the nodes whose share changed.
   */
  update(nodes: Iterable<NodeRecord>, alive: (node: NodeRecord) => boolean): number[] {
    const servers = new Map<string, NodeRecord[]>()
    for (const node of nodes) {
      for (const route of servedRoutes(node)) {
        if (isExitRoute(route)) continue
        const others = servers.get(route)
        if (others === undefined) servers.set(route, [node])
        else others.push(node)
      }
    }
    const primaries = new Map<string, number>()
    for (const [route, candidates] of servers) {
      const current = candidates.find((node) => node.id === this.#primaries.get(route))
      if (current !== undefined && alive(current)) {
        primaries.set(route, current.id)
        continue
      }
      const first = candidates.filter(alive).sort((a, b) => a.createdAt - b.createdAt || a.id - b.id)[0] ?? current
      if (first !== undefined) primaries.set(route, first.id)
    }
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
