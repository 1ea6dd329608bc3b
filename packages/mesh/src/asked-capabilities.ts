import { hasCapability, type MapNode } from '@meshwright/control-client'
import type { CapsOf, FilterRule } from '@meshwright/packet-filter'

const SOURCE = 'cap:'

/** Which node capabilities the nodes of addresses have, by `Ip.key`: plain values, so that they can be posted to another thread. */
export type AskedCapabilities = ReadonlyMap<string, ReadonlySet<string>>

/**
 * What the `cap:NAME` sources of a filter need to know: the peers' own addresses with those capabilities that a rule asks for. Peers whose key
 * is not signed have none (tailscale/tailscale:ipn/ipnlocal/local.go, `srcIPHasCapForFilter`). `undefined` where no rule asks.
 */
export function askedCapabilities(peers: readonly MapNode[], rules: readonly FilterRule[]): AskedCapabilities | undefined {
  const asked = new Set(rules.flatMap((rule) => rule.SrcIPs.filter((source) => source.startsWith(SOURCE)).map((source) => source.slice(SOURCE.length))))
  asked.delete('')
  if (asked.size === 0) return undefined
  const held = new Map<string, ReadonlySet<string>>()
  for (const peer of peers) {
    if (peer.isUnsigned) continue
    const names = new Set([...asked].filter((name) => hasCapability(peer, name)))
    if (names.size > 0) for (const address of peer.addresses) held.set(address.ip.key, names)
  }
  return held
}

/** The same as the packet filter asks it. */
export function capsOf(capabilities: AskedCapabilities | undefined): CapsOf | undefined {
  return capabilities && ((source) => capabilities.get(source.key))
}
