import { formatPrefix, type Ip, IpSet, isExitRoute, type Prefix } from '@meshwright/ip'
import { AddressBook, addressKey, type BookEntry } from './address-book.ts'
import { BitSet } from './bits.ts'
import { LayeredMap } from './layered-map.ts'
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
  /** The texts of the subnet routes, in their order. */
  readonly routeKeys: readonly string[]
  readonly subnetSet: IpSet
  readonly exitRoutes: readonly Prefix[]
  readonly book: readonly BookEntry[]
}

/** How the nodes of a tailnet are found. */
export interface InventoryIndex {
  readonly records: readonly (NodeRecord | undefined)[]
  /** Where a node's record probably is; see {@link slotOf}. */
  readonly hints: Map<number, number>
  readonly byLogin: ReadonlyMap<string, readonly TailnetUser[]>
  readonly byTag: LayeredMap<string, readonly NodeRecord[]>
  readonly byUser: LayeredMap<number, readonly NodeRecord[]>
  readonly routers: readonly NodeRecord[]
  readonly everyone: BitSet
  readonly addresses: AddressBook
}

/** Bit sets grow by this many slots at a time, so that those of an earlier state mostly fit. */
const ROOM_STEP = 1024

/** The room that bit sets of these nodes need. */
export function roomFor({ records }: { readonly records: readonly unknown[] }): number {
  return Math.ceil((records.length + 1) / ROOM_STEP) * ROOM_STEP
}

/**
 * The slot of a node; `undefined` when there is no such node. All states of a tailnet share the hints, which spares each a map of its own;
 * where states have branched off one another, a hint may be wrong, and the slot is searched for.
 */
export function slotOf({ records, hints }: InventoryIndex, id: number): number | undefined {
  const hint = hints.get(id)
  if (hint === undefined) return undefined
  if (records[hint]?.node.id === id) return hint
  const found = records.findIndex((record) => record?.node.id === id)
  return found < 0 ? undefined : found
}

/** Indexes a tailnet; nodes that an earlier state knew keep their slots, and their records when they are the same objects. */
export function buildIndex(view: TailnetView, previous?: InventoryIndex): InventoryIndex {
  const { records, hints } = assignSlots(view.nodes, previous)
  const users = new Set(view.users.map(({ id }) => id))
  const byTag = new Map<string, NodeRecord[]>()
  const byUser = new Map<number, NodeRecord[]>()
  const byLogin = new Map<string, TailnetUser[]>()
  const routers: NodeRecord[] = []
  const everyone = new BitSet(roomFor({ records }))
  for (const user of view.users) push(byLogin, user.login, user)
  for (const record of records) {
    if (record === undefined) continue
    everyone.add(record.slot)
    for (const tag of new Set(record.node.tags)) push(byTag, tag, record)
    const owner = ownerId(record)
    if (owner !== undefined && users.has(owner)) push(byUser, owner, record)
    if (record.subnetRoutes.length > 0) routers.push(record)
  }
  const addresses = AddressBook.of(records.flatMap((record) => record?.book ?? []))
  return { records, hints, byLogin, byTag: layered(byTag), byUser: layered(byUser), routers, everyone, addresses }
}

function layered<K>(map: ReadonlyMap<K, readonly NodeRecord[]>): LayeredMap<K, readonly NodeRecord[]> {
  return new LayeredMap(map)
}

/** What changed about one node since the earlier state. */
export interface RecordChange {
  readonly slot: number
  readonly old: NodeRecord | undefined
  readonly now: NodeRecord | undefined
  /** The node was there and is there, with the same addresses. */
  readonly sameAddresses: boolean
  /** It has the same approved routes as before, or had none and has none. */
  readonly sameRoutes: boolean
}

/** A node that is set anew, or removed. */
export interface NodeChange {
  readonly id: number
  readonly node: TailnetNode | undefined
}

/** The index after one node came, changed or went; users must be the same. Costs little more than copies of the lists. */
export function advanceIndex(
  previous: InventoryIndex,
  { id, node }: NodeChange,
  users: ReadonlyMap<number, TailnetUser>,
): { readonly index: InventoryIndex; readonly change: RecordChange } {
  const known = slotOf(previous, id)
  const old = known === undefined ? undefined : previous.records[known]
  const free = known ?? previous.records.indexOf(undefined)
  const slot = free < 0 ? previous.records.length : free
  const now = node === undefined ? undefined : makeRecord(node, slot, old)
  const records = previous.records.slice()
  if (slot < records.length || now !== undefined) records[slot] = now
  const hints = previous.hints.size > 2 * records.length + ROOM_STEP ? hintsOf(records) : previous.hints
  if (now !== undefined) hints.set(id, slot)
  const byTag = previous.byTag.branch()
  for (const tag of new Set([...(old?.node.tags ?? []), ...(now?.node.tags ?? [])])) {
    replaceIn(byTag, tag, old, now?.node.tags.includes(tag) === true ? now : undefined)
  }
  const byUser = previous.byUser.branch()
  const owners = new Set([old, now].flatMap((record) => (record === undefined ? [] : ownerId(record) ?? [])))
  for (const owner of owners)
    if (users.has(owner)) replaceIn(byUser, owner, old, now !== undefined && ownerId(now) === owner ? now : undefined)
  const everyone = previous.everyone.with(slot, now !== undefined, roomFor({ records }))
  const routers = advanceRouters(previous.routers, old, now)
  const sameAddresses = old !== undefined && now !== undefined && old.addresses.equals(now.addresses)
  const addresses = old?.book === now?.book ? previous.addresses : previous.addresses.with(old?.book ?? [], now?.book ?? [])
  const sameRoutes = sameItems(routeTexts(old), routeTexts(now))
  const index = { records, hints, byLogin: previous.byLogin, byTag, byUser, routers, everyone, addresses }
  return { index, change: { slot, old, now, sameAddresses, sameRoutes } }
}

