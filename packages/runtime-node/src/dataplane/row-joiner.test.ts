import { nobleProvider } from '@meshwright/crypto'
import { encodeIcmpPacket, encodeTcpPacket, encodeUdpPacket, type Ip, PacketView, parseIp, TCP_ACK, TCP_ECE, TCP_FIN, TCP_PSH, TCP_SYN, type TcpPacket } from '@meshwright/ip'
import fc from 'fast-check'
import { beforeEach, describe, expect, test } from 'vitest'
import { wasmCryptoProvider } from '../wasm-crypto.ts'
import { RowCutter, type RowMemory } from './row-cutter.ts'
import { JOINER_ROW_BYTES, JOINER_ROWS, RowJoiner } from './row-joiner.ts'
import { sumsFor } from './sum-module.ts'
import { decodeVnetHeader, emptyVnetHeader, VNET_HEADER_BYTES } from './vnet-header.ts'

const IN = 64
const ROWS = 80_000
const OUT = ROWS + JOINER_ROWS * JOINER_ROW_BYTES

function rowMemory(): RowMemory {
  const provider = wasmCryptoProvider(nobleProvider)
  if (provider === undefined) throw new Error('no WebAssembly SIMD')
  const bytes = provider.instance.allocate(OUT + 300_000)
  return { bytes, view: new DataView(bytes.buffer, bytes.byteOffset, bytes.length), sums: sumsFor(provider, bytes.byteOffset) }
}

const memory = rowMemory()
const cutter = new RowCutter(memory)
let written: Uint8Array[] = []
let joiner = new RowJoiner(memory, ROWS, true, () => undefined)
beforeEach(() => {
  written = []
  joiner = new RowJoiner(memory, ROWS, true, (at, length) => written.push(memory.bytes.slice(at, at + length)))
})

function add(packet: Uint8Array): void {
  memory.bytes.set(packet, IN)
  joiner.add(IN, packet.length)
}

/** How many packets each write stands for; 1 for what was written alone. */
function shape(): number[] {
  return written.map((bytes) => {
    const head = emptyVnetHeader()
    decodeVnetHeader(new DataView(bytes.buffer), 0, head)
    if (head.kind === 0) return 1
    memory.bytes.set(bytes, IN)
    expect(cutter.plan(IN + VNET_HEADER_BYTES, bytes.length - VNET_HEADER_BYTES, head)).toBe(true)
    return cutter.segments
  })
}

/** Cuts everything that was written again, as the kernel would. */
function received(): Uint8Array[] {
  return written.flatMap((bytes) => {
    const head = emptyVnetHeader()
    decodeVnetHeader(new DataView(bytes.buffer), 0, head)
    if (head.kind === 0) return [bytes.slice(VNET_HEADER_BYTES)]
    memory.bytes.set(bytes, IN)
    expect(cutter.plan(IN + VNET_HEADER_BYTES, bytes.length - VNET_HEADER_BYTES, head)).toBe(true)
    const stride = cutter.packetBytes + 32
    cutter.cut(0, cutter.segments, OUT, stride)
    return Array.from({ length: cutter.segments }, (_, i) => memory.bytes.slice(OUT + i * stride, OUT + i * stride + (i === cutter.segments - 1 ? cutter.lastPacketBytes : cutter.packetBytes)))
  })
}

function ip(text: string): Ip {
  const parsed = parseIp(text)
  if (parsed === undefined) throw new Error(text)
  return parsed
}

