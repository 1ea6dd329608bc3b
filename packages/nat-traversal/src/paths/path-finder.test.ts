import { after, type Instant, instant, type RelayRegion } from '@meshwright/core'
import { DiscoPrivateKey, NodePrivateKey, type NodePublicKey } from '@meshwright/crypto'
import { type Endpoint, formatEndpoint, parseEndpoint } from '@meshwright/ip'
import { drain, machineLaws, runTimers, SeededRandom, VirtualClock } from '@meshwright/testkit'
import { describe, expect, test } from 'vitest'
import { decodeDiscoMessage, DiscoBox, type DiscoMessage, encodeDiscoMessage } from '../disco/index.ts'
import { PathFinder, type PathFinderConfig, type PathFinderInput, type PathFinderOutput } from './index.ts'

const ADDRESS = endpoint('203.0.113.7:41641')
const OTHER = endpoint('203.0.113.8:41641')
const OURS = endpoint('198.51.100.1:41641')

/** One finder and a scripted peer that can open and seal everything. */
class Bench {
  readonly clock: VirtualClock = new VirtualClock(1_000)
  readonly random: SeededRandom = new SeededRandom(7)
  readonly peerNode: NodePublicKey = NodePrivateKey.generate(this.random.bytes).publicKey()
  readonly ourDisco: DiscoPrivateKey = DiscoPrivateKey.generate(this.random.bytes)
  readonly box: DiscoBox = new DiscoBox({ privateKey: DiscoPrivateKey.generate(this.random.bytes), random: this.random.bytes })
  readonly finder: PathFinder

  constructor(options: Partial<PathFinderConfig> = {}, endpoints: readonly Endpoint[] = [ADDRESS], homeRegion: number | undefined = 900) {
    this.finder = new PathFinder({ nodeKey: NodePrivateKey.generate(this.random.bytes).publicKey(), discoKey: this.ourDisco, random: this.random.bytes, ...options })
    this.finder.setSelfEndpoints(this.now, [OURS])
    this.finder.setPeer(this.now, { nodeKey: this.peerNode, discoKey: this.box.publicKey, endpoints, ...(homeRegion !== undefined && { homeRegion }) })
  }

  get now(): Instant {
    return this.clock.now
  }

  /** What the finder owes now, in short words. */
  words(): string[] {
    return drain(this.finder).map((output) => this.word(output))
  }

  word(output: PathFinderOutput): string {
    switch (output.type) {
      case 'transmit':
        return `${this.read(output.bytes).type} to ${formatEndpoint(output.to)}`
      case 'relay':
        return `${this.read(output.bytes).type} by ${output.region}`
      case 'pathChanged':
        return `${output.path.type} because ${output.reason}`
      case 'pinged':
        return `pinged ${output.id} ${output.via.type} ${output.latencyMs}`
      case 'pingFailed':
        return `${output.id} ${output.code}`
      case 'refused':
        return `refused ${output.times}`
      case 'endpointsWanted':
        return output.type
    }
  }

  read(bytes: Uint8Array): DiscoMessage {
    const plain = this.box.open(this.finder.discoKey, bytes)
    return (plain && decodeDiscoMessage(plain)) ?? fail()
  }

  sealed(message: DiscoMessage, from: DiscoBox = this.box): Uint8Array {
    return from.seal(this.finder.discoKey, encodeDiscoMessage(message)) ?? fail()
  }

  fromPeer(message: DiscoMessage, from: Endpoint = ADDRESS): void {
    this.finder.handleInput(this.now, { type: 'datagram', bytes: this.sealed(message), from })
  }

  byRelay(message: DiscoMessage, region = 900): void {
    this.finder.handleInput(this.now, { type: 'relayed', bytes: this.sealed(message), region, peer: this.peerNode })
  }

  /** Answers every ping that is owed now after `ms`, unless `deaf` holds its target; gives all words. */
  answer(ms = 20, deaf: readonly string[] = []): string[] {
    const outputs = drain(this.finder)
    this.clock.advance(ms)
    for (const output of outputs) {
      if (output.type !== 'transmit' || deaf.includes(formatEndpoint(output.to))) continue
      const message = this.read(output.bytes)
      if (message.type === 'ping') this.fromPeer({ type: 'pong', txId: message.txId, source: OURS }, output.to)
    }
    return outputs.map((output) => this.word(output))
  }

