import { formatPrefix } from '@meshwright/ip'
import type { MeshStatus, PeerPath, PeerStatus, Prefs, WayCounts } from '@meshwright/mesh'
import type { DataPlaneReport } from '@meshwright/runtime-node'

/**
 * A node's counters as Prometheus text. `tailscaled_*` names stand where the meaning is the same
 * (tailscale/tailscale:wgengine/magicsock, ipn/ipnlocal); what is counted otherwise has a `meshwright_*` name.
 */
export function renderMetrics(status: MeshStatus, prefs: Prefs, plane: DataPlaneReport): string {
  const lines: string[] = []
  const metric = (name: string, type: 'counter' | 'gauge', help: string, values: readonly (readonly [string, number])[]): void => {
    lines.push(`# TYPE ${name} ${type}`, `# HELP ${name} ${help}`)
    for (const [labels, value] of values) lines.push(`${name}${labels} ${value}`)
  }
  const advertised = new Set(prefs.advertiseRoutes.map(formatPrefix))
  const approved = (status.self?.allowedIps ?? []).filter((prefix) => advertised.has(formatPrefix(prefix)))
  metric('tailscaled_advertised_routes', 'gauge', 'Number of advertised network routes (e.g. by a subnet router)', [['', advertised.size]])
  metric('tailscaled_approved_routes', 'gauge', 'Number of approved network routes (e.g. by a subnet router)', [['', approved.length]])
  metric('tailscaled_health_messages', 'gauge', 'Number of health messages broken down by type.', [['{type="warning"}', status.health.length]])
  metric('tailscaled_home_derp_region_id', 'gauge', "DERP region ID of this node's home relay server", [['', status.homeRegion]])
  metric('tailscaled_inbound_bytes_total', 'counter', 'Counts the number of bytes received from other peers', byWay(status.received, 'bytes'))
  metric('tailscaled_inbound_dropped_packets_total', 'counter', 'Counts the number of dropped packets received by the node from other peers', byReason({ acl: status.drops['filter-in'] }))
  metric('tailscaled_inbound_packets_total', 'counter', 'Counts the number of packets received from other peers', byWay(status.received, 'datagrams'))
  metric('tailscaled_outbound_bytes_total', 'counter', 'Counts the number of bytes sent to other peers', byWay(status.sent, 'bytes'))
  metric('tailscaled_outbound_dropped_packets_total', 'counter', 'Counts the number of packets dropped while being sent to other peers', byReason({ acl: status.drops['filter-out'], error: status.drops['no-path'] ?? 0 }))
  metric('tailscaled_outbound_packets_total', 'counter', 'Counts the number of packets sent to other peers', byWay(status.sent, 'datagrams'))
  metric('meshwright_relay_bytes_total', 'counter', 'All bytes of the connections with relays', [['{direction="in"}', status.relayBytesIn], ['{direction="out"}', status.relayBytesOut]])
  metric('meshwright_inbound_packets_total', 'counter', 'Inner packets delivered to this node', [['', status.packetsIn]])
  metric('meshwright_outbound_packets_total', 'counter', 'Inner packets sent by this node', [['', status.packetsOut]])
  metric('meshwright_dropped_packets_total', 'counter', 'Packets dropped, by reason', Object.entries(status.drops).map(([reason, count]) => [`{reason="${escape(reason)}"}`, count] as const))
  metric('meshwright_peers', 'gauge', 'Peers in the network map', [['', status.peers.length]])
  const labels = peerLabels(status.peers)
  const ofPeers = (count: (peer: PeerStatus) => number): readonly (readonly [string, number])[] => status.peers.map((peer, i) => [`{${labels[i] ?? ''}}`, count(peer)])
  metric('meshwright_peer_received_bytes_total', 'counter', 'Bytes received from a peer inside its sessions', ofPeers((peer) => peer.rxBytes))
  metric('meshwright_peer_sent_bytes_total', 'counter', 'Bytes sent to a peer inside its sessions', ofPeers((peer) => peer.txBytes))
  metric('meshwright_peer_path', 'gauge', 'How a peer is reached now', status.peers.map((peer, i) => [`{${labels[i] ?? ''},path="${pathName(peer.path)}"}`, 1] as const))
  metric('meshwright_peer_latency_seconds', 'gauge', 'How long an answer of a peer takes on its direct path', status.peers.flatMap((peer, i) => (peer.path.type === 'direct' ? [[`{${labels[i] ?? ''}}`, peer.path.latencyMs / 1000] as const] : [])))
  metric('meshwright_dataplane_lane', 'gauge', 'Who carries packets: a thread of its own (worker), the event loop (portable), the TCP/IP stack of the node (userspace)', [[`{lane="${plane.lane}"}`, 1]])
  metric('meshwright_dataplane_restarts_total', 'counter', 'How often the thread of the data plane died and was started again', [['', plane.restarts ?? 0]])
  metric('meshwright_dataplane_offload', 'gauge', 'Offloads of the data plane that are in use', Object.entries(plane.offloads ?? {}).map(([name, on]) => [`{offload="${escape(name)}"}`, on ? 1 : 0] as const))
  metric('meshwright_dataplane_total', 'counter', 'What the data plane has done, by kind', Object.entries(plane.counters ?? {}).map(([kind, count]) => [`{kind="${escape(kind)}"}`, count] as const))
  return `${lines.join('\n')}\n`
}

// As tailscaled names its paths; this node does not use peers as relays.
function byWay({ relay, ipv4, ipv6 }: WayCounts, what: 'bytes' | 'datagrams'): readonly (readonly [string, number])[] {
  return [['{path="derp"}', relay[what]], ['{path="direct_ipv4"}', ipv4[what]], ['{path="direct_ipv6"}', ipv6[what]], ['{path="peer_relay_ipv4"}', 0], ['{path="peer_relay_ipv6"}', 0]]
}

function byReason(counts: Readonly<Record<string, number | undefined>>): readonly (readonly [string, number])[] {
  return Object.entries(counts).flatMap(([reason, count]) => (count === undefined ? [] : [[`{reason="${reason}"}`, count] as const]))
}

function pathName(path: PeerPath): string {
  if (path.type !== 'direct') return path.type === 'relay' ? 'derp' : 'none'
  return path.endpoint.ip.family === 4 ? 'direct_ipv4' : 'direct_ipv6'
}

// A name twice would be one series twice, and Prometheus takes nothing of such a text. Short names are told apart by whole ones, and those by addresses.
function peerLabels(peers: readonly PeerStatus[]): readonly string[] {
  const ways: readonly ((peer: PeerStatus) => string)[] = [(peer) => peer.name.split('.')[0] ?? '', (peer) => peer.name, (peer) => peer.addresses[0]?.key ?? '', (peer) => peer.nodeKey.text]
  const names = new Map<PeerStatus, string>()
  let unnamed = peers
  for (const way of ways) {
    const counts = new Map<string, number>()
    for (const peer of unnamed) counts.set(way(peer), (counts.get(way(peer)) ?? 0) + 1)
    for (const peer of unnamed) if (way(peer) !== '' && counts.get(way(peer)) === 1) names.set(peer, way(peer))
    unnamed = unnamed.filter((peer) => !names.has(peer))
  }
  return peers.map((peer) => `peer="${escape(names.get(peer) ?? '')}"`)
}

// Names come from other nodes, by way of the control server.
function escape(label: string): string {
  return label.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')
}
