import { type MapResponse, type Node, ZERO_NODE_KEY, ZERO_TIME } from '@meshwright/control-protocol'
import { formatEndpoint, formatPrefix } from '@meshwright/ip'
import { expect, test } from 'vitest'
import { applyMapResponse, hasCapability, isKeyExpired, magicDnsSuffix, mapNode, type NetworkMap, userOf } from './index.ts'

const WALL = Date.UTC(2026, 10, 21)
const key = (n: number): string => `nodekey:${n.toString(16).padStart(64, '0')}`
const node = (id: number, change: Partial<Node> = {}): Node => ({ ID: id, StableID: String(id), Name: `n${id}.tail.example.com.`, User: 1, Key: key(id), Addresses: [`100.64.0.${id}/32`], ...change })
const ALLOW = [{ SrcIPs: ['*'], DstPorts: [{ IP: '*', Ports: { First: 0, Last: 65535 } }] }]

function start(change: MapResponse = {}): NetworkMap {
  return applyMapResponse(undefined, { Node: node(1), Peers: [node(2), node(3)], ...change }, WALL) ?? expect.fail('no map')
}

function next(map: NetworkMap, response: MapResponse): NetworkMap {
  return applyMapResponse(map, response, WALL) ?? expect.fail('no map')
}

test('a stream that does not begin with the self node gives no map; what it leaves out is none', () => {
  expect(applyMapResponse(undefined, { Peers: [node(2)] }, WALL)).toBeUndefined()
  expect(applyMapResponse(undefined, { KeepAlive: true }, WALL)).toBeUndefined()
  const map = applyMapResponse(undefined, { Node: node(1) }, WALL)
  expect(map).toMatchObject({ peers: new Map(), packetFilter: [], dns: {}, domain: '', ssh: { rules: [] } })
})

test('later, absent and empty peers mean unchanged; a full list replaces all and voids the deltas beside it', () => {
  const map = start()
  expect(next(map, { Peers: [] })).toBe(map)
  expect([...next(map, { Peers: [node(4)], PeersRemoved: [4], PeersChangedPatch: [{ NodeID: 4, Online: true }] }).peers.keys()]).toEqual([4])
  expect([...next(map, { Peers: [node(4)], PeersRemoved: [4] }).peers.values()].map((peer) => peer.online)).toEqual([undefined])
})

test('deltas apply in order: removed, changed, seen, online, patches; unknown numbers change nothing', () => {
  const map = start()
  const after = next(map, {
    PeersRemoved: [2, 99],
    PeersChanged: [node(2, { Name: 'renamed.tail.example.com.' }), node(9)],
    PeerSeenChange: { 9: true },
    OnlineChange: { 9: false, 77: true },
    PeersChangedPatch: [{ NodeID: 9, Online: true }, { NodeID: 78, Online: true }],
  })
  expect([...after.peers.keys()]).toEqual([2, 3, 9])
  expect(after.peers.get(2)?.name).toBe('renamed.tail.example.com')
  expect(after.peers.get(9)).toMatchObject({ online: true, lastSeen: WALL })
  expect(next(after, { PeerSeenChange: { 9: false } }).peers.get(9)?.lastSeen).toBeUndefined()
})

test('a patch replaces what it names and nothing else', () => {
  const map = start({ Peers: [node(2, { HomeDERP: 1, Endpoints: ['192.0.2.1:1'], KeyExpiry: '2026-01-01T00:00:00Z', Tags: ['tag:x'] })] })
  const patched = next(map, {
    PeersChangedPatch: [{ NodeID: 2, DERPRegion: 0, Cap: 130, CapMap: { a: [] }, Endpoints: [], Key: key(22), DiscoKey: `discokey:${'7'.repeat(64)}`, Online: false, LastSeen: '2026-11-20T00:00:00Z', KeyExpiry: ZERO_TIME, KeySignature: 'c2lnbmVk' }],
  })
  const peer = patched.peers.get(2) ?? expect.fail('gone')
  expect(peer).toMatchObject({ homeRegion: 0, capabilityVersion: 130, endpoints: [], online: false, lastSeen: Date.UTC(2026, 10, 20), keyExpiry: undefined, tags: ['tag:x'] })
  expect(hasCapability(peer, 'a')).toBe(true)
  expect([...patched.peersByKey.keys()]).toEqual([key(22)])
  expect(peer.discoKey?.text).toBe(`discokey:${'7'.repeat(64)}`)
  expect(peer.wire.KeySignature).toBe('c2lnbmVk')
})

