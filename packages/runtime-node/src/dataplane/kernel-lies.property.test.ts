import { NodePrivateKey } from '@meshwright/crypto'
import { encodeIcmpEcho, encodeTcpPacket, type Ip, parseIp, parsePrefix, type Prefix, TCP_ACK } from '@meshwright/ip'
import { SeededRandom } from '@meshwright/testkit'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { nodeCryptoProvider } from '../node-crypto.ts'
import { wasmCryptoProvider } from '../wasm-crypto.ts'
import { MSG_CONTROLLEN_AT, MSG_FLAGS_AT, MSG_NAMELEN_AT, POLLNVAL, SOL_IP, SOL_IPV6, SOL_UDP, UDP_GRO } from './linux-abi.ts'
import { ipv4Address } from './memory-kernel.ts'
import { MemoryLane } from './memory-lane.ts'
import { VNET_GSO_TCPV4, VNET_GSO_UDP, VNET_HEADER_BYTES } from './vnet-header.ts'

// A kernel that says anything at all: no call is given memory outside the arena, nothing around the arena changes, nothing comes out that
// was not sent, and the next honest packet passes.
const RUNS = 400
/** Where things stand from the beginning of the header of a receiving: the sender's address, the first and the second control message. */
const NAME = 80
const CONTROL = 112
const CMSG = 24
const GUARD_BYTES = 4_096

const must = <T>(value: T | undefined): T => {
  if (value === undefined) throw new Error('the test has a mistake')
  return value
}
const ip = (text: string): Ip => must(parseIp(text))
const prefix = (text: string): Prefix => must(parsePrefix(text))
const provider = must(wasmCryptoProvider(nodeCryptoProvider, 24 * 1024 * 1024))

/** Bytes of the memory that the lanes work in, beside their arenas: nobody writes here. */
class Guards {
  readonly #places: Uint8Array[] = []

  add(): void {
    const place = provider.instance.allocate(GUARD_BYTES)
    place.fill(0xa5)
    this.#places.push(place)
  }

