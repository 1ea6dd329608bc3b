import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, expect, test } from 'vitest'
import { KEY_RECORDER, recordedKeys } from './key-search.ts'

// What searches for keys rest on: no key goes past the recorder, whoever does the cryptography.
const ROOT = path.resolve(import.meta.dirname, '../..')
const folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-recorder-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
const koffi = await import('koffi').then(() => true, () => false)

// Every use of a key once: a key is 32 times its number.
const PROGRAM = `
import { PENDING } from '@meshwright/core'
import { chooseCryptoProvider, packetSlab } from '@meshwright/runtime-node'
const provider = chooseCryptoProvider(process.argv[2])
const key = (number) => new Uint8Array(32).fill(number)
provider.publicKey(key(1))
provider.sharedSecret(key(2), provider.publicKey(key(3)))
provider.hmac(key(4), key(99))
provider.aeadOpen(key(5), new Uint8Array(12), provider.aeadSeal(key(6), new Uint8Array(12), new Uint8Array(10), key(99)))
provider.aeadSeal(key(7), new Uint8Array(12), new Uint8Array(1400))
for (const [number, length] of [[8, 20], [9, 1400]]) {
  for (const way of ['sealBatch', 'openBatch']) {
    const batch = packetSlab(provider, 1, 1500)
    batch.count = 1
    batch.offset[0] = batch.target[0] = 64
    batch.length[0] = length
    batch.verdict[0] = PENDING
    const slot = provider.keySlot(key(number + (way === 'openBatch' ? 10 : 0)))
    if (way === 'sealBatch') provider.sealBatch(slot, 1n, batch)
    else provider.openBatch(slot, batch)
  }
}
`

test.for(['node', 'wasm', 'openssl-ffi'])('every key that %s works with is written down, with its kind', (provider, context) => {
  if (provider === 'openssl-ffi' && !koffi) return context.skip('the optional package koffi is not installed')
  const [program, file] = [path.join(folder, 'program.mjs'), path.join(folder, provider)]
  // Where the packages are found.
  writeFileSync(program, PROGRAM.replaceAll(/'(@meshwright\/[a-z-]+)'/g, (_all, name: string) => `'${pathToFileURL(path.join(ROOT, 'packages', name.split('/')[1] ?? '', 'src/index.ts')).href}'`))
  const { status, stderr } = spawnSync(process.execPath, ['--import', KEY_RECORDER, '--conditions=@meshwright/source', '--import', 'tsx', program, provider], { cwd: ROOT, env: { ...process.env, NODE_OPTIONS: '', KEY_RECORDER_FILE: file }, encoding: 'utf8', timeout: 60_000 })
  expect([status, stderr]).toEqual([0, ''])
  const kinds = recordedKeys(file)
  const expected = { private: [1, 2, 3], chain: [4], session: [5, 6, 7, 8, 18, 9, 19] }
  for (const [kind, numbers] of Object.entries(expected)) expect(kinds.get(kind)).toEqual(expect.arrayContaining(numbers.map((number) => number.toString(16).padStart(2, '0').repeat(32))))
})
