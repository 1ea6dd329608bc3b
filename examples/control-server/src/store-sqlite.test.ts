import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import type { Change } from '@meshwright/control-server'
import Database from 'libsql'
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

test('a database has one server: a second one is refused, and nothing of the first is lost; whoever only reads is let in', async () => {
  const file = path.join(folder, 'state.sqlite')
  const options = { writeAheadLog: true, walAutocheckpoint: 1000 }
  const first = new SqliteStore(file, options)
  expect(() => new SqliteStore(file, options)).toThrow(`another server uses the database ${file}`)
  symlinkSync(file, path.join(folder, 'link.sqlite'))
  expect(() => new SqliteStore(path.join(folder, 'link.sqlite'), options)).toThrow('another server uses the database')
  await first.commit([{ type: 'putCounters', counters: { nextUserId: 7, nextNodeId: 8, nextAuthKeyId: 9 } }])
  const reader = new Database(file, { readonly: true })
  expect(reader.prepare('SELECT value FROM counters ORDER BY value').all()).toHaveLength(3)
  reader.close()
  first.close()
  const second = new SqliteStore(file, options)
  expect(second.load().counters.nextUserId).toBe(7)
  second.close()
})

test('what departed devices left behind is kept in the order in which it was written, also in a database of the first version', async () => {
  const file = path.join(folder, 'state.sqlite')
  const options = { writeAheadLog: true, walAutocheckpoint: 1000 }
  const first = new SqliteStore(file, options)
  first.close()
  // As the first version left it.
  const database = new Database(file)
  database.exec('DROP TABLE departed; PRAGMA user_version=1')
  database.close()
  const store = new SqliteStore(file, options)
  const put = (name: string, homeRelay: number): Change => ({ type: 'putDeparted', departed: { machineKey: `mkey:${name}`, netInfo: { PreferredDERP: homeRelay }, homeRelay } })
  await store.commit([put('a', 1), put('b', 2), put('c', 3)])
  await store.commit([put('a', 4), { type: 'deleteDeparted', machineKey: 'mkey:c' }])
  store.close()
  const again = new SqliteStore(file, options)
  expect(again.load().departed).toEqual([
    { machineKey: 'mkey:b', netInfo: { PreferredDERP: 2 }, homeRelay: 2 },
    { machineKey: 'mkey:a', netInfo: { PreferredDERP: 4 }, homeRelay: 4 },
  ])
  again.close()
})
