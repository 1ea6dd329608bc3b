import { instant } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { encodeUdpPacket, type Endpoint, type Ip, PacketView, parseIp, parsePrefix, type Prefix } from '@meshwright/ip'
import { SeededRandom } from '@meshwright/testkit'
import { WireGuardDevice } from '@meshwright/wireguard'
import { expect, test } from 'vitest'
import { nodeCryptoProvider } from '../node-crypto.ts'
import { wasmCryptoProvider } from '../wasm-crypto.ts'
import { MemoryLane } from './memory-lane.ts'
import { encodeSocketAddress } from './socket-address.ts'
import { VNET_HEADER_BYTES } from './vnet-header.ts'

// A thousand peers at once, their packets mixed: each gets what is its own and nothing else, and is known by its own key.
const PEERS = 1_000
const ROUNDS = 5

const must = <T>(value: T | undefined): T => {
  if (value === undefined) throw new Error('the test has a mistake')
  return value
}
const ip = (text: string): Ip => must(parseIp(text))
const prefix = (text: string): Prefix => must(parsePrefix(text))
const address = (index: number): string => `10.1.${index >> 8}.${index & 255}`
const place = (index: number): Endpoint => ({ ip: ip(`10.87.${index >> 8}.${index & 255}`), port: 5_000 + index })

test('a thousand peers with traffic at once, each way: every packet arrives once, at whom it was for', () => {
  const provider = must(wasmCryptoProvider(nodeCryptoProvider, 16 * 1024 * 1024))
  const random = new SeededRandom(5)
  const key = NodePrivateKey.generate(random.bytes)
  let now = instant(1_000)
  const wallClock = (): number => 1_767_225_600_000 + now
  const lane = new MemoryLane({ provider, key, random: random.bytes, wallClock })
  const remotes = Array.from({ length: PEERS }, (_, index) => {
    const bytes = new SeededRandom(10_000 + index).bytes
    const own = NodePrivateKey.generate(bytes)
    const device = new WireGuardDevice({ random: bytes, provider, wallClock, privateKey: own })
    device.setPeer(now, { publicKey: key.publicKey(), path: { id: 'node', cookieBytes: new Uint8Array(6) } })
    lane.change({ type: 'peer', publicKey: own.publicKey(), remove: false, updateOnly: false, replaceAllowedIps: true, allowedIps: [{ prefix: prefix(`${address(index)}/32`), remove: false }], endpoint: place(index) })
    return { device, got: [] as Uint8Array[] }
  })
  const byPlace = new Map(remotes.map((remote, index) => [Buffer.from(encodeSocketAddress(place(index))).toString('hex'), remote]))
  const moving: { readonly to: string; readonly bytes: Uint8Array }[] = []
  lane.kernel.onSend = (to, { bytes, segmentBytes }) => {
    const step = segmentBytes === 0 ? bytes.length : segmentBytes
    for (let at = 0; at < bytes.length; at += step) moving.push({ to: Buffer.from(to).toString('hex'), bytes: bytes.slice(at, at + step) })
  }
  const pass = (): void => {
    for (let round = 0; round < 10; round += 1) {
      const under = moving.splice(0)
      for (const { to, bytes } of under) must(byPlace.get(to)).device.handleInput(now, { type: 'datagram', bytes, from: { id: 'node', cookieBytes: new Uint8Array(6) } })
      let arrived = 0
      for (const [index, { device, got }] of remotes.entries()) {
        for (let output = device.pollOutput(); output !== undefined; output = device.pollOutput()) {
          if (output.type === 'packet') got.push(output.bytes)
          if (output.type !== 'transmit') continue
          arrived += 1
          lane.kernel.udpIn.push({ from: encodeSocketAddress(place(index)), bytes: output.bytes, segmentBytes: 0, trafficClass: 0 })
        }
      }
      lane.run()
      if (under.length + arrived === 0) return
    }
  }
  const packet = (from: string, to: string, name: number): Uint8Array => encodeUdpPacket({ src: { ip: ip(from), port: 1 }, dst: { ip: ip(to), port: 2 }, payload: Uint8Array.of(name >> 8, name & 255, ...new Uint8Array(80)) })
  const bare = (bytes: Uint8Array): Uint8Array => Uint8Array.from([...new Uint8Array(VNET_HEADER_BYTES), ...bytes])
  const later = (ms: number): void => {
    now = instant(now + ms)
    lane.now = now
    lane.run()
    for (const { device } of remotes) device.handleTimeout(now)
    pass()
  }
  // So many handshakes at one moment are more than a device under load takes: the rest comes with cookies, in its next tries.
  const established = (): number => lane.engine.status(now).peers.filter(({ state }) => state === 'established').length
  for (const { device } of remotes) device.connect(now, key.publicKey())
  for (let seconds = 0; seconds < 60 && established() < PEERS; seconds += 1) later(1_000)
  expect(established()).toBe(PEERS)
  for (let round = 0; round < ROUNDS; round += 1) {
    later(100)
    // Mixed: neighbours are never for the same peer.
    for (let i = 0; i < PEERS; i += 1) lane.kernel.tunIn.push(bare(packet('10.0.0.1', address((i * 617) % PEERS), (i * 617) % PEERS)))
    lane.run()
    for (const [index, { device }] of remotes.entries()) device.handleInput(now, { type: 'packet', peer: key.publicKey(), bytes: packet(address(index), '10.0.0.1', index) })
    pass()
  }
  for (const [index, { got }] of remotes.entries()) expect(got.map((bytes) => [bytes.length, ((bytes[28] ?? 0) << 8) | (bytes[29] ?? 0)])).toEqual(new Array(ROUNDS).fill([110, index]))
  const view = new PacketView()
  const came = new Map<string, number>()
  for (const written of lane.kernel.tunOut ?? []) {
    expect(view.at(written, VNET_HEADER_BYTES, written.length - VNET_HEADER_BYTES)).toBe(true)
    const from = must(view.src()).toString()
    expect(from).toBe(address(((written[VNET_HEADER_BYTES + 28] ?? 0) << 8) | (written[VNET_HEADER_BYTES + 29] ?? 0)))
    came.set(from, (came.get(from) ?? 0) + 1)
  }
  expect([came.size, new Set(came.values())]).toEqual([PEERS, new Set([ROUNDS])])
  expect([established(), lane.engine.drops]).toEqual([PEERS, { noRoute: 0, wrongSource: 0 }])
}, 120_000)
