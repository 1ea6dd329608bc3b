import { instant, type Instant, type RelayMap, type RelayNode } from '@meshwright/core'
import { type Endpoint, formatEndpoint, parseEndpoint, parseIp } from '@meshwright/ip'
import { type Actor, type Box, drain, machineLaws, type NatKind, runTimers, SeededRandom, VirtualClock, VirtualNetwork } from '@meshwright/testkit'
import { describe, expect, test } from 'vitest'
import { answerBinding, encodeBindingRequest } from '../stun/index.ts'
import { collectSelfEndpoints, HomeRelayChoice, Netcheck, type NetcheckInput, type NetcheckOutput, type NetcheckReport, planProbes } from './index.ts'

function relayMap(...ids: number[]): RelayMap {
  const node = (id: number): RelayNode => ({ name: `${id}a`, regionId: id, hostName: `r${id}.example`, ipv4: `198.51.100.${id}`, ipv6: 'none' })
  return { regions: new Map(ids.map((id) => [id, { id, code: `r${id}`, name: `Region ${id}`, nodes: [node(id)] }])) }
}

/** A host with a Netcheck behind a box, and relays with their latencies. */
class World implements Actor {
  readonly network: VirtualNetwork = new VirtualNetwork(new VirtualClock(1_000), new SeededRandom(5))
  readonly check: Netcheck = new Netcheck({ random: new SeededRandom(9).bytes, families: [4] })
  readonly reports: NetcheckReport[] = []
  readonly asked: string[] = []
  sent = 0
  readonly box: Box
  readonly #socket: { send(to: Endpoint, bytes: Uint8Array): void }

  constructor(kind: NatKind, latencies: Readonly<Record<number, number>>) {
    this.box = this.network.internet.behind({ kind, ip: '203.0.113.2', lan: '192.168.1.0/24', link: { latencyMs: 0 } })
    this.#socket = this.box.inside.host('192.168.1.10', { latencyMs: 0 }).bind(41_641, (now, datagram) => {
      this.check.handleInput(now, { type: 'datagram', bytes: datagram.bytes, from: datagram.from })
      this.#drain()
    })
    for (const [id, latencyMs] of Object.entries(latencies)) {
      const server = this.network.internet.host(`198.51.100.${id}`, { latencyMs }).bind(3478, (_now, datagram) => {
        const answer = answerBinding(datagram.bytes, datagram.from)
        if (answer !== undefined) server.send(datagram.from, answer)
      })
    }
    this.check.setRelayMap(relayMap(...Object.keys(latencies).map(Number)))
  }

  pollTimeout(): Instant | undefined {
    return this.check.pollTimeout()
  }

  handleTimeout(now: Instant): void {
    this.check.handleTimeout(now)
    this.#drain()
  }

  look(full = false): NetcheckReport {
    this.check.start(this.network.clock.now, full)
    this.#drain()
    this.network.runFor(9_000, [this])
    return this.reports.at(-1) ?? fail()
  }

  #drain(): void {
    for (const output of drain(this.check)) {
      if (output.type === 'transmit') {
        this.sent += 1
        this.#socket.send(output.to, output.bytes)
      } else if (output.type === 'report') {
        this.reports.push(output.report)
      } else if (output.type === 'measureHttps') {
        const region = output.region.id
        this.asked.push(`https ${region}`)
        this.network.schedule((this.network.clock.now + region) as Instant, (now) => {
          this.check.handleInput(now, { type: 'httpsMeasured', region, latencyMs: region })
          this.#drain()
        })
      }
    }
  }
}

