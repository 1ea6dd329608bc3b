import { compareIps, parseIp, parsePrefix, prefixContains } from '@meshwright/ip'
import type { FilterRule } from '@meshwright/packet-filter'
import { hasCapability, type MapNode } from './map-node.ts'

/**
 * The rules, or none at all when one of them lets a peer with an unsigned key in: such a filter cannot come from an honest server under
 * tailnet lock, so nothing of it is believed (tailscale/tailscale:ipn/ipnlocal/local.go, packetFilterPermitsUnlockedNodes).
 */
export function withoutUnsignedSources(rules: readonly FilterRule[], peers: Iterable<MapNode>): readonly FilterRule[] {
  const unsigned = [...peers].filter((peer) => peer.isUnsigned)
  if (unsigned.length === 0) return rules
  const admits = (rule: FilterRule): boolean => (rule.DstPorts?.length ?? 0) > 0 && unsigned.some((peer) => rule.SrcIPs.some((source) => isSource(source, peer)))
  return rules.some(admits) ? [] : rules
}

function isSource(source: string, peer: MapNode): boolean {
  if (source === '*') return true
  if (source.startsWith('cap:')) return hasCapability(peer, source.slice('cap:'.length))
  const prefix = parsePrefix(source)
  if (prefix !== undefined) return peer.addresses.some((own) => prefixContains(prefix, own.ip))
  const [from, to] = source.split('-').map(parseIp)
  if (from === undefined || to === undefined) return false
  return peer.addresses.some((own) => own.ip.family === from.family && compareIps(from, own.ip) <= 0 && compareIps(own.ip, to) <= 0)
}
