import { formatDerpMetrics, type DerpServerStats } from '@meshwright/derp'
import type { ControlService } from './control-service.ts'

/** What the server counts, in the text form of Prometheus. */
export function formatMetrics(service: ControlService, relay: DerpServerStats | undefined): string {
  const { nodes, online, polls, pendingLogins, sshChecks, waiting, peersCompared } = service.machine.figures
  const memory = process.memoryUsage()
  const gauges: readonly (readonly [name: string, help: string, value: number])[] = [
    ['meshwright_nodes', 'Nodes that are registered', nodes],
    ['meshwright_nodes_online', 'Nodes that are connected', online],
    ['meshwright_map_streams', 'Open map streams', polls],
    ['meshwright_pending_logins', 'Logins that wait for approval', pendingLogins],
    ['meshwright_ssh_checks', 'SSH sessions that wait for approval', sshChecks],
    ['meshwright_waiting_requests', 'Requests that wait for the disk', waiting],
    ['process_resident_memory_bytes', 'Resident memory', memory.rss],
    ['process_heap_bytes', 'Heap in use', memory.heapUsed],
    ['process_uptime_seconds', 'Seconds since the start', process.uptime()],
  ]
  const lines = gauges.map(([name, help, value]) => `# HELP ${name} ${help}\n# TYPE ${name} gauge\n${name} ${value}\n`)
  const compared = 'meshwright_peers_compared_total'
  lines.push(`# HELP ${compared} Peers that were compared with what their receivers had been told\n# TYPE ${compared} counter\n${compared} ${peersCompared}\n`)
  return lines.join('') + (relay === undefined ? '' : formatDerpMetrics(relay))
}
