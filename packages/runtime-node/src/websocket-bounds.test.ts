import http from 'node:http'
import net, { type AddressInfo } from 'node:net'
import { CAPABILITY_VERSION, formatHandshakeHeader, NOISE_HANDSHAKE_HEADER, NOISE_UPGRADE, NoiseInitiator } from '@meshwright/control-protocol'
import { MachinePrivateKey, NodePrivateKey, nobleProvider } from '@meshwright/crypto'
import { DerpServer } from '@meshwright/derp'
import { afterEach, expect, test } from 'vitest'
import { WebSocketServer } from 'ws'
import { suspendAwareClock } from './clock.ts'
import { acceptControl } from './control-accept.ts'
import { attachDerpServer } from './derp-accept.ts'
import { dialDerp } from './derp-dial.ts'
import { systemRandom } from './random.ts'

const serverKey = MachinePrivateKey.generate(systemRandom)
const [CONTINUATION, BINARY, PONG] = [0, 2, 10]
const cleanups: (() => void)[] = []
afterEach(() => {
  for (const cleanup of cleanups.splice(0).reverse()) cleanup()
})

interface Target {
  readonly port: number
  readonly path: string
  readonly protocol: string
  /** Bytes of which the server's pace was told. */
  held(): number
}

async function listening(server: http.Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  cleanups.push(() => {
    server.closeAllConnections()
    server.close()
  })
  return (server.address() as AddressInfo).port
}

const targets: Readonly<Record<string, () => Promise<Target>>> = {
  relay: async () => {
    const web = http.createServer()
    const service = attachDerpServer(web, new DerpServer({ privateKey: NodePrivateKey.generate(systemRandom), random: systemRandom }), { clock: suspendAwareClock() })
    cleanups.push(() => service.close())
    return { port: await listening(web), path: '/derp', protocol: 'derp', held: () => 0 }
  },
  control: async () => {
    let held = 0
    const pace = { stepBytes: 512, wait: () => undefined, hold: (bytes: number) => (held += bytes) < 4 << 20 }
    const web = http.createServer()
    web.on('upgrade', (request, socket, head) => {
      cleanups.push(() => socket.destroy())
      acceptControl(request, socket, head, { machineKey: serverKey, random: systemRandom, pace }).catch(() => undefined)
    })
    const channel = new NoiseInitiator({ provider: nobleProvider, random: systemRandom, machineKey: MachinePrivateKey.generate(systemRandom), serverKey: serverKey.publicKey(), version: CAPABILITY_VERSION })
    const query = new URLSearchParams({ [NOISE_HANDSHAKE_HEADER]: formatHandshakeHeader(channel.initiation) })
    return { port: await listening(web), path: `/ts2021?${query.toString()}`, protocol: NOISE_UPGRADE, held: () => held }
  },
}

/** A frame of a client, masked with zeros. */
function frame(code: number, last: boolean, payload: Uint8Array, length: number = payload.length): Buffer {
  const head = Buffer.alloc(length < 126 ? 6 : length < 65_536 ? 8 : 14)
  head[0] = (last ? 0x80 : 0) | code
  head[1] = 0x80 | (length < 126 ? length : length < 65_536 ? 126 : 127)
  if (length >= 65_536) head.writeUInt32BE(length, 6)
  else if (length >= 126) head.writeUInt16BE(length, 2)
  return Buffer.concat([head, payload])
}

function knock({ port, path, protocol }: Target): net.Socket {
  const socket = net.connect(port, '127.0.0.1').on('error', () => undefined)
  cleanups.push(() => void socket.destroy())
  socket.resume().write(
    [`GET ${path} HTTP/1.1`, 'Host: x', 'Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==', `Sec-WebSocket-Protocol: ${protocol}`, '', ''].join('\r\n'),
  )
  return socket
}

const one = new Uint8Array(1)
const pongs = Buffer.concat(Array.from({ length: 9_000 }, () => frame(PONG, true, new Uint8Array(125))))

