import { IpSet } from '@meshwright/ip'
import type { CapGrant, FilterRule, NetPortRange, PortRange } from '@meshwright/packet-filter'
import { BitSet } from './bits.ts'
import type { Concerns, StatementChange } from './concerns.ts'
import type { Inventory, NodeRecord } from './inventory.ts'
import type { Statement } from './policy.ts'
import type { Resolved } from './resolve.ts'
import type { SourceList, SourceLists } from './sources.ts'
import { type CompiledStatement, type Target, textsFor } from './statements.ts'

/** Capabilities that make a second one in the opposite direction. */
const COMPANIONS: readonly (readonly [string, string])[] = [
  ['tailscale.com/cap/drive', 'tailscale.com/cap/drive-sharer'],
  ['tailscale.com/cap/relay', 'tailscale.com/cap/relay-target'],
]

/** Whether a statement also gives its sources a rule. */
export function hasCompanions({ app }: Statement): boolean {
  return app.some(({ name }) => COMPANIONS.some(([capability]) => capability === name))
}

/** Rules of one statement lie between two multiples of this; see {@link FilterCompiler}. */
const STRIDE = 1024
const CAPABILITIES = STRIDE - 8

/** Protocols and "none" as the low part of a key. */
const PROTOCOL_KEYS = 512
const NO_PROTOCOL = 256

/** The lists of changed statements by the texts of those that they replace. */
interface ListReplacements {
  readonly byOld: ReadonlyMap<readonly string[], SourceList>
  readonly changes: readonly StatementChange[]
}

interface PendingRule {
  order: number
  readonly rule: FilterRule
  /** Its destinations; `undefined` when it is taken over whole from an earlier state. */
  readonly entries: NetPortRange[] | undefined
}

/**
 * Makes the rules of one node after another. Port rules with the same sources and protocol are one rule, whose place is that of the first
 * such statement in the whole tailnet, even if that one gives this node nothing. Capability rules are never joined and stand where their
 * statement stands, behind its port rules.
 *
 * Rules once made are kept, and handed on to later states of the tailnet for the nodes that no change concerns.
 */
export class FilterCompiler {
  readonly #statements: readonly CompiledStatement[]
  readonly #lists: SourceLists
  readonly #inventory: Inventory
  readonly #first: ReadonlyMap<number, number>
  readonly #concerns: Concerns
  /** Positions of statements that must be looked at for every node, and of those that must be for all their sources. */
  readonly #special: { readonly always: BitSet; readonly apps: BitSet }
  /** By slot. */
  #rules: (readonly FilterRule[] | undefined)[] = []
  /** Rules of the earlier state, by slot, of which only those with one of the changed keys may differ. */
  #stale: (readonly FilterRule[] | undefined)[] = []
  #changed: ReadonlySet<number> = new Set()
  /** What replaced the lists of the earlier state; `undefined` where more than lists may differ. */
  #replaced: ListReplacements | undefined
  readonly #byTexts: Map<readonly string[], SourceList> = new Map()
  readonly #selfLists: Map<string, SourceList> = new Map()

  constructor(statements: readonly CompiledStatement[], lists: SourceLists, inventory: Inventory, concerns: Concerns) {
    this.#statements = statements
    this.#concerns = concerns
    this.#lists = lists
    this.#inventory = inventory
    const first = new Map<number, number>()
    this.#special = { always: new BitSet(statements.length), apps: new BitSet(statements.length) }
    for (const { statement, index, list, targets, self } of statements) {
      if (self !== undefined) this.#special.always.add(index)
      if (hasCompanions(statement)) this.#special.apps.add(index)
      if (targets.length === 0 || list.texts.length === 0) continue
      this.#byTexts.set(list.texts, list)
      for (const [i, protocol] of statement.protocols.entries()) {
        const key = keyOf(list, protocol)
        if (!first.has(key)) first.set(key, placeOf(index, i, false))
      }
    }
    this.#first = first
  }

  /**
   * Takes over what an earlier state of the same nodes has made, in the same slots.
   * @param changes all statements that are not the same objects
   * @param touched slots of the nodes whose rules may differ for another reason than these statements' places; those for whom only the
   *   places do are added
   * @param anew slots of those nodes for whom any rule may differ, not only those of the changed statements
   */
  inherit(previous: FilterCompiler, changes: readonly StatementChange[], touched: BitSet, anew: BitSet): void {
    this.#touchMoved(previous, touched)
    this.#rules = [...previous.#rules]
    const changed = new Set<number>()
    for (const { old, now } of changes) for (const { statement, list } of [old, now]) for (const protocol of statement.protocols) changed.add(keyOf(list, protocol))
    this.#changed = changed
    this.#replaced = this.#replacements(changes)
    for (const slot of touched.slots()) {
      if (!anew.has(slot)) this.#stale[slot] = previous.#rules[slot]
      this.#rules[slot] = undefined
    }
  }

  /** The rules that a node receives, in the order of delivery. */
  rulesFor(record: NodeRecord): readonly FilterRule[] {
    const known = this.#rules[record.slot]
    if (known !== undefined) return known
    const stale = this.#stale[record.slot]
    const rules = this.#withNewSources(stale, record) ?? this.#makeRules(record, this.#wholeRules(stale))
    this.#rules[record.slot] = rules
    this.#stale[record.slot] = undefined
    return rules
  }

