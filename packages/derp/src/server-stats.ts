/** Why a server dropped a packet (tailscale/tailscale:derp/derpserver). */
export type DerpDropReason = 'unknown_dest' | 'unknown_dest_on_fwd' | 'gone_disconnected' | 'queue_head' | 'write_error' | 'dup_client'

/** Whether a packet looks like disco or not: disco is counted, and queued, apart. */
export type DerpPacketKind = 'disco' | 'other'

/** Why a server closed a connection. */
export type DerpCloseReason =
  | 'handshake-timeout'
  | 'client-info-invalid'
  | 'frame-invalid'
  | 'not-privileged'
  | 'denied'
  | 'write-timeout'
  | 'silent'
  | 'closed-by-request'
  | 'watch-overflow'
  | 'too-many-connections'
  | 'gave-way'

/** All reasons for dropping a packet. */
export const DERP_DROP_REASONS: readonly DerpDropReason[] = ['unknown_dest', 'unknown_dest_on_fwd', 'gone_disconnected', 'queue_head', 'write_error', 'dup_client']

/** A count of packets and their bytes, keys and headers not counted, for each kind of packet. */
export type DerpTally = Record<DerpPacketKind, { packets: number; bytes: number }>

/** Who is in the region now. */
export interface DerpCensus {
  /** Keys with a connection here. */
  readonly localClients: number
  /** Keys known through other relays only. */
  readonly remoteClients: number
  readonly duplicateKeys: number
  readonly watchers: number
}

/** What a server has done since its start, and what it holds now. Counters only grow. */
export interface DerpServerStats extends DerpCensus {
  readonly accepts: number
  readonly received: DerpTally
  readonly sent: DerpTally
  readonly dropped: Readonly<Record<DerpDropReason, DerpTally>>
  /** Packets handed to, and taken from, other relays of the region. */
  readonly forwardedOut: number
  readonly forwardedIn: number
  /** Closed by us, by reason. */
  readonly closed: Readonly<Partial<Record<DerpCloseReason, number>>>
  readonly gotPings: number
  readonly sentPongs: number
  readonly peerGoneDisconnected: number
  readonly peerGoneNotHere: number
  /** Clients that made us their home, and that took it back. */
  readonly homeMovesIn: number
  readonly homeMovesOut: number
  readonly duplicateConnectionsTotal: number
  /** Connections now, those in the handshake among them. */
  readonly connections: number
  readonly homeConnections: number
  readonly notIdealConnections: number
  /** Bytes of frames that wait in queues. */
  readonly queuedBytes: number
}

/** Zero packets of each kind. */
export function newTally(): DerpTally {
  return { disco: { packets: 0, bytes: 0 }, other: { packets: 0, bytes: 0 } }
}

/** Counts one packet. */
export function count(tally: DerpTally, kind: DerpPacketKind, bytes: number): void {
  tally[kind].packets += 1
  tally[kind].bytes += bytes
}

/**
 * The statistics in Prometheus text format, under the names of a real derper (tailscale/tailscale:derp/derpserver/derpserver.go), so
 * that its dashboards work.
 */
export function formatDerpMetrics(stats: DerpServerStats): string {
  const lines: string[] = []
  const metric = (name: string, type: 'gauge' | 'counter', samples: readonly (readonly [labels: string, value: number])[]): void => {
    lines.push(`# TYPE ${name} ${type}`)
    for (const [labels, value] of samples) lines.push(`${name}${labels} ${value}`)
  }
  const gauge = (name: string, value: number): void => metric(`derp_${name}`, 'gauge', [['', value]])
  const counter = (name: string, value: number): void => metric(`derp_${name}`, 'counter', [['', value]])
  gauge('current_connections', stats.connections)
  gauge('current_home_connections', stats.homeConnections)
  gauge('current_notideal_connections', stats.notIdealConnections)
  gauge('clients_total', stats.localClients + stats.remoteClients)
  gauge('clients_local', stats.localClients)
  gauge('clients_remote', stats.remoteClients)
  gauge('current_dup_client_keys', stats.duplicateKeys)
  gauge('watchers', stats.watchers)
  gauge('queued_bytes', stats.queuedBytes)
  counter('accepts', stats.accepts)
  counter('total_dup_client_conns', stats.duplicateConnectionsTotal)
  counter('bytes_received', stats.received.disco.bytes + stats.received.other.bytes)
  counter('bytes_sent', stats.sent.disco.bytes + stats.sent.other.bytes)
  counter('packets_received', stats.received.disco.packets + stats.received.other.packets)
  counter('packets_sent', stats.sent.disco.packets + stats.sent.other.packets)
  metric('derp_packets_received_kind', 'counter', [
    ['{kind="disco"}', stats.received.disco.packets],
    ['{kind="other"}', stats.received.other.packets],
  ])
  for (const what of ['packets', 'bytes'] as const) {
    metric(
      `derp_${what}_dropped`,
      'counter',
      DERP_DROP_REASONS.flatMap((reason) =>
        (['disco', 'other'] as const).map((kind) => [`{reason="${reason}",kind="${kind}"}`, stats.dropped[reason][kind][what]] as const),
      ),
    )
  }
  counter('packets_forwarded_out', stats.forwardedOut)
  counter('packets_forwarded_in', stats.forwardedIn)
  counter('got_ping', stats.gotPings)
  counter('sent_pong', stats.sentPongs)
  counter('peer_gone_disconnected_frames', stats.peerGoneDisconnected)
  counter('peer_gone_not_here_frames', stats.peerGoneNotHere)
  counter('home_moves_in', stats.homeMovesIn)
  counter('home_moves_out', stats.homeMovesOut)
  counter('sclient_write_timeouts', stats.closed['write-timeout'] ?? 0)
  metric(
    'derp_connections_closed',
    'counter',
    Object.entries(stats.closed).map(([reason, value]) => [`{reason="${reason}"}`, value] as const),
  )
  return `${lines.join('\n')}\n`
}
