import { nobleProvider } from '@meshwright/crypto'
import { encodeTcpPacket, encodeUdpPacket, PacketView, parseIp, PROTOCOL_TCP, TCP_ACK, TCP_CWR, TCP_FIN, TCP_PSH } from '@meshwright/ip'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { wasmCryptoProvider } from '../wasm-crypto.ts'
import { completeChecksum, RowCutter, type RowMemory } from './row-cutter.ts'
import { sumsFor } from './sum-module.ts'
import { emptyVnetHeader, VNET_GSO_NONE, VNET_GSO_TCPV4, VNET_GSO_TCPV6, VNET_GSO_UDP, type VnetHeader } from './vnet-header.ts'

const IN = 64
const OUT = 100_000

function rowMemory(): RowMemory {
  const provider = wasmCryptoProvider(nobleProvider)
  if (provider === undefined) throw new Error('no WebAssembly SIMD')
  const bytes = provider.instance.allocate(600_000)
  return { bytes, view: new DataView(bytes.buffer, bytes.byteOffset, bytes.length), sums: sumsFor(provider, bytes.byteOffset) }
}

const memory = rowMemory()
const cutter = new RowCutter(memory)

function ip(text: string) {
  const parsed = parseIp(text)
  if (parsed === undefined) throw new Error(text)
  return parsed
}

const ADDRESSES = { 4: [ip('10.0.0.1'), ip('10.0.0.2')], 6: [ip('fd00::1'), ip('fd00::2')] } as const

function header(kind: number, segmentBytes: number, checksumStart: number): VnetHeader {
  return { ...emptyVnetHeader(), needsChecksum: true, kind, segmentBytes, checksumStart, checksumOffset: 16 }
}

/** Cuts a whole packet, `chunk` packets at a time, and gives the pieces. */
function pieces(packet: Uint8Array, head: VnetHeader, chunk: number): Uint8Array[] {
  memory.bytes.set(packet, IN)
  expect(cutter.plan(IN, packet.length, head)).toBe(true)
  const stride = cutter.packetBytes + 32
  const found: Uint8Array[] = []
  for (let from = 0; from < cutter.segments; from += chunk) {
    const to = Math.min(cutter.segments, from + chunk)
    cutter.cut(from, to, OUT, stride)
    for (let i = from; i < to; i += 1) found.push(memory.bytes.slice(OUT + (i - from) * stride, OUT + (i - from) * stride + (i === cutter.segments - 1 ? cutter.lastPacketBytes : cutter.packetBytes)))
  }
  return found
}

describe.each([4, 6] as const)('IPv%i', (family) => {
  const [src, dst] = ADDRESSES[family]
  const transport = family === 4 ? 20 : 40

  test('a row of TCP becomes packets with right checksums whose payloads are that of the row', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 60_000 }), fc.integer({ min: 48, max: 9000 }), fc.nat(0xffff_ffff), fc.integer({ min: 1, max: 64 }), fc.constantFrom(0, 12, 40), (length, mss, seq, chunk, options) => {
        const payload = Uint8Array.from({ length }, (_, i) => (i * 7) & 255)
        const flags = TCP_ACK | TCP_PSH | TCP_FIN | TCP_CWR
        const whole = encodeTcpPacket({ src: { ip: src, port: 5000 }, dst: { ip: dst, port: 6000 }, sequence: seq, acknowledgment: 77, flags, window: 1000, options: new Uint8Array(options).fill(1), payload })
        const view = new PacketView()
        const parts = pieces(whole, header(family === 4 ? VNET_GSO_TCPV4 : VNET_GSO_TCPV6, mss, transport), chunk)
        expect(parts.length).toBe(Math.ceil(length / mss))
        const joined: number[] = []
        for (const [i, part] of parts.entries()) {
          expect(view.at(part)).toBe(true)
          expect([view.totalLength, view.headerChecksumOk, view.transportChecksumOk, view.protocol]).toEqual([part.length, true, true, PROTOCOL_TCP])
          const head = new DataView(part.buffer, part.byteOffset + transport)
          expect(head.getUint32(4)).toBe((seq + i * mss) % 2 ** 32)
          expect(view.tcpFlags).toBe(TCP_ACK | (i === 0 ? TCP_CWR : 0) | (i === parts.length - 1 ? TCP_PSH | TCP_FIN : 0))
          if (family === 4) expect(view.fragmentId).toBe((((whole[4] ?? 0) << 8) + (whole[5] ?? 0) + i) & 0xffff)
          joined.push(...view.payload())
        }
        expect(joined).toEqual([...payload])
      }),
      { numRuns: 12 },
    )
  })

  test('a row of UDP becomes datagrams', () => {
    const payload = Uint8Array.from({ length: 10_000 }, (_, i) => i & 255)
    const whole = encodeUdpPacket({ src: { ip: src, port: 1 }, dst: { ip: dst, port: 2 }, payload })
    const view = new PacketView()
    const parts = pieces(whole, header(VNET_GSO_UDP, 1360, transport), 64)
    expect(parts.map((part) => (view.at(part), [view.transportChecksumOk, view.headerChecksumOk, view.payloadLength]))).toEqual([...Array.from({ length: 7 }, () => [true, true, 1360]), [true, true, 480]])
    expect(parts.flatMap((part) => (view.at(part), [...view.payload()]))).toEqual([...payload])
  })

  test('a single packet gets the checksum that was left to us', () => {
    const whole = encodeUdpPacket({ src: { ip: src, port: 1 }, dst: { ip: dst, port: 2 }, payload: new Uint8Array(33).fill(9) })
    memory.bytes.set(whole, IN)
    // The kernel leaves the sum of the pseudo header in the field: what makes the whole right.
    const length = whole.length - transport
    const addresses = family === 4 ? memory.sums.sum(IN + 12, 8) : memory.sums.sum(IN + 8, 32)
    const pseudo = addresses + (17 << 8) + ((length & 255) << 8) + (length >> 8)
    memory.view.setUint16(IN + transport + 6, (pseudo & 0xffff) + (pseudo >>> 16), true)
    expect(completeChecksum(memory, IN, whole.length, transport, 6)).toBe(true)
    expect(memory.bytes.slice(IN, IN + whole.length)).toEqual(whole)
  })
})

