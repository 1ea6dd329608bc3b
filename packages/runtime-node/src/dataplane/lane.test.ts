import { instant } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { encodeIcmpEcho, encodeTcpPacket, encodeUdpPacket, type Ip, PacketView, parseIp, parsePrefix, TCP_ACK } from '@meshwright/ip'
import { SeededRandom } from '@meshwright/testkit'
import type { UapiPeerChange } from '@meshwright/wireguard/text'
import fc from 'fast-check'
import { beforeEach, describe, expect, test } from 'vitest'
import { Lane } from './lane.ts'
import { roomForTwo } from './lanes-for-tests.ts'
import { EINVAL, EIO, EMSGSIZE, MSG_CONTROLLEN_AT, MSG_FLAGS_AT, MSG_NAMELEN_AT, POLLFD_BYTES, POLLNVAL, SOL_UDP, UDP_GRO } from './linux-abi.ts'
import { ipv4Address, MemoryKernel, type WireRow } from './memory-kernel.ts'
import { MemoryLane } from './memory-lane.ts'
import { encodeSocketAddress } from './socket-address.ts'
import { decodeVnetHeader, emptyVnetHeader, encodeRowVnetHeader, VNET_GSO_TCPV4, VNET_GSO_TCPV6, VNET_GSO_UDP, VNET_HEADER_BYTES } from './vnet-header.ts'

// The lanes of the tests take turns with it.
const { provider: shared, arenas } = roomForTwo()

// Two lanes with a wire between them: 10.0.0.1 and 10.0.0.2, fd00::1 and fd00::2.
class End {
  readonly lane: MemoryLane
  readonly key: NodePrivateKey
  readonly host: number
  readonly sent: WireRow[] = []

  constructor(host: number, more: Partial<ConstructorParameters<typeof MemoryLane>[0]> = {}) {
    this.host = host
    const random = new SeededRandom(host).bytes
    this.key = NodePrivateKey.generate(random)
    this.lane = new MemoryLane({ provider: shared, arena: arenas[host - 1], key: this.key, random, ...more })
  }

  joinTo(other: End): void {
    this.lane.kernel.onSend = (_to, row) => {
      const whole = { ...row, from: ipv4Address(this.host, 5000) }
      this.sent.push(whole)
      other.lane.kernel.udpIn.push(whole)
    }
    this.lane.change(peerAt(other, `10.87.0.${other.host}`))
  }

  /** Packets that the TUN device was given, vnet headers and rows included. */
  take(): Uint8Array[] {
    return this.lane.kernel.tunOut?.splice(0) ?? []
  }
}

/** An end as the other one knows it, at an address. */
function peerAt({ key, host }: End, address: string): UapiPeerChange {
  const allowedIps = [`10.0.0.${host}/32`, `fd00::${host}/128`].map((text) => ({ prefix: prefix(text), remove: false }))
  return { type: 'peer', publicKey: key.publicKey(), remove: false, updateOnly: false, replaceAllowedIps: false, allowedIps, endpoint: { ip: ip(address), port: 5000 } }
}

let [a, b] = [new End(1), new End(2)]
const settings = { hasVnetHeader: true }
function start(more: Partial<ConstructorParameters<typeof MemoryLane>[0]> = {}): void {
  ;[a, b] = [new End(1, more), new End(2, more)]
  a.joinTo(b)
  b.joinTo(a)
  settings.hasVnetHeader = more.hasVnetHeader ?? true
  send(a, echo(1))
  expect(b.take()).toHaveLength(1)
  a.sent.length = 0
}
beforeEach(() => start())

function ip(text: string): Ip {
  const parsed = parseIp(text)
  if (parsed === undefined) throw new Error(text)
  return parsed
}

function prefix(text: string) {
  const parsed = parsePrefix(text)
  if (parsed === undefined) throw new Error(text)
  return parsed
}

/** Puts what a TUN device gives in front of the lane and lets both run until all is quiet. */
function send(from: End, ...packets: readonly Uint8Array[]): void {
  for (const packet of packets) from.lane.kernel.tunIn.push(settings.hasVnetHeader && !('vnet' in packet) ? bare(packet) : packet)
  settle()
}

function settle(): void {
  for (let i = 0; i < 6; i += 1) for (const end of [a, b]) end.lane.run()
}

