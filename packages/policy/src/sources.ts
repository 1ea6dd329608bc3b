import { formatIpRange, IpSet, prefixRange, TAILNET_ADDRESSES } from '@meshwright/ip'
import { BitSet } from './bits.ts'
import type { Inventory, NodeRecord } from './inventory.ts'
import { sameItems } from './inventory-index.ts'
import type { Resolved } from './resolve.ts'

/** Everything that some aliases together stand for as a source. */
export interface Sources {
  /** Equal for equal parts. */
  readonly key: string
  /** Whole nodes, from users, groups, tags and autogroups. */
  readonly identities: BitSet
  /** Addresses as written. */
  readonly literals: IpSet
  /** `*` is among them. */
  readonly wildcard: boolean
  /** `autogroup:danger-all` is among them. */
  readonly dangerAll: boolean
  /** Nodes whose traffic is covered: by an address, or by a subnet route that overlaps. */
  readonly nodes: BitSet
  /** Addresses that are covered, without what stands for them on the wire. */
  readonly set: (inventory: Inventory) => IpSet
}

/** The wire form of a source list: shared by all rules that have it, so equal lists are the same object. */
export interface SourceList {
  readonly id: number
  readonly texts: readonly string[]
}

/** Makes source lists and keeps one of each. */
export class SourceLists {
  readonly #inventory: Inventory
  readonly #sources: Map<string, Sources> = new Map()
  readonly #lists: Map<string, SourceList[]> = new Map()
  readonly #byKey: Map<string, SourceList> = new Map()
  readonly #ids: PartIds
  #previous: SourceLists | undefined

  /** @param previous lists of an earlier state of the same tailnet and policy: those of the same texts are the same objects */
  constructor(inventory: Inventory, previous?: SourceLists) {
    this.#inventory = inventory
    this.#previous = previous
    this.#ids = previous === undefined ? { parts: new WeakMap(), nextPart: 0, nextList: 0 } : previous.#ids
  }

  /** Takes over the list of a statement that means the same as in the earlier state. */
  adopt({ key }: Sources, list: SourceList): void {
    this.#byKey.set(key, list)
    this.#keep(list)
  }

  /** Lets go of the earlier state. */
  settle(): void {
    this.#previous = undefined
  }

  /** Joins what the aliases of one statement stand for. */
  combine(parts: readonly Resolved[]): Sources {
    const key = this.#keyOf(parts)
    const known = this.#sources.get(key)
    if (known !== undefined) return known
    const sources = this.#combine(parts, key)
    this.#sources.set(key, sources)
    return sources
  }

  /** The list as rules carry it: sorted texts without duplicates. */
  listOf(sources: Sources): SourceList {
    const { key, wildcard, dangerAll } = sources
    const known = this.#byKey.get(key)
    if (known !== undefined) return known
    const earlier = wildcard || dangerAll || this.#previous === undefined ? undefined : this.#previous.#byKey.get(key)
    const list = earlier ?? this.#intern(dangerAll ? ['*'] : wildcard ? this.#wildcardTexts(sources) : this.#ownTexts(sources))
    this.adopt(sources, list)
    return list
  }

  /** The list without anybody. */
  get nobody(): SourceList {
    return this.#intern([])
  }

