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
   * Chooses again: of those that are connected the node created first (what Tailscale does in all recorded cases); nobody when none is.
   * Gives the nodes whose share changed.
   */
  update(nodes: Iterable<NodeRecord>, alive: (node: NodeRecord) => boolean): number[] {
    const firsts = new Map<string, NodeRecord>()
    for (const node of nodes) {
      if (node.advertisedRoutes.length === 0 || !alive(node)) continue
      for (const route of servedRoutes(node)) {
        const first = firsts.get(route)
        if (!isExitRoute(route) && (first === undefined || node.createdAt < first.createdAt || (node.createdAt === first.createdAt && node.id < first.id))) {
          firsts.set(route, node)
        }
      }
    }
    return this.#swap(new Map([...firsts].map(([route, node]) => [route, node.id])))
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
