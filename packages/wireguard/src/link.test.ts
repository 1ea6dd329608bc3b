import { after, type Instant } from '@meshwright/core'
import { NodePrivateKey, type NodePublicKey } from '@meshwright/crypto'
import { drain, SeededRandom, VirtualClock } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { type LoadMonitor, WireGuardDevice, type WireGuardDeviceOptions, type WireGuardOutput, type WireGuardPath } from './index.ts'

/** A whole IPv4 packet of `length` bytes whose last byte is `mark`. */
export function ipv4(length: number = 21, mark: number = 7): Uint8Array {
  const packet = new Uint8Array(length)
  packet.set([0x45, 0, length >> 8, length & 255, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2])
  if (length > 20) packet[length - 1] = mark
  return packet
}

/** A path by an IPv4 address ending in `host`, and a port. */
export function path(id: string, host: number = 1, port: number = 51820): WireGuardPath {
  return { id, cookieBytes: Uint8Array.of(192, 0, 2, host, port >> 8, port & 255) }
}

/** A load monitor that tests switch. */
export class ForcedLoad implements LoadMonitor {
  on = false
  handshakeArrived(): boolean {
    return this.on
  }
  worked(): void {
    return undefined
  }
  isUnderLoad(): boolean {
    return this.on
  }
}

export interface Seen {
  readonly at: number
  readonly bytes: Uint8Array
}

type Event = Exclude<WireGuardOutput, { type: 'transmit' | 'packet' }>

/** One device on a {@link Link}, with all that it sent, delivered and reported. */
export class Node {
  readonly name: string
  readonly key: NodePrivateKey
  readonly device: WireGuardDevice
  readonly load: ForcedLoad = new ForcedLoad()
  readonly sent: Seen[] = []
  readonly delivered: { readonly at: number; readonly from: NodePublicKey; readonly bytes: Uint8Array }[] = []
  readonly events: (Event & { readonly at: number })[] = []
  path: WireGuardPath

  constructor(name: string, host: number, random: SeededRandom, clock: VirtualClock, options: Partial<WireGuardDeviceOptions>) {
    this.name = name
    this.path = path(name, host)
    this.key = NodePrivateKey.generate(random.bytes)
    this.device = new WireGuardDevice({ random: random.bytes, wallClock: clock.wallClock, privateKey: this.key, loadMonitor: this.load, ...options })
  }

  get id(): NodePublicKey {
    return this.key.publicKey()
  }

  /** Times of sent messages of one type, 1 to 4. */
  times(type: number): number[] {
    return this.sent.filter((each) => each.bytes[0] === type).map((each) => each.at)
  }

  /** Datagrams of one type. */
  ofType(type: number): Uint8Array[] {
    return this.sent.filter((each) => each.bytes[0] === type).map((each) => each.bytes)
  }

  eventTypes(): string[] {
    return this.events.map((event) => event.type)
  }
}

/** Two devices that know each other, and a network between them in virtual time, with whatever delay, loss and change a test wants. */
export class Link {
  readonly clock: VirtualClock = new VirtualClock(1_000)
  readonly random: SeededRandom
  readonly a: Node
  readonly b: Node
  delayMs: (from: Node) => number = () => 1
  /** What becomes of a datagram: as many copies as it gives, none for lost. */
  wire: (from: Node, bytes: Uint8Array) => readonly Uint8Array[] = (_from, bytes) => [bytes]
  readonly #flying: { readonly at: Instant; readonly order: number; readonly to: Node; readonly from: WireGuardPath; readonly bytes: Uint8Array }[] = []
  #order = 0

