import { NodePrivateKey, type NodePublicKey } from '@meshwright/crypto'
import { parseEndpoint, parsePrefix } from '@meshwright/ip'
import { fastCryptoProvider, systemRandom } from '@meshwright/runtime-node'
import type { UapiPeerChange } from '@meshwright/wireguard/text'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Tunnel } from './tunnel.ts'

// Two tunnels over UDP on loopback: 10.0.0.1 and 10.0.0.2.
class End {
  readonly key: NodePrivateKey = NodePrivateKey.generate(systemRandom)
  readonly received: Uint8Array[] = []
  readonly tunnel: Tunnel = new Tunnel({ name: 't', provider: fastCryptoProvider(), deliver: (packet) => this.received.push(packet) })

  async knows(publicKey: NodePublicKey, change: Partial<Omit<UapiPeerChange, 'type' | 'publicKey'>>): Promise<void> {
    expect(await this.tunnel.apply([{ type: 'peer', publicKey, remove: false, updateOnly: false, replaceAllowedIps: false, allowedIps: [], ...change }])).toBe(0)
  }
}

let [a, b] = [new End(), new End()]
beforeEach(async () => {
  ;[a, b] = [new End(), new End()]
  for (const end of [a, b]) expect(await end.tunnel.apply([{ type: 'privateKey', key: end.key }, { type: 'listenPort', port: 0 }])).toBe(0)
  await a.knows(b.key.publicKey(), { allowedIps: [prefix('10.0.0.2/32')], endpoint: loopback(b) })
})
afterEach(() => Promise.all([a.tunnel.close(), b.tunnel.close()]))

function prefix(text: string): UapiPeerChange['allowedIps'][number] {
  const parsed = parsePrefix(text)
  if (parsed === undefined) throw new Error(text)
  return { prefix: parsed, remove: false }
}

function loopback(end: End): NonNullable<UapiPeerChange['endpoint']> {
  const endpoint = parseEndpoint(`127.0.0.1:${end.tunnel.port}`)
  if (endpoint === undefined) throw new Error('no port')
  return endpoint
}

/** An IPv4 packet of that length to the other end, with a number in it. */
function packet(number: number, length: number, to: number = 2): Uint8Array {
  const bytes = new Uint8Array(length).fill(number & 255)
  bytes.set([0x45, 0, length >> 8, length & 255, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, to, number >> 8, number & 255])
  return bytes
}

async function until(holds: () => boolean): Promise<void> {
  await expect.poll(holds, { interval: 5 }).toBe(true)
}

test('packets of all lengths, more than a batch at once, arrive whole and in order', async () => {
  await b.knows(a.key.publicKey(), { allowedIps: [prefix('10.0.0.1/32')] })
  const first = packet(0, 100)
  a.tunnel.sendAll([first])
  await until(() => b.received.length === 1)
  // Longer than a slot, which only a large MTU would bring, in the middle. Not more than a socket holds by default.
  const lengths = [28, 29, 64, 1419, 60, 200, 300]
  const packets = Array.from({ length: 150 }, (_, i) => packet(i + 1, i === 70 ? 9000 : i === 80 ? 2048 : i === 81 ? 2049 : (lengths[i % lengths.length] ?? 64)))
  a.tunnel.sendAll(packets)
  await until(() => b.received.length === packets.length + 1)
  expect(b.received).toEqual([first, ...packets])
})

test('packets for several peers in one batch, and for nobody, go where they belong', async () => {
  await b.knows(a.key.publicKey(), { allowedIps: [prefix('10.0.0.1/32')] })
  const c = new End()
  try {
    await c.tunnel.apply([{ type: 'privateKey', key: c.key }, { type: 'listenPort', port: 0 }])
    await c.knows(a.key.publicKey(), { allowedIps: [prefix('10.0.0.1/32')] })
    await a.knows(c.key.publicKey(), { allowedIps: [prefix('10.0.0.3/32')], endpoint: loopback(c) })
    a.tunnel.sendAll([packet(1, 64), packet(2, 64, 3), packet(3, 64), packet(4, 64, 9), packet(5, 64, 3)])
    await until(() => b.received.length === 2 && c.received.length === 2)
    expect([...b.received, ...c.received].map((each) => each[21])).toEqual([1, 3, 2, 5])
    expect(a.tunnel.drops.noRoute).toBe(1)
  } finally {
    await c.tunnel.close()
  }
})

