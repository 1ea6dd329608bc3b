import { after, type Instant } from '@meshwright/core'
import { type Endpoint, formatEndpoint, type Ip, parseIp, parsePrefix, type Prefix, prefixContains } from '@meshwright/ip'
import type { SeededRandom } from '../seeded-random.ts'
import type { VirtualClock } from '../virtual-clock.ts'
import { EventQueue } from './event-queue.ts'
import { Link, type LinkConfig } from './link.ts'
import { Nat, NAT_KINDS, type NatConfig, type NatKind } from './nat.ts'

/** A UDP datagram under way. */
export interface Datagram {
  readonly from: Endpoint
  readonly to: Endpoint
  readonly bytes: Uint8Array
}

/** Called for each datagram that reaches a socket; `bytes` are the receiver's to keep. */
export type DatagramReceiver = (now: Instant, datagram: Datagram) => void

/** Why the network lost a datagram. */
export type NetworkDrop = 'link' | 'nat-out' | 'nat-in' | 'no-route' | 'no-socket' | 'no-hairpin' | 'no-address'

/** Anything that acts in virtual time: the network, and wrappers that drain a machine themselves. */
export interface Actor {
  pollTimeout(): Instant | undefined
  handleTimeout(now: Instant): void
}

/**
 * An internet in virtual time: segments (the internet itself, and LANs behind boxes), hosts with UDP sockets, NAT boxes at any depth,
 * links with faults. Everything follows from the clock and the seed; equal runs have equal `transcript`s.
 */
export class VirtualNetwork implements Actor {
  readonly clock: VirtualClock
  readonly random: SeededRandom
  /** The segment in the middle, where public addresses are. */
  readonly internet: Segment
  /** How many datagrams were lost, by reason. */
  readonly drops: Map<NetworkDrop, number> = new Map()
  /** How many reached a socket. */
  delivered = 0
  readonly #events: EventQueue = new EventQueue()
  #hashLow = 0x811c9dc5
  #hashHigh = 0x01000193

  constructor(clock: VirtualClock, random: SeededRandom) {
    this.clock = clock
    this.random = random
    this.internet = new Segment(this, undefined, undefined)
  }

  /** A number that all deliveries so far (time, both endpoints, bytes) make up. */
  get transcript(): string {
    return this.#hashHigh.toString(16).padStart(8, '0') + this.#hashLow.toString(16).padStart(8, '0')
  }

  pollTimeout(): Instant | undefined {
    return this.#events.due
  }

  handleTimeout(now: Instant): void {
    for (let run = this.#events.take(now); run !== undefined; run = this.#events.take(now)) run(now)
  }

  /** Runs something at an instant, between the datagrams: faults, a relay's delay. */
  schedule(at: Instant, run: (now: Instant) => void): void {
    this.#events.schedule(at, run)
  }

  /** Runs the network and other actors until an instant: always the earliest deadline first. Fails on a busy loop. */
  runUntil(until: Instant, actors: readonly Actor[] = []): void {
    let stuck = 0
    for (;;) {
      let first: Actor = this
      for (const actor of actors) if ((actor.pollTimeout() ?? Infinity) < (first.pollTimeout() ?? Infinity)) first = actor
      const due = first.pollTimeout()
      if (due === undefined || due > until) break
      stuck = due <= this.clock.now ? stuck + 1 : 0
      if (stuck > 1_000_000) throw new Error(`busy loop: the deadline ${due} does not move past ${this.clock.now}`)
      this.clock.advanceTo(due)
      first.handleTimeout(this.clock.now)
    }
    this.clock.advanceTo(until)
  }

  /** As {@link VirtualNetwork.runUntil}, for `ms` from now. */
  runFor(ms: number, actors: readonly Actor[] = []): void {
    this.runUntil(after(this.clock.now, ms), actors)
  }

  /** Sends a datagram over a link: `then` runs at each arrival. For the parts of the network. */
  carry(link: Link, bytes: number, then: (now: Instant) => void): void {
    const arrivals = link.arrivals(this.clock.now, bytes)
    if (arrivals.length === 0) this.drop('link')
    for (const at of arrivals) this.#events.schedule(at, then)
  }

  drop(reason: NetworkDrop): void {
    this.drops.set(reason, (this.drops.get(reason) ?? 0) + 1)
  }

  /** Notes a delivery in the transcript. */
  note(now: Instant, datagram: Datagram): void {
    this.delivered += 1
    for (const text of [String(now), formatEndpoint(datagram.from), formatEndpoint(datagram.to)]) for (let i = 0; i < text.length; i += 1) this.#mix(text.charCodeAt(i))
    for (const byte of datagram.bytes) this.#mix(byte)
  }

  // Two lanes of FNV-1a.
  #mix(byte: number): void {
    this.#hashLow = Math.imul(this.#hashLow ^ byte, 0x01000193) >>> 0
    this.#hashHigh = Math.imul(this.#hashHigh ^ this.#hashLow, 0x01000193) >>> 0
  }
}

