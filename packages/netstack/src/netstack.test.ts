import { instant } from '@meshwright/core'
import { SeededRandom } from '@meshwright/testkit'
import { describe, expect, test } from 'vitest'
import { endpoint, Host, ip, noise, Pump, VirtualLink } from '../test/virtual-link.ts'
import { type FlowId, Netstack, type NetstackError, type NetstackOutput } from './index.ts'
import { PacketBuilder, PROTOCOL_TCP, PROTOCOL_UDP } from './ip-packet.ts'
import { tcpPath, writeSegment } from './tcp-output.ts'
import { ACK, SYN } from './tcp-segment.ts'

function code(act: () => unknown): string {
  try {
    act()
  } catch (error) {
    return (error as NetstackError).code
  }
  return 'none'
}

describe('ICMP', () => {
  test.each(['100.64.0.2', 'fd7a::2'])('pings are answered with their bytes and the round trip: %s', (to) => {
    const link = new VirtualLink(1, { delayMs: 7 })
    const ping = link.a.stack.ping(link.now, ip(to), { bytes: noise(1, 100) })
    link.run(100)
    expect(link.a.event('echoReply')).toMatchObject({ ping, rttMs: 14, bytes: noise(1, 100) })
  })

  test('a ping larger than the MTU travels in fragments, in any order', () => {
    const link = new VirtualLink(3, { reordering: 0.5, delayMs: 5 })
    for (const to of ['100.64.0.2', 'fd7a::2']) link.a.stack.ping(link.now, ip(to), { bytes: noise(2, 9_000) })
    link.run(1_000)
    expect(link.a.count('echoReply')).toBe(2)
  })

  test('an unanswered ping fails by its timeout', () => {
    const link = new VirtualLink(1, { loss: 1 })
    const ping = link.a.stack.ping(link.now, ip('100.64.0.2'), { timeoutMs: 300 })
    link.run(299)
    expect(link.a.events).toEqual([])
    link.run(1)
    expect(link.a.event('echoFailed')).toEqual({ type: 'echoFailed', ping, reason: 'timeout' })
  })
})

describe('UDP', () => {
  test.each(['100.64.0.2', 'fd7a::2'])('datagrams go to the bound socket and back: %s', (to) => {
    const link = new VirtualLink(1)
    const server = link.b.stack.bindUdp(53)
    const client = link.a.stack.bindUdp()
    link.a.stack.sendUdp(link.now, client, endpoint(to, 53), noise(1, 40))
    link.run(100)
    const got = link.b.event('udp')
    expect(got).toMatchObject({ socket: server, bytes: noise(1, 40), local: { port: 53 } })
    if (got !== undefined) link.b.stack.sendUdp(link.now, server, got.from, noise(2, 5), got.local.ip)
    link.run(100)
    expect(link.a.event('udp')).toMatchObject({ socket: client, bytes: noise(2, 5) })
  })

  test('a datagram of 60,000 bytes arrives whole, by fragments', () => {
    const link = new VirtualLink(1)
    link.b.stack.bindUdp(9)
    const client = link.a.stack.bindUdp()
    for (const to of ['100.64.0.2', 'fd7a::2']) link.a.stack.sendUdp(link.now, client, endpoint(to, 9), noise(1, 60_000))
    link.run(100)
    expect(link.b.events.map((event) => event.type === 'udp' && Buffer.compare(event.bytes, noise(1, 60_000)))).toEqual([0, 0])
    expect(link.a.packets.every((packet) => packet.length <= 1280)).toBe(true)
  })

  test('a port that nobody holds refuses by ICMP', () => {
    const link = new VirtualLink(1)
    const client = link.a.stack.bindUdp()
    for (const to of ['100.64.0.2', 'fd7a::2']) link.a.stack.sendUdp(link.now, client, endpoint(to, 9), noise(1, 10))
    link.run(100)
    expect(link.a.events).toMatchObject([
      { type: 'refused', socket: client, reason: 'port', remote: { port: 9 } },
      { type: 'refused', socket: client, reason: 'port', remote: { port: 9 } },
    ])
  })

  test('a port is bound once; wrong ports, ids and families are misuse', () => {
    const { a } = new VirtualLink(1)
    const socket = a.stack.bindUdp(53)
    expect(code(() => a.stack.bindUdp(53))).toBe('NETSTACK_ADDRESS_IN_USE')
    expect(code(() => a.stack.bindUdp(70_000))).toBe('NETSTACK_PORT_INVALID')
    a.stack.closeUdp(socket)
    expect(code(() => a.stack.sendUdp(instant(0), socket, endpoint('1.2.3.4', 5), new Uint8Array(0)))).toBe('NETSTACK_UNKNOWN_ID')
    expect(code(() => a.stack.close(instant(0), 99_999 as FlowId))).toBe('NETSTACK_UNKNOWN_ID')
    const other = new Netstack(new SeededRandom(1).bytes, { addresses: [ip('1.1.1.1')] })
    expect(code(() => other.connectTcp(instant(0), endpoint('fd7a::2', 80)))).toBe('NETSTACK_NO_SOURCE')
    expect(code(() => new Netstack(new SeededRandom(1).bytes, { mtu: 10 }))).toBe('NETSTACK_OPTION_INVALID')
  })
})

