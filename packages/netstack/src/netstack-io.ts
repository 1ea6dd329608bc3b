import { type Instant, MeshwrightError } from '@meshwright/core'
import type { Endpoint, Ip } from '@meshwright/ip'

declare const idBrand: unique symbol

/** Names a TCP connection (or a datagram flow taken over in promiscuous mode) of one stack. Never used twice. */
export type FlowId = number & { readonly [idBrand]: 'flow' }
/** Names a TCP listener. */
export type ListenerId = number & { readonly [idBrand]: 'listener' }
/** Names a UDP socket. */
export type UdpId = number & { readonly [idBrand]: 'udp' }
/** Names a ping. */
export type PingId = number & { readonly [idBrand]: 'ping' }

/** A number as the name of a flow: for the stack itself, and for tests. */
export function flowId(id: number): FlowId {
  return id as FlowId
}
export function listenerId(id: number): ListenerId {
  return id as ListenerId
}
export function udpId(id: number): UdpId {
  return id as UdpId
}
export function pingId(id: number): PingId {
  return id as PingId
}

/** Events from outside. */
export type NetstackInput = {
  readonly type: 'packet'
  /** One IP packet; read during the call only, so the caller may use the memory again. */
  readonly bytes: Uint8Array
}

/**
 * Why a TCP flow ended: `finished` both sides closed in order; `reset` by the peer; `refused` by the peer before it opened; `timeout` the
 * peer is silent; `unreachable` says the network (before it opened); `aborted` by us.
 */
export type CloseReason = 'finished' | 'reset' | 'refused' | 'timeout' | 'unreachable' | 'aborted'

/** Effects that the stack owes. Bytes in outputs belong to whoever drains them. */
export type NetstackOutput =
  /** Send this IP packet into the tunnel. */
  | { readonly type: 'packet'; readonly bytes: Uint8Array }
  /** A TCP connection is up; `listener` names who accepted it and is absent for `connectTcp` and for accepted `incoming` ones. */
  | { readonly type: 'opened'; readonly flow: FlowId; readonly listener?: ListenerId; readonly local: Endpoint; readonly remote: Endpoint }
  /** Bytes of the stream, in order. Say `consumed` when done with them: until then they count against the receive window. */
  | { readonly type: 'data'; readonly flow: FlowId; readonly bytes: Uint8Array }
  /** The peer has shut down its side: no more data will come. */
  | { readonly type: 'ended'; readonly flow: FlowId }
  /** After a `write` that took less than it was given: there is room again. */
  | { readonly type: 'writable'; readonly flow: FlowId }
  /** The flow is over for the application; exactly once for each TCP flow. */
  | { readonly type: 'closed'; readonly flow: FlowId; readonly reason: CloseReason }
  /**
   * Promiscuous mode: someone opens a flow to an address or port that nobody here holds. TCP waits for `accept` or `refuse`; UDP flows are
   * open at once, and their datagrams follow as `datagram`.
   */
  | {
      readonly type: 'incoming'
      readonly protocol: 'tcp' | 'udp'
      readonly flow: FlowId
      readonly local: Endpoint
      readonly remote: Endpoint
    }
  /** A datagram of an `incoming` UDP flow; answer with `sendDatagram`. */
  | { readonly type: 'datagram'; readonly flow: FlowId; readonly bytes: Uint8Array }
  /** A datagram came to a bound socket; `local` is the address it was sent to. */
  | { readonly type: 'udp'; readonly socket: UdpId; readonly from: Endpoint; readonly local: Endpoint; readonly bytes: Uint8Array }
  /** The network says (ICMP) that datagrams of a socket do not arrive; a hint, which can be forged. */
  | { readonly type: 'refused'; readonly socket: UdpId; readonly remote: Endpoint; readonly reason: 'port' | 'host' | 'prohibited' }
  /** A ping was answered. */
  | { readonly type: 'echoReply'; readonly ping: PingId; readonly from: Ip; readonly rttMs: number; readonly bytes: Uint8Array }
  /** A ping was not answered in time, or the network says that it cannot be. */
  | { readonly type: 'echoFailed'; readonly ping: PingId; readonly reason: 'timeout' | 'unreachable' }
  /** Promiscuous mode: a ping to an address that is not ours; say `answerEcho` to answer in its name. */
  | {
      readonly type: 'echoRequest'
      readonly from: Ip
      readonly to: Ip
      readonly identifier: number
      readonly sequence: number
      readonly bytes: Uint8Array
    }

