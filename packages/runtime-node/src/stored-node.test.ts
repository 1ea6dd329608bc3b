import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { formatControlState } from '@meshwright/control-client'
import { MachinePrivateKey, NodePrivateKey } from '@meshwright/crypto'
import { parsePrefix } from '@meshwright/ip'
import { DEFAULT_PREFS } from '@meshwright/mesh'
import { expect, test } from 'vitest'
import { systemRandom } from './random.ts'
import { StateFile } from './state-file.ts'
import { NodeStore } from './stored-node.ts'

const fresh = (): string => path.join(mkdtempSync(path.join(tmpdir(), 'meshwright-store-')), 'tailscaled.state')
const machineKey = MachinePrivateKey.generate(systemRandom)
const nodeKey = NodePrivateKey.generate(systemRandom)
const prefs = { ...DEFAULT_PREFS, wantRunning: true, hostname: 'db', acceptRoutes: true, advertiseRoutes: [parsePrefix('10.1.0.0/16')].flatMap((each) => each ?? []), advertiseTags: ['tag:db'], exitNode: '100.64.0.9' }
const secrets = (file: string): unknown => {
  const { control, ...rest } = new NodeStore(file).stored
  return { ...rest, machineKey: control?.machineKey.formatSecret(), nodeKey: control?.nodeKey?.formatSecret() }
}
const whole = { prefs, controlUrl: 'https://control.example', foreign: expect.objectContaining({ NoSNAT: true, OperatorUser: 'alice' }) as unknown, machineKey: machineKey.formatSecret(), nodeKey: nodeKey.formatSecret() }

function written(file: string): NodeStore {
  const store = new NodeStore(file)
  store.savePrefs(prefs, 'https://control.example')
  store.saveForeign({ NoSNAT: true, OperatorUser: 'alice' })
  store.saveControl({ machineKey, nodeKey })
  store.saveOwner({ nodeId: 'n1', domain: 'example', magicDnsSuffix: 'mesh.example', user: { id: 2n ** 60n, loginName: 'alice', displayName: 'Alice' } })
  return store
}

test('what was stored is read again', () => {
  const file = fresh()
  written(file)
  expect(secrets(file)).toEqual(whole)
})

test('the file has the names and forms of tailscaled', () => {
  const file = fresh()
  written(file)
  const state = StateFile.open(file)
  const current = state.read('_current-profile') ?? ''
  expect(current).toMatch(/^profile-[0-9a-f]{4}$/)
  expect(state.read('_machinekey')).toBe(machineKey.formatSecret())
  expect(JSON.parse(state.read('_profiles') ?? '')).toMatchObject({ [current.slice(8)]: { ID: current.slice(8), Key: current, Name: 'alice', NodeID: 'n1', ControlURL: 'https://control.example' } })
  expect(JSON.parse(state.read(current) ?? '')).toMatchObject({ WantRunning: true, RouteAll: true, Hostname: 'db', ExitNodeIP: '100.64.0.9', AdvertiseRoutes: ['10.1.0.0/16'], NoSNAT: true, Config: { PrivateNodeKey: nodeKey.formatSecret(), NodeID: 'n1' } })
})

test('a number beyond 2^53 comes back as it was', () => {
  const file = fresh()
  written(file).saveForeign({ ProfileName: 'x' })
  expect(StateFile.open(file).read(StateFile.open(file).read('_current-profile') ?? '')).toContain(`"ID":${2n ** 60n}`)
})

test('profiles and values of others are kept', () => {
  const file = fresh()
  StateFile.open(file).write({ _profiles: '{"beef":{"ID":"beef"}}', 'profile-beef': '{}', '_serve/beef': '{}' })
  written(file)
  const state = StateFile.open(file)
  expect(JSON.parse(state.read('_profiles') ?? '')).toHaveProperty('beef')
  expect([state.read('profile-beef'), state.read('_serve/beef')]).toEqual(['{}', '{}'])
})

test('the former format is read, and gives way to the present one at the first write', () => {
  const file = fresh()
  StateFile.open(file).write({ 'meshwright-control': formatControlState({ machineKey, nodeKey }), 'meshwright-prefs': JSON.stringify({ ...prefs, advertiseRoutes: ['10.1.0.0/16'], controlUrl: 'https://control.example' }) })
  expect(secrets(file)).toEqual({ ...whole, foreign: {} })
  new NodeStore(file).saveForeign({ NoSNAT: true, OperatorUser: 'alice' })
  expect(secrets(file)).toEqual(whole)
  expect(StateFile.open(file).names()).not.toContain('meshwright-control')
})

test('after a logout the machine key stays and the node key is gone', () => {
  const file = fresh()
  written(file).saveControl({ machineKey, nodeKey: undefined })
  expect(secrets(file)).toMatchObject({ machineKey: machineKey.formatSecret(), nodeKey: undefined })
  expect(readFileSync(file, 'utf8')).not.toContain(Buffer.from(nodeKey.formatSecret()).toString('base64').slice(0, 40))
})

test.each([
  ['_machinekey', 'privkey:12'],
  ['_profiles', '{"a":'],
  ['_current-profile', 'elsewhere'],
  ['profile-0001', '{"WantRunning":"yes"}'],
  ['profile-0001', '{"Config":{"PrivateNodeKey":"privkey:zz"}}'],
  ['profile-0001', '[]'],
  ['meshwright-control', '{}'],
  ['meshwright-prefs', 'null'],
])('%s = %s is refused, and the file is left as it is', (name, value) => {
  const file = fresh()
  StateFile.open(file).write({ _machinekey: machineKey.formatSecret(), '_current-profile': 'profile-0001', 'profile-0001': '{}', [name]: value })
  const before = readFileSync(file, 'utf8')
  expect(() => new NodeStore(file)).toThrow(expect.objectContaining({ code: 'STATE_FILE_CORRUPT', message: expect.stringContaining(name) as string }))
  expect(readFileSync(file, 'utf8')).toBe(before)
})

test('a node key without its machine key is refused: it would be a stranger with a known key', () => {
  const file = fresh()
  written(file)
  StateFile.open(file).write({ _machinekey: undefined })
  expect(() => new NodeStore(file)).toThrow(expect.objectContaining({ code: 'STATE_FILE_CORRUPT' }))
})

test('half a file is refused', () => {
  const file = fresh()
  written(file)
  writeFileSync(file, readFileSync(file, 'utf8').slice(0, 200))
  expect(() => new NodeStore(file)).toThrow(expect.objectContaining({ code: 'STATE_FILE_CORRUPT' }))
})
