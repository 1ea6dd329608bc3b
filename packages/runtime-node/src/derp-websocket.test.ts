import http from 'node:http'
import https from 'node:https'
import type { AddressInfo } from 'node:net'
import type { RelayNode } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { DerpClient, type DerpClientInput, type DerpClientOutput, DerpServer } from '@meshwright/derp'
import type { RelayLinksInput } from '@meshwright/mesh'
import { afterEach, expect, test } from 'vitest'
import { WebSocket, WebSocketServer } from 'ws'
import { suspendAwareClock } from './clock.ts'
import { attachDerpServer } from './derp-accept.ts'
import { metacertPem, selfSignedCertificate } from './derp-certificate.ts'
import { dialDerp } from './derp-dial.ts'
import { drive } from './drive.ts'
import { systemOutside } from './outside.ts'
import { systemRandom } from './random.ts'
import { RelayDriver } from './relay-driver.ts'

const clock = suspendAwareClock()
const cleanup: (() => void)[] = []
afterEach(() => {
  for (const each of cleanup.splice(0).reverse()) each()
})

interface Relay {
  readonly node: RelayNode
  readonly server: DerpServer
  readonly port: number
  /** How many upgrades of each kind came. */
  readonly asked: string[]
}

/** A relay; with `proxy` behind something that passes no upgrade but WebSocket. */
async function startRelay(tls: boolean, proxy: boolean = false): Promise<Relay> {
  const server = new DerpServer({ privateKey: NodePrivateKey.generate(systemRandom), random: systemRandom })
  const { cert, key, pin } = selfSignedCertificate(['127.0.0.1'])
  const web = tls ? https.createServer({ cert: cert + metacertPem(server.publicKey), key }) : http.createServer()
  const service = attachDerpServer(undefined, server, { clock })
  const asked: string[] = []
  web.on('upgrade', (request, socket, head) => {
    asked.push(request.headers.upgrade ?? '')
    if (!proxy || request.headers.upgrade === 'websocket') service.handleUpgrade(request, socket, head)
    else socket.end('HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n')
  })
  await new Promise<void>((resolve) => web.listen(0, '127.0.0.1', resolve))
  cleanup.push(() => {
    service.close()
    web.close()
  })
  const { port } = web.address() as AddressInfo
  return { server, port, asked, node: { name: '1a', regionId: 1, hostName: '127.0.0.1', ipv6: 'none', derpPort: port, ...(tls && { certName: pin }) } }
}

async function connect(relay: Relay, plainHttp: boolean): Promise<{ readonly key: NodePrivateKey; readonly machine: DerpClient; readonly send: (to: NodePrivateKey, bytes: Uint8Array) => void; readonly next: () => Promise<Uint8Array> }> {
  const connection = await dialDerp({ node: relay.node, plainHttp, webSocket: true })
  cleanup.push(() => connection.close())
  const key = NodePrivateKey.generate(systemRandom)
  const machine = new DerpClient({ privateKey: key, random: systemRandom })
  const packets: Uint8Array[] = []
  const takers: ((bytes: Uint8Array) => void)[] = []
  let connected = (): void => undefined
  const ready = new Promise<void>((resolve) => (connected = resolve))
  const driver = drive<DerpClientInput, DerpClientOutput>(machine, clock, (output) => {
    if (output.type === 'write') connection.write(output.bytes)
    else if (output.type === 'connected') connected()
    else if (output.type === 'packet') {
      const taker = takers.shift()
      if (taker === undefined) packets.push(output.packet.slice())
      else taker(output.packet.slice())
    }
  })
  cleanup.push(() => driver.stop())
  driver.feed({ type: 'opened' })
  connection.start({ bytes: (bytes) => driver.feed({ type: 'bytes', bytes }), writable: () => driver.feed({ type: 'writable' }), closed: () => driver.feed({ type: 'closed' }) })
  await ready
  return {
    key,
    machine,
    send: (to, bytes) => void driver.act((now) => machine.send(now, to.publicKey(), bytes)),
    next: () => new Promise((resolve) => {
      const first = packets.shift()
      if (first === undefined) takers.push(resolve)
      else resolve(first)
    }),
  }
}