function bare(packet: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(VNET_HEADER_BYTES + packet.length)
  bytes.set(packet, VNET_HEADER_BYTES)
  return bytes
}

/** A row as the kernel gives it. */
function row(packet: Uint8Array, kind: number, segmentBytes: number, transport: number): Uint8Array {
  const bytes = bare(packet)
  encodeRowVnetHeader(new DataView(bytes.buffer), 0, kind, 0, segmentBytes, transport, kind === VNET_GSO_UDP ? 6 : 16)
  return Object.assign(bytes, { vnet: true })
}

const echo = (sequence: number, payload: Uint8Array = new Uint8Array(56)): Uint8Array => encodeIcmpEcho({ src: ip('10.0.0.1'), dst: ip('10.0.0.2'), kind: 'request', identifier: 1, sequence, payload })
const tcp = (payload: number, more: object = {}, family: 4 | 6 = 4): Uint8Array =>
  encodeTcpPacket({
    src: { ip: ip(family === 4 ? '10.0.0.1' : 'fd00::1'), port: 1 }, dst: { ip: ip(family === 4 ? '10.0.0.2' : 'fd00::2'), port: 2 },
    sequence: 7, flags: TCP_ACK, payload: Uint8Array.from({ length: payload }, (_, i) => i & 255), ...more,
  })

describe.each([4, 6] as const)('inner IPv%i', (family) => {
  const transport = family === 4 ? 20 : 40

  test('a row of TCP is one sending, one receiving and one writing, byte for byte', () => {
    const packet = tcp(45 * 1360, {}, family)
    send(a, row(packet, family === 4 ? VNET_GSO_TCPV4 : VNET_GSO_TCPV6, 1360, transport))
    expect(a.sent.map(({ segmentBytes, bytes }) => [segmentBytes, Math.ceil(bytes.length / segmentBytes)])).toEqual([[(family === 4 ? 1408 : 1420) + 32, 45]])
    const [written, ...more] = b.take()
    expect(more).toEqual([])
    const header = emptyVnetHeader()
    decodeVnetHeader(new DataView(written?.buffer ?? new ArrayBuffer(10)), 0, header)
    expect([header.segmentBytes, header.needsChecksum, header.checksumStart]).toEqual([1360, true, transport])
    expect(written?.slice(VNET_HEADER_BYTES + transport + 20)).toEqual(packet.slice(transport + 20))
  })

  test('a row of UDP arrives as one', () => {
    const packet = encodeUdpPacket({ src: { ip: ip(family === 4 ? '10.0.0.1' : 'fd00::1'), port: 1 }, dst: { ip: ip(family === 4 ? '10.0.0.2' : 'fd00::2'), port: 2 }, payload: new Uint8Array(10_000).fill(3) })
    send(a, row(packet, VNET_GSO_UDP, 1200, transport))
    expect(a.sent).toHaveLength(1)
    const written = b.take()
    expect(written.map((bytes) => bytes.length - VNET_HEADER_BYTES)).toEqual([packet.length])
  })
})

describe.each([[4, '10.87.0.2', 16], [6, 'fd87::2', 28]] as const)('outer IPv%i', (_family, outside, addressBytes) => {
  beforeEach(() => {
    const from = (host: number): Uint8Array => encodeSocketAddress({ ip: ip(outside.replace(/2$/, String(host))), port: 5000 })
    for (const [own, other] of [[a, b], [b, a]] as const) {
      own.lane.change(peerAt(other, outside.replace(/2$/, String(other.host))))
      own.lane.kernel.onSend = (to, row) => {
        expect(to).toEqual(from(other.host))
        const whole = { ...row, from: from(own.host) }
        own.sent.push(whole)
        other.lane.kernel.udpIn.push(whole)
      }
    }
  })

  test.each([4, 6] as const)('inner IPv%i: a row of TCP arrives whole, by the socket of its family', (family) => {
    const packet = tcp(45 * 1360, {}, family)
    send(a, row(packet, family === 4 ? VNET_GSO_TCPV4 : VNET_GSO_TCPV6, 1360, family === 4 ? 20 : 40))
    expect(a.sent.map(({ from, segmentBytes }) => [from.length, segmentBytes > 0])).toEqual([[addressBytes, true]])
    expect(b.take().map((bytes) => bytes.slice(VNET_HEADER_BYTES + (family === 4 ? 40 : 60)))).toEqual([packet.slice(family === 4 ? 40 : 60)])
  })

  test.each([4, 6] as const)('marks of congestion of inner IPv%i go out and come in', (family) => {
    send(a, tcp(100, { trafficClass: 2 }, family))
    expect(a.sent.map(({ trafficClass }) => trafficClass)).toEqual([2])
    b.take()
    const { onSend } = a.lane.kernel
    a.lane.kernel.onSend = (to, sent) => onSend(to, { ...sent, trafficClass: 3 })
    // What does not speak of congestion is not marked.
    send(a, tcp(100, { trafficClass: 2 }, family), tcp(100, {}, family))
    const classOf = (bytes: Uint8Array): number => (family === 4 ? (bytes[VNET_HEADER_BYTES + 1] ?? 0) : (((bytes[VNET_HEADER_BYTES] ?? 0) & 15) << 4) | ((bytes[VNET_HEADER_BYTES + 1] ?? 0) >> 4)) & 3
    expect(b.take().map(classOf)).toEqual([3, 0])
  })
})

