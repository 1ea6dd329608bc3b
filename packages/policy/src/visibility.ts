import { formatPrefix, type Ip, IpSet, parsePrefix, type Prefix } from '@meshwright/ip'
import { BitSet } from './bits.ts'
import type { Concerns } from './concerns.ts'
import type { Inventory, NodeRecord, ServedRoute } from './inventory.ts'
import type { Statement } from './policy.ts'
import { type CompiledStatement, isServedBy, type Target } from './statements.ts'
import type { TailnetNode } from './tailnet.ts'

/** A peer as one node sees it. */
export interface PeerView {
  readonly node: TailnetNode
  /** Its addresses that the viewer may use. */
  readonly addresses: readonly Ip[]
  /** Subnet routes that lead over this peer for the viewer: also its primary routes as the viewer is told them. */
  readonly subnetRoutes: readonly Prefix[]
  /** 0.0.0.0/0 and ::/0, when the viewer may use it as an exit node. */
  readonly exitRoutes: readonly Prefix[]
  /** Capabilities of the peer that the viewer is told of. */
  readonly capabilities: readonly string[]
}

/** What a peer is to a viewer, before attributes are looked at. */
export interface PeerRoutes {
  readonly record: NodeRecord
  readonly subnetRoutes: readonly Prefix[]
  readonly exitRoutes: readonly Prefix[]
}

/** Who may use a route, and who steers to it. */
interface RouteAccess {
  /** Nodes that are sources of a statement without via whose destination overlaps the route. */
  readonly reaching: BitSet
  /** Nodes that receive a rule whose sources overlap the route. */
  readonly reached: BitSet
  /** Statements with via whose destination overlaps the route, and the router that they steer to. */
  readonly steered: readonly { readonly sources: BitSet; readonly router: NodeRecord }[]
}

/**
 * Who sees whom, with which routes. Two nodes see each other when a rule of either has the other among its sources, by an address or by
 * one of its subnet routes; routers of via grants are seen by the grant's sources.
 */
export class Visibility {
  readonly #statements: readonly CompiledStatement[]
  readonly #inventory: Inventory
  readonly #concerns: Concerns
  /** Statements with `autogroup:self` as a destination. */
  readonly #own: readonly CompiledStatement[]
  /** Positions of the statements that make nodes visible. */
  readonly #opening: BitSet
  /** By slot. */
  readonly #plain: (PeerRoutes | undefined)[] = []
  readonly #access: Map<string, RouteAccess> = new Map()
  #exits: { readonly everywhere: BitSet; readonly via: readonly { readonly sources: BitSet; readonly routers: BitSet }[] } | undefined

  constructor(statements: readonly CompiledStatement[], inventory: Inventory, concerns: Concerns) {
    this.#statements = statements
    this.#inventory = inventory
    this.#concerns = concerns
    this.#opening = new BitSet(statements.length)
    for (const { statement, index } of statements) if (opens(statement)) this.#opening.add(index)
    this.#own = statements.filter(({ statement, self }) => self !== undefined && opens(statement) && statement.via.length === 0)
  }