test.each([false, true])('two clients reach each other through WebSockets, whatever the size (TLS: %s)', async (tls) => {
  const relay = await startRelay(tls)
  const [a, b] = [await connect(relay, !tls), await connect(relay, !tls)]
  expect(relay.asked).toEqual(['websocket', 'websocket'])
  for (const size of [0, 1, 1400, 65_536]) {
    const bytes = systemRandom(size)
    a.send(b.key, bytes)
    expect(Buffer.compare(await b.next(), bytes)).toBe(0)
    b.send(a.key, bytes)
    expect(Buffer.compare(await a.next(), bytes)).toBe(0)
  }
})

test('borders of messages mean nothing, and a text message ends the connection with 1003', async () => {
  const relay = await startRelay(false)
  const webSocket = new WebSocket(`ws://127.0.0.1:${relay.port}/derp`, 'derp')
  const received: Buffer[] = []
  webSocket.on('message', (data) => received.push(data as Buffer))
  await new Promise((resolve) => webSocket.once('open', resolve))
  expect(webSocket.protocol).toBe('derp')
  await expect.poll(() => Buffer.concat(received).length, { timeout: 30_000 }).toBe(45) // ServerKey: header, magic, key
  const closed = new Promise<number>((resolve) => webSocket.once('close', resolve))
  webSocket.send('text')
  expect(await closed).toBe(1003)
  await expect.poll(() => relay.server.stats().connections, { timeout: 30_000 }).toBe(0)
})

test('messages are short enough for relays that take none above 32 KiB', async () => {
  const web = http.createServer()
  await new Promise<void>((resolve) => web.listen(0, '127.0.0.1', resolve))
  const sockets = new WebSocketServer({ server: web, maxPayload: 32_768 })
  cleanup.push(() => {
    for (const socket of sockets.clients) socket.terminate()
    web.close()
  })
  let received = 0
  sockets.on('connection', (socket) => socket.on('message', (data) => (received += (data as Buffer).length)))
  const node: RelayNode = { name: '1a', regionId: 1, hostName: '127.0.0.1', ipv6: 'none', derpPort: (web.address() as AddressInfo).port }
  const connection = await dialDerp({ node, plainHttp: true, webSocket: true })
  cleanup.push(() => connection.close())
  let closed = ''
  connection.start({ bytes: () => undefined, writable: () => undefined, closed: (reason) => (closed = reason) })
  connection.write(new Uint8Array(100_000))
  connection.write(new Uint8Array(10))
  await expect.poll(() => received, { timeout: 30_000 }).toBe(100_010)
  expect(closed).toBe('')
})

test('a node falls back to WebSocket where a proxy passes nothing else', async () => {
  const relay = await startRelay(false, true)
  const inputs: RelayLinksInput[] = []
  const driver = new RelayDriver((input) => inputs.push(input), true, systemOutside)
  cleanup.push(() => driver.close())
  driver.perform({ type: 'relayDial', link: 3, region: { id: 1, code: 'one', name: 'One', nodes: [relay.node] }, node: relay.node })
  await expect.poll(() => inputs.map((input) => input.type), { timeout: 30_000 }).toContain('bytes')
  expect(inputs[0]).toMatchObject({ type: 'opened', link: 3 })
  expect(relay.asked).toEqual(['DERP', 'websocket'])
})

test('a relay that speaks no WebSocket has an error that says so, and a dial that is given up ends', async () => {
  const web = http.createServer((_request, response) => void response.writeHead(426).end())
  await new Promise<void>((resolve) => web.listen(0, '127.0.0.1', resolve))
  cleanup.push(() => web.close())
  const node: RelayNode = { name: '1a', regionId: 1, hostName: '127.0.0.1', ipv6: 'none', derpPort: (web.address() as AddressInfo).port }
  await expect(dialDerp({ node, plainHttp: true, webSocket: true })).rejects.toMatchObject({ code: 'DERP_DIAL_REFUSED' })
  web.removeAllListeners('request')
  await expect(dialDerp({ node, plainHttp: true, webSocket: true, timeoutMs: 100 })).rejects.toMatchObject({ code: 'DERP_DIAL_TIMEOUT' })
})
