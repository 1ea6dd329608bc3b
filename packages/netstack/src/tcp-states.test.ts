import { instant, type Instant } from '@meshwright/core'
import { SeededRandom } from '@meshwright/testkit'
import { beforeEach, describe, expect, test } from 'vitest'
import { endpoint, ip } from '../test/virtual-link.ts'
import { decodeIpPacket, IpPacket, PacketBuilder } from './ip-packet.ts'
import { Netstack, type FlowId, type NetstackOptions, type NetstackOutput } from './index.ts'
import { tcpPath, writeSegment } from './tcp-output.ts'
import { ACK, decodeTcpSegment, FIN, RST, SYN, TcpSegment } from './tcp-segment.ts'
import { SendBuffer } from './send-buffer.ts'

const US = ip('100.64.0.1')
const PEER = ip('100.64.0.2')
const PEER_ISS = 0xffff_fff0 // wraps within each test

/** A peer made of single segments, so that every edge of the state table can be walked from outside. */
class Bench {
  now: Instant = instant(1_000)
  readonly stack: Netstack
  readonly events: NetstackOutput[] = []
  sent: TcpSegment[] = []
  port = 0
  flow: FlowId | undefined
  ourIss = 0
  readonly #builder: PacketBuilder = new PacketBuilder(1)

  constructor(options: NetstackOptions = {}) {
    this.stack = new Netstack(new SeededRandom(5).bytes, { timestamps: false, ...options, addresses: [US] })
  }

