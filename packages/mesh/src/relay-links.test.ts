import { after, concatBytes, type Instant, instant, type RelayMap, type RelayRegion } from '@meshwright/core'
import { NodePrivateKey, type NodePublicKey } from '@meshwright/crypto'
import { DerpServer } from '@meshwright/derp'
import { drain, machineLaws, SeededRandom, VirtualClock } from '@meshwright/testkit'
import { beforeEach, describe, expect, test } from 'vitest'
import { RELAY_IDLE_MS, RELAY_RETRY_MAX_MS, RELAY_RETRY_MIN_MS, RelayLinks, type RelayLinksInput, type RelayLinksOutput } from './index.ts'
import { keysOf } from './mesh-lab.test.ts'

const me = keysOf(1).node
const peer = keysOf(2).node.publicKey()

function region(id: number, names: readonly string[] = [`${id}a`], change: Partial<RelayRegion> = {}): RelayRegion {
  return { id, code: `r${id}`, name: `Region ${id}`, nodes: names.map((name) => ({ name, regionId: id, hostName: `${name}.test` })), ...change }
}

const mapOf = (...regions: readonly RelayRegion[]): RelayMap => ({ regions: new Map(regions.map((each) => [each.id, each])) })

function makeLinks(random: SeededRandom): RelayLinks {
  let link = 0
  return new RelayLinks({ privateKey: me, random: random.bytes, nextLink: () => (link += 1) })
}

let clock: VirtualClock
beforeEach(() => {
  clock = new VirtualClock(0)
})

/** Links and real relays behind them, in memory. */
class Bench {
  readonly links = makeLinks(new SeededRandom(3))
  readonly events: RelayLinksOutput[] = []
  /** Numbers of dials that wait to be answered, by region. */
  readonly dials: Extract<RelayLinksOutput, { type: 'dial' }>[] = []
  readonly #servers = new Map<number, DerpServer>()

  act(change: (now: Instant, links: RelayLinks) => void): this {
    change(clock.now, this.links)
    return this.settle()
  }

  feed(input: RelayLinksInput): this {
    return this.act((now) => this.links.handleInput(now, input))
  }

  settle(): this {
    for (const output of drain(this.links)) {
      if (output.type === 'dial') this.dials.push(output)
      if (output.type === 'write') this.#carry(output.link, output.bytes)
      else this.events.push(output)
    }
    return this
  }

  /** The relay of the oldest dial takes the connection. */
  open(): number {
    const dial = this.dials.shift() ?? expect.fail('no dial waits')
    const server = new DerpServer({ privateKey: NodePrivateKey.generate(new SeededRandom(9).bytes), random: new SeededRandom(4).bytes })
    this.#servers.set(dial.link, server)
    server.handleInput(clock.now, { type: 'accepted', conn: 1 })
    this.feed({ type: 'opened', link: dial.link })
    this.#answer(dial.link)
    return dial.link
  }

  /** The oldest dial fails. */
  refuse(reason = 'connection refused'): number {
    const dial = this.dials.shift() ?? expect.fail('no dial waits')
    this.feed({ type: 'closed', link: dial.link, reason })
    return dial.link
  }

  pass(ms: number): this {
    const end = after(clock.now, ms)
    for (let due = this.links.pollTimeout(); due !== undefined && due <= end; due = this.links.pollTimeout()) {
      clock.advanceTo(due)
      this.act((now) => this.links.handleTimeout(now))
    }
    clock.advanceTo(end)
    return this
  }

  types(): string[] {
    return this.events.splice(0).map((event) => event.type)
  }

  #carry(link: number, bytes: Uint8Array): void {
    this.links.handleInput(clock.now, { type: 'writable', link })
    this.#servers.get(link)?.handleInput(clock.now, { type: 'bytes', conn: 1, bytes: Uint8Array.from(bytes) })
    this.#answer(link)
  }

  #answer(link: number): void {
    const server = this.#servers.get(link)
    if (server === undefined) return
    const bytes = concatBytes(...drain(server).flatMap((output) => (output.type === 'write' ? [Uint8Array.from(output.bytes)] : [])))
    server.handleInput(clock.now, { type: 'writable', conn: 1 })
    if (bytes.length > 0) this.feed({ type: 'bytes', link, bytes })
  }
}