describe('promiscuous mode', () => {
  test('a TCP flow to any address waits for a decision: accepted it works in the name of that address', () => {
    const link = new VirtualLink(1, {}, {}, { promiscuous: true })
    const flow = link.a.stack.connectTcp(link.now, endpoint('10.0.0.9', 443))
    link.run(500)
    const incoming = link.b.event('incoming')
    expect(incoming).toMatchObject({ protocol: 'tcp', local: endpoint('10.0.0.9', 443) })
    expect(link.b.packets).toEqual([])
    if (incoming !== undefined) link.b.stack.accept(link.now, incoming.flow)
    new Pump(link, link.a, flow, noise(1, 50_000))
    link.run(2_000)
    expect(link.b.bytesOf(incoming?.flow ?? flow).length).toBe(50_000)
  })

  test('refused it is reset; dropped it is silent', () => {
    for (const how of ['reset', 'drop'] as const) {
      const link = new VirtualLink(1, {}, {}, { promiscuous: true })
      link.b.onEvent = (event) => {
        if (event.type === 'incoming') link.b.stack.refuse(link.now, event.flow, how)
      }
      link.a.stack.connectTcp(link.now, endpoint('10.0.0.9', 443))
      link.run(500)
      expect(link.a.event('closed')?.reason).toBe(how === 'reset' ? 'refused' : undefined)
      expect(link.b.stack.flowCount).toBe(0)
    }
  })

  test('one client holds at most two thirds of the waiting attempts', () => {
    const link = new VirtualLink(1, {}, {}, { promiscuous: true, maxHalfOpen: 30 })
    for (let i = 0; i < 100; i += 1) link.a.stack.connectTcp(link.now, endpoint('10.0.0.9', 1 + i))
    link.run(500)
    expect(link.b.count('incoming')).toBe(20)
  })

  test('UDP flows and pings to any address are offered and answered in its name', () => {
    const link = new VirtualLink(1, {}, {}, { promiscuous: true })
    link.b.onEvent = (event) => {
      if (event.type === 'datagram') link.b.stack.sendDatagram(link.now, event.flow, event.bytes)
      if (event.type === 'echoRequest') link.b.stack.answerEcho(event)
    }
    const socket = link.a.stack.bindUdp()
    link.a.stack.sendUdp(link.now, socket, endpoint('8.8.8.8', 53), noise(1, 9))
    link.a.stack.ping(link.now, ip('8.8.8.8'))
    link.run(100)
    expect(link.a.event('udp')).toMatchObject({ from: endpoint('8.8.8.8', 53), bytes: noise(1, 9) })
    expect(link.a.count('echoReply')).toBe(1)
    link.run(30_000)
    expect(link.b.event('closed')).toMatchObject({ reason: 'timeout' })
  })

  test('without it, foreign packets are dropped; unclaimed own ports may be offered', () => {
    const link = new VirtualLink(1, {}, {}, { offerUnclaimed: true })
    link.a.stack.connectTcp(link.now, endpoint('10.0.0.9', 443))
    link.a.stack.connectTcp(link.now, endpoint('100.64.0.2', 8080))
    link.run(500)
    expect(link.b.stack.counters.dropped.get('not-local')).toBe(1)
    expect(link.b.event('incoming')).toMatchObject({ local: { port: 8080 } })
  })
})

