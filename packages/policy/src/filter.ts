import { IpSet } from '@meshwright/ip'
import type { CapGrant, FilterRule, NetPortRange } from '@meshwright/packet-filter'
import { BitSet } from './bits.ts'
import type { Inventory, NodeRecord } from './inventory.ts'
import type { Resolved } from './resolve.ts'
import type { SourceList, SourceLists } from './sources.ts'
import { type CompiledStatement, entriesFor, type Target, textsFor } from './statements.ts'

/** Capabilities that make a second one in the opposite direction. */
const COMPANIONS: readonly (readonly [string, string])[] = [
  ['tailscale.com/cap/drive', 'tailscale.com/cap/drive-sharer'],
  ['tailscale.com/cap/relay', 'tailscale.com/cap/relay-target'],
]

/** Rules of one statement lie between two multiples of this; see {@link FilterCompiler}. */
const STRIDE = 1024
const CAPABILITIES = STRIDE - 8

/** The index of statements by node is made when more than one in so many nodes have been asked for. */
const NODES_BEFORE_INDEX = 16

interface PendingRule {
  order: number
  readonly rule: { readonly SrcIPs: readonly string[]; readonly DstPorts: NetPortRange[]; readonly IPProto?: readonly number[] }
}

/** Which statements concern which node. */
interface StatementIndex {
  readonly always: readonly CompiledStatement[]
  readonly bySlot: ReadonlyMap<number, readonly CompiledStatement[]>
}

/**
 * Makes the rules of one node after another. Port rules with the same sources and protocol are one rule, whose place is that of the first
 * such statement in the whole tailnet, even if that one gives this node nothing. Capability rules are never joined and stand where their
 * statement stands, behind its port rules.
 */
export class FilterCompiler {
  readonly #statements: readonly CompiledStatement[]
  readonly #lists: SourceLists
  readonly #inventory: Inventory
  readonly #first: ReadonlyMap<string, number>
  #index: StatementIndex | undefined
  #asked: number = 0
  readonly #selfLists: Map<string, SourceList> = new Map()

  constructor(statements: readonly CompiledStatement[], lists: SourceLists, inventory: Inventory) {
    this.#statements = statements
    this.#lists = lists
    this.#inventory = inventory
    const first = new Map<string, number>()
    for (const { statement, index, list, targets } of statements) {
      if (targets.length === 0) continue
      for (const [i, protocol] of statement.protocols.entries()) {
        const key = keyOf(list, protocol)
        if (!first.has(key)) first.set(key, placeOf(index, i, false))
      }
    }
    this.#first = first
  }

  /** The rules that a node receives, in the order of delivery. */
  rulesFor(record: NodeRecord): FilterRule[] {
    const ports = new Map<string, PendingRule>()
    const capabilities: { readonly order: number; readonly rule: FilterRule }[] = []
    for (const compiled of this.#concerning(record)) {
      const received = compiled.receivers.has(record.slot)
      const selfList = compiled.self === undefined ? undefined : this.#selfListOf(compiled, record)
      const { statement, index } = compiled
      const hasCapabilities = statement.app.length > 0 && statement.via.length === 0 && statement.sources.length > 0
      if (!received && selfList === undefined && !hasCapabilities) continue
      for (const [i, protocol] of statement.protocols.entries()) {
        if (received && compiled.list.texts.length > 0) {
          const entries = compiled.targets.flatMap((target) =>
            entriesFor(textsFor(target, record, statement.via.length > 0), target.ports[i] ?? []),
          )
          this.#addPorts(ports, compiled.list, protocol, entries, placeOf(index, i, false))
        }
        if (selfList !== undefined && compiled.self !== undefined && selfList.texts.length > 0) {
          this.#addPorts(
            ports,
            selfList,
            protocol,
            entriesFor(record.addressTexts, compiled.self.ports[i] ?? []),
            placeOf(index, i, true, compiled.selfFirst),
          )
        }
      }
      if (hasCapabilities)
        for (const [n, rule] of this.#capabilityRules(compiled, record, selfList).entries())
          capabilities.push({ order: index * STRIDE + CAPABILITIES + n / 8, rule })
    }
    return [...ports.values(), ...capabilities].sort((a, b) => a.order - b.order).map(({ rule }) => rule)
  }

  /** Statements that may give a node something, in their order: those that name it, and those that must be looked at for every node. */
  #concerning({ slot }: NodeRecord): readonly CompiledStatement[] {
    // An index pays only for many nodes; after an update few are asked for.
    this.#asked += 1
    if (this.#index === undefined && this.#asked < this.#inventory.room / NODES_BEFORE_INDEX) return this.#statements
    const { always, bySlot } = (this.#index ??= this.#makeIndex())
    const own = bySlot.get(slot) ?? []
    return always.length === 0 ? own : [...always, ...own].sort((a, b) => a.index - b.index)
  }

  #makeIndex(): StatementIndex {
    const always: CompiledStatement[] = []
    const bySlot = new Map<number, CompiledStatement[]>()
    for (const compiled of this.#statements) {
      if (
        compiled.self !== undefined ||
        compiled.statement.app.length > 0 ||
        compiled.targets.some(({ resolved }) => resolved.kind === 'any')
      ) {
        always.push(compiled)
        continue
      }
      for (const slot of compiled.receivers.slots()) {
        const known = bySlot.get(slot)
        if (known === undefined) bySlot.set(slot, [compiled])
        else known.push(compiled)
      }
    }
    return { always, bySlot }
  }