// Each message leaves out its end.
test.each([
  ['a message that is too long', [frame(BINARY, true, new Uint8Array(0), (1 << 20) + 1)]],
  ['a message in pieces of a byte', [frame(BINARY, false, one), ...Array.from({ length: 300 }, () => frame(CONTINUATION, false, one))]],
  ['a message with much between its pieces', [frame(BINARY, false, one), pongs, frame(CONTINUATION, false, one)]],
])('%s ends a WebSocket, at the relay and at the control server', async (_what, pieces) => {
  for (const target of [await targets['relay']?.(), await targets['control']?.()]) {
    if (target === undefined) throw new Error('no such server')
    const socket = knock(target)
    const closed = new Promise((resolve) => socket.once('close', resolve))
    socket.write(Buffer.concat(pieces))
    await closed
    await expect.poll(() => target.held(), { timeout: 30_000 }).toBeLessThanOrEqual(0)
  }
})

test('a relay waits for no message above 32 KiB', async () => {
  const target = await targets['relay']?.()
  if (target === undefined) throw new Error('no such server')
  const socket = knock(target)
  const closed = new Promise((resolve) => socket.once('close', resolve))
  socket.write(frame(BINARY, true, one, 32_769))
  await closed
})

test('what messages hold that are not whole counts as what strangers have sent', async () => {
  const target = await targets['control']?.()
  if (target === undefined) throw new Error('no such server')
  const socket = knock(target)
  socket.write(frame(BINARY, true, new Uint8Array(20_000), 32_768))
  await expect.poll(() => target.held(), { timeout: 30_000 }).toBeGreaterThanOrEqual(20_000)
  socket.destroy()
  await expect.poll(() => target.held(), { timeout: 30_000 }).toBe(0)
})

test('whole messages of 32 KiB, many at once and in pieces, are taken', async () => {
  const target = await targets['relay']?.()
  if (target === undefined) throw new Error('no such server')
  const socket = knock(target)
  let answered = 0
  socket.on('data', (bytes: Buffer) => (answered += bytes.length))
  // An introduction that does not open is told by the end of the connection: so much of it has to be read before.
  const pieces = [frame(BINARY, false, Uint8Array.of(2, 0, 0, 0x40, 0)), ...Array.from({ length: 16 }, () => frame(CONTINUATION, false, new Uint8Array(1_000))), frame(CONTINUATION, true, new Uint8Array(300))]
  const closed = new Promise((resolve) => socket.once('close', resolve))
  socket.write(Buffer.concat(pieces))
  await expect.poll(() => answered, { timeout: 30_000 }).toBeGreaterThan(100)
  expect(socket.destroyed).toBe(false)
  socket.write(frame(BINARY, true, new Uint8Array(200)))
  await closed
})

test('a relay that begins a message, and says much else before its end, is left', async () => {
  const web = http.createServer()
  const sockets = new WebSocketServer({ noServer: true })
  web.on('upgrade', (request, socket, head) => {
    cleanups.push(() => socket.destroy())
    socket.on('error', () => undefined)
    sockets.handleUpgrade(request, socket, head, () => {
      // As a server's, without masks; a piece of a byte keeps the piece of the stream in which it comes.
      const other = Buffer.concat(Array.from({ length: 500 }, () => Buffer.concat([Buffer.of(0x80 | PONG, 125), new Uint8Array(125)])))
      socket.write(Buffer.of(BINARY, 1, 0))
      for (let i = 0; i < 40; i += 1) socket.write(Buffer.concat([Buffer.of(CONTINUATION, 1, 0), other]))
    })
  })
  const derpPort = await listening(web)
  const connection = await dialDerp({ node: { name: '1a', regionId: 1, hostName: '127.0.0.1', ipv6: 'none', derpPort }, plainHttp: true, webSocket: true })
  cleanups.push(() => connection.close())
  await new Promise<string>((resolve) => connection.start({ bytes: () => undefined, writable: () => undefined, closed: resolve }))
})
