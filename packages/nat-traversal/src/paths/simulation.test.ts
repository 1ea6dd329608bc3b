import type { Instant } from '@meshwright/core'
import { DiscoPrivateKey, NodePrivateKey, type NodePublicKey } from '@meshwright/crypto'
import { type Endpoint, formatEndpoint, parseEndpoint } from '@meshwright/ip'
import { type Actor, type Box, type Host, NAT_KINDS, type NatKind, SeededRandom, type UdpSocket, VirtualClock, VirtualNetwork } from '@meshwright/testkit'
import { describe, expect, test } from 'vitest'
import { answerBinding, BindingTransaction, classifyDatagram } from '../index.ts'
import { PathFinder, type Path } from './index.ts'

const STUN_SERVER = endpoint('198.51.100.10:3478')
const REGION = 900
const RELAY_MS = 40
const WIREGUARD_PACKET = Uint8Array.of(4, ...new Uint8Array(47))

type Place = 'public' | NatKind | 'cgnat'

/** A node: one socket, a finder, a STUN lookup at the start, and traffic of one packet each 100 ms. */
class SimNode implements Actor {
  readonly finder: PathFinder
  readonly nodeKey: NodePublicKey
  readonly socket: UdpSocket
  readonly host: Host
  /** How data packets arrived. */
  readonly received: { at: Instant; via: 'direct' | 'relay' }[] = []
  peer: SimNode | undefined
  traffic = true
  #stun: BindingTransaction | undefined
  #nextPacket: Instant
  readonly #network: VirtualNetwork
  readonly #random: SeededRandom

  constructor(network: VirtualNetwork, host: Host, seed: number) {
    this.#network = network
    this.#random = new SeededRandom(seed)
    this.host = host
    this.nodeKey = NodePrivateKey.generate(this.#random.bytes).publicKey()
    this.finder = new PathFinder({ nodeKey: this.nodeKey, discoKey: DiscoPrivateKey.generate(this.#random.bytes), random: this.#random.bytes })
    this.socket = host.bind(41_641, (now, datagram) => this.#receive(now, datagram.bytes, datagram.from))
    this.#nextPacket = network.clock.now
    this.lookUp()
  }

  lookUp(): void {
    this.#stun = new BindingTransaction(this.#network.clock.now, { transactionId: this.#random.bytes(12) })
    this.#drain(this.#network.clock.now)
  }

  pollTimeout(): Instant | undefined {
    const times = [this.finder.pollTimeout(), this.#stun?.pollTimeout(), this.traffic && this.peer ? this.#nextPacket : undefined]
    const known = times.filter((at) => at !== undefined)
    return known.length === 0 ? undefined : known.reduce((a, b) => (a < b ? a : b))
  }

  handleTimeout(now: Instant): void {
    this.#stun?.handleTimeout(now)
    this.finder.handleTimeout(now)
    if (this.traffic && this.peer !== undefined && now >= this.#nextPacket) {
      this.#nextPacket = (now + 100) as Instant
      this.finder.noteTraffic(now, this.peer.nodeKey)
      this.#sendData(this.finder.pathFor(now, this.peer.nodeKey))
    }
    this.#drain(now)
  }

  relayed(now: Instant, bytes: Uint8Array, from: SimNode): void {
    if (classifyDatagram(bytes) === 'wireguard') this.#accept(now, 'relay')
    else this.finder.handleInput(now, { type: 'relayed', bytes, region: REGION, peer: from.nodeKey })
    this.#drain(now)
  }

  #receive(now: Instant, bytes: Uint8Array, from: Endpoint): void {
    const kind = classifyDatagram(bytes)
    if (kind === 'stun') this.#stun?.handleInput(now, { type: 'datagram', bytes })
    else if (kind === 'disco') this.finder.handleInput(now, { type: 'datagram', bytes, from })
    else if (kind === 'wireguard') this.#accept(now, 'direct')
    this.#drain(now)
  }

  #accept(now: Instant, via: 'direct' | 'relay'): void {
    this.received.push({ at: now, via })
  }

  #sendData(path: Path): void {
    if (path.type === 'direct' || path.type === 'both') this.socket.send(path.endpoint, WIREGUARD_PACKET)
    if (path.type === 'relay' || path.type === 'both') this.#byRelay(WIREGUARD_PACKET)
  }

  #byRelay(bytes: Uint8Array): void {
    const peer = this.peer
    if (peer !== undefined) this.#network.schedule((this.#network.clock.now + RELAY_MS) as Instant, (now) => peer.relayed(now, bytes, this))
  }

  #drain(now: Instant): void {
    for (let output = this.#stun?.pollOutput(); output !== undefined; output = this.#stun?.pollOutput()) {
      if (output.type === 'transmit') this.socket.send(STUN_SERVER, output.bytes)
      else this.finder.setSelfEndpoints(now, [...(output.type === 'mapped' ? [output.endpoint] : []), ...this.socket.endpoints])
    }
    for (let output = this.finder.pollOutput(); output !== undefined; output = this.finder.pollOutput()) {
      if (output.type === 'transmit') this.socket.send(output.to, output.bytes)
      else if (output.type === 'relay') this.#byRelay(output.bytes)
      else if (output.type === 'endpointsWanted') this.lookUp()
    }
  }
}

/** Two nodes at their places, a STUN server, both knowing each other from a map that lists local endpoints alone. */
class Pair {
  readonly network: VirtualNetwork
  readonly nodes: readonly [SimNode, SimNode]
  readonly boxes: (Box | undefined)[] = []

