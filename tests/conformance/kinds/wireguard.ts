import { readFile } from 'node:fs/promises'
import { concatBytes, formatHex, instant, PacketBatch, parseHex } from '@meshwright/core'
import { type CryptoProvider, NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import { paddedLength, ReplayWindow, WireGuardDevice, type WireGuardInput, type WireGuardOutput, type WireGuardPath } from '@meshwright/wireguard'
import { REJECT_AFTER_MESSAGES } from '../../../packages/wireguard/src/constants.ts'
import { kdf3 } from '../../../packages/wireguard/src/kdf.ts'
import { writeTransportHeader } from '../../../packages/wireguard/src/messages.ts'
import { encodeTimestamp, timestampSlot } from '../../../packages/wireguard/src/tai64n.ts'
import { type CaseResult, type Kind, UnknownForm } from '../kind.ts'
import { cryptoProviders } from '../providers.ts'

interface Static {
  readonly static_private: string
  readonly static_public: string
  readonly ephemeral_private: string
  readonly index: number
}

/** A golden handshake, with packets of its session. */
export interface Handshake {
  readonly name: string
  readonly initiator: Static & { readonly timestamp: { readonly unix_sec: number; readonly nsec: number } }
  readonly responder: Static
  readonly psk: string
  readonly cookie_for_initiation: string | null
  readonly cookie_for_response: string | null
  readonly initiation: string
  readonly response: string
  readonly session: { readonly initiator_send_key: string; readonly initiator_recv_key: string }
  readonly transport: readonly { readonly dir: 'i2r' | 'r2i'; readonly counter: string; readonly mtu: number; readonly inner: string; readonly packet: string }[]
}

interface Vectors {
  readonly kdf: readonly { readonly key: string; readonly input: string; readonly t1: string; readonly t2: string; readonly t3: string }[]
  readonly mac: readonly { readonly key: string; readonly input: string; readonly mac16: string; readonly key16: string; readonly mac16_with_key16: string }[]
  readonly tai64n: readonly { readonly unix_sec: number; readonly nsec: number; readonly whitened: string }[]
  readonly padding: readonly { readonly inner_len: number; readonly mtu: number; readonly padded_len: number }[]
  readonly low_order_points: readonly string[]
  readonly handshakes: readonly Handshake[]
  readonly cookies: readonly Cookie[]
  readonly negative_initiations: readonly { readonly name: string; readonly responder_static_private: string; readonly initiator_static_public: string; readonly packet: string }[]
  readonly replay_window: { readonly sequences: readonly { readonly name: string; readonly steps: readonly (readonly [string, boolean])[] }[] }
}

interface Cookie {
  readonly name: string
  readonly cookie_secret: string
  readonly cookie_mac_input: string
  readonly cookie: string
  readonly nonce: string
  readonly initiator_static_private: string
  readonly responder_static_private: string
  readonly cookie_encryption_key: string
  readonly first_initiation: string
  readonly cookie_reply: string
  readonly second_initiation_ephemeral_private: string
  readonly second_initiation_timestamp: string
  readonly second_initiation_index: number
  readonly second_initiation_with_mac2: string
}

/** Golden handshakes, packets, cookies, refusals and replay sequences of WireGuard, with every crypto provider, through whole devices wherever there is a way. */
export const kind: Kind = {
  name: 'wireguard',
  defaultPath: 'vectors/wireguard.json',
  copied: true,
  async run(location: string): Promise<readonly CaseResult[]> {
    const vectors = await readVectors(location)
    return onEvery(cryptoProviders(), (provider) => resultsOf(vectors, provider))
  },
}

// A case has passed when it has with every provider; what fails first is shown.
function onEvery(providers: readonly CryptoProvider[], run: (provider: CryptoProvider) => readonly CaseResult[]): readonly CaseResult[] {
  const [first = [], ...others] = providers.map((provider) => run(provider).map((result) => (result.passed ? result : { ...result, detail: `${provider.name}: ${result.detail ?? ''}` })))
  if (others.some((results) => results.length !== first.length)) throw new RangeError('the providers were given different cases')
  return first.map((result, i) => [result, ...others.map((results) => results[i] ?? result)].find(({ passed }) => !passed) ?? result)
}

function resultsOf(vectors: Vectors, provider: CryptoProvider): readonly CaseResult[] {
  return [
    ...vectors.kdf.map((c, i) => check('kdf', i, kdf3(provider, hex(c.key), hex(c.input)).map(formatHex), [c.t1, c.t2, c.t3])),
    ...vectors.mac.map((c, i) => check('mac', i, [c.key, c.key16].map((key) => formatHex(provider.mac(hex(key), hex(c.input)))), [c.mac16, c.mac16_with_key16])),
    ...vectors.tai64n.map((c, i) => check('tai64n', i, formatHex(encodeTimestamp(timestampSlot(c.unix_sec, c.nsec))), c.whitened)),
    ...vectors.padding.map((c, i) => check('padding', i, paddedLength(c.inner_len, c.mtu), c.padded_len)),
    ...vectors.low_order_points.flatMap((point, i) => lowOrder(provider, point, i)),
    ...vectors.handshakes.flatMap((handshake) => runHandshake(provider, handshake)),
    ...vectors.cookies.flatMap((cookie) => runCookie(provider, cookie)),
    ...vectors.negative_initiations.map((c) => negative(provider, c)),
    ...vectors.replay_window.sequences.flatMap((sequence) => replay(sequence)),
  ]
}

/** A device with scripted randomness and wall clock; time is the case's own. */
class Actor {
  readonly key: NodePrivateKey
  readonly device: WireGuardDevice
  readonly scripted: Map<number, Uint8Array[]> = new Map()
  wall = 1_600_000_000_000
  #next = 0

  constructor(provider: CryptoProvider, privateKey: string, underLoad: boolean = false) {
    this.key = secret(privateKey)
    this.device = new WireGuardDevice({
      provider,
      privateKey: this.key,
      random: (length) => this.#random(length),
      wallClock: () => this.wall,
      loadMonitor: { handshakeArrived: () => underLoad, worked: () => {}, isUnderLoad: () => underLoad },
    })
  }

  /** The next random bytes of these lengths. */
  script(...values: readonly Uint8Array[]): void {
    for (const value of values) this.scripted.set(value.length, [...(this.scripted.get(value.length) ?? []), value])
  }

  feed(ms: number, input: WireGuardInput): WireGuardOutput[] {
    this.device.handleInput(instant(ms), input)
    return this.drain()
  }

  drain(): WireGuardOutput[] {
    const outputs: WireGuardOutput[] = []
    for (let output = this.device.pollOutput(); output !== undefined; output = this.device.pollOutput()) outputs.push(output)
    return outputs
  }

  #random(length: number): Uint8Array {
    const value = this.scripted.get(length)?.shift()
    if (value !== undefined) return value
    this.#next += 1
    return Uint8Array.from({ length }, (_, i) => (this.#next * 31 + i * 7) & 255)
  }
}

const FROM: WireGuardPath = { id: 'test', cookieBytes: Uint8Array.of(192, 0, 2, 33, 0xca, 0x6c) }
const INNER: Uint8Array = Uint8Array.of(0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2)

function pair(provider: CryptoProvider, initiatorKey: string, responderKey: string, psk: string): [Actor, Actor] {
  const initiator = new Actor(provider, initiatorKey)
  const responder = new Actor(provider, responderKey)
  const presharedKey = hex(psk)
  initiator.device.setPeer(instant(0), { publicKey: responder.key.publicKey(), presharedKey, path: FROM })
  responder.device.setPeer(instant(0), { publicKey: initiator.key.publicKey(), presharedKey, path: FROM })
  return [initiator, responder]
}

// A cookie arrives as the answer to an earlier initiation; the next message uses it.
function giveCookie(provider: CryptoProvider, actor: Actor, peer: Actor, cookie: string): void {
  actor.script(u32(77))
  const [first] = sent(actor.feed(1_000, { type: 'packet', peer: peer.key.publicKey(), bytes: INNER }))
  if (first === undefined) throw new Error('no initiation was sent')
  const nonce = new Uint8Array(24).fill(5)
  const key = provider.hash(new TextEncoder().encode('cookie--'), peer.key.publicKey().bytes)
  const sealed = provider.xaeadSeal(key, nonce, hex(cookie), first.subarray(116, 132))
  actor.feed(1_000, { type: 'datagram', from: FROM, bytes: concatBytes(Uint8Array.of(3, 0, 0, 0), first.subarray(4, 8), nonce, sealed) })
}

function runHandshake(provider: CryptoProvider, c: Handshake): CaseResult[] {
  const [initiator, responder] = pair(provider, c.initiator.static_private, c.responder.static_private, c.psk)
  if (c.cookie_for_initiation !== null) giveCookie(provider, initiator, responder, c.cookie_for_initiation)
  if (c.cookie_for_response !== null) giveCookie(provider, responder, initiator, c.cookie_for_response)
  initiator.wall = wallOf(c.initiator.timestamp.unix_sec, c.initiator.timestamp.nsec)
  initiator.script(hex(c.initiator.ephemeral_private), u32(c.initiator.index))
  responder.script(hex(c.responder.ephemeral_private), u32(c.responder.index))
  const now = 10_000
  const [initiation] = sent(initiator.feed(now, { type: 'packet', peer: responder.key.publicKey(), bytes: INNER }))
  if (initiation === undefined && c.cookie_for_initiation !== null) initiator.device.handleTimeout(instant(now))
  const made = initiation ?? sent(initiator.drain())[0]
  const [response] = sent(responder.feed(now, { type: 'datagram', bytes: hex(c.initiation), from: FROM }))
  const answered = initiator.feed(now, { type: 'datagram', bytes: hex(c.response), from: FROM })
  return [
    check('handshakes', `${c.name}/initiation`, made && formatHex(made), c.initiation),
    check('handshakes', `${c.name}/response`, response && formatHex(response), c.response),
    check('handshakes', `${c.name}/established`, answered.some((output) => output.type === 'established'), true),
    ...c.transport.flatMap((_, i) => sealing(provider, c, i)),
    ...opening(c, 'i2r', responder, initiator, now),
    ...opening(c, 'r2i', initiator, responder, now),
  ]
}

// Sending: the same steps as the device takes, since no device can be brought to send message number 2^60.
function sealing(provider: CryptoProvider, c: Handshake, index: number): CaseResult[] {
  const packet = c.transport[index]
  if (packet === undefined) return []
  const key = packet.dir === 'i2r' ? c.session.initiator_send_key : c.session.initiator_recv_key
  const inner = hex(packet.inner)
  const plaintext = new Uint8Array(paddedLength(inner.length, packet.mtu))
  plaintext.set(inner)
  const batch = PacketBatch.slab(1, plaintext.length + 32)
  batch.addCopy(plaintext)
  provider.sealBatch(provider.keySlot(hex(key)), BigInt(packet.counter), batch)
  const target = (batch.target[0] ?? 0) - 16
  const receiver = packet.dir === 'i2r' ? c.responder.index : c.initiator.index
  writeTransportHeader(batch.view, target, receiver, batch.counterLow[0] ?? 0, batch.counterHigh[0] ?? 0)
  const datagram = batch.memory.subarray(target, target + 16 + (batch.targetLength[0] ?? 0))
  return [check('transport', `${c.name}/seal/${packet.dir}/${packet.counter}/${index}`, formatHex(datagram), packet.packet)]
}

// Receiving: through the device, in the order of the counters, since the window would rightly refuse old ones.
function opening(c: Handshake, dir: 'i2r' | 'r2i', receiver: Actor, sender: Actor, now: number): CaseResult[] {
  const packets = c.transport.filter((packet) => packet.dir === dir)
  const ordered = packets.toSorted((a, b) => (BigInt(a.counter) < BigInt(b.counter) ? -1 : 1))
  return ordered.map((packet) => {
    const countBefore = receiver.device.peerStatus(instant(now), sender.key.publicKey())?.receivedPackets ?? 0
    const outputs = receiver.feed(now, { type: 'datagram', bytes: hex(packet.packet), from: FROM })
    const countAfter = receiver.device.peerStatus(instant(now), sender.key.publicKey())?.receivedPackets ?? 0
    const delivered = outputs.flatMap((output) => (output.type === 'packet' ? [formatHex(output.bytes)] : []))
    const expected = packet.inner.length >= 40 ? [packet.inner] : [] // shorter ones are no IP packets: authentic, but not delivered
    return check('transport', `${c.name}/open/${dir}/${packet.counter}`, [countAfter - countBefore, delivered], [1, expected])
  })
}

function runCookie(provider: CryptoProvider, c: Cookie): CaseResult[] {
  const responder = new Actor(provider, c.responder_static_private, true)
  const initiator = new Actor(provider, c.initiator_static_private)
  const from: WireGuardPath = { id: 'source', cookieBytes: hex(c.cookie_mac_input) }
  responder.device.setPeer(instant(0), { publicKey: initiator.key.publicKey(), path: from })
  initiator.device.setPeer(instant(0), { publicKey: responder.key.publicKey(), path: FROM })
  responder.script(hex(c.cookie_secret), hex(c.nonce))
  const [reply] = sent(responder.feed(1_000, { type: 'datagram', bytes: hex(c.first_initiation), from }))
  const opened = provider.xaeadOpen(hex(c.cookie_encryption_key), hex(c.nonce), hex(c.cookie_reply).subarray(32), hex(c.first_initiation).subarray(116, 132))
  const accepted = sent(responder.feed(6_000, { type: 'datagram', bytes: hex(c.second_initiation_with_mac2), from }))
  giveCookie(provider, initiator, responder, c.cookie)
  const stamp = new DataView(hex(c.second_initiation_timestamp).buffer)
  initiator.wall = wallOf(Number(stamp.getBigUint64(0) & 0xffff_ffffn) - 10, stamp.getUint32(8))
  initiator.script(hex(c.second_initiation_ephemeral_private), u32(c.second_initiation_index))
  initiator.device.handleTimeout(instant(10_000))
  return [
    check('cookies', `${c.name}/reply`, reply && formatHex(reply), c.cookie_reply),
    check('cookies', `${c.name}/cookie`, opened && formatHex(opened), c.cookie),
    check('cookies', `${c.name}/accepted`, accepted.map((bytes) => bytes[0]), [2]),
    check('cookies', `${c.name}/second-initiation`, sent(initiator.drain()).map(formatHex), [c.second_initiation_with_mac2]),
  ]
}

function negative(provider: CryptoProvider, c: Vectors['negative_initiations'][number]): CaseResult {
  const responder = new Actor(provider, c.responder_static_private)
  const publicKey = NodePublicKey.fromBytes(hex(c.initiator_static_public))
  if (publicKey !== undefined) responder.device.setPeer(instant(0), { publicKey, path: FROM })
  const outputs = responder.feed(1_000, { type: 'datagram', bytes: hex(c.packet), from: { ...FROM, id: 'elsewhere' } })
  const path = publicKey && responder.device.pathOf(publicKey)?.id
  return check('negative_initiations', c.name, [outputs.length, path, responder.device.pollTimeout()], [0, 'test', undefined])
}

// A low-order point gives no shared secret, and a peer with such a key is never answered or called.
function lowOrder(provider: CryptoProvider, point: string, index: number): CaseResult[] {
  const actor = new Actor(provider, 'a0037480576f53b132f82da09de8dc149269980997001c32368b7f8e3eabe455')
  const publicKey = NodePublicKey.fromBytes(hex(point))
  if (publicKey === undefined) return [check('low_order_points', index, 'no key', 'a key')]
  actor.device.setPeer(instant(0), { publicKey, path: FROM })
  const outputs = actor.feed(1_000, { type: 'packet', peer: publicKey, bytes: INNER })
  return [check('low_order_points', index, [outputs.length, actor.device.status(instant(0)).drops.get('unusable-key')], [0, 1])]
}

function replay(sequence: Vectors['replay_window']['sequences'][number]): CaseResult[] {
  const window = new ReplayWindow()
  return sequence.steps.map(([counter, accepted], i) => {
    const n = BigInt(counter)
    // The limit is the device's to check, before it spends anything on the packet.
    const taken = n < REJECT_AFTER_MESSAGES && window.accept(Number(n & 0xffff_ffffn), Number(n >> 32n))
    return check('replay_window', `${sequence.name}#${i}`, taken, accepted)
  })
}

function sent(outputs: readonly WireGuardOutput[]): Uint8Array[] {
  return outputs.flatMap((output) => (output.type === 'transmit' && output.kind !== 'transport' ? [output.bytes] : []))
}

function check(group: string, id: string | number, actual: unknown, expected: unknown): CaseResult {
  const [got, wanted] = [JSON.stringify(actual), JSON.stringify(expected)]
  const passed = got === wanted
  return { group, id: `${group}/${id}`, passed, ...(passed ? {} : { detail: `got ${got?.slice(0, 300)}, wanted ${wanted?.slice(0, 300)}` }) }
}

function hex(text: string): Uint8Array {
  const bytes = parseHex(text)
  if (bytes === undefined) throw new UnknownForm(text, 'hexadecimal')
  return bytes
}

function secret(text: string): NodePrivateKey {
  const key = NodePrivateKey.fromBytes(hex(text))
  if (key === undefined) throw new UnknownForm(text, 'a private key of 32 bytes')
  return key
}

// A double holds such milliseconds to a quarter of a microsecond, so the time is moved from the edge of its slot to well inside it.
function wallOf(seconds: number, nanoseconds: number): number {
  return seconds * 1000 + (Math.floor(nanoseconds / 2 ** 24) * 2 ** 24 + 500_000) / 1e6
}

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setUint32(0, value, true)
  return bytes
}

async function readVectors(location: string): Promise<Vectors> {
  let data: unknown
  try {
    data = JSON.parse(await readFile(location, 'utf8'))
  } catch (error) {
    throw new UnknownForm(location, `JSON (${error instanceof Error ? error.message : String(error)})`)
  }
  if (!isVectors(data)) throw new UnknownForm(location, 'an object with "kdf", "handshakes", "replay_window" and the other groups')
  return data
}

function isVectors(data: unknown): data is Vectors {
  const groups = ['kdf', 'mac', 'tai64n', 'padding', 'low_order_points', 'handshakes', 'cookies', 'negative_initiations', 'replay_window']
  return typeof data === 'object' && data !== null && groups.every((group) => group in data)
}
