import { Ip, type IpFamily, type IpSet, ipToBigInt, ipv4ToNumber, type PacketView } from '@meshwright/ip'
import { isEveryPort, type RuleMeaning } from './rule-meaning.ts'

/** A rule whose sources fall into more pieces than this is asked by its own set instead of standing in every piece's list. */
const BROAD_PIECES = 256
const NO_RULE = -1
const EMPTY: readonly FamilyRule[] = []

/** What must fit beside source and destination addresses. */
export type MatchMode =
  /** Protocol and destination port. */
  | 'port'
  /** Nothing. */
  | 'addresses'
  /** Protocol, by a destination that has every port. */
  | 'every-port'

/** Tells which node capabilities the node of an address has. */
export type CapsOf = (source: Ip) => ReadonlySet<string> | undefined

interface FamilyDestination {
  readonly addresses: IpSet
  readonly first: number
  readonly last: number
  readonly everyPort: boolean
}

interface FamilyRule {
  /** Place in the list of rules that was given. */
  readonly index: number
  /** 1 for each protocol that it is about, by number. */
  readonly protocols: Uint8Array
  readonly sources: IpSet
  readonly sourceCapabilities: readonly string[]
  readonly destinations: readonly FamilyDestination[]
}

/**
 * The rules of one family, arranged for packets: the sources of all rules cut the address space into pieces, each with the short list of
 * the rules that hold there, so that one binary search leaves only those. Immutable; asking allocates nothing (rules with `cap:` sources
 * apart).
 */
export class FamilyMatcher {
  readonly #family: IpFamily
  readonly #capsOf: CapsOf | undefined
  /** First address of each piece: one word of it for IPv4, four for IPv6. The first piece begins at zero. */
  readonly #starts: Uint32Array
  readonly #lists: readonly (readonly FamilyRule[])[]
  readonly #broad: readonly FamilyRule[]
  readonly #byCapability: readonly FamilyRule[]

  constructor(family: IpFamily, meanings: readonly RuleMeaning[], capsOf: CapsOf | undefined) {
    this.#family = family
    this.#capsOf = capsOf
    const rules = meanings.map((meaning, index) => familyRule(family, meaning, index)).filter((rule) => rule.destinations.length > 0)
    this.#byCapability = capsOf === undefined ? EMPTY : rules.filter((rule) => rule.sourceCapabilities.length > 0)
    const pieces = cutIntoPieces(rules)
    this.#broad = pieces.broad
    this.#lists = pieces.lists
    this.#starts = toWords(pieces.starts, family)
  }

  /** Index of a rule that lets the packet in, or -1. The packet must be of this matcher's family. */
  find(view: PacketView, mode: MatchMode): number {
    for (const rule of this.#candidates(view)) if (fits(rule, view, mode)) return rule.index
    for (const rule of this.#broad) if (rule.sources.containsBytes(view.memory, view.srcOffset, this.#family) && fits(rule, view, mode)) return rule.index
    return this.#byCapability.length === 0 || mode === 'every-port' ? NO_RULE : this.#findByCapability(view, mode)
  }

  /** Index of a rule that the source matches whatever the rest, or -1. For explanations. */
  findSource(view: PacketView): number {
    return this.#candidates(view)[0]?.index ?? this.#broad.find((rule) => rule.sources.containsBytes(view.memory, view.srcOffset, this.#family))?.index ?? NO_RULE
  }

  #findByCapability(view: PacketView, mode: MatchMode): number {
    const source = view.src()
    const held = source && this.#capsOf?.(source)
    if (held === undefined) return NO_RULE
    for (const rule of this.#byCapability) {
      if (!rule.sourceCapabilities.some((name) => held.has(name))) continue
      // ICMP from the holder of a capability is let through to any local address, as in the filter that we must agree with.
      if (mode === 'addresses' || fits(rule, view, mode)) return rule.index
    }
    return NO_RULE
  }

  #candidates(view: PacketView): readonly FamilyRule[] {
    const position = this.#family === 4 ? this.#pieceOfIpv4(view.srcIpv4) : this.#pieceOfIpv6(view.memory, view.srcOffset)
    return this.#lists[position] ?? EMPTY
  }

