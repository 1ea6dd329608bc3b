import { instant, type Instant, type RelayMap } from '@meshwright/core'
import { DiscoPrivateKey, nobleProvider, NodePrivateKey } from '@meshwright/crypto'
import { encodeUdpPacket, type Endpoint, formatEndpoint, IpSet } from '@meshwright/ip'
import { type AppliedMap, Engine, type EngineOptions, type NodeEngine } from '@meshwright/mesh'
import { SeededRandom } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { endpoint, ip, must, prefix } from '../../test/values.ts'
import { EngineHost } from './engine-host.ts'
import type { FromEngine, ToEngine } from './engine-messages.ts'
import { RemoteEngine } from './remote-engine.ts'

const WALL = 1_700_000_000_000
const START = instant(1_000)

const seeds = new SeededRandom(11)
const [own, peer] = [1, 2].map(() => ({ node: NodePrivateKey.generate(seeds.bytes), disco: DiscoPrivateKey.generate(seeds.bytes) }))
const relays: RelayMap = { regions: new Map([[1, { id: 1, code: 'one', name: 'One', nodes: [{ name: '1a', regionId: 1, hostName: 'one.test' }] }]]) }
const peerKey = must(peer).node.publicKey()
const applied: AppliedMap = {
  warnings: [],
  paths: [{ nodeKey: peerKey, discoKey: must(peer).disco.publicKey(), endpoints: [endpoint('192.0.2.2:41641')], homeRegion: 1 }],
  plane: {
    peers: [peerKey],
    routes: [{ prefix: prefix('100.64.0.2/32'), peer: peerKey.text }],
    rules: [{ SrcIPs: ['100.64.0.2'], DstPorts: [{ IP: '*', Ports: { First: 0, Last: 65_535 } }], CapGrant: [{ Dsts: ['100.64.0.1/32'], CapMap: { 'x.test/cap': [{ level: 7 }] } }] }],
    local: IpSet.from([prefix('100.64.0.1/32')]),
  },
}
const packet = encodeUdpPacket({ src: { ip: ip('100.64.0.1'), port: 1 }, dst: { ip: ip('100.64.0.2'), port: 2 }, payload: new Uint8Array(8) })

function options(random: SeededRandom): EngineOptions {
  let link = 1_000_000
  return { random: random.bytes, wallClock: () => WALL, provider: nobleProvider, stopwatch: () => 0, privateKey: must(own).node, discoKey: must(own).disco, mtu: 1280, allowLoopback: false, blockUdp: false, nextLink: () => (link += 1) }
}

/** What an engine does, in words. */
type Acts = string[]

function say(acts: Acts, output: { readonly type: string; readonly bytes?: Uint8Array; readonly to?: Endpoint }): void {
  acts.push(`${output.type} ${output.to === undefined ? '' : formatEndpoint(output.to)} ${output.bytes === undefined ? '' : Buffer.from(output.bytes).toString('hex')}`.trim())
}

/** An engine in this thread, and one behind messages that are copied as between threads. */
function both(): readonly { readonly engine: NodeEngine; readonly acts: () => Acts; readonly advance: (now: Instant) => void; readonly kill: () => void }[] {
  const local = new Engine(options(new SeededRandom(7)))
  const localActs: Acts = []
  const drainLocal = (): Acts => {
    for (let output = local.pollOutput(); output !== undefined; output = local.pollOutput()) say(localActs, output)
    return localActs.splice(0).sort()
  }
  let now = START
  const acts: Acts = []
  const toNode: FromEngine[] = []
  const random = new SeededRandom(7)
  const newHost = (): EngineHost =>
    new EngineHost({
      random: random.bytes,
      wallClock: () => WALL,
      stopwatch: () => 0,
      provider: nobleProvider,
      post: (message) => toNode.push(structuredClone(message)),
      send: (bytes, to) => say(acts, { type: 'datagram', bytes, to }),
      deliver: (bytes) => say(acts, { type: 'deliver', bytes }),
    })
  let host = newHost()
  const remote: RemoteEngine = new RemoteEngine(1, options(new SeededRandom(0)), (message: ToEngine) => host.take(now, structuredClone(message)))
  const drainRemote = (): Acts => {
    for (const message of toNode.splice(0)) if (message.type !== 'service') remote.receive(message)
    for (let output = remote.pollOutput(); output !== undefined; output = remote.pollOutput()) say(acts, output)
    return acts.splice(0).sort()
  }
  return [
    { engine: local, acts: drainLocal, advance: (to) => local.handleTimeout(to), kill: () => undefined },
    {
      engine: remote,
      acts: drainRemote,
      advance: (to) => {
        now = to
        host.engine?.handleTimeout(to)
        host.settle(to)
        host.showChanges(to)
      },
      kill: () => {
        host = newHost()
        remote.revive()
      },
    },
  ]
}