describe('home', () => {
  test('is dialled at once, kept, and said to be connected', () => {
    const bench = new Bench().act((now, links) => links.setMap(now, mapOf(region(1), region(2))))
    expect(bench.types()).toEqual([])
    bench.act((now, links) => links.setHome(now, 1))
    expect(bench.types()).toEqual(['dial'])
    bench.open()
    expect(bench.types()).toEqual(['connected'])
    expect([bench.links.isConnected(1), bench.links.isConnected(2), bench.links.home]).toEqual([true, false, 1])
    bench.pass(RELAY_IDLE_MS + 10_000)
    expect(bench.links.isConnected(1), 'however long nothing is sent').toBe(true)
  })

  test('chosen before its region is known, is dialled when the map comes', () => {
    const bench = new Bench().act((now, links) => links.setHome(now, 1))
    expect(bench.types()).toEqual([])
    bench.act((now, links) => links.setMap(now, mapOf(region(1))))
    expect(bench.types()).toEqual(['dial'])
  })

  test('that moves leaves the former one to idle out', () => {
    const bench = new Bench().act((now, links) => links.setMap(now, mapOf(region(1), region(2)))).act((now, links) => links.setHome(now, 1))
    const first = bench.open()
    bench.act((now, links) => links.setHome(now, 2))
    bench.open()
    bench.types()
    bench.pass(RELAY_IDLE_MS + 1)
    expect(bench.events).toContainEqual({ type: 'close', link: first })
    expect([bench.links.isConnected(1), bench.links.isConnected(2)]).toEqual([false, true])
  })
})

describe('another region', () => {
  function connected(): { readonly bench: Bench; readonly link: number } {
    const bench = new Bench().act((now, links) => links.setMap(now, mapOf(region(1), region(2)))).act((now, links) => links.setHome(now, 1))
    bench.open()
    bench.act((now, links) => links.send(now, 2, peer, Uint8Array.of(1)))
    const link = bench.open()
    bench.types()
    return { bench, link }
  }

  test('is connected by the first packet for it, which is not lost', () => {
    const { bench } = connected()
    expect(bench.links.traffic.bytesOut).toBe(1)
    expect(bench.links.isConnected(2)).toBe(true)
  })

  test(`is left after ${RELAY_IDLE_MS} ms without a packet, and not a moment earlier`, () => {
    const { bench, link } = connected()
    bench.pass(RELAY_IDLE_MS - 1)
    expect(bench.links.isConnected(2)).toBe(true)
    bench.act((now, links) => links.send(now, 2, peer, Uint8Array.of(2)))
    bench.pass(RELAY_IDLE_MS - 1)
    expect(bench.links.isConnected(2), 'a packet has renewed it').toBe(true)
    bench.pass(1)
    expect(bench.links.isConnected(2)).toBe(false)
    expect(bench.events).toContainEqual({ type: 'close', link })
  })

  test('that is unknown takes nothing', () => {
    const { bench } = connected()
    bench.act((now, links) => expect(links.send(now, 77, peer, Uint8Array.of(1))).toBe(false))
    expect(bench.types()).toEqual([])
  })
})

describe('a relay that cannot be reached', () => {
  test('is dialled again after 250 ms doubling to 5 s, half to one and a half times of that, by its servers in turn', () => {
    const bench = new Bench().act((now, links) => links.setMap(now, mapOf(region(1, ['1a', '1b'])))).act((now, links) => links.setHome(now, 1))
    const names: string[] = []
    for (let failures = 0; failures < 9; failures += 1) {
      names.push(bench.dials[0]?.node.name ?? '')
      bench.refuse('no route')
      expect(bench.links.problem(1)).toBe('no route')
      const failed = clock.now
      const due = bench.links.pollTimeout() ?? expect.fail('it gave up')
      const nominal = Math.min(RELAY_RETRY_MAX_MS, RELAY_RETRY_MIN_MS * 2 ** failures)
      expect(due - failed).toBeGreaterThanOrEqual(nominal * 0.5)
      expect(due - failed).toBeLessThan(nominal * 1.5)
      bench.pass(due - failed)
      expect(bench.dials).toHaveLength(1)
    }
    expect(names).toEqual(['1a', '1b', '1a', '1b', '1a', '1b', '1a', '1b', '1a'])
    bench.open()
    expect(bench.links.problem(1)).toBeUndefined()
    const link = bench.events.flatMap((event) => (event.type === 'dial' ? [event.link] : [])).at(-1) ?? 0
    bench.feed({ type: 'closed', link })
    expect((bench.links.pollTimeout() ?? instant(0)) - clock.now, 'after a success it begins anew').toBeLessThan(RELAY_RETRY_MIN_MS * 1.5)
  })

  test('is not dialled twice at a time, however much is sent', () => {
    const bench = new Bench().act((now, links) => links.setMap(now, mapOf(region(1)))).act((now, links) => links.setHome(now, 1))
    for (let i = 0; i < 100; i += 1) bench.act((now, links) => links.send(now, 1, peer, Uint8Array.of(i)))
    expect(bench.dials).toHaveLength(1)
    bench.refuse()
    for (let i = 0; i < 100; i += 1) bench.act((now, links) => links.send(now, 1, peer, Uint8Array.of(i)))
    expect(bench.dials).toHaveLength(0)
  })

  test('because its region has no server says so, and is looked at again', () => {
    const bench = new Bench().act((now, links) => links.setMap(now, mapOf(region(1, [])))).act((now, links) => links.setHome(now, 1))
    expect(bench.types()).toEqual([])
    expect(bench.links.problem(1)).toContain('no server')
    expect(bench.links.pollTimeout()).toBe(after(clock.now, RELAY_RETRY_MAX_MS))
  })

  test('answers that come after it was given up change nothing', () => {
    const bench = new Bench().act((now, links) => links.setMap(now, mapOf(region(1)))).act((now, links) => links.setHome(now, 1))
    const link = bench.refuse()
    bench.types()
    for (const type of ['opened', 'writable', 'closed'] as const) bench.feed({ type, link })
    bench.feed({ type: 'bytes', link, bytes: new Uint8Array(64) })
    expect(bench.types()).toEqual([])
  })
})

