import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { parseIp } from '@meshwright/ip'
import type { NetstackOptions } from '@meshwright/netstack'
import { describe, expect, test } from 'vitest'
import { PacketBuilder } from '../../packages/netstack/src/ip-packet.ts'
import { tcpPath, writeSegment } from '../../packages/netstack/src/tcp-output.ts'
import { ACK, FIN, PSH, RST, SYN } from '../../packages/netstack/src/tcp-segment.ts'
import { whyNot } from './lab-flow.ts'
import { ADDRESSES, type Done, type Job, OurHost, PeerHost, type PeerKind, streamHash, type TcpHost } from './netstack-hosts.ts'
import { type Faults, Line, type Seen } from './netstack-line.ts'

const KB = 1_000
const MB = 1_000_000
const [OURS, THEIRS] = ADDRESSES
/** Who opens the connection. */
const ROLES = ['we connect', 'they connect'] as const
type Role = (typeof ROLES)[number]

/** Our stack and someone else's with a line between them. */
class World {
  readonly line: Line
  readonly ours: OurHost
  readonly theirs: PeerHost

  private constructor(line: Line, ours: OurHost, theirs: PeerHost) {
    this.line = line
    this.ours = ours
    this.theirs = theirs
  }

  static async run(kind: PeerKind, settings: { readonly faults?: Partial<Faults>; readonly options?: NetstackOptions; readonly mtu?: number; readonly records?: boolean; readonly seed?: number }, body: (world: World) => Promise<void>): Promise<void> {
    const line = new Line(settings.seed ?? 1, settings.faults ?? {}, settings.records ?? true)
    const ours = new OurHost(line, 0, 7, settings.options)
    const theirs = await PeerHost.start(kind, line, 1, settings.mtu ?? 1280)
    try {
      await body(new World(line, ours, theirs))
    } finally {
      await Promise.all([ours.close(), theirs.close()])
      line.close()
    }
  }

  /** One connection with a job at each end; what each end says of it. */
  async connection(role: Role, port: number, ours: Job, theirs: Job, options: { readonly v6?: boolean; readonly from?: number } = {}): Promise<{ readonly ours: Done; readonly theirs: Done }> {
    const [listener, dialer]: readonly [TcpHost, TcpHost] = role === 'we connect' ? [this.theirs, this.ours] : [this.ours, this.theirs]
    const [listening, dialing] = role === 'we connect' ? [theirs, ours] : [ours, theirs]
    const { v4, v6 } = role === 'we connect' ? THEIRS : OURS
    const accepted = await listener.listen(port, listening)
    const [there, here] = await Promise.all([accepted.next(), dialer.connect(options.v6 === true ? v6 : v4, port, dialing, options.from)])
    return role === 'we connect' ? { ours: here, theirs: there } : { ours: there, theirs: here }
  }

  /** Streams both ways at once; everything must come, whole. */
  async exchange(role: Role, port: number, up: number, down: number, more: { readonly ours?: Job; readonly theirs?: Job; readonly v6?: boolean } = {}): Promise<void> {
    const done = await this.connection(role, port, { ...more.ours, send: up, key: 1 }, { ...more.theirs, send: down, key: 2 }, more)
    expect(done.theirs).toMatchObject({ error: '', bytes: up, sha256: streamHash(1, up) })
    expect(done.ours).toMatchObject({ error: '', bytes: down, sha256: streamHash(2, down) })
  }

  /** TCP packets of one connection's two directions. */
  seen(side: 0 | 1): readonly Seen[] {
    return this.line.seen.filter((each) => each.side === side)
  }
}

/** Numbers of a direction as distances from its SYN. */
function positions(from: readonly Seen[], back: readonly Seen[]): { readonly sent: readonly { readonly at: number; readonly start: number; readonly end: number }[]; readonly sacked: readonly { readonly at: number; readonly start: number; readonly end: number }[] } {
  const base = from.find((each) => (each.flags & SYN) !== 0)?.sequence ?? 0
  const of = (sequence: number): number => (sequence - base) | 0
  return {
    // What carries FIN goes again whole: a block for its bytes alone (gVisor's) does not cover that.
    sent: from.filter((each) => each.length > 0 && (each.flags & FIN) === 0).map((each) => ({ at: each.at, start: of(each.sequence), end: of(each.sequence) + each.length })),
    // Only blocks beyond the acknowledgment: others are reports of duplicates (RFC 2883).
    sacked: back
      .flatMap((each) =>
        each.sackEdges.flatMap((edge, i) => (i % 2 === 0 && of(edge) >= of(each.acknowledgment) ? [{ at: each.arrivedAt, start: of(edge), end: of(each.sackEdges[i + 1] ?? edge) }] : [])),
      ),
  }
}

