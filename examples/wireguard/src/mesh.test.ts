import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseConfig } from '@meshwright/wireguard/text'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { parseMesh } from './mesh-file.ts'
import { mesh, rotate } from './mesh.ts'

const MESH = `{
  // three hosts; nobody but the laptop reaches anybody
  "hosts": {
    "web": { "addresses": ["10.90.0.1", "fd90::1"], "endpoint": "web.example:51820" },
    "db": { "addresses": ["10.90.0.2"], "endpoint": "[2001:db8::2]:51821" },
    "laptop": { "addresses": ["10.90.0.3"] },
  },
  "allow": [
    { "from": ["laptop"], "to": ["web"], "ports": ["tcp/443", "icmp"] },
    { "from": ["web"], "to": ["db"], "ports": ["tcp/5432-5433"] },
  ],
}`

let folder = ''
beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-mesh-'))
  writeFileSync(path.join(folder, 'mesh.hujson'), MESH)
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

const run = (verb: typeof mesh, ...args: string[]): string => verb([...args, path.join(folder, 'mesh.hujson'), '--out', path.join(folder, 'out')])
const read = (name: string): string => readFileSync(path.join(folder, 'out', name), 'utf8')
const peersOf = (name: string) => {
  const { config, diagnostics } = parseConfig(read(name))
  expect(diagnostics).toEqual([])
  return { own: config.interface.privateKey?.publicKey().text, peers: config.peers.map((peer) => ({ key: peer.publicKey?.text, prefixes: peer.allowedIps.length, psk: peer.presharedKey })) }
}

test('every host gets a file that names exactly those whom it reaches or is reached by, with one preshared key for both', () => {
  run(mesh)
  const [web, db, laptop] = [peersOf('web/wg0.conf'), peersOf('db/wg0.conf'), peersOf('laptop/wg0.conf')]
  expect(web.peers.map((peer) => peer.key)).toEqual([db.own, laptop.own])
  expect(db.peers.map((peer) => peer.key)).toEqual([web.own])
  expect(laptop.peers.map((peer) => [peer.key, peer.prefixes])).toEqual([[web.own, 2]])
  expect(web.peers[0]?.psk).toEqual(db.peers[0]?.psk)
  expect(web.peers[0]?.psk).not.toEqual(web.peers[1]?.psk)
  expect(statSync(path.join(folder, 'out/web/wg0.conf')).mode & 0o777).toBe(0o600)
  expect(statSync(path.join(folder, 'out/mesh-secrets.json')).mode & 0o777).toBe(0o600)
})

test('the firewall accepts what a rule allows from the addresses that it names, then drops', () => {
  run(mesh)
  const chain = (host: string): string[] => (read(`${host}/wg0.nft`).split('chain from_mesh {')[1] ?? '').split('\n').map((line) => line.trim()).filter((line) => line.endsWith('accept') || line === 'drop')
  expect(chain('web')).toEqual(['ct state established,related accept', 'ip saddr 10.90.0.3 tcp dport 443 accept', 'ip saddr 10.90.0.3 meta l4proto icmp accept', 'drop'])
  expect(chain('db')).toEqual(['ct state established,related accept', 'ip saddr 10.90.0.1 tcp dport 5432-5433 accept', 'ip6 saddr fd90::1 tcp dport 5432-5433 accept', 'drop'])
  expect(chain('laptop')).toEqual(['ct state established,related accept', 'drop'])
})

test('a second run changes nothing, and a changed rule only the files that it concerns', () => {
  run(mesh)
  expect(run(mesh).split('\n').filter((line) => line !== '' && !line.startsWith('unchanged'))).toEqual([])
  writeFileSync(path.join(folder, 'mesh.hujson'), MESH.replace('tcp/443', 'tcp/80'))
  expect(run(mesh).split('\n').filter((line) => line !== '' && !line.startsWith('unchanged'))).toEqual([`changed   ${path.join(folder, 'out/web/wg0.nft')}`])
})

test('a host that is gone from the description is gone from its peers, and its files are called stale', () => {
  run(mesh)
  writeFileSync(path.join(folder, 'mesh.hujson'), MESH.replace(/ {4}"db": .*\n/, '').replace(/.*5432.*\n/, ''))
  const said = run(mesh)
  expect(said).toContain(`stale     ${path.join(folder, 'out/db')}: `)
  expect(said).toContain(`changed   ${path.join(folder, 'out/web/wg0.conf')}\n`)
  expect(peersOf('web/wg0.conf').peers).toHaveLength(1)
})

test('a rotation has two steps: both keys side by side, then the new one alone', () => {
  run(mesh)
  const old = peersOf('web/wg0.conf').own
  run(rotate, 'web')
  expect(peersOf('web/wg0.conf').own).toBe(old)
  const [first, second] = peersOf('laptop/wg0.conf').peers
  expect(first).toMatchObject({ key: old, prefixes: 2 })
  expect(second).toMatchObject({ prefixes: 0, psk: first?.psk })
  run(rotate, 'web')
  expect(peersOf('web/wg0.conf').own).toBe(second?.key)
  expect(peersOf('laptop/wg0.conf').peers).toEqual([{ ...second, prefixes: 2 }])
})

test.each([
  ['{"hosts": {}, "allows": []}', 'm:1:15: the file has no key "allows"'],
  ['{"hosts": {},\n "hosts": {}}', 'm:2:2: "hosts" stands twice'],
  ['{}', 'm:1:1: "hosts" is missing'],
  ['{"hosts": {"a": {"addresses": ["10.0.0.1"]}, "b": {"addresses": ["10.0.0.1"]}}}', 'm:1:66: 10.0.0.1 belongs to a and to b'],
  ['{"hosts": {"a": {"addresses": ["10.0.0.1"]}}, "allow": [{"from": ["c"], "to": ["a"], "ports": ["*"]}]}', 'm:1:67: allow[0].from: no host is called "c"'],
  ['{"hosts": {"a": {"addresses": ["10.0.0.1"]}}, "allow": [{"from": ["a"], "to": ["a"], "ports": ["tcp/99999"]}]}', 'is not tcp/443'],
  ['{"hosts": {"a": {"addresses": []}}}', 'has no addresses'],
  ['{"hosts": {"a": {"addresses": ["x"]}}}', 'not an address'],
  ['{"hosts":\n  ', 'm:2:3: '],
])('a wrong description is refused with what is wrong: %s', (text, what) => {
  expect(() => parseMesh(text, 'm')).toThrow(what)
})

test('a host may have the name of something that every object has', () => {
  writeFileSync(path.join(folder, 'mesh.hujson'), MESH.replaceAll('"db"', '"constructor"'))
  run(mesh)
  run(mesh)
  expect(peersOf('constructor/wg0.conf').peers).toHaveLength(1)
})

test('damaged secrets are refused, never replaced', () => {
  run(mesh)
  writeFileSync(path.join(folder, 'out/mesh-secrets.json'), '{"keys": {')
  expect(() => run(mesh)).toThrow('is damaged')
  expect(read('mesh-secrets.json')).toBe('{"keys": {')
})