describe('a new relay map', () => {
  function home(): { readonly bench: Bench; readonly link: number } {
    const bench = new Bench().act((now, links) => links.setMap(now, mapOf(region(1)))).act((now, links) => links.setHome(now, 1))
    const link = bench.open()
    bench.types()
    return { bench, link }
  }

  test('with the same servers leaves connections alone', () => {
    const { bench } = home()
    bench.act((now, links) => links.setMap(now, mapOf(region(1, ['1a'], { name: 'renamed' }), region(2))))
    expect(bench.types()).toEqual([])
  })

  test('with other servers ends the connection and makes it anew; without the region it ends it', () => {
    const { bench, link } = home()
    bench.act((now, links) => links.setMap(now, mapOf(region(1, ['1z']))))
    expect(bench.events.splice(0)).toMatchObject([{ type: 'close', link }, { type: 'dial', node: { name: '1z' } }])
    bench.open()
    bench.types()
    bench.act((now, links) => links.setMap(now, mapOf()))
    expect(bench.types()).toEqual(['close'])
    expect(bench.links.pollTimeout()).toBeUndefined()
  })
})

test('a changed network and a new key make all connections in use anew; the end ends all', () => {
  const bench = new Bench().act((now, links) => links.setMap(now, mapOf(region(1), region(2)))).act((now, links) => links.setHome(now, 1))
  bench.open()
  bench.act((now, links) => links.send(now, 2, peer, Uint8Array.of(1)))
  bench.open()
  bench.types()
  bench.act((now, links) => links.rebind(now))
  expect(bench.types().sort()).toEqual(['close', 'close', 'dial', 'dial'])
  bench.open()
  bench.open()
  bench.types()
  bench.act((now, links) => links.setPrivateKey(now, keysOf(3).node))
  expect(bench.types()).toEqual(['close', 'close', 'dial'])
  bench.act((_now, links) => links.closeAll())
  expect(bench.types()).toEqual(['close'])
  expect(bench.links.pollTimeout()).toBeUndefined()
})

test('keeps the machine laws', () => {
  const seen = new Map<RelayLinks, number[]>()
  const peers: readonly NodePublicKey[] = [peer, keysOf(3).node.publicKey()]
  machineLaws<RelayLinksInput, RelayLinksOutput>({
    make: makeLinks,
    exercise: (machine, now, random) => {
      if (!(machine instanceof RelayLinks)) return
      machine.setMap(now, mapOf(region(1, ['1a', '1b']), region(2)))
      machine.setHome(now, 1)
      machine.send(now, 2, random.pick(peers), random.bytes(40))
      const server = new DerpServer({ privateKey: keysOf(9).node, random: random.bytes })
      server.handleInput(now, { type: 'accepted', conn: 1 })
      machine.handleInput(now, { type: 'opened', link: 1 })
      for (let round = 0; round < 4; round += 1) {
        for (const output of drain(server)) if (output.type === 'write') machine.handleInput(now, { type: 'bytes', link: 1, bytes: Uint8Array.from(output.bytes) })
        for (const output of drain(machine)) if (output.type === 'write' && output.link === 1) server.handleInput(now, { type: 'bytes', conn: 1, bytes: Uint8Array.from(output.bytes) })
      }
      expect(machine.isConnected(1)).toBe(true)
      seen.set(machine, [])
    },
    arbitraryInput: (random) => {
      const link = random.below(6)
      return random.pick<RelayLinksInput>([
        { type: 'opened', link },
        { type: 'opened', link, serverKey: peer },
        { type: 'bytes', link, bytes: random.bytes(random.below(120)) },
        { type: 'writable', link },
        { type: 'closed', link },
      ])
    },
    stateOf: (machine) => (machine instanceof RelayLinks ? machine.state(machine.home === 0 ? 2 : 1) : '?'),
    states: ['absent', 'connected', 'waiting', 'dialling'],
    describe: (output) => JSON.stringify(output, (_key, value: unknown) => (value instanceof Uint8Array ? [...value].join() : value)),
    inputs: 400,
  })
  expect(seen.size).toBeGreaterThan(0)
})