test('an engine in another thread does what one in this thread does, byte for byte, and shows the same', () => {
  const [local, remote] = both()
  if (local === undefined || remote === undefined) throw new Error('two engines')
  const step = (act: (engine: NodeEngine) => void): void => {
    act(local.engine)
    act(remote.engine)
    const did = local.acts()
    expect(remote.acts()).toEqual(did)
  }
  step((engine) => engine.setRelayMap(START, relays))
  step((engine) => engine.setHome(START, 1))
  step((engine) => engine.setSelfEndpoints(START, [endpoint('198.51.100.1:41641')]))
  step((engine) => engine.apply(START, applied))
  step((engine) => engine.handleInput(START, { type: 'packet', bytes: packet }))
  step((engine) => engine.ping(START, peerKey, 4))
  step((engine) => engine.handleInput(START, { type: 'datagram', bytes: new Uint8Array(64).fill(1), from: endpoint('192.0.2.9:1') }))
  step((engine) => engine.handleInput(START, { type: 'packet', bytes: new Uint8Array(3) }))
  for (const at of [1_500, 3_000, 8_000, 20_000].map(instant)) {
    local.advance(at)
    remote.advance(at)
    expect(remote.acts()).toEqual(local.acts())
    expect(remote.engine.peer(at, peerKey)).toEqual(local.engine.peer(at, peerKey))
    expect(remote.engine.drops(at)).toEqual(local.engine.drops(at))
    expect(remote.engine.traffic()).toEqual(local.engine.traffic())
    expect(remote.engine.isActive(at)).toBe(local.engine.isActive(at))
  }
  expect(remote.engine.drops(START)).toMatchObject({ malformed: 1 })
  expect(remote.engine.capsFor(ip('100.64.0.2'), ip('100.64.0.1'))).toEqual(new Map([['x.test/cap', [{ level: 7 }]]]))
  expect(remote.engine.homeRelay).toBe(1)
  step((engine) => engine.close(instant(20_000)))
})

test('a thread that died is told everything again: peers, home relay and rules are as they were, sessions are begun anew', () => {
  const [, remote] = both()
  if (remote === undefined || !(remote.engine instanceof RemoteEngine)) throw new Error('an engine')
  const { engine } = remote
  engine.setRelayMap(START, relays)
  engine.setHome(START, 1)
  engine.apply(START, applied)
  remote.acts()
  remote.kill()
  expect(remote.acts().filter((act) => act.startsWith('relayDial'))).toHaveLength(1)
  engine.handleInput(START, { type: 'packet', bytes: packet })
  expect(remote.acts().some((act) => act.startsWith('datagram'))).toBe(true)
  engine.look()
  remote.acts()
  expect(engine.explain(START, peerKey)?.candidates.map((candidate) => formatEndpoint(candidate.endpoint))).toEqual(['192.0.2.2:41641'])
})

test('with a thread its connections with relays end; those of the next one have other numbers, and what a dead one still says is not heard', () => {
  let now = START
  const posted: FromEngine[] = []
  const host = (): EngineHost => new EngineHost({ random: new SeededRandom(7).bytes, wallClock: () => WALL, stopwatch: () => 0, provider: nobleProvider, post: (message) => posted.push(structuredClone(message)), send: () => undefined, deliver: () => undefined })
  let [running, dead] = [host(), host()]
  const engine: RemoteEngine = new RemoteEngine(1, options(new SeededRandom(0)), (message: ToEngine) => running.take(now, structuredClone(message)))
  const links = (): readonly (readonly [string, number])[] => {
    for (const message of posted.splice(0)) if (message.type !== 'service') engine.receive(message)
    const found: [string, number][] = []
    for (let output = engine.pollOutput(); output !== undefined; output = engine.pollOutput()) if ('link' in output) found.push([output.type, output.link])
    return found
  }
  engine.setRelayMap(START, relays)
  engine.setHome(START, 1)
  const [[, first] = ['', 0]] = links()
  const known = new Set([first])
  for (let death = 0; death < 3; death += 1) {
    engine.handleInput(now, { type: 'relay', input: { type: 'opened', link: [...known].at(-1) ?? 0 } })
    engine.lost()
    expect(links()).toEqual([['relayClose', [...known].at(-1)]])
    expect(engine.isRelayConnected(1)).toBe(false)
    // What was under way when it died.
    ;[dead, running] = [running, host()]
    now = instant(now + 10_000)
    dead.engine?.handleTimeout(now)
    dead.settle(now)
    expect(links()).toEqual([])
    engine.revive()
    const [[type, link] = ['', 0], ...more] = links()
    expect([type, more, known.has(link)]).toEqual(['relayDial', [], false])
    known.add(link)
  }
  // One that has ended by itself is not ended once more.
  engine.handleInput(now, { type: 'relay', input: { type: 'closed', link: [...known].at(-1) ?? 0 } })
  links()
  engine.lost()
  expect(links()).toEqual([])
})

test('counters go on when a thread died: what was shown is never taken back', () => {
  const [, remote] = both()
  if (remote === undefined || !(remote.engine instanceof RemoteEngine)) throw new Error('an engine')
  const { engine } = remote
  const shown = (): unknown => {
    engine.look()
    remote.acts()
    const { packetsOut, sent } = engine.traffic()
    return [engine.drops(START)['malformed'], packetsOut, sent, engine.peer(START, peerKey)?.sentBytes]
  }
  engine.apply(START, applied)
  for (let death = 0; death < 3; death += 1) {
    engine.handleInput(START, { type: 'packet', bytes: packet })
    engine.handleInput(START, { type: 'packet', bytes: new Uint8Array(3) })
    const before = shown()
    expect(before).toEqual([death + 1, death + 1, expect.anything(), expect.any(Number)])
    remote.kill()
    expect(shown()).toEqual(before)
  }
  engine.apply(START, { ...applied, paths: [], plane: { ...applied.plane, peers: [], routes: [] } })
  expect(engine.drops(START)['malformed']).toBe(3)
})
