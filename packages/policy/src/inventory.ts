import { formatPrefix, type Ip, IpSet, isExitRoute, type Prefix } from '@meshwright/ip'
import { AddressBook } from './address-book.ts'
import { BitSet } from './bits.ts'
import type { TailnetNode, TailnetUser, TailnetView } from './tailnet.ts'

/** What the compiler knows of a node. Depends on the node alone, so it outlives changes of other nodes. */
export interface NodeRecord {
  readonly node: TailnetNode
  /** Position in all bit sets; stable for as long as the node exists. */
  readonly slot: number
  readonly addresses: IpSet
  /** Own addresses as texts, sorted as strings. */
  readonly addressTexts: readonly string[]
  /** Approved, still advertised routes that are no exit routes. */
  readonly subnetRoutes: readonly Prefix[]
  readonly subnetSet: IpSet
  readonly exitRoutes: readonly Prefix[]
}

/** Bit sets grow by this many slots at a time. */
const ROOM_STEP = 1024

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
  /** By slot; slots of removed nodes are empty. */
  readonly records: readonly (NodeRecord | undefined)[]
  readonly users: ReadonlyMap<number, TailnetUser>
  readonly routes: ReadonlyMap<string, ServedRoute>
  /** Room that bit sets need. */
  readonly room: number
  /** All slots in use. */
  readonly everyone: BitSet
  readonly addresses: AddressBook
  /** Slots of nodes that had other addresses in the earlier state. */
  readonly readdressed: BitSet
  /** Whether the routers and their routes are those of the earlier state. */
  readonly sameRouters: boolean
  readonly #slots: ReadonlyMap<number, number>
  readonly #byLogin: ReadonlyMap<string, readonly TailnetUser[]>
  readonly #byTag: ReadonlyMap<string, readonly NodeRecord[]>
  readonly #byUser: ReadonlyMap<number, readonly NodeRecord[]>
  readonly #routers: readonly NodeRecord[]
  #byAddress: ReadonlyMap<string, readonly NodeRecord[]> | undefined

  /** @param previous an earlier state of the same tailnet: its slots are kept, and its records where the node is the same object */
  constructor(view: TailnetView, previous?: Inventory) {
    this.view = view
    this.users = new Map(view.users.map((user) => [user.id, user]))
    const { records, slots } = assignSlots(view.nodes, previous)
    this.records = records
    this.#slots = slots
    // Room in steps, so that sets of an earlier state mostly fit.
    this.room = Math.ceil((records.length + 1) / ROOM_STEP) * ROOM_STEP
    this.everyone = new BitSet(this.room)
    const byTag = new Map<string, NodeRecord[]>()
    const byUser = new Map<number, NodeRecord[]>()
    const routers: NodeRecord[] = []
    for (const record of records) {
      if (record === undefined) continue
      const { node } = record
      this.everyone.add(record.slot)
      for (const tag of new Set(node.tags)) push(byTag, tag, record)
      if (node.tags.length === 0 && node.user !== undefined && this.users.has(node.user)) push(byUser, node.user, record)
      if (record.subnetRoutes.length > 0) routers.push(record)
    }
    this.#byTag = byTag
    this.#byUser = byUser
    this.#routers = routers
    this.sameRouters =
      previous !== undefined && routers.length === previous.#routers.length && routers.every((router, i) => router === previous.#routers[i])
    this.routes =
      this.sameRouters && previous !== undefined && previous.room === this.room ? previous.routes : collectRoutes(routers, this.room)
    this.#byLogin = previous?.view.users === view.users ? previous.#byLogin : loginsOf(view.users)
    this.readdressed = readdressedSlots(previous, records)
    this.addresses =
      previous === undefined
        ? AddressBook.of(records.flatMap((record) => (record === undefined ? [] : [bookEntry(record)])))
        : updateBook(previous, records)
  }

  /** Nodes with subnet routes. */
  get routers(): readonly NodeRecord[] {
    return this.#routers
  }

  recordOf(id: number): NodeRecord | undefined {
    const slot = this.#slots.get(id)
    return slot === undefined ? undefined : this.records[slot]
  }

  /** Nodes that carry the tag. */
  tagged(tag: string): readonly NodeRecord[] {
    return this.#byTag.get(tag) ?? []
  }

  /** All tags that some node carries. */
  get tags(): Iterable<string> {
    return this.#byTag.keys()
  }

  /** Untagged nodes of the user. */
  owned(user: number): readonly NodeRecord[] {
    return this.#byUser.get(user) ?? []
  }

  /** The user of an untagged node; `undefined` for a tagged one. */
  ownerOf(node: TailnetNode): TailnetUser | undefined {
    return node.tags.length > 0 || node.user === undefined ? undefined : this.users.get(node.user)
  }

  /** Users that a login in a policy means. `alice@` means the user whose login is `alice`. */
  usersNamed(login: string): readonly TailnetUser[] {
    const exact = this.#byLogin.get(login) ?? []
    return login.endsWith('@') ? [...exact, ...(this.#byLogin.get(login.slice(0, -1)) ?? [])] : exact
  }

  /** Nodes that have an address in the set. */
  within(set: IpSet): BitSet {
    return this.addresses.within(set, this.room)
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

function bookEntry({ slot, node }: NodeRecord): { readonly slot: number; readonly addresses: readonly Ip[] } {
  return { slot, addresses: node.addresses }
}

function readdressedSlots(previous: Inventory | undefined, records: readonly (NodeRecord | undefined)[]): BitSet {
  const slots = new BitSet(records.length)
  for (const [slot, now] of records.entries()) {
    const old = previous?.records[slot]
    if (old !== undefined && now !== undefined && old !== now && !old.addresses.equals(now.addresses)) slots.add(slot)
  }
  return slots
}

function updateBook(previous: Inventory, records: readonly (NodeRecord | undefined)[]): AddressBook {
  const gone = new Set<number>()
  const added: { slot: number; addresses: readonly Ip[] }[] = []
  for (let slot = 0; slot < Math.max(records.length, previous.records.length); slot += 1) {
    const old = previous.records[slot]
    const now = records[slot]
    if (old === now) continue
    if (old !== undefined) gone.add(slot)
    if (now !== undefined) added.push(bookEntry(now))
  }
  return gone.size + added.length === 0 ? previous.addresses : previous.addresses.with(gone, added)
}

function loginsOf(users: readonly TailnetUser[]): ReadonlyMap<string, readonly TailnetUser[]> {
  const byLogin = new Map<string, TailnetUser[]>()
  for (const user of users) push(byLogin, user.login, user)
  return byLogin
}

function assignSlots(
  nodes: readonly TailnetNode[],
  previous: Inventory | undefined,
): { records: (NodeRecord | undefined)[]; slots: Map<number, number> } {
  const slots = new Map<number, number>()
  const records: (NodeRecord | undefined)[] = new Array<undefined>(previous?.records.length ?? 0).fill(undefined)
  const fresh: TailnetNode[] = []
  for (const node of nodes) {
    const known = previous?.recordOf(node.id)
    if (known === undefined) fresh.push(node)
    else {
      records[known.slot] = known.node === node ? known : makeRecord(node, known.slot)
      slots.set(node.id, known.slot)
    }
  }
  let free = 0
  for (const node of fresh) {
    while (records[free] !== undefined) free += 1
    records[free] = makeRecord(node, free)
    slots.set(node.id, free)
  }
  return { records, slots }
}

function makeRecord(node: TailnetNode, slot: number): NodeRecord {
  const approved = new Set(node.approvedRoutes.map(formatPrefix))
  const served = node.advertisedRoutes.filter((route) => approved.has(formatPrefix(route)))
  const subnetRoutes = served.filter((route) => !isExitRoute(route))
  return {
    node,
    slot,
    addresses: IpSet.from(node.addresses),
    addressTexts: node.addresses.map((ip) => ip.key).sort(),
    subnetRoutes,
    subnetSet: IpSet.from(subnetRoutes),
    exitRoutes: served.filter(isExitRoute),
  }
}

function collectRoutes(routers: readonly NodeRecord[], room: number): ReadonlyMap<string, ServedRoute> {
  const byKey = new Map<string, { prefix: Prefix; servers: NodeRecord[] }>()
  for (const record of routers) {
    for (const prefix of record.subnetRoutes) {
      const key = formatPrefix(prefix)
      const known = byKey.get(key)
      if (known === undefined) byKey.set(key, { prefix, servers: [record] })
      else if (!known.servers.includes(record)) known.servers.push(record)
    }
  }
  const routes = new Map<string, ServedRoute>()
  for (const [key, { prefix, servers }] of byKey) {
    const allServers = new BitSet(room)
    for (const record of servers) allServers.add(record.slot)
    const online = servers.filter((record) => record.node.online !== false)
    online.sort((a, b) => a.node.created - b.node.created || a.node.id - b.node.id)
    routes.set(key, { key, prefix, set: IpSet.of(prefix), servers: online, allServers })
  }
  return routes
}

function push<K, V>(map: Map<K, V[]>, key: K, value: V): void {
  const list = map.get(key)
  if (list === undefined) map.set(key, [value])
  else list.push(value)
}
