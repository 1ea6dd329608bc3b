import { formatPrefix, type Ip, IpSet, type Prefix, TAILNET_ADDRESSES } from '@meshwright/ip'
import { BitSet } from './bits.ts'
import {
  advanceIndex,
  buildIndex,
  type InventoryIndex,
  type NodeChange,
  type NodeRecord,
  push,
  type RecordChange,
  roomFor,
  sameItems,
  slotOf,
} from './inventory-index.ts'
import type { TailnetNode, TailnetUser, TailnetView } from './tailnet.ts'

export type { NodeRecord, RecordChange } from './inventory-index.ts'

/** A route that some node serves, with everyone who does. */
export interface ServedRoute {
  readonly key: string
  readonly prefix: Prefix
  readonly set: IpSet
  /** Connected nodes that serve exactly this prefix, first created first. */
  readonly servers: readonly NodeRecord[]
  /** All that serve it, connected or not. */
  readonly allServers: BitSet
}

/** A tailnet indexed for the compiler. Never changed. */
export class Inventory {
  readonly view: TailnetView
  /** Room that bit sets need. */
  readonly room: number
  readonly users: ReadonlyMap<number, TailnetUser>
  readonly routes: ReadonlyMap<string, ServedRoute>
  /** The node that is not as in the earlier state; `undefined` when users changed, so that anything may be different. */
  readonly changed: RecordChange | undefined
  /** Whether exactly the same prefixes are served as in the earlier state, by whomever. */
  readonly samePrefixes: boolean
  readonly #index: InventoryIndex
  #byAddress: ReadonlyMap<string, readonly NodeRecord[]> | undefined
  #wildcard: IpSet | undefined
  #routed: IpSet | undefined
  #tailnetNodes: BitSet | undefined
  #sameBehind: boolean | undefined
  #behind: ReadonlyMap<NodeRecord, BitSet> | undefined

