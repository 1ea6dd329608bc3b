import { randomBytes } from 'node:crypto'
import dgram from 'node:dgram'
import { NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import { nodeCryptoProvider, systemRandom } from '@meshwright/runtime-node/control'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Identity } from '../../packages/wireguard/src/identity.ts'
import { ACK, FIN, icmpPacket, ipPacket, readTcp, RST, SYN, tcpPacket, udpPacket } from './inner-packets.ts'
import { type Json, wireNode } from './liar-control.ts'
import { LiarPeer } from './liar-peer.ts'
import { FRIEND_IP, NodeRig, VICTIM_IP } from './node-rig.ts'

// Our node under a peer that lies inside WireGuard and about it: a member of the mesh that the policy lets reach one port. It speaks through
// the victim's real socket; what comes through is asked of the victim's counters and of the services behind it.
const linux = process.platform === 'linux'
const rig = new NodeRig()
const liar = new LiarPeer()
const LIAR_ID = 3
/** Half-open connections that the TCP/IP stack keeps, and as many that the tests have opened and left. */
const MAX_CONNECTIONS = 2 * 1_024
const LIAR_IP = '100.64.0.3'
const LIAR_IP6 = 'fd7a:115c:a1e0::3'
const described = (): Json => liar.describe(LIAR_ID, { Addresses: [`${LIAR_IP}/32`, `${LIAR_IP6}/128`], AllowedIPs: [`${LIAR_IP}/32`, `${LIAR_IP6}/128`] })
const elsewhere = dgram.createSocket('udp4')
const heardElsewhere: Buffer[] = []

beforeAll(async () => {
  if (!linux) return
  await liar.start()
  elsewhere.on('message', (bytes) => void heardElsewhere.push(bytes))
  await new Promise<void>((resolve) => elsewhere.bind(0, '127.0.0.77', resolve))
  rig.guests.push(described())
  await rig.start()
  rig.guestRules.push({ SrcIPs: [LIAR_IP, LIAR_IP6], DstPorts: [{ IP: VICTIM_IP, Ports: { First: rig.openPort, Last: rig.openPort } }] })
  rig.tellAll()
  liar.aim(rig.control.nodes.get('victim') ?? expect.fail('no victim'))
  await liar.handshake()
})

afterAll(async () => {
  await rig.stop()
  liar.stop()
  elsewhere.close()
})

const syn = (source: string, port: number, sourcePort: number = 5_000, more: Partial<Parameters<typeof tcpPacket>[4]> = {}): Buffer => tcpPacket(source, sourcePort, VICTIM_IP, port, { flags: SYN, sequence: 7, ...more })
const echo = (sequence: number, source: string = LIAR_IP, to: string = VICTIM_IP): Buffer => icmpPacket(source, to, 8, 0, sequence, Buffer.from('ping'))
const through = (...packets: readonly Uint8Array[]): Promise<void> => liar.send(...packets.map((packet) => liar.transport(packet)))
const packetsIn = async (): Promise<number> => (await rig.status()).Meshwright.PacketsIn

/** Waits until nothing is under way any more, such as the last words of connections that were closed; gives what has arrived then. */
async function quiet(): Promise<number> {
  const look = async (): Promise<readonly [number, number]> => [await packetsIn(), liar.inner.length]
  let last = await look()
  await rig.lab.until('nothing is under way', async () => {
    await new Promise((resolve) => setTimeout(resolve, 200))
    const now = await look()
    const same = now[0] === last[0] && now[1] === last[1]
    last = now
    return same
  })
  return last[0]
}

/** Says packets that must all be dropped for one of these reasons, and that nobody behind the victim hears of. */
async function refused(packets: readonly Uint8Array[], ...reasons: readonly string[]): Promise<void> {
  const arrived = await quiet()
  const [before, served, answers] = [await rig.drops(...reasons), rig.served, liar.inner.length]
  await through(...packets)
  await rig.dropped(before, packets.length, ...reasons)
  expect([rig.served, await packetsIn(), liar.inner.length]).toEqual([served, arrived, answers])
}