describe('a look at the network', () => {
  test('finds latencies, the mapped endpoint and a mapping that does not vary', () => {
    const world = new World('port-restricted', { 10: 10, 20: 25, 30: 40 })
    const report = world.look()
    expect([...report.regions].map(([id, { latencyMs }]) => [id, latencyMs])).toEqual([[10, 20], [20, 50], [30, 80]])
    expect(report).toMatchObject({ udp: true, ipv4: true, ipv6: false, full: true, mappingVariesByDestination: false })
    expect(report.mapped.map((endpoint) => endpoint.ip.key)).toEqual(['203.0.113.2'])
    expect(report.finishedAt - report.startedAt).toBe(80)
  })

  test('a hard NAT varies its mapping; one relay alone cannot tell', () => {
    expect(new World('symmetric', { 10: 10, 20: 25 }).look().mappingVariesByDestination).toBe(true)
    expect(new World('symmetric', { 10: 10 }).look().mappingVariesByDestination).toBeUndefined()
  })

  test('without UDP the regions are measured by HTTPS', () => {
    const world = new World('udp-blocked', { 10: 10, 20: 25 })
    const report = world.look()
    expect(report).toMatchObject({ udp: false, mapped: [], mappingVariesByDestination: undefined })
    expect(world.asked).toEqual(['https 10', 'https 20'])
    expect(report.regions.get(20)).toEqual({ latencyMs: 20, httpsMs: 20 })
  })

  test('lost requests are repeated, and the next look asks the fastest only', () => {
    const world = new World('full-cone', { 10: 10, 20: 25, 30: 40, 40: 50, 50: 60 })
    world.box.link.set({ loss: 0.3 })
    world.look()
    world.box.link.set({ loss: 0 })
    const first = world.sent
    expect(first).toBeGreaterThanOrEqual(5)
    const report = world.look()
    expect(report.full).toBe(false)
    expect(world.sent - first).toBeLessThanOrEqual(5)
    expect(report.regions.has(10)).toBe(true)
    expect(world.look(true).full).toBe(true)
  })

  test('a start during a run makes exactly one more', () => {
    const world = new World('full-cone', { 10: 10 })
    for (let i = 0; i < 5; i += 1) world.check.start(world.network.clock.now)
    world.look()
    expect(world.reports.length).toBe(2)
  })

  test('a relay without literal addresses is looked up by name', () => {
    const check = new Netcheck({ random: new SeededRandom(1).bytes })
    check.setRelayMap({ regions: new Map([[1, { id: 1, code: 'a', name: 'A', nodes: [{ name: '1a', regionId: 1, hostName: 'relay.example', stunPort: 99 }] }]]) })
    check.start(instant(0))
    expect(drain(check)).toEqual([{ type: 'resolve', hostName: 'relay.example' }])
    check.handleInput(instant(5), { type: 'resolved', hostName: 'relay.example', ips: [parseIp('192.0.2.1') ?? fail(), parseIp('2001:db8::1') ?? fail()] })
    expect(drain(check).map((output) => output.type === 'transmit' && formatEndpoint(output.to))).toEqual(['192.0.2.1:99', '[2001:db8::1]:99'])
  })

  test('no relay at all is an empty report at once', () => {
    const check = new Netcheck({ random: new SeededRandom(1).bytes })
    check.start(instant(0))
    expect(drain(check).map((output) => output.type)).toEqual(['report'])
  })

  test('keeps the laws of machines', () => {
    machineLaws<NetcheckInput, NetcheckOutput>({
      make: (random, now) => {
        const check = new Netcheck({ random: random.bytes, families: [4] })
        check.setRelayMap(relayMap(1, 2))
        check.start(now)
        return check
      },
      exercise: (machine, now) => {
        const clock = new VirtualClock(now)
        const check = machine instanceof Netcheck ? machine : fail()
        runTimers(machine, clock, instant(now + 3_001))
        expect(check.state).toBe('https')
        for (const region of [1, 2]) machine.handleInput(clock.now, { type: 'httpsMeasured', region, latencyMs: 1 })
        expect(check.state).toBe('idle')
        check.start(now)
      },
      arbitraryInput: (random) => {
        if (random.chance(0.3)) return { type: 'httpsMeasured', region: random.below(3), latencyMs: 5 }
        return { type: 'datagram', bytes: random.chance(0.5) ? random.bytes(40) : encodeBindingRequest(random.bytes(12)), from: endpoint('198.51.100.1:3478') }
      },
      stateOf: (machine) => (machine instanceof Netcheck ? machine.state : 'other'),
      states: ['idle', 'stun', 'https'],
    })
  })
})

