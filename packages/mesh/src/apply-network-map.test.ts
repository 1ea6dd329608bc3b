import { formatEndpoint, formatPrefix, parseIp } from '@meshwright/ip'
import type { Node } from '@meshwright/control-protocol'
import { describe, expect, test } from 'vitest'
import { acceptedRoutes, applyNetworkMap, DEFAULT_PREFS, type Prefs } from './index.ts'
import { MAX_PEERS, offeredAddresses, usableEndpoints } from './apply-network-map.ts'
import { ALLOW_ALL, keysOf, networkMap, prefix, WALL, wireNode } from './mesh-lab.test.ts'

const SUBNET = '10.1.0.0/16'
const EXIT = ['0.0.0.0/0', '::/0']
const own = (n: number): string[] => [`100.64.0.${n}/32`, `fd7a:115c:a1e0::${n}/128`]
const router = (n: number, routes: readonly string[], change: Partial<Node> = {}): Node => wireNode(n, { AllowedIPs: [...own(n), ...routes], ...change })

/** The routes of each peer by its number, as text. */
function routes(peers: readonly Node[], prefs: Partial<Prefs> = {}, wallNow: number = WALL): Record<number, string[]> {
  const { plane, paths } = applyNetworkMap(networkMap({ Node: wireNode(1), Peers: peers, PacketFilters: { base: ALLOW_ALL } }), { ...DEFAULT_PREFS, ...prefs }, wallNow)
  expect(paths.map((path) => path.nodeKey.text), 'whoever has a path is a peer').toEqual(plane.peers.map((key) => key.text))
  return Object.fromEntries(
    peers.flatMap((peer) => {
      const key = keysOf(Number(peer.ID)).node.publicKey()
      if (!plane.peers.some((each) => each.equals(key))) return []
      return [[Number(peer.ID), plane.routes.filter((route) => route.peer === key.text).map((route) => formatPrefix(route.prefix))]]
    }),
  )
}

