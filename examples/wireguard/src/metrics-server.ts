import http from 'node:http'
import { formatMetrics } from '@meshwright/wireguard/text'
import type { Tunnel } from './tunnel.ts'
import { UsageError } from './usage-error.ts'

/**
 * Serves the counters of an interface as Prometheus reads them, at `/metrics`: what the engine counts, and what the allowed IPs refused.
 * There is no secret in them, but public keys of peers: loopback is the place for it.
 * @throws UsageError when the port cannot be had
 */
export async function serveMetrics(tunnel: Tunnel, name: string, at: { readonly host: string; readonly port: number }): Promise<http.Server> {
  const server = http.createServer((request, response) => {
    const path = new URL(request.url ?? '/', 'http://localhost').pathname
    if (request.method !== 'GET' && request.method !== 'HEAD') response.writeHead(405, { allow: 'GET, HEAD' }).end()
    else if (path !== '/metrics') response.writeHead(404, { 'content-type': 'text/plain' }).end('the counters are at /metrics\n')
    else response.writeHead(200, { 'content-type': 'text/plain; version=0.0.4; charset=utf-8' }).end(metricsText(tunnel, name))
  })
  return new Promise((resolve, reject) => {
    server.once('error', (error) => reject(new UsageError(`metrics cannot be served at ${at.host}:${at.port}: ${error.message}`, 1)))
    server.listen(at.port, at.host, () => resolve(server))
  })
}

/** All counters of an interface in the text format of Prometheus. */
export function metricsText(tunnel: Tunnel, name: string): string {
  const own = [
    ['wireguard_no_route_total', 'Packets for an address that no peer owns.', tunnel.drops.noRoute],
    ['wireguard_wrong_source_total', 'Authentic packets from an address that is not their peer\'s.', tunnel.drops.wrongSource],
  ] as const
  const lines = own.map(([metric, help, value]) => `# HELP ${metric} ${help}\n# TYPE ${metric} counter\n${metric}{interface="${name}"} ${value}\n`)
  return `${formatMetrics(tunnel.status(), name, Date.now())}${lines.join('')}`
}
