import { instant, type Instant } from '@meshwright/core'
import { encodeTcpPacket, encodeUdpPacket, type Endpoint, IpSet, TCP_SYN } from '@meshwright/ip'
import { PathFinder } from '@meshwright/nat-traversal'
import type { FilterRule } from '@meshwright/packet-filter'
import { SeededRandom } from '@meshwright/testkit'
import { describe, expect, test } from 'vitest'
import { DataPlane, type DataPlaneConfig, type DataPlaneOutput, encodeTsmpPing } from './index.ts'
import { ALLOW_ALL, endpoint, ip, keysOf, prefix, WALL } from './mesh-lab.test.ts'

const NOW = instant(1_000)
const place = (n: number): Endpoint => endpoint(`192.0.2.${n}:41641`)

/** Nodes at 192.0.2.n with the addresses 100.64.0.n, joined by a perfect wire, without disco. */
class Wire {
  readonly planes = new Map<number, { readonly plane: DataPlane; readonly paths: PathFinder }>()
  readonly delivered: { readonly at: number; readonly from: string; readonly bytes: Uint8Array; readonly type: string }[] = []

  constructor(...numbers: readonly number[]) {
    for (const n of numbers) {
      const random = new SeededRandom(n).bytes
      const { node, disco } = keysOf(n)
      const paths = new PathFinder({ nodeKey: node.publicKey(), discoKey: disco, random })
      this.planes.set(n, { paths, plane: new DataPlane({ random, wallClock: () => WALL, privateKey: node, paths, mtu: 1280 }) })
    }
    for (const n of numbers) this.apply(n)
  }

  plane(n: number): DataPlane {
    return this.planes.get(n)?.plane ?? expect.fail(`no node ${n}`)
  }

  /** Everybody else is a peer with its own address, and everything is allowed, save for what `change` says. */
  apply(n: number, change: Partial<DataPlaneConfig> = {}): void {
    const others = [...this.planes.keys()].filter((other) => other !== n)
    const keys = others.map((other) => keysOf(other).node.publicKey())
    for (const other of others) this.planes.get(n)?.paths.setPeer(NOW, { nodeKey: keysOf(other).node.publicKey(), endpoints: [place(other)] })
    this.plane(n).apply(NOW, {
      peers: keys,
      routes: others.map((other) => ({ prefix: prefix(`100.64.0.${other}/32`), peer: keysOf(other).node.publicKey().text })),
      rules: ALLOW_ALL,
      local: IpSet.from([prefix(`100.64.0.${n}/32`)]),
      ...change,
    })
    this.carry()
  }

  send(n: number, packet: Uint8Array, now: Instant = NOW): void {
    this.plane(n).outbound(now, packet)
    this.carry()
  }

  carry(): void {
    for (let busy = true; busy; ) {
      busy = false
      for (const [n, { plane }] of this.planes) {
        for (let output = plane.pollOutput(); output !== undefined; output = plane.pollOutput()) {
          busy = true
          this.#perform(n, output)
        }
      }
    }
  }

  /** What was delivered since it was last asked, as `at<from`. */
  taken(): string[] {
    return this.delivered.splice(0).map(({ at, from, type }) => `${type} ${at}<${[...this.planes.keys()].find((n) => keysOf(n).node.publicKey().text === from)}`)
  }

  #perform(n: number, output: DataPlaneOutput): void {
    if (output.type === 'datagram') {
      const to = [...this.planes.keys()].find((other) => place(other).ip.equals(output.to.ip))
      if (to !== undefined) this.plane(to).inboundDirect(NOW, Uint8Array.from(output.bytes), place(n))
    } else if (output.type === 'deliver' || output.type === 'tsmp') {
      this.delivered.push({ at: n, from: output.peer.text, bytes: Uint8Array.from(output.bytes), type: output.type })
    }
  }
}

const udp = (from: number, to: number, dstPort = 9, srcPort = 1_000): Uint8Array =>
  encodeUdpPacket({ src: { ip: ip(`100.64.0.${from}`), port: srcPort }, dst: { ip: ip(`100.64.0.${to}`), port: dstPort }, payload: Uint8Array.of(42) })
const rule = (source: string, port: number): FilterRule => ({ SrcIPs: [source], DstPorts: [{ IP: '*', Ports: { First: port, Last: port } }] })
const drops = (wire: Wire, n: number): Record<string, number> => Object.fromEntries(wire.plane(n).drops)

test('a packet goes from its sender to the one node that has its address, and to nobody else', () => {
  const wire = new Wire(1, 2, 3)
  const packet = udp(1, 2)
  wire.send(1, packet)
  expect(wire.delivered.map(({ bytes }) => bytes)).toEqual([packet])
  expect(wire.taken()).toEqual(['deliver 2<1'])
  expect([drops(wire, 1), drops(wire, 2), drops(wire, 3)]).toEqual([{}, {}, {}])
  expect(wire.plane(1).traffic).toMatchObject({ packetsOut: 1, packetsIn: 0 })
  expect(wire.plane(2).traffic).toMatchObject({ packetsOut: 0, packetsIn: 1 })
  expect(wire.plane(1).traffic.sent).toEqual(wire.plane(2).traffic.received)
})

