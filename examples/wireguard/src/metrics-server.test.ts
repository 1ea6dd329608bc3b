import net, { type AddressInfo } from 'node:net'
import { fastCryptoProvider } from '@meshwright/runtime-node'
import { type DataPlane, type LaneStatus, portableCounters } from '@meshwright/runtime-node/dataplane'
import { afterEach, expect, test } from 'vitest'
import { controlledDataPlane, controlledTunnel } from './controlled.ts'
import { metricsText, serveMetrics } from './metrics-server.ts'
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
  const server = await serveMetrics(controlledTunnel(tunnel, () => ({ read: 7, written: 8, refused: 2, lost: 1 })), 't', { host: '127.0.0.1', port: 0 })
  cleanups.push(() => server.close())
  const { port } = server.address() as AddressInfo
  for (const target of ['//', '//[', '//:99999', 'http://[', '*', '/metrics/', '/%']) expect([target, (await ask(port, `GET ${target} HTTP/1.1`)).slice(0, 12)]).toEqual([target, 'HTTP/1.1 404'])
  expect(await ask(port, 'POST /metrics HTTP/1.1')).toMatch(/^HTTP\/1\.1 405 /)
  for (const target of ['/metrics', '/metrics?x=1']) expect(await ask(port, `GET ${target} HTTP/1.1`)).toMatch(/^HTTP\/1\.1 200 [^]*\nwireguard_no_route_total\{interface="t"\} 0\n/)
})

/** Names of metrics with what tells their kinds apart. */
const kinds = (text: string): readonly string[] => text.split('\n').flatMap((line) => /^(\w+\{interface="t"(?:,what="\w+")?)/.exec(line)?.[1] ?? []).sort()

test('the event loop has the metrics of a worker, each with what it means there', async () => {
  const portable = new Tunnel({ name: 't', provider: fastCryptoProvider(), deliver: () => undefined })
  cleanups.push(() => portable.close())
  const own = controlledTunnel(portable, () => ({ read: 7, written: 8, refused: 2, lost: 1 }))
  const { device, drops } = await own.status()
  const lane: LaneStatus = { provider: 'x', offloads: { tso: true, uso: true, udpJoin: true, gso: true, gro: true }, counters: portableCounters({ read: 1, written: 1, refused: 1, lost: 1 }, { datagramsIn: 0, datagramsOut: 0, dropped: 0 }), joined: { rows: 1, packets: 2 }, port: 1, heapBytes: 1 }
  const worker = controlledDataPlane({ status: () => Promise.resolve({ device, drops, lane, restarts: 3, trouble: undefined }) } as Partial<DataPlane> as DataPlane) // what is asked for
  const text = await metricsText(own, 't')
  expect(kinds(text)).toEqual(kinds(await metricsText(worker, 't')))
  const counted = Object.fromEntries([...text.matchAll(/^meshwright_lane_total\{interface="t",what="(\w+)"\} (\d+)$/gm)].map(([, what, value]) => [what, Number(value)]))
  expect(counted).toEqual({ tunReads: 7, tunPackets: 7, tunWrites: 8, writeDrops: 2, readDrops: 1, udpSends: 0, udpReceives: 0, udpDatagrams: 0, sendDrops: 0, kernelLies: 0, splitRows: 0, joinedRows: 0, joinedPackets: 0, restarts: 0 })
})
