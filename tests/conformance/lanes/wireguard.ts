import { concatBytes, formatHex, PacketBatch } from '@meshwright/core'
import { type CryptoProvider, NodePublicKey } from '@meshwright/crypto'
import { type Endpoint, Ip } from '@meshwright/ip'
import { writeTransportHeader } from '../../../packages/wireguard/src/messages.ts'
import type { CaseResult } from '../kind.ts'
import type { Handshake } from '../kinds/wireguard.ts'
import type { LaneActor } from './actor.ts'
import { actorOn, ALL, check, endpoint, hex, type LaneUnderTest, secret, u32, wallOf, wallOfTimestamp } from './lane-under-test.ts'

type Packet = Handshake['transport'][number]

interface Cookie {
  readonly name: string
  readonly cookie_secret: string
  readonly cookie_mac_input: string
  readonly cookie: string
  readonly nonce: string
  readonly initiator_static_private: string
  readonly responder_static_private: string
  readonly first_initiation: string
  readonly cookie_reply: string
  readonly second_initiation_ephemeral_private: string
  readonly second_initiation_timestamp: string
  readonly second_initiation_index: number
  readonly second_initiation_with_mac2: string
}

/** What is used of `wireguard.json`. */
export interface WireGuardVectors {
  readonly handshakes: readonly Handshake[]
  readonly cookies: readonly Cookie[]
  readonly negative_initiations: readonly { readonly name: string; readonly responder_static_private: string; readonly initiator_static_public: string; readonly packet: string }[]
  readonly replay_window: { readonly sequences: readonly { readonly name: string; readonly steps: readonly (readonly [string, boolean])[] }[] }
}

const THERE: Endpoint = endpoint('192.0.2.33:51820')
const ELSEWHERE: Endpoint = endpoint('192.0.2.99:7')
/** The shortest that a lane takes for a packet. */
const LEAST_PACKET_BYTES = 20
const TRANSPORT = 4
const REPLAY_ROW = 20

/** Golden handshakes, packets, cookies and refusals on one lane. */
export function wireguardOnLane(vectors: WireGuardVectors, under: LaneUnderTest): readonly CaseResult[] {
  return [
    ...vectors.handshakes.flatMap((handshake) => [...initiating(under, handshake), ...responding(under, handshake)]),
    ...vectors.cookies.flatMap((cookie) => cookieCases(under, cookie)),
    ...vectors.negative_initiations.map((c) => {
      const actor = actorOn(under, c.responder_static_private)
      const publicKey = NodePublicKey.fromBytes(hex(c.initiator_static_public))
      if (publicKey !== undefined) actor.know([{ publicKey, endpoint: THERE, allowed: ALL }])
      actor.takeSent()
      actor.datagram(ELSEWHERE, hex(c.packet))
      return check(under, `refused/${c.name}`, [actor.takeSent().length, actor.takeDelivered().length, publicKey && actor.endpointOf(publicKey)], [0, 0, publicKey && '192.0.2.33:51820'])
    }),
  ]
}

/** Golden sequences of message numbers on one lane: which it takes, and which it has seen. */
export function replaysOnLane(vectors: WireGuardVectors, under: LaneUnderTest): readonly CaseResult[] {
  const [plain] = vectors.handshakes
  return plain === undefined ? [] : vectors.replay_window.sequences.map((sequence) => replays(under, plain, sequence))
}

/** The lane begins the handshake, sends what is golden to be sent, and takes what the other side sends. */
function initiating(under: LaneUnderTest, c: Handshake): CaseResult[] {
  const [actor, peer] = meet(under, c.initiator.static_private, c.responder.static_private, c.psk)
  if (c.cookie_for_initiation !== null) giveCookie(under.provider, actor, peer, c.cookie_for_initiation)
  actor.wall = wallOf(c.initiator.timestamp.unix_sec, c.initiator.timestamp.nsec)
  actor.script(hex(c.initiator.ephemeral_private), u32(c.initiator.index))
  actor.at(10_000)
  actor.device.connect(actor.now, peer)
  actor.settle()
  const initiation = actor.takeSent()
  actor.datagram(THERE, hex(c.response))
  const first = actor.takeSent()
  return [
    check(under, `initiate/${c.name}/initiation`, initiation.map(({ bytes }) => formatHex(bytes)), [c.initiation]),
    // The other side learns by the first packet that we have the session.
    check(under, `initiate/${c.name}/first`, first.map(({ bytes }) => formatHex(bytes)), packetsOf(c, 'i2r').slice(0, 1).map(({ packet }) => packet)),
    ...sealing(under, actor, `initiate/${c.name}`, packetsOf(c, 'i2r')),
    ...opening(under, actor, peer, `initiate/${c.name}`, packetsOf(c, 'r2i')),
  ]
}

