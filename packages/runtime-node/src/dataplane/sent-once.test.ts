import { NodePrivateKey } from '@meshwright/crypto'
import { encodeIcmpEcho, encodeTcpPacket, parsePrefix, TCP_ACK } from '@meshwright/ip'
import { SeededRandom } from '@meshwright/testkit'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { EAGAIN, EINTR, EINVAL, EIO, EMSGSIZE } from './linux-abi.ts'
import { ipv4Address } from './memory-kernel.ts'
import { ip, must, roomForTwo } from './lanes-for-tests.ts'
import { MemoryLane } from './memory-lane.ts'
import { encodeRowVnetHeader, VNET_GSO_TCPV4, VNET_HEADER_BYTES } from './vnet-header.ts'

// How often a sealed datagram may leave, whatever the kernel says of sending it. Two datagrams under one message number would be a broken cipher if
// they differed, and bad manners if not: the receiver drops the second.
const { provider, arenas } = roomForTwo()

const ENOBUFS = 105
const ENETUNREACH = 101
const EPERM = 1
const SEGMENT = 1_000

/** How a kernel deals with a sending: what it takes of the row (segments, from the front or from the back), and what it says. */
interface Answer {
  readonly errno: number
  readonly taken: number
  readonly isFromBack: boolean
}

/** A sender whose kernel answers so, for rows and for single datagrams alike, and its peer. */
function pair(gso: boolean, answer: (isRow: boolean) => Answer | undefined): { readonly send: (segments: number) => void; readonly sent: Map<number, readonly Uint8Array[]>; readonly replays: () => number; readonly drops: () => number } {
  const keys = [1, 2].map((host) => NodePrivateKey.generate(new SeededRandom(host).bytes))
  const [a, b] = keys.map((key, i) => new MemoryLane({ provider, arena: must(arenas[i]), key, gso, random: new SeededRandom(i + 7).bytes, wallClock: () => 1_767_225_600_000 }))
  if (a === undefined || b === undefined) throw new Error('two ends')
  const sent = new Map<number, readonly Uint8Array[]>()
  let isOpen = false
  const deliver = (bytes: Uint8Array): void => {
    if (bytes[0] === 4) {
      const counter = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(8, true))
      sent.set(counter, [...(sent.get(counter) ?? []), bytes])
    }
    b.kernel.udpIn.push({ from: ipv4Address(1, 5000), bytes, segmentBytes: 0, trafficClass: 0 })
  }
  const segments = (bytes: Uint8Array, segmentBytes: number): Uint8Array[] => {
    const step = segmentBytes === 0 ? bytes.length : segmentBytes
    return Array.from({ length: Math.ceil(bytes.length / step) }, (_, i) => bytes.slice(i * step, (i + 1) * step))
  }
  let said: Answer | undefined
  a.kernel.onSend = (_to, { bytes, segmentBytes }) => {
    const all = segments(bytes, segmentBytes)
    said = isOpen ? answer(segmentBytes > 0) : undefined
    const taken = said === undefined ? all : said.isFromBack ? all.slice(Math.max(0, all.length - said.taken)) : all.slice(0, said.taken)
    for (const each of taken) deliver(each)
  }
  a.kernel.lie = (call, result) => (call === 'sendmsg' && said !== undefined ? -said.errno : result)
  b.kernel.onSend = (_to, { bytes, segmentBytes }) => a.kernel.udpIn.push({ from: ipv4Address(2, 5000), bytes, segmentBytes, trafficClass: 0 })
  for (const [lane, other, host] of [[a, 1, 2], [b, 0, 1]] as const) {
    lane.change({ type: 'peer', publicKey: must(keys[other]).publicKey(), remove: false, updateOnly: false, replaceAllowedIps: false, allowedIps: [{ prefix: must(parsePrefix(`10.0.0.${host}/32`)), remove: false }], endpoint: { ip: ip(`10.87.0.${host}`), port: 5000 } })
  }
  const settle = (): void => {
    for (let i = 0; i < 6; i += 1) for (const lane of [a, b]) lane.run()
  }
  const put = (packet: Uint8Array, segmentBytes: number): void => {
    const bytes = new Uint8Array(VNET_HEADER_BYTES + packet.length)
    bytes.set(packet, VNET_HEADER_BYTES)
    if (segmentBytes > 0) encodeRowVnetHeader(new DataView(bytes.buffer), 0, VNET_GSO_TCPV4, 0, segmentBytes, 20, 16)
    a.kernel.tunIn.push(bytes)
    settle()
  }
  put(encodeIcmpEcho({ src: ip('10.0.0.1'), dst: ip('10.0.0.2'), kind: 'request', identifier: 1, sequence: 1, payload: new Uint8Array(8) }), 0)
  sent.clear()
  isOpen = true
  return {
    send: (count) => put(encodeTcpPacket({ src: { ip: ip('10.0.0.1'), port: 1 }, dst: { ip: ip('10.0.0.2'), port: 2 }, sequence: 7, flags: TCP_ACK, payload: new Uint8Array(count * SEGMENT) }), SEGMENT),
    sent,
    replays: () => b.engine.status(b.now).drops.get('packet-replay') ?? 0,
    drops: () => a.context.counters.sendDrops,
  }
}