  constructor(first: Place, second: Place, seed = 1) {
    this.network = new VirtualNetwork(new VirtualClock(1_000), new SeededRandom(seed))
    const server: UdpSocket = this.network.internet.host('198.51.100.10', { latencyMs: 5 }).bind(3478, (_now, datagram) => {
      const answer = answerBinding(datagram.bytes, datagram.from)
      if (answer !== undefined) server.send(datagram.from, answer)
    })
    const hosts = [this.place(first, 1), this.place(second, 2)] as const
    this.nodes = [new SimNode(this.network, hosts[0], seed * 10 + 1), new SimNode(this.network, hosts[1], seed * 10 + 2)]
    const [a, b] = this.nodes
    for (const [node, peer] of [[a, b], [b, a]] as const) {
      node.peer = peer
      node.finder.setPeer(this.network.clock.now, { nodeKey: peer.nodeKey, discoKey: peer.finder.discoKey, endpoints: peer.socket.endpoints, homeRegion: REGION })
    }
  }

  place(place: Place, i: number): Host {
    const internet = this.network.internet
    if (place === 'public') return internet.host(`203.0.113.${100 + i}`, { latencyMs: 5 })
    if (place === 'firewall') {
      const box = internet.behind({ kind: place, lan: `203.0.113.${i * 8}/29` })
      this.boxes[i] = box
      return box.inside.host(`203.0.113.${i * 8 + 2}`, { latencyMs: 5 })
    }
    if (place === 'cgnat') {
      const carrier = internet.behind({ kind: { ...NAT_KINDS['full-cone'], hairpin: true }, ip: `203.0.113.${200 + i}`, lan: '100.64.0.0/10' })
      const home = carrier.inside.behind({ kind: 'port-restricted', ip: '100.64.0.2', lan: `192.168.${i}.0/24` })
      this.boxes[i] = home
      return home.inside.host(`192.168.${i}.10`, { latencyMs: 5 })
    }
    const box = internet.behind({ kind: place, ip: `203.0.113.${150 + i}`, lan: `192.168.${i}.0/24` })
    this.boxes[i] = box
    return box.inside.host(`192.168.${i}.10`, { latencyMs: 5 })
  }

  run(ms: number): void {
    this.network.runFor(ms, this.nodes)
  }

