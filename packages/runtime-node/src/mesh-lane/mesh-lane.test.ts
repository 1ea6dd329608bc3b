import { instant } from '@meshwright/core'
import { DiscoPrivateKey, NodePrivateKey, type NodePublicKey } from '@meshwright/crypto'
import { encodeUdpPacket, type Endpoint, type Ip, IpSet, parseEndpoint, parseIp, parsePrefix, type Prefix } from '@meshwright/ip'
import { MAX_DENIED_PACKETS } from '@meshwright/mesh'
import { SeededRandom } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { arenaOf } from '../dataplane/memory-lane.ts'
import { encodeSocketAddress } from '../dataplane/socket-address.ts'
import { encodeRowVnetHeader, VNET_GSO_UDP, VNET_HEADER_BYTES } from '../dataplane/vnet-header.ts'
import { nodeCryptoProvider } from '../node-crypto.ts'
import { wasmCryptoProvider } from '../wasm-crypto.ts'
import { fromPortable } from './portable-values.ts'
import { MemoryMeshLane } from './memory-mesh-lane.ts'
import { RemoteEngine } from './remote-engine.ts'

const must = <T>(value: T | undefined): T => {
  if (value === undefined) throw new Error('the test has a mistake')
  return value
}
const ip = (text: string): Ip => must(parseIp(text))
const prefix = (text: string): Prefix => must(parsePrefix(text))
const endpoint = (text: string): Endpoint => must(parseEndpoint(text))
const provider = must(wasmCryptoProvider(nodeCryptoProvider, 8 * 1024 * 1024))
// The lanes of the tests take turns with it.
const arena = arenaOf(provider)
const now = instant(1_000)

/** A node on the lane and its peers, each at an endpoint of its own, with no other way to it. */
function start(count: number, untaken?: (posted: number) => number): { readonly lane: MemoryMeshLane; readonly remote: RemoteEngine; readonly peers: readonly NodePublicKey[] } {
  const random = new SeededRandom(5).bytes
  const lane: MemoryMeshLane = new MemoryMeshLane({ provider, arena, random, wallClock: () => 1_767_225_600_000, ...(untaken !== undefined && { untaken: () => untaken(lane.posted.length) }) })
  const privateKey = NodePrivateKey.generate(random)
  const options = { random, wallClock: () => 0, provider, privateKey, discoKey: DiscoPrivateKey.generate(random), mtu: 1280, allowLoopback: false, blockUdp: false, nextLink: () => 1 }
  const remote = new RemoteEngine(1, options, (message) => lane.take(message))
  const peers = Array.from({ length: count }, () => NodePrivateKey.generate(random).publicKey())
  remote.apply(now, {
    warnings: [],
    paths: peers.map((nodeKey, i) => ({ nodeKey, endpoints: [endpoint(`192.0.2.${i + 1}:41641`)] })),
    plane: { peers, routes: peers.map((peer, i) => ({ prefix: prefix(`100.64.0.${i + 1}/32`), peer: peer.text })), rules: [], local: IpSet.from([prefix('100.64.1.0/32')]) },
  })
  lane.now = now
  return { lane, remote, peers }
}

const bare = (packet: Uint8Array): Uint8Array => Uint8Array.from([...new Uint8Array(VNET_HEADER_BYTES), ...packet])
const packetTo = (address: string): Uint8Array => bare(encodeUdpPacket({ src: { ip: ip('100.64.1.0'), port: 7 }, dst: { ip: ip(address), port: 9 }, payload: new Uint8Array(10) }))

test('packets to peers that take turns find the same path each time: nothing is made for them', () => {
  const { lane, peers } = start(3)
  const paths = peers.map((peer) => must(lane.mesh.pathOf(now, peer)))
  expect(paths.map(({ id }) => id)).toEqual(['192.0.2.1:41641', '192.0.2.2:41641', '192.0.2.3:41641'])
  for (let round = 0; round < 5; round += 1) for (const [i, peer] of peers.entries()) expect(lane.mesh.pathOf(now, peer)).toBe(paths[i])
})

test('each packet of a row that goes to nobody is counted, and so is each datagram without a way', () => {
  const { lane, peers } = start(1)
  const drops = (): Readonly<Record<string, number>> => must(lane.mesh.host.engine).drops(now)
  const row = bare(encodeUdpPacket({ src: { ip: ip('100.64.1.0'), port: 7 }, dst: { ip: ip('100.99.0.1'), port: 9 }, payload: new Uint8Array(2_500) }))
  encodeRowVnetHeader(new DataView(row.buffer), 0, VNET_GSO_UDP, 0, 1_000, 20, 6)
  lane.kernel.tunIn.push(row)
  lane.run()
  expect(drops()).toMatchObject({ 'no-peer': 3 })
  const [peer] = peers
  lane.mesh.notSent(now, must(peer), 4)
  expect(drops()['udp-blocked']).toBe(4) // its path is by UDP alone
  lane.mesh.notSent(now, NodePrivateKey.generate(new SeededRandom(6).bytes).publicKey(), 5)
  expect(drops()['no-path']).toBe(5)
})

