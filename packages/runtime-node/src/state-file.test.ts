import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect, test } from 'vitest'
import { StateFile } from './state-file.ts'

const fresh = (): string => path.join(mkdtempSync(path.join(tmpdir(), 'meshwright-state-')), 'deep', 'tailscaled.state')

test('what was written is read again, in a file of mode 0600', () => {
  const file = fresh()
  const state = StateFile.open(file)
  state.write({ _machinekey: 'privkey:00', other: 'ü' })
  state.write({ other: undefined, third: '3' })
  const again = StateFile.open(file)
  expect([again.read('_machinekey'), again.read('other'), again.read('third')]).toEqual(['privkey:00', undefined, '3'])
  if (process.platform !== 'win32') expect(statSync(file).mode & 0o777).toBe(0o600)
})

test('an empty file is an empty state', () => {
  const file = fresh()
  StateFile.open(file).write({ a: '1' })
  writeFileSync(file, '\n')
  expect(StateFile.open(file).names()).toEqual([])
})

test.each(['{"a":', '[]', '"x"', '{"a":1}', '{"a":"***"}', '{"a":"QQ=="'])('%s is refused and left as it is', (text) => {
  const file = fresh()
  StateFile.open(file).write({ a: '1' })
  writeFileSync(file, text)
  expect(() => StateFile.open(file)).toThrow(expect.objectContaining({ code: 'STATE_FILE_CORRUPT', message: expect.stringContaining(file) as string }))
  expect(readFileSync(file, 'utf8')).toBe(text)
})

test('a crash in the middle of a write leaves the old state', () => {
  const file = fresh()
  StateFile.open(file).write({ a: '1' })
  writeFileSync(`${file}.tmp`, '{"a":"hal')
  expect(StateFile.open(file).read('a')).toBe('1')
})

test('a state that cannot be written says so and changes nothing', () => {
  const file = fresh()
  const state = StateFile.open(path.join(file, 'state')) // nothing there yet, so nothing is wrong yet
  StateFile.open(file).write({ a: '1' }) // and now a file stands where its folder should
  expect(() => state.write({ a: '2' })).toThrow(expect.objectContaining({ code: 'STATE_FILE_UNWRITABLE' }))
  expect(state.read('a')).toBeUndefined()
})

test('what is no file is neither read nor replaced: a folder, and a pipe, which stands for /dev/null here', () => {
  const [folder, pipe, later] = [fresh(), fresh(), fresh()]
  mkdirSync(folder, { recursive: true })
  expect(() => StateFile.open(folder)).toThrow(expect.objectContaining({ code: 'STATE_FILE_UNREADABLE', message: expect.stringContaining('and no file') as string }))
  if (process.platform === 'win32') return
  mkdirSync(path.dirname(pipe), { recursive: true })
  execFileSync('mkfifo', [pipe])
  expect(() => StateFile.open(pipe)).toThrow(expect.objectContaining({ code: 'STATE_FILE_UNREADABLE' })) // reading it would wait for ever
  const state = StateFile.open(later)
  state.write({ a: '1' })
  rmSync(later)
  execFileSync('mkfifo', [later])
  expect(() => state.write({ a: '2' })).toThrow(expect.objectContaining({ code: 'STATE_FILE_UNWRITABLE' }))
  expect([state.read('a'), statSync(later).isFIFO()]).toEqual(['1', true])
})
