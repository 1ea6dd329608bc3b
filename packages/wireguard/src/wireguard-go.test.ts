import { after, type Instant, instant, Outbox } from '@meshwright/core'
import { clampX25519, NodePrivateKey, type NodePublicKey, nobleProvider } from '@meshwright/crypto'
import type { SeededRandom, VirtualClock } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { CookieJar } from './cookie.ts'
import { createInitiation, createResponse, type InitiationSecrets, openInitiationStatic, openInitiationTimestamp, openResponse, type SessionKeys } from './handshake.ts'
import { Identity, mac1KeyOf } from './identity.ts'
import { Link, ipv4, path } from './link.test.ts'
import { decodeMessage, writeTransportHeader } from './messages.ts'
import { encodeTimestamp, isLaterTimestamp, slotOfWall } from './tai64n.ts'

interface Keypair {
  readonly keys: SessionKeys
  readonly localIndex: number
  readonly remoteIndex: number
  readonly initiator: boolean
  readonly created: number
  sent: number
  readonly seen: Set<number>
}

const NEVER = Infinity
const PSK = new Uint8Array(32)

/**
 * A peer that behaves as wireguard-go does (device/{send,receive,timers,noise-protocol}.go, also Tailscale's fork of July 2026), with one
 * peer of its own. Only what decides when sessions come and go is modelled: one handshake slot for both roles; nothing is sent within 5
 * seconds of the last handshake message and no timer remembers that; 15 seconds of silence after data before a new handshake.
 */
export class WireGuardGo {
  readonly key: NodePrivateKey
  readonly outbox: Outbox<Uint8Array> = new Outbox()
  readonly delivered: { readonly at: number; readonly bytes: Uint8Array }[] = []
  readonly #random: SeededRandom
  readonly #clock: VirtualClock
  readonly #identity: Identity
  readonly #peer: NodePublicKey
  readonly #staticStatic: Uint8Array
  #jar = new CookieJar()
  #slot: { readonly localIndex: number; readonly secrets: InitiationSecrets } | undefined
  #lastTimestamp: Uint8Array | undefined
  #lastInitiation = -NEVER
  #lastSentHandshake = -NEVER
  #attempts = 0
  #previous: Keypair | undefined
  #current: Keypair | undefined
  #next: Keypair | undefined
  #staged: Uint8Array[] = []
  #retransmit = NEVER
  #passive = NEVER
  #newHandshake = NEVER

  constructor(key: NodePrivateKey, peer: NodePublicKey, random: SeededRandom, clock: VirtualClock) {
    this.key = key
    this.#peer = peer
    this.#random = random
    this.#clock = clock
    this.#identity = new Identity(nobleProvider, key)
    const shared = this.#identity.sharedSecret(nobleProvider, peer.bytes)
    if (shared === undefined) throw new Error('an unusable key')
    this.#staticStatic = shared
  }

  /** RemovePeer, and the peer made anew when it is next needed. */
  forget(): void {
    this.#jar = new CookieJar()
    this.#slot = this.#lastTimestamp = this.#previous = this.#current = this.#next = undefined
    this.#lastInitiation = this.#lastSentHandshake = -NEVER
    this.#retransmit = this.#passive = this.#newHandshake = NEVER
    this.#attempts = 0
    this.#staged = []
  }

