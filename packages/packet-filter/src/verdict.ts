/** Why a packet may pass. */
export type AcceptReason =
  /** An empty packet: WireGuard's keepalive. */
  | 'keepalive'
  /** A later fragment; the first one was judged. */
  | 'fragment'
  /** An ICMP echo reply or error. */
  | 'icmp_response'
  /** A TCP segment of a connection that was judged when it began. */
  | 'tcp_established'
  /** A reply to what this node has sent. */
  | 'reply'
  /** Tailscale's messages between nodes, protocol 99. */
  | 'tsmp'
  /** A rule lets it in. */
  | 'rule'
  /** It goes out. */
  | 'outbound'

/** Why a packet is dropped. The names are those of tailscaled's metrics where it counts the same. */
export type DropReason = 'too_short' | 'unknown_protocol' | 'multicast' | 'link_local_unicast' | 'not_local' | 'acl'

/** What becomes of a packet, and why. Shared constants: compare `accept`, or the object itself. */
export interface Verdict {
  readonly accept: boolean
  readonly reason: AcceptReason | DropReason
}

/** Every verdict there is. */
export const VERDICTS: Readonly<Record<AcceptReason | DropReason, Verdict>> = Object.freeze({
  keepalive: accept('keepalive'),
  fragment: accept('fragment'),
  icmp_response: accept('icmp_response'),
  tcp_established: accept('tcp_established'),
  reply: accept('reply'),
  tsmp: accept('tsmp'),
  rule: accept('rule'),
  outbound: accept('outbound'),
  too_short: drop('too_short'),
  unknown_protocol: drop('unknown_protocol'),
  multicast: drop('multicast'),
  link_local_unicast: drop('link_local_unicast'),
  not_local: drop('not_local'),
  acl: drop('acl'),
})

function accept(reason: AcceptReason): Verdict {
  return Object.freeze({ accept: true, reason })
}

function drop(reason: DropReason): Verdict {
  return Object.freeze({ accept: false, reason })
}
