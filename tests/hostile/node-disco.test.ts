import { randomBytes } from 'node:crypto'
import dgram from 'node:dgram'
import { NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import { encodePacketFrame, FRAME_SEND_PACKET } from '@meshwright/derp'
import { parseEndpoint } from '@meshwright/ip'
import type { DiscoMessage } from '@meshwright/nat-traversal'
import { systemRandom } from '@meshwright/runtime-node/control'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { joinRelay } from '../load/flood.ts'
import { HonestRelay } from './honest-relay.ts'
import { LiarPeer } from './liar-peer.ts'
import { FRIEND_IP, NodeRig } from './node-rig.ts'

// Our node under a member of its mesh that lies about paths: by UDP and by the relay of both. Where the victim sends anything is seen at
// sockets that stand where the lies point to.
const linux = process.platform === 'linux'
const rig = new NodeRig()
const relay = new HonestRelay()
const liar = new LiarPeer()
const LIAR_IP = '100.64.0.3'
/** Whoever stands where a lie leads to, and what it hears. */
const traps: { readonly name: string; readonly socket: dgram.Socket; readonly heard: Buffer[] }[] = []
let viaRelay: Awaited<ReturnType<typeof joinRelay>>
let relayPort = 0

async function trap(name: string, address: string): Promise<string> {
  const socket = dgram.createSocket('udp4')
  const heard: Buffer[] = []
  socket.on('message', (bytes) => void heard.push(bytes))
  await new Promise<void>((resolve) => socket.bind(0, address, resolve))
  traps.push({ name, socket, heard })
  return `${address}:${socket.address().port}`
}

beforeAll(async () => {
  if (!linux) return
  await liar.start()
  rig.guests.push(liar.describe(3))
  const stun = await trap('the STUN port of the relay', '127.0.0.78')
  relayPort = await relay.start()
  await rig.start({ '900': { RegionID: 900, RegionCode: 'ours', RegionName: 'Ours', Nodes: [{ Name: '900a', RegionID: 900, HostName: '127.0.0.1', IPv4: '127.0.0.78', IPv6: 'none', DERPPort: relayPort, STUNPort: Number(stun.split(':')[1]), InsecureForTests: true, CertName: 'plain-http' }] } })
  liar.aim(rig.control.nodes.get('victim') ?? expect.fail('no victim'))
  viaRelay = await joinRelay(relayPort, liar.nodeKey)
  await liar.handshake()
  await rig.lab.until('victim and liar are joined directly', async () => /"Endpoint":"127\.0\.0\.66/.test((await rig.ping(LIAR_IP, 'disco', 3_000)) ?? ''))
})

afterAll(async () => {
  viaRelay?.destroy()
  await rig.stop()
  relay.stop()
  liar.stop()
  for (const { socket } of traps) socket.close()
})

const relayed = (message: DiscoMessage): boolean => viaRelay.write(encodePacketFrame(FRAME_SEND_PACKET, liar.victimKey.bytes, liar.seal(message)))
const endpoints = (...texts: readonly string[]): DiscoMessage => ({ type: 'call-me-maybe', endpoints: texts.map((text) => parseEndpoint(text) ?? expect.fail(text)) })
const pingFrom = (nodeKey: NodePublicKey, txId: Uint8Array = randomBytes(12)): Uint8Array => liar.seal({ type: 'ping', txId, nodeKey, padding: 0 })
const ownPort = (): number => Number(rig.control.nodes.get('victim')?.Endpoints?.[0]?.split(':').at(-1))
const candidates = async (): Promise<number> => (await rig.held())['candidates'] ?? Number.NaN

/** The victim reaches its friend and the liar as before, and none of the traps has heard anything but STUN. */
async function unmoved(): Promise<void> {
  await rig.unharmed()
  const told = await rig.lab.until('the friend answers directly', async () => {
    const answer = await rig.ping(FRIEND_IP, 'disco', 3_000)
    return answer !== undefined && /"Endpoint":"(?!")/.test(answer) ? answer : undefined
  })
  expect(told).not.toContain('127.0.0.66')
  for (const { name, heard } of traps) expect([name, ...heard.filter((bytes) => bytes[0] === 0x54 || (bytes[0] ?? 9) <= 4 && bytes[0] !== 0)]).toEqual([name])
}

describe.runIf(linux)('our node under a peer that lies about paths', () => {
  test('endpoints of a map at loopback, a relay, the mesh, multicast and its own socket are not tried, and the health names them', async () => {
    const lies = ['127.3.3.40:900', `127.0.0.78:${traps[0]?.socket.address().port ?? 0}`, `127.0.0.78:${relayPort}`, '100.64.0.9:9', '224.0.0.1:9', '255.255.255.255:9', '0.0.0.0:9', `127.0.0.1:${ownPort()}`]
    rig.guests[0] = liar.describe(3, { Endpoints: [...lies, liar.endpoint] })
    rig.tellAll()
    await rig.health(/^The control server names addresses of liar that can be nobody's \(127\.3\.3\.40:900, .*\): they are not tried\. .*/)
    await rig.ping(LIAR_IP, 'disco', 2_000)
    await unmoved()
    rig.guests[0] = liar.describe(3)
    rig.tellAll()
  })

  test('the same endpoints in a call-me-maybe, by the relay: not tried, and the liar is named', async () => {
    const lies = endpoints('127.3.3.40:900', `127.0.0.78:${traps[0]?.socket.address().port ?? 0}`, `127.0.0.78:${relayPort}`, '100.64.0.9:9', '[fd7a:115c:a1e0::9]:9', '224.0.0.1:9', '255.255.255.255:9', '[ff02::1]:9', '0.0.0.0:9', '[::]:9', `127.0.0.1:${ownPort()}`)
    const saying = setInterval(() => relayed(lies), 100)
    await rig.health(/^The node liar says of its paths what no honest node says .*: \d+ times it was ignored\. .*take it out of the mesh$/).finally(() => clearInterval(saying))
    await unmoved()
  })

  test('an empty call-me-maybe forgets nothing, one by UDP is not believed, and three and a half thousand endpoints are sixty-four', async () => {
    const refused = 'disco-call-me-maybe'
    const [before, known] = [await rig.drops(refused), await candidates()]
    for (let times = 0; times < 10; times += 1) {
      relayed(endpoints())
      await liar.send(liar.seal(endpoints('203.0.113.1:1')))
    }
    await rig.dropped(before, 20, refused)
    expect(await candidates()).toBe(known)
    const crowd = endpoints(...Array.from({ length: 3_500 }, (_, index) => `203.0.${113 + (index >> 8)}.${index & 255}:${index + 1}`))
    const calling = setInterval(() => relayed(crowd), 600) // one in half a second is taken
    await rig.lab.until('some of them are known', async () => (await candidates()) > known).finally(() => clearInterval(calling))
    expect(await candidates()).toBeLessThanOrEqual(known + 64)
    await unmoved()
  })

  test('call-me-maybes by the thousand, each with other endpoints, cause a bounded number of pings', async () => {
    const answered = liar.disco.length
    for (let times = 0; times < 2_000; times += 1) relayed(endpoints(`203.0.113.${times & 255}:${times + 1}`, liar.endpoint))
    await rig.lab.until('the last is judged', async () => (await rig.drops('disco-early-call-me-maybe')) > 1_000)
    expect(liar.disco.length - answered).toBeLessThan(100)
    expect((await rig.held())['disco-pings']).toBeLessThanOrEqual(2 * 512)
    await unmoved()
  })

  test('pongs for pings that were never sent, pings under the keys of others and replays change no path', async () => {
    const source = parseEndpoint('127.0.0.66:9') ?? expect.fail('endpoint')
    const before = await rig.drops('disco-unexpected-pong')
    for (let times = 0; times < 200; times += 1) await liar.send(liar.seal({ type: 'pong', txId: randomBytes(12), source }))
    await rig.dropped(before, 200, 'disco-unexpected-pong')
    const friend = NodePublicKey.parse(rig.control.nodes.get('friend')?.NodeKey ?? '') ?? expect.fail('no key')
    for (const key of [friend, liar.victimKey, NodePrivateKey.generate(systemRandom).publicKey()]) for (let times = 0; times < 20; times += 1) await liar.send(pingFrom(key))
    const again = pingFrom(liar.publicKey)
    const duplicates = await rig.drops('disco-duplicate-ping')
    for (let times = 0; times < 51; times += 1) await liar.send(again)
    await rig.dropped(duplicates, 50, 'disco-duplicate-ping')
    await unmoved()
  })

  test('pings from ever new ports are a hundred candidates at most', async () => {
    const known = await candidates()
    const sockets = await Promise.all(Array.from({ length: 300 }, async () => {
      const socket = dgram.createSocket('udp4')
      await new Promise<void>((resolve) => socket.bind(0, '127.0.0.66', resolve))
      return socket
    }))
    for (const socket of sockets) await liar.sendFrom(socket, pingFrom(liar.publicKey))
    await rig.lab.until('they are heard', async () => (await candidates()) > known + 20)
    expect(await candidates()).toBeLessThanOrEqual(100 + 64 + known)
    for (const socket of sockets) socket.close()
    await unmoved()
  })

  test('everything that it has said, said again by another socket and by the relay, in the name of nobody', async () => {
    const other = dgram.createSocket('udp4')
    await new Promise<void>((resolve) => other.bind(0, '127.0.0.79', resolve))
    const stale = [liar.seal(endpoints('203.0.113.9:9')), pingFrom(liar.publicKey), liar.seal({ type: 'pong', txId: randomBytes(12), source: parseEndpoint('127.0.0.1:1') ?? expect.fail('endpoint') })]
    for (let times = 0; times < 30; times += 1) for (const bytes of stale) await liar.sendFrom(other, bytes)
    other.close()
    await unmoved()
  })

  test('bodies that are cut, of unknown types and versions, and boxes around nothing', async () => {
    for (let type = 0; type <= 12; type += 1) for (const version of [0, 1, 255]) for (const length of [0, 1, 12, 18, 44, 1_300]) await liar.send(liar.seal(Buffer.concat([Buffer.from([type, version]), randomBytes(length)])))
    await liar.send(liar.seal(new Uint8Array(0)))
    await unmoved()
  })
})