  pollTimeout(): Instant | undefined {
    const due = Math.min(this.#retransmit, this.#passive, this.#newHandshake)
    return due === NEVER ? undefined : instant(due)
  }

  handleTimeout(now: Instant): void {
    if (this.#retransmit <= now) {
      this.#retransmit = NEVER
      if (this.#attempts > 18) this.#staged = []
      else {
        this.#attempts += 1
        this.#initiate(now, true)
      }
    }
    if (this.#passive <= now) {
      this.#passive = NEVER
      this.#keepalive(now)
    }
    if (this.#newHandshake <= now) {
      this.#newHandshake = NEVER
      this.#initiate(now, false)
    }
  }

  send(now: Instant, packet: Uint8Array): void {
    this.#staged.push(packet)
    if (this.#staged.length > 128) this.#staged.shift()
    this.#flush(now)
  }

  receive(now: Instant, bytes: Uint8Array): void {
    const message = decodeMessage(bytes)
    switch (message?.type) {
      case 1: {
        const opened = openInitiationStatic(nobleProvider, this.#identity, message)
        const timed = opened && openInitiationTimestamp(opened.transcript, this.#staticStatic, message)
        if (timed === undefined || (this.#lastTimestamp !== undefined && !isLaterTimestamp(timed.timestamp, this.#lastTimestamp)) || now - this.#lastInitiation < 20) return
        this.#lastTimestamp = timed.timestamp
        this.#lastInitiation = now
        this.#newHandshake = NEVER
        this.#lastSentHandshake = now
        this.#slot = undefined
        const localIndex = this.#random.u32()
        const made = createResponse(nobleProvider, timed.transcript, message, this.#peer.bytes, PSK, clampX25519(this.#random.bytes(32)), localIndex)
        if (made === undefined) return
        this.#next = { keys: made.keys, localIndex, remoteIndex: message.sender, initiator: false, created: now, sent: 0, seen: new Set() }
        this.#previous = undefined
        this.#passive = NEVER
        return this.#transmit(now, made.message)
      }
      case 2: {
        const slot = this.#slot
        const keys = slot?.localIndex === message.receiver ? openResponse(nobleProvider, this.#identity, slot.secrets, PSK, message) : undefined
        if (slot === undefined || keys === undefined) return
        this.#slot = undefined
        this.#newHandshake = this.#retransmit = NEVER
        this.#attempts = 0
        if (this.#next === undefined) this.#previous = this.#current
        else {
          this.#previous = this.#next
          this.#next = undefined
        }
        this.#current = { keys, localIndex: slot.localIndex, remoteIndex: message.sender, initiator: true, created: now, sent: 0, seen: new Set() }
        return this.#keepalive(now)
      }
      case 4: {
        const keypair = [this.#current, this.#previous, this.#next].find((each) => each?.localIndex === message.receiver)
        if (keypair === undefined || now - keypair.created > 180_000 || keypair.seen.has(message.counterLow)) return
        const packet = nobleProvider.aeadOpen(keypair.keys.receive, nonce(message.counterLow), message.sealed)
        if (packet === undefined) return
        keypair.seen.add(message.counterLow)
        if (keypair === this.#next) {
          this.#previous = this.#current
          this.#current = keypair
          this.#next = undefined
          this.#retransmit = NEVER
          this.#attempts = 0
          this.#flush(now)
        }
        this.#newHandshake = NEVER
        if (packet.length === 0) return
        if (this.#passive === NEVER) this.#passive = now + 10_000
        this.delivered.push({ at: now, bytes: packet })
        return
      }
      default:
    }
  }

  #keepalive(now: Instant): void {
    if (this.#staged.length === 0) this.#staged.push(new Uint8Array(0))
    this.#flush(now)
  }

  #flush(now: Instant): void {
    while (this.#staged.length > 0) {
      const keypair = this.#current
      if (keypair === undefined || now - keypair.created >= 180_000) return this.#initiate(now, false)
      const packet = this.#staged.shift() ?? new Uint8Array(0)
      const padded = new Uint8Array(Math.ceil(packet.length / 16) * 16)
      padded.set(packet)
      const sealed = nobleProvider.aeadSeal(keypair.keys.send, nonce(keypair.sent), padded)
      const bytes = new Uint8Array(16 + sealed.length)
      writeTransportHeader(new DataView(bytes.buffer), 0, keypair.remoteIndex, keypair.sent, 0)
      bytes.set(sealed, 16)
      keypair.sent += 1
      this.#passive = NEVER
      if (packet.length > 0 && this.#newHandshake === NEVER) this.#newHandshake = now + 15_000 + this.#random.below(334)
      this.outbox.push(bytes)
      if (keypair.initiator && now - keypair.created > 120_000) this.#initiate(now, false)
    }
  }

  #initiate(now: Instant, retry: boolean): void {
    if (!retry) this.#attempts = 0
    if (now - this.#lastSentHandshake < 5_000) return
    this.#lastSentHandshake = now
    const localIndex = this.#random.u32()
    const timestamp = encodeTimestamp(slotOfWall(this.#clock.wallClock()))
    const made = createInitiation(nobleProvider, this.#identity, this.#peer.bytes, this.#staticStatic, clampX25519(this.#random.bytes(32)), localIndex, timestamp)
    if (made === undefined) return
    this.#slot = { localIndex, secrets: made.secrets }
    this.#passive = NEVER
    this.#transmit(now, made.message)
    this.#retransmit = now + 5_000 + this.#random.below(334)
  }

  #transmit(now: Instant, message: Uint8Array): void {
    this.#jar.stamp(now, nobleProvider, mac1KeyOf(nobleProvider, this.#peer.bytes), message)
    this.outbox.push(message)
  }
}

function nonce(counter: number): Uint8Array {
  const bytes = new Uint8Array(12)
  new DataView(bytes.buffer).setUint32(4, counter, true)
  return bytes
}

/** Our device and a {@link WireGuardGo}, which can be made to forget and to know each other again, as a network map does it. */
class Meeting {
  readonly link: Link // only its clock, its keys and our device `a` are used
  readonly go: WireGuardGo
  readonly delivered: { readonly at: number; readonly by: 'us' | 'go'; readonly mark: number }[] = []
  delayMs: () => number = () => 1
  loses: () => boolean = () => false
  weKnow = true
  theyKnow = true
  /** Whether the path names the peer, as a relay does. */
  readonly #names: boolean
  #early: { readonly at: number; readonly bytes: Uint8Array } | undefined
  #flying: { readonly at: number; readonly by: 'us' | 'go'; readonly bytes: Uint8Array }[] = []
  #actions: { readonly at: number; readonly run: () => void }[] = []

  constructor(seed: number, names: boolean) {
    this.#names = names
    this.link = new Link(seed, { a: { roaming: false } })
    this.go = new WireGuardGo(this.link.b.key, this.link.a.id, this.link.random, this.link.clock)
  }

  get now(): Instant {
    return this.link.now
  }

  at(ms: number, run: () => void): void {
    this.#actions.push({ at: ms, run })
  }

  theyForget(): void {
    this.theyKnow = false
    this.go.forget()
  }

  weForget(): void {
    this.weKnow = false
    this.link.a.device.removePeer(this.now, this.go.key.publicKey())
  }

  /** The map names the peer again: what it said within the last 5 seconds is heard now (packages/mesh/src/early-handshakes.ts). */
  weLearn(): void {
    this.weKnow = true
    this.link.a.device.setPeer(this.now, { publicKey: this.go.key.publicKey() })
    if (this.#early !== undefined && this.now - this.#early.at <= 5_000) this.#hear(this.#early.bytes)
    this.#early = undefined
  }

  weSend(mark: number): void {
    if (this.weKnow) this.link.a.device.handleInput(this.now, { type: 'packet', peer: this.go.key.publicKey(), bytes: ipv4(21, mark) })
  }

  theySend(mark: number): void {
    if (this.theyKnow) this.go.send(this.now, ipv4(21, mark))
  }

  run(until: number): void {
    for (;;) {
      this.#drain()
      const next = Math.min(this.link.a.device.pollTimeout() ?? NEVER, this.go.pollTimeout() ?? NEVER, ...this.#flying.map((each) => each.at), ...this.#actions.map((each) => each.at))
      if (next > until) break
      if (next > this.now) this.link.clock.advanceTo(instant(next))
      const action = this.#actions.findIndex((each) => each.at <= this.now)
      if (action >= 0) {
        this.#actions.splice(action, 1)[0]?.run()
        continue
      }
      const arrived = this.#flying.findIndex((each) => each.at <= this.now)
      if (arrived >= 0) {
        const [datagram] = this.#flying.splice(arrived, 1)
        if (datagram?.by === 'us') {
          if (this.theyKnow) this.go.receive(this.now, datagram.bytes)
        } else if (datagram !== undefined) this.#hear(datagram.bytes)
        continue
      }
      this.link.a.device.handleTimeout(this.now)
      this.go.handleTimeout(this.now)
    }
    this.link.clock.advanceTo(instant(until))
  }

  #hear(bytes: Uint8Array): void {
    if (!this.weKnow) {
      if (bytes[0] === 1) this.#early = { at: this.now, bytes }
      return
    }
    const from = { ...path('relay'), ...(this.#names && { peer: this.go.key.publicKey() }) }
    this.link.a.device.handleInput(this.now, { type: 'datagram', bytes, from })
  }

  #drain(): void {
    const device = this.link.a.device
    for (let output = device.pollOutput(); output !== undefined; output = device.pollOutput()) {
      if (output.type === 'packet') this.delivered.push({ at: this.now, by: 'us', mark: output.bytes[20] ?? 0 })
      if (output.type === 'transmit') this.#fly('us', output.bytes)
    }
    for (let bytes = this.go.outbox.poll(); bytes !== undefined; bytes = this.go.outbox.poll()) this.#fly('go', bytes)
    for (const { at, bytes } of this.go.delivered.splice(0)) this.delivered.push({ at, by: 'go', mark: bytes[20] ?? 0 })
  }

  #fly(by: 'us' | 'go', bytes: Uint8Array): void {
    if (!this.loses()) this.#flying.push({ at: after(this.now, this.delayMs()), by, bytes })
  }
}

type Who = 'both' | 'we' | 'they'

/** Some talk, then those who forget do so, then they know each other again; gives the time from there until data came both ways. */
function meetAgain(seed: number, names: boolean, forgets: Who, talks: Who): number {
  const meeting = new Meeting(seed, names)
  const random = meeting.link.random
  meeting.delayMs = () => 0.2 + random.below(20)
  const talk = (from: number, to: number, mark: number, who: Who): void => {
    for (let at = from + random.below(400); at < to; at += 400 + random.below(150)) if (who !== 'they') meeting.at(at, () => meeting.weSend(mark))
    for (let at = from + random.below(400); at < to; at += 400 + random.below(150)) if (who !== 'we') meeting.at(at, () => meeting.theySend(mark))
  }
  const hide = meeting.now + 500 + random.below(2_500)
  const shown = hide + 1_000 + random.below(6_000)
  const [ours, theirs] = [shown + random.below(1_000), shown + random.below(1_000)]
  talk(meeting.now, hide, 1, 'both')
  if (forgets !== 'they') {
    meeting.at(hide + random.below(1_000), () => meeting.weForget())
    meeting.at(ours, () => meeting.weLearn())
  }
  if (forgets !== 'we') {
    meeting.at(hide + random.below(1_000), () => meeting.theyForget())
    meeting.at(theirs, () => (meeting.theyKnow = true))
  }
  talk(shown, shown + 20_000, 2, talks)
  meeting.run(shown + 20_000)
  const known = Math.max(forgets === 'they' ? 0 : ours, forgets === 'we' ? 0 : theirs)
  const first = (by: 'us' | 'go'): number => meeting.delivered.find((each) => each.mark === 2 && each.by === by && each.at >= known)?.at ?? NEVER
  return Math.max(talks === 'they' ? 0 : first('go'), talks === 'we' ? 0 : first('us')) - known
}

const SEEDS = [1, 2, 3, 4]

test('wireguard-go and we, both made to forget and to know each other again at different moments, talk again within a second', () => {
  for (const seed of SEEDS) for (const talks of ['both', 'they'] as const) expect(meetAgain(seed, false, 'both', talks)).toBeLessThan(1_000)
})

test('who has forgotten all calls a peer at once that goes on in the old session, if the caller names it; else the peer notices by itself after 15 s', () => {
  for (const seed of SEEDS) {
    expect(meetAgain(seed, true, 'we', 'they')).toBeLessThan(1_000)
    expect(meetAgain(seed, false, 'we', 'they')).toBeGreaterThan(10_000)
  }
})

test('a peer that has forgotten all is noticed after 15 s of silence', () => {
  for (const seed of SEEDS) expect(meetAgain(seed, true, 'they', 'we')).toBeLessThan(15_400)
})

test('both begin at once, over a network that loses a fifth: one slot for both roles and two slots come to a session', () => {
  for (let seed = 1; seed <= 8; seed += 1) {
    const meeting = new Meeting(seed, false)
    const random = meeting.link.random
    meeting.delayMs = () => 1 + random.below(40)
    if (seed > 4) meeting.loses = () => random.chance(0.2)
    const start: number = meeting.now
    for (let at = start; at < start + 20_000; at += 200) meeting.at(at, () => [meeting.weSend(1), meeting.theySend(1)])
    meeting.run(start + 20_000)
    const last = (by: 'us' | 'go'): number => meeting.delivered.findLast((each) => each.by === by)?.at ?? 0
    const first = (by: 'us' | 'go'): number => meeting.delivered.find((each) => each.by === by)?.at ?? NEVER
    if (seed <= 4) expect(Math.max(first('us'), first('go')) - start).toBeLessThan(200)
    expect(Math.min(last('us'), last('go'))).toBeGreaterThan(start + 18_000)
  }
})

test('stray packets of named peers cause few handshakes, none where there is a session, and none under load', () => {
  const link = new Link(21)
  const { a } = link
  const stray = Uint8Array.from({ length: 32 }, (_, i) => [4, 0, 0, 0, 9, 9, 9, 9][i] ?? 0)
  const feed = (peer: NodePublicKey, times: number): number => {
    const before = a.times(1).length
    for (let i = 0; i < times; i += 1) link.inject(a, stray, { ...path('relay'), peer })
    return a.times(1).length - before
  }
  const strangers = Array.from({ length: 60 }, () => NodePrivateKey.generate(link.random.bytes).publicKey())
  expect(feed(strangers[0] ?? link.a.id, 5), 'a peer that is not configured').toBe(0)
  for (const publicKey of strangers) a.device.setPeer(link.now, { publicKey, path: path('far', 77) })
  a.load.on = true
  expect(feed(link.b.id, 5)).toBe(0)
  a.load.on = false
  expect(feed(link.b.id, 5)).toBe(1)
  link.run(1_000)
  expect(a.eventTypes()).toEqual(['established'])
  expect(feed(link.b.id, 5)).toBe(0)
  expect(strangers.reduce((sum, publicKey) => sum + feed(publicKey, 3), 0), 'twenty at once, ten a second').toBeLessThanOrEqual(31)
  expect(a.device.status(link.now).drops.get('unknown-index')).toBe(5 + 5 + 5 + 5 + 180)
})