describe('lengths from the kernel that contradict each other are refused', () => {
  const [src, dst] = ADDRESSES[4]
  const whole = encodeTcpPacket({ src: { ip: src, port: 5000 }, dst: { ip: dst, port: 6000 }, sequence: 1, acknowledgment: 1, flags: TCP_ACK, window: 1, payload: new Uint8Array(3000) })
  const good = header(VNET_GSO_TCPV4, 1000, 20)
  const refused = (change: (bytes: Uint8Array) => void, head: VnetHeader, length: number = whole.length): void => {
    const bytes = whole.slice()
    change(bytes)
    memory.bytes.set(bytes, IN)
    expect(cutter.plan(IN, length, head)).toBe(false)
    expect(cutter.segments).toBe(0)
  }
  const same = (): void => undefined

  test('segments of nothing', () => refused(same, { ...good, segmentBytes: 0 }))
  test('no row', () => refused(same, { ...good, kind: VNET_GSO_NONE }))
  test('a kind that does not exist', () => refused(same, { ...good, kind: 3 }))
  test('IPv6 that says it is IPv4', () => refused(same, { ...good, kind: VNET_GSO_TCPV6 }))
  test('another version', () => refused((bytes) => bytes.fill(0x55, 0, 1), good))
  test('another version, as a row of UDP', () => refused((bytes) => bytes.fill(0x55, 0, 1), { ...good, kind: VNET_GSO_UDP, checksumStart: 40 }))
  test('IPv4 that says it is IPv6, and headers longer than any are', () => {
    const six = encodeTcpPacket({ src: { ip: ADDRESSES[6][0], port: 5 }, dst: { ip: ADDRESSES[6][1], port: 6 }, sequence: 1, acknowledgment: 1, flags: TCP_ACK, window: 1, payload: new Uint8Array(3000).fill(0x55) })
    memory.bytes.set(six, IN)
    expect([header(VNET_GSO_TCPV6, 1000, 40), header(VNET_GSO_TCPV4, 1000, 40), header(VNET_GSO_TCPV6, 1000, 236), header(VNET_GSO_TCPV6, 1000, 237)].map((head) => cutter.look(IN, six.length, head))).toEqual([true, false, true, false])
  })
  test('another protocol', () => refused((bytes) => bytes.fill(17, 9, 10), good))
  test('an IPv4 header that is too short', () => refused((bytes) => bytes.fill(0x44, 0, 1), good))
  test('a TCP header that is too short', () => refused((bytes) => bytes.fill(0x40, 32, 33), good))
  test('a packet that ends in its headers', () => refused(same, good, 40))
  test('a packet that is none', () => refused(same, good, 12))
  test('a checksum outside of an IPv6 packet', () => {
    const six = encodeTcpPacket({ src: { ip: ADDRESSES[6][0], port: 5 }, dst: { ip: ADDRESSES[6][1], port: 6 }, sequence: 1, acknowledgment: 1, flags: TCP_ACK, window: 1, payload: new Uint8Array(3000) })
    memory.bytes.set(six, IN)
    for (const start of [0, 39, 3060, 65_535, 300]) expect(cutter.plan(IN, six.length, header(VNET_GSO_TCPV6, 1000, start))).toBe(false)
  })
  test('any bytes at all: what is planned stays inside the row', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 0, maxLength: 300 }), fc.nat(7), fc.nat(0xffff), fc.nat(0xffff), (bytes, kind, segmentBytes, start) => {
        memory.bytes.set(bytes, IN)
        if (!cutter.plan(IN, bytes.length, { ...header(kind, segmentBytes, start) })) return
        expect((cutter.segments - 1) * segmentBytes).toBeLessThan(bytes.length)
        expect(cutter.lastPacketBytes).toBeGreaterThan(0)
        expect(Math.max(cutter.packetBytes, cutter.lastPacketBytes)).toBeLessThanOrEqual(bytes.length)
      }),
    )
  })
  test.each([[20, 99], [0, 99], [100, 0], [99, 0], [65_535, 65_535]])('a checksum at %i + %i of 100 bytes', (start, offset) => expect(completeChecksum(memory, IN, 100, start, offset)).toBe(false))
})
