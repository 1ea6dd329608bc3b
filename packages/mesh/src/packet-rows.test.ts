import { DONE, type Instant, instant, PacketBatch } from '@meshwright/core'
import { encodeUdpPacket, IpSet } from '@meshwright/ip'
import { drain, SeededRandom } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { Engine, type EngineOutput } from './index.ts'
import { ALLOW_ALL, endpoint, ip, keysOf, prefix, WALL } from './mesh-lab.test.ts'
import { encodeTsmpPing } from './tsmp.ts'

const NOW = instant(1_000)
const WHERE = { 1: endpoint('192.0.2.1:41641'), 2: endpoint('192.0.2.2:41641'), 3: endpoint('192.0.2.3:41641') } as const
type N = keyof typeof WHERE
const ALL: readonly N[] = [1, 2, 3]

/** `size` is that of the payload: 28 bytes of headers come in front. */
function packet(from: N, to: N, size: number, first = 0): Uint8Array {
  return encodeUdpPacket({ src: { ip: ip(`100.64.0.${from}`), port: 1 }, dst: { ip: ip(`100.64.0.${to}`), port: 2 }, payload: new Uint8Array(size).fill(first) })
}

/** An engine whose peers speak WireGuard alone, at a fixed endpoint. */
function make(n: N, change: { readonly blockUdp?: boolean } = {}): Engine {
  const { node, disco } = keysOf(n)
  const engine = new Engine({ nextLink: () => 1, random: new SeededRandom(n).bytes, wallClock: () => WALL, privateKey: node, discoKey: disco, mtu: 1280, allowLoopback: false, blockUdp: false, ...change })
  const peers = ALL.filter((each) => each !== n)
  engine.apply(NOW, {
    warnings: [],
    paths: peers.map((each) => ({ nodeKey: keysOf(each).node.publicKey(), endpoints: [WHERE[each]] })),
    plane: {
      peers: peers.map((each) => keysOf(each).node.publicKey()),
      routes: peers.map((each) => ({ prefix: prefix(`100.64.0.${each}/32`), peer: keysOf(each).node.publicKey().text })),
      rules: ALLOW_ALL,
      local: IpSet.from([prefix(`100.64.0.${n}/32`)]),
    },
  })
  return engine
}

/** A line between engines, by which rows go as rows and all else as outputs. */
class Line {
  readonly engines = { 1: make(1), 2: make(2), 3: make(3) } as const
  readonly row = new PacketBatch(new Uint8Array(66_000), 64)
  readonly received = PacketBatch.slab(64, 2_048)
  /** Inner packets as they arrived, by node. */
  readonly arrived: Record<N, Uint8Array[]> = { 1: [], 2: [], 3: [] }
  readonly told: Record<N, EngineOutput[]> = { 1: [], 2: [], 3: [] }
  /** The lengths of the datagrams of each row that left. */
  readonly rows: { readonly from: N; readonly to: N; readonly lengths: readonly number[] }[] = []

  offer(from: N, ...packets: readonly Uint8Array[]): this {
    for (const each of packets) this.engines[from].offer(NOW, each)
    return this.settle()
  }

  settle(now: Instant = NOW): this {
    for (let busy = true; busy; ) {
      busy = false
      for (const n of ALL) {
        for (let to = this.engines[n].sealRow(now, this.row); to !== undefined; to = this.engines[n].sealRow(now, this.row)) {
          busy = true
          const peer = this.#at(to.port === 41641 ? to.ip.key : '')
          const datagrams = Array.from({ length: this.row.count }, (_, slot) => slot).filter((slot) => this.row.verdict[slot] === DONE).map((slot) => this.row.result(slot).slice())
          this.rows.push({ from: n, to: peer, lengths: datagrams.map((each) => each.length) })
          this.open(n, peer, datagrams)
        }
        for (const output of drain(this.engines[n])) {
          if (output.type === 'deliver') this.arrived[n].push(output.bytes)
          else if (output.type !== 'datagram') this.told[n].push(output)
          else {
            busy = true
            this.engines[this.#at(output.to.ip.key)].handleInput(now, { type: 'datagram', bytes: output.bytes, from: WHERE[n] })
          }
        }
      }
    }
    return this
  }

  open(from: N, to: N, datagrams: readonly Uint8Array[]): void {
    this.received.reset()
    for (const each of datagrams) this.received.addCopy(each)
    this.engines[to].open(NOW, WHERE[from], this.received)
    for (let slot = 0; slot < this.received.count; slot += 1) if (this.received.verdict[slot] === DONE) this.arrived[to].push(this.received.result(slot).slice())
    this.received.memory.fill(0xee) // its owner uses it again
  }

  #at(key: string): N {
    return ALL.find((n) => WHERE[n].ip.key === key) ?? expect.fail(key)
  }
}

/** With sessions among all, and nothing on the way. */
function connected(): Line {
  const line = new Line()
  for (const from of ALL) for (const to of ALL) if (from < to) line.offer(from, packet(from, to, 1)).offer(to, packet(to, from, 1))
  for (const n of ALL) line.arrived[n].length = 0
  line.rows.length = 0
  return line
}

test('packets that wait for a session are lost to nobody, and those behind them go in rows', () => {
  const line = new Line()
  const packets = Array.from({ length: 5 }, (_, i) => packet(1, 2, 100, i))
  line.offer(1, ...packets)
  expect(line.arrived[2]).toEqual(packets)
  line.offer(1, ...packets)
  expect(line.arrived[2]).toEqual([...packets, ...packets])
  expect(line.rows.at(-1)).toEqual({ from: 1, to: 2, lengths: packets.map(() => 160) })
})

