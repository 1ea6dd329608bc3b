import { mkdtempSync, rmSync } from 'node:fs'
import dgram from 'node:dgram'
import os from 'node:os'
import path from 'node:path'
import { randomBytes } from 'node:crypto'
import { NodePrivateKey } from '@meshwright/crypto'
import { encodePacketFrame, FRAME_RECV_PACKET, FRAME_SEND_PACKET, FrameReader } from '@meshwright/derp'
import { encodeBindingRequest } from '@meshwright/nat-traversal'
import { systemRandom } from '@meshwright/runtime-node/relay'
import type net from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { freePort } from '../interop/lab-process.ts'
import { joinRelay } from '../load/flood.ts'
import { Measured, pause, until } from '../load/process.ts'
import { bundleProgram } from '../load/servers.ts'
import { BAD_FRAMES, BAD_HEADS, BAD_INTRODUCTIONS, badDatagrams, header, introduction, introductionOf, ODD_INTRODUCTIONS, pingsAndPackets, RECORDED_SESSIONS, unknownFrames, WEB_SOCKET_CLAIMS, WEB_SOCKET_HEAD } from './relay-liars.ts'
import { Crowd, DERP_HEAD, LIAR_ADDRESS, talk } from './wire.ts'

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

describe.runIf(linux)('the relay among liars', () => {
  test.each(RECORDED_SESSIONS)('a replayed session of another relay is not let in: %s', async (_name, bytes) => {
    const { closed } = await talk(port, [DERP_HEAD, () => bytes], 5_000)
    expect(closed).toBe(true)
  })

  test.each(BAD_INTRODUCTIONS)('is not let in: %s', async (_name, bytes) => {
    const { closed } = await talk(port, [DERP_HEAD, () => bytes], 15_000)
    expect(closed).toBe(true)
    await unharmed()
  })

  test.each(ODD_INTRODUCTIONS)('an introduction that is sealed well holds %s', async (_name, text, letIn) => {
    const ping = Buffer.concat([header(0x12, 8), Buffer.from('12345678')])
    const { received, closed } = await talk(port, [DERP_HEAD, (first) => Buffer.concat([introductionOf(first, text), ping])], letIn ? 1_000 : 5_000)
    // Only who has been let in is answered: its pong.
    expect([received.includes(Buffer.from('12345678')), closed]).toEqual([letIn, !letIn])
    await unharmed()
  })

  test.each(BAD_FRAMES)('who has come in is thrown out for: %s', async (_name, bytes) => {
    const { closed } = await talk(port, [DERP_HEAD, (received) => introduction(received, bytes)], 5_000)
    expect(closed).toBe(true)
    await unharmed()
  })

  test('frames of unknown types are passed over, a gigabyte long or not, and hold no memory', async () => {
    const { closed } = await talk(port, [DERP_HEAD, (received) => introduction(received, unknownFrames(8 << 20))], 1_000)
    expect(closed).toBe(false)
    await unharmed()
  })

  test('floods of pings, of packets to nobody and of packets to oneself are answered within bounds', async () => {
    await talk(port, [DERP_HEAD, (received) => introduction(received, pingsAndPackets(50_000))], 1_500)
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

  test.each(BAD_HEADS)('its HTTP side refuses: %s', async (_name, bytes) => {
    const { received, closed } = await talk(port, [bytes], 10_000)
    expect(closed).toBe(true)
    expect(received.toString('latin1')).toMatch(/^HTTP\/1\.1 4\d\d|^$/)
    await unharmed()
  })

  test('a WebSocket message of 2 MiB, or one that claims 2^62 bytes, ends its connection', async () => {
    for (const claim of WEB_SOCKET_CLAIMS) expect((await talk(port, [WEB_SOCKET_HEAD, () => claim], 5_000)).closed).toBe(true)
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
    const [bad, good] = [badDatagrams(), encodeBindingRequest(systemRandom(12))]
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
