import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import dgram from 'node:dgram'
import os from 'node:os'
import path from 'node:path'
import { randomBytes } from 'node:crypto'
import { NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import { encodeFrame, encodePacketFrame, FRAME_RECV_PACKET, FRAME_SEND_PACKET, FrameReader, sealClientInfo } from '@meshwright/derp'
import { encodeBindingRequest } from '@meshwright/nat-traversal'
import { nodeCryptoProvider, systemRandom } from '@meshwright/runtime-node/relay'
import type net from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { freePort } from '../interop/lab-process.ts'
import { joinRelay } from '../load/flood.ts'
import { Measured, pause, until } from '../load/process.ts'
import { bundleProgram } from '../load/servers.ts'
import { Crowd, DERP_HEAD, LIAR_ADDRESS, relayKeyIn, talk } from './wire.ts'

// The relay program with STUN under scripted liars; two honest clients go on talking through it.
const linux = process.platform === 'linux'
const GROWTH_BYTES = 160 * 1_048_576
/** Fewer than a real attack has, so that it is quick: MESHWRIGHT_HALF_OPEN=10000 for the whole of it. */
const HALF_OPEN = Number(process.env['MESHWRIGHT_HALF_OPEN'] ?? 2_000)

const folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-hostile-'))
let relay: Measured
let remove: () => void = () => undefined
let port = 0
let stunPort = 0
let rss = 0
const honest: { readonly key: NodePrivateKey; readonly socket: net.Socket }[] = []
let delivered = 0

beforeAll(async () => {
  if (!linux) return
  const bundled = await bundleProgram('examples/relay/src/main.ts', 'hostile-relay')
  remove = bundled.remove
  ;[port, stunPort] = [await freePort(), await freePort()]
  relay = new Measured('our relay', process.execPath, [bundled.file, '--key-file', path.join(folder, 'relay.json'), '--http', '--addr', `127.0.0.1:${port}`, '--stun-port', String(stunPort)])
  if ((await until(() => relay.log.includes('relay listening'), 20_000)) === undefined) throw new Error(relay.log)
  for (let i = 0; i < 2; i += 1) {
    const key = NodePrivateKey.generate(systemRandom)
    honest.push({ key, socket: await joinRelay(port, key) })
  }
  const reader = new FrameReader(() => 1 << 20)
  honest[1]?.socket.on('data', (bytes: Buffer) => {
    reader.push(bytes)
    for (let frame = reader.next(); frame !== undefined; frame = reader.next()) if (frame.code === FRAME_RECV_PACKET) delivered += 1
  })
  rss = relay.rssBytes
})

afterAll(async () => {
  for (const { socket } of honest) socket.destroy()
  await relay?.stop()
  remove()
  rmSync(folder, { recursive: true, force: true })
})

/** The relay lives, has not grown, and delivers between honest clients. */
async function unharmed(): Promise<void> {
  expect(relay.alive, relay.log).toBe(true)
  const [from, to] = honest
  if (from === undefined || to === undefined) throw new Error('no clients')
  const before = delivered
  for (let i = 0; i < 20; i += 1) from.socket.write(encodePacketFrame(FRAME_SEND_PACKET, to.key.publicKey().bytes, randomBytes(1_000)))
  expect(await until(() => delivered === before + 20, 30_000)).toBeDefined()
  expect(relay.rssBytes - rss).toBeLessThan(GROWTH_BYTES)
}

const header = (type: number, length: number): Buffer => Buffer.from([type, length >>> 24, (length >>> 16) & 255, (length >>> 8) & 255, length & 255])

/** An introduction of a liar, right in all but what is wrong with it. */
function introduction(received: Buffer, more: Buffer, json?: string): Buffer {
  const key = NodePrivateKey.generate(systemRandom)
  const server = NodePublicKey.fromBytes(relayKeyIn(received))
  if (server === undefined) throw new Error('no key')
  const box = sealClientInfo(key, server, { version: 2, canAckPings: false, isProber: false, ...(json !== undefined && { appName: json }) }, systemRandom, nodeCryptoProvider)
  if (box === undefined) throw new Error('no box')
  return Buffer.concat([encodeFrame({ type: 'clientInfo', key: key.publicKey(), box }), more])
}

/** Introductions that were recorded with real clients and another server: sealed to a key that this relay has not. */
const RECORDED = (
  JSON.parse(readFileSync(path.resolve(import.meta.dirname, '../vectors/derp/client-vs-derper.json'), 'utf8')) as readonly { readonly name: string; readonly transcript: readonly { readonly dir: string; readonly hex?: string }[] }[]
).flatMap(({ name, transcript }) => {
  const sent = transcript.filter((each) => each.dir === 'c2s' && each.hex !== undefined).map((each) => Buffer.from(each.hex ?? '', 'hex'))
  return sent.length > 1 && sent[0]?.toString('latin1').startsWith('GET /derp') === true ? [[name, Buffer.concat(sent.slice(1))] as const] : []
})

describe.runIf(linux)('the relay among liars', () => {
  test.each(RECORDED)('a replayed session of another relay is not let in: %s', async (_name, bytes) => {
    const { closed } = await talk(port, [DERP_HEAD, () => bytes], 5_000)
    expect(closed).toBe(true)
  })

  test.each<readonly [string, Buffer]>([
    ['no introduction but a packet', Buffer.concat([header(4, 64), randomBytes(64)])],
    ['an introduction of 4 GiB', header(2, 0xffff_ffff)],
    ['an introduction that is too short', Buffer.concat([header(2, 31), randomBytes(31)])],
    ['an introduction with a key of zeros', Buffer.concat([header(2, 120), Buffer.alloc(120)])],
    ['an introduction with a box of random bytes', Buffer.concat([header(2, 200), randomBytes(200)])],
    ['an introduction of 256 KiB of random bytes', Buffer.concat([header(2, 262_144), randomBytes(262_144)])],
  ])('is not let in: %s', async (_name, bytes) => {
    const { closed } = await talk(port, [DERP_HEAD, () => bytes], 15_000)
    expect(closed).toBe(true)
    await unharmed()
  })

  test.each<readonly [string, Buffer]>([
    ['a packet of more than 64 KiB', header(4, 65_536 + 33)],
    ['a packet of 4 GiB', header(4, 0xffff_ffff)],
    ['a packet without a whole key', Buffer.concat([header(4, 31), Buffer.alloc(31)])],
    ['watching without the key of the mesh', header(0x10, 0)],
    ['forwarding without it', Buffer.concat([header(0x0a, 65), Buffer.alloc(65)])],
    ['closing another without it', Buffer.concat([header(0x11, 32), Buffer.alloc(32)])],
    ['a home note of two bytes', Buffer.concat([header(7, 2), Buffer.alloc(2)])],
    ['a ping of 7 bytes', Buffer.concat([header(0x12, 7), Buffer.alloc(7)])],
    ['a ping of 1,001 bytes', Buffer.concat([header(0x12, 1_001), Buffer.alloc(1_001)])],
  ])('who has come in is thrown out for: %s', async (_name, bytes) => {
    const { closed } = await talk(port, [DERP_HEAD, (received) => introduction(received, bytes)], 5_000)
    expect(closed).toBe(true)
    await unharmed()
  })

  test('frames of unknown types are passed over, a gigabyte long or not, and hold no memory', async () => {
    const { closed } = await talk(port, [DERP_HEAD, (received) => introduction(received, Buffer.concat([header(0x77, 3), Buffer.alloc(3), header(0x78, 1 << 30), Buffer.alloc(8 << 20)]))], 1_000)
    expect(closed).toBe(false)
    await unharmed()
  })

  test('floods of pings, of packets to nobody and of packets to oneself are answered within bounds', async () => {
    const ping = Buffer.concat([header(0x12, 8), Buffer.alloc(8)])
    const nowhere = Buffer.concat([header(4, 132), randomBytes(132)])
    await talk(port, [DERP_HEAD, (received) => introduction(received, Buffer.concat(Array.from({ length: 50_000 }, (_, i) => (i % 2 === 0 ? ping : nowhere))))], 1_500)
    await unharmed()
  })

  test('a client that never reads is closed, whoever floods it', async () => {
    const key = NodePrivateKey.generate(systemRandom)
    const deaf = await joinRelay(port, key)
    deaf.pause()
    const flooder = await joinRelay(port, NodePrivateKey.generate(systemRandom))
    const frame = encodePacketFrame(FRAME_SEND_PACKET, key.publicKey().bytes, randomBytes(60_000))
    let closed = false
    deaf.once('close', () => (closed = true))
    const flood = (): void => {
      for (let i = 0; i < 200 && !flooder.destroyed && flooder.write(frame); i += 1);
    }
    flooder.on('drain', flood).resume()
    flood()
    await pause(3_500)
    await unharmed()
    deaf.resume()
    expect(await until(() => closed, 30_000)).toBeDefined()
    flooder.destroy()
  })

  test.each<readonly [string, string | Buffer]>([
    ['no HTTP', Buffer.alloc(4_096, 0xfe)],
    ['a header without end', `GET /derp HTTP/1.1\r\nX: ${'a'.repeat(100_000)}`],
    ['a WebSocket without a key', 'GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: derp\r\n\r\n'],
    ['a WebSocket of another version', 'GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 7\r\nSec-WebSocket-Protocol: derp\r\n\r\n'],
    ['an upgrade of another path', 'GET /other HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n'],
  ])('its HTTP side refuses: %s', async (_name, bytes) => {
    const { received, closed } = await talk(port, [bytes], 10_000)
    expect(closed).toBe(true)
    expect(received.toString('latin1')).toMatch(/^HTTP\/1\.1 4\d\d|^$/)
    await unharmed()
  })

  test('a WebSocket message of 2 MiB, or one that claims 2^62 bytes, ends its connection', async () => {
    const upgrade = 'GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: derp\r\n\r\n'
    for (const length of ['0000000000200000', '4000000000000000']) {
      const claim = Buffer.concat([Buffer.from('82ff', 'hex'), Buffer.from(length, 'hex'), Buffer.alloc(4 + 65_536)])
      expect((await talk(port, [upgrade, () => claim], 5_000)).closed).toBe(true)
    }
    await unharmed()
  })

  test(`${HALF_OPEN} connections that stop in the middle keep nobody out, and are thrown out again`, async () => {
    const crowd = new Crowd()
    await crowd.open(port, HALF_OPEN / 2, DERP_HEAD)
    await crowd.open(port, HALF_OPEN / 2, DERP_HEAD.slice(0, 30))
    const late = await joinRelay(port, NodePrivateKey.generate(systemRandom))
    await unharmed()
    late.destroy()
    expect(await until(() => crowd.closed === crowd.size, 60_000)).toBeDefined()
    crowd.close()
    await unharmed()
  })
})

describe.runIf(linux)('STUN among liars', () => {
  test('20,000 datagrams that are no requests get no answer; honest requests do', async () => {
    const liar = dgram.createSocket('udp4')
    await new Promise<void>((resolve) => liar.bind(0, LIAR_ADDRESS, resolve))
    let answers = 0
    liar.on('message', () => (answers += 1))
    const recorded = JSON.parse(readFileSync(path.resolve(import.meta.dirname, '../vectors/stun/server-behaviour.json'), 'utf8')) as readonly { readonly request: string; readonly response: string | null }[]
    const good = encodeBindingRequest(systemRandom(12))
    const bad = [
      ...recorded.filter((each) => each.response === null).map((each) => Buffer.from(each.request, 'hex')),
      ...Array.from({ length: good.length }, (_, length) => good.subarray(0, length)),
      ...Array.from({ length: good.length }, (_, at) => Uint8Array.from(good, (byte, i) => (i === at ? byte ^ 0x40 : byte))),
      Buffer.concat([good, Buffer.alloc(60_000)]),
      randomBytes(1_400),
    ]
    for (let i = 0; i < 20_000; i += 1) {
      const bytes = bad[i % bad.length] ?? good
      liar.send(bytes, stunPort, '127.0.0.1')
      if (i % 500 === 499) await pause(5)
    }
    await pause(300)
    expect(answers).toBe(0)
    liar.send(good, stunPort, '127.0.0.1')
    expect(await until(() => answers === 1, 30_000)).toBeDefined()
    liar.close()
    await unharmed()
  })
})