  #pieceOfIpv4(address: number): number {
    let low = 0
    let high = this.#starts.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.#starts[middle] ?? 0) <= address) low = middle + 1
      else high = middle
    }
    return low - 1
  }

  #pieceOfIpv6(memory: Uint8Array, offset: number): number {
    const a = ipv4ToNumber(memory, offset)
    const b = ipv4ToNumber(memory, offset + 4)
    const c = ipv4ToNumber(memory, offset + 8)
    const d = ipv4ToNumber(memory, offset + 12)
    const starts = this.#starts
    let low = 0
    let high = starts.length >> 2
    while (low < high) {
      const middle = (low + high) >>> 1
      const at = middle << 2
      const w0 = starts[at] ?? 0
      const w1 = starts[at + 1] ?? 0
      const w2 = starts[at + 2] ?? 0
      const atMost = w0 !== a ? w0 < a : w1 !== b ? w1 < b : w2 !== c ? w2 < c : (starts[at + 3] ?? 0) <= d
      if (atMost) low = middle + 1
      else high = middle
    }
    return low - 1
  }
}

function fits(rule: FamilyRule, view: PacketView, mode: MatchMode): boolean {
  if (mode !== 'addresses' && rule.protocols[view.protocol] !== 1) return false
  const port = view.dstPort
  const family = view.family === 4 ? 4 : 6
  for (const destination of rule.destinations) {
    if (mode === 'port' && (port < destination.first || port > destination.last)) continue
    if (mode === 'every-port' && !destination.everyPort) continue
    if (destination.addresses.containsBytes(view.memory, view.dstOffset, family)) return true
  }
  return false
}

function familyRule(family: IpFamily, meaning: RuleMeaning, index: number): FamilyRule {
  const protocols = new Uint8Array(256)
  for (const protocol of meaning.protocols) protocols[protocol] = 1
  const destinations = meaning.destinations
    .map(({ addresses, ports }) => ({ addresses: addresses.onlyFamily(family), first: ports.First, last: ports.Last, everyPort: isEveryPort(ports) }))
    .filter(({ addresses }) => !addresses.isEmpty)
  return { index, protocols, sources: meaning.sources.onlyFamily(family), sourceCapabilities: meaning.sourceCapabilities, destinations }
}

/** The pieces into which the sources of all rules cut the address space, and the rules of each. */
function cutIntoPieces(rules: readonly FamilyRule[]): { starts: readonly bigint[]; lists: readonly (readonly FamilyRule[])[]; broad: readonly FamilyRule[] } {
  const ranges = rules.map((rule) => rule.sources.ranges().map(({ first, last }) => [ipToBigInt(first), ipToBigInt(last) + 1n] as const))
  const cuts = new Set<bigint>([0n])
  for (const range of ranges.flat()) cuts.add(range[0]).add(range[1])
  const starts = [...cuts].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0))
  const position = new Map(starts.map((start, i) => [start, i]))
  const members: FamilyRule[][] = starts.map(() => [])
  const broad: FamilyRule[] = []
  for (const [i, rule] of rules.entries()) {
    const spans = (ranges[i] ?? []).map(([first, end]) => [position.get(first) ?? 0, position.get(end) ?? 0] as const)
    if (spans.reduce((sum, [from, to]) => sum + to - from, 0) > BROAD_PIECES) {
      broad.push(rule)
      continue
    }
    for (const [from, to] of spans) for (let piece = from; piece < to; piece += 1) members[piece]?.push(rule)
  }
  const shared = new Map<string, readonly FamilyRule[]>()
  const lists = members.map((list) => {
    const name = list.map((rule) => rule.index).join()
    const known = shared.get(name) ?? list
    shared.set(name, known)
    return known
  })
  return { starts, lists, broad }
}

/** A start behind the last address (one past the end of the space) keeps no piece: it is cut off. */
function toWords(starts: readonly bigint[], family: IpFamily): Uint32Array {
  const words = family === 4 ? 1 : 4
  const inside = starts.filter((start) => start < 1n << BigInt(words * 32))
  const result = new Uint32Array(inside.length * words)
  for (const [i, start] of inside.entries()) {
    for (let word = 0; word < words; word += 1) result[i * words + word] = Number(BigInt.asUintN(32, start >> BigInt((words - 1 - word) * 32)))
  }
  return result
}