  /** `direct` when both directions are, `relay` when neither is. */
  outcome(): string {
    const [a, b] = this.nodes
    const types = [a.finder.pathFor(this.network.clock.now, b.nodeKey).type, b.finder.pathFor(this.network.clock.now, a.nodeKey).type]
    return types[0] === types[1] ? (types[0] ?? '') : types.join('/')
  }
}

const KINDS: readonly Place[] = ['public', 'firewall', 'full-cone', 'addr-restricted', 'port-restricted', 'symmetric-eif', 'symmetric-adm', 'symmetric', 'symmetric-seq', 'cgnat', 'udp-blocked']
const EIM: readonly Place[] = ['public', 'firewall', 'full-cone', 'addr-restricted', 'port-restricted', 'cgnat']
const FILTERING: Readonly<Partial<Record<Place, 'EIF' | 'ADF'>>> = { public: 'EIF', 'full-cone': 'EIF', 'symmetric-eif': 'EIF', 'addr-restricted': 'ADF' }

/** Whether `from` can know an external port of `to` whose filter lets it in; "Direct" is this in either direction. */
function reachable(to: Place, from: Place): boolean {
  const filtering = FILTERING[to]
  if (filtering === 'EIF') return true
  return filtering === 'ADF' ? EIM.includes(to) : EIM.includes(to) && EIM.includes(from)
}

const PAIRS = KINDS.flatMap((a, i) => KINDS.slice(i).map((b): [Place, Place, string] => [a, b, a !== 'udp-blocked' && b !== 'udp-blocked' && (reachable(a, b) || reachable(b, a)) ? 'direct' : 'relay']))

describe('two nodes behind boxes of each pair of kinds', () => {
  test.each(PAIRS)('%s and %s: %s, both ways, within 3 s', (a, b, expected) => {
    const pair = new Pair(a, b)
    pair.run(3_000)
    expect(pair.outcome()).toBe(expected)
    for (const node of pair.nodes) expect(node.received.length).toBeGreaterThan(25) // data flows from the start, by relay
    pair.run(20_000)
    expect(pair.outcome()).toBe(expected)
  })
})

describe('beside the table', () => {
  test.each<Place>(['public', 'full-cone', 'addr-restricted'])('a router that an early packet spoils is no obstacle towards %s', (other) => {
    const pair = new Pair('linux', other)
    pair.run(6_000)
    expect(pair.outcome()).toBe('direct')
  })

  test('two hard NATs with IPv6 behind stateful firewalls: direct by IPv6', () => {
    const pair = new Pair('symmetric', 'symmetric')
    pair.run(3_000)
    expect(pair.outcome()).toBe('relay')
    for (const [i, node] of pair.nodes.entries()) {
      const box = pair.network.internet.behind({ kind: 'firewall', lan: `2001:db8:${i + 1}::/64` })
      node.host.join(box.inside, `2001:db8:${i + 1}::10`)
      node.finder.rebind(pair.network.clock.now)
      node.lookUp()
    }
    pair.run(10_000)
    const [a, b] = pair.nodes
    const path = a.finder.pathFor(pair.network.clock.now, b.nodeKey)
    expect(path.type === 'direct' && formatEndpoint(path.endpoint)).toBe('[2001:db8:2::10]:41641')
    expect(pair.outcome()).toBe('direct')
  })

  test('a hard pair says why it is relayed', () => {
    const pair = new Pair('symmetric', 'port-restricted')
    pair.run(20_000)
    const [a, b] = pair.nodes
    const story = a.finder.explain(pair.network.clock.now, b.nodeKey)
    expect(story?.whyNotDirect).toBe('no-answer')
    expect(story?.candidates.some((candidate) => candidate.origins.includes('call-me-maybe') && candidate.timeouts > 0)).toBe(true)
  })
})

describe('when the network changes', () => {
  test('UDP blocked under traffic: by the relay again within 5 s, and direct again after it is allowed', () => {
    const pair = new Pair('port-restricted', 'full-cone')
    pair.run(10_050)
    const [a, b] = pair.nodes
    const cut = pair.network.clock.now
    a.host.link.set({ blockUdp: true })
    pair.run(5_000)
    expect(b.received.some(({ at, via }) => via === 'relay' && at > cut && at < cut + 5_000)).toBe(true)
    pair.run(10_000)
    expect(pair.outcome()).toBe('relay')
    a.host.link.set({ blockUdp: false })
    pair.run(6_000)
    expect(pair.outcome()).toBe('direct')
  })

  test('a router restart forgets mappings: no second without data, and direct again', () => {
    const pair = new Pair('port-restricted', 'port-restricted')
    pair.run(10_000)
    pair.boxes[1]?.nat.flush()
    const [, b] = pair.nodes
    const from = pair.network.clock.now
    pair.run(30_000)
    expect(pair.outcome()).toBe('direct')
    const times = b.received.map(({ at }) => at).filter((at) => at >= from)
    const gaps = times.map((at, i) => at - (times[i - 1] ?? from))
    expect(Math.max(...gaps)).toBeLessThan(5_000)
  })

  test('30 % loss leaves the pair connected and data flowing', () => {
    const pair = new Pair('port-restricted', 'addr-restricted', 5)
    for (const node of pair.nodes) node.host.link.set({ loss: 0.15, jitterMs: 3 })
    pair.run(60_000)
    const [a, b] = pair.nodes
    for (const node of [a, b]) expect(node.received.length).toBeGreaterThan(350)
    expect(b.received.filter(({ via }) => via === 'direct').length).toBeGreaterThan(250)
  })

  test('two hosts on one LAN use their LAN addresses', () => {
    const pair = new Pair('public', 'public')
    const lan = pair.network.internet.behind({ kind: 'symmetric', ip: '203.0.113.250', lan: '192.168.9.0/24' })
    for (const [i, node] of pair.nodes.entries()) {
      node.host.leave()
      node.host.join(lan.inside, `192.168.9.${10 + i}`)
      node.finder.rebind(pair.network.clock.now)
      node.lookUp()
    }
    pair.run(5_000)
    const [a, b] = pair.nodes
    const path = a.finder.pathFor(pair.network.clock.now, b.nodeKey)
    expect(path.type === 'direct' && formatEndpoint(path.endpoint)).toBe('192.168.9.11:41641')
  })

  test('idle pairs are silent, and the same seed gives the same story', () => {
    const story = (): string => {
      const pair = new Pair('port-restricted', 'full-cone', 3)
      pair.run(5_000)
      for (const node of pair.nodes) node.traffic = false
      pair.run(60_000)
      const before = pair.network.delivered
      pair.run(600_000)
      expect(pair.network.delivered).toBe(before)
      return pair.network.transcript
    }
    expect(story()).toBe(story())
  })
})

function endpoint(text: string): Endpoint {
  const parsed = parseEndpoint(text)
  if (parsed === undefined) throw new Error(`not an endpoint: ${text}`)
  return parsed
}