/** How many bytes left again, and how many of them blocks that had come by then told of. */
function repeated(from: readonly Seen[], back: readonly Seen[]): { readonly bytes: number; readonly needless: number } {
  const { sent, sacked } = positions(from, back)
  let high = 0
  let bytes = 0
  let needless = 0
  for (const piece of sent) {
    const again = Math.max(0, Math.min(high, piece.end) - piece.start)
    high = Math.max(high, piece.end)
    if (again === 0) continue
    bytes += again
    if (sacked.some((block) => block.start <= piece.start && block.end >= piece.end && block.at < piece.at)) needless += again
  }
  return { bytes, needless }
}

async function until(holds: () => boolean, what: string, ms = 20_000): Promise<void> {
  for (const end = performance.now() + ms; !holds(); await new Promise((resolve) => setTimeout(resolve, 20))) if (performance.now() > end) throw new Error(`not within ${ms} ms: ${what}`)
}

function works(command: string, args: readonly string[]): boolean {
  try {
    execFileSync(command, args, { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

function whyNotKernel(): string | undefined {
  if (process.platform !== 'linux') return 'needs Linux'
  if (!existsSync('/dev/net/tun')) return 'needs /dev/net/tun'
  return works('unshare', ['-n', 'ip', 'link']) ? undefined : 'needs root, unshare and iproute2'
}

/** What TCP must do with the TCP of others, whoever they are. */
export function netstackFlows(kind: 'gvisor' | 'kernel', peer: string): void {
  const reason = whyNot(['tcp-peer']) ?? (kind === 'kernel' ? whyNotKernel() : undefined)

  /** A cell of the matrix. */
  function flow(name: string, settings: Parameters<typeof World.run>[1], body: (world: World) => Promise<void>): void {
    test(
      `${name} [${peer}]`,
      async (context) => {
        if (reason !== undefined && process.env['REQUIRE_INTEROP'] === '1') throw new Error(reason)
        if (reason !== undefined) {
          Object.assign(context.task.meta, { skipReason: reason })
          context.skip(reason)
        }
        await World.run(kind, settings, body)
      },
      180_000,
    )
  }

  describe.concurrent('netstack', () => {
    for (const role of ROLES) {
      flow(`${role}: MSS, SACK, window scaling and timestamps are offered and taken; windows pass 64 KiB`, { faults: { delayMs: 2 } }, async (world) => {
        await world.exchange(role, 80, 2 * MB, 2 * MB)
        const [us, them] = [world.seen(0), world.seen(1)]
        for (const side of [us, them]) {
          const syns = side.filter((each) => (each.flags & SYN) !== 0)
          expect(syns.length).toBeGreaterThan(0)
          for (const syn of syns) {
            expect(syn).toMatchObject({ maximumSegmentSize: 1240, sackPermitted: true, hasTimestamps: true })
            expect(syn.windowShift).toBeGreaterThan(0)
          }
          // RFC 7323 section 3.2: in every segment but resets.
          expect(side.every((each) => each.hasTimestamps || (each.flags & RST) !== 0)).toBe(true)
          const shift = syns[0]?.windowShift ?? 0
          expect(Math.max(...side.filter((each) => (each.flags & SYN) === 0).map((each) => each.window * 2 ** shift))).toBeGreaterThan(65_535)
        }
        // What is echoed is what the other has said.
        const said = new Set(them.map((each) => each.timestampValue))
        expect(us.filter((each) => (each.flags & ACK) !== 0 && !said.has(each.timestampEcho))).toEqual([])
        const weSaid = new Set(us.map((each) => each.timestampValue))
        expect(them.filter((each) => (each.flags & ACK) !== 0 && !weSaid.has(each.timestampEcho))).toEqual([])
        expect(Math.max(...world.line.seen.map((each) => each.bytes.length))).toBe(1280)
      })
    }

    for (const [loss, size] of [
      [0.001, 2 * MB],
      [0.01, 800 * KB],
      [0.05, 300 * KB],
      [0.1, 150 * KB],
    ] as const) {
      for (const role of ROLES) {
        const v6 = role === 'they connect'
        flow(`${role}: ${loss * 100} % loss with reordering and duplication, both ways at once`, { faults: { loss, reordering: 0.02, duplication: 0.01, delayMs: 4 }, seed: v6 ? 11 : 12 }, async (world) => {
          // They hold their FIN: gVisor tells no blocks once it has sent that.
          // At 10 % gVisor, which has no RACK, waits for timeouts that double: little of it.
          const down = kind === 'gvisor' && loss === 0.1 ? 40 * KB : size
          await world.exchange(role, 80, size, down, { v6, theirs: { hold: true } })
          const [us, them] = [world.seen(0), world.seen(1)]
          const { bytes, needless } = repeated(us, them)
          // Their blocks are used: what they have is not sent again.
          expect(needless).toBe(0)
          if (loss < 0.05) return // with fewer, it may be that none is lost
          expect(bytes).toBeGreaterThan(0)
          // Both tell of what they have behind a hole.
          expect(positions(us, them).sacked.length).toBeGreaterThan(0)
          if (down === size) expect(positions(them, us).sacked.length).toBeGreaterThan(0)
        })
      }
    }

    flow('a fifth of the packets out of order: little is sent again', { faults: { reordering: 0.2, delayMs: 4 } }, async (world) => {
      await world.exchange('we connect', 80, MB, 200 * KB)
      expect(repeated(world.seen(0), world.seen(1)).bytes).toBeLessThan(0.1 * MB)
    })

    flow('10 MB each way at once', { records: false }, async (world) => {
      await world.exchange('we connect', 80, 10 * MB, 10 * MB)
    })

    flow('without SACK, timestamps and window scaling on our side', { faults: { loss: 0.01, reordering: 0.01, delayMs: 2 }, options: { selectiveAcks: false, timestamps: false, windowScaling: false } }, async (world) => {
      await world.exchange('we connect', 80, 500 * KB, 500 * KB)
      expect(world.line.seen.every((each) => !each.hasTimestamps && each.sackEdges.length === 0)).toBe(true)
    })

    flow('1,000 connections at once, 500 opened by each side', { faults: { delayMs: 2 }, records: false }, async (world) => {
      const echo: Job = { echo: true }
      await Promise.all([world.ours.listen(80, echo), world.theirs.listen(80, echo)])
      const results = await Promise.all(
        Array.from({ length: 1000 }, (_, i) => {
          const [from, to] = i % 2 === 0 ? [world.ours, THEIRS] : [world.theirs, OURS]
          const key = i % 200
          // Whoever opens closes first: the echo ends with what it echoes.
          return from.connect(i % 4 < 2 ? to.v4 : to.v6, 80, { send: 3 * KB, key }).then((done) => ({ key, done }))
        }),
      )
      for (const { key, done } of results) expect(done).toMatchObject({ error: '', bytes: 3 * KB, sha256: streamHash(key, 3 * KB) })
    })

    for (const role of ROLES) {
      flow(`${role}: half-close, either side first, and the other goes on sending`, { faults: { delayMs: 2 } }, async (world) => {
        await world.exchange(role, 80, 0, MB)
        await world.exchange(role, 81, MB, 0)
      })

      flow(`${role}: a reset by either side ends the connection for the other`, {}, async (world) => {
        const theyReset = await world.connection(role, 80, { send: 2 * MB, hold: true }, { resetAfter: 10 * KB })
        expect(theyReset.ours.error).toBe('reset')
        const weReset = await world.connection(role, 81, { resetAfter: 10 * KB }, { send: 8 * MB, hold: true })
        expect(weReset.ours.error).toBe('aborted')
        expect(weReset.theirs.error).toMatch(/reset|broken pipe|aborted|closed for send/)
      })
    }

    flow('a closed port refuses, theirs and ours', {}, async (world) => {
      expect((await world.ours.connect(THEIRS.v4, 9, {})).error).toBe('refused')
      expect((await world.theirs.connect(OURS.v6, 9, {})).error).toMatch(/refused/)
    })

    for (const role of ROLES) {
      flow(`${role}: a reader that pauses closes its window and is asked for it; all comes once it goes on`, { faults: { delayMs: 1 } }, async (world) => {
        // Once it is closed we ask for it, by next to nothing.
        const asked = (): boolean => {
          const closed = world.seen(1).find((each) => each.window === 0 && (each.flags & RST) === 0)
          return closed !== undefined && world.seen(0).some((each) => each.at > closed.arrivedAt && each.length <= 1)
        }
        await world.exchange(role, 80, 300 * KB, 0, { ours: { hold: true }, theirs: { pauseUntil: until(asked, 'we ask for a closed window'), options: { receiveBuffer: 32 * KB } } })
        const ourWindowCloses = (): boolean => world.seen(0).some((each) => each.window === 0 && (each.flags & (RST | SYN)) === 0)
        await world.exchange(role, 81, 0, 600 * KB, { ours: { pauseUntil: until(ourWindowCloses, 'our window closes') } })
      })
    }

    // With less than 4,096 bytes gVisor's window never opens again, as its segments count with what holds them.
    flow('tiny windows, theirs and ours', { options: { maxReceiveBufferBytes: 3_000 } }, async (world) => {
      await world.exchange('we connect', 80, 60 * KB, 60 * KB, { theirs: { options: { receiveBuffer: kind === 'gvisor' ? 4_096 : 2_304 } } })
      expect(Math.max(...world.seen(0).filter((each) => (each.flags & SYN) === 0).map((each) => each.window))).toBeLessThanOrEqual(3_000)
    })

    flow('MTU 1280 where they could send 1500: nothing larger comes', { mtu: 1500 }, async (world) => {
      await world.exchange('we connect', 80, 200 * KB, 200 * KB)
      await world.exchange('they connect', 81, 200 * KB, 200 * KB, { v6: true })
      expect(Math.max(...world.line.seen.map((each) => each.bytes.length))).toBe(1280)
    })

    for (const role of ROLES) {
      flow(`${role}: the path's MTU falls on the way`, { mtu: 1500, options: { mtu: 1500 }, faults: { delayMs: 2 } }, async (world) => {
        const v6 = role === 'they connect'
        const fallen = v6 ? 1300 : 900
        let bytes = 0
        world.line.tap = (_, packet) => {
          bytes += packet.length
          if (bytes > 300 * KB && world.line.faults.mtu > fallen) world.line.faults = { ...world.line.faults, mtu: fallen }
          return true
        }
        await world.exchange(role, 80, MB, MB, { v6 })
        // Both felt it, and sent no more of them than were on the way.
        for (const side of [0, 1] as const) {
          const large = world.seen(side).filter((each) => each.bytes.length > fallen)
          expect(large.length).toBeGreaterThan(0)
          expect(world.seen(side).slice(-20).every((each) => each.bytes.length <= fallen)).toBe(true)
        }
      })
    }

    flow('keep-alive: probes are answered by both sides, and a line that is cut is noticed by both', {}, async (world) => {
      const options: Job['options'] = { keepIdle: 1, keepInterval: 1, keepCount: 3 }
      await world.theirs.listen(80, { hold: true, options: { ...options, keepCount: 30 } })
      const ours = world.ours.connect(THEIRS.v4, 80, { hold: true, send: 100, options })
      // Probes of both, answered: a segment just below what has been acknowledged.
      const probes = (side: 0 | 1): number => world.seen(side).filter((each, i, all) => (each.flags & ~PSH) === ACK && each.length <= 1 && i > 3 && all[i - 1] !== undefined && each.at - (all[i - 1]?.at ?? 0) > 700).length
      await until(() => probes(0) + probes(1) >= 2, 'two probes')
      const at = world.line.seen.length
      world.line.faults = { ...world.line.faults, cut: true }
      expect((await ours).error).toBe('timeout')
      expect(world.line.seen.slice(at).filter((each) => each.side === 0 && each.length === 0).length).toBeGreaterThanOrEqual(2)
      const resets = (): boolean => world.line.seen.slice(at).some((each) => each.side === 1 && (each.flags & RST) !== 0)
      await until(() => resets() || world.line.seen.slice(at).filter((each) => each.side === 1).length >= 2, 'their probes after the cut')
    })

    for (const role of ROLES) {
      flow(`${role}: the same ports again while TIME-WAIT lasts, ours and theirs`, {}, async (world) => {
        const listener = role === 'we connect' ? world.theirs : world.ours
        const dialer = role === 'we connect' ? world.ours : world.theirs
        const { v4 } = role === 'we connect' ? THEIRS : OURS
        // The dialer waits for our FIN before its own: the listener's end is the one in TIME-WAIT.
        const accepted = await listener.listen(80, { send: KB, key: 3 })
        for (let again = 0; again < 3; again += 1) {
          // The dialer's own end may need a moment more until its port is free.
          const job: Job = { hold: true, send: 500, key: 4 }
          let here = await dialer.connect(v4, 80, job, 40_000)
          for (const end = performance.now() + 20_000; /in use|bad local address/.test(here.error) && performance.now() < end; here = await dialer.connect(v4, 80, job, 40_000)) await new Promise((resolve) => setTimeout(resolve, 50))
          expect(here).toMatchObject({ error: '', bytes: KB, sha256: streamHash(3, KB) })
          expect(await accepted.next()).toMatchObject({ error: '', bytes: 500, sha256: streamHash(4, 500) })
        }
      })
    }

    flow('a flood of 20,000 SYNs is bounded and does not keep them out', { records: false, options: { maxHalfOpen: 128, maxFlows: 1_000 } }, async (world) => {
      const ours = parseIp(OURS.v4)
      if (ours === undefined) throw new Error('an address')
      const builder = new PacketBuilder(1)
      const accepted = await world.ours.listen(80, {})
      // Answers to nobody end here.
      world.line.tap = (side, packet) => side === 1 || packet[16] !== 198
      let most = 0
      const flood = (count: number): void => {
        const packets = Array.from({ length: count }, (_, i) => {
          const from = parseIp(`198.18.${(i >> 8) & 255}.${i & 255}`)
          if (from === undefined) throw new Error('an address')
          const fields = { flags: SYN, sequence: i * 7919, acknowledgment: 0, window: 65_535, timestamps: false, timestampValue: 0, timestampEcho: 0, sackEdges: [], syn: { maximumSegmentSize: 1460, windowShift: 7, sackPermitted: true } }
          return writeSegment(builder, tcpPath(from, 1024 + (i % 50_000), ours, 80), fields, undefined, 0, 0)
        })
        world.ours.receive(packets)
        most = Math.max(most, world.ours.stack.flowCount)
      }
      for (let round = 0; round < 4; round += 1) {
        flood(5_000)
        const [done] = await Promise.all([world.theirs.connect(OURS.v4, 80, { send: 10 * KB, key: 5 }), accepted.next()])
        expect(done.error).toBe('')
      }
      expect(most).toBeLessThanOrEqual(128 + 20)
      expect(world.ours.stack.counters.dropped.get('half-open-full')).toBeGreaterThan(19_000)
    })

    for (const role of ROLES) {
      flow(`${role}: an old segment whose numbers fit again is refused by its timestamp (PAWS)`, { faults: { delayMs: 2 } }, async (world) => {
        const [us, them] = [parseIp(OURS.v4), parseIp(THEIRS.v4)]
        if (us === undefined || them === undefined) throw new Error('an address')
        const builder = new PacketBuilder(1)
        let forged = 0
        // Behind many a segment comes one with the next numbers, other bytes, and an old timestamp: to us, and to them unless it is gVisor,
        // which takes it for good ("we do not yet support PAWS").
        let passing = false
        world.line.tap = (side) => {
          const last = world.line.seen.filter((each) => each.side === side).at(-1)
          if (passing || (kind === 'gvisor' && side === 0) || last === undefined || last.length < 500 || forged > 40 || world.line.seen.length % 25 !== 0) return true
          forged += 1
          passing = true
          const [from, to] = side === 0 ? [us, them] : [them, us]
          const fields = { flags: ACK | PSH, sequence: (last.sequence + last.length) >>> 0, acknowledgment: last.acknowledgment, window: last.window, timestamps: true, timestampValue: (last.timestampValue - 5_000) >>> 0, timestampEcho: last.timestampEcho, sackEdges: [], syn: undefined }
          // Length 700 of nothing: zeros where the stream has noise.
          const bytes = writeSegment(builder, tcpPath(from, last.sourcePort, to, last.destinationPort), fields, undefined, 0, 700).slice()
          world.line.send(side, [bytes])
          passing = false
          return true
        }
        await world.exchange(role, 80, MB, MB)
        expect(forged).toBeGreaterThan(10)
      })
    }

    flow('FIN is acknowledged, and both sides end in order, at 10 % loss', { faults: { loss: 0.1, delayMs: 1 } }, async (world) => {
      await Promise.all(Array.from({ length: 20 }, (_, i) => world.exchange(i % 2 === 0 ? 'we connect' : 'they connect', 80 + i, 300, 300)))
      expect(world.seen(0).filter((each) => (each.flags & FIN) !== 0).length).toBeGreaterThanOrEqual(20)
    })
  })

}