/** The lane answers. */
function responding(under: LaneUnderTest, c: Handshake): CaseResult[] {
  const [actor, peer] = meet(under, c.responder.static_private, c.initiator.static_private, c.psk)
  if (c.cookie_for_response !== null) giveCookie(under.provider, actor, peer, c.cookie_for_response)
  // A cookie came as an answer to its own initiation, whose next try is due now.
  actor.at(10_000)
  actor.takeSent()
  actor.script(hex(c.responder.ephemeral_private), u32(c.responder.index))
  actor.datagram(THERE, hex(c.initiation))
  const response = actor.takeSent()
  const opened = opening(under, actor, peer, `respond/${c.name}`, packetsOf(c, 'i2r'))
  actor.takeSent()
  actor.device.sendKeepalive(actor.now, peer)
  actor.settle()
  const first = actor.takeSent()
  return [
    check(under, `respond/${c.name}/response`, response.map(({ to, bytes }) => [to?.port, formatHex(bytes)]), [[THERE.port, c.response]]),
    ...opened,
    check(under, `respond/${c.name}/first`, first.map(({ bytes }) => formatHex(bytes)), packetsOf(c, 'r2i').slice(0, 1).map(({ packet }) => packet)),
    ...sealing(under, actor, `respond/${c.name}`, packetsOf(c, 'r2i')),
  ]
}

function meet(under: LaneUnderTest, own: string, other: string, psk: string): [LaneActor, NodePublicKey] {
  const actor = actorOn(under, own)
  const publicKey = secret(other).publicKey()
  actor.know([{ publicKey, presharedKey: hex(psk), endpoint: THERE, allowed: ALL }])
  actor.takeSent()
  return [actor, publicKey]
}

const packetsOf = (c: Handshake, dir: Packet['dir']): readonly Packet[] => c.transport.filter((packet) => packet.dir === dir).toSorted((a, b) => (BigInt(a.counter) < BigInt(b.counter) ? -1 : 1))

/** Sends the golden packets that are packets, under their own counters: one by one is what came before, all at once is what remains. */
function sealing(under: LaneUnderTest, actor: LaneActor, name: string, packets: readonly Packet[]): CaseResult[] {
  const near = packets.filter(({ counter }) => BigInt(counter) < 1000n)
  const whole = near.filter(({ inner }) => inner.length >= LEAST_PACKET_BYTES * 2)
  const [first] = whole
  if (first === undefined) return []
  // Message number 0 has gone out; those that carry no packet have no way out of a TUN device.
  for (let skipped = 1; skipped < Number(first.counter); skipped += 1) actor.packet(hex(first.inner))
  actor.takeSent()
  actor.packets(whole.map(({ inner }) => hex(inner)))
  const sent = actor.takeSent().map(({ bytes }) => formatHex(bytes))
  return whole.map(({ counter, packet }, i) => check(under, `${name}/seal/${counter}`, sent[i], packet))
}

/** Takes golden packets, in the order of their counters, in rows where they are of one length. */
function opening(under: LaneUnderTest, actor: LaneActor, peer: NodePublicKey, name: string, packets: readonly Packet[]): CaseResult[] {
  const results: CaseResult[] = []
  for (let i = 0; i < packets.length; ) {
    const row = packets.slice(i, 1 + packets.findLastIndex(({ packet }, at) => at >= i && packets.slice(i, at).every((each) => each.packet.length === packet.length)))
    i += row.length
    const before = actor.device.peerStatus(actor.now, peer)?.receivedPackets ?? 0
    actor.takeDelivered()
    const datagrams = row.map(({ packet }) => hex(packet))
    actor.row(THERE, concatBytes(...datagrams), datagrams[0]?.length ?? 1)
    const received = (actor.device.peerStatus(actor.now, peer)?.receivedPackets ?? 0) - before
    const expected = row.filter(({ inner }) => inner.length >= LEAST_PACKET_BYTES * 2).map(({ inner }) => inner)
    results.push(check(under, `${name}/open/${row.map(({ counter }) => counter).join('+')}`, [received, actor.takeDelivered().map(formatHex)], [row.length, expected]))
  }
  return results
}

// A cookie arrives as the answer to an earlier initiation; the next message uses it.
function giveCookie(provider: CryptoProvider, actor: LaneActor, peer: NodePublicKey, cookie: string): void {
  actor.script(u32(77))
  actor.at(1_000)
  actor.device.connect(actor.now, peer)
  actor.settle()
  const [first] = actor.takeSent()
  if (first === undefined) throw new Error('no initiation was sent')
  const nonce = new Uint8Array(24).fill(5)
  const key = provider.hash(new TextEncoder().encode('cookie--'), peer.bytes)
  const sealed = provider.xaeadSeal(key, nonce, hex(cookie), first.bytes.subarray(116, 132))
  actor.datagram(THERE, concatBytes(Uint8Array.of(3, 0, 0, 0), first.bytes.subarray(4, 8), nonce, sealed))
}

