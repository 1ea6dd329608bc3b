import { after, instant, type Instant, type RelayMap } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { DerpServer } from '@meshwright/derp'
import { encodeUdpPacket, IpSet } from '@meshwright/ip'
import { drain, SeededRandom } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { Engine, type EngineOutput } from './index.ts'
import { ALLOW_ALL, endpoint, ip, keysOf, prefix, WALL } from './mesh-lab.test.ts'

const peer = keysOf(2).node.publicKey()
const relays: RelayMap = { regions: new Map([[1, { id: 1, code: 'one', name: 'One', nodes: [{ name: '1a', regionId: 1, hostName: 'one.test' }] }]]) }
const packet = encodeUdpPacket({ src: { ip: ip('100.64.0.1'), port: 1 }, dst: { ip: ip('100.64.0.2'), port: 2 }, payload: new Uint8Array(8) })

function make(): Engine {
  const { node, disco } = keysOf(1)
  let link = 0
  return new Engine({ nextLink: () => (link += 1), random: new SeededRandom(7).bytes, wallClock: () => WALL, privateKey: node, discoKey: disco, mtu: 1280, allowLoopback: false, blockUdp: false })
}

/** The map of a mesh whose other node is as given. */
function know(engine: Engine, now: Instant, how: { readonly endpoints?: readonly string[]; readonly homeRegion?: number }): void {
  engine.apply(now, {
    warnings: [],
    paths: [{ nodeKey: peer, ...(how.homeRegion !== undefined && { homeRegion: how.homeRegion }), endpoints: (how.endpoints ?? []).map(endpoint) }],
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
