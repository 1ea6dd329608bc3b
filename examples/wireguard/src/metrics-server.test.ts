import net, { type AddressInfo } from 'node:net'
import { fastCryptoProvider } from '@meshwright/runtime-node'
import { afterEach, expect, test } from 'vitest'
import { controlledTunnel } from './controlled.ts'
import { serveMetrics } from './metrics-server.ts'
import { Tunnel } from './tunnel.ts'

const cleanups: (() => unknown)[] = []

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

/** What is answered to a request line, as it stands. */
function ask(port: number, line: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = ''
    const socket = net.connect(port, '127.0.0.1', () => socket.write(`${line}\r\nHost: x\r\nConnection: close\r\n\r\n`))
    socket.on('data', (bytes) => (text += bytes.toString()))
    socket.once('error', reject)
    socket.once('close', () => resolve(text))
  })
}

test('the counters are at one path; whatever else is asked for harms nobody', async () => {
  const tunnel = new Tunnel({ name: 't', provider: fastCryptoProvider(), deliver: () => undefined })
  cleanups.push(() => tunnel.close())
  const server = await serveMetrics(controlledTunnel(tunnel), 't', { host: '127.0.0.1', port: 0 })
  cleanups.push(() => server.close())
  const { port } = server.address() as AddressInfo
  for (const target of ['//', '//[', '//:99999', 'http://[', '*', '/metrics/', '/%']) expect([target, (await ask(port, `GET ${target} HTTP/1.1`)).slice(0, 12)]).toEqual([target, 'HTTP/1.1 404'])
  expect(await ask(port, 'POST /metrics HTTP/1.1')).toMatch(/^HTTP\/1\.1 405 /)
  for (const target of ['/metrics', '/metrics?x=1']) expect(await ask(port, `GET ${target} HTTP/1.1`)).toMatch(/^HTTP\/1\.1 200 [^]*\nwireguard_no_route_total\{interface="t"\} 0\n/)
})
