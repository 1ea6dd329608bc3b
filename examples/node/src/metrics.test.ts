import { parseEndpoint, parseIp } from '@meshwright/ip'
import { DEFAULT_PREFS, type MeshStatus, NO_WAY_COUNTS, type PeerPath, type PeerStatus } from '@meshwright/mesh'
import { expect, test } from 'vitest'
import { renderMetrics } from './metrics.ts'

const endpoint = (text: string): NonNullable<ReturnType<typeof parseEndpoint>> => parseEndpoint(text) ?? expect.fail(text)

function peer(name: string, path: PeerPath): PeerStatus {
  return { name: `${name}.mesh.test`, path, rxBytes: 1, txBytes: 2 } as PeerStatus // the members that are counted
}

function status(change: Partial<MeshStatus>): MeshStatus {
  const nothing = { state: 'running', self: undefined, peers: [], health: [], drops: {}, homeRegion: 9, packetsIn: 0, packetsOut: 0, relayBytesIn: 0, relayBytesOut: 0, received: NO_WAY_COUNTS, sent: NO_WAY_COUNTS }
  return { ...nothing, ...change } as MeshStatus // the members that are counted
}

const valueOf = (text: string, row: string): string | undefined => text.split('\n').find((line) => line.startsWith(`${row} `))?.slice(row.length + 1)

test('bytes and datagrams are counted by path and family, as tailscaled names them', () => {
  const received = { relay: { datagrams: 1, bytes: 92 }, ipv4: { datagrams: 6, bytes: 588 }, ipv6: { datagrams: 2, bytes: 300 } }
  const text = renderMetrics(status({ received, sent: { ...NO_WAY_COUNTS, ipv6: { datagrams: 3, bytes: 99 } } }), DEFAULT_PREFS, { lane: 'userspace' })
  expect(['derp', 'direct_ipv4', 'direct_ipv6', 'peer_relay_ipv4', 'peer_relay_ipv6'].map((path) => [valueOf(text, `tailscaled_inbound_bytes_total{path="${path}"}`), valueOf(text, `tailscaled_inbound_packets_total{path="${path}"}`)])).toEqual([['92', '1'], ['588', '6'], ['300', '2'], ['0', '0'], ['0', '0']])
  expect([valueOf(text, 'tailscaled_outbound_bytes_total{path="direct_ipv6"}'), valueOf(text, 'tailscaled_outbound_packets_total{path="direct_ipv6"}')]).toEqual(['99', '3'])
})

test('each peer has its bytes, the path and family that it is reached by, and how long an answer takes', () => {
  const peers = [peer('a', { type: 'direct', endpoint: endpoint('192.0.2.1:1'), latencyMs: 12 }), peer('b', { type: 'direct', endpoint: endpoint('[2001:db8::1]:1'), latencyMs: 3 }), peer('c', { type: 'relay', region: 9, regionCode: 'x' }), peer('d"', { type: 'none' })]
  const text = renderMetrics(status({ peers }), DEFAULT_PREFS, { lane: 'userspace' })
  for (const row of ['meshwright_peer_path{peer="a",path="direct_ipv4"}', 'meshwright_peer_path{peer="b",path="direct_ipv6"}', 'meshwright_peer_path{peer="c",path="derp"}', 'meshwright_peer_path{peer="d\\"",path="none"}']) expect(valueOf(text, row), row).toBe('1')
  expect(valueOf(text, 'meshwright_peer_latency_seconds{peer="a"}')).toBe('0.012')
  expect(valueOf(text, 'meshwright_peer_latency_seconds{peer="c"}')).toBeUndefined()
})

test('peers of one name are told apart by whole names, and those without one by address: no series comes twice', () => {
  const named = (name: string, address: string): PeerStatus => ({ ...peer('', { type: 'relay', region: 9, regionCode: 'x' }), name, addresses: [parseIp(address) ?? expect.fail(address)] })
  const peers = [named('db.mesh.test', '100.64.0.1'), named('db.other.test', '100.64.0.2'), named('app.mesh.test', '100.64.0.3'), named('', '100.64.0.4'), named('', '100.64.0.5'), named('twin.test', '100.64.0.6'), named('twin.test', '100.64.0.7')]
  const text = renderMetrics(status({ peers }), DEFAULT_PREFS, { lane: 'userspace' })
  const series = text.split('\n').filter((line) => /^\w/.test(line)).map((line) => line.slice(0, line.lastIndexOf(' ')))
  expect(series.filter((each, i) => series.indexOf(each) !== i)).toEqual([])
  for (const name of ['db.mesh.test', 'db.other.test', 'app', '100.64.0.4', '100.64.0.5', '100.64.0.6', '100.64.0.7']) expect(valueOf(text, `meshwright_peer_path{peer="${name}",path="derp"}`), name).toBe('1')
})

test('drops have the reasons of tailscaled where they mean the same', () => {
  const text = renderMetrics(status({ drops: { 'filter-in': 5, 'filter-out': 6, 'no-path': 7 } }), DEFAULT_PREFS, { lane: 'userspace' })
  expect(valueOf(text, 'tailscaled_inbound_dropped_packets_total{reason="acl"}')).toBe('5')
  expect(valueOf(text, 'tailscaled_outbound_dropped_packets_total{reason="acl"}')).toBe('6')
  expect(valueOf(text, 'tailscaled_outbound_dropped_packets_total{reason="error"}')).toBe('7')
})