describe.each([4, 6] as const)('IPv%i', (family) => {
  const [one, two] = family === 4 ? [ip('10.0.0.1'), ip('10.0.0.2')] : [ip('fd00::1'), ip('fd00::2')]
  const tcp = (sequence: number, payload: number, more: Partial<TcpPacket> = {}, port: number = 5000): Uint8Array =>
    encodeTcpPacket({ src: { ip: one, port }, dst: { ip: two, port: 6000 }, sequence, acknowledgment: 9, flags: TCP_ACK, window: 500, payload: new Uint8Array(payload).fill(sequence), ...more })
  const udp = (payload: number, port: number = 5000): Uint8Array => encodeUdpPacket({ src: { ip: one, port }, dst: { ip: two, port: 53 }, payload: new Uint8Array(payload).fill(payload) })

  test('segments that continue each other are one row, and cut again what they were', () => {
    const packets = Array.from({ length: 10 }, (_, i) => tcp(1000 * i, i === 9 ? 10 : 1000, i === 9 ? { flags: TCP_ACK | TCP_PSH } : {}))
    packets.forEach(add)
    expect(shape()).toEqual([10])
    expect(joiner.rows).toBe(1)
    // IPv4 identification counts up behind a cut, as that of any host.
    const plain = (bytes: Uint8Array): Uint8Array => (family === 4 ? Uint8Array.from(bytes, (byte, i) => (i === 4 || i === 5 || i === 10 || i === 11 ? 0 : byte)) : bytes)
    expect(received().map(plain)).toEqual(packets.map(plain))
  })

  test('sequence numbers run over', () => {
    const first = 2 ** 32 - 1500
    for (let i = 0; i < 4; i += 1) add(tcp((first + 1000 * i) % 2 ** 32, 1000))
    joiner.flush()
    expect(shape()).toEqual([4])
  })

  test.each<[string, () => Uint8Array]>([
    ['a gap in the sequence', () => tcp(2001, 1000)],
    ['a repeat', () => tcp(0, 1000)],
    ['a longer segment', () => tcp(1000, 1001)],
    ['another acknowledgment', () => tcp(1000, 1000, { acknowledgment: 10 })],
    ['another window', () => tcp(1000, 1000, { window: 501 })],
    ['options', () => tcp(1000, 1000, { options: new Uint8Array(4).fill(1) })],
    ['another class', () => tcp(1000, 1000, { trafficClass: 2 })],
    ['another hop limit', () => tcp(1000, 1000, { hopLimit: 63 })],
    ['FIN', () => tcp(1000, 1000, { flags: TCP_ACK | TCP_FIN })],
    ['ECE', () => tcp(1000, 1000, { flags: TCP_ACK | TCP_ECE })],
    ['SYN', () => tcp(1000, 1000, { flags: TCP_SYN })],
    ['no payload', () => tcp(1000, 0)],
    ['an urgent pointer', () => change(tcp(1000, 1000), (family === 4 ? 20 : 40) + 19, 1)],
  ])('not part of a row: %s', (_what, make) => {
    const packets = [tcp(0, 1000), make()]
    packets.forEach(add)
    joiner.flush()
    expect(shape()).toEqual([1, 1])
    expect(received()).toEqual(packets)
  })

  test('a wrong checksum stays alone as it came, first or later, TCP or UDP', () => {
    const end = (bytes: Uint8Array): Uint8Array => change(bytes, bytes.length - 1, 77)
    const packets = [end(tcp(0, 1000)), tcp(1000, 1000), end(tcp(2000, 1000)), tcp(3000, 1000), end(udp(100)), udp(100), end(udp(100)), udp(100)]
    packets.forEach(add)
    joiner.flush()
    expect(shape()).toEqual([1, 1, 1, 1, 1, 1, 1, 1])
    expect(new Set(received().map(String))).toEqual(new Set(packets.map(String)))
  })

  test('two flows, packet by packet: a row for each; their order within is kept', () => {
    for (let i = 0; i < 6; i += 1) for (const port of [1, 2]) add(tcp(1000 * i, 1000, {}, port))
    joiner.flush()
    expect(shape()).toEqual([6, 6])
  })

  test('more flows than rows: none is lost', () => {
    for (let i = 0; i < 3; i += 1) for (let port = 1; port <= 40; port += 1) add(tcp(1000 * i, 1000, {}, port))
    joiner.flush()
    expect(shape().reduce((sum, each) => sum + each, 0)).toBe(120)
  })

  test('an acknowledgment of the same flow does not overtake its data, an echo does not overtake either', () => {
    add(tcp(0, 1000))
    add(tcp(1000, 1000))
    add(tcp(2000, 0))
    add(tcp(2000, 1000))
    add(encodeIcmpPacket({ src: one, dst: two, type: 8, code: 0, payload: new Uint8Array(8) }))
    expect(shape()).toEqual([2, 1, 1, 1])
  })

  test('datagrams of one length are a row, a shorter one ends it, a longer one begins another', () => {
    for (const length of [500, 500, 500, 200, 200, 300, 300]) add(udp(length))
    joiner.flush()
    expect(shape()).toEqual([4, 1, 2])
    expect(received().map((bytes) => bytes.length - (family === 4 ? 28 : 48))).toEqual([500, 500, 500, 200, 200, 300, 300])
    const view = new PacketView()
    for (const packet of received()) expect([view.at(packet), view.transportChecksumOk, view.headerChecksumOk]).toEqual([true, true, true])
  })

  test('a row has at most 64 packets and 65535 bytes', () => {
    for (let i = 0; i < 70; i += 1) add(udp(100))
    for (let i = 0; i < 20; i += 1) add(tcp(9000 * i, 9000))
    joiner.flush()
    expect(shape()).toEqual([64, 7, 7, 6, 6])
  })

  test('any packets in any order: what the kernel gets is what came, flow by flow in order', () => {
    const packet = fc.oneof(
      fc.record({ port: fc.integer({ min: 1, max: 3 }), length: fc.constantFrom(0, 1, 50, 100), push: fc.boolean() }).map((each) => ({ ...each, kind: 'tcp' as const })),
      fc.record({ port: fc.integer({ min: 1, max: 3 }), length: fc.constantFrom(1, 50, 100), push: fc.constant(false) }).map((each) => ({ ...each, kind: 'udp' as const })),
    )
    fc.assert(
      fc.property(fc.array(packet, { maxLength: 60 }), (list) => {
        written = []
        const next = [0, 0, 0, 0]
        const packets = list.map(({ kind, port, length, push }) => {
          if (kind === 'udp') return udp(length, port)
          const at = next[port] ?? 0
          next[port] = at + length
          return tcp(at, length, { flags: TCP_ACK | (push ? TCP_PSH : 0) }, port)
        })
        packets.forEach(add)
        joiner.flush()
        const view = new PacketView()
        const flows = (all: readonly Uint8Array[]): Record<string, string[]> => {
          const found: Record<string, string[]> = {}
          for (const each of all) {
            expect([view.at(each), view.transportChecksumOk]).toEqual([true, true])
            const line = `${each.length} ${view.tcpFlags} ${view.payload().join()}`
            ;(found[`${view.protocol} ${view.srcPort}`] ??= []).push(line)
          }
          return found
        }
        expect(flows(received())).toEqual(flows(packets))
      }),
      { numRuns: 100 },
    )
  })
})