  direct(): void {
    this.finder.noteTraffic(this.now, this.peerNode)
    this.answer()
    drain(this.finder)
    expect(this.path()).toBe('direct')
  }

  path(): string {
    return this.finder.pathFor(this.now, this.peerNode).type
  }

  run(ms: number): string[] {
    return runTimers(this.finder, this.clock, after(this.now, ms)).map(({ at, output }) => `${at - 1_000}: ${this.word(output)}`)
  }
}

describe('finding a path', () => {
  test('a peer is on its relay until traffic wakes discovery; a pong makes it direct', () => {
    const b = new Bench()
    expect(b.words()).toEqual(['relay because peer-set'])
    expect(b.run(60_000)).toEqual([])
    b.finder.setSelfEndpoints(b.now, [OURS])
    b.finder.noteTraffic(b.now, b.peerNode)
    expect(b.answer()).toEqual(['ping to 203.0.113.7:41641', 'call-me-maybe by 900'])
    expect(b.words()).toEqual(['direct because pong'])
    expect(b.finder.pathFor(b.now, b.peerNode)).toEqual({ type: 'direct', endpoint: ADDRESS, latencyMs: 20 })
  })

  test('stale endpoints are looked up before they are told; after a second they go out as they are', () => {
    const b = new Bench()
    drain(b.finder)
    b.clock.advance(30_000)
    b.finder.noteTraffic(b.now, b.peerNode)
    expect(b.words()).toEqual(['ping to 203.0.113.7:41641', 'endpointsWanted'])
    b.clock.advance(10)
    b.finder.setSelfEndpoints(b.now, [OURS])
    expect(b.words()).toEqual(['call-me-maybe by 900'])
    const late = new Bench()
    drain(late.finder)
    late.clock.advance(30_000)
    late.finder.noteTraffic(late.now, late.peerNode)
    drain(late.finder)
    expect(late.run(1_000)).toEqual(['31000: call-me-maybe by 900'])
  })

  test('many packets make one round of pings in five seconds', () => {
    const b = new Bench()
    drain(b.finder)
    const words: string[] = []
    for (let i = 0; i < 200; i += 1) {
      b.finder.noteTraffic(b.now, b.peerNode)
      words.push(...b.run(50))
    }
    expect(words.filter((word) => word.includes('ping to'))).toEqual(['0: ping to 203.0.113.7:41641', '5000: ping to 203.0.113.7:41641'])
  })

  test('with UDP unavailable everything stays on the relay', () => {
    const b = new Bench({ udp: false })
    b.finder.noteTraffic(b.now, b.peerNode)
    expect(b.words()).toEqual(['relay because peer-set'])
    b.finder.setUdpAvailable(b.now, true)
    expect(b.answer()).toContain('ping to 203.0.113.7:41641')
    expect(b.path()).toBe('direct')
    b.finder.setUdpAvailable(b.now, false)
    expect(b.words().at(-1)).toBe('relay because udp-unavailable')
    expect(b.finder.explain(b.now, b.peerNode)?.whyNotDirect).toBe('udp-unavailable')
  })

  test('loopback, mesh, relay and own addresses are refused and explained', () => {
    const names = ['127.0.0.1:1', '[::1]:1', '100.64.0.9:1', '[fd7a:115c:a1e0::1]:1', '127.3.3.40:900', '0.0.0.0:1', '203.0.113.7:0', '224.0.0.1:5', '[fe80::1]:5', '198.51.100.1:41641', '192.0.2.9:3478']
    const b = new Bench({}, names.map(endpoint))
    b.finder.setRelayMap(b.now, { regions: new Map([[1, { id: 1, code: 'a', name: 'a', nodes: [{ name: '1a', regionId: 1, hostName: 'a.example', ipv4: '192.0.2.9' }] }]]) })
    b.finder.noteTraffic(b.now, b.peerNode)
    expect(b.words().filter((word) => word.startsWith('ping'))).toEqual([])
    expect(b.finder.explain(b.now, b.peerNode)?.candidates.map((candidate) => candidate.refusal)).toEqual(
      ['loopback', 'loopback', 'mesh-address', 'mesh-address', 'relay-address', 'unspecified', 'unspecified', 'multicast', 'link-local', 'own-address', 'relay-address'],
    )
    expect(b.finder.explain(b.now, b.peerNode)?.whyNotDirect).toBe('all-endpoints-refused')
    const loop = new Bench({ allowLoopback: true }, [endpoint('127.0.0.1:4')])
    loop.finder.noteTraffic(loop.now, loop.peerNode)
    expect(loop.words()).toContain('ping to 127.0.0.1:4')
  })
})

