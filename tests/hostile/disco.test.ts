import { randomBytes } from 'node:crypto'
import dgram from 'node:dgram'
import { readFileSync, writeFileSync } from 'node:fs'
import type net from 'node:net'
import { DiscoPrivateKey, DiscoPublicKey, NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import { encodePacketFrame, FRAME_SEND_PACKET } from '@meshwright/derp'
import { parseEndpoint } from '@meshwright/ip'
import { DiscoBox, encodeDiscoMessage } from '@meshwright/nat-traversal'
import { fetchControlKey, nodeCryptoProvider, systemRandom } from '@meshwright/runtime-node/control'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { bundlePrograms, OurControl, OurNode } from '../interop/lab-ours.ts'
import { freePort, Lab } from '../interop/lab-process.ts'
import { joinRelay } from '../load/flood.ts'
import { LightClient } from '../load/light-client.ts'

// A node under liars that speak disco: strangers, and a member of its own mesh whose keys it knows and whose word it takes.
const linux = process.platform === 'linux'
const GROWTH_BYTES = 160 * 1_048_576
const FLOOD = 20_000
const RECORDED = JSON.parse(readFileSync(new URL('../vectors/disco/packets.json', import.meta.url), 'utf8')) as { readonly packets: readonly { readonly packet: string; readonly plain: string }[] } // our own recording
const MAGIC = Buffer.from('5453f09f92ac', 'hex')

/** A peer as the map shows it. */
interface SeenPeer {
  readonly ID: number
  readonly Name: string
  readonly Key: string
  readonly DiscoKey: string
  readonly Endpoints?: readonly string[]
}

const lab = new Lab()
let victim: OurNode
let friend: OurNode
let friendIp = ''
let liar: LightClient
let liarNode: NodePublicKey
let box: DiscoBox
let victimDisco: DiscoPublicKey
let victimKey: NodePublicKey
let viaRelay: net.Socket
let port = 0
let rss = 0
const socket = dgram.createSocket('udp4')
const answers: Buffer[] = []

beforeAll(async () => {
  if (!linux) return
  const programs = await bundlePrograms(lab)
  const [relayPort, stunPort] = [await freePort(), await freePort()]
  const relay = lab.start('our relay', process.execPath, [programs.relay, '--key-file', lab.at('relay.key'), '--http', '--addr', `127.0.0.1:${relayPort}`, '--stun-port', String(stunPort)])
  await lab.until('the relay listens', () => relay.log.includes('relay listening'))
  writeFileSync(lab.at('relays.yaml'), JSON.stringify({ regions: { 900: { regionid: 900, regioncode: 'ours', regionname: 'Ours', nodes: [{ name: '900a', regionid: 900, hostname: '127.0.0.1', ipv4: '127.0.0.1', ipv6: 'none', derpport: relayPort, stunport: stunPort, insecurefortests: true, certname: 'plain-http' }] } } }))
  const control = new OurControl(lab, programs)
  await control.start(lab.at('relays.yaml'))
  const key = await control.authKey('-u', await control.createUser('alice'), '--reusable')
  await control.setPolicy({ acls: [{ action: 'accept', src: ['*'], dst: ['*:*'] }] })
  ;[victim, friend] = [new OurNode(lab, programs, 'victim', ['--allow-loopback']), new OurNode(lab, programs, 'friend', ['--allow-loopback'])]
  await Promise.all([victim.start(), friend.start()])
  await Promise.all([victim.up(control.url, key), friend.up(control.url, key)])
  friendIp = await friend.ip()
  const nodeKey = NodePrivateKey.generate(systemRandom)
  liarNode = nodeKey.publicKey()
  const liarKey = DiscoPrivateKey.generate(systemRandom)
  box = new DiscoBox({ privateKey: liarKey, random: systemRandom, provider: nodeCryptoProvider })
  const heard = new Map<number, SeenPeer>()
  const hear = (text: string): void => {
    const frame = JSON.parse(text) as { readonly Peers?: readonly SeenPeer[]; readonly PeersChanged?: readonly SeenPeer[]; readonly PeersChangedPatch?: readonly ({ readonly NodeID: number } & Partial<SeenPeer>)[] } // our own server's
    for (const peer of [...(frame.Peers ?? []), ...(frame.PeersChanged ?? [])]) heard.set(peer.ID, peer)
    for (const { NodeID, ...patch } of frame.PeersChangedPatch ?? []) heard.set(NodeID, { ...(heard.get(NodeID) ?? expect.fail('a patch of nobody')), ...patch })
  }
  liar = new LightClient(1, { frame: (_client, text) => hear(text), lost: () => undefined }, { nodeKey: nodeKey.publicKey().text, discoKey: liarKey.publicKey().text })
  await liar.join(control.url, await fetchControlKey({ url: control.url }), key)
  await liar.poll()
  const seen = await lab.until('the liar knows its victim', () => [...heard.values()].find((peer) => peer.Name.startsWith('victim.') && (peer.Endpoints ?? []).length > 0))
  victimKey = NodePublicKey.parse(seen.Key) ?? expect.fail('no node key')
  victimDisco = DiscoPublicKey.parse(seen.DiscoKey) ?? expect.fail('no disco key')
  port = Number(seen.Endpoints?.[0]?.split(':').at(-1))
  viaRelay = await joinRelay(relayPort, nodeKey)
  socket.on('message', (bytes) => void answers.push(bytes))
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.66', resolve))
  await lab.until('victim and friend are joined directly', async () => /via (?!DERP)/.test((await victim.run(['ping', friendIp])).out))
  rss = victim.rssBytes
})

afterAll(async () => {
  liar?.drop()
  viaRelay?.destroy()
  socket.close()
  await lab.stop()
})

const send = (bytes: Uint8Array): Promise<void> => new Promise((resolve) => socket.send(bytes, port, '127.0.0.1', () => resolve()))
const relayed = (bytes: Uint8Array): boolean => viaRelay.write(encodePacketFrame(FRAME_SEND_PACKET, victimKey.bytes, bytes))
const seal = (plain: Uint8Array): Uint8Array => box.seal(victimDisco, plain) ?? expect.fail('a low-order key')

/** The victim lives, has not grown, and its path to its friend is as direct as before. */
async function unharmed(): Promise<void> {
  const pong = await victim.run(['ping', '--c', '3', friendIp])
  expect(pong.out, `${pong.err}\n${victim.log}`).toMatch(/pong from friend .* via (?!DERP)\S+:\d+/)
  expect((await victim.peer('friend'))?.CurAddr).toMatch(/:\d+$/)
  expect(victim.rssBytes - rss).toBeLessThan(GROWTH_BYTES)
}

describe.skipIf(!linux)('a node under liars that speak disco', () => {
  test('strangers are not answered: the recording, whole, cut at every length, lengthened, and with wrong bytes', async () => {
    answers.length = 0
    for (const { packet } of RECORDED.packets.slice(0, 20)) {
      const bytes = Buffer.from(packet, 'hex')
      for (let length = 0; length <= bytes.length; length += 1) await send(bytes.subarray(0, length))
      await send(Buffer.concat([bytes, randomBytes(1_000)]))
      for (let at = 0; at < bytes.length; at += 7) await send(Buffer.concat([bytes.subarray(0, at), Buffer.from([(bytes[at] ?? 0) ^ 0xff]), bytes.subarray(at + 1)]))
    }
    for (const key of [Buffer.alloc(32), Buffer.alloc(32, 0xff), Buffer.concat([Buffer.from([1]), Buffer.alloc(31)])]) await send(Buffer.concat([MAGIC, key, randomBytes(24 + 16 + 46)]))
    await unharmed()
    expect(answers).toEqual([])
  })

  test('a flood in the names of ever new disco keys costs no memory', async () => {
    const body = randomBytes(24 + 16 + 46)
    for (let index = 0; index < FLOOD; index += 1) {
      const flight = send(Buffer.concat([MAGIC, randomBytes(32), body]))
      if (index % 50 === 0) await flight
    }
    await unharmed()
  })

  test('the word of the member is taken: its ping is answered, else the rest would prove nothing', async () => {
    await send(seal(encodeDiscoMessage({ type: 'ping', txId: randomBytes(12), nodeKey: liarNode, padding: 0 })))
    await lab.until('a pong comes', () => answers.some((bytes) => box.open(victimDisco, bytes)?.[0] === 2))
  })

  test('a member: bodies of every type and length, versions and types that do not exist, boxes that are empty or as large as UDP carries', async () => {
    for (let type = 0; type <= 12; type += 1) {
      for (const version of [0, 1, 255]) for (const length of [0, 1, 11, 12, 17, 18, 30, 44, 46, 200, 1_300]) await send(seal(Buffer.concat([Buffer.from([type, version]), randomBytes(length)])))
    }
    await send(seal(Buffer.alloc(0)))
    await send(seal(Buffer.concat([Buffer.from([3, 0]), randomBytes(65_000)])))
    await unharmed()
  })

  test('a member cannot take over the path of another: pings in another name, pongs that nobody asked for, replays', async () => {
    const friendKey = NodePrivateKey.generate(systemRandom).publicKey()
    const txId = randomBytes(12)
    const source = parseEndpoint('127.0.0.66:9') ?? expect.fail('endpoint')
    const ping = seal(encodeDiscoMessage({ type: 'ping', txId, nodeKey: friendKey, padding: 0 }))
    for (let round = 0; round < 50; round += 1) await send(ping)
    for (let round = 0; round < 200; round += 1) await send(seal(encodeDiscoMessage({ type: 'pong', txId: randomBytes(12), source })))
    await unharmed()
  })

  test('a member that calls everywhere: no endpoint, sixty at a time, loopback, the relay, multicast, nothing at all; by UDP and by relay', async () => {
    const endpoints = (texts: readonly string[]): Uint8Array => encodeDiscoMessage({ type: 'call-me-maybe', endpoints: texts.map((text) => parseEndpoint(text) ?? expect.fail(text)) })
    const crowd = Array.from({ length: 60 }, (_, index) => `203.0.113.${index}:${index + 1}`)
    const calls = [endpoints([]), endpoints(['0.0.0.0:0', '127.0.0.1:1', '224.0.0.1:5353', '255.255.255.255:9', '[::]:1', '[ff02::1]:1']), endpoints(crowd)]
    for (let round = 0; round < 100; round += 1) {
      for (const call of calls) {
        await send(seal(call))
        relayed(seal(call))
      }
    }
    await unharmed()
  })
})
