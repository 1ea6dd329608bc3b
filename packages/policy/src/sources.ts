import { formatIpRange, IpSet, prefixRange, TAILNET_ADDRESSES } from '@meshwright/ip'
import { BitSet } from './bits.ts'
import { InternedLists, type SourceList } from './interned-lists.ts'
import type { Inventory, NodeRecord, RecordChange } from './inventory.ts'
import type { Resolved } from './resolve.ts'

/** Everything that some aliases together stand for as a source. */
export interface Sources {
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

/** Makes source lists and keeps one of each. */
export class SourceLists {
  readonly #inventory: Inventory
  /** By what the parts are, so that statements with the same sources share them. */
  readonly #sources: Map<string, Sources> = new Map()
  readonly #lists: Map<Sources, SourceList> = new Map()
  /** What became of sources of the earlier state. */
  readonly #advanced: Map<Sources, Sources> = new Map()
  readonly #partIds: { readonly ids: WeakMap<Resolved, number>; next: number }
  readonly interned: InternedLists

  /** @param previous lists of an earlier state of the same tailnet and policy: those of the same texts are the same objects */
  constructor(inventory: Inventory, previous?: SourceLists) {
    this.#inventory = inventory
    this.#partIds = previous === undefined ? { ids: new WeakMap(), next: 0 } : previous.#partIds
    this.interned = previous === undefined ? new InternedLists() : previous.interned
  }

  /** Joins what the aliases of one statement stand for. */
  combine(parts: readonly Resolved[]): Sources {
    const key = this.#keyOf(parts)
    const known = this.#sources.get(key)
    if (known !== undefined) return known
    const sources = this.#combine(parts)
    this.#sources.set(key, sources)
    return sources
  }

  /** The list as rules carry it: sorted texts without duplicates. */
  listOf(sources: Sources): SourceList {
    return this.#lists.get(sources) ?? this.#keep(sources, this.#makeList(sources))
  }

  /** The list without anybody. */
  get nobody(): SourceList {
    return this.interned.of([])
  }

  /**
   * The sources after one node changed, `parts` being what the same aliases stand for now. Only what is certain is followed: nobody may live
   * behind a router. The same object where nothing changed.
   */
  advance(old: Sources, parts: readonly Resolved[], change: RecordChange): Sources {
    const known = this.#advanced.get(old)
    if (known !== undefined) return known
    const sources = this.#advance(old, parts, change)
    this.#advanced.set(old, sources)
    return sources
  }

  /** The list of sources that came from others by {@link advance}. */
  advanceList(old: Sources, list: SourceList, now: Sources, change: RecordChange): SourceList {
    const known = this.#lists.get(now)
    if (known !== undefined) return known
    const { identities, wildcard, dangerAll, literals } = now
    const sameNodes = identities === old.identities && (change.sameAddresses || !identities.has(change.slot))
    if (dangerAll || (sameNodes && (!wildcard || this.#inventory.samePrefixes))) return this.#keep(now, list)
    const advanced = wildcard || !literals.isEmpty ? undefined : this.#inventory.advanceTexts(list.texts, old.identities, identities)
    return this.#keep(now, advanced === undefined ? this.#makeList(now) : this.interned.of(advanced))
  }

  #advance(old: Sources, parts: readonly Resolved[], { slot, now, sameAddresses }: RecordChange): Sources {
    const inventory = this.#inventory
    const identities = old.identities.with(slot, parts.some((part) => part.kind === 'nodes' && part.nodes.has(slot)), inventory.room)
    const covered =
      now !== undefined &&
      (identities.has(slot) ||
        old.dangerAll ||
        (old.wildcard && inventory.tailnetNodes.has(slot)) ||
        (!old.literals.isEmpty && old.literals.overlaps(now.addresses)) ||
        coversNetworks(old, now, inventory))
    const nodes = old.nodes.with(slot, covered, inventory.room)
    const { literals, wildcard, dangerAll } = old
    if (identities === old.identities && nodes === old.nodes && (sameAddresses || !identities.has(slot))) return old
    return { ...old, identities, nodes, set: lazySet(identities, literals, wildcard, dangerAll) }
  }

  #keep(sources: Sources, list: SourceList): SourceList {
    this.#lists.set(sources, list)
    return list
  }

  #makeList(sources: Sources): SourceList {
    const texts = sources.dangerAll ? ['*'] : sources.wildcard ? this.#wildcardTexts(sources) : this.#ownTexts(sources)
    return this.interned.of(texts.sort())
  }

  #combine(parts: readonly Resolved[]): Sources {
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
    const sources: Sources = { identities, literals, wildcard, dangerAll, nodes, set: lazySet(identities, literals, wildcard, dangerAll) }
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
    const { ids } = this.#partIds
    const known = ids.get(part)
    if (known !== undefined) return known
    this.#partIds.next += 1
    ids.set(part, this.#partIds.next)
    return this.#partIds.next
  }
}

/** True when traffic from a router's networks is covered: by a literal, by `*`, or because a node that is a source has an address there. */
export function coversNetworks({ wildcard, dangerAll, literals, identities }: Sources, router: NodeRecord, inventory: Inventory): boolean {
  if (router.routeKeys.length === 0) return false
  return wildcard || dangerAll || literals.overlaps(router.subnetSet) || inventory.behind.get(router)?.intersects(identities) === true
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