test('a handshake is answered to where it came from while no path to the peer is known', () => {
  const wire = new Wire(1, 2)
  wire.planes.get(2)?.paths.setPeer(NOW, { nodeKey: keysOf(1).node.publicKey(), endpoints: [] })
  wire.send(1, udp(1, 2))
  expect(wire.taken()).toEqual(['deliver 2<1'])
  // Everything else still waits for a path.
  wire.send(2, udp(2, 1))
  expect([drops(wire, 2), wire.taken()]).toEqual([{ 'no-path': 1 }, []])
})

describe('every drop has its reason', () => {
  test('malformed: not an IP packet', () => {
    const wire = new Wire(1, 2)
    for (const bytes of [new Uint8Array(0), Uint8Array.of(0x45), new Uint8Array(40), udp(1, 2).subarray(0, 19)]) wire.send(1, bytes)
    expect([drops(wire, 1), wire.taken()]).toEqual([{ malformed: 4 }, []])
  })

  test('no-peer: nobody has the address', () => {
    const wire = new Wire(1, 2)
    wire.send(1, udp(1, 77))
    expect([drops(wire, 1), wire.taken()]).toEqual([{ 'no-peer': 1 }, []])
  })

  test('no-path: a peer without endpoint and without relay', () => {
    const wire = new Wire(1, 2)
    wire.planes.get(1)?.paths.setPeer(NOW, { nodeKey: keysOf(2).node.publicKey(), endpoints: [] })
    wire.send(1, udp(1, 2))
    expect(drops(wire, 1)['no-path']).toBeGreaterThan(0)
    expect(wire.taken()).toEqual([])
  })

  test('filter-out: a packet that no filter lets out', () => {
    const wire = new Wire(1, 2)
    wire.send(1, encodeUdpPacket({ src: { ip: ip('100.64.0.1'), port: 1 }, dst: { ip: ip('224.0.0.251'), port: 5353 }, payload: new Uint8Array(1) }))
    expect([drops(wire, 1), wire.taken()]).toEqual([{ 'filter-out': 1 }, []])
  })

  test('wrong-source: an address that is not the sender\'s, whatever the filter says', () => {
    const wire = new Wire(1, 2, 3)
    wire.send(1, udp(3, 2))
    wire.send(1, encodeTsmpPing(ip('100.64.0.3'), ip('100.64.0.2'), new Uint8Array(8)))
    expect([drops(wire, 2), wire.taken()]).toEqual([{ 'wrong-source': 2 }, []])
  })

  test('filter-in: a port that no rule allows', () => {
    const wire = new Wire(1, 2)
    wire.apply(2, { rules: [rule('100.64.0.1', 9)] })
    wire.send(1, udp(1, 2, 9))
    wire.send(1, udp(1, 2, 10))
    expect([drops(wire, 2), wire.taken()]).toEqual([{ 'filter-in': 1 }, ['deliver 2<1']])
  })

  test('filter-in: a source that has not the capability that a rule asks for, and everybody where nobody knows who has it', () => {
    const wire = new Wire(1, 2, 3)
    const rules = [rule('cap:example.com/cap/in', 9)]
    wire.apply(2, { rules, capabilities: new Map([[ip('100.64.0.1').key, new Set(['example.com/cap/in'])], [ip('100.64.0.3').key, new Set(['example.com/cap/other'])]]) })
    wire.send(1, udp(1, 2, 9))
    wire.send(1, udp(1, 2, 10))
    wire.send(3, udp(3, 2, 9))
    expect([drops(wire, 2), wire.taken()]).toEqual([{ 'filter-in': 2 }, ['deliver 2<1']])
    wire.apply(2, { rules })
    wire.send(1, udp(1, 2, 9))
    expect([drops(wire, 2), wire.taken()]).toEqual([{ 'filter-in': 3 }, []])
  })

  test('without any rule nothing comes in', () => {
    const wire = new Wire(1, 2)
    wire.apply(2, { rules: [] })
    wire.send(1, udp(1, 2))
    wire.send(1, encodeTcpPacket({ src: { ip: ip('100.64.0.1'), port: 1 }, dst: { ip: ip('100.64.0.2'), port: 22 }, sequence: 0, flags: TCP_SYN }))
    expect([drops(wire, 2), wire.taken()]).toEqual([{ 'filter-in': 2 }, []])
  })
})