describe('path MTU', () => {
  test('"fragmentation needed" makes segments smaller, and what vanished is sent again', () => {
    const link = new VirtualLink(4, { mtu: 900 })
    link.b.stack.listenTcp(80)
    const builder = new PacketBuilder(1)
    let told = 0
    link.tap = (from, packet) => {
      if (from !== link.a || packet.length <= 900) return true
      // A router on the path drops the packet and says so.
      const body = new Uint8Array(8 + 28)
      body.set([3, 4, 0, 0, 0, 0, 900 >> 8, 900 & 255])
      body.set(packet.subarray(0, 28), 8)
      let sum = 0
      for (let i = 0; i < body.length; i += 2) sum += ((body[i] ?? 0) << 8) | (body[i + 1] ?? 0)
      sum = (sum & 0xffff) + (sum >>> 16)
      body[2] = (~sum >> 8) & 255
      body[3] = ~sum & 255
      told += 1
      errors.push(builder.packet(ip('192.0.2.1').bytes, ip('100.64.0.1').bytes, 1, body))
      return false
    }
    const errors: Uint8Array[] = []
    const flow = link.a.stack.connectTcp(link.now, endpoint('100.64.0.2', 80))
    new Pump(link, link.a, flow, noise(1, 100_000), () => link.a.stack.shutdownWrite(link.now, flow))
    const done = link.run(20_000, () => {
      for (const error of errors.splice(0)) link.a.stack.handleInput(link.now, { type: 'packet', bytes: error })
      return link.b.count('ended') === 1
    })
    expect(done).toBe(true)
    expect(told).toBeGreaterThan(0)
    expect(link.b.bytesOf(link.b.event('opened')?.flow ?? flow).length).toBe(100_000)
    expect(link.a.packets.filter((packet) => packet.length > 900).length).toBeLessThan(20)
  })

  test('an ICMP error that quotes nothing in flight changes nothing', () => {
    const link = new VirtualLink(4)
    link.b.stack.listenTcp(80)
    const flow = link.a.stack.connectTcp(link.now, endpoint('100.64.0.2', 80))
    link.run(100)
    const before = link.a.stack.flowStatus(flow)
    const quoted = link.a.packets[0]?.slice(0, 28) ?? new Uint8Array(28)
    quoted[27] = (quoted[27] ?? 0) ^ 0x55
    const body = Uint8Array.of(3, 4, 0, 0, 0, 0, 2, 88, ...quoted)
    let sum = 0
    for (let i = 0; i < body.length; i += 2) sum += ((body[i] ?? 0) << 8) | (body[i + 1] ?? 0)
    sum = (sum & 0xffff) + (sum >>> 16)
    body[2] = (~sum >> 8) & 255
    body[3] = ~sum & 255
    link.a.stack.handleInput(link.now, {
      type: 'packet',
      bytes: new PacketBuilder(1).packet(ip('192.0.2.1').bytes, ip('100.64.0.1').bytes, 1, body),
    })
    expect(link.a.stack.flowStatus(flow)?.segmentBytes).toBe(before?.segmentBytes)
  })
})

