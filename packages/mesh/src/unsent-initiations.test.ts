import { after, instant, type Instant, type RelayMap } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { DerpServer } from '@meshwright/derp'
import { encodeUdpPacket, IpSet } from '@meshwright/ip'
import { drain, SeededRandom } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { Engine, type EngineOutput } from './index.ts'
import { UnsentInitiations } from './unsent-initiations.ts'
import { ALLOW_ALL, endpoint, ip, keysOf, prefix, WALL } from './mesh-lab.test.ts'

const peer = keysOf(2).node.publicKey()
const relays: RelayMap = { regions: new Map([[1, { id: 1, code: 'one', name: 'One', nodes: [{ name: '1a', regionId: 1, hostName: 'one.test' }] }]]) }
const packet = encodeUdpPacket({ src: { ip: ip('100.64.0.1'), port: 1 }, dst: { ip: ip('100.64.0.2'), port: 2 }, payload: new Uint8Array(8) })

function make(host: number = 1): Engine {
  const { node, disco } = keysOf(host)
  let link = 0
  return new Engine({ nextLink: () => (link += 1), random: new SeededRandom(6 + host).bytes, wallClock: () => WALL, privateKey: node, discoKey: disco, mtu: 1280, allowLoopback: false, blockUdp: false })
}

/** The map of a mesh whose other node is as given. */
function know(engine: Engine, now: Instant, how: { readonly endpoints?: readonly string[]; readonly homeRegion?: number; readonly disco?: boolean }): void {
  engine.apply(now, {
    warnings: [],
    paths: [{ nodeKey: peer, ...(how.disco === true && { discoKey: keysOf(2).disco.publicKey() }), ...(how.homeRegion !== undefined && { homeRegion: how.homeRegion }), endpoints: (how.endpoints ?? []).map(endpoint) }],
    plane: { peers: [peer], routes: [{ prefix: prefix('100.64.0.2/32'), peer: peer.text }], rules: ALLOW_ALL, local: IpSet.from([prefix('100.64.0.1/32')]) },
  })
}

const initiations = (outputs: readonly EngineOutput[]): number => outputs.filter((output) => output.type === 'datagram' && output.bytes[0] === 1).length

test('an initiation for which there was no way goes out when the first path is known, and not five seconds later', () => {
  const engine = make()
  know(engine, instant(1_000), {})
  engine.handleInput(instant(1_000), { type: 'packet', bytes: packet })
  expect(initiations(drain(engine))).toBe(0)
  know(engine, instant(1_200), { endpoints: ['192.0.2.2:41641'] })
  expect(initiations(drain(engine))).toBe(1)
  // That one was sent: the next waits its five seconds, whatever is learnt of paths.
  know(engine, instant(1_300), { endpoints: ['192.0.2.3:41641'] })
  engine.handleInput(instant(1_300), { type: 'packet', bytes: packet })
  expect(initiations(drain(engine))).toBe(0)
  engine.handleTimeout(instant(6_600))
  expect(initiations(drain(engine))).toBe(1)
})

test('an initiation that waited for a relay in vain goes out when the relay is there', () => {
  const engine = make()
  const server = new DerpServer({ privateKey: NodePrivateKey.generate(new SeededRandom(9).bytes), random: new SeededRandom(4).bytes })
  let now = instant(1_000)
  const serve = (link: number): void => {
    for (let busy = true; busy; ) {
      busy = false
      for (const output of drain(engine)) if (output.type === 'relayWrite' && output.link === link) server.handleInput(now, { type: 'bytes', conn: 1, bytes: output.bytes })
      for (const output of drain(server)) {
        if (output.type !== 'write') continue
        busy = true
        engine.handleInput(now, { type: 'relay', input: { type: 'bytes', link, bytes: output.bytes } })
      }
    }
  }
  engine.setRelayMap(now, relays)
  engine.setHome(now, 1)
  know(engine, now, { homeRegion: 1 })
  engine.handleInput(now, { type: 'packet', bytes: packet }) // while the relay is being dialled
  engine.handleInput(now, { type: 'relay', input: { type: 'closed', link: 1, reason: 'connection refused' } })
  drain(engine)
  // 250 ms later, give or take half, it is dialled again, and takes the connection.
  let dial: EngineOutput | undefined
  while (dial === undefined && now < 2_000) {
    now = after(now, 10)
    engine.handleTimeout(now)
    dial = drain(engine).find((output) => output.type === 'relayDial')
  }
  if (dial?.type !== 'relayDial') return expect.fail('no second dial')
  server.handleInput(now, { type: 'accepted', conn: 1 })
  engine.handleInput(now, { type: 'relay', input: { type: 'opened', link: dial.link } })
  const before = engine.relays.traffic.bytesOut
  serve(dial.link)
  expect(engine.isRelayConnected(1)).toBe(true)
  expect(engine.relays.traffic.bytesOut - before).toBe(148) // whitepaper 5.4.2: an initiation, once
  expect(now - 1_000).toBeLessThan(1_000)
})