  /** Peer's segment: sequence and acknowledgment relative to both initial numbers. */
  segment(flags: number, seq: number, ack: number, options: { bytes?: number; window?: number; shift?: number } = {}): void {
    const buffer = new SendBuffer(0)
    buffer.append(new Uint8Array(options.bytes ?? 0).fill(7))
    const path = tcpPath(PEER, 80, US, this.port)
    const fields = {
      flags,
      sequence: (PEER_ISS + seq) >>> 0,
      acknowledgment: (this.ourIss + ack) >>> 0,
      window: options.window ?? 60_000,
      timestamps: false,
      timestampValue: 0,
      timestampEcho: 0,
      sackEdges: [],
      syn: (flags & SYN) !== 0 ? { maximumSegmentSize: 1000, windowShift: options.shift ?? 0, sackPermitted: false } : undefined,
    }
    this.stack.handleInput(this.now, { type: 'packet', bytes: writeSegment(this.#builder, path, fields, buffer, 0, options.bytes ?? 0) })
    this.drain()
  }

  drain(): void {
    this.sent = []
    for (let output = this.stack.pollOutput(); output !== undefined; output = this.stack.pollOutput()) {
      if (output.type !== 'packet') {
        this.events.push(output)
        if (output.type === 'opened') this.flow = output.flow
        continue
      }
      const packet = new IpPacket()
      const segment = new TcpSegment()
      expect(decodeIpPacket(output.bytes, packet)).toBe(true)
      expect(decodeTcpSegment(packet.view, packet.payloadAt, packet.end, packet.pseudoSum(), segment)).toBe(true)
      if ((segment.flags & SYN) !== 0) {
        this.ourIss = segment.sequence
        this.port = segment.sourcePort
      }
      this.sent.push(segment)
    }
  }

  wait(ms: number): void {
    const end = instant(this.now + ms)
    for (let due = this.stack.pollTimeout(); due !== undefined && due <= end; due = this.stack.pollTimeout()) {
      this.now = due
      this.stack.handleTimeout(this.now)
      const before = this.sent
      this.drain()
      this.sent = [...before, ...this.sent]
    }
    this.now = end
  }

  get state(): string {
    return this.flow === undefined ? 'none' : this.stack.flowStatus(this.flow)?.state ?? 'gone'
  }

  get closed(): string | undefined {
    for (const event of this.events) if (event.type === 'closed') return event.reason
    return undefined
  }

  /** The last segment sent: flags, and numbers relative to the initial ones. */
  get last(): { flags: number; seq: number; ack: number } | undefined {
    const segment = this.sent.at(-1)
    return (
      segment && { flags: segment.flags & ~8, seq: (segment.sequence - this.ourIss) >>> 0, ack: (segment.acknowledgment - PEER_ISS) >>> 0 }
    )
  }

  connect(): void {
    this.flow = this.stack.connectTcp(this.now, endpoint('100.64.0.2', 80))
    this.drain()
  }

  established(): void {
    this.connect()
    this.segment(SYN | ACK, 0, 1)
    expect(this.state).toBe('established')
  }

  do(command: 'close' | 'abort' | 'shutdownWrite'): void {
    if (this.flow !== undefined) this.stack[command](this.now, this.flow)
    this.drain()
  }

  write(bytes: number): number {
    const taken = this.flow === undefined ? 0 : this.stack.write(this.now, this.flow, new Uint8Array(bytes))
    this.drain()
    return taken
  }
}

let bench: Bench
beforeEach(() => {
  bench = new Bench()
})

describe('opening (RFC 9293 section 3.10.7.3)', () => {
  test('SYN is answered by SYN-ACK and acknowledged', () => {
    bench.connect()
    expect(bench.last).toMatchObject({ flags: SYN, seq: 0 })
    bench.segment(SYN | ACK, 0, 1)
    expect(bench.last).toEqual({ flags: ACK, seq: 1, ack: 1 })
    expect(bench.events.map((event) => event.type)).toEqual(['opened'])
  })

  test('SYN is sent again after 1, 3, 7, ... s, and given up after the last', () => {
    bench.connect()
    bench.wait(1_000)
    expect(bench.sent.length).toBe(2)
    bench.wait(2_000)
    expect(bench.last).toMatchObject({ flags: SYN, seq: 0 })
    bench.wait(200_000)
    expect(bench.closed).toBe('timeout')
    expect(bench.sent.length).toBe(7)
  })

  test('a reset that acknowledges our SYN refuses; others are ignored', () => {
    bench.connect()
    bench.segment(RST | ACK, 0, 99)
    expect(bench.state).toBe('syn-sent')
    bench.segment(RST, 0, 0)
    expect(bench.state).toBe('syn-sent')
    bench.segment(RST | ACK, 0, 1)
    expect(bench.closed).toBe('refused')
  })

  test('a wrong acknowledgment of our SYN is reset, and the attempt goes on', () => {
    bench.connect()
    bench.segment(SYN | ACK, 0, 5)
    expect(bench.last).toMatchObject({ flags: RST, seq: 5 })
    expect(bench.state).toBe('syn-sent')
  })

  test('both open at once: SYN meets SYN', () => {
    bench.connect()
    bench.segment(SYN, 0, 0)
    expect(bench.state).toBe('syn-received')
    expect(bench.last).toEqual({ flags: SYN | ACK, seq: 0, ack: 1 })
    bench.segment(SYN | ACK, 0, 1)
    expect(bench.state).toBe('established')
  })

  test('a listener answers SYN, opens on the acknowledgment, forgets on a reset', () => {
    bench.stack.listenTcp(7)
    bench.port = 7
    bench.segment(SYN, 0, 0)
    expect(bench.last).toEqual({ flags: SYN | ACK, seq: 0, ack: 1 })
    bench.segment(SYN, 0, 0)
    expect(bench.last).toEqual({ flags: SYN | ACK, seq: 0, ack: 1 })
    bench.segment(RST, 1, 0)
    expect(bench.stack.flowCount).toBe(0)
    expect(bench.events).toEqual([])
    bench.segment(SYN, 0, 0)
    bench.segment(ACK, 1, 1)
    expect(bench.state).toBe('established')
  })

  test('a handshake acknowledgment with a wrong number is reset and opens nothing', () => {
    bench.stack.listenTcp(7)
    bench.port = 7
    bench.segment(SYN, 0, 0)
    bench.segment(ACK, 1, 77)
    expect(bench.last).toMatchObject({ flags: RST, seq: 77 })
    expect(bench.events).toEqual([])
  })

  test('a segment to a port without listener is reset, a reset never', () => {
    bench.port = 9
    bench.segment(SYN, 0, 0)
    expect(bench.sent[0]).toMatchObject({ flags: RST | ACK, sequence: 0, acknowledgment: (PEER_ISS + 1) >>> 0 })
    bench.segment(RST, 0, 0)
    expect(bench.sent).toEqual([])
  })
})

describe('closing (RFC 9293 section 3.6)', () => {
  beforeEach(() => bench.established())

  test('we close first: fin-wait-1, fin-wait-2, time-wait, gone after 60 s', () => {
    bench.do('shutdownWrite')
    expect(bench.last).toEqual({ flags: FIN | ACK, seq: 1, ack: 1 })
    expect(bench.state).toBe('fin-wait-1')
    bench.segment(ACK, 1, 2)
    expect(bench.state).toBe('fin-wait-2')
    bench.segment(FIN | ACK, 1, 2)
    expect(bench.last).toEqual({ flags: ACK, seq: 2, ack: 2 })
    expect(bench.closed).toBe('finished')
    expect(bench.stack.flowCount).toBe(1)
    bench.segment(FIN | ACK, 1, 2)
    expect(bench.last).toEqual({ flags: ACK, seq: 2, ack: 2 })
    bench.wait(60_000)
    expect(bench.stack.flowCount).toBe(0)
  })

  test('the peer closes first: close-wait, last-ack, gone', () => {
    bench.segment(FIN | ACK, 1, 1)
    expect(bench.state).toBe('close-wait')
    expect(bench.last).toEqual({ flags: ACK, seq: 1, ack: 2 })
    expect(bench.write(10)).toBe(10)
    bench.do('shutdownWrite')
    expect(bench.state).toBe('last-ack')
    bench.segment(ACK, 2, 12)
    expect(bench.closed).toBe('finished')
    expect(bench.stack.flowCount).toBe(0)
  })

  test('both close at once: closing, time-wait', () => {
    bench.do('shutdownWrite')
    bench.segment(FIN | ACK, 1, 1)
    expect(bench.state).toBe('closing')
    bench.segment(ACK, 2, 2)
    expect(bench.closed).toBe('finished')
    expect(bench.stack.flowCount).toBe(1)
  })

  test('after a half-close data still comes in', () => {
    bench.do('shutdownWrite')
    bench.segment(ACK, 1, 2, { bytes: 5 })
    bench.segment(ACK, 6, 2, { bytes: 5 })
    expect(bench.events.filter((event) => event.type === 'data').length).toBe(2)
    expect(bench.write(1)).toBe(0)
  })

  test('after close, data is answered with a reset', () => {
    bench.do('close')
    bench.segment(ACK, 1, 2)
    bench.segment(ACK, 1, 2, { bytes: 5 })
    expect(bench.last?.flags).toBe(RST | ACK)
    expect(bench.stack.flowCount).toBe(0)
    expect(bench.events.filter((event) => event.type === 'closed').length).toBe(1)
  })

  test('a closed flow whose peer never closes is forgotten', () => {
    bench.do('close')
    bench.segment(ACK, 1, 2)
    expect(bench.state).toBe('fin-wait-2')
    bench.wait(120_000)
    expect(bench.stack.flowCount).toBe(0)
  })

  test('a new SYN beyond the old numbers takes over TIME-WAIT; an old one does not', () => {
    bench.stack.listenTcp(bench.port)
    bench.do('shutdownWrite')
    bench.segment(FIN | ACK, 1, 2)
    bench.segment(SYN, 0, 0)
    expect(bench.last?.flags).toBe(ACK)
    bench.segment(SYN, 1000, 0)
    expect(bench.last).toMatchObject({ flags: SYN | ACK, ack: 1001 })
  })
})

describe('resets and forgeries (RFC 5961)', () => {
  const leadTo: Record<string, () => void> = {
    established: () => bench.established(),
    'fin-wait-1': () => (bench.established(), bench.do('shutdownWrite')),
    'fin-wait-2': () => (bench.established(), bench.do('shutdownWrite'), bench.segment(ACK, 1, 2)),
    'close-wait': () => (bench.established(), bench.segment(FIN | ACK, 1, 1)),
    closing: () => (bench.established(), bench.do('shutdownWrite'), bench.segment(FIN | ACK, 1, 1)),
    'last-ack': () => (bench.established(), bench.segment(FIN | ACK, 1, 1), bench.do('shutdownWrite')),
  }
  for (const [state, lead] of Object.entries(leadTo)) {
    const next = ['close-wait', 'closing', 'last-ack'].includes(state) ? 2 : 1
    test(`${state}: the exact number resets, one in the window only asks, one outside does nothing`, () => {
      lead()
      expect(bench.state).toBe(state)
      bench.segment(RST, next + 100_000_000, 0)
      expect(bench.sent).toEqual([])
      bench.segment(RST, next + 10, 0)
      expect(bench.last?.flags).toBe(ACK)
      expect(bench.state).toBe(state)
      bench.segment(RST, next, 0)
      expect(bench.closed).toBe('reset')
      expect(bench.stack.flowCount).toBe(0)
    })

    test(`${state}: abort sends a reset and ends the flow`, () => {
      lead()
      bench.do('abort')
      expect(bench.last?.flags).toBe(RST | ACK)
      expect(bench.closed).toBe('aborted')
      expect(bench.stack.flowCount).toBe(0)
    })
  }

  test('a SYN in an open connection is challenged, and challenges are rare', () => {
    bench.established()
    bench.segment(SYN, 50, 0)
    expect(bench.last).toEqual({ flags: ACK, seq: 1, ack: 1 })
    bench.segment(SYN, 50, 0)
    expect(bench.sent).toEqual([])
  })

  test('data whose acknowledgment is from the future or from far below is ignored', () => {
    bench.established()
    bench.segment(ACK, 1, 500, { bytes: 5 })
    bench.segment(ACK, 1, -1_000_000, { bytes: 5 })
    expect(bench.events.some((event) => event.type === 'data')).toBe(false)
  })

  test('TIME-WAIT is not cut short by a reset (RFC 1337)', () => {
    bench.established()
    bench.do('shutdownWrite')
    bench.segment(FIN | ACK, 1, 2)
    bench.segment(RST, 2, 2)
    expect(bench.stack.flowCount).toBe(1)
  })
})

describe('windows', () => {
  test('nothing is sent beyond the window; a zero window is probed until it opens', () => {
    bench.connect()
    bench.segment(SYN | ACK, 0, 1, { window: 2000 })
    bench.write(5_000)
    expect(bench.sent.reduce((sum, segment) => sum + segment.payloadLength, 0)).toBe(2_000)
    bench.segment(ACK, 1, 1001, { window: 1000 })
    bench.segment(ACK, 1, 2001, { window: 0 })
    bench.sent = []
    bench.wait(10_000)
    expect(bench.sent.length).toBeGreaterThan(2)
    expect(bench.sent.every((segment) => segment.payloadLength === 0)).toBe(true)
    for (let i = 0; i < 40; i += 1) {
      bench.segment(ACK, 1, 2001, { window: 0 })
      bench.wait(60_000)
    }
    expect(bench.state).toBe('established')
    bench.segment(ACK, 1, 2001, { window: 60_000 })
    expect(bench.sent.reduce((sum, segment) => sum + segment.payloadLength, 0)).toBe(3_000)
  })

  test('our window shrinks until the application consumes, and never takes back what it gave', () => {
    bench = new Bench({ maxReceiveBufferBytes: 4_000, windowScaling: false })
    bench.established()
    let edge = 0
    for (let at = 1; at < 4_000; at += 500) {
      bench.segment(ACK, at, 1, { bytes: 500 })
      const ack = bench.sent.at(-1)
      if (ack === undefined) continue
      const now = ((ack.acknowledgment - PEER_ISS) >>> 0) + ack.window
      expect(now).toBeGreaterThanOrEqual(edge)
      edge = now
    }
    expect(edge).toBe(4_001)
    bench.wait(1_000)
    expect(bench.sent.at(-1)?.window).toBe(0)
    bench.segment(ACK, 4_001, 1, { bytes: 500 })
    expect(bench.last?.ack).toBe(4_001)
    if (bench.flow !== undefined) bench.stack.consumed(bench.now, bench.flow, 4_000)
    bench.drain()
    expect(bench.sent.at(-1)?.window).toBe(4_000)
  })

  test('a silent peer is given up after the retries', () => {
    bench.established()
    bench.write(100)
    bench.wait(2_000_000)
    expect(bench.closed).toBe('timeout')
  })
})

describe('keep-alive', () => {
  test('probes an idle peer, is satisfied by an answer, gives up after the count', () => {
    bench = new Bench({ keepAlive: { idleMs: 10_000, intervalMs: 1_000, count: 3 } })
    bench.established()
    bench.sent = []
    bench.wait(10_000)
    expect(bench.last).toEqual({ flags: ACK, seq: 0, ack: 1 })
    bench.segment(ACK, 1, 1)
    bench.wait(9_999)
    expect(bench.sent).toEqual([])
    bench.wait(5_000)
    expect(bench.closed).toBe('timeout')
  })
})