function cookieCases(under: LaneUnderTest, c: Cookie): CaseResult[] {
  const from = hex(c.cookie_mac_input)
  const place = Ip.fromBytesAt(from, 0, from.length === 6 ? 4 : 6)
  const source: Endpoint | undefined = place && { ip: place, port: new DataView(from.buffer, from.byteOffset).getUint16(from.length - 2) }
  if (source === undefined) return [check(under, `cookies/${c.name}`, 'no source', 'a source')]
  const [responder] = meet(under, c.responder_static_private, c.initiator_static_private, '00'.repeat(32))
  const underLoad = (at: number): void => {
    responder.at(at)
    responder.device.noteLag(responder.now, 1_000)
    responder.takeSent()
  }
  responder.script(hex(c.cookie_secret), hex(c.nonce))
  underLoad(1_000)
  responder.datagram(source, hex(c.first_initiation))
  const reply = responder.takeSent()
  underLoad(6_000)
  responder.datagram(source, hex(c.second_initiation_with_mac2))
  const accepted = responder.takeSent()
  const [initiator, responderKey] = meet(under, c.initiator_static_private, c.responder_static_private, '00'.repeat(32))
  giveCookie(under.provider, initiator, responderKey, c.cookie)
  initiator.wall = wallOfTimestamp(hex(c.second_initiation_timestamp))
  initiator.script(hex(c.second_initiation_ephemeral_private), u32(c.second_initiation_index))
  initiator.at(10_000)
  return [
    check(under, `cookies/${c.name}/reply`, reply.map(({ to, bytes }) => [to?.port, formatHex(bytes)]), [[source.port, c.cookie_reply]]),
    check(under, `cookies/${c.name}/accepted`, accepted.map(({ bytes }) => bytes[0]), [2]),
    check(under, `cookies/${c.name}/second-initiation`, initiator.takeSent().map(({ bytes }) => formatHex(bytes)), [c.second_initiation_with_mac2]),
  ]
}

/** A sequence of counters, each sealed as its sender would have; what comes out is what a window lets through. */
function replays(under: LaneUnderTest, c: Handshake, sequence: WireGuardVectors['replay_window']['sequences'][number]): CaseResult {
  const [actor] = meet(under, c.responder.static_private, c.initiator.static_private, c.psk)
  actor.script(hex(c.responder.ephemeral_private), u32(c.responder.index))
  actor.at(10_000)
  actor.datagram(THERE, hex(c.initiation))
  const key = hex(c.session.initiator_send_key)
  const through: number[] = []
  for (let at = 0; at < sequence.steps.length; at += REPLAY_ROW) {
    const row = sequence.steps.slice(at, at + REPLAY_ROW).map(([counter], i) => sealed(under.provider, key, c.responder.index, BigInt(counter), numbered(at + i)))
    actor.row(THERE, concatBytes(...row), row[0]?.length ?? 1)
    for (const packet of actor.takeDelivered()) through.push(new DataView(packet.buffer, packet.byteOffset).getUint32(28))
  }
  return check(under, `replay/${sequence.name}`, through, sequence.steps.flatMap(([, accepted], i) => (accepted ? [i] : [])))
}

/** A UDP packet that bears a number and no checksum. */
function numbered(value: number): Uint8Array {
  const bytes = Uint8Array.of(0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 9, 0, 9, 0, 12, 0, 0, 0, 0, 0, 0)
  const view = new DataView(bytes.buffer)
  view.setUint32(28, value)
  let sum = 0
  for (let i = 0; i < 20; i += 2) sum += view.getUint16(i)
  view.setUint16(10, ~((sum & 0xffff) + (sum >>> 16)) & 0xffff)
  return bytes
}

function sealed(provider: CryptoProvider, key: Uint8Array, receiver: number, counter: bigint, inner: Uint8Array): Uint8Array {
  const batch = PacketBatch.slab(1, inner.length + 32)
  batch.addCopy(inner)
  provider.sealBatch(provider.keySlot(key), counter, batch)
  const target = (batch.target[0] ?? 0) - 16
  writeTransportHeader(batch.view, target, receiver, batch.counterLow[0] ?? 0, batch.counterHigh[0] ?? 0)
  const bytes = batch.memory.slice(target, target + 16 + (batch.targetLength[0] ?? 0))
  if (bytes[0] !== TRANSPORT) throw new Error('not a packet')
  return bytes
}