describe('keeping a path', () => {
  test('heartbeats go every 3 s while there is traffic and stop 45 s after it', () => {
    const b = new Bench()
    b.direct()
    const pings: number[] = []
    const start = b.now
    for (;;) {
      const due = b.finder.pollTimeout()
      if (due === undefined || due > start + 120_000) break
      b.clock.advanceTo(due)
      b.finder.handleTimeout(b.now)
      if (b.answer(1).some((word) => word.startsWith('ping'))) pings.push(Math.round((b.now - start) / 1000))
    }
    expect(pings).toEqual(Array.from({ length: 15 }, (_, i) => (i + 1) * 3))
  })

  test('a path that stops answering is doubted within 5 s, left to the relay at the lost ping, and taken again on the first pong', () => {
    const b = new Bench()
    b.direct()
    const words: string[] = []
    for (let i = 0; i < 100; i += 1) {
      b.finder.noteTraffic(b.now, b.peerNode)
      words.push(...b.run(100))
    }
    const both = words.find((word) => word.includes('both because heartbeat-unanswered'))
    expect(Number(both?.split(':')[0])).toBeLessThan(5_000)
    expect(words.some((word) => word.includes('relay because ping-timeout'))).toBe(true)
    b.finder.noteTraffic(after(b.now, 5_000), b.peerNode)
    b.answer()
    expect(b.path()).toBe('direct')
  })

  test('idle paths lapse into both after 6.5 s, so that the first packet is not lost', () => {
    const b = new Bench()
    b.direct()
    b.clock.advance(100_000)
    expect(b.path()).toBe('both')
  })

  test('a private address wins though a little slower, equal ones do not alternate', () => {
    const lan = endpoint('192.168.1.5:41641')
    const b = new Bench({}, [ADDRESS, lan])
    b.finder.noteTraffic(b.now, b.peerNode)
    b.answer()
    drain(b.finder)
    const path = b.finder.pathFor(b.now, b.peerNode)
    expect(path.type === 'direct' && formatEndpoint(path.endpoint)).toBe('192.168.1.5:41641')
  })

  test('rebinding forgets measurements and probes active peers again', () => {
    const b = new Bench()
    b.direct()
    b.finder.rebind(b.now)
    expect(b.words()).toEqual(['relay because rebind', 'ping to 203.0.113.7:41641', 'endpointsWanted'])
  })

  test('an endpoint that the system refuses is left at once', () => {
    const b = new Bench()
    b.direct()
    b.finder.noteUnreachable(b.now, ADDRESS)
    expect(b.words()).toEqual(['relay because unreachable'])
  })
})