/** A relay that the engine is connected with, and the other node, which is not: it is heard at 192.0.2.2, when it is let. */
function besideRelay(now: Instant): { readonly engine: Engine; readonly exchange: (now: Instant) => readonly EngineOutput[]; readonly reach: { peer: boolean; relay: boolean }; readonly link: () => number } {
  const engine = make()
  const other = make(2)
  const server = new DerpServer({ privateKey: NodePrivateKey.generate(new SeededRandom(9).bytes), random: new SeededRandom(4).bytes })
  const reach = { peer: true, relay: true }
  let link = 0
  const toRelay: Uint8Array[] = []
  const exchange = (at: Instant): readonly EngineOutput[] => {
    const did: EngineOutput[] = []
    for (let busy = true; busy; ) {
      busy = false
      for (const output of drain(engine)) {
        did.push(output)
        busy = true
        if (output.type === 'relayDial') {
          link = output.link
          server.handleInput(at, { type: 'accepted', conn: link })
          engine.handleInput(at, { type: 'relay', input: { type: 'opened', link } })
        } else if (output.type === 'relayWrite') toRelay.push(output.bytes)
        else if (output.type === 'datagram' && reach.peer) other.handleInput(at, { type: 'datagram', bytes: output.bytes, from: endpoint('192.0.2.1:41641') })
      }
      if (reach.relay) for (const bytes of toRelay.splice(0)) server.handleInput(at, { type: 'bytes', conn: link, bytes })
      for (const output of drain(server)) {
        if (output.type !== 'write') continue
        busy = true
        engine.handleInput(at, { type: 'relay', input: { type: 'bytes', link, bytes: output.bytes } })
      }
      for (const output of drain(other)) {
        if (output.type !== 'datagram') continue
        busy = true
        engine.handleInput(at, { type: 'datagram', bytes: output.bytes, from: endpoint('192.0.2.2:41641') })
      }
    }
    return did
  }
  const { node, disco } = keysOf(1)
  other.apply(now, { warnings: [], paths: [{ nodeKey: node.publicKey(), discoKey: disco.publicKey(), endpoints: [] }], plane: { peers: [node.publicKey()], routes: [{ prefix: prefix('100.64.0.1/32'), peer: node.publicKey().text }], rules: ALLOW_ALL, local: IpSet.from([prefix('100.64.0.2/32')]) } })
  engine.setRelayMap(now, relays)
  engine.setHome(now, 1)
  // Told to the peer by relay: relays say of disco messages alone that their receiver is not there.
  engine.setSelfEndpoints(now, [endpoint('192.0.2.1:41641')])
  know(engine, now, { homeRegion: 1, endpoints: ['192.0.2.2:41641'], disco: true })
  exchange(now)
  return { engine, exchange, reach, link: () => link }
}

const established = (engine: Engine, now: Instant): boolean => engine.peer(now, peer)?.latestHandshake !== undefined

test('an initiation that a relay could not hand on, since the peer is not there, goes out by the first direct path, whichever is known first', () => {
  for (const first of ['relay', 'peer'] as const) {
    const { engine, exchange, reach } = besideRelay(instant(1_000))
    reach[first === 'relay' ? 'peer' : 'relay'] = false
    engine.handleInput(instant(2_000), { type: 'packet', bytes: packet })
    expect(initiations(exchange(instant(2_000)))).toBe(0)
    expect(established(engine, instant(2_000))).toBe(false)
    reach[first === 'relay' ? 'peer' : 'relay'] = true
    if (first === 'relay') engine.ping(instant(2_300), peer, 1)
    expect(initiations(exchange(instant(2_300)))).toBe(1)
    expect(established(engine, instant(2_300))).toBe(true)
    // Once: nothing that the relay says makes it more.
    engine.handleInput(instant(2_400), { type: 'packet', bytes: packet })
    expect(initiations(exchange(instant(2_400)))).toBe(0)
  }
})

/** Initiations that leave by a relay: a frame of type 4, its length, its receiver, the datagram. */
const byRelay = (outputs: readonly EngineOutput[]): number => outputs.filter((output) => output.type === 'relayWrite' && output.bytes[0] === 4 && output.bytes[37] === 1).length

test('an initiation that a relay took and may have lost with its connection goes out when the relay is there again, once', () => {
  const { engine, exchange, reach, link } = besideRelay(instant(1_000))
  reach.peer = false
  reach.relay = false
  engine.handleInput(instant(2_000), { type: 'packet', bytes: packet })
  expect(byRelay(exchange(instant(2_000)))).toBe(1)
  const lost = link()
  engine.handleInput(instant(2_100), { type: 'relay', input: { type: 'closed', link: lost, reason: 'reset' } })
  reach.relay = true
  let now = instant(2_100)
  const did: EngineOutput[] = []
  while (now < 4_000) {
    now = after(now, 10)
    engine.handleTimeout(now)
    did.push(...exchange(now))
  }
  expect(link()).not.toBe(lost)
  expect(byRelay(did)).toBe(1)
})

test('what a relay says counts once for each initiation that it took, of its own region, within five seconds, and of peers that are known', () => {
  const unsent = new UnsentInitiations()
  const [initiation, data] = [Uint8Array.of(1, 0, 0, 0), Uint8Array.of(4, 0, 0, 0)]
  const taken = (): void => unsent.noteTaken(instant(1_000), peer, initiation, 1)
  expect(unsent.notThere(instant(1_000), peer, 1)).toBe(false)
  unsent.noteTaken(instant(1_000), peer, data, 1)
  expect(unsent.notThere(instant(1_000), peer, 1)).toBe(false)
  taken()
  expect([unsent.notThere(instant(1_100), peer, 2), unsent.notThere(instant(5_999), peer, 1), unsent.notThere(instant(5_999), peer, 1)]).toEqual([false, true, false])
  expect([unsent.take(peer), unsent.take(peer)]).toEqual([true, false])
  taken()
  expect([unsent.notThere(instant(6_000), peer, 1), unsent.take(peer)]).toEqual([false, false])
  taken()
  unsent.lost(instant(1_500), 2)
  expect(unsent.connected(2)).toEqual([])
  unsent.lost(instant(1_500), 1)
  expect(unsent.connected(1)).toEqual([peer])
  taken()
  unsent.forget(peer)
  expect([unsent.notThere(instant(1_100), peer, 1), unsent.take(peer)]).toEqual([false, false])
})