test('where UDP is blocked, each datagram that comes is dropped and counted once, whatever it is', () => {
  const { lane, remote } = start(1)
  remote.setUdpBlocked(now, true)
  const bytes = [Uint8Array.of(1, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, ...new Uint8Array(12)), Uint8Array.of(4, 0, 0, 0, ...new Uint8Array(28)), new Uint8Array(9)]
  for (const each of bytes) lane.kernel.udpIn.push({ from: encodeSocketAddress(endpoint('203.0.113.9:7')), bytes: each, segmentBytes: 0, trafficClass: 0 })
  lane.run()
  expect(must(lane.mesh.host.engine).drops(now)).toEqual({ 'udp-blocked': 3 })
})

test('packets that go to nobody are told when somebody asks, the last ones alone, with their bytes', () => {
  const { lane, remote } = start(1)
  for (let i = 0; i < 3 * MAX_DENIED_PACKETS; i += 1) lane.kernel.tunIn.push(packetTo(`100.99.${i >> 8}.${i & 255}`))
  lane.run()
  const told = (): number => {
    for (const message of lane.posted.splice(0)) if (message.type !== 'service') remote.receive(message)
    return remote.denied().length
  }
  // Nothing is posted for a packet.
  expect(lane.posted.flatMap((message) => (message.type === 'outputs' ? fromPortable(message.outputs).filter(({ type }) => type !== 'changed') : []))).toEqual([])
  expect(told()).toBe(0)
  remote.look()
  expect(told()).toBe(MAX_DENIED_PACKETS)
  const last = must(remote.denied().at(-1))
  expect(last).toMatchObject({ direction: 'out', reason: 'no-peer', length: 38 })
  const index = 3 * MAX_DENIED_PACKETS - 1
  expect([...last.bytes.subarray(16, 20)]).toEqual([100, 99, index >> 8, index & 255])
})

test('however much strangers and programs of this computer send for the node itself: what waits for its thread is bounded, the rest is counted, and packets go on', () => {
  const { lane, remote, peers } = start(1, (posted) => posted)
  const stun = Uint8Array.of(1, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, ...new Uint8Array(12))
  const from = encodeSocketAddress(endpoint('203.0.113.9:7'))
  const flood = (count: number): void => {
    for (let i = 0; i < count; i += 1) {
      lane.kernel.udpIn.push({ from, bytes: stun, segmentBytes: 0, trafficClass: 0 })
      lane.kernel.tunIn.push(packetTo('100.100.100.100'))
    }
    lane.run()
  }
  const told = (): number => lane.posted.reduce((sum, message) => sum + (message.type === 'service' ? 1 : message.type === 'outputs' ? fromPortable(message.outputs).filter(({ type }) => type === 'stun').length : 0), 0)
  flood(20_000)
  expect(lane.posted.length).toBeLessThan(400)
  expect(told()).toBeGreaterThan(10)
  expect(told()).toBeLessThan(1_000)
  const first = told()
  // Packets between nodes do not wait for anybody.
  const sent: number[] = []
  lane.kernel.onSend = (_to, { bytes }) => void sent.push(bytes.length)
  lane.kernel.tunIn.push(packetTo('100.64.0.1'))
  lane.run()
  expect(sent).toEqual([148])
  // What was asked for is answered, and tells what was left out.
  remote.look()
  for (const message of lane.posted.splice(0)) if (message.type !== 'service') remote.receive(message)
  expect(remote.drops(now)['node-busy']).toBe(40_000 - first)
  expect(remote.peer(now, must(peers[0]))).toBeDefined()
  // Taken: it is told again.
  flood(3)
  expect(told()).toBe(6)
})

test('what changes while the node does not look is shown once it does, not each time', () => {
  let waiting = 0
  const { lane, peers } = start(3, () => waiting)
  const views = (): number => lane.posted.splice(0).filter(({ type }) => type === 'view').length
  lane.posted.length = 0
  waiting = 30
  for (const [i] of peers.entries()) {
    lane.mesh.host.tell({ type: 'changed' })
    lane.mesh.settle(instant(1_000 + i), { send: () => undefined, deliver: () => undefined })
  }
  expect(views()).toBe(0)
  lane.mesh.host.showLater(now)
  expect(views()).toBe(0)
  waiting = 2
  lane.mesh.host.showLater(now)
  expect(lane.posted.map(({ type }) => type)).toEqual(['view', 'outputs'])
  lane.posted.length = 0
  lane.mesh.host.showLater(now)
  expect(lane.posted).toEqual([])
})

test('that something changed is told also when what changed was shown for another reason meanwhile', () => {
  let waiting = 30
  const { lane, remote } = start(1, () => waiting)
  const settle = (): void => lane.mesh.settle(now, { send: () => undefined, deliver: () => undefined })
  const told = (): readonly string[] => lane.posted.splice(0).flatMap((message) => (message.type === 'outputs' ? fromPortable(message.outputs).map(({ type }) => type) : []))
  for (const show of [() => remote.look(), () => lane.mesh.host.showChanges(now)]) {
    waiting = 30
    lane.mesh.host.tell({ type: 'changed' })
    settle()
    expect(told()).toEqual([])
    show()
    waiting = 0
    lane.mesh.host.showLater(now)
    expect(told()).toEqual(['changed'])
    lane.mesh.host.showLater(now)
    expect(lane.posted).toEqual([])
  }
})