describe('many flows', () => {
  test('1,000 connections each carry their own bytes over a bad line', () => {
    const link = new VirtualLink(9, { loss: 0.02, reordering: 0.05, duplication: 0.02 })
    link.b.stack.listenTcp(80)
    link.b.onEvent = (event) => {
      if (event.type === 'ended') link.b.stack.close(link.now, event.flow)
    }
    const flows = Array.from({ length: 1_000 }, (_, i) => {
      const flow = link.a.stack.connectTcp(link.now, endpoint(i % 2 === 0 ? '100.64.0.2' : 'fd7a::2', 80))
      new Pump(link, link.a, flow, noise(i, 3_000), () => link.a.stack.shutdownWrite(link.now, flow))
      return flow
    })
    expect(link.run(300_000, () => link.a.count('closed') === 1_000 && link.b.count('closed') === 1_000)).toBe(true)
    const sums = (arrays: Uint8Array[]): string[] => arrays.map((bytes) => Buffer.from(bytes).toString('base64')).sort()
    expect(sums([...link.b.received.values()].map((parts) => Buffer.concat(parts)))).toEqual(sums(flows.map((_, i) => noise(i, 3_000))))
    link.run(61_000)
    expect(link.a.stack.flowCount + link.b.stack.flowCount).toBe(0)
    expect(link.a.stack.pollTimeout()).toBeUndefined()
  })

  test('a SYN flood is bounded, and an honest client still gets in', () => {
    const link = new VirtualLink(2, {}, {}, { maxHalfOpen: 64, maxFlows: 200 })
    link.b.stack.listenTcp(80)
    const builder = new PacketBuilder(1)
    const syn = {
      sequence: 1,
      acknowledgment: 0,
      window: 1000,
      timestamps: false,
      timestampValue: 0,
      timestampEcho: 0,
      sackEdges: [],
      syn: { maximumSegmentSize: 1000, windowShift: 7, sackPermitted: true },
    }
    const flood = (count: number, flags: number): void => {
      for (let i = 0; i < count; i += 1) {
        const path = tcpPath(ip(`10.${(i >> 14) & 127}.${(i >> 7) & 127}.${i & 127}`), 1 + (i % 60_000), ip('100.64.0.2'), 80)
        link.b.stack.handleInput(link.now, { type: 'packet', bytes: writeSegment(builder, path, { ...syn, flags }, undefined, 0, 0) })
      }
    }
    flood(20_000, SYN)
    expect(link.b.stack.flowCount).toBeLessThanOrEqual(64)
    link.a.stack.connectTcp(link.now, endpoint('100.64.0.2', 80))
    link.run(1_000)
    expect(link.a.count('opened')).toBe(1)
    link.b.packets.length = 0
    flood(20_000, ACK)
    link.run(1)
    expect(link.b.packets.length).toBeLessThan(500)
    link.run(600_000)
    expect(link.b.stack.flowCount).toBe(1)
  })

  test('when all flows are taken, TIME-WAIT gives way first', () => {
    const link = new VirtualLink(2, {}, { maxFlows: 10 })
    link.b.stack.listenTcp(80)
    link.b.onEvent = (event) => {
      if (event.type === 'ended') link.b.stack.close(link.now, event.flow)
    }
    for (let i = 0; i < 30; i += 1) {
      link.a.stack.close(link.now, link.a.stack.connectTcp(link.now, endpoint('100.64.0.2', 80)))
      const flow = link.a.stack.connectTcp(link.now, endpoint('100.64.0.2', 80))
      link.run(50)
      link.a.stack.close(link.now, flow)
      link.run(50)
    }
    expect(link.b.count('closed')).toBe(30)
    expect(link.a.stack.flowCount).toBeLessThanOrEqual(10)
    for (let i = 0; i < 10; i += 1) link.a.stack.connectTcp(link.now, endpoint('100.64.0.2', 80))
    expect(code(() => link.a.stack.connectTcp(link.now, endpoint('100.64.0.2', 80)))).toBe('NETSTACK_FLOWS_EXHAUSTED')
  })
})