  #addPorts(
    rules: Map<string, PendingRule>,
    list: SourceList,
    protocol: number | undefined,
    entries: readonly NetPortRange[],
    place: number,
  ): void {
    if (entries.length === 0) return
    const key = keyOf(list, protocol)
    const known = rules.get(key)
    if (known !== undefined) {
      known.order = Math.min(known.order, place)
      for (const entry of entries) known.rule.DstPorts.push(entry)
      return
    }
    const rule = { SrcIPs: list.texts, DstPorts: [...entries], ...(protocol === undefined ? {} : { IPProto: [protocol] }) }
    rules.set(key, { order: Math.min(place, this.#first.get(key) ?? place), rule })
  }

  #capabilityRules(
    { statement, sources, list, targets, self }: CompiledStatement,
    record: NodeRecord,
    selfList: SourceList | undefined,
  ): FilterRule[] {
    const CapMap = Object.fromEntries(statement.app.map(({ name, values }) => [name, values]))
    const companions = COMPANIONS.filter(([name]) => statement.app.some((capability) => capability.name === name)).map(([, companion]) => ({
      [companion]: null,
    }))
    const rules: FilterRule[] = []
    const add = (source: SourceList, Dsts: readonly string[], map: CapGrant['CapMap']): void => {
      if (Dsts.length > 0) rules.push({ SrcIPs: source.texts, CapGrant: [{ Dsts, ...(map === undefined ? {} : { CapMap: map }) }] })
    }
    add(list, capabilityDestinations(targets, record), CapMap)
    const inside = sources.nodes.has(record.slot) ? addressesWithin(sources.set(this.#inventory), record) : []
    const reversed =
      companions.length > 0 && inside.length > 0 && targets.length > 0
        ? this.#lists.listOf(this.#lists.combine(targets.map(asSource)))
        : undefined
    if (reversed !== undefined) for (const map of companions) add(reversed, inside, map)
    if (self !== undefined && selfList !== undefined) {
      const own = record.addressTexts.map(hostPrefix)
      if (selfList.texts.length > 0) add(selfList, own, CapMap)
      if (inside.length > 0) for (const map of companions) add(this.#selfSources(record), own, map)
    }
    return rules
  }

  /** The user's own untagged nodes among the sources: undefined when self means nothing for the node. */
  #selfListOf({ index, sources, statement }: CompiledStatement, record: NodeRecord): SourceList | undefined {
    const user = this.#inventory.ownerOf(record.node)
    if (user === undefined || statement.via.length > 0) return undefined
    const key = `${index}/${user.id}`
    const known = this.#selfLists.get(key)
    if (known !== undefined) return known
    const part = this.#ownNodes(user.id)
    if (part.kind === 'nodes') part.nodes.and(sources.nodes)
    const list = this.#lists.listOf(this.#lists.combine([part]))
    this.#selfLists.set(key, list)
    return list
  }

  #selfSources(record: NodeRecord): SourceList {
    const user = this.#inventory.ownerOf(record.node)
    return this.#lists.listOf(this.#lists.combine(user === undefined ? [] : [this.#ownNodes(user.id)]))
  }

  #ownNodes(user: number): Resolved {
    const nodes = new BitSet(this.#inventory.room)
    for (const own of this.#inventory.owned(user)) nodes.add(own.slot)
    return { kind: 'nodes', nodes }
  }
}

function keyOf(list: SourceList, protocol: number | undefined): string {
  return `${list.id}/${protocol ?? ''}`
}

function placeOf(index: number, protocol: number, self: boolean, selfFirst: boolean = false): number {
  return index * STRIDE + Math.min(protocol, 255) * 2 + (self ? (selfFirst ? -0.5 : 1) : 0)
}

/** Own addresses within the destinations, and literals that overlap subnet routes; nothing twice. */
function capabilityDestinations(targets: readonly Target[], record: NodeRecord): string[] {
  const found = new Set<string>()
  for (const { resolved } of targets) {
    if (resolved.kind === 'any' || (resolved.kind === 'nodes' && resolved.nodes.has(record.slot)))
      for (const text of record.addressTexts) found.add(hostPrefix(text))
    else if (resolved.kind === 'addresses') {
      for (const text of addressesWithin(resolved.set, record)) found.add(text)
      for (const prefix of resolved.set.prefixes()) if (record.subnetSet.overlaps(prefix)) found.add(`${prefix.ip.key}/${prefix.bits}`)
    }
  }
  return [...found]
}

function addressesWithin(set: IpSet, record: NodeRecord): string[] {
  return record.node.addresses
    .filter((ip) => set.contains(ip))
    .map((ip) => hostPrefix(ip.key))
    .sort()
}

function hostPrefix(text: string): string {
  return `${text}/${text.includes(':') ? 128 : 32}`
}

function asSource({ resolved }: Target): Resolved {
  return resolved
}