/** How a box is attached to the segment outside of it. */
export interface BoxConfig {
  /** Its kind by name, or in full. */
  readonly kind: NatKind | NatConfig
  /** Address on the outside; left out for a firewall, which does not translate. */
  readonly ip?: string
  /** Prefix of the inside: private for NATs, public for firewalls. */
  readonly lan: string
  readonly link?: LinkConfig
}

/** Hosts and boxes that reach each other without a router: the internet, or the inside of a box. */
export class Segment {
  readonly #network: VirtualNetwork
  /** The box that leads out; `undefined` for the internet. */
  readonly box: Box | undefined
  readonly #prefix: Prefix | undefined
  readonly #hosts: Map<string, Host> = new Map()
  readonly #boxes: Box[] = []

  constructor(network: VirtualNetwork, box: Box | undefined, prefix: Prefix | undefined) {
    this.#network = network
    this.box = box
    this.#prefix = prefix
  }

  /** Attaches a new host. */
  host(ip: string, link: LinkConfig = {}): Host {
    const host = new Host(this.#network, new Link(link, this.#network.random))
    host.join(this, ip)
    return host
  }

  /** Attaches a box; its `inside` is the segment behind it. */
  behind(config: BoxConfig): Box {
    const box = new Box(this.#network, this, config)
    this.#boxes.push(box)
    return box
  }

  /** Makes an address lead to a host; used by {@link Host.join}. */
  add(ip: Ip, host: Host): void {
    this.#hosts.set(ip.key, host)
  }

  remove(ip: Ip): void {
    this.#hosts.delete(ip.key)
  }

  /** Moves a datagram that is on this segment one step further. */
  route(now: Instant, datagram: Datagram): void {
    const host = this.#hosts.get(datagram.to.ip.key)
    if (host !== undefined) return this.#network.carry(host.link, datagram.bytes.length, (at) => host.deliver(at, datagram))
    const inner = this.#boxes.find((box) => box.owns(datagram.to.ip))
    if (inner !== undefined) return this.#network.carry(inner.link, datagram.bytes.length, (at) => inner.inbound(at, datagram))
    if (this.box === undefined || (this.#prefix !== undefined && prefixContains(this.#prefix, datagram.to.ip))) return this.#network.drop('no-route')
    this.box.outbound(now, datagram)
  }
}

/** A NAT box or firewall between two segments. */
export class Box {
  readonly nat: Nat
  readonly link: Link
  readonly inside: Segment
  readonly #network: VirtualNetwork
  readonly #outside: Segment
  readonly #prefix: Prefix

  constructor(network: VirtualNetwork, outside: Segment, config: BoxConfig) {
    const kind: NatConfig = typeof config.kind === 'string' ? NAT_KINDS[config.kind] : config.kind
    const prefix = parsePrefix(config.lan)
    const external = config.ip === undefined ? undefined : parseIp(config.ip)
    if (prefix === undefined || (kind.translates && external === undefined)) throw new RangeError(`box: bad lan '${config.lan}' or ip '${config.ip}'`)
    this.nat = new Nat(kind, external, network.random)
    this.link = new Link(config.link ?? {}, network.random)
    this.inside = new Segment(network, this, prefix)
    this.#network = network
    this.#outside = outside
    this.#prefix = prefix
  }

  /** True for addresses that the outside sends to this box. */
  owns(ip: Ip): boolean {
    return this.nat.config.translates ? (this.nat.external?.equals(ip) ?? false) : prefixContains(this.#prefix, ip)
  }

  outbound(now: Instant, datagram: Datagram): void {
    const from = this.nat.outbound(now, datagram.from, datagram.to)
    if (from === undefined) return this.#network.drop('nat-out')
    const translated = { ...datagram, from }
    if (!this.owns(datagram.to.ip)) return this.#network.carry(this.link, datagram.bytes.length, (at) => this.#outside.route(at, translated))
    if (!this.nat.config.hairpin) return this.#network.drop('no-hairpin')
    this.inbound(now, translated)
  }

  inbound(now: Instant, datagram: Datagram): void {
    const to = this.nat.inbound(now, datagram.from, datagram.to)
    if (to === undefined) return this.#network.drop('nat-in')
    this.inside.route(now, { ...datagram, to })
  }
}

/** A host: addresses on one or more segments, and UDP sockets by port. */
export class Host {
  readonly link: Link
  readonly #network: VirtualNetwork
  readonly #addresses: { readonly ip: Ip; readonly segment: Segment }[] = []
  readonly #sockets: Map<number, UdpSocket> = new Map()

  constructor(network: VirtualNetwork, link: Link) {
    this.#network = network
    this.link = link
  }

  /** Its addresses, in the order of joining. */
  get ips(): readonly Ip[] {
    return this.#addresses.map((address) => address.ip)
  }

  /** Gives it one more address, on this or another segment. */
  join(segment: Segment, ip: string): this {
    const address = parseIp(ip)
    if (address === undefined) throw new RangeError(`host: '${ip}' is no address`)
    this.#addresses.push({ ip: address, segment })
    segment.add(address, this)
    return this
  }

  /** Takes all its addresses away: it is moving to another network. */
  leave(): void {
    for (const { ip, segment } of this.#addresses.splice(0)) segment.remove(ip)
  }

  /** Opens a UDP socket on all its addresses; port 0 stands for a free one from 40000 on. */
  bind(port: number, receive: DatagramReceiver): UdpSocket {
    let chosen = port
    if (port === 0) for (chosen = 40_000; this.#sockets.has(chosen); ) chosen += 1
    if (this.#sockets.has(chosen)) throw new RangeError(`host: port ${chosen} is taken`)
    const socket = new UdpSocket(this, chosen, receive)
    this.#sockets.set(chosen, socket)
    return socket
  }

  close(port: number): void {
    this.#sockets.delete(port)
  }

  /** Sends from its first address of the right family. */
  send(port: number, to: Endpoint, bytes: Uint8Array): void {
    const address = this.#addresses.find(({ ip }) => ip.family === to.ip.family)
    if (address === undefined) return this.#network.drop('no-address')
    const datagram: Datagram = { from: { ip: address.ip, port }, to, bytes: Uint8Array.from(bytes) }
    this.#network.carry(this.link, bytes.length, (at) => address.segment.route(at, datagram))
  }

  deliver(now: Instant, datagram: Datagram): void {
    const socket = this.#sockets.get(datagram.to.port)
    if (socket === undefined || !this.#addresses.some(({ ip }) => ip.equals(datagram.to.ip))) return this.#network.drop('no-socket')
    this.#network.note(now, datagram)
    socket.receive(now, { ...datagram, bytes: Uint8Array.from(datagram.bytes) })
  }
}

/** A UDP socket on all addresses of a host. */
export class UdpSocket {
  readonly #host: Host
  readonly port: number
  readonly receive: DatagramReceiver

  constructor(host: Host, port: number, receive: DatagramReceiver) {
    this.#host = host
    this.port = port
    this.receive = receive
  }

  /** Its endpoints on the host's own addresses. */
  get endpoints(): readonly Endpoint[] {
    return this.#host.ips.map((ip) => ({ ip, port: this.port }))
  }

  /** Sends a copy of the bytes. */
  send(to: Endpoint, bytes: Uint8Array): void {
    this.#host.send(this.port, to, bytes)
  }

  close(): void {
    this.#host.close(this.port)
  }
}
