import type { Instant } from '@meshwright/core'
import {
  encodeTcpPacket,
  type Ip,
  IPV4_HEADER_BYTES,
  IpSet,
  PacketView,
  prefixContains,
  PROTOCOL_ICMPV4,
  PROTOCOL_ICMPV6,
  PROTOCOL_SCTP,
  PROTOCOL_TCP,
  PROTOCOL_TSMP,
  PROTOCOL_UDP,
  TCP_SYN,
} from '@meshwright/ip'
import type { FilterRule } from './filter-rule.ts'
import { DEFAULT_FLOWS, FlowTable } from './flow-table.ts'
import { type CapsOf, FamilyMatcher, type MatchMode } from './matcher.ts'
import { readFilterRule, type RuleMeaning } from './rule-meaning.ts'
import { type AcceptReason, type DropReason, type Verdict, VERDICTS } from './verdict.ts'

/** Link-local, yet let through: the metadata and DNS service of Google's cloud. */
const METADATA_SERVICE = 0xa9fe_a9fe
const LINK_LOCAL_IPV4 = 0xa9fe
/** ICMP types that pass as errors. 18 stands where 12 (parameter problem) should: so does the filter that ours must agree with. */
const PASSING_ICMPV4_ERRORS: readonly number[] = [3, 11, 18]
const PASSING_ICMPV6_ERRORS: readonly number[] = [1, 2, 3, 4]
const MIN_ICMP_RESPONSE_BYTES = 8

/** Whether a packet would pass and which rule decides. */
export interface Explanation {
  readonly accept: boolean
  readonly reason: AcceptReason | DropReason
  /** Index of the rule that lets it in; absent when no rule decided. */
  readonly rule?: number
  /** One sentence for people. */
  readonly message: string
}

/** How many packets met which fate, since the filter was made. */
export interface FilterCounters {
  readonly inbound: Readonly<Record<AcceptReason | DropReason, number>>
  readonly outbound: Readonly<Record<AcceptReason | DropReason, number>>
}

/** What a new filter may be told. */
export interface PacketFilterOptions {
  /** How many flows are remembered for their replies; default 512. */
  readonly flows?: number
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] }

/**
 * A node's packet filter: drops whatever no rule lets in. It begins without rules and without addresses of its own, so it drops every
 * new flow from outside until {@link PacketFilter.replace} has been called. What it lets in, in order
 * (tailscale/tailscale:wgengine/filter/filter.go):
 *
 * | packet from outside | verdict |
 * |---|---|
 * | empty | accept |
 * | not decodable | drop |
 * | to multicast or link-local addresses | drop |
 * | later fragment | accept |
 * | not to one of the node's own addresses or routes | drop |
 * | ICMP echo reply, ICMP error | accept |
 * | other ICMP | accept if a rule lets the source reach the destination at all |
 * | TCP other than SYN | accept |
 * | UDP, SCTP in reply to the node's own | accept |
 * | TCP SYN, UDP, SCTP | accept if a rule fits |
 * | protocol 99 (TSMP) | accept |
 * | other protocol | accept if a rule names it and gives every port |
 *
 * What goes out passes unless it is undecodable, multicast or link-local. Checking allocates nothing.
 */
export class PacketFilter {
  #ipv4: FamilyMatcher = new FamilyMatcher(4, [], undefined)
  #ipv6: FamilyMatcher = new FamilyMatcher(6, [], undefined)
  #local: IpSet = IpSet.empty
  #meanings: readonly RuleMeaning[] = []
  #shieldsUp = false
  readonly #flows: FlowTable
  readonly #inbound: Mutable<FilterCounters['inbound']> = zeroCounters()
  readonly #outbound: Mutable<FilterCounters['outbound']> = zeroCounters()

  constructor(options: PacketFilterOptions = {}) {
    this.#flows = new FlowTable(options.flows ?? DEFAULT_FLOWS)
  }

  /**
   * Takes new rules and the node's own addresses and routes in one step; built aside, then swapped. Flows stay known. Entries that
   * cannot be read match nothing.
   * @param local destinations that packets from outside may have at all
   * @param capsOf node capabilities by address, for `cap:` sources; without it they match nothing
   */
  replace(rules: readonly FilterRule[], local: IpSet, capsOf?: CapsOf): void {
    const meanings = rules.map(readFilterRule)
    const ipv4 = new FamilyMatcher(4, meanings, capsOf)
    const ipv6 = new FamilyMatcher(6, meanings, capsOf)
    this.#meanings = meanings
    this.#local = local
    this.#ipv4 = ipv4
    this.#ipv6 = ipv6
  }

