/** Numbers of protocols over IP (IANA "Protocol Numbers"). */
export const PROTOCOL_HOP_BY_HOP = 0
export const PROTOCOL_ICMPV4 = 1
export const PROTOCOL_IGMP = 2
export const PROTOCOL_IPV4 = 4
export const PROTOCOL_TCP = 6
export const PROTOCOL_UDP = 17
/** Fragment header of IPv6. */
export const PROTOCOL_IPV6_FRAGMENT = 44
export const PROTOCOL_GRE = 47
export const PROTOCOL_ICMPV6 = 58
/** "Any private encryption scheme": Tailscale's messages between nodes (tailscale/tailscale:net/packet/tsmp.go). */
export const PROTOCOL_TSMP = 99
export const PROTOCOL_SCTP = 132
/** Reserved; never a packet's protocol. */
export const PROTOCOL_RESERVED = 255

/** TCP flags (RFC 9293 section 3.1; ECN: RFC 3168). */
export const TCP_FIN = 0x01
export const TCP_SYN = 0x02
export const TCP_RST = 0x04
export const TCP_PSH = 0x08
export const TCP_ACK = 0x10
export const TCP_URG = 0x20
export const TCP_ECE = 0x40
export const TCP_CWR = 0x80

/** Message types of ICMP for IPv4 (RFC 792). */
export const ICMPV4_ECHO_REPLY = 0
export const ICMPV4_UNREACHABLE = 3
export const ICMPV4_REDIRECT = 5
export const ICMPV4_ECHO_REQUEST = 8
export const ICMPV4_TIME_EXCEEDED = 11
export const ICMPV4_PARAMETER_PROBLEM = 12

/** Message types of ICMP for IPv6 (RFC 4443). */
export const ICMPV6_UNREACHABLE = 1
export const ICMPV6_PACKET_TOO_BIG = 2
export const ICMPV6_TIME_EXCEEDED = 3
export const ICMPV6_PARAMETER_PROBLEM = 4
export const ICMPV6_ECHO_REQUEST = 128
export const ICMPV6_ECHO_REPLY = 129

const NAMES: ReadonlyMap<number, string> = new Map([
  [PROTOCOL_ICMPV4, 'icmp'],
  [PROTOCOL_IGMP, 'igmp'],
  [PROTOCOL_IPV4, 'ipv4'],
  [PROTOCOL_TCP, 'tcp'],
  [PROTOCOL_UDP, 'udp'],
  [PROTOCOL_GRE, 'gre'],
  [PROTOCOL_ICMPV6, 'ipv6-icmp'],
  [PROTOCOL_TSMP, 'tsmp'],
  [PROTOCOL_SCTP, 'sctp'],
])

/** A protocol number for people: `tcp`, or `protocol 77`. */
export function formatProtocol(protocol: number): string {
  return NAMES.get(protocol) ?? `protocol ${protocol}`
}