describe.runIf(linux)('our node under a peer that lies', () => {
  test('its word is taken where the policy lets it: else the rest would prove nothing', async () => {
    const [served, arrived] = [rig.served, await packetsIn()]
    await rig.lab.until('the answer to a SYN', async () => {
      await through(syn(LIAR_IP, rig.openPort))
      return liar.inner.map(readTcp).find((segment) => segment?.port === rig.openPort && segment.flags === (SYN | ACK))
    })
    await rig.lab.until('the service is reached', () => rig.served > served)
    expect(await packetsIn()).toBeGreaterThan(arrived)
    await through(tcpPacket(LIAR_IP, 5_000, VICTIM_IP, rig.openPort, { flags: RST, sequence: 8 }))
  })

  test('inner packets from every address that is not its own are dropped, whatever they carry, and the health names it', async () => {
    const others = [FRIEND_IP, VICTIM_IP, '100.64.0.4', '100.100.100.100', '127.0.0.1', '224.0.0.1', '255.255.255.255', '0.0.0.0', '203.0.113.9']
    const others6 = ['fd7a:115c:a1e0::1', 'fd7a:115c:a1e0::2', '::1', '::', 'ff02::1', 'fe80::1', '::ffff:100.64.0.3', '64:ff9b::6440:3']
    const v4 = others.flatMap((source) => [syn(source, rig.openPort), tcpPacket(source, 5_000, VICTIM_IP, rig.openPort, { flags: ACK }), udpPacket(source, 53, VICTIM_IP, 53, Buffer.from('x')), echo(1, source), ipPacket(source, VICTIM_IP, 99, Buffer.from('TSMP-like'))])
    const v6 = others6.flatMap((source) => [ipPacket(source, 'fd7a:115c:a1e0::1', 6, randomBytes(20)), ipPacket(source, 'fd7a:115c:a1e0::1', 58, randomBytes(8))])
    await refused([...v4, ...v6], 'wrong-source')
    await rig.health(/^The node liar sends packets from addresses that are not its own: \d+ were dropped\. .*--accept-routes.*take it out of the mesh$/)
    await rig.unharmed()
  })

  test('inner packets to every address that is not the victim\'s are dropped: nothing is passed on to others, to this computer, or to the names of the mesh', async () => {
    await quiet()
    const arrivedAtFriend = rig.friend.status().packetsIn
    const elsewhereIps = [FRIEND_IP, LIAR_IP, '100.100.100.100', '127.0.0.1', '224.0.0.251', '255.255.255.255', '203.0.113.9', '192.168.1.1']
    await refused(elsewhereIps.flatMap((to) => [tcpPacket(LIAR_IP, 5_001, to, rig.openPort, { flags: SYN }), udpPacket(LIAR_IP, 5_001, to, 53, randomBytes(30))]), 'filter-in')
    await refused([syn(LIAR_IP, rig.shutPort), udpPacket(LIAR_IP, 5_002, VICTIM_IP, rig.shutPort, Buffer.from('x'))], 'filter-in')
    expect(rig.friend.status().packetsIn).toBe(arrivedAtFriend)
    await rig.unharmed()
  })

  test('a transport packet said again is dropped: at once, a window later, and after one and two new sessions', async () => {
    const arrived = await quiet()
    const old = liar.transport(echo(1))
    await liar.send(old)
    await rig.lab.until('the packet arrives once', async () => (await packetsIn()) === arrived + 1)
    const again = async (reason: string): Promise<void> => {
      const before = await rig.drops(reason)
      for (let times = 0; times < 50; times += 1) await liar.send(old)
      await rig.dropped(before, 50, reason)
    }
    await again('wireguard-packet-replay')
    liar.session.counter += 100_000n
    await through(echo(2))
    await again('wireguard-packet-replay')
    await liar.handshake()
    await again('wireguard-packet-replay')
    await liar.handshake()
    await again('wireguard-unknown-index')
    expect(await packetsIn()).toBe(arrived + 2)
  })

  test('handshakes said again are dropped by their timestamp, and end no session', async () => {
    const [older, newer] = [liar.initiation(), liar.initiation()]
    await new Promise((resolve) => setTimeout(resolve, 30)) // two in 20 ms count as a flood
    await liar.send(newer.bytes)
    await liar.handshake()
    const before = await rig.drops('wireguard-initiation-replay')
    for (let times = 0; times < 25; times += 1) await liar.send(older.bytes, newer.bytes)
    await rig.dropped(before, 50, 'wireguard-initiation-replay')
    const arrived = await quiet()
    await through(echo(3))
    await rig.lab.until('the session is in force', async () => (await packetsIn()) > arrived)
  })

  test('handshakes in the victim\'s own name, in a stranger\'s, and with small-order points are refused', async () => {
    const named = (publicKey: NodePublicKey): Uint8Array => liar.initiation(undefined, Object.defineProperty(new Identity(nodeCryptoProvider, liar.nodeKey), 'publicKey', { value: publicKey })).bytes
    const before = await rig.drops('wireguard-unknown-peer', 'wireguard-handshake-auth')
    const [self, friend] = ['victim', 'friend'].map((name) => NodePublicKey.parse(rig.control.nodes.get(name)?.NodeKey ?? '') ?? expect.fail('no key'))
    const small = SMALL_ORDER.map((point) => NodePublicKey.fromBytes(point) ?? expect.fail('no key'))
    const points = SMALL_ORDER.map((point) => {
      const bytes = Uint8Array.from(liar.initiation().bytes)
      bytes.set(point, 8)
      return liar.stamp(bytes)
    })
    const lies = [self, friend, NodePrivateKey.generate(systemRandom).publicKey(), ...small].map((key) => named(key ?? expect.fail('no key')))
    await liar.send(...lies, ...points)
    await rig.dropped(before, lies.length + points.length, 'wireguard-unknown-peer', 'wireguard-handshake-auth')
  })

  test('peers of the map whose keys are small-order points are not reached and harm nobody', async () => {
    await rig.say({ PeersChanged: SMALL_ORDER.map((point, index) => wireNode(20 + index, `small${index}`, `nodekey:${Buffer.from(point).toString('hex')}`)) })
    await rig.unharmed()
  })

  test('a flood of handshakes: whoever floods must prove its address first, others go on, and the health says so', async () => {
    const flood = async (count: number): Promise<void> => {
      for (let index = 0; index < count; index += 1) {
        const bytes = randomBytes(148)
        bytes.set([1, 0, 0, 0])
        await liar.send(liar.stamp(bytes))
      }
    }
    const before = await rig.drops('wireguard-cookie-required', 'wireguard-overloaded')
    const done = flood(12_000)
    expect(await rig.letsIn(rig.openPort)).toBe(true)
    await done
    expect(await rig.drops('wireguard-cookie-required', 'wireguard-overloaded')).toBeGreaterThan(before + 1_000)
    expect(liar.cookieReplies.length).toBeGreaterThan(0)
    expect((await rig.held())['handshake-sources']).toBeLessThanOrEqual(16_384)
    await rig.health(/^This node is flooded with handshakes: .*firewall$/)
    await liar.handshake() // by the cookie
    await rig.unharmed()
  }, 60_000)

  test('inner packets that are none, cut, or with lengths that lie are dropped', async () => {
    const whole = syn(LIAR_IP, rig.openPort)
    const lies = [
      ...[1, 2, 19].map((length) => randomBytes(length).fill(0x45, 0, 1)),
      ...[0, 1, 19, whole.length + 1, 65_535].map((totalLength) => ipPacket(LIAR_IP, VICTIM_IP, 6, randomBytes(20), { totalLength })),
      ...[0, 1, 4, 15].map((headerWords) => ipPacket(LIAR_IP, VICTIM_IP, 6, randomBytes(20), { headerWords })),
      ...[0, 1, 5, 7, 15].map((version) => ipPacket(LIAR_IP, VICTIM_IP, 6, randomBytes(20), { version })),
      ...[41, 65_535].map((totalLength) => ipPacket(LIAR_IP6, 'fd7a:115c:a1e0::1', 6, randomBytes(40), { totalLength })),
      ipPacket(LIAR_IP6, 'fd7a:115c:a1e0::1', 6, Buffer.alloc(0)).subarray(0, 39),
      randomBytes(8_000).fill(0xf0, 0, 1),
    ]
    for (let times = 0; times < 2; times += 1) await refused([...lies, ...lies], 'wireguard-inner-malformed', 'malformed', 'filter-in')
    await rig.health(/^The node liar sends packets that are no IP packets: \d+ were dropped\. .*take it out of the mesh$/)
    await rig.unharmed()
  })

  test('inner fragments that overlap, never end, or hide their ports open nothing and are kept in bounds', async () => {
    const segment = syn(LIAR_IP, rig.openPort).subarray(20)
    const other = syn(LIAR_IP, rig.shutPort).subarray(20)
    const served = rig.served
    const part = (id: number, offset: number, more: boolean, bytes: Uint8Array): Buffer => ipPacket(LIAR_IP, VICTIM_IP, 6, bytes, { id, fragment: (more ? 0x2000 : 0) | (offset / 8) })
    const lies: Buffer[] = [
      part(2, 0, true, segment.subarray(0, 8)), part(2, 0, true, other.subarray(0, 8)), part(2, 8, false, segment.subarray(8)),
      part(3, 0, true, segment.subarray(0, 16)), part(3, 8, false, other.subarray(8)),
      part(4, 8, false, other.subarray(8)), part(4, 0, true, other.subarray(0, 8)),
      part(5, 65_528, false, randomBytes(8)), part(6, 65_528, true, randomBytes(800)),
      part(7, 0, true, new Uint8Array(0)),
    ]
    for (let id = 100; id < 1_000; id += 1) lies.push(part(id, 24, true, randomBytes(1_200)))
    for (let index = 0; index < lies.length; index += 50) await through(...lies.slice(index, index + 50))
    expect((await rig.held())['fragments']).toBeLessThanOrEqual(64)
    await rig.unharmed()
    expect(rig.served).toBe(served + 1) // the friend, in `unharmed`
  })

  test('inner TCP that lies: headers, options, sequences, acknowledgments, windows, and ten thousand connections that are never finished', async () => {
    const at = rig.openPort
    const open = async (sourcePort: number): Promise<{ readonly sequence: number; readonly acknowledgment: number }> => {
      const first = await rig.lab.until('the answer to a SYN', async () => {
        await through(syn(LIAR_IP, at, sourcePort))
        return liar.inner.find((packet) => packet.readUInt16BE(22) === sourcePort && readTcp(packet)?.flags === (SYN | ACK))
      })
      const { sequence } = readTcp(first) ?? expect.fail('no segment')
      return { sequence: 8, acknowledgment: sequence + 1 }
    }
    for (const [index, sourcePort] of [6_001, 6_002, 6_003].entries()) {
      const right = await open(sourcePort)
      const say = (words: Partial<Parameters<typeof tcpPacket>[4]>): Buffer => tcpPacket(LIAR_IP, sourcePort, VICTIM_IP, at, { ...right, flags: ACK, ...words })
      await through(
        say({ headerWords: 0 }), say({ headerWords: 15 }), say({ flags: 0 }), say({ flags: 0xff }), say({ flags: SYN | FIN | RST }),
        say({ options: Buffer.from([3, 0, 0, 0]) }), say({ options: Buffer.from([2, 255, 0, 1]) }), say({ options: Buffer.from([5, 34, ...randomBytes(32), 0, 0]).subarray(0, 36) }),
        say({ acknowledgment: right.acknowledgment + 1_000_000 }), say({ acknowledgment: right.acknowledgment - 1 }), say({ sequence: right.sequence + 0x8000_0000 }),
        say({ flags: RST, sequence: right.sequence + 70_000 }), say({ flags: SYN, sequence: right.sequence }), say({ urgent: 65_535, flags: ACK | 32 }),
        say({ window: index === 0 ? 0 : 1, body: Buffer.from('abcd') }), say({ sequence: right.sequence + 2, body: Buffer.from('XYZ!') }), say({ sequence: right.sequence - 1, body: randomBytes(1_000) }),
      )
    }
    for (let start = 0; start < 10_000; start += 100) await through(...Array.from({ length: 100 }, (_, index) => syn(LIAR_IP, at, 10_000 + start + index)))
    expect((await rig.held())['connections']).toBeLessThanOrEqual(MAX_CONNECTIONS)
    await rig.unharmed()
  }, 60_000)

  test('inner ICMP that lies about the connections of others: too big, unreachable, redirected', async () => {
    const quoted = tcpPacket(VICTIM_IP, rig.openPort, FRIEND_IP, 50_000, { flags: ACK }).subarray(0, 28)
    const lies = [0, 67, 68, 1_280, 65_535].map((mtu) => icmpPacket(LIAR_IP, VICTIM_IP, 3, 4, mtu, quoted))
    for (const code of [0, 1, 2, 3, 9, 10, 13]) lies.push(icmpPacket(LIAR_IP, VICTIM_IP, 3, code, 0, quoted))
    lies.push(icmpPacket(LIAR_IP, VICTIM_IP, 5, 1, 0x0a000001, quoted), icmpPacket(LIAR_IP, VICTIM_IP, 3, 4, 0, Buffer.alloc(0)), icmpPacket(LIAR_IP, VICTIM_IP, 3, 3, 0, quoted.subarray(0, 21)))
    const socket = await rig.friend.dialTcp(VICTIM_IP, rig.openPort)
    socket.on('error', () => undefined)
    for (let times = 0; times < 20; times += 1) await through(...lies)
    await rig.unharmed()
    socket.destroy()
  })

  test('its own packets from another address, and from that of a relay, move nothing: answers go where disco has proved the way', async () => {
    const node = { Name: '900a', RegionID: 900, HostName: '127.0.0.77', IPv4: '127.0.0.77', IPv6: 'none', STUNPort: elsewhere.address().port, STUNOnly: true }
    await rig.say({ DERPMap: { Regions: { '900': { RegionID: 900, RegionCode: 'stun', RegionName: 'STUN', Nodes: [node] } } } })
    await rig.lab.until('the victim asks the relay where it is', () => heardElsewhere.length > 0)
    const before = heardElsewhere.length
    const mine = liar.inner.length
    for (let index = 0; index < 20; index += 1) await liar.sendFrom(elsewhere, liar.transport(echo(100 + index)))
    await rig.lab.until('the answers come to the liar itself', () => liar.inner.length >= mine + 20)
    const wrong = heardElsewhere.slice(before).filter((bytes) => bytes[0] === 4 || bytes.subarray(0, 2).toString() === 'TS')
    expect(wrong).toEqual([]) // STUN alone
    await rig.unharmed()
  })

  test('message numbers near the end are refused, one below uses up the session of the liar alone', async () => {
    const limit = 2n ** 64n - 2n ** 13n - 1n
    const arrived = await quiet()
    const before = await rig.drops('wireguard-session-expired')
    await liar.send(...[2n ** 64n - 1n, 2n ** 63n, limit, limit + 1n].filter((counter) => counter >= limit).map((counter) => liar.transport(echo(4), liar.session, counter)))
    await rig.dropped(before, 3, 'wireguard-session-expired')
    const replays = await rig.drops('wireguard-packet-replay')
    await liar.send(liar.transport(echo(5), liar.session, limit - 1n), liar.transport(echo(6)))
    await rig.dropped(replays, 1, 'wireguard-packet-replay')
    expect(await packetsIn()).toBe(arrived + 1)
    await liar.handshake()
    await through(echo(7))
    await rig.lab.until('the new session is in force', async () => (await packetsIn()) === arrived + 2)
  })

  test('ever new sessions, and keepalives by the ten thousand, cost four indices and no answers', async () => {
    for (let times = 0; times < 40; times += 1) await liar.handshake()
    const sent = (await rig.status()).Meshwright.DirectBytesOut
    const empty = new Uint8Array(0)
    for (let index = 0; index < 10_000; index += 1) await liar.send(liar.transport(empty))
    expect((await rig.status()).Meshwright.DirectBytesOut - sent).toBeLessThan(100_000)
    expect((await rig.held())['sessions']).toBeLessThanOrEqual(8) // four for each of two peers
    await rig.unharmed()
  }, 60_000)

  test('handshakes that it never finishes: the victim asks once in five seconds, and others go on', async () => {
    liar.answersHandshakes = false
    rig.guests.splice(0, 1, { ...rig.guests[0], Key: NodePrivateKey.generate(systemRandom).publicKey().text })
    await rig.unharmed()
    rig.guests.splice(0, 1, described())
    await rig.unharmed() // the liar is back, and the victim knows of no session with it
    await rig.lab.until('the path is known again', async () => /"Endpoint":"127\.0\.0\.66/.test((await rig.ping(LIAR_IP, 'disco', 3_000)) ?? ''))
    const before = liar.initiations
    const started = performance.now()
    for (let times = 0; times < 10; times += 1) await rig.ping(LIAR_IP, 'TSMP', 100)
    await rig.lab.until('the victim asks', () => liar.initiations > before)
    await rig.unharmed()
    expect(liar.initiations - before).toBeLessThanOrEqual(2 + (performance.now() - started) / 5_000)
    liar.answersHandshakes = true
  })
})

/** Points of small order on Curve25519 (RFC 7748 section 7; https://cr.yp.to/ecdh.html#validate). */
const SMALL_ORDER: readonly Uint8Array[] = [
  '0000000000000000000000000000000000000000000000000000000000000000',
  '0100000000000000000000000000000000000000000000000000000000000000',
  'e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800',
  '5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157',
  'ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
].map((hex) => Buffer.from(hex, 'hex'))