function routeTexts(record: NodeRecord | undefined): readonly string[] {
  return record === undefined ? [] : [...record.routeKeys, ...record.exitRoutes.map(formatPrefix)]
}

function advanceRouters(previous: readonly NodeRecord[], old: NodeRecord | undefined, now: NodeRecord | undefined): readonly NodeRecord[] {
  const [was, is] = [old !== undefined && old.routeKeys.length > 0, now !== undefined && now.routeKeys.length > 0]
  if (!was && !is) return previous
  const others = was ? previous.filter((record) => record !== old) : [...previous]
  if (now !== undefined && is) {
    const at = others.findIndex((record) => record.slot > now.slot)
    others.splice(at < 0 ? others.length : at, 0, now)
  }
  return others
}

function hintsOf(records: readonly (NodeRecord | undefined)[]): Map<number, number> {
  return new Map(records.flatMap((record) => (record === undefined ? [] : [[record.node.id, record.slot]])))
}

function assignSlots(
  nodes: readonly TailnetNode[],
  previous: InventoryIndex | undefined,
): { readonly records: readonly (NodeRecord | undefined)[]; readonly hints: Map<number, number> } {
  const hints = new Map<number, number>()
  const records: (NodeRecord | undefined)[] = new Array<undefined>(previous?.records.length ?? 0).fill(undefined)
  const fresh: TailnetNode[] = []
  for (const node of nodes) {
    const slot = previous === undefined ? undefined : slotOf(previous, node.id)
    const known = slot === undefined ? undefined : previous?.records[slot]
    if (known === undefined) fresh.push(node)
    else {
      records[known.slot] = known.node === node ? known : makeRecord(node, known.slot)
      hints.set(node.id, known.slot)
    }
  }
  let free = 0
  for (const node of fresh) {
    while (records[free] !== undefined) free += 1
    records[free] = makeRecord(node, free)
    hints.set(node.id, free)
  }
  return { records, hints }
}

/** @param earlier what is known of the node in the same slot: parts that say the same are shared */
function makeRecord(node: TailnetNode, slot: number, earlier?: NodeRecord): NodeRecord {
  const samePlace = earlier !== undefined && haveSame(earlier.node.addresses, node.addresses)
  return { node, slot, ...(samePlace ? placeOf(earlier) : makePlace(node, slot)), ...makeRoutes(node) }
}

type Place = Pick<NodeRecord, 'addresses' | 'addressTexts' | 'book'>

function placeOf({ addresses, addressTexts, book }: NodeRecord): Place {
  return { addresses, addressTexts, book }
}

function makePlace(node: TailnetNode, slot: number): Place {
  return {
    addresses: IpSet.from(node.addresses),
    addressTexts: node.addresses.map((ip) => ip.key).sort(),
    book: node.addresses.map((ip) => ({ key: addressKey(ip), ip, slot })),
  }
}

function makeRoutes(node: TailnetNode): Pick<NodeRecord, 'subnetRoutes' | 'routeKeys' | 'subnetSet' | 'exitRoutes'> {
  const approved = new Set(node.approvedRoutes.map(formatPrefix))
  const served = node.advertisedRoutes.filter((route) => approved.has(formatPrefix(route)))
  const subnetRoutes = served.filter((route) => !isExitRoute(route))
  return { subnetRoutes, routeKeys: subnetRoutes.map(formatPrefix), subnetSet: IpSet.from(subnetRoutes), exitRoutes: served.filter(isExitRoute) }
}

function haveSame(a: readonly Ip[], b: readonly Ip[]): boolean {
  return a.length === b.length && a.every((ip, i) => ip.key === b[i]?.key)
}

/** The user that the node counts for; tagged nodes count for none. */
function ownerId({ node }: NodeRecord): number | undefined {
  return node.tags.length > 0 ? undefined : node.user
}

function replaceIn<K>(map: LayeredMap<K, readonly NodeRecord[]>, key: K, old: NodeRecord | undefined, now: NodeRecord | undefined): void {
  const kept = (map.get(key) ?? []).filter((record) => record !== old)
  if (now !== undefined) map.set(key, [...kept, now])
  else if (kept.length > 0) map.set(key, kept)
  else map.delete(key)
}

/** Adds to a list in a map. */
export function push<K, V>(map: Map<K, V[]>, key: K, value: V): void {
  const list = map.get(key)
  if (list === undefined) map.set(key, [value])
  else list.push(value)
}

/** The same objects in the same order. */
export function sameItems(a: readonly unknown[], b: readonly unknown[]): boolean {
  return a === b || (a.length === b.length && a.every((item, i) => item === b[i]))
}
