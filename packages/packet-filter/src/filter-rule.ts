/** An inclusive range of ports, as it stands on the wire. `{First: 0, Last: 65535}` is every port. */
export interface PortRange {
  readonly First: number
  readonly Last: number
}

/** One destination of a rule: an address, a prefix, a range `a-b`, or `*`, and the ports of it. */
export interface NetPortRange {
  readonly IP: string
  readonly Ports: PortRange
}

/** Application capabilities that the sources of a rule have at its destinations. */
export interface CapGrant {
  readonly Dsts: readonly string[]
  readonly Caps?: readonly string[]
  /** Capability name to raw JSON values, passed through unread. */
  readonly CapMap?: { readonly [name: string]: readonly unknown[] | null }
}

/**
 * One accept rule of a packet filter in its wire form (tailscale/tailscale:tailcfg/tailcfg.go, type FilterRule): what the control
 * server sends, what the policy compiler makes and what `PacketFilter` takes. Without `IPProto` it means TCP, UDP, ICMP and ICMPv6.
 */
export interface FilterRule {
  /** Addresses, prefixes, ranges `a-b`, `*`, or `cap:NAME`. */
  readonly SrcIPs: readonly string[]
  /** Old form of `SrcIPs`: prefix lengths by position. Read, never written. */
  readonly SrcBits?: readonly number[]
  readonly DstPorts?: readonly NetPortRange[]
  /** IP protocol numbers. */
  readonly IPProto?: readonly number[]
  readonly CapGrant?: readonly CapGrant[]
}
