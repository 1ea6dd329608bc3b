import { IpSet } from '@meshwright/ip'
import type { CapGrant, FilterRule, NetPortRange, PortRange } from '@meshwright/packet-filter'
import { BitSet } from './bits.ts'
import type { Concerns, StatementChange } from './concerns.ts'
import type { SourceList } from './interned-lists.ts'
import type { Inventory, NodeRecord } from './inventory.ts'
import { capabilityPlaceOf, keyOf, placeOf, Places } from './places.ts'
import { COMPANIONS, type PolicyPlan } from './plan.ts'
import type { Resolved } from './resolve.ts'
import type { SourceLists } from './sources.ts'
import { type CompiledStatement, type Target, textsFor } from './statements.ts'

/** What is known from an earlier state. */
interface Inherited {
  /** The rules of that state, by slot. */
  readonly rules: readonly (readonly FilterRule[] | undefined)[]
  /** Slots of nodes for whom these say nothing. */
  readonly anew: BitSet
  /** Keys of port rules to which a changed statement contributes. */
  readonly changed: ReadonlySet<number>
  /** What replaced lists, by the texts of the earlier ones; `undefined` where more than sources may differ. */
  readonly replaced: ReadonlyMap<readonly string[], SourceList> | undefined
}

interface PendingRule {
  order: number
  readonly list: SourceList
  readonly protocol: number | undefined
  /** When it is taken over whole from an earlier state. */
  readonly whole: FilterRule | undefined
  readonly entries: NetPortRange[]
}

/**
 * Makes the rules of one node after another. Port rules with the same sources and protocol are one rule, whose place is that of the first
 * such statement in the whole tailnet, even if that one gives this node nothing. Capability rules are never joined and stand where their
 * statement stands, behind its port rules.
 *
 * Rules once made are kept, and handed on to later states of the tailnet for the nodes that no change concerns.
 */
export class FilterCompiler {
  readonly #plan: PolicyPlan
  readonly #statements: readonly CompiledStatement[]
  readonly #lists: SourceLists
  readonly #inventory: Inventory
  readonly #concerns: Concerns
  #places: Places | undefined
  /** By slot. */
  #rules: (readonly FilterRule[] | undefined)[] = []
  #inherited: Inherited | undefined
  readonly #selfLists: Map<string, SourceList> = new Map()

  constructor(plan: PolicyPlan, statements: readonly CompiledStatement[], lists: SourceLists, inventory: Inventory, concerns: Concerns) {
    this.#plan = plan
    this.#statements = statements
    this.#concerns = concerns
    this.#lists = lists
    this.#inventory = inventory
  }

  /**
   * Takes over what an earlier state has made, of which one node was another.
   * @param changes all statements that are not the same objects
   * @param touched slots of the nodes whose rules may differ for another reason than these statements' places; those for whom only the
   *   places do are added
   * @param anew slots of those nodes for whom any rule may differ, not only the sources of the changed statements
   */
  inherit(previous: FilterCompiler, changes: readonly StatementChange[], touched: BitSet, anew: BitSet): void {
    const places = previous.#placesOfAll.advance(changes)
    this.#places = places
    this.#touchMoved(previous, places, touched)
    const rules = previous.#rules.slice()
    for (const slot of touched.slots()) rules[slot] = undefined
    this.#rules = rules
    const changed = new Set<number>()
    for (const { old, now } of changes) {
      for (const protocol of now.statement.protocols) changed.add(keyOf(old.list, protocol)).add(keyOf(now.list, protocol))
    }
    this.#inherited = { rules: previous.#rules, anew, changed, replaced: this.#replacements(previous, places, changes) }
  }

  /** The rules that a node receives, in the order of delivery. */
  rulesFor(record: NodeRecord): readonly FilterRule[] {
    const known = this.#rules[record.slot]
    if (known !== undefined) return known
    const rules = this.#advancedRules(record) ?? this.#makeRules(record, this.#wholeRules(record))
    this.#rules[record.slot] = rules
    return rules
  }

  get #placesOfAll(): Places {
    return (this.#places ??= Places.of(this.#statements))
  }