test('earlier maps never change, and what did not change stays the same object', () => {
  const map = start({ PacketFilter: ALLOW, DNSConfig: { Proxied: true } })
  const before = JSON.stringify([...map.peers.values()].map((peer) => peer.wire))
  const after = next(map, { PeersChangedPatch: [{ NodeID: 2, Online: true }] })
  expect(JSON.stringify([...map.peers.values()].map((peer) => peer.wire))).toBe(before)
  expect(after.peers.get(3)).toBe(map.peers.get(3))
  expect(after.packetFilter).toBe(map.packetFilter)
  expect(after.self).toBe(map.self)
  expect(next(after, { Node: node(1), PeersChanged: [node(2, { Online: true })], PacketFilters: { base: ALLOW }, DNSConfig: { Proxied: true }, UserProfiles: [] })).toBe(after)
})

test('packet filters: absent is unchanged, empty denies, chunks join by name, null deletes, star clears', () => {
  const rule = (ip: string): typeof ALLOW => [{ ...ALLOW[0], SrcIPs: [ip] }].flatMap((one) => (one.DstPorts ? [{ SrcIPs: one.SrcIPs, DstPorts: one.DstPorts }] : []))
  let map = start({ PacketFilter: rule('10.0.0.1') })
  expect(next(map, { Domain: 'x' }).packetFilter).toBe(map.packetFilter)
  map = next(map, { PacketFilters: { z: rule('10.0.0.3'), a: rule('10.0.0.2') } })
  expect(map.packetFilter.map((one) => one.SrcIPs[0])).toEqual(['10.0.0.2', '10.0.0.1', '10.0.0.3'])
  map = next(map, { PacketFilters: { a: null } })
  expect([...map.filterChunks.keys()]).toEqual(['base', 'z'])
  expect(next(map, { PacketFilters: { new: rule('10.0.0.9'), '*': null } }).packetFilter.map((one) => one.SrcIPs[0])).toEqual(['10.0.0.9'])
  expect(next(map, { PacketFilters: { '*': ALLOW } })).toBe(map)
  expect(next(map, { PacketFilter: [], PacketFilters: { z: null } }).packetFilter).toEqual([])
})

test('relays: a map without regions keeps the known ones, scores are kept apart', () => {
  const map = start({ DERPMap: { Regions: { 900: { RegionID: 900, RegionCode: 'a', RegionName: 'A', Nodes: [] } }, HomeParams: { RegionScore: { 900: 0.5, 901: 0 } } } })
  expect([...map.regionScores]).toEqual([[900, 0.5]])
  expect(next(map, { DERPMap: {} })).toBe(map)
  const other = next(map, { DERPMap: { HomeParams: { RegionScore: {} } } })
  expect(other.relays).toBe(map.relays)
  expect(other.regionScores.size).toBe(0)
})

test('users add up, messages are patched, DNS and SSH are replaced whole', () => {
  let map = start({ UserProfiles: [{ ID: 1, LoginName: 'alice@', DisplayName: 'Alice' }], SSHPolicy: { rules: [{ principals: [{ any: true }] }] }, DNSConfig: { Proxied: true, Domains: ['a'] } })
  map = next(map, { UserProfiles: [{ ID: 2, LoginName: 'bob@', DisplayName: 'Bob' }], DNSConfig: {}, SSHPolicy: { rules: [] }, DisplayMessages: { a: { Title: 'A', Text: '' }, b: { Title: 'B', Text: '' } } })
  expect([...map.users.keys()]).toEqual([1, 2])
  expect(map).toMatchObject({ dns: {}, ssh: { rules: [] } })
  expect([...next(map, { DisplayMessages: { a: null } }).displayMessages.keys()]).toEqual(['b'])
  expect(next(map, { DisplayMessages: { '*': null, c: { Title: 'C', Text: '' } } }).displayMessages.size).toBe(1)
  expect(next(map, { DisplayMessages: { '*': { Title: 'All', Text: '' } } })).toBe(map)
  expect(userOf(map, map.self)?.LoginName).toBe('alice@')
  expect(magicDnsSuffix(map)).toBe('tail.example.com')
})

