import { formatIpRange, IpSet, prefixRange, TAILNET_ADDRESSES } from '@meshwright/ip'
import { shortestTexts } from './address-book.ts'
import { BitSet } from './bits.ts'
import type { Inventory, NodeRecord } from './inventory.ts'
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

/** What source lists of one state of a tailnet hand on to the next. */
interface Memory {
  readonly lists: Map<string, SourceList>
  readonly byParts: Map<string, SourceList>
  readonly partIds: WeakMap<Resolved, number>
  nextPart: number
}

/** Texts that are kept for later states; beyond this many, all are forgotten. */
const MOST_KEPT = 50_000

/** Makes source lists and keeps one of each. */
export class SourceLists {
  readonly #inventory: Inventory
  readonly #memory: Memory
  readonly #sources: Map<string, Sources>
  readonly #wildcard: readonly string[]
  readonly #behind: Map<NodeRecord, BitSet | undefined> = new Map()
  #tailnetNodes: BitSet | undefined

  /** @param previous lists of an earlier state of the same tailnet and policy: texts that are the same are the same objects */
  constructor(inventory: Inventory, previous?: SourceLists) {
    this.#inventory = inventory
    const kept = previous !== undefined && previous.#memory.lists.size < MOST_KEPT ? previous : undefined
    this.#memory = kept !== undefined ? kept.#memory : { lists: new Map(), byParts: new Map(), partIds: new WeakMap(), nextPart: 0 }
    this.#sources = new Map()
    if (kept !== undefined && inventory.sameRouters && inventory.room === kept.#inventory.room) {
      for (const [key, sources] of kept.#sources)
        if (!sources.wildcard && !sources.dangerAll && this.#keepsRouters(sources)) this.#sources.set(key, sources)
    }
    const routes = [...inventory.routes.values()]
    this.#wildcard = [...TAILNET_ADDRESSES.ranges().map(formatIpRange), ...routes.map((route) => formatIpRange(prefixRange(route.prefix)))]
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
    if (sources.dangerAll) return this.#intern(['*'])
    if (sources.wildcard) return this.#intern([...new Set([...this.#wildcard, ...this.#ownTexts(sources)])])
    const known = this.#memory.byParts.get(sources.key)
    if (known !== undefined) return known
    const list = this.#intern(this.#ownTexts(sources))
    this.#memory.byParts.set(sources.key, list)
    return list
  }

  #combine(parts: readonly Resolved[], key: string): Sources {
    const identities = new BitSet(this.#inventory.room)
    const sets: IpSet[] = []
    const nodes = new BitSet(this.#inventory.room)
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
    const literals = IpSet.from(sets)
    nodes.or(identities)
    if (wildcard || dangerAll) nodes.or(this.#everyone(dangerAll))
    for (const router of this.#inventory.routers) {
      if (nodes.has(router.slot)) continue
      // Routes seldom hold addresses of nodes: the look at identities is one of bits.
      if (wildcard || dangerAll || literals.overlaps(router.subnetSet) || this.#nodesBehind(router)?.intersects(identities) === true)
        nodes.add(router.slot)
    }
    return { key, identities, literals, wildcard, dangerAll, nodes, set: lazySet(identities, literals, wildcard, dangerAll) }
  }

  #ownTexts({ identities, literals }: Sources): string[] {
    if (!literals.isEmpty) return rangeTexts(setOf(this.#inventory, identities, literals, false, false))
    return shortestTexts(identities.slots().flatMap((slot) => this.#inventory.records[slot]?.book ?? []))
  }

  #keyOf(parts: readonly Resolved[]): string {
    const { partIds } = this.#memory
    const ids = parts.map((part) => {
      if (part.kind !== 'nodes' && part.kind !== 'addresses') return part.kind
      const known = partIds.get(part)
      if (known !== undefined) return known
      this.#memory.nextPart += 1
      partIds.set(part, this.#memory.nextPart)
      return this.#memory.nextPart
    })
    return ids.join()
  }

  /** Whether what sources cover of routers is certain to be the same: it is as long as no router's networks hold nodes. */
  #keepsRouters(sources: Sources): boolean {
    return this.#inventory.routers.every((router) => this.#nodesBehind(router) === undefined || sources.nodes.has(router.slot))
  }

  #everyone(dangerAll: boolean): BitSet {
    if (dangerAll) return this.#inventory.everyone
    return (this.#tailnetNodes ??= this.#inventory.within(this.#inventory.wildcard))
  }

  /** Nodes whose addresses lie in a router's networks; `undefined` for none. */
  #nodesBehind(router: NodeRecord): BitSet | undefined {
    if (!this.#behind.has(router)) {
      const behind = this.#inventory.within(router.subnetSet)
      this.#behind.set(router, behind.isEmpty ? undefined : behind)
    }
    return this.#behind.get(router)
  }

  #intern(texts: string[]): SourceList {
    texts.sort()
    const key = texts.join()
    const known = this.#memory.lists.get(key)
    if (known !== undefined) return known
    const list = { id: this.#memory.lists.size, texts }
    this.#memory.lists.set(key, list)
    return list
  }
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
