import { formatIpRange, type Ip, IpSet, prefixRange, TAILNET_ADDRESSES } from '@meshwright/ip'
import { BitSet } from './bits.ts'
import type { Inventory, NodeRecord } from './inventory.ts'
import type { Resolved } from './resolve.ts'

/** Everything that some aliases together stand for as a source. */
export interface Sources {
  /** Whole nodes, from users, groups, tags and autogroups. */
  readonly identities: BitSet
  /** Addresses as written. */
  readonly literals: IpSet
  /** `*` is among them. */
  readonly any: boolean
  /** `autogroup:danger-all` is among them. */
  readonly dangerAll: boolean
  /** Nodes whose traffic is covered: by an address, or by a subnet route that overlaps. */
  readonly nodes: BitSet
  /** Addresses that are covered, without what stands for them on the wire. */
  readonly set: () => IpSet
}

/** The wire form of a source list: shared by all rules that have it, so equal lists are the same object. */
export interface SourceList {
  readonly id: number
  readonly texts: readonly string[]
}

/** Makes source lists and keeps one of each. */
export class SourceLists {
  readonly #inventory: Inventory
  readonly #lists: Map<string, SourceList> = new Map()
  readonly #wildcard: readonly string[]
  readonly #wildcardSet: IpSet
  readonly #behind: Map<NodeRecord, BitSet> = new Map()
  #tailnetNodes: BitSet | undefined

  constructor(inventory: Inventory) {
    this.#inventory = inventory
    const routes = [...inventory.routes.values()]
    this.#wildcard = [...TAILNET_ADDRESSES.ranges().map(formatIpRange), ...routes.map((route) => formatIpRange(prefixRange(route.prefix)))]
    this.#wildcardSet = IpSet.from([TAILNET_ADDRESSES, ...routes.map((route) => route.prefix)])
  }

  /** Joins what the aliases of one statement stand for. */
  combine(parts: readonly Resolved[]): Sources {
    const identities = new BitSet(this.#inventory.room)
    const sets: IpSet[] = []
    const nodes = new BitSet(this.#inventory.room)
    let any = false
    let dangerAll = false
    for (const part of parts) {
      if (part.kind === 'nodes') identities.or(part.nodes)
      else if (part.kind === 'addresses') {
        sets.push(part.set)
        nodes.or(part.nodes)
      } else if (part.kind === 'any') any = true
      else if (part.kind === 'dangerAll') dangerAll = true
    }
    const literals = IpSet.from(sets)
    nodes.or(identities)
    let known: IpSet | undefined
    const set = (): IpSet => (known ??= this.#setOf(identities, literals, any, dangerAll))
    if (any || dangerAll) nodes.or(this.#everyone(dangerAll))
    for (const router of this.#inventory.routers) {
      if (nodes.has(router.slot)) continue
      // Routes seldom hold addresses of nodes: the look at identities is one of bits.
      if (any || dangerAll || literals.overlaps(router.subnetSet) || this.#nodesBehind(router).intersects(identities)) nodes.add(router.slot)
    }
    return { identities, literals, any, dangerAll, nodes, set }
  }

  /** The list as rules carry it: sorted texts without duplicates. */
  listOf(sources: Sources): SourceList {
    if (sources.dangerAll) return this.#intern(['*'])
    if (!sources.any) return this.#intern(sources.literals.isEmpty ? this.#identityTexts(sources.identities) : rangeTexts(sources.set()))
    const own = sources.literals.isEmpty ? this.#identityTexts(sources.identities) : rangeTexts(this.#setOf(sources.identities, sources.literals, false, false))
    return this.#intern([...new Set([...this.#wildcard, ...own])])
  }

  #everyone(dangerAll: boolean): BitSet {
    if (dangerAll) return this.#inventory.within(IpSet.everything)
    return (this.#tailnetNodes ??= this.#inventory.within(this.#wildcardSet))
  }

  #nodesBehind(router: NodeRecord): BitSet {
    const known = this.#behind.get(router)
    if (known !== undefined) return known
    const behind = this.#inventory.within(router.subnetSet)
    this.#behind.set(router, behind)
    return behind
  }

  #intern(texts: string[]): SourceList {
    texts.sort()
    const key = texts.join()
    const known = this.#lists.get(key)
    if (known !== undefined) return known
    const list = { id: this.#lists.size, texts }
    this.#lists.set(key, list)
    return list
  }

  #setOf(identities: BitSet, literals: IpSet, any: boolean, dangerAll: boolean): IpSet {
    if (dangerAll) return IpSet.everything
    const items = identities.slots().flatMap((slot) => this.#inventory.records[slot]?.addresses ?? [])
    return IpSet.from([...items, literals, ...(any ? [this.#wildcardSet] : [])])
  }

  /** Addresses of whole nodes; neighbours join into ranges. */
  #identityTexts(identities: BitSet): string[] {
    const ips = identities.slots().flatMap((slot) => this.#inventory.records[slot]?.node.addresses ?? [])
    return hasNeighbours(ips) ? rangeTexts(IpSet.from(ips)) : [...new Set(ips.map((ip) => ip.key))]
  }
}

/** The shortest texts of the ranges of a set. */
export function rangeTexts(set: IpSet): string[] {
  return set.ranges().map(formatIpRange)
}

/** Whether some address directly follows another. */
function hasNeighbours(ips: readonly Ip[]): boolean {
  const known = new Set(ips.map((ip) => String.fromCharCode(...ip.bytes)))
  return ips.some((ip) => {
    const bytes = Uint8Array.from(ip.bytes)
    let at = bytes.length - 1
    while (at >= 0 && bytes[at] === 255) bytes[at--] = 0
    if (at < 0) return false
    bytes[at] = (bytes[at] ?? 0) + 1
    return known.has(String.fromCharCode(...bytes))
  })
}
