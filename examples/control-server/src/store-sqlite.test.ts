import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { SqliteStore } from './store-sqlite.ts'

let folder = ''

beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-store-'))
})

afterEach(() => {
  rmSync(folder, { recursive: true, force: true })
})

test.each([true, false])('a database behind a link is opened where it is (write-ahead log: %s)', (writeAheadLog) => {
  const real = path.join(folder, 'disk')
  mkdirSync(real)
  symlinkSync(path.join(real, 'state.sqlite'), path.join(folder, 'link.sqlite'))
  const store = new SqliteStore(path.join(folder, 'link.sqlite'), { writeAheadLog, walAutocheckpoint: 1000 })
  expect(store.load().users).toEqual([])
  store.close()
  expect(readdirSync(folder).sort()).toEqual(['disk', 'link.sqlite'])
  expect(readdirSync(real)).toContain('state.sqlite')
})
