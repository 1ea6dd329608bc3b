import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { MAX_CONFIG_BYTES, MAX_POLICY_BYTES, readText } from './bounded-file.ts'
import { loadSettings } from './config/load.ts'
import { readRelayMap } from './relay-map.ts'

const WORDS = { what: 'the policy', remedy: 'check it' }
const ROOT = path.resolve(import.meta.dirname, '../../..')
let folder = ''
let file = ''

beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-bounded-'))
  file = path.join(folder, 'file')
})

afterEach(() => {
  rmSync(folder, { recursive: true, force: true })
})

test('a file is read up to its limit, and not a byte beyond', () => {
  const text = 'ä'.repeat(50_000)
  writeFileSync(file, text)
  expect(readText(file, 100_000, WORDS)).toBe(text)
  expect(() => readText(file, 99_999, WORDS)).toThrow(/^the policy .*file is longer than /)
  expect(() => readText(path.join(folder, 'none'), 9, WORDS)).toThrow(/^cannot read the policy .*none: ENOENT/)
  expect(() => readText(folder, 1_000_000, WORDS)).toThrow(/^cannot read the policy .*: EISDIR/)
})

test('configurations, relay maps and policies of 50 MB, or without an end, are refused', () => {
  writeFileSync(file, '# a comment')
  truncateSync(file, 50_000_000)
  expect(() => loadSettings(file)).toThrow(/^the configuration .*file is longer than 1 MiB/)
  expect(() => readRelayMap(file)).toThrow(/^the relay map .*file is longer than 1 MiB/)
  expect(() => readText(file, MAX_POLICY_BYTES, WORDS)).toThrow(/^the policy .*file is longer than 2 MiB/)
  expect(() => readText('/dev/zero', MAX_CONFIG_BYTES, WORDS)).toThrow(/is longer than 1 MiB/)
})

test('standard input is read piece by piece, and let go at the limit', async () => {
  const script = `import { readText } from ${JSON.stringify(path.join(import.meta.dirname, 'bounded-file.ts'))}
    try { console.log(readText('-', 1048576, { what: 'the policy', remedy: '' }).length) } catch (error) { console.log(error.message) }`
  const run = (input: string): Promise<string> =>
    new Promise((resolve, reject) => {
      const child = execFile('sh', ['-c', `${input} | "$0" "$@"`, process.execPath, '--conditions=@meshwright/source', '--import', 'tsx', '--input-type=module', '-e', script], { cwd: ROOT }, (error, out) => (error === null ? resolve(out.trim()) : reject(error)))
      child.stdin?.end()
    })
  expect(await run('(printf abc; sleep 0.3; printf def)')).toBe('6')
  expect(await run('cat /dev/zero')).toBe('the policy on standard input is longer than 1 MiB')
})

test('sixty thousand keys are no more work than their bytes', () => {
  writeFileSync(file, Array.from({ length: 60_000 }, (_, i) => `k${i}: a`).join('\n'))
  expect(() => loadSettings(file)).toThrow(/:1:1: unknown key k0/)
  writeFileSync(file, 'server_url: http://a\nserver_url: http://b\n')
  expect(() => loadSettings(file)).toThrow(/:2:1: server_url is written twice/)
})
