import { instant } from '@meshwright/core'
import { encodeUdpPacket, IpSet } from '@meshwright/ip'
import { drain, machineLaws, SeededRandom, VirtualClock } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { Engine, type EngineInput, type EngineOutput } from './index.ts'
import { ALLOW_ALL, endpoint, ip, keysOf, prefix, WALL } from './mesh-lab.test.ts'

const relays = { regions: new Map([[1, { id: 1, code: 'one', name: 'One', nodes: [{ name: '1a', regionId: 1, hostName: 'one.test' }] }]]) }
const packet = (to: number): Uint8Array => encodeUdpPacket({ src: { ip: ip('100.64.0.1'), port: 1 }, dst: { ip: ip(`100.64.0.${to}`), port: 2 }, payload: new Uint8Array(8) })

function make(random: SeededRandom, change: { readonly allowLoopback?: boolean; readonly blockUdp?: boolean } = {}): Engine {
  const { node, disco } = keysOf(1)
  let link = 0
  return new Engine({ nextLink: () => (link += 1), random: random.bytes, wallClock: () => WALL, privateKey: node, discoKey: disco, mtu: 1280, allowLoopback: false, blockUdp: false, ...change })
}

/** Peers 2 and 3: 2 has an endpoint and a disco key, 3 speaks WireGuard alone. */
function settle(engine: Engine, now = instant(1_000)): void {
  engine.setRelayMap(now, relays)
  engine.setHome(now, 1)
  engine.apply(now, {
    warnings: [],
    paths: [
      { nodeKey: keysOf(2).node.publicKey(), discoKey: keysOf(2).disco.publicKey(), endpoints: [endpoint('192.0.2.2:41641'), endpoint('127.0.0.1:5')], homeRegion: 1 },
      { nodeKey: keysOf(3).node.publicKey(), endpoints: [endpoint('192.0.2.3:41641')] },
    ],
    plane: {
      peers: [2, 3].map((n) => keysOf(n).node.publicKey()),
      routes: [2, 3].map((n) => ({ prefix: prefix(`100.64.0.${n}/32`), peer: keysOf(n).node.publicKey().text })),
      rules: ALLOW_ALL,
      local: IpSet.from([prefix('100.64.0.1/32')]),
    },
  })
}

const types = (outputs: readonly EngineOutput[]): string[] => outputs.map((output) => output.type)

test('loopback endpoints of peers are probed only where that is asked for', () => {
  const targets = (allowLoopback: boolean): string[] => {
    const engine = make(new SeededRandom(7), { allowLoopback })
    settle(engine)
    drain(engine)
    engine.handleInput(instant(1_000), { type: 'packet', bytes: packet(2) })
    return drain(engine).flatMap((output) => (output.type === 'datagram' ? [output.to.ip.key] : []))
  }
  expect(targets(false)).not.toContain('127.0.0.1')
  expect(targets(true)).toContain('127.0.0.1')
})

test('blocked UDP: nothing is sent and nothing is read, both counted; freed, it is used again', () => {
  const engine = make(new SeededRandom(7), { blockUdp: true })
  const clock = new VirtualClock(1_000)
  settle(engine)
  engine.handleInput(clock.now, { type: 'packet', bytes: packet(3) })
  engine.handleInput(clock.now, { type: 'datagram', bytes: new Uint8Array(64), from: endpoint('192.0.2.9:1') })
  expect(types(drain(engine))).not.toContain('datagram')
  expect(engine.blockedDatagrams).toBeGreaterThan(0)
  engine.setUdpBlocked(clock.now, false)
  drain(engine)
  engine.handleInput(clock.now, { type: 'packet', bytes: packet(2) })
  expect(types(drain(engine))).toContain('datagram')
})

test('a peer that is gone loses its path and its session; a relayed packet from it is not looked at', () => {
  const engine = make(new SeededRandom(7))
  const now = instant(1_000)
  settle(engine)
  engine.handleInput(now, { type: 'packet', bytes: packet(2) })
  expect(engine.lastSend(now, keysOf(2).node.publicKey())?.active).toBe(true)
  engine.apply(now, { warnings: [], paths: [], plane: { peers: [], routes: [], rules: ALLOW_ALL, local: IpSet.from([]) } })
  expect(engine.paths.pathFor(now, keysOf(2).node.publicKey())).toEqual({ type: 'none' })
  expect(engine.lastSend(now, keysOf(2).node.publicKey())).toBeUndefined()
  drain(engine)
  engine.handleInput(now, { type: 'packet', bytes: packet(2) })
  expect(types(drain(engine))).toEqual([])
  expect(Object.fromEntries(engine.plane.drops)).toEqual({ 'no-peer': 1 })
})

test('the end closes relays and forgets sessions: no deadline is left', () => {
  const engine = make(new SeededRandom(7))
  settle(engine)
  engine.handleInput(instant(1_000), { type: 'packet', bytes: packet(3) })
  engine.close(instant(1_000))
  expect(types(drain(engine))).toContain('relayClose')
  expect(engine.plane.pollTimeout()).toBeUndefined()
  expect(engine.relays.pollTimeout()).toBeUndefined()
})

test('keeps the machine laws', () => {
  machineLaws<EngineInput, EngineOutput>({
    make: (random) => make(random),
    exercise: (machine, now) => {
      if (machine instanceof Engine) settle(machine, now)
    },
    arbitraryInput: (random) => {
      const from = endpoint(`192.0.2.${2 + random.below(3)}:${random.pick([41641, 1])}`)
      const bytes = random.bytes(random.below(200))
      // The first byte of WireGuard's four messages, or of disco's magic.
      if (random.chance(0.5)) bytes.set(random.pick([[1, 0, 0, 0], [2, 0, 0, 0], [3, 0, 0, 0], [4, 0, 0, 0], [0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac]]).slice(0, bytes.length))
      return random.pick<EngineInput>([
        { type: 'datagram', bytes, from },
        { type: 'packet', bytes: packet(2 + random.below(3)) },
        { type: 'packet', bytes },
        { type: 'relay', input: { type: 'bytes', link: 1, bytes } },
        { type: 'relay', input: { type: 'opened', link: 1 } },
        { type: 'relay', input: { type: 'closed', link: 1 + random.below(3) } },
      ])
    },
    describe: (output) => JSON.stringify(output, (key, value: unknown) => (value instanceof Uint8Array ? [...value].join() : key === 'peer' ? String(value) : value)),
    seeds: 3,
  })
})