  /**
   * What became of the lists, where each became one other and no rule can be joined or parted by it: then rules differ in their sources alone,
   * and stay where they are. Whom a statement is delivered to differs for the changed node only, and rules of `autogroup:self` for the nodes
   * of its user; these are made anew.
   */
  #replacements(previous: FilterCompiler, places: Places, changes: readonly StatementChange[]): ReadonlyMap<readonly string[], SourceList> | undefined {
    const [byOld, byNew] = [new Map<readonly string[], SourceList>(), new Map<readonly string[], SourceList>()]
    const [self, companions] = [!this.#plan.special.always.isEmpty, !this.#plan.special.apps.isEmpty]
    if (!this.#inventory.sameBehind) return undefined
    for (const { old, now } of changes) {
      const [before, after] = [old.list, now.list]
      if (now.targets.length === 0) continue
      // Lists of companions are made of destinations, and may be any other's.
      if (companions && now.statement.app.length > 0) return undefined
      if (before.texts.length === 0 || after.texts.length === 0) return undefined
      if ((byOld.get(before.texts) ?? after) !== after || (byNew.get(after.texts) ?? before) !== before) return undefined
      // A rule of autogroup:self may have the same list, when all of it is one user's.
      if (self && before !== after && (this.#haveOneOwner(old.sources.identities) || this.#haveOneOwner(now.sources.identities))) return undefined
      byOld.set(before.texts, after)
      byNew.set(after.texts, before)
    }
    // No statement that stayed as it was may have one of the lists that came or went.
    const indexes = new Set(changes.map(({ now }) => now.index))
    for (const { old, now } of changes) {
      if (old.list === now.list || now.targets.length === 0) continue
      for (const state of [previous.#placesOfAll, places])
        for (const { list } of [old, now]) if (state.statementsFrom(list).some((index) => !indexes.has(index))) return undefined
    }
    return byOld
  }

  /** The rules of the earlier state with the sources of this one; `undefined` where more than that may differ. */
  #advancedRules({ slot }: NodeRecord): readonly FilterRule[] | undefined {
    const replaced = this.#inherited?.replaced
    const rules = this.#inherited?.anew.has(slot) === false ? this.#inherited.rules[slot] : undefined
    if (replaced === undefined || rules === undefined) return undefined
    const advanced = rules.slice()
    for (let i = 0; i < advanced.length; i += 1) {
      const rule = advanced[i]
      const list = rule === undefined ? undefined : replaced.get(rule.SrcIPs)
      if (rule !== undefined && list !== undefined && list.texts !== rule.SrcIPs) advanced[i] = withSources(rule, list.texts)
    }
    return advanced
  }

  /** Port rules of the earlier state to which no changed statement contributes, by their keys. */
  #wholeRules({ slot }: NodeRecord): ReadonlyMap<number, FilterRule> {
    const whole = new Map<number, FilterRule>()
    if (this.#inherited === undefined || this.#inherited.anew.has(slot)) return whole
    const { rules, changed } = this.#inherited
    for (const rule of rules[slot] ?? []) {
      const list = rule.DstPorts === undefined ? undefined : this.#lists.interned.withTexts(rule.SrcIPs)
      const key = list === undefined ? undefined : keyOf(list, rule.IPProto?.[0])
      if (key !== undefined && !changed.has(key)) whole.set(key, rule)
    }
    return whole
  }

  /** Adds the nodes that hold a rule whose place is that of another statement now: where lists became, or ceased to be, the same. */
  #touchMoved(previous: FilterCompiler, places: Places, touched: BitSet): void {
    const self = !this.#plan.special.always.isEmpty
    for (const key of places.moved) {
      for (const [state, at] of [[previous, previous.#placesOfAll], [this, places]] as const) {
        for (const index of at.statementsWith(key)) {
          const statement = state.#statements[index]
          if (statement === undefined) continue
          touched.or(statement.receivers)
          // A rule of autogroup:self may have the same list, when all of it is one user's.
          if (self && state.#haveOneOwner(statement.sources.identities)) touched.or(statement.sources.nodes)
        }
      }
    }
  }

  #haveOneOwner(nodes: BitSet): boolean {
    let owner: number | undefined
    return nodes.every((slot) => {
      const record = this.#inventory.records[slot]
      const other = record === undefined ? undefined : this.#inventory.ownerOf(record.node)?.id
      owner ??= other
      return other !== undefined && other === owner
    })
  }

  #makeRules(record: NodeRecord, whole: ReadonlyMap<number, FilterRule>): readonly FilterRule[] {
    const ports = new Map<number, PendingRule>()
    const capabilities: { readonly order: number; readonly rule: FilterRule }[] = []
    for (const compiled of this.#concerns.ruling(record.slot, this.#plan.special)) {
      const received = compiled.receivers.has(record.slot)
      const selfList = compiled.self === undefined ? undefined : this.#selfListOf(compiled, record)
      const { statement, index } = compiled
      const hasCapabilities = statement.app.length > 0 && statement.via.length === 0 && statement.sources.length > 0
      if (!received && selfList === undefined && !hasCapabilities) continue
      if (received && compiled.list.texts.length > 0) {
        for (const target of compiled.targets) {
          const texts = textsFor(target, record, statement.via.length > 0)
          if (texts.length === 0) continue
          for (const [i, protocol] of statement.protocols.entries())
            this.#addPorts(ports, whole, compiled.list, protocol, texts, target.ports[i] ?? [], placeOf(index, i, false))
        }
      }
      if (selfList !== undefined && compiled.self !== undefined && selfList.texts.length > 0) {
        for (const [i, protocol] of statement.protocols.entries()) {
          const place = placeOf(index, i, true, compiled.selfFirst)
          this.#addPorts(ports, whole, selfList, protocol, record.addressTexts, compiled.self.ports[i] ?? [], place)
        }
      }
      if (hasCapabilities)
        for (const [n, rule] of this.#capabilityRules(compiled, record, selfList).entries())
          capabilities.push({ order: capabilityPlaceOf(index, n), rule })
    }
    return [...[...ports.values()].map(settle), ...capabilities].sort((a, b) => a.order - b.order).map(({ rule }) => rule)
  }

  #addPorts(
    rules: Map<number, PendingRule>,
    whole: ReadonlyMap<number, FilterRule>,
    list: SourceList,
    protocol: number | undefined,
    texts: readonly string[],
    ranges: readonly PortRange[],
    place: number,
  ): void {
    if (ranges.length === 0) return
    const key = keyOf(list, protocol)
    let pending = rules.get(key)
    if (pending === undefined) {
      const order = Math.min(place, this.#placesOfAll.first(key) ?? place)
      pending = { order, list, protocol, whole: whole.get(key), entries: [] }
      rules.set(key, pending)
    } else pending.order = Math.min(pending.order, place)
    if (pending.whole !== undefined) return
    for (const IP of texts) for (const Ports of ranges) pending.entries.push({ IP, Ports })
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
    if (part.kind === 'nodes') {
      part.nodes.and(sources.nodes)
      // A router that is covered only by its networks is not itself a source.
      for (const slot of part.nodes.slots())
        if (!sources.identities.has(slot) && this.#inventory.records[slot]?.addresses.overlaps(sources.set(this.#inventory)) !== true)
          part.nodes.delete(slot)
    }
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

/** The same rule for other sources. */
function withSources(rule: FilterRule, SrcIPs: readonly string[]): FilterRule {
  return rule.DstPorts === undefined ? { ...rule, SrcIPs } : portRule(SrcIPs, rule.DstPorts, rule.IPProto)
}

/** The rule in as little memory as it needs: lists that grew have room to spare, and rules of all nodes share those of protocols. */
function settle({ order, list, protocol, whole, entries }: PendingRule): { readonly order: number; readonly rule: FilterRule } {
  return { order, rule: whole ?? portRule(list.texts, entries.slice(), protocol === undefined ? undefined : protocolList(protocol)) }
}

function portRule(SrcIPs: readonly string[], DstPorts: readonly NetPortRange[], IPProto: readonly number[] | undefined): FilterRule {
  return IPProto === undefined ? { SrcIPs, DstPorts } : { SrcIPs, DstPorts, IPProto }
}

const PROTOCOL_LISTS: (readonly number[])[] = []

function protocolList(protocol: number): readonly number[] {
  return (PROTOCOL_LISTS[protocol] ??= [protocol])
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