test('packets that come one by one go as rows of one length, the last shorter; all arrive in order', () => {
  const sizes = [100, 100, 100, 60, 100, 100, 200, 200, 1300, 1300, 1300, 30]
  send(a, ...sizes.map((size, i) => echo(i, new Uint8Array(size))))
  expect(a.sent.map(({ segmentBytes }) => segmentBytes > 0)).toEqual([true, true, true, true])
  const view = new PacketView()
  expect(b.take().map((bytes) => (view.at(bytes, VNET_HEADER_BYTES), [view.payloadLength - 4, view.transportChecksumOk]))).toEqual(sizes.map((size) => [size, true]))
})

test('the congestion marks of each packet go out and come in', () => {
  send(a, tcp(100, { trafficClass: 2 }), tcp(100, { trafficClass: 2 }), tcp(100, { trafficClass: 1 }), tcp(100))
  expect(a.sent.map(({ trafficClass }) => trafficClass)).toEqual([2, 1, 0])
  const classes = (): number[] => b.take().map((bytes) => bytes[VNET_HEADER_BYTES + 1] ?? -1)
  b.take()
  // The network marks what is on its way.
  a.lane.kernel.onSend = (_to, sent) => void b.lane.kernel.udpIn.push({ ...sent, from: ipv4Address(1, 5000), trafficClass: 3 })
  send(a, echo(1), tcp(50, { trafficClass: 2 }))
  expect(classes()).toEqual([0, 3])
})

test('a device without vnet headers, sockets without rows: the same packets', () => {
  start({ hasVnetHeader: false, gso: false })
  send(a, tcp(1000), tcp(1000), echo(2))
  expect(a.sent.map(({ segmentBytes }) => segmentBytes)).toEqual([0, 0, 0])
  expect(b.take()).toEqual([tcp(1000), tcp(1000), echo(2)])
})

