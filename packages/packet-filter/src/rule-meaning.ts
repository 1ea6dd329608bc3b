import {
  hasHostBits,
  IpSet,
  parseIp,
  parseIpRange,
  parsePrefix,
  type Prefix,
  PROTOCOL_ICMPV4,
  PROTOCOL_ICMPV6,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  singleAddress,
} from '@meshwright/ip'
import type { FilterRule, PortRange } from './filter-rule.ts'

/** What a rule without `IPProto` is about. */
export const DEFAULT_PROTOCOLS: readonly number[] = [PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_ICMPV4, PROTOCOL_ICMPV6]

const MAX_PORT = 65_535
const CAPABILITY = 'cap:'

/** Where a rule leads: addresses and ports of them. */
export interface RuleDestination {
  readonly addresses: IpSet
  readonly ports: PortRange
}

/** A capability that the sources of a rule have towards some addresses, with its values. */
export interface RuleCapability {
  readonly name: string
  readonly destinations: readonly Prefix[]
  readonly values: readonly unknown[]
}

/** What a wire rule means, its texts read. Whatever cannot be read is left out: that only ever narrows it. */
export interface RuleMeaning {
  /** Protocol numbers, 0 to 255; empty: no packet matches. */
  readonly protocols: readonly number[]
  readonly sources: IpSet
  /** Node capabilities, any of which makes a source match. */
  readonly sourceCapabilities: readonly string[]
  readonly destinations: readonly RuleDestination[]
  readonly capabilities: readonly RuleCapability[]
}

/** One entry of `SrcIPs` or `DstPorts`: addresses, or the name of a node capability. */
export type ReadAddresses = { readonly addresses: IpSet } | { readonly capability: string }

/**
 * Reads an address, a prefix without host bits, a range `a-b`, `*` (both families) or `cap:NAME`; `undefined` for anything else
 * (tailscale/tailscale:wgengine/filter/tailcfg.go, parseIPSet).
 */
export function readAddresses(text: string): ReadAddresses | undefined {
  if (text === '*') return { addresses: IpSet.everything }
  if (text.startsWith(CAPABILITY)) return text.length > CAPABILITY.length ? { capability: text.slice(CAPABILITY.length) } : undefined
  const range = text.includes('-') ? parseIpRange(text) : readPrefix(text)
  return range && { addresses: IpSet.of(range) }
}

/** Reads an address or a prefix without host bits. */
export function readPrefix(text: string): Prefix | undefined {
  if (text.includes('/')) return hasHostBits(text) ? undefined : parsePrefix(text)
  const ip = parseIp(text)
  return ip && singleAddress(ip)
}

/** True for an IP protocol number. */
export function isProtocol(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= 255
}

/** True for ports in order, 0 to 65535. */
export function isPortRange(ports: PortRange): boolean {
  return Number.isInteger(ports.First) && Number.isInteger(ports.Last) && ports.First >= 0 && ports.First <= ports.Last && ports.Last <= MAX_PORT
}

/** True when a range holds every port. */
export function isEveryPort(ports: PortRange): boolean {
  return ports.First === 0 && ports.Last === MAX_PORT
}

/** What a rule means. */
export function readFilterRule(rule: FilterRule): RuleMeaning {
  const sources: IpSet[] = []
  const sourceCapabilities: string[] = []
  for (const [i, text] of rule.SrcIPs.entries()) {
    const bits = rule.SrcBits?.[i]
    const read = bits === undefined || text === '*' ? readAddresses(text) : readOldForm(text, bits)
    if (read === undefined) continue
    if ('capability' in read) sourceCapabilities.push(read.capability)
    else sources.push(read.addresses)
  }
  const destinations = (rule.DstPorts ?? []).flatMap(({ IP, Ports }): RuleDestination[] => {
    const read = readAddresses(IP)
    return read !== undefined && 'addresses' in read && isPortRange(Ports) ? [{ addresses: read.addresses, ports: Ports }] : []
  })
  const capabilities = (rule.CapGrant ?? []).flatMap((grant): RuleCapability[] => {
    const prefixes = grant.Dsts.flatMap((text) => readPrefix(text) ?? [])
    const named = (grant.Caps ?? []).map((name) => ({ name, destinations: prefixes, values: [] }))
    const valued = Object.entries(grant.CapMap ?? {}).map(([name, values]) => ({ name, destinations: prefixes, values: values ?? [] }))
    return [...named, ...valued].filter((each) => each.name !== '' && each.destinations.length > 0)
  })
  const listed = rule.IPProto ?? []
  const protocols = listed.length === 0 ? DEFAULT_PROTOCOLS : listed.filter(isProtocol)
  return { protocols, sources: IpSet.from(sources), sourceCapabilities, destinations, capabilities }
}

function readOldForm(text: string, bits: number): ReadAddresses | undefined {
  const ip = parseIp(text)
  const prefix = ip && parsePrefix(`${ip.key}/${bits}`)
  return prefix && { addresses: IpSet.of(prefix) }
}
