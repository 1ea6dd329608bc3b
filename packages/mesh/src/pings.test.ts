import { instant } from '@meshwright/core'
import { encodeIcmpEcho, ICMPV4_ECHO_REQUEST, PacketView } from '@meshwright/ip'
import { SeededRandom } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { ip, keysOf } from './mesh-lab.test.ts'
import { MAX_PINGS, PING_TIMEOUT_MS, TunnelPings } from './pings.ts'
import { decodeTsmp } from './tsmp.ts'

function packetView(bytes: Uint8Array): PacketView {
  const view = new PacketView()
  view.at(bytes)
  return view
}

const [me, them, other] = [ip('100.64.0.1'), ip('100.64.0.2'), ip('100.64.0.3')]
const peer = keysOf(2).node.publicKey()
const stranger = keysOf(3).node.publicKey()
const ask = (id: number, kind: 'TSMP' | 'ICMP') => ({ id, kind, from: me, to: them, peer })

test('a TSMP ping ends with the pong of that peer and that data, once', () => {
  const pings = new TunnelPings(new SeededRandom(1).bytes)
  const sent = decodeTsmp(packetView(pings.start(instant(0), ask(1, 'TSMP')) ?? expect.fail()))
  if (sent?.type !== 'ping') return expect.fail('no ping')
  expect(pings.pong(instant(5), stranger, sent.data, 0), 'from somebody else').toBeUndefined()
  expect(pings.pong(instant(5), peer, sent.data.map((byte) => byte ^ 1), 0), 'other data').toBeUndefined()
  expect(pings.pong(instant(30), peer, sent.data, 80)).toMatchObject({ ping: { id: 1 }, latencyMs: 30, peerApiPort: 80 })
  expect(pings.pong(instant(31), peer, sent.data, 80), 'a second time').toBeUndefined()
})

test('an ICMP ping ends with the echo reply of that address, identifier and sequence', () => {
  const pings = new TunnelPings(new SeededRandom(1).bytes)
  const view = packetView(pings.start(instant(0), ask(1, 'ICMP')) ?? expect.fail())
  expect(view.icmpType).toBe(ICMPV4_ECHO_REQUEST)
  const at = view.offset + view.headerLength
  const [identifier, sequence] = [view.memory.subarray(at + 4, at + 6), view.memory.subarray(at + 6, at + 8)].map((two) => ((two[0] ?? 0) << 8) | (two[1] ?? 0))
  const reply = (change: object): Uint8Array => encodeIcmpEcho({ kind: 'reply', src: them, dst: me, identifier: identifier ?? 0, sequence: sequence ?? 0, ...change })
  expect(pings.echoReply(instant(9), packetView(reply({ src: other })))).toBeUndefined()
  expect(pings.echoReply(instant(9), packetView(reply({ sequence: (sequence ?? 0) ^ 1 })))).toBeUndefined()
  expect(pings.echoReply(instant(9), packetView(reply({ kind: 'request' })))).toBeUndefined()
  expect(pings.echoReply(instant(9), packetView(reply({})))).toMatchObject({ ping: { id: 1 }, latencyMs: 9 })
})

test('a ping without answer ends at its time, and not before', () => {
  const pings = new TunnelPings(new SeededRandom(1).bytes)
  pings.start(instant(0), ask(1, 'TSMP'))
  pings.start(instant(0), { ...ask(2, 'ICMP'), timeoutMs: 100 })
  expect(pings.pollTimeout()).toBe(100)
  expect(pings.expire(instant(99))).toEqual([])
  expect(pings.expire(instant(100)).map(({ ping }) => ping.id)).toEqual([2])
  expect(pings.pollTimeout()).toBe(PING_TIMEOUT_MS)
  expect(pings.expire(instant(PING_TIMEOUT_MS))).toMatchObject([{ ping: { id: 1 }, latencyMs: undefined }])
  expect(pings.pollTimeout()).toBeUndefined()
})

test(`no more than ${MAX_PINGS} are under way`, () => {
  const pings = new TunnelPings(new SeededRandom(1).bytes)
  for (let id = 0; id < MAX_PINGS; id += 1) expect(pings.start(instant(0), ask(id, 'TSMP'))).toBeDefined()
  expect(pings.start(instant(0), ask(MAX_PINGS, 'TSMP'))).toBeUndefined()
  pings.expire(instant(PING_TIMEOUT_MS))
  expect(pings.start(instant(PING_TIMEOUT_MS), ask(1, 'TSMP'))).toBeDefined()
})