describe('an offload that fails is given up alone', () => {
  const whole = tcp(5 * 1000)
  const five = (): Uint8Array => row(whole, VNET_GSO_TCPV4, 1000, 20)

  test('EIO: no more rows are sent', () => {
    a.lane.kernel.sendErrno = (segmentBytes) => (segmentBytes > 0 ? -EIO : 0)
    send(a, five(), five())
    expect(a.lane.context.offloads).toMatchObject({ gso: false, gro: true, tso: true })
    expect(a.sent.map(({ segmentBytes }) => segmentBytes)).toEqual(new Array(10).fill(0))
    expect(b.lane.kernel.tunOut?.length).toBeGreaterThan(0)
    expect(a.lane.context.counters).toMatchObject({ splitRows: 1, sendDrops: 0 })
  })

  test('EMSGSIZE: single datagrams on that path for ten seconds', () => {
    a.lane.kernel.sendErrno = (segmentBytes) => (segmentBytes > 0 ? -EMSGSIZE : 0)
    send(a, five())
    a.lane.kernel.sendErrno = () => 0
    send(a, five())
    expect(a.sent.map(({ segmentBytes }) => segmentBytes > 0)).toEqual(new Array(10).fill(false))
    expect(a.lane.context.offloads.gso).toBe(true)
    for (const end of [a, b]) end.lane.now = instant(12_000)
    send(a, five())
    expect(a.sent.at(-1)?.segmentBytes).toBe(1040 + 32)
  })

  test('EINVAL on the first row of UDP: the device gets datagrams', () => {
    b.lane.kernel.writeErrno = (at) => (b.lane.context.view.getUint8(at + 1) === VNET_GSO_UDP ? -22 : 0)
    const packet = encodeUdpPacket({ src: { ip: ip('10.0.0.1'), port: 1 }, dst: { ip: ip('10.0.0.2'), port: 2 }, payload: new Uint8Array(3000).fill(3) })
    send(a, row(packet, VNET_GSO_UDP, 1000, 20), row(packet, VNET_GSO_UDP, 1000, 20))
    expect(b.take().map((bytes) => bytes.length)).toEqual(new Array(6).fill(1000 + 28 + VNET_HEADER_BYTES))
    expect(b.lane.context.offloads).toMatchObject({ udpJoin: false, tso: true })
    expect(b.lane.context.counters.writeDrops).toBe(0)
  })

  test('EINVAL on a later row of UDP: that row alone goes in pieces', () => {
    const packet = encodeUdpPacket({ src: { ip: ip('10.0.0.1'), port: 1 }, dst: { ip: ip('10.0.0.2'), port: 2 }, payload: new Uint8Array(3000).fill(3) })
    const three = (): Uint8Array => row(packet, VNET_GSO_UDP, 1000, 20)
    send(a, three())
    b.lane.kernel.writeErrno = (at) => (b.lane.context.view.getUint8(at + 1) === VNET_GSO_UDP ? -EINVAL : 0)
    send(a, three())
    b.lane.kernel.writeErrno = () => 0
    send(a, three())
    expect(b.take().map((bytes) => bytes.length - VNET_HEADER_BYTES)).toEqual([3028, 1028, 1028, 1028, 3028])
    expect([b.lane.context.offloads.udpJoin, b.lane.context.counters.splitRows, b.lane.context.counters.writeDrops]).toEqual([true, 1, 0])
  })

  test('EINVAL on a row of TCP: that row alone goes in pieces', () => {
    b.lane.kernel.writeErrno = (at) => (b.lane.context.view.getUint8(at + 1) === VNET_GSO_TCPV4 ? -EINVAL : 0)
    send(a, five())
    b.lane.kernel.writeErrno = () => 0
    send(a, five())
    expect(b.take().map((bytes) => bytes.length - VNET_HEADER_BYTES)).toEqual([1040, 1040, 1040, 1040, 1040, 5040])
    expect([b.lane.context.offloads.tso, b.lane.context.counters.splitRows]).toEqual([true, 1])
  })

  test('without rows of TCP out of the device none go into it either; those of UDP do', () => {
    start({ offloads: { tso: false } })
    const datagram = encodeUdpPacket({ src: { ip: ip('10.0.0.1'), port: 1 }, dst: { ip: ip('10.0.0.2'), port: 2 }, payload: new Uint8Array(1000).fill(3) })
    send(a, tcp(1000), tcp(1000, { sequence: 1007 }), datagram, datagram)
    expect(b.take().map((bytes) => bytes.length - VNET_HEADER_BYTES)).toEqual([1040, 1040, 2028])
  })

  test('without rows of UDP into the device those of TCP do', () => {
    start({ offloads: { udpJoin: false } })
    const datagram = encodeUdpPacket({ src: { ip: ip('10.0.0.1'), port: 1 }, dst: { ip: ip('10.0.0.2'), port: 2 }, payload: new Uint8Array(1000).fill(3) })
    send(a, tcp(1000), tcp(1000, { sequence: 1007 }), datagram, datagram)
    expect(b.take().map((bytes) => bytes.length - VNET_HEADER_BYTES)).toEqual([2040, 1028, 1028])
  })

  test('a device that takes nothing: counted', () => {
    b.lane.kernel.writeErrno = () => -EIO
    send(a, echo(5))
    expect(b.lane.context.counters.writeDrops).toBe(1)
  })
})