  /** Slots of all nodes that the node sees. */
  peersOf(record: NodeRecord): BitSet {
    const { slot } = record
    const peers = new BitSet(this.#inventory.room)
    for (const { statement, sources } of this.#concerns.receivedBy(slot)) if (opens(statement)) peers.or(sources.nodes)
    for (const { statement, receivers } of this.#concerns.sentBy(slot)) if (opens(statement)) peers.or(receivers)
    const owner = this.#own.length === 0 ? undefined : this.#inventory.ownerOf(record.node)
    if (owner === undefined) return peers
    const own = this.#inventory.owned(owner.id)
    for (const { sources } of this.#own) {
      // As a destination it sees those of its user's nodes that are sources; as a source, all of them.
      for (const other of own) if (sources.nodes.has(slot) || sources.nodes.has(other.slot)) peers.add(other.slot)
    }
    return peers
  }

  /** The peers of a node with the routes that lead over them, in the order of their slots. */
  routesOf(record: NodeRecord): PeerRoutes[] {
    const found: PeerRoutes[] = []
    for (const slot of this.peersOf(record).slots()) {
      const peer = this.#inventory.records[slot]
      if (peer !== undefined && peer !== record) found.push(this.#routesOver(peer, record))
    }
    return found
  }

  /** One of the peers that {@link routesOf} gives; `undefined` when the node does not see it. */
  routesTo(record: NodeRecord, peer: NodeRecord): PeerRoutes | undefined {
    return peer !== record && this.#sees(record, peer) ? this.#routesOver(peer, record) : undefined
  }

  #sees(record: NodeRecord, peer: NodeRecord): boolean {
    const { slot } = record
    if (this.#concerns.connect(slot, peer.slot, this.#opening)) return true
    const owner = this.#own.length === 0 ? undefined : this.#inventory.ownerOf(record.node)
    if (owner === undefined || this.#inventory.ownerOf(peer.node)?.id !== owner.id) return false
    return this.#own.some(({ sources }) => sources.nodes.has(slot) || sources.nodes.has(peer.slot))
  }

  #routesOver(peer: NodeRecord, viewer: NodeRecord): PeerRoutes {
    if (peer.routeKeys.length === 0 && peer.exitRoutes.length === 0) return this.#withoutRoutes(peer)
    const subnetRoutes = peer.subnetRoutes.filter((route) => this.#leadsOver(peer, viewer, route))
    return { record: peer, subnetRoutes, exitRoutes: peer.exitRoutes.length > 0 && this.#mayExit(peer, viewer) ? peer.exitRoutes : [] }
  }

  /** Subnet routes of which the node is the primary. */
  primaryRoutesOf(record: NodeRecord): Prefix[] {
    return record.subnetRoutes.filter((route) => this.#inventory.routes.get(formatPrefix(route))?.servers[0] === record)
  }

  /** Most peers have no routes, and are the same to every viewer. */
  #withoutRoutes(record: NodeRecord): PeerRoutes {
    return (this.#plain[record.slot] ??= { record, subnetRoutes: [], exitRoutes: [] })
  }

  #leadsOver(peer: NodeRecord, viewer: NodeRecord, prefix: Prefix): boolean {
    const route = this.#inventory.routes.get(formatPrefix(prefix))
    if (route === undefined) return false
    const isPrimary = route.servers[0] === peer
    if (route.allServers.has(viewer.slot)) return isPrimary
    const access = this.#accessTo(route)
    if (access.reaching.has(viewer.slot)) return isPrimary
    const steered = access.steered.filter(({ sources }) => sources.has(viewer.slot))
    if (steered.length > 0) return steered.some(({ router }) => router === peer)
    return isPrimary && access.reached.has(viewer.slot)
  }

  #accessTo(route: ServedRoute): RouteAccess {
    const known = this.#access.get(route.key)
    if (known !== undefined) return known
    const reaching = new BitSet(this.#inventory.room)
    const reached = new BitSet(this.#inventory.room)
    const steered: { sources: BitSet; router: NodeRecord }[] = []
    for (const { statement, sources, targets, receivers } of this.#statements) {
      if (statement.protocols.length === 0 && statement.app.length === 0) continue
      // Over a router lead only destinations that it serves as such; everything is none of them.
      const overlapping = targets.filter((target) => (statement.via.length === 0 || target.resolved.kind !== 'any') && overlaps(target, route))
      if (statement.via.length === 0) {
        if (overlapping.length > 0) reaching.or(sources.nodes)
        if (sources.wildcard || sources.dangerAll || (!sources.literals.isEmpty && sources.literals.overlaps(route.set)))
          reached.or(receivers)
      } else if (overlapping.length > 0) {
        const router = route.servers.find((server) => statement.via.some(({ alias }) => server.node.tags.includes(alias.text)))
        if (router !== undefined) steered.push({ sources: sources.nodes, router })
      }
    }
    const access = { reaching, reached, steered }
    this.#access.set(route.key, access)
    return access
  }

  #mayExit(peer: NodeRecord, viewer: NodeRecord): boolean {
    const exits = (this.#exits ??= this.#findExits())
    if (exits.everywhere.has(viewer.slot)) return true
    return exits.via.some(({ sources, routers }) => sources.has(viewer.slot) && routers.has(peer.slot))
  }

  #findExits(): { readonly everywhere: BitSet; readonly via: readonly { readonly sources: BitSet; readonly routers: BitSet }[] } {
    const everywhere = new BitSet(this.#inventory.room)
    const via: { sources: BitSet; routers: BitSet }[] = []
    for (const { statement, sources, targets } of this.#statements) {
      if (statement.via.length === 0) {
        if (targets.some(isWholeInternet)) everywhere.or(sources.nodes)
      } else if (targets.some((target) => target.resolved.kind === 'internet')) {
        const routers = new BitSet(this.#inventory.room)
        for (const { alias } of statement.via)
          for (const router of this.#inventory.tagged(alias.text))
            if (targets.some((target) => isServedBy(target, router))) routers.add(router.slot)
        via.push({ sources: sources.nodes, routers })
      }
    }
    return { everywhere, via }
  }
}

/** A grant whose capabilities and ports are both empty makes nobody visible. */
function opens({ protocols, app }: Statement): boolean {
  return protocols.length > 0 || app.length > 0
}

function overlaps({ resolved }: Target, route: ServedRoute): boolean {
  return resolved.kind === 'any' || (resolved.kind === 'addresses' && resolved.set.overlaps(route.set))
}

const WHOLE: readonly IpSet[] = ['0.0.0.0/0', '::/0'].map((text) => IpSet.from([parsePrefix(text) ?? IpSet.empty]))

function isWholeInternet({ resolved }: Target): boolean {
  if (resolved.kind === 'any' || resolved.kind === 'internet') return true
  // All addresses of a family, under whatever name.
  return resolved.kind === 'addresses' && WHOLE.some((family) => resolved.set.covers(family))
}
