import { instant } from '@meshwright/core'
import { machineLaws, type SeededRandom } from '@meshwright/testkit'
import { describe, test } from 'vitest'
import { endpoint, ip } from '../test/virtual-link.ts'
import { Netstack, type FlowId, type NetstackInput, type NetstackOutput, type TcpState } from './index.ts'
import { PacketBuilder, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP } from './ip-packet.ts'
import { tcpPath, writeSegment } from './tcp-output.ts'
import { ACK, FIN, RST, SYN } from './tcp-segment.ts'

const US = ip('100.64.0.1')
const PEER = ip('100.64.0.2')
const STATES: readonly TcpState[] = [
  'held',
  'syn-sent',
  'syn-received',
  'established',
  'fin-wait-1',
  'fin-wait-2',
  'close-wait',
  'closing',
  'last-ack',
  'time-wait',
  'closed',
]

/** A stack with one flow that is watched. */
class Watched extends Netstack {
  flow: FlowId | undefined
  seen: string = 'closed'
}

/** Packets that get far: right checksums and ports, random numbers, flags, options and payload. */
function arbitraryPacket(random: SeededRandom): NetstackInput {
  const builder = new PacketBuilder(random.u32())
  const protocol = random.pick([PROTOCOL_TCP, PROTOCOL_TCP, PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_ICMP, 99])
  const from = random.pick([PEER, ip('100.64.0.3'), ip('127.0.0.1')])
  const to = random.pick([US, US, US, ip('8.8.8.8')])
  if (random.chance(0.2)) return { type: 'packet', bytes: random.bytes(random.below(200)) }
  if (protocol !== PROTOCOL_TCP || random.chance(0.1)) {
    const bytes = builder.packet(from.bytes, to.bytes, protocol, random.bytes(random.below(100)))
    if (random.chance(0.3)) bytes[6] = random.below(64) // fragments
    return { type: 'packet', bytes }
  }
  const fields = {
    flags: random.below(64),
    sequence: random.u32(),
    acknowledgment: random.u32(),
    window: random.below(65_536),
    timestamps: random.chance(0.5),
    timestampValue: random.u32(),
    timestampEcho: random.u32(),
    sackEdges: random.chance(0.3) ? [random.u32(), random.u32()] : [],
    syn: random.chance(0.2)
      ? { maximumSegmentSize: random.below(65_536), windowShift: random.below(15), sackPermitted: random.chance(0.5) }
      : undefined,
  }
  const path = tcpPath(from, random.pick([80, 81]), to, random.pick([80, 81, 40_000]))
  return { type: 'packet', bytes: writeSegment(builder, path, fields, undefined, 0, random.below(3)) }
}

describe('machine laws', () => {
  test('hold for random packets of every kind', () => {
    machineLaws<NetstackInput, NetstackOutput>({
      make: (random) => {
        const stack = new Netstack(random.bytes, {
          addresses: [US],
          promiscuous: true,
          offerUnclaimed: true,
          maxHalfOpen: 20,
          maxFlows: 50,
        })
        stack.listenTcp(80)
        stack.bindUdp(80)
        return stack
      },
      exercise: (machine, now) => {
        if (!(machine instanceof Netstack)) return
        machine.write(now, machine.connectTcp(now, endpoint('100.64.0.2', 80), { port: 40_000 }), new Uint8Array(10_000))
        machine.ping(now, PEER)
      },
      arbitraryInput: arbitraryPacket,
      memory: { size: (machine) => (machine instanceof Netstack ? machine.flowCount : Number.POSITIVE_INFINITY), bound: 50 },
      inputs: 600,
    })
  })

  test('hold while a flow goes through every state', () => {
    // Each input is the next segment of a peer that plays along, chosen by a script for each seed.
    const scripts: readonly (readonly number[])[] = [
      [SYN | ACK, ACK, FIN | ACK],
      [SYN, ACK, ACK],
      [SYN | ACK, FIN | ACK, ACK],
      [SYN | ACK, -1, FIN | ACK, ACK],
      [SYN | ACK, -1, ACK, FIN | ACK],
      [SYN | ACK, FIN | ACK, -1, ACK],
      [SYN | ACK, -1, -4, ACK],
      [-2, -3, ACK],
    ]
    machineLaws<NetstackInput, NetstackOutput>({
      make: (random) => new Watched(random.bytes, { addresses: [US], promiscuous: true, offerUnclaimed: true, timestamps: false }),
      exercise: (machine, now) => {
        if (!(machine instanceof Watched)) return
        for (let which = 0; which < scripts.length; which += 1) walk(machine, instant(now), scripts[which] ?? [], which)
      },
      arbitraryInput: arbitraryPacket,
      stateOf: (machine) => (machine instanceof Watched ? machine.seen : 'closed'),
      inputs: 50,
      seeds: 2,
    })
    const reached = new Set<string>()
    const stack = new Watched((length) => new Uint8Array(length).fill(9), {
      addresses: [US],
      promiscuous: true,
      offerUnclaimed: true,
      timestamps: false,
    })
    scripts.forEach((steps, which) => walk(stack, instant(1_000), steps, which, (state) => reached.add(state)))
    for (const state of STATES) if (!reached.has(state)) throw new Error(`never in ${state}, only in ${[...reached].join(', ')}`)
  })
})