describe('what peers send', () => {
  const txId = new Uint8Array(12).fill(9)

  test('a ping is answered with its source; the same again from the same place is not', () => {
    const b = new Bench()
    drain(b.finder)
    b.fromPeer({ type: 'ping', txId, padding: 0 }, OTHER)
    const [pong] = drain(b.finder)
    expect(pong?.type === 'transmit' && b.read(pong.bytes)).toEqual({ type: 'pong', txId, source: OTHER })
    b.fromPeer({ type: 'ping', txId, padding: 0 }, OTHER)
    expect(b.words()).toEqual([])
    b.fromPeer({ type: 'ping', txId, padding: 0 }, ADDRESS)
    expect(b.words()).toEqual(['pong to 203.0.113.7:41641'])
    b.byRelay({ type: 'ping', txId, padding: 0 })
    const [relayed] = drain(b.finder)
    expect(relayed?.type === 'relay' && b.read(relayed.bytes)).toEqual({ type: 'pong', txId, source: endpoint('127.3.3.40:900') })
  })

  test('the source of a ping is pinged back at once while we have traffic', () => {
    const b = new Bench({}, [])
    drain(b.finder)
    b.finder.noteTraffic(b.now, b.peerNode)
    drain(b.finder)
    b.fromPeer({ type: 'ping', txId, padding: 0 }, OTHER)
    expect(b.answer()).toEqual(['pong to 203.0.113.8:41641', 'ping to 203.0.113.8:41641'])
    expect(b.path()).toBe('direct')
  })

  test('a call-me-maybe is believed over the relay alone, and an empty one never', () => {
    const b = new Bench()
    drain(b.finder)
    b.fromPeer({ type: 'call-me-maybe', endpoints: [OTHER] })
    b.byRelay({ type: 'call-me-maybe', endpoints: [] })
    expect(b.words()).toEqual(['refused 1', 'refused 1'])
    expect(b.finder.status(b.now).drops).toEqual({ 'call-me-maybe': 2 })
    b.byRelay({ type: 'call-me-maybe', endpoints: [OTHER] })
    expect(b.words()).toEqual(['ping to 203.0.113.7:41641', 'ping to 203.0.113.8:41641'])
    b.byRelay({ type: 'call-me-maybe', endpoints: [ADDRESS] })
    expect(b.words()).toEqual(['ping to 203.0.113.7:41641'])
  })

  test('a call-me-maybe with every packet is dropped and counted, and is no lie', () => {
    const b = new Bench()
    drain(b.finder)
    for (let times = 0; times < 200; times += 1) b.byRelay({ type: 'call-me-maybe', endpoints: [OTHER] })
    expect(b.words().filter((word) => word.startsWith('refused'))).toEqual([])
    expect(b.finder.status(b.now).drops['early-call-me-maybe']).toBeGreaterThan(100)
  })

  test('a peer that names loopback, multicast and the relay as its own is told of, once for each; one behind a carrier NAT is not', () => {
    const b = new Bench()
    drain(b.finder)
    const endpoints = ['127.0.0.1:9', '224.0.0.1:9', '0.0.0.0:9', '127.3.3.40:9', '100.64.9.9:9', '169.254.1.1:9'].map((text) => parseEndpoint(text) ?? fail())
    b.byRelay({ type: 'call-me-maybe', endpoints })
    expect(b.words().filter((word) => word.startsWith('refused'))).toEqual(['refused 4'])
  })

  test('a flood of call-me-maybes cannot make us flood', () => {
    const b = new Bench({}, [])
    drain(b.finder)
    for (let i = 0; i < 1_000; i += 1) b.byRelay({ type: 'call-me-maybe', endpoints: [OTHER] })
    expect(b.words().filter((word) => word !== 'refused 1').length).toBeLessThanOrEqual(3)
  })

  test('unknown keys, broken boxes and unexpected pongs are dropped and counted', () => {
    const b = new Bench()
    drain(b.finder)
    const stranger = new DiscoBox({ privateKey: DiscoPrivateKey.generate(b.random.bytes), random: b.random.bytes })
    const broken = b.sealed({ type: 'ping', txId, padding: 0 })
    broken[90] = (broken[90] ?? 0) ^ 1
    for (const bytes of [b.sealed({ type: 'ping', txId, padding: 0 }, stranger), broken, new Uint8Array(80)]) {
      b.finder.handleInput(b.now, { type: 'datagram', bytes, from: ADDRESS })
    }
    expect(b.words()).toEqual([])
    b.fromPeer({ type: 'pong', txId, source: OURS })
    expect(b.words()).toEqual(['refused 1'])
    expect(b.finder.status(b.now).drops).toEqual({ 'unknown-sender': 1, box: 1, 'not-disco': 1, 'unexpected-pong': 1 })
  })
})

describe('pings for people', () => {
  test('over the relay and all candidates until a path is trusted; the first pong is the answer', () => {
    const b = new Bench()
    drain(b.finder)
    b.finder.ping(b.now, b.peerNode, 5)
    expect(b.answer(30)).toEqual(['ping by 900', 'ping to 203.0.113.7:41641', 'call-me-maybe by 900'])
    expect(b.words()).toEqual(['pinged 5 direct 30', 'direct because pong'])
    b.finder.ping(b.now, b.peerNode, 6)
    expect(b.answer(10)).toEqual(['ping to 203.0.113.7:41641'])
    expect(b.words()).toEqual(['pinged 6 direct 10'])
  })

  test('an unanswered or impossible ping fails once', () => {
    const b = new Bench()
    drain(b.finder)
    b.finder.ping(b.now, b.peerNode, 5)
    expect(b.run(5_000).filter((word) => word.includes('PATH_'))).toEqual(['5000: 5 PATH_PING_TIMEOUT'])
    b.finder.removePeer(b.now, b.peerNode)
    b.finder.ping(b.now, b.peerNode, 6)
    expect(b.words()).toEqual(['6 PATH_PEER_UNKNOWN'])
    expect(b.finder.pathFor(b.now, b.peerNode)).toEqual({ type: 'none' })
  })
})

