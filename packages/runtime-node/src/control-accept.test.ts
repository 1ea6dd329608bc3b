import http from 'node:http'
import http2 from 'node:http2'
import type { AddressInfo } from 'node:net'
import type { Duplex } from 'node:stream'
import { CAPABILITY_VERSION, formatHandshakeHeader, NOISE_HANDSHAKE_HEADER, NOISE_UPGRADE, NoiseInitiator } from '@meshwright/control-protocol'
import { MachinePrivateKey, nobleProvider } from '@meshwright/crypto'
import { afterEach, expect, test } from 'vitest'
import { createWebSocketStream, WebSocket } from 'ws'
import { acceptControl } from './control-accept.ts'
import { NoiseStream } from './noise-stream.ts'
import { systemRandom } from './random.ts'

const serverKey = MachinePrivateKey.generate(systemRandom)
const cleanups: (() => void)[] = []

afterEach(() => {
  for (const cleanup of cleanups.splice(0).reverse()) cleanup()
})

/** Machine keys of connections that are over. */
const gone = new Set<string>()

// A control server that echoes every request.
async function serve(pingEveryMs = 30_000): Promise<number> {
  const server = http.createServer()
  server.on('upgrade', (request, socket, head) => {
    acceptControl(request, socket, head, { machineKey: serverKey, random: systemRandom, pingEveryMs }).then(({ session, machineKey }) => {
      cleanups.push(() => session.destroy())
      session.once('close', () => gone.add(machineKey.text))
      session.on('stream', (stream) => {
        stream.respond({ ':status': 200, 'x-machine': machineKey.text })
        stream.pipe(stream)
      })
    }, () => {})
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  cleanups.push(() => {
    server.closeAllConnections()
    server.close()
  })
  return (server.address() as AddressInfo).port
}

function initiator(): { readonly channel: NoiseInitiator; readonly machineKey: MachinePrivateKey } {
  const machineKey = MachinePrivateKey.generate(systemRandom)
  return { machineKey, channel: new NoiseInitiator({ provider: nobleProvider, random: systemRandom, machineKey, serverKey: serverKey.publicKey(), version: CAPABILITY_VERSION }) }
}

/** Sends a body through the channel and gives what came back, and from whom it was taken. */
async function echo(raw: Duplex, channel: NoiseInitiator, body: Buffer): Promise<{ readonly machine: unknown; readonly body: Buffer; readonly early: boolean }> {
  const stream = new NoiseStream(raw, channel)
  let early = false
  stream.on('early', () => (early = true))
  stream.on('error', () => stream.destroy())
  const established = new Promise((resolve) => stream.once('established', resolve))
  stream.begin(new Uint8Array(0))
  await established
  const session = http2.connect('http://unused', { createConnection: () => stream })
  session.on('error', () => undefined)
  cleanups.push(() => session.destroy())
  const request = session.request({ ':method': 'POST', ':path': '/echo' })
  request.end(body)
  const parts: Buffer[] = []
  let machine: unknown
  request.on('response', (headers) => (machine = headers['x-machine']))
  for await (const part of request) parts.push(part as Buffer)
  return { machine, body: Buffer.concat(parts), early }
}

test('a WebSocket carries the control protocol, as browsers must: the initiation in the query, no early payload', async () => {
  const port = await serve()
  const { channel, machineKey } = initiator()
  const query = new URLSearchParams({ [NOISE_HANDSHAKE_HEADER]: formatHandshakeHeader(channel.initiation) })
  const socket = new WebSocket(`ws://127.0.0.1:${port}/ts2021?${query.toString()}`, [NOISE_UPGRADE], { origin: 'https://anywhere.example' })
  const raw = createWebSocketStream(socket) // at once: the server speaks first
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject))
  expect([socket.protocol, socket.extensions]).toEqual([NOISE_UPGRADE, ''])
  const sent = Buffer.from(new Uint8Array(300_000).map((_, i) => i % 251))
  const { machine, body, early } = await echo(raw, channel, sent)
  expect(machine).toBe(machineKey.publicKey().text)
  expect(Buffer.compare(body, sent)).toBe(0)
  expect(early).toBe(false)
})

test('the plain upgrade may come by GET as well as by POST', async () => {
  const port = await serve()
  for (const method of ['GET', 'POST']) {
    const { channel, machineKey } = initiator()
    const headers = { Upgrade: NOISE_UPGRADE, Connection: 'upgrade', [NOISE_HANDSHAKE_HEADER]: formatHandshakeHeader(channel.initiation) }
    const raw = await new Promise<Duplex>((resolve, reject) => {
      http.request({ port, host: '127.0.0.1', path: '/ts2021', method, headers, agent: false }).once('error', reject).once('upgrade', (_response, socket, head) => {
        if (head.length > 0) socket.unshift(head)
        resolve(socket)
      }).end()
    })
    const answer = await echo(raw, channel, Buffer.from(method))
    expect([answer.machine, answer.body.toString(), answer.early]).toEqual([machineKey.publicKey().text, method, true])
  }
})

test.each([
  ['no initiation', '/ts2021', [NOISE_UPGRADE]],
  ['a broken initiation', `/ts2021?${NOISE_HANDSHAKE_HEADER}=AAAA`, [NOISE_UPGRADE]],
  ['another subprotocol', '/ts2021', ['chat']],
])('a WebSocket with %s is refused with status 400', async (_what, path, protocols) => {
  const socket = new WebSocket(`ws://127.0.0.1:${await serve()}${path}`, protocols)
  socket.on('error', () => undefined)
  const status = await new Promise((resolve) => socket.once('unexpected-response', (_request, response) => resolve(response.statusCode)))
  expect(status).toBe(400)
})

test('a client that falls silent is let go after two pings, one that answers is not', async () => {
  const port = await serve(500) // two pings are longer than a busy computer stands still
  const connect = async (): Promise<{ readonly raw: Duplex; readonly machine: string }> => {
    const { channel, machineKey } = initiator()
    const headers = { Upgrade: NOISE_UPGRADE, Connection: 'upgrade', [NOISE_HANDSHAKE_HEADER]: formatHandshakeHeader(channel.initiation) }
    const raw = await new Promise<Duplex>((resolve, reject) => {
      http.request({ port, host: '127.0.0.1', path: '/ts2021', method: 'POST', headers, agent: false }).once('error', reject).once('upgrade', (_response, socket, head) => {
        if (head.length > 0) socket.unshift(head)
        resolve(socket)
      }).end()
    })
    await echo(raw, channel, Buffer.from('hello'))
    return { raw, machine: machineKey.publicKey().text }
  }
  const [silent, lively] = [await connect(), await connect()]
  silent.raw.pause() // nothing that comes is read from here on
  await expect.poll(() => gone.has(silent.machine)).toBe(true)
  expect(gone.has(lively.machine)).toBe(false)
})