  check(): void {
    for (const place of this.#places) expect(place.every((byte) => byte === 0xa5)).toBe(true)
  }
}

const guards = new Guards()
guards.add()
const [a, b] = [1, 2].map((host) => {
  const random = new SeededRandom(host).bytes
  const key = NodePrivateKey.generate(random)
  const lane = new MemoryLane({ provider, key, random })
  guards.add()
  lane.kernel.touched = (at, length) => {
    if (!(at >= 0 && length >= 0 && at + length <= lane.context.bytes.length)) throw new Error(`a call was given ${length} bytes at ${at}`)
  }
  return { lane, key, host }
}) as [{ lane: MemoryLane; key: NodePrivateKey; host: number }, { lane: MemoryLane; key: NodePrivateKey; host: number }] // two of two
for (const [own, other] of [[a, b], [b, a]] as const) {
  own.lane.kernel.onSend = (_to, row) => other.lane.kernel.udpIn.push({ ...row, from: ipv4Address(own.host, 5000) })
  own.lane.change({
    type: 'peer', publicKey: other.key.publicKey(), remove: false, updateOnly: false, replaceAllowedIps: false, allowedIps: [{ prefix: prefix(`10.0.0.${other.host}/32`), remove: false }],
    endpoint: { ip: ip(`10.87.0.${other.host}`), port: 5000 },
  })
}

const bare = (packet: Uint8Array): Uint8Array => {
  const bytes = new Uint8Array(VNET_HEADER_BYTES + packet.length)
  bytes.set(packet, VNET_HEADER_BYTES)
  return bytes
}
const echo = (sequence: number): Uint8Array => encodeIcmpEcho({ src: ip('10.0.0.1'), dst: ip('10.0.0.2'), kind: 'request', identifier: 1, sequence, payload: new Uint8Array(56) })
const tcp = (payload: number, src: string = '10.0.0.1'): Uint8Array => encodeTcpPacket({ src: { ip: ip(src), port: 1 }, dst: { ip: ip('10.0.0.2'), port: 2 }, sequence: 7, flags: TCP_ACK, payload: new Uint8Array(payload).fill(9) })
const run = (): void => {
  for (let i = 0; i < 4; i += 1) for (const { lane } of [a, b]) lane.run()
}
/** One honest packet gets through, whole: what was before it has broken nothing. */
function honest(): void {
  for (const { lane } of [a, b]) lane.kernel.lie = undefined
  b.lane.kernel.tunOut?.splice(0)
  a.lane.kernel.tunIn.push(bare(echo(77)))
  run()
  expect(b.lane.kernel.tunOut?.splice(0)).toEqual([bare(echo(77))])
  guards.check()
}
honest()

const u32 = fc.oneof(fc.constantFrom(0, 1, 15, 16, 17, 19, 20, 21, 23, 24, 25, 47, 48, 49, 63, 64, 127, 128, 129, 255, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_fff8, 0xffff_ffff), fc.nat(200), fc.nat(0xffff_ffff))
const size = fc.oneof(fc.constantFrom(-1, 0, 1, 2, 3, 4, 9, 10, 11, 16, 31, 32, 65_535, 65_536, 65_600, 65_601, 65_610, 65_611, 131_072, 0x7fff_ffff, 2 ** 32, 2 ** 53), fc.integer({ min: -300, max: 200_000 }))

test('reading gives any number', () => {
  fc.assert(
    fc.property(size, fc.boolean(), (length, isRow) => {
      a.lane.kernel.lie = (call, result) => (call === 'read' ? length : result)
      const packet = bare(isRow ? tcp(3_000) : echo(1))
      if (isRow) packet.set([1, VNET_GSO_TCPV4, 0, 0, 0xe8, 3, 20, 0, 16, 0])
      a.lane.kernel.tunIn.push(packet)
      run()
      honest()
    }),
    { numRuns: RUNS },
  )
})

test('receiving gives any number, and any length of anything in its header', () => {
  const message = fc.record({ length: u32, high: fc.constantFrom(0, 0, 0, 1), level: fc.constantFrom(SOL_IP, SOL_IPV6, SOL_UDP, 1, 77), kind: fc.constantFrom(1, 67, UDP_GRO, 0, 33), value: fc.oneof(u32, fc.constantFrom(0, 1, 65_535)) })
  fc.assert(
    fc.property(
      fc.option(size, { nil: undefined }), fc.option(u32, { nil: undefined }), fc.constantFrom(0, 0, 0, 1), fc.option(fc.constantFrom(8, 0x20, 0x28, 1, 0x7fff_ffff), { nil: undefined }), fc.option(u32, { nil: undefined }),
      fc.option(fc.nat(0xffff), { nil: undefined }), fc.option(message, { nil: undefined }), fc.option(message, { nil: undefined }),
      (received, controls, controlsHigh, flags, names, family, first, second) => {
        const sent = [tcp(500), tcp(500)].map(bare)
        b.lane.kernel.tunOut?.splice(0)
        b.lane.kernel.lie = (call, result, at) => {
          if (call !== 'recvmsg') return result
          const { view } = b.lane.context
          if (controls !== undefined) view.setUint32(at + MSG_CONTROLLEN_AT, controls, true)
          view.setUint32(at + MSG_CONTROLLEN_AT + 4, controlsHigh, true)
          if (flags !== undefined) view.setInt32(at + MSG_FLAGS_AT, flags, true)
          if (names !== undefined) view.setUint32(at + MSG_NAMELEN_AT, names, true)
          if (family !== undefined) view.setUint16(at + NAME, family, true)
          for (const [i, each] of [first, second].entries()) {
            if (each === undefined) continue
            const place = at + CONTROL + i * CMSG
            view.setUint32(place, each.length, true)
            view.setUint32(place + 4, each.high, true)
            view.setInt32(place + 8, each.level, true)
            view.setInt32(place + 12, each.kind, true)
            view.setUint32(place + 16, each.value, true)
          }
          return received ?? result
        }
        a.lane.kernel.tunIn.push(...sent)
        run()
        // Whatever came out is what was sent, maybe marked as congested, maybe joined.
        for (const written of b.lane.kernel.tunOut?.splice(0) ?? []) expect([sent[0]?.length, (sent[0]?.length ?? 0) + 500]).toContain(written.length)
        honest()
      },
    ),
    { numRuns: RUNS },
  )
})

test('waiting tells of any number of descriptors with any events, sending and writing of any number of bytes', () => {
  fc.assert(
    fc.property(fc.option(size, { nil: undefined }), fc.array(fc.nat(0xffff), { minLength: 6, maxLength: 6 }), fc.boolean(), fc.option(size, { nil: undefined }), fc.option(size, { nil: undefined }), (ready, events, changes, sent, written) => {
      for (const { lane } of [a, b]) {
        // Said twice: a lane that is told to read for ever would.
        let told = 0
        lane.kernel.lie = (call, result, at) => {
          if (call === 'sendmsg') return sent === undefined ? result : Math.max(0, sent)
          if (call === 'write') return written === undefined ? result : Math.max(0, written)
          if (call !== 'poll' || told === 2) return result
          told += 1
          // That a descriptor is none any more ends a lane, rightly.
          if (changes) for (const [i, each] of events.entries()) lane.context.view.setUint16(at + i * 8 + 6, each & ~POLLNVAL, true)
          return ready ?? result
        }
      }
      b.lane.kernel.tunOut?.splice(0)
      a.lane.kernel.tunIn.push(bare(echo(1)), bare(tcp(500)), bare(tcp(500)))
      run()
      for (const out of b.lane.kernel.tunOut?.splice(0) ?? []) expect([bare(echo(1)).length, VNET_HEADER_BYTES + 540, VNET_HEADER_BYTES + 1_040]).toContain(out.length)
      honest()
    }),
    { numRuns: RUNS },
  )
})

test('a vnet header says anything, over a row or over any bytes', () => {
  fc.assert(
    fc.property(
      fc.oneof(fc.nat(255), fc.constantFrom(0, 1)), fc.oneof(fc.nat(255), fc.constantFrom(0, VNET_GSO_TCPV4, 4, VNET_GSO_UDP, 3, 0x81)), fc.nat(0xffff), fc.oneof(fc.nat(0xffff), fc.constantFrom(0, 1, 1000, 65_535)),
      fc.oneof(fc.nat(0xffff), fc.constantFrom(20, 0)), fc.oneof(fc.nat(0xffff), fc.constantFrom(16, 6)), fc.option(fc.uint8Array({ maxLength: 300 }), { nil: undefined }), fc.option(fc.tuple(fc.nat(60), fc.nat(255)), { nil: undefined }),
      (flags, kind, headers, segment, start, offset, bytes, flip) => {
        const packet = bare(bytes ?? tcp(5_000))
        const view = new DataView(packet.buffer)
        view.setUint8(0, flags)
        view.setUint8(1, kind)
        for (const [i, value] of [headers, segment, start, offset].entries()) view.setUint16(2 + 2 * i, value, true)
        if (flip !== undefined && VNET_HEADER_BYTES + flip[0] < packet.length) packet[VNET_HEADER_BYTES + flip[0]] = flip[1]
        a.lane.kernel.tunIn.push(packet)
        run()
        honest()
      },
    ),
    { numRuns: RUNS },
  )
})

test('rows that were changed, cut or lengthened on the wire, under any length of segments', () => {
  fc.assert(
    fc.property(fc.nat(0xffff), fc.nat(7), fc.nat(2_000), fc.nat(3_000), fc.uint8Array({ maxLength: 40 }), (at, bit, cut, segmentBytes, more) => {
      const { onSend } = a.lane.kernel
      b.lane.kernel.tunOut?.splice(0)
      a.lane.kernel.onSend = (to, row) => {
        const bytes = Uint8Array.from([...row.bytes.subarray(0, row.bytes.length - (cut % row.bytes.length)), ...more])
        if (bytes.length > 0) bytes[at % bytes.length] = (bytes[at % bytes.length] ?? 0) ^ (1 << bit)
        onSend(to, { ...row, bytes, segmentBytes: segmentBytes >= bytes.length ? 0 : segmentBytes })
      }
      a.lane.kernel.tunIn.push(bare(tcp(500)), bare(tcp(500)), bare(tcp(500)))
      run()
      a.lane.kernel.onSend = onSend
      // Whole or not at all.
      for (const written of b.lane.kernel.tunOut?.splice(0) ?? []) expect((written.length - VNET_HEADER_BYTES - 40) % 500).toBe(0)
      honest()
    }),
    { numRuns: RUNS },
  )
})

describe('one lie, counted once', () => {
  const lies = (): number => a.lane.context.counters.kernelLies + b.lane.context.counters.kernelLies
  const counted = (act: () => void): void => {
    const before = lies()
    act()
    run()
    expect(lies() - before).toBe(1)
    honest()
  }
  const checksum = (start: number, offset: number): void => {
    const packet = bare(tcp(10))
    packet.set([1, 0, 0, 0, 0, 0, start & 255, start >> 8, offset & 255, offset >> 8])
    a.lane.kernel.tunIn.push(packet)
  }
  test.each([['where the packet ends', 50, 0], ['its field outside', 20, 29], ['its field half outside', 48, 1], ['far out', 65_535, 65_535]])('a checksum that begins %s', (_what, start, offset) => counted(() => checksum(start, offset)))

  const control = (change: (view: DataView, first: number, header: number) => void): void => {
    b.lane.kernel.lie = (call, result, at) => {
      if (call === 'recvmsg') change(b.lane.context.view, at + CONTROL, at)
      return result
    }
    a.lane.kernel.tunIn.push(bare(echo(1)))
  }
  test('a traffic class without a byte', () => counted(() => control((view, first) => view.setUint32(first, 16, true))))
  test('a traffic class of IPv6 in too few bytes', () => counted(() => control((view, first) => [view.setUint32(first, 19, true), view.setInt32(first + 8, SOL_IPV6, true), view.setInt32(first + 12, 67, true)])))
  test('a control message that ends between two words, and the next one outside', () => counted(() => control((view, first, header) => [view.setUint32(first, 17, true), view.setUint32(header + MSG_CONTROLLEN_AT, 40, true), view.setUint32(first + 24, 99, true)])))
  test('segments of 65535', () => counted(() => control((view, first, header) => [view.setUint32(header + MSG_CONTROLLEN_AT, 48, true), view.setUint32(first + CMSG, 20, true), view.setUint32(first + CMSG + 4, 0, true), view.setInt32(first + CMSG + 8, SOL_UDP, true), view.setInt32(first + CMSG + 12, UDP_GRO, true), view.setInt32(first + CMSG + 16, 65_535, true)])))
  test('a row with segments of nothing', () => counted(() => {
    const packet = bare(tcp(3_000))
    packet.set([1, VNET_GSO_TCPV4, 0, 0, 0, 0, 20, 0, 16, 0])
    a.lane.kernel.tunIn.push(packet)
  }))
})