describe('errors of reading the device', () => {
  const errors = (...errnos: readonly number[]): void => {
    const left = [...errnos]
    a.lane.kernel.lie = (call, result) => (call === 'read' && left.length > 0 ? -(left.shift() ?? 0) : result)
  }
  const drops = (): number => a.lane.context.counters.readDrops

  // EAGAIN, EINTR and EIO say that nothing is there now; the others (EINVAL, ENOMEM, EFAULT, ENOBUFS, EPERM) cost a packet at most.
  test.each([[11, 0], [4, 0], [5, 0], [EINVAL, 1], [12, 1], [14, 1], [105, 1], [1, 1]])('errors of reading that are the end of no device (errno %i)', (errno, lost) => {
    errors(errno)
    // The kernel's array gives up a packet for each call, whatever the call says then.
    a.lane.kernel.tunIn.push(bare(echo(1)), bare(echo(2)), bare(echo(3)))
    for (let i = 0; i < 4; i += 1) expect(a.lane.lane.turn(0)).toBe('on')
    b.lane.run()
    expect([b.take(), drops()]).toEqual([[bare(echo(2)), bare(echo(3))], lost])
  })

  test.each([77, 9, 19, 6])('a device that is no more (errno %i) ends the lane, and says why', (errno) => {
    errors(errno)
    a.lane.kernel.tunIn.push(bare(echo(1)))
    expect([a.lane.lane.turn(0), a.lane.lane.errno]).toEqual(['gone', errno])
  })

  test('a descriptor that is none any more ends the lane', () => {
    a.lane.kernel.lie = (call, result, at) => {
      if (call !== 'poll') return result
      a.lane.context.view.setUint16(at + POLLFD_BYTES + 6, POLLNVAL, true)
      return 1
    }
    expect([a.lane.lane.turn(0), a.lane.lane.errno]).toEqual(['gone', 9])
  })

  test('a thousand in a row are no accident; one packet in between, and they are', () => {
    const turns = (): readonly string[] => {
      const said: string[] = []
      while (a.lane.kernel.tunIn.length > 0 && said.at(-1) !== 'gone') said.push(a.lane.lane.turn(0))
      return said
    }
    const many = Array.from({ length: 999 }, () => EINVAL)
    errors(...many, 0, ...many)
    a.lane.kernel.lie = ((lie) => (call, result, at) => lie?.(call, result, at) || result)(a.lane.kernel.lie)
    for (let i = 0; i < 1_999; i += 1) a.lane.kernel.tunIn.push(bare(echo(i)))
    expect([turns().includes('gone'), drops()]).toEqual([false, 1_998])
    errors(...many, EINVAL)
    for (let i = 0; i < 1_001; i += 1) a.lane.kernel.tunIn.push(bare(echo(i)))
    expect([turns().at(-1), a.lane.lane.errno]).toEqual(['gone', EINVAL])
  })
})

test('sockets that are given up are read for a second and closed then; that they are is said before', () => {
  const said: string[] = []
  const kernel = Object.assign(a.lane.kernel, { close: (fd: number) => said.push(`closed ${fd}`) })
  const lane = new Lane(a.lane.context, MemoryKernel.WAKE, () => a.lane.now, { onClosing: ({ ipv4, ipv6 }) => said.push(`closing ${ipv4} ${ipv6}`) })
  const [first, second, third] = [a.lane.context.sockets, { ipv4: 201, ipv6: 202, port: 1 }, { ipv4: 301, ipv6: -1, port: 2 }]
  lane.useSockets(a.lane.now, second)
  expect(first).toMatchObject({ ipv4: MemoryKernel.IPV4, ipv6: MemoryKernel.IPV6 })
  // The old pair is still read.
  kernel.udpIn.push({ from: ipv4Address(9, 9), bytes: new Uint8Array(1), segmentBytes: 0, trafficClass: 0 })
  lane.turn(0)
  expect([kernel.udpIn.length, said]).toEqual([0, []])
  a.lane.now = instant(a.lane.now + 1_000)
  lane.turn(0)
  expect(said.splice(0)).toEqual([`closing ${MemoryKernel.IPV4} ${MemoryKernel.IPV6}`, `closed ${MemoryKernel.IPV4}`, `closed ${MemoryKernel.IPV6}`])
  lane.turn(0)
  lane.useSockets(a.lane.now, third)
  expect(said).toEqual([])
  lane.close()
  expect(said).toEqual(['closing 201 202', 'closed 201', 'closed 202', 'closed 301'])
})