  constructor(seed: number = 1, options: { both?: Partial<WireGuardDeviceOptions>; a?: Partial<WireGuardDeviceOptions>; b?: Partial<WireGuardDeviceOptions>; psk?: Uint8Array } = {}) {
    this.random = new SeededRandom(seed)
    this.a = new Node('a', 1, this.random, this.clock, { ...options.both, ...options.a })
    this.b = new Node('b', 2, this.random, this.clock, { ...options.both, ...options.b })
    const presharedKey = options.psk === undefined ? {} : { presharedKey: options.psk }
    this.a.device.setPeer(this.now, { publicKey: this.b.id, path: this.b.path, ...presharedKey })
    this.b.device.setPeer(this.now, { publicKey: this.a.id, path: this.a.path, ...presharedKey })
  }

  get now(): Instant {
    return this.clock.now
  }

  /** Gives a packet to a device for the other one. */
  send(from: Node, bytes: Uint8Array = ipv4()): void {
    from.device.handleInput(this.now, { type: 'packet', peer: this.other(from).id, bytes })
    this.collect()
  }

  /** A datagram arrives at a device at once. */
  inject(to: Node, bytes: Uint8Array, from: WireGuardPath = this.other(to).path): void {
    to.device.handleInput(this.now, { type: 'datagram', bytes, from })
    this.collect()
  }

  other(node: Node): Node {
    return node === this.a ? this.b : this.a
  }

  /** Lets time pass and all that is due happen, in order. */
  run(ms: number): void {
    const until = after(this.now, ms)
    for (let steps = 0; ; steps += 1) {
      if (steps > 200_000) throw new Error('the link does not come to rest')
      this.collect()
      const deadlines = [this.a.device.pollTimeout(), this.b.device.pollTimeout(), this.#flying[0]?.at]
      const next = deadlines.reduce((least, each) => (each === undefined || (least !== undefined && least <= each) ? least : each), undefined)
      if (next === undefined || next > until) break
      this.clock.advanceTo(next)
      const arrived = this.#flying[0]
      if (arrived !== undefined && arrived.at <= this.now) {
        this.#flying.shift()
        arrived.to.device.handleInput(this.now, { type: 'datagram', bytes: arrived.bytes, from: arrived.from })
      } else {
        for (const node of [this.a, this.b]) {
          const due = node.device.pollTimeout()
          if (due !== undefined && due <= this.now) node.device.handleTimeout(this.now)
        }
      }
    }
    this.clock.advanceTo(until)
  }

  /** A session with `a` as its initiator, and nothing in flight. */
  establish(): void {
    this.send(this.a)
    this.run(100)
    expect(this.a.eventTypes()).toContain('established')
    expect(this.b.eventTypes()).toContain('established')
  }

  collect(): void {
    for (const node of [this.a, this.b]) for (const output of drain(node.device)) this.#take(node, output)
  }

  #take(node: Node, output: WireGuardOutput): void {
    if (output.type === 'packet') {
      node.delivered.push({ at: this.now, from: output.peer, bytes: output.bytes })
    } else if (output.type !== 'transmit') {
      node.events.push({ ...output, at: this.now })
    } else {
      node.sent.push({ at: this.now, bytes: output.bytes })
      const to = output.to === undefined ? this.other(node) : [this.a, this.b].find((each) => each.path.id === output.to?.id)
      if (to === undefined) return
      for (const bytes of this.wire(node, output.bytes)) {
        this.#flying.push({ at: after(this.now, this.delayMs(node)), order: this.#order++, to, from: node.path, bytes })
      }
      this.#flying.sort((x, y) => x.at - y.at || x.order - y.order)
    }
  }
}

test('a packet to a peer without session begins a handshake and comes out at the other end', () => {
  const link = new Link()
  link.send(link.a, ipv4(25, 9))
  link.run(10)
  expect(link.b.delivered.map((each) => each.bytes)).toEqual([ipv4(25, 9)])
  expect(link.b.delivered[0]?.from.equals(link.a.id)).toBe(true)
  expect(link.a.sent.map((each) => each.bytes.length)).toEqual([148, 64])
  expect(link.b.sent.map((each) => each.bytes.length)).toEqual([92])
})