/** Probes of an idle connection. */
export interface KeepAlive {
  /** Silence before the first probe, in milliseconds. */
  readonly idleMs: number
  /** Between probes. */
  readonly intervalMs: number
  /** Unanswered probes before the flow closes with `timeout`. */
  readonly count: number
}

/** Settings of a stack; all have defaults. */
export interface NetstackOptions {
  /** Largest IP packet sent, 576 to 65535 (default 1280, as in tailnets). */
  readonly mtu?: number
  /** Own addresses; also `setLocalAddresses`. */
  readonly addresses?: readonly Ip[]
  /** Take flows to any destination as `incoming` (subnet routers and exit nodes in user space). Default false. */
  readonly promiscuous?: boolean
  /** Offer flows to own addresses that no listener or socket claims as `incoming`, instead of refusing them. Default false. */
  readonly offerUnclaimed?: boolean
  /** The most TCP flows at a time (default 16384); over it SYNs are ignored. */
  readonly maxFlows?: number
  /** The most half-open TCP flows (default 1024); over it the oldest gives way. */
  readonly maxHalfOpen?: number
  /** Upper bound of a flow's send buffer (default 4 MiB). */
  readonly maxSendBufferBytes?: number
  /** Upper bound of a flow's receive window (default 4 MiB). */
  readonly maxReceiveBufferBytes?: number
  /** How long a closed flow is remembered (default 60 s, as Linux; RFC 9293 says 4 min). */
  readonly timeWaitMs?: number
  /** The longest wait before an acknowledgment (default 40). */
  readonly delayedAckMs?: number
  /** SYNs sent again before a flow is given up (default 6: 127 s). */
  readonly synRetries?: number
  /** Timeouts in a row before an open flow is given up (default 12). */
  readonly maxRetries?: number
  /** Keep-alive of every flow; absent: none, unless `setKeepAlive`. */
  readonly keepAlive?: KeepAlive
  /** What RFC 7323 and 2018 offer; for tests against peers without them. All default to true. */
  readonly windowScaling?: boolean
  readonly timestamps?: boolean
  readonly selectiveAcks?: boolean
}

/** All options with their values. */
export type NetstackSettings = Required<Omit<NetstackOptions, 'addresses' | 'keepAlive'>> & { readonly keepAlive: KeepAlive | undefined }

/** What one flow is like now. */
export interface FlowStatus {
  readonly state: TcpState
  readonly local: Endpoint
  readonly remote: Endpoint
  /** Written and not acknowledged. */
  readonly queuedBytes: number
  /** Given out as `data` and not consumed. */
  readonly unconsumedBytes: number
  readonly congestionWindowBytes: number
  readonly inFlightBytes: number
  readonly smoothedRttMs: number | undefined
  readonly segmentBytes: number
  /** When its next timer is due. */
  readonly due: Instant | undefined
}

/** States of RFC 9293 section 3.3.2; `held` is a SYN that waits for `accept` or `refuse`. */
export type TcpState =
  | 'held'
  | 'syn-sent'
  | 'syn-received'
  | 'established'
  | 'fin-wait-1'
  | 'fin-wait-2'
  | 'close-wait'
  | 'closing'
  | 'last-ack'
  | 'time-wait'
  | 'closed'

/** Packets ignored, by reason, and other things worth counting; they only grow. */
export interface NetstackCounters {
  readonly received: number
  readonly sent: number
  readonly dropped: ReadonlyMap<DropReason, number>
}

/** Why a packet was ignored. */
export type DropReason =
  | 'malformed'
  | 'checksum'
  | 'martian'
  | 'not-local'
  | 'fragment'
  | 'protocol'
  | 'flows-full'
  | 'half-open-full'
  | 'rate'
  | 'closed-port'
  | 'stale'

export type NetstackErrorCode =
  | 'NETSTACK_NO_SOURCE'
  | 'NETSTACK_ADDRESS_IN_USE'
  | 'NETSTACK_PORT_INVALID'
  | 'NETSTACK_PORTS_EXHAUSTED'
  | 'NETSTACK_FLOWS_EXHAUSTED'
  | 'NETSTACK_UNKNOWN_ID'
  | 'NETSTACK_OPTION_INVALID'
  | 'NETSTACK_DATAGRAM_TOO_LONG'

/** Misuse of the stack by its caller. */
export class NetstackError extends MeshwrightError<NetstackErrorCode> {
  override readonly name: string = 'NetstackError'
}