describe('what the kernel says and cannot be is not believed, counted, and nothing is read or written outside', () => {
  const inside = (end: End): void => {
    const { length } = end.lane.context.bytes
    end.lane.kernel.touched = (at, bytes) => expect(at >= 0 && bytes >= 0 && at + bytes <= length).toBe(true)
  }
  beforeEach(() => {
    inside(a)
    inside(b)
  })
  const lies = (end: End): number => end.lane.context.counters.kernelLies

  test.each([
    ['longer than was asked for', 70_000],
    ['only a header', VNET_HEADER_BYTES],
    ['less than a header', 3],
  ])('a packet read: %s', (_what, length) => {
    a.lane.kernel.lie = (call, result) => (call === 'read' ? length : result)
    send(a, echo(9))
    expect([lies(a), a.sent.length]).toEqual([1, 0])
  })

  test('a row received that is longer than the buffer', () => {
    b.lane.kernel.lie = (call, result) => (call === 'recvmsg' ? 100_000 : result)
    send(a, echo(9))
    expect([lies(b), b.take()]).toEqual([1, []])
  })

  const header = (change: (view: DataView, at: number) => void): void => {
    b.lane.kernel.lie = (call, result, at) => {
      if (call === 'recvmsg') change(b.lane.context.view, at)
      return result
    }
    send(a, tcp(500), tcp(500))
    expect([lies(b), b.take()]).toEqual([1, []])
  }
  const control = (at: number): number => at + 112
  test('control messages longer than their place', () => header((view, at) => view.setUint32(at + MSG_CONTROLLEN_AT, 4_000, true)))
  test('control messages that go on behind their place', () => header((view, at) => {
    const behind = control(at) + 128
    view.setUint32(at + MSG_CONTROLLEN_AT, 152, true)
    view.setUint32(control(at), 128, true)
    // There stands what would be believed.
    for (const [i, value] of [20, 0, SOL_UDP, UDP_GRO, 576].entries()) view.setUint32(behind + 4 * i, value, true)
  }))
  test('control messages of 4 GiB and more', () => header((view, at) => view.setUint32(at + MSG_CONTROLLEN_AT + 4, 1, true)))
  test('a truncated row', () => header((view, at) => view.setInt32(at + MSG_FLAGS_AT, 0x20, true)))
  test('truncated control messages', () => header((view, at) => view.setInt32(at + MSG_FLAGS_AT, 0x08, true)))
  test('a control message shorter than its header', () => header((view, at) => view.setUint32(control(at), 3, true)))
  test('a control message that ends outside', () => header((view, at) => view.setUint32(control(at), 400, true)))
  test('a control message of 4 GiB', () => header((view, at) => view.setUint32(control(at) + 4, 1, true)))
  test('segments of nothing', () => header((view, at) => view.setInt32(control(at) + 24 + 16, 0, true)))
  test('segments of less than nothing', () => header((view, at) => view.setInt32(control(at) + 24 + 16, -5, true)))
  test('segments longer than the row', () => header((view, at) => view.setInt32(control(at) + 24 + 16, 65_000, true)))
  test('more segments than there can be', () => header((view, at) => view.setInt32(control(at) + 24 + 16, 1, true)))
  test('a length of segments in too few bytes', () => header((view, at) => view.setUint32(control(at) + 24, 17, true)))
  test('no sender', () => header((view, at) => view.setUint32(at + MSG_NAMELEN_AT, 0, true)))
  test('a sender longer than its place', () => header((view, at) => view.setUint32(at + MSG_NAMELEN_AT, 999, true)))
  test('a sender of another family, as long as one of IPv6', () => header((view, at) => [view.setUint16(at + 80, 77, true), view.setUint32(at + MSG_NAMELEN_AT, 28, true)]))
  test('a traffic class of one byte, as Linux gives it: what follows begins at a multiple of 8', () => {
    b.lane.kernel.lie = (call, result, at) => {
      if (call === 'recvmsg') b.lane.context.view.setUint32(control(at), 17, true)
      return result
    }
    send(a, tcp(500), tcp(500))
    expect([lies(b), b.take().length]).toEqual([0, 2])
  })
  test('before each receiving the kernel is told anew how much room there is, whatever it said before', () => {
    const { kernel, context: { view } } = b.lane
    const own = kernel.recvmsg.bind(kernel)
    const told: number[][] = []
    kernel.recvmsg = (fd, at) => {
      told.push([view.getUint32(at + MSG_NAMELEN_AT, true), view.getUint32(at + MSG_CONTROLLEN_AT, true), view.getUint32(at + MSG_CONTROLLEN_AT + 4, true), view.getInt32(at + MSG_FLAGS_AT, true)])
      const got = own(fd, at)
      for (const field of [MSG_NAMELEN_AT, MSG_CONTROLLEN_AT, MSG_CONTROLLEN_AT + 4, MSG_FLAGS_AT]) view.setUint32(at + field, 0xffff_ffff, true)
      return got
    }
    for (let i = 0; i < 3; i += 1) send(a, echo(i))
    expect(told.length).toBeGreaterThan(3)
    expect(new Set(told.map(String))).toEqual(new Set(['32,128,0,0']))
  })
  test('a sender of another family', () => header((view, at) => view.setUint16(at + 80, 77, true)))

  test('any vnet header over any bytes: the lane goes on', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 0, maxLength: 400 }), fc.uint8Array({ minLength: VNET_HEADER_BYTES, maxLength: VNET_HEADER_BYTES }), fc.boolean(), (bytes, head, isRow) => {
        const packet = isRow ? bare(tcp(300)) : bare(bytes)
        packet.set(head)
        a.lane.kernel.tunIn.push(packet)
        settle()
      }),
      { numRuns: 300 },
    )
    b.take()
    send(a, echo(77))
    expect(b.take().map((bytes) => bytes.length)).toEqual([VNET_HEADER_BYTES + 84])
  })

  test('bit flips and cuts on the wire: none gets through, the lane goes on', () => {
    let flips = 0
    a.lane.kernel.onSend = (_to, sent) => {
      const bytes = sent.bytes.slice()
      flips += 1
      const at = (flips * 37) % bytes.length
      bytes[at] = (bytes[at] ?? 0) ^ (1 << flips % 8)
      b.lane.kernel.udpIn.push({ ...sent, bytes: flips % 3 === 0 ? bytes.subarray(0, at) : bytes, segmentBytes: 0, from: ipv4Address(1, 5000) })
    }
    for (let i = 0; i < 100; i += 1) send(a, echo(i))
    expect(b.take()).toEqual([])
    a.joinTo(b)
    send(a, echo(7))
    expect(b.take()).toHaveLength(1)
  })
})

