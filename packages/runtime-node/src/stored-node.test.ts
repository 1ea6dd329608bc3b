import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { MachinePrivateKey, NodePrivateKey } from '@meshwright/crypto'
import { formatPrefix, parsePrefix } from '@meshwright/ip'
import { DEFAULT_PREFS } from '@meshwright/mesh'
import { SeededRandom } from '@meshwright/testkit'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { NodeStore } from './stored-node.ts'

let folder: string
let file: string
beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'meshwright-state-'))
  file = path.join(folder, 'node.state')
})
afterEach(() => rmSync(folder, { recursive: true }))

const random = new SeededRandom(5).bytes
const control = { machineKey: MachinePrivateKey.generate(random), nodeKey: NodePrivateKey.generate(random) }
const route = parsePrefix('10.0.0.0/8')
if (route === undefined) throw new Error('route')
const prefs = { ...DEFAULT_PREFS, wantRunning: true, hostname: 'db', advertiseRoutes: [route], advertiseTags: ['tag:db'], acceptRoutes: true, shieldsUp: true, acceptDns: false }

function fill(): string {
  const store = new NodeStore(file)
  store.saveControl(control)
  store.savePrefs(prefs, 'https://control.example')
  return readFileSync(file, 'utf8')
}

test('keys, preferences and the control server survive a restart', () => {
  fill()
  const { stored } = new NodeStore(file)
  expect(stored.controlUrl).toBe('https://control.example')
  expect(stored.control?.machineKey.equals(control.machineKey)).toBe(true)
  expect(stored.control?.nodeKey?.equals(control.nodeKey)).toBe(true)
  expect(stored.prefs).toMatchObject({ wantRunning: true, hostname: 'db', advertiseTags: ['tag:db'], acceptRoutes: true, shieldsUp: true, acceptDns: false })
  expect(stored.prefs?.advertiseRoutes.map(formatPrefix)).toEqual(['10.0.0.0/8'])
})

test('the file is the owner\'s alone', () => {
  fill()
  expect(statSync(file).mode & 0o777).toBe(0o600)
})

test('without a file nothing is stored and nothing is found', () => {
  const store = new NodeStore(undefined)
  store.savePrefs(prefs, 'https://control.example')
  expect(store.stored.prefs).toEqual(prefs)
  expect(new NodeStore(undefined).stored).toMatchObject({ control: undefined, prefs: undefined, controlUrl: undefined })
})

test('a file that is cut anywhere, or is something else, is refused with its name, and left as it is', () => {
  const whole = fill()
  const broken = [whole.slice(0, whole.length - 3), whole.slice(0, whole.length >> 1), '{', '[]', 'not a state file', '\0'.repeat(64)]
  for (const text of broken) {
    writeFileSync(file, text)
    expect(() => new NodeStore(file), text.slice(0, 20)).toThrow(expect.objectContaining({ code: 'STATE_FILE_CORRUPT', message: expect.stringContaining(file) }))
    expect(readFileSync(file, 'utf8')).toBe(text)
  }
})

test('one bad value among good ones is refused by its name: a node does not lose its keys silently', () => {
  const values = Object(JSON.parse(fill())) as Record<string, string>
  for (const name of Object.keys(values)) {
    if (name === '_current-profile') continue // a name without its profile is the same as none
    const text = JSON.stringify({ ...values, [name]: Buffer.from('{broken').toString('base64') })
    writeFileSync(file, text)
    expect(() => new NodeStore(file), name).toThrow(expect.objectContaining({ code: 'STATE_FILE_CORRUPT', message: expect.stringContaining(name) }))
    expect(readFileSync(file, 'utf8')).toBe(text)
  }
})
