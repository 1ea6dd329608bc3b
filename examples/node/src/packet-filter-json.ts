import { formatPrefix } from '@meshwright/ip'
import { DEFAULT_PROTOCOLS, type FilterRule, readAddresses } from '@meshwright/packet-filter'

const MAX_PROTOCOL = 255

/**
 * What tailscaled makes of filter rules, as `debug netmap` shows it under `PacketFilter` (tailscale/tailscale:wgengine/filter/filtertype,
 * type Match): ranges and `*` as prefixes, default protocols spelled out, one capability a line.
 */
export function packetFilterJson(rules: readonly FilterRule[]): readonly unknown[] {
  return rules.map((rule) => {
    const sources = rule.SrcIPs.map(readAddresses)
    const capabilities = sources.flatMap((read) => (read !== undefined && 'capability' in read ? [read.capability] : []))
    const listed = (rule.IPProto ?? []).filter((protocol) => protocol >= 0 && protocol <= MAX_PROTOCOL)
    return {
      IPProto: rule.IPProto === undefined || rule.IPProto.length === 0 ? DEFAULT_PROTOCOLS : listed,
      Srcs: sources.flatMap(prefixTexts),
      SrcCaps: capabilities.length === 0 ? null : capabilities,
      Dsts: (rule.DstPorts ?? []).flatMap(({ IP, Ports }) => prefixTexts(readAddresses(IP)).map((Net) => ({ Net, Ports: { First: Ports.First, Last: Ports.Last } }))),
      Caps: (rule.CapGrant ?? []).flatMap((grant) =>
        grant.Dsts.flatMap((Dst) => [
          ...(grant.Caps ?? []).map((Cap) => ({ Dst, Cap, Values: null })),
          ...Object.entries(grant.CapMap ?? {}).map(([Cap, Values]) => ({ Dst, Cap, Values })),
        ]),
      ),
    }
  })
}

function prefixTexts(read: ReturnType<typeof readAddresses>): readonly string[] {
  return read !== undefined && 'addresses' in read ? read.addresses.prefixes().map(formatPrefix) : []
}
