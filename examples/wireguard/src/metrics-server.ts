import http from 'node:http'
import { formatMetrics } from '@meshwright/wireguard/text'
import type { Controlled } from './controlled.ts'
import { UsageError } from './usage-error.ts'

/**
 * Serves the counters of an interface as Prometheus reads them, at `/metrics`: what the engine counts, and what the allowed IPs refused.
 * There is no secret in them, but public keys of peers: loopback is the place for it.
 * @throws UsageError when the port cannot be had
 */
export async function serveMetrics(tunnel: Controlled, name: string, at: { readonly host: string; readonly port: number }): Promise<http.Server> {
  const server = http.createServer((request, response) => {
    const path = (request.url ?? '/').split('?')[0] // whatever was asked for: not all of it is a URL
    if (request.method !== 'GET' && request.method !== 'HEAD') response.writeHead(405, { allow: 'GET, HEAD' }).end()
    else if (path !== '/metrics') response.writeHead(404, { 'content-type': 'text/plain' }).end('the counters are at /metrics\n')
    else {
      metricsText(tunnel, name).then(
        (text) => response.writeHead(200, { 'content-type': 'text/plain; version=0.0.4; charset=utf-8' }).end(text),
        (error: unknown) => response.writeHead(503, { 'content-type': 'text/plain' }).end(`${error instanceof Error ? error.message : 'no answer'}\n`),
      )
    }
  })
  return new Promise((resolve, reject) => {
    server.once('error', (error) => reject(new UsageError(`metrics cannot be served at ${at.host}:${at.port}: ${error.message}`, 1)))
    server.listen(at.port, at.host, () => resolve(server))
  })
}

/** All counters of an interface in the text format of Prometheus. */
export async function metricsText(tunnel: Controlled, name: string): Promise<string> {
  const { device, drops, lane } = await tunnel.status()
  const own = [
    ['wireguard_no_route_total', 'Packets for an address that no peer owns.', drops.noRoute],
    ['wireguard_wrong_source_total', 'Authentic packets from an address that is not their peer\'s.', drops.wrongSource],
  ] as const
  const lines = own.map(([metric, help, value]) => `# HELP ${metric} ${help}\n# TYPE ${metric} counter\n${metric}{interface="${name}"} ${value}\n`)
  lines.push(`# HELP meshwright_lane Which lane carries the packets, and its offloads.\n# TYPE meshwright_lane gauge\nmeshwright_lane{interface="${name}",lane="${lane.name}",offloads="${lane.offloads.join(' ')}"} 1\n`)
  const counters = Object.entries(lane.counters).map(([counter, value]) => `meshwright_lane_total{interface="${name}",what="${counter}"} ${value}\n`)
  if (counters.length > 0) lines.push(`# HELP meshwright_lane_total Counters of the lane.\n# TYPE meshwright_lane_total counter\n${counters.join('')}`)
  return `${formatMetrics(device, name, Date.now())}${lines.join('')}`
}