test('a ping of a wanted size has that size, over the relay and directly, and is answered as any other', () => {
  for (const [wanted, is] of [[0, 124], [60, 124], [125, 125], [1_400, 1_400], [1_000_000, 65_467]] as const) {
    const b = new Bench()
    drain(b.finder)
    b.finder.ping(b.now, b.peerNode, 1, wanted)
    const sent = drain(b.finder).flatMap((output) => (output.type === 'transmit' || output.type === 'relay' ? [output] : [])).filter(({ bytes }) => b.read(bytes).type === 'ping')
    expect(sent.map(({ type, bytes }) => [type, bytes.length])).toEqual([['relay', is], ['transmit', is]])
  }
  const b = new Bench()
  drain(b.finder)
  b.finder.ping(b.now, b.peerNode, 1, 1_000)
  b.answer()
  expect(b.words()).toContain('pinged 1 direct 20')
})

test('a peer without home in the map is reached by the relay that it was last heard by', () => {
  const b = new Bench({}, [], undefined)
  b.finder.removePeer(b.now, b.peerNode)
  b.finder.setPeer(b.now, { nodeKey: b.peerNode, discoKey: b.box.publicKey, endpoints: [] })
  expect(b.path()).toBe('none')
  b.byRelay({ type: 'ping', txId: new Uint8Array(12), padding: 0 }, 7)
  expect(b.finder.pathFor(b.now, b.peerNode)).toEqual({ type: 'relay', region: 7 })
})

test('a peer whose home answers STUN alone, or is none of the map, is called at our own home, and at the relay that it is heard by', () => {
  const region = (id: number, stunOnly: boolean): [number, RelayRegion] => [id, { id, code: `r${id}`, name: `R${id}`, nodes: [{ name: `${id}a`, regionId: id, hostName: `${id}.example`, stunOnly }] }]
  for (const home of [950, 77]) {
    const b = new Bench({}, [ADDRESS], home)
    expect(b.words()).toEqual([`relay because peer-set`])
    b.finder.setRelayMap(b.now, { regions: new Map([region(900, false), region(901, false), region(950, true)]) })
    expect(b.words()).toEqual(['none because relay-map']) // no home of our own yet
    b.finder.setHome(b.now, 900)
    expect(b.finder.pathFor(b.now, b.peerNode)).toEqual({ type: 'relay', region: 900 })
    b.words()
    b.finder.noteTraffic(b.now, b.peerNode)
    expect(b.words()).toContain('call-me-maybe by 900')
    b.finder.noteReceived(b.now, b.peerNode, { type: 'relay', region: 901 })
    expect(b.finder.pathFor(b.now, b.peerNode)).toEqual({ type: 'relay', region: 901 })
    b.finder.setPeer(b.now, { nodeKey: b.peerNode, discoKey: b.box.publicKey, endpoints: [ADDRESS], homeRegion: 900 })
    expect(b.finder.pathFor(b.now, b.peerNode)).toEqual({ type: 'relay', region: 900 })
  }
})

test('nodes that share a disco key are told apart by their pings and by who was pinged', () => {
  const b = new Bench()
  const second = NodePrivateKey.generate(b.random.bytes).publicKey()
  b.finder.setPeer(b.now, { nodeKey: second, discoKey: b.box.publicKey, endpoints: [OTHER], homeRegion: 900 })
  b.finder.noteTraffic(b.now, second)
  b.answer()
  expect(b.finder.pathFor(b.now, second)).toEqual({ type: 'direct', endpoint: OTHER, latencyMs: 20 })
  expect(b.path()).toBe('relay')
  b.fromPeer({ type: 'ping', txId: new Uint8Array(12), nodeKey: second, padding: 0 }, endpoint('203.0.113.99:1'))
  expect(b.finder.explain(b.now, second)?.candidates.length).toBe(2)
  expect(b.finder.explain(b.now, b.peerNode)?.candidates.length).toBe(1)
})