  #combine(parts: readonly Resolved[], key: string): Sources {
    const inventory = this.#inventory
    const identities = new BitSet(inventory.room)
    const sets: IpSet[] = []
    const nodes = new BitSet(inventory.room)
    let wildcard = false
    let dangerAll = false
    for (const part of parts) {
      if (part.kind === 'nodes') identities.or(part.nodes)
      else if (part.kind === 'addresses') {
        sets.push(part.set)
        nodes.or(part.nodes)
      } else if (part.kind === 'any') wildcard = true
      else if (part.kind === 'dangerAll') dangerAll = true
    }
    const literals = sets.length === 0 ? IpSet.empty : IpSet.from(sets)
    nodes.or(identities)
    if (dangerAll) nodes.or(inventory.everyone)
    else if (wildcard) nodes.or(inventory.tailnetNodes)
    const sources: Sources = { key, identities, literals, wildcard, dangerAll, nodes, set: lazySet(identities, literals, wildcard, dangerAll) }
    // Routes seldom hold addresses of nodes or of literals: a look at all of them together spares one at each.
    if (wildcard || dangerAll || (!literals.isEmpty && literals.overlaps(inventory.routed)) || inventory.behind.size > 0)
      for (const router of inventory.routers) if (coversNetworks(sources, router, inventory)) nodes.add(router.slot)
    return sources
  }

  #wildcardTexts(sources: Sources): string[] {
    const routes = [...this.#inventory.routes.values()].map((route) => formatIpRange(prefixRange(route.prefix)))
    return [...new Set([...TAILNET_ADDRESSES.ranges().map(formatIpRange), ...routes, ...this.#ownTexts(sources)])]
  }

  #ownTexts({ identities, literals }: Sources): string[] {
    if (!literals.isEmpty) return rangeTexts(setOf(this.#inventory, identities, literals, false, false))
    return this.#inventory.shortestTexts(identities)
  }

  #keyOf(parts: readonly Resolved[]): string {
    let key = ''
    for (const part of parts) key += part.kind === 'nodes' || part.kind === 'addresses' ? `${this.#idOf(part)},` : `${part.kind},`
    return key
  }

  #idOf(part: Resolved): number {
    const ids = this.#ids
    const known = ids.parts.get(part)
    if (known !== undefined) return known
    ids.nextPart += 1
    ids.parts.set(part, ids.nextPart)
    return ids.nextPart
  }

  #intern(texts: string[]): SourceList {
    texts.sort()
    const known = this.#find(texts) ?? (this.#previous === undefined ? undefined : this.#previous.#find(texts))
    const list = known ?? { id: (this.#ids.nextList += 1), texts }
    this.#keep(list)
    return list
  }

  #find(texts: readonly string[]): SourceList | undefined {
    return this.#lists.get(digestOf(texts))?.find((list) => sameItems(list.texts, texts))
  }

  #keep(list: SourceList): void {
    const digest = digestOf(list.texts)
    const known = this.#lists.get(digest)
    if (known === undefined) this.#lists.set(digest, [list])
    else if (!known.includes(list)) known.push(list)
  }
}

/** Numbers that are given once in all states of a tailnet. */
interface PartIds {
  readonly parts: WeakMap<Resolved, number>
  nextPart: number
  nextList: number
}

/** True when traffic from a router's networks is covered: by a literal, by `*`, or because a node that is a source has an address there. */
export function coversNetworks({ wildcard, dangerAll, literals, identities }: Sources, router: NodeRecord, inventory: Inventory): boolean {
  if (router.routeKeys.length === 0) return false
  return wildcard || dangerAll || literals.overlaps(router.subnetSet) || inventory.behind.get(router)?.intersects(identities) === true
}

/** Equal for equal lists, and short: a whole list as a key would be kept twice. */
function digestOf(texts: readonly string[]): string {
  return `${texts.length} ${texts[0] ?? ''} ${texts[texts.length >> 1] ?? ''} ${texts[texts.length - 1] ?? ''}`
}

/** The set is made when it is first asked for. It must not hold on to the state of the tailnet in which it was described: that would never end. */
function lazySet(identities: BitSet, literals: IpSet, wildcard: boolean, dangerAll: boolean): (inventory: Inventory) => IpSet {
  let known: IpSet | undefined
  let routes: unknown
  return (inventory) => {
    // Routes are part of the wildcard only; whose addresses count is the same for as long as these sources are in use.
    if (known === undefined || (wildcard && routes !== inventory.routes)) {
      known = setOf(inventory, identities, literals, wildcard, dangerAll)
      routes = inventory.routes
    }
    return known
  }
}

function setOf(inventory: Inventory, identities: BitSet, literals: IpSet, wildcard: boolean, dangerAll: boolean): IpSet {
  if (dangerAll) return IpSet.everything
  const items = identities.slots().flatMap((slot) => inventory.records[slot]?.addresses ?? [])
  return IpSet.from([...items, literals, ...(wildcard ? [inventory.wildcard] : [])])
}

/** The shortest texts of the ranges of a set. */
export function rangeTexts(set: IpSet): string[] {
  return set.ranges().map(formatIpRange)
}