test('fragments and other protocols end all rows and go alone', () => {
  const [one, two] = [ip('10.0.0.1'), ip('10.0.0.2')]
  const udp = encodeUdpPacket({ src: { ip: one, port: 1 }, dst: { ip: two, port: 2 }, payload: new Uint8Array(100) })
  const fragment = change(udp, 6, 0x20)
  for (const each of [udp, udp, fragment, udp]) add(each)
  joiner.flush()
  expect(shape()).toEqual([2, 1, 1])
})

test('a device without vnet headers gets bare packets', () => {
  joiner = new RowJoiner(memory, ROWS, false, (at, length) => written.push(memory.bytes.slice(at, at + length)))
  const packet = encodeUdpPacket({ src: { ip: ip('10.0.0.1'), port: 1 }, dst: { ip: ip('10.0.0.2'), port: 2 }, payload: new Uint8Array(100) })
  for (let i = 0; i < 3; i += 1) add(packet)
  joiner.flush()
  expect(written).toEqual([packet, packet, packet])
})

test('lengths that lie are left alone: any bytes', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ minLength: 20, maxLength: 200 }), { maxLength: 20 }), (packets) => {
      written = []
      for (const packet of packets) {
        packet[0] = (packet[0] ?? 0) & 1 ? 0x45 : 0x60
        packet[9] = (packet[9] ?? 0) & 1 ? 6 : 17
        packet[6] = packet[9]
        add(packet)
      }
      joiner.flush()
      expect(received().reduce((sum, each) => sum + each.length, 0)).toBe(packets.reduce((sum, each) => sum + each.length, 0))
    }),
  )
})

function change(bytes: Uint8Array, at: number, value: number): Uint8Array {
  const changed = bytes.slice()
  changed[at] = value
  return changed
}
