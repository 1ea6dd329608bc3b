import { DONE, DROPPED, instant } from '@meshwright/core'
import { encodeTcpPacket, encodeUdpPacket, TCP_ACK } from '@meshwright/ip'
import { beforeEach, expect, test } from 'vitest'
import type { LaneEngine } from './lane-engine.ts'
import { type LaneContext, noLaneCounters } from './lane-context.ts'
import { ip, must, roomForTwo } from './lanes-for-tests.ts'
import { MemoryKernel } from './memory-kernel.ts'
import { Outbound } from './outbound.ts'
import { RowSender } from './row-sender.ts'
import { udpPathTo } from './socket-address.ts'
import { encodeRowVnetHeader, VNET_GSO_TCPV4, VNET_HEADER_BYTES } from './vnet-header.ts'

// What the way out asks of an engine, whichever it is: how many packets a row stands for, and what becomes of what was sealed.
const { arenas } = roomForTwo()
const memory = must(arenas[0])
const now = instant(1_000)
const PEER = {}
const path = udpPathTo({ ip: ip('192.0.2.1'), port: 5000 })
let asked: unknown[] = []
let [owner, sealed, relayed, reached]: [object | undefined, number, boolean, boolean] = [PEER, 100, false, true]

const engine: LaneEngine = {
  ownerOf: (_now, _memory, _at, length, packets) => {
    asked.push(['owner', length, packets])
    return owner
  },
  // As the device: the header is before the packet, the tag behind.
  seal: (_now, _peer, batch) => {
    let done = 0
    for (let slot = 0; slot < batch.count; slot += 1) {
      batch.verdict[slot] = slot < sealed ? DONE : DROPPED
      batch.target[slot] = (batch.offset[slot] ?? 0) - 16
      batch.targetLength[slot] = ((batch.length[slot] ?? 0) + 15 & ~15) + 32
      if (slot < sealed) done += 1
    }
    return done
  },
  pathOf: () => (reached ? path : undefined),
  relay: (_now, _peer, batch) => {
    for (let slot = 0; relayed && slot < batch.count; slot += 1) if (batch.verdict[slot] === DONE) asked.push('relay')
  },
  takeRelayed: () => [],
  sent: (_path, _bytes, datagrams) => asked.push(['sent', datagrams]),
  notSent: (_now, peer, datagrams) => asked.push(['not sent', peer === PEER, datagrams]),
  open: () => ({ peerOf: () => undefined }), foreign: () => false, admits: () => false, settle: () => undefined, handleTimeout: () => undefined, pollTimeout: () => undefined,
}

let kernel = new MemoryKernel(memory.bytes)
let context: LaneContext
beforeEach(() => {
  kernel = new MemoryKernel(memory.bytes)
  context = {
    ...memory, border: kernel, engine, offloads: { tso: true, uso: true, udpJoin: true, gso: true, gro: true }, counters: noLaneCounters(), tun: { fd: MemoryKernel.TUN, hasVnetHeader: true },
    sockets: { ipv4: MemoryKernel.IPV4, ipv6: MemoryKernel.IPV6, port: 5000 }, mtu: 1420,
  }
  asked = []
  ;[owner, sealed, relayed, reached] = [PEER, 100, false, true]
})

const withHeader = (packet: Uint8Array): Uint8Array => Uint8Array.from([...new Uint8Array(VNET_HEADER_BYTES), ...packet])
const ends = { src: { ip: ip('10.0.0.1'), port: 1 }, dst: { ip: ip('10.0.0.2'), port: 2 } }
function run(): readonly unknown[] {
  const row = withHeader(encodeTcpPacket({ ...ends, sequence: 7, flags: TCP_ACK, payload: new Uint8Array(3_500) }))
  encodeRowVnetHeader(new DataView(row.buffer), 0, VNET_GSO_TCPV4, 0, 1_000, 20, 16)
  kernel.tunIn.push(withHeader(encodeUdpPacket({ ...ends, payload: new Uint8Array(10) })), row)
  new Outbound(context, new RowSender(context), false).run(now)
  return asked
}
const ASKED = [['owner', 38, 1], ['owner', 3_540, 4]]

test('a row stands for as many packets as it is cut into, and all of them are told to have been sent', () => expect(run()).toEqual([...ASKED, ['sent', 1], ['sent', 4]]))
test('what goes to nobody is asked for once, with the number of its packets, and not sealed', () => {
  owner = undefined
  expect(run()).toEqual(ASKED)
})
test('what was sealed and has no way is told, and no more than was sealed', () => {
  reached = false
  expect(run()).toEqual([...ASKED, ['not sent', true, 1], ['not sent', true, 4]])
  asked = []
  sealed = 2
  expect(run()).toEqual([...ASKED, ['not sent', true, 1], ['not sent', true, 2]])
  asked = []
  sealed = 0
  expect(run()).toEqual(ASKED)
})
test('what goes by a relay is told so, and each datagram is handed to it', () => {
  ;[reached, relayed] = [false, true]
  expect(run()).toEqual([...ASKED, 'relay', ['not sent', true, 1], ...new Array(4).fill('relay'), ['not sent', true, 4]])
})
