import { formatDerpMetrics, type DerpServerStats } from '@meshwright/derp'
import type { ControlService } from './control-service.ts'
import type { NodeDoor } from './http/node-door.ts'

/** What the front of the server holds, beside the state machine. */
export interface HeldFigures {
  /** Connections to `listen_addr`, and those of them that have proved nothing. */
  readonly connections: number
  readonly newcomers: { readonly waiting: number; readonly evicted: number; readonly overdue: number }
  /** TLS handshakes that are not complete. */
  readonly handshakes: number
  readonly nodes: NodeDoor['figures']
  /** Pieces of work that wait at the gate. */
  readonly gate: number
}

/** What the server counts, in the text form of Prometheus. */
export function formatMetrics(service: ControlService, held: HeldFigures, relay: DerpServerStats | undefined): string {
  const { nodes, online, polls, pendingLogins, sshChecks, waiting, peersCompared, peersWritten, filterSourcesWritten } = service.machine.figures
  const memory = process.memoryUsage()
  const gauges: readonly (readonly [name: string, help: string, value: number])[] = [
    ['meshwright_nodes', 'Nodes that are registered', nodes],
    ['meshwright_nodes_online', 'Nodes that are connected', online],
    ['meshwright_map_streams', 'Open map streams', polls],
    ['meshwright_pending_logins', 'Logins that wait for approval', pendingLogins],
    ['meshwright_ssh_checks', 'SSH sessions that wait for approval', sshChecks],
    ['meshwright_waiting_requests', 'Requests that wait for the disk', waiting],
    ['meshwright_connections', 'Open connections to listen_addr', held.connections],
    ['meshwright_newcomers', 'Connections that have proved nothing', held.newcomers.waiting],
    ['meshwright_tls_handshakes', 'TLS handshakes that are not complete', held.handshakes],
    ['meshwright_channels', 'Open Noise channels', held.nodes.channels],
    ['meshwright_requests', 'Requests on Noise channels that are not over, map streams too', held.nodes.requests],
    ['meshwright_reading_bytes', 'Bytes of bodies of registered machines that are being read', held.nodes.readingBytes],
    ['meshwright_strangers_reading_bytes', 'Bytes of bodies of strangers that are being read', held.nodes.strangersReadingBytes],
    ['meshwright_strangers_unread_bytes', 'Bytes of strangers that are not worked on yet', held.nodes.unreadBytes],
    ['meshwright_gate_waiting', 'Pieces of work of strangers that wait for their turn', held.gate],
    ['process_resident_memory_bytes', 'Resident memory', memory.rss],
    ['process_heap_bytes', 'Heap in use', memory.heapUsed],
    ['process_uptime_seconds', 'Seconds since the start', process.uptime()],
  ]
  const lines = gauges.map(([name, help, value]) => `# HELP ${name} ${help}\n# TYPE ${name} gauge\n${name} ${value}\n`)
  const counters: readonly (readonly [name: string, help: string, value: number])[] = [
    ['meshwright_peers_compared_total', 'Peers that were compared with what their receivers had been told', peersCompared],
    ['meshwright_peers_written_total', 'Peers that were written as JSON, each once for all receivers', peersWritten],
    ['meshwright_filter_sources_written_total', 'Sources of packet filters that were written as JSON', filterSourcesWritten],
    ['meshwright_newcomers_evicted_total', 'Connections that had proved nothing and gave way to newer ones', held.newcomers.evicted],
    ['meshwright_newcomers_overdue_total', 'Connections that proved nothing in their time', held.newcomers.overdue],
  ]
  lines.push(...counters.map(([name, help, value]) => `# HELP ${name} ${help}\n# TYPE ${name} counter\n${name} ${value}\n`))
  return lines.join('') + (relay === undefined ? '' : formatDerpMetrics(relay))
}