test('neighbours for one peer make a row until one is shorter, another is longer, or the row is full; order is kept', () => {
  const line = connected()
  const sizes = [1252, 1252, 500, 1252, 1252, 40, 40, 1252]
  const packets = sizes.map((size, i) => packet(1, 2, size, i))
  line.offer(1, ...packets)
  expect(line.arrived[2]).toEqual(packets)
  expect(line.rows.map(({ lengths }) => lengths)).toEqual([[1312, 1312, 560], [1312, 1312, 112], [112], [1312]])
  line.rows.length = 0
  line.offer(1, ...Array.from({ length: 51 }, () => packet(1, 2, 1252)))
  expect(line.rows.map(({ lengths }) => lengths.length)).toEqual([49, 2])
  line.rows.length = 0
  line.offer(1, ...Array.from({ length: 65 }, () => packet(1, 2, 4)))
  expect(line.rows.map(({ lengths }) => lengths.length)).toEqual([64, 1])
})

test('packets for several peers go to each, in order', () => {
  const line = connected()
  const packets = [2, 2, 3, 2, 3, 3].map((to, i) => packet(1, to === 2 ? 2 : 3, 200, i))
  line.offer(1, ...packets)
  expect(line.rows.map(({ to, lengths }) => [to, lengths.length])).toEqual([[2, 2], [3, 1], [2, 1], [3, 2]])
  expect(line.arrived[2]).toEqual(packets.filter((_, i) => [0, 1, 3].includes(i)))
  expect(line.arrived[3]).toEqual(packets.filter((_, i) => [2, 4, 5].includes(i)))
})

test('the slow lane and rows understand each other', () => {
  const line = connected()
  const [one, two] = [packet(1, 2, 300), packet(2, 1, 300)]
  line.engines[1].handleInput(NOW, { type: 'packet', bytes: one })
  line.settle().offer(2, two)
  expect(line.arrived).toMatchObject({ 1: [two], 2: [one] })
})

test('a packet longer than a row goes alone', () => {
  const line = connected()
  const small = new PacketBatch(new Uint8Array(1_000), 8)
  line.engines[1].offer(NOW, packet(1, 2, 1_200))
  expect(line.engines[1].sealRow(NOW, small)).toBeUndefined()
  line.settle()
  expect(line.arrived[2]).toEqual([packet(1, 2, 1_200)])
})

test('what the filter, the router or the source check refuse is dropped and counted; messages between nodes are told', () => {
  const line = connected()
  line.offer(1, packet(1, 2, 10), Uint8Array.of(1, 2, 3), encodeUdpPacket({ src: { ip: ip('100.64.0.1'), port: 1 }, dst: { ip: ip('100.64.0.77'), port: 2 }, payload: new Uint8Array(1) }))
  expect(line.arrived[2]).toHaveLength(1)
  expect(Object.fromEntries(line.engines[1].plane.drops)).toMatchObject({ malformed: 1, 'no-peer': 1 })
  line.offer(1, packet(3, 2, 10), packet(1, 2, 20)) // by 1 in the name of 3
  expect(line.arrived[2].slice(1)).toEqual([packet(1, 2, 20)])
  expect(Object.fromEntries(line.engines[2].plane.drops)).toMatchObject({ 'wrong-source': 1 })
  line.offer(1, encodeTsmpPing(ip('100.64.0.1'), ip('100.64.0.2'), new Uint8Array(8).fill(7)))
  expect(line.told[2].filter(({ type }) => type === 'tsmp')).toHaveLength(1)
})

test('a batch of everything: handshakes, replays and rubbish between packets do not keep them from arriving', () => {
  const line = connected()
  const packets = Array.from({ length: 3 }, (_, i) => packet(1, 2, 64, i))
  for (const each of packets) line.engines[1].offer(NOW, each)
  expect(line.engines[1].sealRow(NOW, line.row)).toEqual(WHERE[2])
  const [a, b, c] = [0, 1, 2].map((slot) => line.row.result(slot).slice())
  if (a === undefined || b === undefined || c === undefined) expect.fail('three')
  const broken = b.slice().fill(9, 40)
  line.open(1, 2, [Uint8Array.of(1), a, new Uint8Array(0), a, Uint8Array.from([1, 0, 0, 0, 9]), broken, b, new Uint8Array(200).fill(0x54), c])
  line.settle()
  expect(line.arrived[2]).toEqual(packets)
})

test('blocked UDP: rows are neither sent nor read, both counted', () => {
  const line = connected()
  line.engines[1].setUdpBlocked(NOW, true)
  line.offer(1, packet(1, 2, 10), packet(1, 2, 10))
  expect(line.rows).toEqual([])
  const before = line.engines[1].blockedDatagrams
  line.open(2, 1, [new Uint8Array(64), new Uint8Array(64)])
  expect(line.arrived[1]).toEqual([])
  expect(line.engines[1].blockedDatagrams).toBe(before + 2)
})

test('packets that go by rows are counted', () => {
  const line = connected()
  const before = line.engines[1].traffic()
  line.offer(1, ...Array.from({ length: 4 }, () => packet(1, 2, 100)))
  expect(line.engines[1].traffic().packetsOut - before.packetsOut).toBe(4)
  expect(line.engines[2].traffic().packetsIn).toBeGreaterThanOrEqual(4)
})
