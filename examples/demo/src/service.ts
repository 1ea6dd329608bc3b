import http from 'node:http'
import type { AddressInfo } from 'node:net'

/** What a machine of the demo serves on its loopback; its node hands connections from the mesh to it. */
export interface Service {
  readonly port: number
  /** Requests so far. */
  requests(): number
  close(): void
}

/** Serves one line about itself on a free port of 127.0.0.1; a body that is sent is counted. */
export async function startService(name: string): Promise<Service> {
  let count = 0
  const server = http.createServer((request, response) => {
    count += 1
    let bytes = 0
    request.on('data', (chunk: Buffer) => (bytes += chunk.length))
    request.on('end', () => response.writeHead(200, { 'Content-Type': 'application/json' }).end(`${JSON.stringify({ service: name, request: count, bytes })}\n`))
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(0, '127.0.0.1', resolve)
  })
  return {
    port: (server.address() as AddressInfo).port,
    requests: () => count,
    close: () => {
      server.close()
      server.closeAllConnections()
    },
  }
}