test('a peer that turns unusable is gone, not kept with its old rights', () => {
  expect(next(start(), { PeersChanged: [node(2, { Key: ZERO_NODE_KEY })] }).peers.has(2)).toBe(false)
})

test('identifiers beyond 2^53 are found by removals and by decimal names', () => {
  const id = 9_007_199_254_740_993n
  const map = start({ Peers: [{ ...node(2), ID: id }, node(3)] })
  expect([...map.peers.keys()]).toEqual([3, id])
  expect(next(map, { OnlineChange: { '9007199254740993': true } }).peers.get(id)?.online).toBe(true)
  expect(next(map, { PeersRemoved: [id] }).peers.has(id)).toBe(false)
})

test('a node is read in typed form; what cannot be read gives less reach, never more', () => {
  const typed = mapNode(
    node(5, {
      Addresses: ['100.64.0.5/32', 'nonsense'],
      AllowedIPs: ['100.64.0.5/32', '10.0.0.0/8', '10.0.0.0/99'],
      Endpoints: ['192.0.2.1:5', '[fe80::1%eth0]:1', '[2001:db8::1]:7'],
      DERP: '127.3.3.40:12',
      Capabilities: ['old'],
      CapMap: { new: [1] },
      SelfNodeV4MasqAddrForThisPeer: '100.64.9.9',
      KeyExpiry: '2026-11-20T00:00:00Z',
    }),
  )
  expect(typed?.addresses.map(formatPrefix)).toEqual(['100.64.0.5/32'])
  expect(typed?.allowedIps.map(formatPrefix)).toEqual(['100.64.0.5/32', '10.0.0.0/8'])
  expect(typed?.endpoints.map(formatEndpoint)).toEqual(['192.0.2.1:5', '[2001:db8::1]:7'])
  expect(typed).toMatchObject({ homeRegion: 12, capabilities: { old: [], new: [1] }, isJailed: false, online: undefined })
  expect(typed?.masqueradeIpv4?.key).toBe('100.64.9.9')
  expect(typed && isKeyExpired(typed, WALL)).toBe(true)
  expect(typed && isKeyExpired(typed, WALL - 86_400_001)).toBe(false)
  expect(mapNode(node(6, { AllowedIPs: ['10.0.0.0/8', '100.64.0.6/32'], UnsignedPeerAPIOnly: true }))?.allowedIps.map(formatPrefix)).toEqual(['100.64.0.6/32'])
  expect(mapNode(node(6))?.allowedIps.map(formatPrefix)).toEqual(['100.64.0.6/32'])
  expect(mapNode(node(6, { AllowedIPs: [] }))?.allowedIps).toEqual([])
})

test('a filter that lets a peer with an unsigned key in is not believed at all, until that peer is gone', () => {
  const unsigned = node(2, { UnsignedPeerAPIOnly: true, CapMap: { guest: [] } })
  for (const source of ['*', '100.64.0.0/10', '100.64.0.2', '100.64.0.1-100.64.0.9', 'cap:guest']) {
    const map = start({ Peers: [unsigned], PacketFilter: [{ SrcIPs: ['10.0.0.1'], DstPorts: ALLOW[0]?.DstPorts ?? [] }, { SrcIPs: [source], DstPorts: ALLOW[0]?.DstPorts ?? [] }] })
    expect(map.packetFilter).toEqual([])
    expect(next(map, { PeersRemoved: [2] }).packetFilter.length).toBe(2)
  }
  for (const source of ['100.64.0.3', '100.64.0.3-100.64.0.9', 'cap:other', 'nonsense']) {
    expect(start({ Peers: [unsigned], PacketFilter: [{ SrcIPs: [source], DstPorts: ALLOW[0]?.DstPorts ?? [] }] }).packetFilter.length).toBe(1)
  }
})