test('the plan of a first look is three requests to each region, 100 ms apart', () => {
  const plan = planProbes({ map: relayMap(1, 2), families: [4, 6] })
  expect(plan.map((set) => [set.region, set.family, set.probes.map((probe) => probe.delayMs).join()])).toEqual([[1, 4, '0,100,200'], [2, 4, '0,100,200']])
})

describe('the home relay', () => {
  const at = (ms: number, regions: Readonly<Record<number, number>>): NetcheckReport => ({
    startedAt: instant(ms),
    finishedAt: instant(ms),
    full: true,
    udp: true,
    ipv4: true,
    ipv6: false,
    mapped: [],
    mappingVariesByDestination: undefined,
    regions: new Map(Object.entries(regions).map(([id, latencyMs]) => [Number(id), { latencyMs }])),
  })
  const map = relayMap(1, 2, 3)

  test('is the fastest, and moves only for a real gain', () => {
    const choice = new HomeRelayChoice()
    expect(choice.choose(instant(0), at(0, { 1: 30, 2: 40 }), { map })).toBe(1)
    expect(choice.choose(instant(400_000), at(400_000, { 1: 30, 2: 25 }), { map })).toBe(1)
    expect(choice.choose(instant(800_000), at(800_000, { 1: 100, 2: 70 }), { map })).toBe(1)
    expect(choice.choose(instant(1_200_000), at(1_200_000, { 1: 100, 2: 40 }), { map })).toBe(2)
  })

  test('one slow sample does not move it, nor does a missed one while frames arrive', () => {
    const choice = new HomeRelayChoice()
    choice.choose(instant(0), at(0, { 1: 30, 2: 40 }), { map })
    expect(choice.choose(instant(1_000), at(1_000, { 1: 300, 2: 250 }), { map })).toBe(1)
    expect(choice.choose(instant(2_000), at(2_000, { 2: 20 }), { map, lastFrameAt: (region) => (region === 1 ? instant(1_900) : undefined) })).toBe(1)
    expect(choice.choose(instant(60_000), at(60_000, { 2: 20 }), { map, lastFrameAt: () => undefined })).toBe(2)
  })

  test('nothing measured keeps the home, or takes any; scores and force count', () => {
    expect(new HomeRelayChoice().choose(instant(0), at(0, {}), { map })).toBe(1)
    expect(new HomeRelayChoice().choose(instant(0), at(0, { 1: 30, 2: 40 }), { map, scores: new Map([[2, 0.5]]) })).toBe(2)
    expect(new HomeRelayChoice().choose(instant(0), at(0, { 1: 30, 3: 90 }), { map, forced: 3 })).toBe(3)
    expect(new HomeRelayChoice().choose(instant(0), at(0, {}), { map: { regions: new Map() } })).toBeUndefined()
  })
})

test('our endpoints: seen ones first, none of the mesh, at most two IPv6 of a subnet, loopback only where allowed', () => {
  const interfaceIps = ['127.0.0.1', '192.168.1.10', '100.64.0.7', 'fd7a:115c:a1e0::7', 'fe80::1', '2001:db8::1', '2001:db8::2', '2001:db8::3'].map((text) => parseIp(text) ?? fail())
  const report = new World('symmetric', { 10: 1, 20: 2 }).look()
  const texts = (allowLoopback: boolean): string[] =>
    collectSelfEndpoints({ report, interfaceIps, port4: 41_641, port6: 41_642, fixedPort: true, allowLoopback }).map(({ endpoint, source }) => `${source} ${formatEndpoint(endpoint)}`)
  expect(texts(false)).toEqual([
    `stun ${formatEndpoint(report.mapped[0] ?? fail())}`,
    'stun4-local-port 203.0.113.2:41641',
    'local 192.168.1.10:41641',
    'local [2001:db8::1]:41642',
    'local [2001:db8::2]:41642',
  ])
  expect(texts(true)).toContain('local 127.0.0.1:41641')
})

function endpoint(text: string): Endpoint {
  return parseEndpoint(text) ?? fail()
}

function fail(): never {
  throw new Error('a fixed value of this test is wrong')
}
