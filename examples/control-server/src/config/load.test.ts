import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { Failure } from '../failure.ts'
import { buildRelayMap } from '../relay-map.ts'
import { parseDuration } from './duration.ts'
import { KEYS } from './keys.ts'
import { loadSettings } from './load.ts'

const folder = mkdtempSync(path.join(tmpdir(), 'meshwright-config-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const BASE = `server_url: http://10.98.1.1:8080
noise: {private_key_path: ${folder}/noise.key}
database: {sqlite: {path: ${folder}/db.sqlite}}
dns: {base_domain: lab.test}
`

function write(text: string, name = 'config.yaml'): string {
  const file = path.join(folder, name)
  writeFileSync(file, text)
  return file
}

function refusal(text: string): string {
  try {
    loadSettings(write(text))
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    expect(error.status).toBe(2)
    return `${error.message} | ${error.remedy ?? ''}`
  }
  return 'taken'
}

test('the configuration that runs a real headscale runs this server, every key of it', () => {
  const settings = loadSettings(
    write(`server_url: http://10.98.1.1:8080
listen_addr: 10.98.1.1:8080
metrics_listen_addr: 127.0.0.1:9090
noise: {private_key_path: /tmp/mylab/noise.key}
prefixes: {v4: 100.64.0.0/10, v6: "fd7a:115c:a1e0::/48", allocation: sequential}
derp:
  server: {enabled: false}
  urls: []
  paths: [${write('regions: {900: {regionid: 900, regioncode: real, regionname: real derper, nodes: [{name: 900a, regionid: 900, hostname: 10.98.1.1, certname: "sha256-raw:00", ipv4: 10.98.1.1, ipv6: none, stunport: 3478, derpport: 3443}]}}', 'derp.yaml')}]
  auto_update_enabled: false
disable_check_updates: true
database: {type: sqlite, sqlite: {path: /tmp/mylab/db.sqlite}}
log: {level: debug, format: text}
policy: {mode: file, path: /tmp/mylab/policy.hujson}
dns: {magic_dns: true, base_domain: lab.test, override_local_dns: false, nameservers: {global: []}}
unix_socket: /tmp/mylab/hs.sock
unix_socket_permission: "0700"
logtail: {enabled: false}
`),
  )
  expect(settings).toMatchObject({ serverUrl: 'http://10.98.1.1:8080', metricsListenAddr: '127.0.0.1:9090', unixSocketMode: 0o700, policy: { mode: 'file', path: '/tmp/mylab/policy.hujson' }, relay: undefined })
  const map = buildRelayMap(settings)
  expect(map.Regions?.['900']?.Nodes?.[0]).toMatchObject({ HostName: '10.98.1.1', CertName: 'sha256-raw:00', IPv6: 'none', STUNPort: 3478, DERPPort: 3443 })
  expect(settings.controlConfig(map)).toMatchObject({ baseDomain: 'lab.test', allocation: 'sequential', logtail: false, dns: { magicDns: true, overrideLocalDns: false } })
})

test('a relay map says which region clients shall prefer as their home; later files win', () => {
  const region = (id: number): string => `${id}: {regionid: ${id}, regioncode: r${id}, regionname: r, nodes: []}`
  const [one, two] = [write(`regions: {${region(900)}}\nhomeparams: {regionscore: {900: 0.5, 901: 2}}\n`, 'one.yaml'), write(`regions: {${region(901)}}\nhomeparams: {regionscore: {901: 3}}\n`, 'two.yaml')]
  expect(buildRelayMap(loadSettings(write(`${BASE}derp: {paths: [${one}, ${two}]}\n`))).HomeParams).toEqual({ RegionScore: { 900: 0.5, 901: 3 } })
  const [none, odd] = [write('regions: {}\nhomeparams: {regionscore: {900: 0}}\n', 'none.yaml'), write('regions: {}\nhomeparams: {score: {}}\n', 'odd.yaml')]
  expect(() => buildRelayMap(loadSettings(write(`${BASE}derp: {paths: [${none}]}\n`)))).toThrow(/regionscore.900 must be a number above 0/)
  expect(() => buildRelayMap(loadSettings(write(`${BASE}derp: {paths: [${odd}]}\n`)))).toThrow(/homeparams: unknown key score/)
})

test('the embedded relay is a region on the server\'s own host and port', () => {
  const settings = loadSettings(write(`${BASE}derp: {server: {enabled: true, region_id: 950, private_key_path: ${folder}/derp.key, stun_listen_addr: "0.0.0.0:3999"}}\n`))
  expect(buildRelayMap(settings).Regions?.['950']?.Nodes).toEqual([{ Name: '950', RegionID: 950, HostName: '10.98.1.1', STUNPort: 3999, DERPPort: 8080, IPv4: '10.98.1.1', IPv6: 'none' }])
})

describe('nothing is ignored', () => {
  test.each([
    ['an unknown key names the nearest known one', `${BASE}dsn: {base_domain: x.test}\n`, /:5:7: unknown key dsn\.base_domain \| did you mean dns\.base_domain\?/],
    ['a misspelt key at the top', `${BASE}listen_adr: 127.0.0.1:1\n`, /unknown key listen_adr \| did you mean listen_addr\?/],
    ['a key that is not built is refused by name', `${BASE}oidc: {issuer: "https://x"}\n`, /oidc\.issuer is not supported/],
    ['so is a key whose value asks for what is not built', `${BASE}derp: {urls: ["https://x"]}\n`, /derp\.urls is not supported/],
    ['postgres', BASE.replace('database: {', 'database: {type: postgres, '), /database\.type postgres is not supported/],
    ['an old name', `${BASE}ephemeral_node_inactivity_timeout: 30m\n`, /is an old name \| write node\.ephemeral\.inactivity_timeout/],
    ['a wrong type', `${BASE}metrics_listen_addr: 9090\n`, /metrics_listen_addr: expected an address and a port/],
    ['a wrong prefix', `${BASE}prefixes: {v4: 100.64.0.0}\n`, /prefixes\.v4: expected an IPv4 prefix/],
    ['a key twice', `${BASE}server_url: http://x\n`, /config\.yaml:\d+:1: server_url is written twice/],
    ['broken YAML', 'server_url: [', /config\.yaml:\d+:\d+: /],
    ['an empty file', '', /the configuration is empty/],
    ['a missing server_url', 'dns: {base_domain: lab.test}\n', /server_url is missing/],
    ['a missing database path', BASE.replace(/database.*\n/, ''), /database\.sqlite\.path is missing/],
    ['a server inside its own mesh domain', BASE.replace('10.98.1.1', 'control.lab.test'), /lies under dns\.base_domain/],
    ['half a certificate', `${BASE}tls_cert_path: /x.pem\n`, /tls_cert_path and tls_key_path go together/],
    ['an ephemeral time-out that real clients cannot keep', `${BASE}node: {ephemeral: {inactivity_timeout: 10s}}\n`, /at least 65s/],
  ])('%s', (_name, text, message) => expect(refusal(text)).toMatch(message))

  test('a file that is not there', () => expect(() => loadSettings(path.join(folder, 'nothing.yaml'))).toThrow(/cannot read the configuration/))

  test('harmless values of keys that are not built are taken, and idle keys beside a switch that is off', () => {
    expect(refusal(`${BASE}derp: {update_frequency: 3h, auto_update_enabled: false, urls: []}\ntls_letsencrypt_hostname: ""\ntls_letsencrypt_listen: ":http"\nrandomize_client_port: false\n`)).toBe('taken')
    expect(KEYS.size).toBeGreaterThan(100)
  })
})

test.each([['0', 0], ['30m', 1_800_000], ['1h30m', 5_400_000], ['90d', 7_776_000_000], ['1.5s', 1500], ['', undefined], ['5', undefined], ['1h x', undefined], ['-1h', undefined]])('the duration %j is %s ms', (text, ms) => {
  expect(parseDuration(text)).toBe(ms)
})