  /** With shields up no rule counts: only replies come in. Raising them also forgets the flows begun before. */
  setShieldsUp(up: boolean): void {
    if (up && !this.#shieldsUp) this.#flows.clear()
    this.#shieldsUp = up
  }

  /** Whether shields are up. */
  get shieldsUp(): boolean {
    return this.#shieldsUp
  }

  /** Judges a packet that a peer has sent. */
  checkIn(_now: Instant, view: PacketView): Verdict {
    const reason = this.#judgeIn(view, true)
    // Nearly all packets of a transfer. By its own name: a look-up by any of many names costs as much as judging did.
    if (reason === 'tcp_established') {
      this.#inbound.tcp_established += 1
      return VERDICTS.tcp_established
    }
    this.#inbound[reason] += 1
    return VERDICTS[reason]
  }

  /** Judges a packet that this node sends to a peer, and remembers it if replies to it must be let in. */
  checkOut(_now: Instant, view: PacketView): Verdict {
    const early = preCheck(view)
    if (early !== undefined) {
      this.#outbound[early] += 1
      return VERDICTS[early]
    }
    if (view.protocol === PROTOCOL_UDP || view.protocol === PROTOCOL_SCTP) this.#flows.remember(view)
    this.#outbound.outbound += 1
    return VERDICTS.outbound
  }

  /** Says what {@link PacketFilter.checkIn} would say and why. Changes nothing, counts nothing. */
  explain(view: PacketView): Explanation {
    const reason = this.#judgeIn(view, false)
    const { accept } = VERDICTS[reason]
    if (reason === 'rule') {
      const rule = this.#findRule(view)
      return { accept, reason, rule, message: `${view.toString()}: rule ${rule} lets it in` }
    }
    return { accept, reason, message: `${view.toString()}: ${accept ? 'accepted' : 'dropped'}, ${this.#describe(reason, view)}` }
  }

  /** Whether a TCP connection from `src` to `port` of `dst` would be let in. Addresses of two families: never. Counts nothing. */
  wouldAcceptTcp(src: Ip, dst: Ip, port: number): boolean {
    if (src.family !== dst.family) return false
    const view = new PacketView()
    view.at(encodeTcpPacket({ src: { ip: src, port: 0 }, dst: { ip: dst, port }, sequence: 0, flags: TCP_SYN }))
    return VERDICTS[this.#judgeIn(view, false)].accept
  }

  /** The application capabilities that `src` has towards `dst`: values by name, in the order of the rules. Shields do not matter. */
  capsFor(src: Ip, dst: Ip): ReadonlyMap<string, readonly unknown[]> {
    const found = new Map<string, readonly unknown[]>()
    for (const meaning of this.#meanings) {
      if (meaning.capabilities.length === 0 || !meaning.sources.contains(src)) continue
      for (const { name, destinations, values } of meaning.capabilities) {
        if (destinations.some((prefix) => prefixContains(prefix, dst))) found.set(name, [...(found.get(name) ?? []), ...values])
      }
    }
    return found
  }

  /** True when some rule lets some of these addresses in somewhere: a node that must not trust them then discards the whole filter. */
  admitsAny(sources: IpSet): boolean {
    return this.#meanings.some((meaning) => meaning.destinations.length > 0 && meaning.sources.overlaps(sources))
  }

  /** How many flows are remembered. */
  get flowCount(): number {
    return this.#flows.size
  }

  /** How many rules there are. */
  get ruleCount(): number {
    return this.#meanings.length
  }

  /** A copy of the counters. */
  counters(): FilterCounters {
    return { inbound: { ...this.#inbound }, outbound: { ...this.#outbound } }
  }

  #judgeIn(view: PacketView, remember: boolean): AcceptReason | DropReason {
    const early = preCheck(view)
    if (early !== undefined) return early
    if (!this.#local.containsBytes(view.memory, view.dstOffset, view.family === 4 ? 4 : 6)) return 'not_local'
    switch (view.protocol) {
      case PROTOCOL_TCP:
        return view.isTcpSyn ? this.#byRule(view, 'port') : 'tcp_established'
      case PROTOCOL_UDP:
      case PROTOCOL_SCTP:
        return (remember ? this.#flows.isReply(view) : this.#flows.wouldBeReply(view)) ? 'reply' : this.#byRule(view, 'port')
      case PROTOCOL_TSMP:
        return 'tsmp'
      case PROTOCOL_ICMPV4:
      case PROTOCOL_ICMPV6:
        if (!view.isIcmp) return this.#byRule(view, 'every-port')
        return isIcmpResponse(view) ? 'icmp_response' : this.#byRule(view, 'addresses')
      default:
        return this.#byRule(view, 'every-port')
    }
  }

  #byRule(view: PacketView, mode: MatchMode): 'rule' | 'acl' {
    if (this.#shieldsUp) return 'acl'
    return (view.family === 4 ? this.#ipv4 : this.#ipv6).find(view, mode) >= 0 ? 'rule' : 'acl'
  }

  #findRule(view: PacketView): number {
    const mode: MatchMode = view.isIcmp ? 'addresses' : hasPorts(view.protocol) ? 'port' : 'every-port'
    return (view.family === 4 ? this.#ipv4 : this.#ipv6).find(view, mode)
  }

  #describe(reason: AcceptReason | DropReason, view: PacketView): string {
    switch (reason) {
      case 'keepalive':
        return 'an empty packet keeps a session alive'
      case 'fragment':
        return 'a later fragment follows the verdict of the first one'
      case 'icmp_response':
        return 'ICMP replies and errors pass'
      case 'tcp_established':
        return 'only the segment that opens a TCP connection needs a rule'
      case 'reply':
        return 'it answers what this node has sent'
      case 'tsmp':
        return 'messages between nodes (protocol 99) pass'
      case 'rule':
        return 'a rule lets it in'
      case 'outbound':
        return 'it goes out'
      case 'too_short':
        return `${view.length} bytes are no IP packet`
      case 'unknown_protocol':
        return 'its headers cannot be read'
      case 'multicast':
        return 'multicast stays outside'
      case 'link_local_unicast':
        return 'link-local addresses stay outside'
      case 'not_local':
        return 'the destination is neither an address of this node nor in a route that it serves'
      case 'acl': {
        if (this.#shieldsUp) return 'shields are up'
        if (this.#meanings.length === 0) return 'there are no rules'
        const near = (view.family === 4 ? this.#ipv4 : this.#ipv6).findSource(view)
        return near < 0 ? 'no rule names its source' : `rule ${near} names its source, but no rule gives it this destination, protocol and port`
      }
    }
  }
}

/** What both directions check first; `undefined`: go on. */
function preCheck(view: PacketView): AcceptReason | DropReason | undefined {
  if (view.length === 0) return 'keepalive'
  if (view.length < IPV4_HEADER_BYTES) return 'too_short'
  if (!view.valid) return 'unknown_protocol'
  const { memory, dstOffset } = view
  const first = memory[dstOffset] ?? 0
  if (view.family === 4) {
    if (first >>> 4 === 14) return 'multicast'
    const address = view.dstIpv4
    if (address >>> 16 === LINK_LOCAL_IPV4 && address !== METADATA_SERVICE) return 'link_local_unicast'
  } else {
    if (first === 0xff) return 'multicast'
    if (first === 0xfe && ((memory[dstOffset + 1] ?? 0) & 0xc0) === 0x80) return 'link_local_unicast'
  }
  return view.isLaterFragment ? 'fragment' : undefined
}

function isIcmpResponse(view: PacketView): boolean {
  if (view.transportLength < MIN_ICMP_RESPONSE_BYTES) return false
  const type = view.icmpType
  if (type === (view.family === 4 ? 0 : 129)) return view.icmpCode === 0
  return (view.family === 4 ? PASSING_ICMPV4_ERRORS : PASSING_ICMPV6_ERRORS).includes(type)
}

function hasPorts(protocol: number): boolean {
  return protocol === PROTOCOL_TCP || protocol === PROTOCOL_UDP || protocol === PROTOCOL_SCTP
}

function zeroCounters(): Mutable<Record<AcceptReason | DropReason, number>> {
  return {
    keepalive: 0,
    fragment: 0,
    icmp_response: 0,
    tcp_established: 0,
    reply: 0,
    tsmp: 0,
    rule: 0,
    outbound: 0,
    too_short: 0,
    unknown_protocol: 0,
    multicast: 0,
    link_local_unicast: 0,
    not_local: 0,
    acl: 0,
  }
}