test('a new map entry keeps what the peer itself named, and a new disco key takes over', () => {
  const b = new Bench()
  b.direct()
  const disco = new DiscoBox({ privateKey: DiscoPrivateKey.generate(b.random.bytes), random: b.random.bytes })
  b.finder.setPeer(b.now, { nodeKey: b.peerNode, discoKey: disco.publicKey, endpoints: [OTHER], homeRegion: 901 })
  expect(b.path()).toBe('direct')
  b.fromPeer({ type: 'ping', txId: new Uint8Array(12), padding: 0 })
  expect(b.finder.status(b.now).drops).toEqual({ 'unknown-sender': 1 })
  const bytes = b.sealed({ type: 'ping', txId: new Uint8Array(12), padding: 0 }, disco)
  b.finder.handleInput(b.now, { type: 'datagram', bytes, from: ADDRESS })
  expect(drain(b.finder).map((output) => output.type)).toEqual(['transmit'])
  expect(b.finder.explain(b.now, b.peerNode)?.candidates.map((candidate) => formatEndpoint(candidate.endpoint))).toEqual(['203.0.113.7:41641', '203.0.113.8:41641'])
})

test('a peer without disco is reached at its endpoint, and where it last sent from', () => {
  const b = new Bench()
  const bare = NodePrivateKey.generate(b.random.bytes).publicKey()
  b.finder.setPeer(b.now, { nodeKey: bare, endpoints: [ADDRESS] })
  expect(b.finder.pathFor(b.now, bare)).toEqual({ type: 'direct', endpoint: ADDRESS, latencyMs: undefined })
  b.finder.noteReceived(b.now, bare, { type: 'direct', endpoint: OTHER })
  expect(b.finder.pathFor(b.now, bare)).toEqual({ type: 'direct', endpoint: OTHER, latencyMs: undefined })
})

test('candidates stay bounded under a peer that pings from everywhere', () => {
  const b = new Bench()
  for (let i = 0; i < 2_000; i += 1) {
    b.fromPeer({ type: 'ping', txId: b.random.bytes(12), padding: 0 }, endpoint(`198.18.${i >> 8}.${i & 255}:1000`))
    drain(b.finder)
  }
  expect(b.finder.explain(b.now, b.peerNode)?.candidates.length).toBeLessThanOrEqual(101)
})

test('keeps the laws of machines, in all three states of a path', () => {
  const keys = new SeededRandom(3)
  const peerDisco = DiscoPrivateKey.generate(keys.bytes)
  const ourDisco = DiscoPrivateKey.generate(keys.bytes)
  const node = NodePrivateKey.generate(keys.bytes).publicKey()
  const sealer = new DiscoBox({ privateKey: peerDisco, random: keys.bytes })
  let last: PathFinder | undefined
  let at: Instant = instant(0)
  machineLaws({
    make: (random, now) => {
      const finder = new PathFinder({ nodeKey: node, discoKey: ourDisco, random: random.bytes })
      finder.setSelfEndpoints(now, [OURS])
      finder.setPeer(now, { nodeKey: node, discoKey: peerDisco.publicKey(), endpoints: [ADDRESS], homeRegion: 1 })
      last = finder
      return finder
    },
    exercise: (machine, now, random) => {
      const finder = last ?? fail()
      const box = new DiscoBox({ privateKey: peerDisco, random: random.bytes })
      finder.noteTraffic(now, node)
      at = now
      for (const output of drain(machine)) {
        if (output.type !== 'transmit') continue
        const message = decodeDiscoMessage(box.open(ourDisco.publicKey(), output.bytes) ?? fail())
        if (message?.type !== 'ping') continue
        expect(finder.status(now).direct).toBe(0)
        const pong = box.seal(ourDisco.publicKey(), encodeDiscoMessage({ type: 'pong', txId: message.txId, source: OURS })) ?? fail()
        machine.handleInput(now, { type: 'datagram', bytes: pong, from: output.to })
      }
    },
    arbitraryInput: (random): PathFinderInput => {
      const bytes = random.chance(0.5) ? random.bytes(random.below(200)) : (sealer.seal(ourDisco.publicKey(), random.bytes(2 + random.below(60))) ?? fail())
      return random.chance(0.5) ? { type: 'datagram', bytes, from: ADDRESS } : { type: 'relayed', bytes, region: random.below(5), peer: node }
    },
    stateOf: (machine) => {
      const finder = machine instanceof PathFinder ? machine : fail()
      const due = finder.pollTimeout()
      return finder.explain(due ?? after(at, 1_000_000), node)?.state ?? 'none'
    },
    states: ['relay', 'direct', 'doubtful'],
    inputs: 120,
    seeds: 3,
  })
})

function endpoint(text: string): Endpoint {
  return parseEndpoint(text) ?? fail()
}

function fail(): never {
  throw new Error('a fixed value of this test is wrong')
}