describe('a prompt lane', () => {
  /** Lets `poll` wait for a millisecond, or not at all. */
  const turn = (waits: boolean): void => {
    const { kernel } = a.lane
    kernel.lie = (call, result) => {
      if (call === 'poll' && waits) a.lane.now = instant(a.lane.now + 1)
      return result
    }
    a.lane.lane.turn(0)
  }
  const datagrams = (): number[] => a.sent.map(({ segmentBytes, bytes }) => (segmentBytes === 0 ? 1 : Math.ceil(bytes.length / segmentBytes)))

  beforeEach(() => {
    start({ prompt: true })
    turn(true)
    a.lane.kernel.tunIn.push(...[2, 3, 4].map((sequence) => bare(echo(sequence))))
  })

  test('sends the packet that ended its wait, asks poll for the next one, and gathers what came in the meantime', () => {
    turn(true)
    expect([datagrams(), a.lane.kernel.tunIn.length]).toEqual([[1], 2])
    turn(false)
    expect([datagrams(), a.lane.kernel.tunIn.length]).toEqual([[1, 1, 1], 0])
  })

  test('reads all that is there where it has not waited, the first packet before the others', () => {
    turn(false)
    expect([datagrams(), a.lane.kernel.tunIn.length]).toEqual([[1, 2], 0])
  })

  test('takes one row of datagrams after a wait, and the others in the next turn', () => {
    a.lane.kernel.tunIn.length = 0
    for (const sequence of [5, 6, 7]) {
      b.lane.kernel.tunIn.push(bare(encodeIcmpEcho({ src: ip('10.0.0.2'), dst: ip('10.0.0.1'), kind: 'request', identifier: 1, sequence, payload: new Uint8Array(56) })))
      b.lane.run()
    }
    expect(a.lane.kernel.udpIn).toHaveLength(3)
    turn(true)
    expect([a.lane.kernel.udpIn.length, a.take().length]).toEqual([2, 1])
    turn(false)
    expect([a.lane.kernel.udpIn.length, a.take().length]).toEqual([0, 2])
  })
})
