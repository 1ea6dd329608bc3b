import { NodePublicKey } from '@meshwright/crypto'
import { parseIp, parsePrefix } from '@meshwright/ip'
import { DEFAULT_PREFS, type MeshStatus, NO_WAY_COUNTS, type PeerStatus } from '@meshwright/mesh'
import { expect, test } from 'vitest'
import { renderMetrics } from './metrics.ts'
import { pingJson, stateNumber, statusJson, whoisJson } from './wire.ts'

function must<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('a fixture is wrong')
  return value
}

const key = must(NodePublicKey.parse(`nodekey:${'11'.repeat(32)}`))
const ip = must(parseIp('100.64.0.7'))
const endpoint = { ip: must(parseIp('192.0.2.9')), port: 41641 }
const peer: PeerStatus = {
  nodeKey: key,
  id: 7,
  stableId: 'n7',
  name: 'db.mesh.example',
  hostName: 'db',
  os: 'linux',
  userId: 1,
  tags: [],
  addresses: [ip],
  allowedIps: [must(parsePrefix('100.64.0.7/32'))],
  primaryRoutes: [],
  endpoints: [endpoint],
  online: true,
  lastSeen: undefined,
  expired: false,
  keyExpiry: undefined,
  created: Date.UTC(2026, 0, 2, 3, 4, 5),
  homeRegion: 900,
  path: { type: 'direct', endpoint, latencyMs: 2 },
  active: true,
  rxBytes: 10,
  txBytes: 20,
  lastHandshake: undefined,
  lastWrite: undefined,
  exitNode: false,
  exitNodeOption: false,
  capabilities: {},
}
const status: MeshStatus = {
  state: 'running',
  authUrl: undefined,
  lastError: undefined,
  controlUrl: 'http://control.example',
  nodeKey: key,
  self: undefined,
  peers: [peer],
  users: [{ id: 1, loginName: 'alice', displayName: 'Alice', profilePicUrl: '' }],
  domain: 'mesh.example',
  magicDnsSuffix: 'mesh.example',
  magicDnsEnabled: true,
  homeRegion: 900,
  homeRegionCode: 'ours',
  udpBlocked: false,
  health: [],
  packetsIn: 1,
  packetsOut: 2,
  drops: { 'filter-in': 3 },
  denied: [],
  held: { sessions: 2 },
  relayBytesIn: 4,
  relayBytesOut: 5,
  directBytesIn: 6,
  received: NO_WAY_COUNTS,
  sent: NO_WAY_COUNTS,
  directBytesOut: 7,
}

test('the states have the numbers and names of tailscaled', () => {
  expect((['no-state', 'needs-login', 'needs-machine-auth', 'stopped', 'starting', 'running'] as const).map((state) => [statusJson({ ...status, state })['BackendState'], stateNumber(state)])).toEqual([
    ['NoState', 0],
    ['NeedsLogin', 2],
    ['NeedsMachineAuth', 3],
    ['Stopped', 4],
    ['Starting', 5],
    ['Running', 6],
  ])
})

test('a peer reached directly names its address and no relay; one behind a relay the relay alone', () => {
  const shown = (each: PeerStatus): unknown => statusJson({ ...status, peers: [each] })['Peer']
  expect(shown(peer)).toMatchObject({ [key.text]: { CurAddr: '192.0.2.9:41641', Relay: '', DNSName: 'db.mesh.example.', Created: '2026-01-02T03:04:05Z', LastSeen: '0001-01-01T00:00:00Z', TailscaleIPs: ['100.64.0.7'] } })
  expect(shown({ ...peer, path: { type: 'relay', region: 900, regionCode: 'ours' } })).toMatchObject({ [key.text]: { CurAddr: '', Relay: 'ours' } })
})

test('a node that is logged out has no address, an empty self and no peer map', () => {
  expect(statusJson({ ...status, state: 'needs-login', nodeKey: undefined, peers: [], users: [] })).toMatchObject({
    HaveNodeKey: false,
    TailscaleIPs: null,
    Peer: null,
    User: null,
    CurrentTailnet: null,
    Self: { PublicKey: `nodekey:${'0'.repeat(64)}`, TailscaleIPs: null, InNetworkMap: false },
  })
})

test('whois of a tagged node names no person', () => {
  expect(whoisJson({ node: { ...peer, tags: ['tag:db'] }, user: undefined, capabilities: new Map() }, status)).toMatchObject({
    Node: { Name: 'db.mesh.example.', Addresses: ['100.64.0.7/32'], Tags: ['tag:db'] },
    UserProfile: { LoginName: 'tagged-devices' },
    CapMap: null,
  })
})

test('a ping tells its way in seconds, or why there is no answer', () => {
  const result = { ip, peer: key, nodeName: 'db', error: undefined, latencyMs: 12, endpoint, region: 0, regionCode: '', peerApiPort: 80 }
  expect(pingJson(result, 'disco', undefined)).toMatchObject({ IP: '100.64.0.7', Err: '', LatencySeconds: 0.012, Endpoint: '192.0.2.9:41641', DERPRegionID: 0, PeerAPIPort: 80 })
  expect(pingJson({ ...result, error: 'no matching peer', endpoint: undefined }, 'disco', undefined)).toMatchObject({ Err: 'no matching peer', Endpoint: '' })
})

test('every metric has its type and help, and names of peers cannot break a line', () => {
  const text = renderMetrics({ ...status, peers: [{ ...peer, name: 'a"b\\c\nd.mesh.example' }] }, { ...DEFAULT_PREFS, advertiseRoutes: [must(parsePrefix('10.0.0.0/8'))] }, { lane: 'worker', restarts: 2, offloads: { tso: true, gro: false } })
  expect(text).toContain('meshwright_dataplane_lane{lane="worker"} 1\n')
  expect(text).toContain('meshwright_dataplane_offload{offload="gro"} 0\n')
  expect(text).toContain('meshwright_dataplane_restarts_total 2\n')
  const lines = text.trimEnd().split('\n')
  for (const line of lines) expect(line).toMatch(/^(# (TYPE|HELP) [a-z_]+ \S.*|[a-z_]+(\{[a-z_]+="([^"\\\n]|\\.)*"(,[a-z_]+="[^"\\\n]*")*\})? \d+(\.\d+)?)$/)
  expect(lines).toContain('tailscaled_advertised_routes 1')
  expect(lines).toContain('tailscaled_approved_routes 0')
  expect(lines).toContain('meshwright_peer_sent_bytes_total{peer="a\\"b\\\\c\\nd"} 20')
  expect(lines).toContain('meshwright_dropped_packets_total{reason="filter-in"} 3')
})