describe('flow control', () => {
  test('a reader that does not consume stops the writer; bytes in between stay bounded; consuming lets it go on', () => {
    const link = new VirtualLink(3, { loss: 0.01 }, { maxSendBufferBytes: 200_000 }, { maxReceiveBufferBytes: 100_000 })
    link.b.consumes = false
    link.b.stack.listenTcp(80)
    const flow = link.a.stack.connectTcp(link.now, endpoint('100.64.0.2', 80))
    const bytes = noise(1, 1_000_000)
    new Pump(link, link.a, flow, bytes, () => link.a.stack.shutdownWrite(link.now, flow))
    link.run(60_000)
    const remote = link.b.event('opened')?.flow ?? flow
    expect(link.b.bytesOf(remote).length).toBeLessThanOrEqual(100_000)
    expect(link.a.stack.flowStatus(flow)?.queuedBytes).toBeLessThanOrEqual(200_000)
    link.run(3_600_000)
    expect(link.a.stack.flowStatus(flow)?.state).toBe('established')
    link.b.consumes = true
    link.b.stack.consumed(link.now, remote, 100_000)
    expect(link.run(60_000, () => link.b.count('ended') === 1)).toBe(true)
    expect(Buffer.compare(link.b.bytesOf(remote), bytes)).toBe(0)
  })

  test('windows of a few bytes still carry everything', () => {
    const link = new VirtualLink(3, { loss: 0.02 }, {}, { maxReceiveBufferBytes: 50, windowScaling: false })
    link.b.stack.listenTcp(80)
    const flow = link.a.stack.connectTcp(link.now, endpoint('100.64.0.2', 80))
    new Pump(link, link.a, flow, noise(1, 2_000), () => link.a.stack.shutdownWrite(link.now, flow))
    expect(link.run(600_000, () => link.b.count('ended') === 1)).toBe(true)
    expect(Buffer.compare(link.b.bytesOf(link.b.event('opened')?.flow ?? flow), noise(1, 2_000))).toBe(0)
  })

  test('what arrives between two drains comes as one output', () => {
    const a = new Host(1, [ip('100.64.0.1')])
    const b = new Host(2, [ip('100.64.0.2')])
    b.stack.listenTcp(80)
    const flow = a.stack.connectTcp(instant(0), endpoint('100.64.0.2', 80))
    const outputs: NetstackOutput[] = []
    for (let round = 0; round < 4; round += 1) {
      if (round === 2) a.stack.write(instant(0), flow, noise(1, 9_000))
      for (let output = a.stack.pollOutput(); output !== undefined; output = a.stack.pollOutput())
        if (output.type === 'packet') b.stack.receive(instant(0), output.bytes)
      for (let output = b.stack.pollOutput(); output !== undefined; output = b.stack.pollOutput()) {
        outputs.push(output)
        if (output.type === 'packet') a.stack.receive(instant(0), output.bytes)
      }
    }
    expect(outputs.filter((output) => output.type === 'data')).toMatchObject([{ bytes: noise(1, 9_000) }])
  })
})

test('packets from nowhere, from ourselves and with unknown protocols are dropped and counted', () => {
  const { b } = new VirtualLink(1)
  const builder = new PacketBuilder(1)
  const feed = (from: string, to: string, protocol: number): void => {
    b.stack.handleInput(instant(0), { type: 'packet', bytes: builder.packet(ip(from).bytes, ip(to).bytes, protocol, new Uint8Array(40)) })
  }
  for (const from of ['0.0.0.0', '127.0.0.1', '224.0.0.1', '255.255.255.255', '100.64.0.2', '::', '::1', 'ff02::1', 'fd7a::2']) {
    feed(from, from.includes(':') ? 'fd7a::2' : '100.64.0.2', PROTOCOL_UDP)
  }
  feed('1.1.1.1', '100.64.0.2', 99)
  feed('1.1.1.1', '100.64.0.2', PROTOCOL_TCP)
  b.stack.handleInput(instant(0), { type: 'packet', bytes: new Uint8Array(3) })
  expect(Object.fromEntries(b.stack.counters.dropped)).toEqual({ martian: 9, protocol: 1, checksum: 1, malformed: 1 })
  expect(b.stack.pollOutput()).toBeUndefined()
})