test('replies to what was sent come in without a rule, from there and to there alone', () => {
  const wire = new Wire(1, 2, 3)
  wire.apply(1, { rules: [] })
  wire.send(2, udp(2, 1, 1_000, 9))
  expect(wire.taken(), 'nothing was asked yet').toEqual([])
  wire.send(1, udp(1, 2, 9, 1_000))
  wire.send(2, udp(2, 1, 1_000, 9))
  wire.send(2, udp(2, 1, 1_001, 9))
  wire.send(3, udp(3, 1, 1_000, 9))
  expect(wire.taken()).toEqual(['deliver 2<1', 'deliver 1<2'])
})

test('TSMP comes past the filter, as a message of its own', () => {
  const wire = new Wire(1, 2)
  wire.apply(2, { rules: [] })
  wire.send(1, encodeTsmpPing(ip('100.64.0.1'), ip('100.64.0.2'), new Uint8Array(8)))
  expect(wire.taken()).toEqual(['tsmp 2<1'])
})

describe('apply', () => {
  test('takes a peer away at once: neither its packets nor packets for it pass, also with a session that was good', () => {
    const wire = new Wire(1, 2)
    wire.send(1, udp(1, 2))
    wire.send(2, udp(2, 1))
    expect(wire.taken()).toEqual(['deliver 2<1', 'deliver 1<2'])
    wire.apply(2, { peers: [], routes: [], rules: ALLOW_ALL })
    wire.send(1, udp(1, 2))
    wire.send(2, udp(2, 1))
    expect(wire.taken()).toEqual([])
    expect(drops(wire, 2)).toEqual({ 'no-peer': 1 })
    wire.apply(2)
    wire.send(2, udp(2, 1))
    expect(wire.taken()).toEqual(['deliver 1<2'])
  })

  test('keeps the sessions of peers that stay', () => {
    const wire = new Wire(1, 2, 3)
    wire.send(1, udp(1, 2))
    const before = wire.plane(1).device.peerStatus(NOW, keysOf(2).node.publicKey())
    wire.apply(1, { peers: [keysOf(2).node.publicKey()] })
    expect(wire.plane(1).device.peerStatus(NOW, keysOf(2).node.publicKey())).toEqual(before)
    expect(wire.plane(1).device.peerStatus(NOW, keysOf(3).node.publicKey())).toBeUndefined()
  })

  test('moves an address from one peer to another without a moment in which both have it', () => {
    const wire = new Wire(1, 2, 3)
    wire.send(2, udp(2, 1))
    expect(wire.taken()).toEqual(['deliver 1<2'])
    const keys = [2, 3].map((n) => keysOf(n).node.publicKey())
    wire.apply(1, { peers: keys, routes: [{ prefix: prefix('100.64.0.2/32'), peer: keysOf(3).node.publicKey().text }] })
    wire.send(2, udp(2, 1))
    expect([wire.taken(), drops(wire, 1)]).toEqual([[], { 'wrong-source': 1 }])
    wire.send(3, udp(2, 1))
    expect(wire.taken()).toEqual(['deliver 1<3'])
  })

  test('a rule that is gone is gone for the next packet; a flow that it had let in ends with it', () => {
    const wire = new Wire(1, 2)
    wire.apply(2, { rules: [rule('100.64.0.1', 9)] })
    wire.send(1, udp(1, 2))
    wire.apply(2, { rules: [rule('100.64.0.1', 10)] })
    wire.send(1, udp(1, 2))
    expect([wire.taken(), drops(wire, 2)]).toEqual([['deliver 2<1'], { 'filter-in': 1 }])
  })
})

test('a peer behind a relay that goes on in a session which we have forgotten is called at once', () => {
  const wire = new Wire(1, 2)
  const plane = wire.plane(1)
  const data = Uint8Array.from({ length: 64 }, (_, i) => [4, 0, 0, 0, 7, 7, 7, 7][i] ?? 0)
  plane.inboundRelayed(NOW, data, 1, keysOf(3).node.publicKey())
  expect(plane.pollOutput(), 'nobody of ours').toBeUndefined()
  plane.inboundRelayed(NOW, data, 1, keysOf(2).node.publicKey())
  expect(plane.pollOutput()).toMatchObject({ type: 'datagram', to: place(2) })
  wire.carry()
  plane.inboundDirect(NOW, data, place(2))
  expect(plane.pollOutput(), 'directly, nobody vouches for the sender').toBeUndefined()
})

test('the stopwatch of a node reaches its WireGuard device: slow handshakes are load', () => {
  let clock = 0
  const { node, disco } = keysOf(1)
  const random = new SeededRandom(1).bytes
  const paths = new PathFinder({ nodeKey: node.publicKey(), discoKey: disco, random })
  const plane = new DataPlane({ random, wallClock: () => WALL, privateKey: node, paths, mtu: 1280, stopwatch: () => (clock += 60) })
  plane.inboundDirect(NOW, Uint8Array.from({ length: 148 }, (_, i) => (i === 0 ? 1 : 0)), place(2))
  expect(plane.device.status(NOW).underLoad).toBe(true)
})