  /**
   * @param previous an earlier state of the same tailnet: its slots are kept, and its records where the node is the same object
   * @param change the only node that is not as in the earlier state, if it is a node that changed
   */
  constructor(view: TailnetView, previous?: Inventory, change?: NodeChange) {
    this.view = view
    const follows = previous !== undefined && change !== undefined && previous.view.users === view.users
    const advanced = follows ? advanceIndex(previous.#index, change, previous.users) : undefined
    this.users = advanced === undefined || previous === undefined ? new Map(view.users.map((user) => [user.id, user])) : previous.users
    this.#index = advanced?.index ?? buildIndex(view, previous === undefined ? undefined : previous.#index)
    this.changed = advanced?.change
    this.room = roomFor(this.#index)
    const { routers } = this.#index
    this.routes =
      previous === undefined || advanced === undefined
        ? collectRoutes(routers, this.room)
        : sameItems(routers, previous.routers)
        ? previous.routes
        : advanceRoutes(previous.routes, routers, advanced.change, this.room)
    this.samePrefixes =
      previous !== undefined &&
      this.changed !== undefined &&
      (this.routes === previous.routes || samePrefixes(previous.routes, this.routes, this.changed))
    if (previous !== undefined && this.samePrefixes) this.#inheritRouted(previous)
  }

  /** What follows from the prefixes that are served, and from the addresses of all other nodes. */
  #inheritRouted(previous: Inventory): void {
    this.#routed = previous.#routed
    this.#wildcard = previous.#wildcard
    const { slot, now } = this.changed ?? {}
    if (previous.#tailnetNodes !== undefined && slot !== undefined)
      this.#tailnetNodes = previous.#tailnetNodes.with(slot, now !== undefined && this.wildcard.overlaps(now.addresses), this.room)
    // That somebody lives behind a router is rare.
    if (previous.#behind?.size === 0 && this.sameBehind) this.#behind = previous.#behind
  }

  /** By slot; slots of removed nodes are empty. */
  get records(): readonly (NodeRecord | undefined)[] {
    return this.#index.records
  }

  /** All slots in use. */
  get everyone(): BitSet {
    return this.#index.everyone
  }

  /** What `*` covers as a source: the ranges of all tailnets, and all subnet routes. */
  get wildcard(): IpSet {
    return (this.#wildcard ??= TAILNET_ADDRESSES.union(this.routed))
  }

  /** All subnet routes together. */
  get routed(): IpSet {
    return (this.#routed ??= IpSet.from([...this.routes.values()].map(({ prefix }) => prefix)))
  }

  /** Nodes that have an address that `*` covers. */
  get tailnetNodes(): BitSet {
    return (this.#tailnetNodes ??= this.within(this.wildcard))
  }

  /** The addresses of some nodes as the shortest texts, in no order. */
  shortestTexts(nodes: BitSet): string[] {
    return this.#index.addresses.shortestTexts(nodes, this.records)
  }

  /** What the shortest texts of some nodes, sorted, became when the changed node came to them or went; `undefined` where that is not so simple. */
  advanceTexts(texts: readonly string[], before: BitSet, after: BitSet): string[] | undefined {
    if (this.changed === undefined) return undefined
    const { slot, old, now } = this.changed
    const comes = after.has(slot)
    const record = comes ? now : old
    return record === undefined || before.has(slot) === comes ? undefined : this.#index.addresses.advanceTexts(texts, record.book, after, comes)
  }

  /** Nodes whose addresses lie in some router's networks, by router; mostly none. */
  get behind(): ReadonlyMap<NodeRecord, BitSet> {
    if (this.#behind !== undefined) return this.#behind
    const behind = new Map<NodeRecord, BitSet>()
    if (!this.within(this.routed).isEmpty) {
      for (const router of this.routers) {
        const nodes = this.within(router.subnetSet)
        if (!nodes.isEmpty) behind.set(router, nodes)
      }
    }
    this.#behind = behind
    return behind
  }

  /** Whether it is certain that the nodes behind routers are those of the earlier state. That there are any is rare. */
  get sameBehind(): boolean {
    if (this.changed === undefined) return false
    const records = [this.changed.old, this.changed.now]
    return (this.#sameBehind ??= records.every((record) => record === undefined || this.#isInFront(record)))
  }

  /** The node lies in nobody's networks, and nobody in its own. */
  #isInFront({ addresses, routeKeys, subnetSet }: NodeRecord): boolean {
    return !this.routed.overlaps(addresses) && (routeKeys.length === 0 || (!subnetSet.overlaps(addresses) && this.within(subnetSet).isEmpty))
  }

  /** Nodes with subnet routes. */
  get routers(): readonly NodeRecord[] {
    return this.#index.routers
  }

  recordOf(id: number): NodeRecord | undefined {
    const slot = slotOf(this.#index, id)
    return slot === undefined ? undefined : this.records[slot]
  }

  /** Nodes that carry the tag. */
  tagged(tag: string): readonly NodeRecord[] {
    return this.#index.byTag.get(tag) ?? []
  }

  /** Untagged nodes of the user. */
  owned(user: number): readonly NodeRecord[] {
    return this.#index.byUser.get(user) ?? []
  }

  /** The user of an untagged node; `undefined` for a tagged one. */
  ownerOf(node: TailnetNode): TailnetUser | undefined {
    return node.tags.length > 0 || node.user === undefined ? undefined : this.users.get(node.user)
  }

  /** Users that a login in a policy means. `alice@` means the user whose login is `alice`. */
  usersNamed(login: string): readonly TailnetUser[] {
    const exact = this.#index.byLogin.get(login) ?? []
    return login.endsWith('@') ? [...exact, ...(this.#index.byLogin.get(login.slice(0, -1)) ?? [])] : exact
  }

  /** Nodes that have an address in the set. */
  within(set: IpSet): BitSet {
    return this.#index.addresses.within(set, this.room)
  }

  /** The nodes that have an address: at most one in a sound tailnet. */
  recordsAt(ip: Ip): readonly NodeRecord[] {
    if (this.#byAddress === undefined) {
      const byAddress = new Map<string, NodeRecord[]>()
      for (const record of this.records)
        for (const text of record?.addressTexts ?? []) if (record !== undefined) push(byAddress, text, record)
      this.#byAddress = byAddress
    }
    return this.#byAddress.get(ip.key) ?? []
  }
}

function collectRoutes(routers: readonly NodeRecord[], room: number): ReadonlyMap<string, ServedRoute> {
  const byKey = new Map<string, { prefix: Prefix; servers: NodeRecord[] }>()
  for (const record of routers) {
    for (const [i, prefix] of record.subnetRoutes.entries()) {
      const key = record.routeKeys[i] ?? formatPrefix(prefix)
      const known = byKey.get(key)
      if (known === undefined) byKey.set(key, { prefix, servers: [record] })
      else if (!known.servers.includes(record)) known.servers.push(record)
    }
  }
  const routes = new Map<string, ServedRoute>()
  for (const [key, { prefix, servers }] of byKey) routes.set(key, servedRoute(key, prefix, servers, room))
  return routes
}

function samePrefixes(before: ReadonlyMap<string, ServedRoute>, after: ReadonlyMap<string, ServedRoute>, { old, now }: RecordChange): boolean {
  return before.size === after.size && [old, now].every((record) => record === undefined || record.routeKeys.every((key) => before.has(key) && after.has(key)))
}

/** The routes after one node changed: only its own are looked at. */
function advanceRoutes(
  previous: ReadonlyMap<string, ServedRoute>,
  routers: readonly NodeRecord[],
  { old, now }: RecordChange,
  room: number,
): ReadonlyMap<string, ServedRoute> {
  const routes = new Map(previous)
  for (const record of [old, now]) {
    for (const [i, prefix] of (record?.subnetRoutes ?? []).entries()) {
      const key = record?.routeKeys[i] ?? formatPrefix(prefix)
      const servers = routers.filter(({ routeKeys }) => routeKeys.includes(key))
      if (servers.length === 0) routes.delete(key)
      else routes.set(key, servedRoute(key, prefix, servers, room))
    }
  }
  return routes
}

function servedRoute(key: string, prefix: Prefix, servers: readonly NodeRecord[], room: number): ServedRoute {
  const allServers = new BitSet(room)
  for (const record of servers) allServers.add(record.slot)
  const online = servers.filter((record) => record.node.online !== false)
  online.sort((a, b) => a.node.created - b.node.created || a.node.id - b.node.id)
  return { key, prefix, set: IpSet.of(prefix), servers: online, allServers }
}