/** Plays a script against one flow: flags are sent with the numbers that fit, -1 shuts our side, -2 is a SYN nobody waits for, -3 accepts it, -4 is FIN crossing ours. */
function walk(
  stack: Watched,
  now: ReturnType<typeof instant>,
  steps: readonly number[],
  which: number,
  note: (state: string) => void = () => undefined,
): void {
  const builder = new PacketBuilder(1)
  let iss = 0
  let nxt = 0
  let peer = 0
  const port = 1000 + which
  let local = 0
  let flow: FlowId | undefined
  const look = (): void => {
    const state = flow === undefined ? 'closed' : stack.flowStatus(flow)?.state
    stack.seen = state ?? (stack.flowCount > 0 ? 'time-wait' : 'closed')
    note(stack.seen)
  }
  const drain = (): void => {
    look()
    for (let output = stack.pollOutput(); output !== undefined; output = stack.pollOutput()) {
      if (output.type === 'incoming') flow = output.flow
      if (output.type !== 'packet') continue
      const view = new DataView(output.bytes.buffer, output.bytes.byteOffset, output.bytes.length)
      const flags = view.getUint8(33)
      if ((flags & SYN) !== 0) iss = view.getUint32(24)
      local = view.getUint16(20)
      if ((flags & RST) === 0) nxt = Math.max(nxt, (view.getUint32(24) + ((flags & (SYN | FIN)) !== 0 ? 1 : 0) - iss) >>> 0)
    }
    look()
  }
  if (steps[0] !== -2) flow = stack.connectTcp(now, { ip: PEER, port })
  drain()
  for (const step of steps) {
    if (step === -1 && flow !== undefined) stack.shutdownWrite(now, flow)
    else if (step === -3 && flow !== undefined) stack.accept(now, flow)
    else {
      const flags = step === -2 ? SYN : step === -4 ? FIN | ACK : step
      if (step === -2) local = 4000
      const fields = {
        flags,
        sequence: peer,
        acknowledgment: (iss + nxt - (step === -4 ? 1 : 0)) >>> 0,
        window: 1000,
        timestamps: false,
        timestampValue: 0,
        timestampEcho: 0,
        sackEdges: [],
        syn: (flags & SYN) !== 0 ? { maximumSegmentSize: 1000, windowShift: -1, sackPermitted: false } : undefined,
      }
      peer += (flags & SYN ? 1 : 0) + (flags & FIN ? 1 : 0)
      stack.handleInput(now, { type: 'packet', bytes: writeSegment(builder, tcpPath(PEER, port, US, local), fields, undefined, 0, 0) })
    }
    drain()
  }
  if (steps.includes(FIN | ACK) && flow !== undefined && steps.length === 3) {
    stack.shutdownWrite(now, flow)
    drain()
  }
}