describe('addresses that can be nobody\'s', () => {
  const told = (endpoints: readonly string[], allowLoopback: boolean = false): readonly string[] =>
    applyNetworkMap(networkMap({ Node: wireNode(1), Peers: [wireNode(2, { Endpoints: endpoints }), wireNode(3)] }), DEFAULT_PREFS, WALL, allowLoopback).warnings

  test('are told of: loopback, multicast, nowhere, the sign of a relay; those of other networks are not', () => {
    expect(told(['127.0.0.1:9', '224.0.0.1:9', '0.0.0.0:9', '127.3.3.40:900', '203.0.113.1:9'])).toEqual([
      expect.stringMatching(/^The control server names addresses of \S+ that can be nobody's \(127\.0\.0\.1:9, 224\.0\.0\.1:9, 0\.0\.0\.0:9, \.\.\.\): they are not tried\. What such a node reports of itself is to be checked$/),
    ])
    expect(told(['10.0.0.1:9', '100.64.7.7:9', '169.254.1.1:9', '[fe80::1]:9', '[2001:db8::1]:9'])).toEqual([])
  })

  test('loopback is nothing to tell where nodes share a machine on purpose', () => {
    expect([told(['127.0.0.1:9', '[::1]:9'], true), told(['127.3.3.40:900'], true).length]).toEqual([[], 1])
  })
})

describe('routes', () => {
  test('a peer always has its own addresses; subnets only where routes are accepted', () => {
    expect(routes([router(2, [SUBNET])])).toEqual({ 2: own(2) })
    expect(routes([router(2, [SUBNET])], { acceptRoutes: true })).toEqual({ 2: [...own(2), SUBNET] })
  })

  test('everything goes to the exit node that is named, by stable ID or by address, and to no other', () => {
    const peers = [router(2, EXIT), router(3, EXIT)]
    expect(routes(peers, { acceptRoutes: true })).toEqual({ 2: own(2), 3: own(3) })
    expect(routes(peers, { exitNode: 'stable3' })).toEqual({ 2: own(2), 3: [...own(3), ...EXIT] })
    expect(routes(peers, { exitNode: '100.64.0.2' })).toEqual({ 2: [...own(2), ...EXIT], 3: own(3) })
    expect(routes(peers, { exitNode: 'stable9' })).toEqual({ 2: own(2), 3: own(3) })
  })

  test('what is ignored is said, and only then', () => {
    const warnings = (peer: Node, prefs: Partial<Prefs>): readonly string[] => applyNetworkMap(networkMap({ Node: wireNode(1), Peers: [peer] }), { ...DEFAULT_PREFS, ...prefs }, WALL).warnings
    expect(warnings(router(2, [SUBNET]), {})).toEqual(['Some peers are advertising routes but --accept-routes is false'])
    expect(warnings(router(2, [SUBNET]), { acceptRoutes: true })).toEqual([])
    expect(warnings(router(2, []), {})).toEqual([])
    expect(warnings(router(2, EXIT), {}), 'an exit node is an offer, not a loss').toEqual([])
  })

  test('acceptedRoutes never gives more than the server allows', () => {
    const peer = networkMap({ Node: wireNode(1), Peers: [wireNode(2, { AllowedIPs: [] })] }).peers.get(2) ?? expect.fail('gone')
    expect(acceptedRoutes(peer, { ...DEFAULT_PREFS, acceptRoutes: true, exitNode: 'stable2' })).toEqual([])
  })
})

describe('what is behind this node', () => {
  const behind = (offered: readonly string[]): ReturnType<typeof offeredAddresses> => {
    const { self } = networkMap({ Node: wireNode(1) })
    return offeredAddresses(self, { ...DEFAULT_PREFS, advertiseRoutes: offered.map(prefix) })
  }
  const holds = (set: ReturnType<typeof offeredAddresses>, text: string): boolean => set.contains(parseIp(text) ?? expect.fail(text))

  test('is what it offers, whether or not its own map tells of an approval, and not its own address', () => {
    expect(behind(['10.1.0.0/16', '100.64.0.1/32']).toString()).toBe('10.1.0.0/16')
    expect(behind([]).isEmpty).toBe(true)
  })

  test('is the internet for an exit node: not networks next door, nor the link, nor loopback, nor the mesh', () => {
    const set = behind(EXIT)
    for (const text of ['203.0.113.80', '1.1.1.1', '2606:4700::1111', '64:ff9b::101:101']) expect(holds(set, text), text).toBe(true)
    for (const text of ['10.0.0.1', '192.168.1.1', '172.16.0.1', '169.254.169.254', '127.0.0.1', '0.0.0.0', '100.64.0.9', '224.0.0.1', '255.255.255.255', '::1', '::ffff:127.0.0.1', 'fd7a:115c:a1e0::9', 'fe80::1', 'ff02::1']) {
      expect(holds(set, text), text).toBe(false)
    }
  })

  test('holds a private network all the same when that is offered by name', () => {
    const set = behind([...EXIT, '192.168.7.0/24'])
    expect([holds(set, '192.168.7.1'), holds(set, '192.168.8.1'), holds(set, '1.1.1.1')]).toEqual([true, false, true])
  })
})

describe('peers that are left out', () => {
  test('expired by the server\'s word or by the clock', () => {
    expect(routes([wireNode(2, { Expired: true }), wireNode(3)])).toEqual({ 3: own(3) })
    const timed = wireNode(2, { KeyExpiry: new Date(WALL + 1_000).toISOString() })
    expect(routes([timed])).toEqual({ 2: own(2) })
    expect(routes([timed], {}, WALL + 1_001)).toEqual({})
  })

  test('jailed', () => {
    expect(routes([wireNode(2, { IsJailed: true }), wireNode(3)])).toEqual({ 3: own(3) })
  })
})

describe('what this node answers for', () => {
  const local = (prefs: Partial<Prefs>, allowed: readonly string[] = []): boolean => {
    const map = networkMap({ Node: router(1, allowed) })
    return applyNetworkMap(map, { ...DEFAULT_PREFS, ...prefs }, WALL).plane.local.contains(parseIp('10.1.2.3') ?? expect.fail())
  }

  test('its addresses, and what it offers: of approvals headscale does not tell', () => {
    expect(local({})).toBe(false)
    expect(local({ advertiseRoutes: [prefix(SUBNET)] }), 'offered').toBe(true)
    expect(local({}, [SUBNET]), 'approved, not offered any more').toBe(false)
    expect(local({ advertiseRoutes: [prefix(SUBNET)] }, [SUBNET])).toBe(true)
  })
})

describe('sources that are capabilities', () => {
  const ASKS = [{ ...ALLOW_ALL[0], SrcIPs: ['cap:example.com/cap/in'], DstPorts: [{ IP: '*', Ports: { First: 0, Last: 65535 } }] }]
  const held = (peers: readonly Node[], rules: typeof ALLOW_ALL = ASKS): unknown => {
    const map = networkMap({ Node: wireNode(1), Peers: peers, PacketFilters: { base: rules } })
    // While there is an unsigned peer, the control client leaves such rules out altogether; what if it did not?
    const { capabilities } = applyNetworkMap({ ...map, packetFilter: rules }, DEFAULT_PREFS, WALL).plane
    return capabilities && Object.fromEntries([...capabilities].map(([key, names]) => [key, [...names]]))
  }

  test('are told by the addresses of peers that have them, whatever their values; others of theirs are not', () => {
    const peers = [wireNode(2, { CapMap: { 'example.com/cap/in': [], 'example.com/cap/other': [] } }), wireNode(3, { Capabilities: ['example.com/cap/in'] }), wireNode(4)]
    const addresses = (n: number): readonly string[] => networkMap({ Node: wireNode(1), Peers: [wireNode(n)] }).peers.get(n)?.addresses.map(({ ip }) => ip.key) ?? expect.fail()
    expect(held(peers)).toEqual(Object.fromEntries([2, 3].flatMap(addresses).map((key) => [key, ['example.com/cap/in']])))
  })

  test('nothing is told where no rule asks', () => expect(held([wireNode(2, { CapMap: { 'example.com/cap/in': [] } })], ALLOW_ALL)).toBeUndefined())

  test('an unsigned peer, an expired one and a jailed one have none', () => {
    const CapMap = { 'example.com/cap/in': [] }
    expect(held([wireNode(2, { CapMap, UnsignedPeerAPIOnly: true }), wireNode(3, { CapMap, Expired: true }), wireNode(4, { CapMap, IsJailed: true })])).toEqual({})
  })
})

describe('unsigned peers', () => {
  const apply = (rules: typeof ALLOW_ALL, peer: Node): { readonly rules: number; readonly warnings: readonly string[] } => {
    const map = networkMap({ Node: wireNode(1), Peers: [peer, wireNode(3)], PacketFilters: { base: rules } })
    const { plane, warnings } = applyNetworkMap(map, DEFAULT_PREFS, WALL)
    // Nor is it when the control client has let it through.
    const overlooked = applyNetworkMap({ ...map, packetFilter: rules }, DEFAULT_PREFS, WALL)
    expect([overlooked.plane.rules.length, overlooked.warnings]).toEqual([plane.rules.length, warnings])
    return { rules: plane.rules.length, warnings }
  }

  test('a filter that admits one is not believed at all', () => {
    expect(apply(ALLOW_ALL, wireNode(2))).toEqual({ rules: 1, warnings: [] })
    const distrusted = apply(ALLOW_ALL, wireNode(2, { UnsignedPeerAPIOnly: true }))
    expect(distrusted.rules).toBe(0)
    expect(distrusted.warnings).toEqual([expect.stringContaining('not signed')])
  })

  test('one that does not admit it stands', () => {
    const rules = [{ ...ALLOW_ALL[0], SrcIPs: ['100.64.0.3'], DstPorts: [{ IP: '*', Ports: { First: 0, Last: 65535 } }] }]
    expect(apply(rules, wireNode(2, { UnsignedPeerAPIOnly: true }))).toEqual({ rules: 1, warnings: [] })
  })

  test('it carries no routes', () => {
    expect(routes([router(2, [SUBNET], { UnsignedPeerAPIOnly: true })], { acceptRoutes: true })[2]).not.toContain(SUBNET)
  })
})

describe('bounds', () => {
  test('of more peers than a node can hold the rest is left out, with a word about it', () => {
    const map = networkMap({ Node: wireNode(1), Peers: [wireNode(2)] })
    const [peer] = map.peers.values()
    if (peer === undefined) throw new Error('no peer')
    const crowd = (count: number): ReturnType<typeof applyNetworkMap> =>
      applyNetworkMap({ ...map, peers: new Map(Array.from({ length: count }, (_, i) => [i, peer])) }, DEFAULT_PREFS, WALL)
    const [full, more] = [crowd(MAX_PEERS), crowd(MAX_PEERS + 3)]
    expect([full.plane.peers.length, more.plane.peers.length, more.paths.length]).toEqual([MAX_PEERS, MAX_PEERS, MAX_PEERS])
    expect(full.warnings).toEqual([])
    expect(more.warnings[0]).toMatch(/more than 60000 peers: 3 of them are left out/)
  })

  test('endpoints of loopback lead a node to itself: they are not tried, unless nodes share a machine on purpose', () => {
    const map = networkMap({ Node: wireNode(1), Peers: [wireNode(2, { Endpoints: ['127.0.0.1:9', '[::1]:9', '203.0.113.1:9'] })] })
    const { paths } = applyNetworkMap(map, DEFAULT_PREFS, WALL)
    const ports = (allowed: boolean): readonly string[] => usableEndpoints(paths, allowed).flatMap(({ endpoints }) => endpoints.map(formatEndpoint))
    expect(ports(false)).toEqual(['203.0.113.1:9'])
    expect(ports(true)).toHaveLength(3)
  })
})
