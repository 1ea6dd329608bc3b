import { NodePrivateKey } from '@meshwright/crypto'
import { systemRandom } from '@meshwright/runtime-node'
import { formatPublicKey, formatSecretKey, parseConfig, type ShownDevice } from '@meshwright/wireguard/text'
import { expect, test } from 'vitest'
import { compare, duplicateKeys, twoPlaces } from './audit.ts'

const NOW = 1_800_000_000_000
const own = NodePrivateKey.generate(systemRandom)
const [a, b] = [NodePrivateKey.generate(systemRandom).publicKey(), NodePrivateKey.generate(systemRandom).publicKey()]

function file(peers: string) {
  return parseConfig(`[Interface]\nPrivateKey = ${formatSecretKey(own.secretBytes)}\nListenPort = 51820\n${peers}`).config
}

const config = file(`[Peer]\nPublicKey = ${formatPublicKey(a)}\nAllowedIPs = 10.0.0.1/32, fd00::1/128\nPersistentKeepalive = 25\n`)
const peer = { publicKey: a, allowedIps: config.peers[0]?.allowedIps ?? [], latestHandshake: NOW - 60_000, receivedBytes: 1, sentBytes: 1, persistentKeepaliveSeconds: 25 }
const device: ShownDevice = { name: 'wg0', privateKey: own, listenPort: 51820, peers: [peer] }

const kinds = (...args: Parameters<typeof compare>): string[] => compare(...args).map((finding) => finding.kind)

test('an interface that runs as its file says gives no finding', () => {
  expect(compare('wg0', config, device, NOW)).toEqual([])
})

test.each<[string, ShownDevice, string[]]>([
  ['another key', { ...device, privateKey: NodePrivateKey.generate(systemRandom) }, ['drift']],
  ['another port', { ...device, listenPort: 1 }, ['drift']],
  ['a peer too many', { ...device, peers: [peer, { ...peer, publicKey: b }] }, ['drift']],
  ['a peer too few', { ...device, peers: [] }, ['drift']],
  ['another keepalive', { ...device, peers: [{ ...peer, persistentKeepaliveSeconds: 0 }] }, ['drift']],
  ['other prefixes', { ...device, peers: [{ ...peer, allowedIps: [] }] }, ['drift']],
  ['a preshared key that the file has not', { ...device, peers: [{ ...peer, presharedKey: systemRandom(32) }] }, ['drift']],
  ['a silent peer', { ...device, peers: [{ ...peer, latestHandshake: NOW - 200_000 }] }, ['silent']],
])('what differs is found: %s', (_what, running, expected) => {
  expect(kinds('wg0', config, running, NOW)).toEqual(expected)
})

test('the next key of a rotation, which has no addresses yet, need not have been heard from', () => {
  const next = file(`[Peer]\nPublicKey = ${formatPublicKey(a)}\n`)
  expect(compare('wg0', next, { ...device, peers: [{ publicKey: a, allowedIps: [], receivedBytes: 0, sentBytes: 0, persistentKeepaliveSeconds: 0 }] }, NOW)).toEqual([])
})

test('a peer that was never heard from, an interface that does not run, prefixes that are too wide', () => {
  const { latestHandshake: _, ...never } = peer
  expect(kinds('wg0', config, { ...device, peers: [never] }, NOW)).toEqual(['never-seen'])
  expect(kinds('wg0', config, undefined, NOW)).toEqual(['down'])
  expect(kinds('wg0', file(`[Peer]\nPublicKey = ${formatPublicKey(a)}\nAllowedIPs = 0.0.0.0/0\n`), undefined, NOW)).toEqual(['wide', 'down'])
})

test('one key in two places is found, and no finding holds a secret', () => {
  const twice = file(`[Peer]\nPublicKey = ${formatPublicKey(a)}\n[Peer]\nPublicKey = ${formatPublicKey(a)}\n`)
  const findings = duplicateKeys([{ name: 'wg0', config }, { name: 'wg1', config: twice }])
  expect(findings.map((finding) => [finding.interface, finding.kind])).toEqual([['wg1', 'duplicate-key'], ['wg1', 'duplicate-key']])
  expect(JSON.stringify(findings)).not.toContain(formatSecretKey(own.secretBytes))
})

test.each<[string, readonly [at: number, endpoint: string][], number]>([
  ['to and fro', [[0, '192.0.2.1:1'], [10_000, '192.0.2.2:1'], [20_000, '192.0.2.1:1']], 1],
  ['to and fro with new ports', [[0, '192.0.2.1:1'], [10_000, '192.0.2.2:1'], [20_000, '192.0.2.1:2']], 1],
  ['to and fro between ports behind one NAT', [[0, '192.0.2.1:1'], [10_000, '192.0.2.1:2'], [20_000, '192.0.2.1:1']], 1],
  ['a journey', [[0, '192.0.2.1:1'], [10_000, '192.0.2.2:1'], [20_000, '192.0.2.3:1']], 0],
  ['home in the evening', [[0, '192.0.2.1:1'], [10_000, '192.0.2.2:1'], [30_000_000, '192.0.2.1:1']], 0],
  ['new ports of one host', [[0, '192.0.2.1:1'], [10_000, '192.0.2.1:2'], [20_000, '192.0.2.1:3']], 0],
])('a key in two places is told from a peer that travels: %s', (_what, moves, expected) => {
  const found = twoPlaces('wg0', new Map([[a.text, moves.map(([at, endpoint]) => ({ at, endpoint }))]]))
  expect(found.map(({ kind, peer: who }) => [kind, who])).toEqual(Array(expected).fill(['two-places', formatPublicKey(a)]))
})