  /**
   * What became of the lists, where each became one other and no rule can be joined or parted by it: then rules differ in their sources alone,
   * and stay where they are. Statements that make rules in other ways (self, capabilities, via) are left to the long way.
   */
  #replacements(changes: readonly StatementChange[]): ListReplacements | undefined {
    const [byOld, byNew] = [new Map<readonly string[], SourceList>(), new Map<readonly string[], SourceList>()]
    const moved = new Set<readonly string[]>()
    const self = !this.#special.always.isEmpty
    for (const { old, now } of changes) {
      const [before, after] = [old.list, now.list]
      if (now.self !== undefined || now.statement.app.length > 0 || now.statement.via.length > 0) return undefined
      if (before.texts.length === 0 || after.texts.length === 0 || old.targets.length !== now.targets.length) return undefined
      if ((byOld.get(before.texts) ?? after) !== after || (byNew.get(after.texts) ?? before) !== before) return undefined
      // A rule of autogroup:self may have the same list, when all of it is one user's.
      if (self && before !== after && (this.#haveOneOwner(old.sources.identities) || this.#haveOneOwner(now.sources.identities))) return undefined
      byOld.set(before.texts, after)
      byNew.set(after.texts, before)
      if (before !== after) moved.add(before.texts).add(after.texts)
    }
    const changed = new Set(changes.map(({ now }) => now.index))
    for (const { index, list } of this.#statements) if (!changed.has(index) && moved.has(list.texts)) return undefined
    return { byOld, changes }
  }

  /** The rules of an earlier state with the sources of this one; `undefined` where the node's part in a changed statement changed as well. */
  #withNewSources(stale: readonly FilterRule[] | undefined, record: NodeRecord): readonly FilterRule[] | undefined {
    if (stale === undefined || this.#replaced === undefined) return undefined
    const { byOld, changes } = this.#replaced
    for (const { old, now } of changes) {
      const receives = now.receivers.has(record.slot)
      if (old.receivers.has(record.slot) !== receives) return undefined
      if (receives && !old.targets.every((target, i) => meansTheSame(target, now.targets[i], record))) return undefined
    }
    return stale.map((rule) => {
      const list = rule.DstPorts === undefined ? undefined : byOld.get(rule.SrcIPs)
      return list === undefined || list.texts === rule.SrcIPs ? rule : { ...rule, SrcIPs: list.texts }
    })
  }

  /** Port rules of the earlier state to which no changed statement contributes, by their keys. */
  #wholeRules(stale: readonly FilterRule[] | undefined): ReadonlyMap<number, FilterRule> {
    const whole = new Map<number, FilterRule>()
    for (const rule of stale ?? []) {
      const list = rule.DstPorts === undefined ? undefined : this.#byTexts.get(rule.SrcIPs)
      const key = list === undefined ? undefined : keyOf(list, rule.IPProto?.[0])
      if (key !== undefined && !this.#changed.has(key)) whole.set(key, rule)
    }
    return whole
  }

  /** Adds the nodes that hold a rule whose place is that of another statement now: where lists became, or ceased to be, the same. */
  #touchMoved(previous: FilterCompiler, touched: BitSet): void {
    const [here, there] = [this.#first, previous.#first]
    const moved = new Set([...here.keys(), ...there.keys()].filter((key) => here.get(key) !== there.get(key)))
    if (moved.size === 0) return
    const self = !this.#special.always.isEmpty
    for (const state of [previous, this]) {
      for (const { statement, list, receivers, sources } of state.#statements) {
        if (!statement.protocols.some((protocol) => moved.has(keyOf(list, protocol)))) continue
        touched.or(receivers)
        // A rule of autogroup:self may have the same list, when all of it is one user's.
        if (self && state.#haveOneOwner(sources.identities)) touched.or(sources.nodes)
      }
    }
  }

  #haveOneOwner(nodes: BitSet): boolean {
    const owners = nodes.slots().map((slot) => this.#ownerAt(slot))
    return owners.every((owner) => owner !== undefined && owner === owners[0])
  }

  #ownerAt(slot: number): number | undefined {
    const record = this.#inventory.records[slot]
    return record === undefined ? undefined : this.#inventory.ownerOf(record.node)?.id
  }

  #makeRules(record: NodeRecord, whole: ReadonlyMap<number, FilterRule>): readonly FilterRule[] {
    const ports = new Map<number, PendingRule>()
    const capabilities: { readonly order: number; readonly rule: FilterRule }[] = []
    for (const compiled of this.#concerns.ruling(record.slot, this.#special)) {
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
          capabilities.push({ order: index * STRIDE + CAPABILITIES + n / 8, rule })
    }
    return [...ports.values(), ...capabilities].sort((a, b) => a.order - b.order).map(({ rule }) => rule)
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
      const order = Math.min(place, this.#first.get(key) ?? place)
      pending = pendingRule(order, whole.get(key), list, protocol)
      rules.set(key, pending)
    } else pending.order = Math.min(pending.order, place)
    if (pending.entries === undefined) return
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

/** Whether two looked-up forms of one destination give a node the same texts and ports. */
function meansTheSame(a: Target, b: Target | undefined, record: NodeRecord): boolean {
  if (b === undefined || a.ports !== b.ports) return false
  if (a.resolved === b.resolved) return true
  if (a.resolved.kind === 'nodes' && b.resolved.kind === 'nodes') return a.resolved.nodes.has(record.slot) === b.resolved.nodes.has(record.slot)
  const [was, is] = [textsFor(a, record, false), textsFor(b, record, false)]
  return was.length === is.length && was.every((text, i) => text === is[i])
}

function pendingRule(order: number, whole: FilterRule | undefined, { texts }: SourceList, protocol: number | undefined): PendingRule {
  if (whole !== undefined) return { order, rule: whole, entries: undefined }
  const entries: NetPortRange[] = []
  return { order, rule: { SrcIPs: texts, DstPorts: entries, ...(protocol === undefined ? {} : { IPProto: [protocol] }) }, entries }
}

function keyOf(list: SourceList, protocol: number | undefined): number {
  return list.id * PROTOCOL_KEYS + (protocol ?? NO_PROTOCOL)
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