test('what a peer without addresses sends ahead waits, 1024 packets of it, until addresses move to it', async () => {
  await b.knows(a.key.publicKey(), {})
  a.tunnel.sendAll([packet(0, 64)])
  await until(() => b.tunnel.status().peers[0]?.receivedPackets === 1)
  for (let sent = 1; sent < 1100; sent += 100) {
    a.tunnel.sendAll(Array.from({ length: 100 }, (_, i) => packet(sent + i, 64)))
    await until(() => b.tunnel.status().peers[0]?.receivedPackets === sent + 100)
  }
  expect(b.tunnel.drops.wrongSource).toBe(1101 - 1024)
  expect(b.received).toEqual([])
  await b.knows(a.key.publicKey(), { allowedIps: [prefix('10.0.0.1/32')] })
  expect(b.received).toEqual(Array.from({ length: 1024 }, (_, i) => packet(i, 64)))
})

test('what waited is judged by the addresses that came: a source that is still another\'s is dropped', async () => {
  await b.knows(a.key.publicKey(), {})
  a.tunnel.sendAll([packet(0, 64)])
  await until(() => b.tunnel.status().peers[0]?.receivedPackets === 1)
  await b.knows(a.key.publicKey(), { allowedIps: [prefix('10.0.0.7/32')] })
  expect(b.received).toEqual([])
  expect(b.tunnel.drops.wrongSource).toBe(1)
  // It has addresses now: nothing waits any more.
  a.tunnel.sendAll([packet(1, 64)])
  await until(() => b.tunnel.drops.wrongSource === 2)
})

test('another port: not a packet is lost either way; any port again: the one that there is', async () => {
  await b.knows(a.key.publicKey(), { allowedIps: [prefix('10.0.0.1/32')] })
  let sent = 0
  const sending = setInterval(() => a.tunnel.sendAll([packet((sent += 1), 64)]), 1)
  try {
    await until(() => b.received.length > 0)
    const before = b.tunnel.port
    expect(await b.tunnel.apply([{ type: 'listenPort', port: 0 }])).toBe(0)
    expect(b.tunnel.port).toBe(before)
    for (const port of [before + 1, before, before + 1]) {
      expect(await b.tunnel.apply([{ type: 'listenPort', port }])).toBe(0)
      expect(b.tunnel.port).toBe(port)
      const now = b.received.length
      await until(() => b.received.length > now + 5)
    }
    expect(await b.tunnel.apply([{ type: 'listenPort', port: 0 }])).toBe(0)
    expect(b.tunnel.port).not.toBe(before + 1)
  } finally {
    clearInterval(sending)
  }
  await until(() => b.received.length === sent)
  // What went through sockets that are closed is counted still.
  expect(b.tunnel.udpStats().datagramsIn).toBeGreaterThanOrEqual(sent)
})

test('all peers replaced, the one that is named again keeps its session: no packet is lost, and what was not said again is off', async () => {
  await b.knows(a.key.publicKey(), { allowedIps: [prefix('10.0.0.1/32')] })
  await a.knows(b.key.publicKey(), { presharedKey: new Uint8Array(32), persistentKeepaliveSeconds: 20 })
  a.tunnel.sendAll([packet(1, 100)])
  await until(() => b.received.length === 1)
  const gone = NodePrivateKey.generate(systemRandom).publicKey()
  await a.knows(gone, { allowedIps: [prefix('10.0.0.9/32')] })
  const named = { type: 'peer', publicKey: b.key.publicKey(), remove: false, updateOnly: false, replaceAllowedIps: true } as const
  const applied = a.tunnel.apply([{ type: 'replacePeers' }, { ...named, allowedIps: [prefix('10.0.0.2/32')], endpoint: loopback(b) }])
  expect(await applied).toBe(0)
  a.tunnel.sendAll([packet(2, 100)])
  await until(() => b.received.length === 2)
  expect(a.tunnel.shown().peers).toMatchObject([{ publicKey: b.key.publicKey(), persistentKeepaliveSeconds: 0, allowedIps: [prefix('10.0.0.2/32').prefix] }])
  expect(a.tunnel.status().peers.map((peer) => peer.handshakesCompleted)).toEqual([1])
  expect(await a.tunnel.apply([{ type: 'replacePeers' }])).toBe(0)
  expect(a.tunnel.shown().peers).toEqual([])
})