const times = (sent: ReadonlyMap<number, readonly Uint8Array[]>): number[] => [...sent.values()].map((copies) => copies.length)
const isSame = (copies: readonly Uint8Array[]): boolean => copies.every((each) => Buffer.from(each).equals(must(copies[0])))

test('without rows each datagram is handed to the kernel once, whatever it answers to whichever of them', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.constantFrom(0, EIO, EINVAL, EMSGSIZE, ENOBUFS, EAGAIN, EINTR, EPERM, ENETUNREACH), fc.nat(1)), { minLength: 1, maxLength: 40 }), fc.integer({ min: 2, max: 40 }), (answers, count) => {
      let at = 0
      const { send, sent } = pair(false, () => {
        const [errno, taken] = must(answers[at++ % answers.length])
        return errno === 0 ? undefined : { errno, taken, isFromBack: false }
      })
      send(count)
      send(count)
      expect(at).toBe(2 * count)
      expect(Math.max(0, ...times(sent))).toBeLessThanOrEqual(1)
    }),
    { numRuns: 60 },
  )
})

test.each([EAGAIN, EINTR, ENOBUFS, EPERM, ENETUNREACH])('a row that a full queue or a missing way has stopped (errno %i) is lost and counted, and never sent again', (errno) => {
  const { send, sent, drops } = pair(true, (isRow) => (isRow ? { errno, taken: 2, isFromBack: false } : undefined))
  send(20)
  expect([times(sent), drops()]).toEqual([[1, 1], 20])
})

// Linux says so before it sends anything (net/ipv4/udp.c, udp_send_skb); a driver or a filter behind it might have let some through.
test.each([[EIO, 0, false], [EMSGSIZE, 0, false], [EINVAL, 0, false], [EMSGSIZE, 1, true], [EINVAL, 3, false], [EIO, 20, false]] as const)('a row that is refused as a row (errno %i), with %i of it sent all the same: these go twice, byte for byte, and arrive once', (errno, taken, isFromBack) => {
  const { send, sent, replays, drops } = pair(true, (isRow) => (isRow ? { errno, taken, isFromBack } : undefined))
  send(20)
  expect([sent.size, times(sent).filter((count) => count === 2).length, Math.max(...times(sent))]).toEqual([20, taken, taken > 0 ? 2 : 1])
  expect([...sent.values()].every(isSame)).toBe(true)
  expect([replays(), drops()]).toEqual([taken, 0])
  // What comes next goes one by one: nothing twice any more.
  send(20)
  expect([sent.size, times(sent).filter((count) => count === 2).length]).toEqual([40, taken])
})
