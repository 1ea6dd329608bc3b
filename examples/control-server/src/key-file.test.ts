import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { readOrMakeKeyFile } from './key-file.ts'

let folder = ''
beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-key-'))
})
afterEach(() => {
  rmSync(folder, { recursive: true, force: true })
})

const KEY = `privkey:${'ab'.repeat(32)}`

test('a key is made once, for its owner alone, and is what is read from then on; nothing else is left in the folder', () => {
  const file = path.join(folder, 'new', 'noise.key')
  expect(readOrMakeKeyFile(file, 'setting', () => KEY)).toBe(KEY)
  expect(statSync(file).mode & 0o777).toBe(0o600)
  expect(readOrMakeKeyFile(file, 'setting', () => 'privkey:other')).toBe(KEY)
  expect(readdirSync(path.dirname(file))).toEqual(['noise.key'])
})

test.each([['', 'nothing'], ['privkey:12', 'half a key']])('a file that holds %j is refused and left as it is', (text) => {
  const file = path.join(folder, 'noise.key')
  writeFileSync(file, text)
  expect(() => readOrMakeKeyFile(file, 'noise.private_key_path', () => KEY)).toThrow('does not hold a key')
  expect(readFileSync(file, 'utf8')).toBe(text)
})

test('a key that cannot be kept is not used', () => {
  const file = path.join(folder, 'a', 'noise.key')
  writeFileSync(path.join(folder, 'a'), 'in the way')
  expect(() => readOrMakeKeyFile(file, 'setting', () => KEY)).toThrow('cannot read the key file')
  const taken = path.join(folder, 'b.key')
  mkdirSync(`${taken}.${process.pid}.tmp`)
  expect(() => readOrMakeKeyFile(taken, 'setting', () => KEY)).toThrow('cannot write the key file')
  expect(readdirSync(folder)).not.toContain('b.key')
})
