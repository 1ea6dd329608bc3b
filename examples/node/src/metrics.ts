import type { MeshStatus } from '@meshwright/mesh'

/** A node's counters as Prometheus text. `tailscaled_*` names stand where the meaning is the same. */
export function renderMetrics(status: MeshStatus): string {
  const lines: string[] = []
  const metric = (name: string, type: 'counter' | 'gauge', help: string, values: readonly (readonly [string, number])[]): void => {
    lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`)
    for (const [labels, value] of values) lines.push(`${name}${labels} ${value}`)
  }
  metric('tailscaled_inbound_bytes_total', 'counter', 'Bytes of datagrams received, by path', [['{path="direct"}', status.directBytesIn], ['{path="derp"}', status.relayBytesIn]])
  metric('tailscaled_outbound_bytes_total', 'counter', 'Bytes of datagrams sent, by path', [['{path="direct"}', status.directBytesOut], ['{path="derp"}', status.relayBytesOut]])
  metric('meshwright_inbound_packets_total', 'counter', 'Inner packets delivered to this node', [['', status.packetsIn]])
  metric('meshwright_outbound_packets_total', 'counter', 'Inner packets sent by this node', [['', status.packetsOut]])
  metric('meshwright_dropped_packets_total', 'counter', 'Packets dropped, by reason', Object.entries(status.drops).map(([reason, count]) => [`{reason="${reason}"}`, count] as const))
  metric('tailscaled_health_messages', 'gauge', 'Warnings that status shows', [['{type="warning"}', status.health.length]])
  metric('tailscaled_home_derp_region_id', 'gauge', 'Region of the home relay', [['', status.homeRegion]])
  metric('meshwright_peers', 'gauge', 'Peers in the network map', [['', status.peers.length]])
  for (const peer of status.peers) {
    const label = `{peer="${peer.name.split('.')[0] ?? ''}"}`
    lines.push(`meshwright_peer_received_bytes_total${label} ${peer.rxBytes}`, `meshwright_peer_sent_bytes_total${label} ${peer.txBytes}`)
  }
  return `${lines.join('\n')}\n`
}
