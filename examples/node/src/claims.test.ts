import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { claimSocket, claimState, listenPrivately } from './claims.ts'

const folders: string[] = []
const servers: Server[] = []
afterEach(() => {
  for (const server of servers.splice(0)) server.close()
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true })
})

function folder(): string {
  const made = mkdtempSync(path.join(os.tmpdir(), 'claims-'))
  folders.push(made)
  return made
}

test('a file that is no socket is never removed', async () => {
  const file = path.join(folder(), 'precious.conf')
  writeFileSync(file, 'precious')
  await expect(claimSocket(file)).rejects.toThrow('is no socket')
  expect(readFileSync(file, 'utf8')).toBe('precious')
  const state = path.join(path.dirname(file), 's')
  writeFileSync(`${state}.lock`, 'mine')
  await expect(claimState(state)).rejects.toThrow('is no lock of this program')
  expect(readFileSync(`${state}.lock`, 'utf8')).toBe('mine')
})

test('a socket of the living is left alone', async () => {
  const file = path.join(folder(), 'new', 's.sock')
  await claimSocket(file) // makes the folder
  const server = createServer()
  servers.push(server)
  await listenPrivately(server, file)
  await expect(claimSocket(file)).rejects.toThrow('another daemon is listening')
  expect(statSync(file).isSocket()).toBe(true)
})

test('a socket is its owner\'s from the first moment, whatever the umask', async () => {
  const file = path.join(folder(), 's.sock')
  const server = createServer()
  servers.push(server)
  const before = process.umask(0)
  try {
    const listening = listenPrivately(server, file)
    expect(statSync(file).mode & 0o777).toBe(0o600)
    await listening
    expect(process.umask()).toBe(0)
  } finally {
    process.umask(before)
  }
})

test('a path that the system would cut is refused, with its length', async () => {
  await expect(claimSocket(path.join(folder(), 'x'.repeat(120)))).rejects.toThrow(/is \d+ bytes long/)
})

test.each([10, 200])('one state file is held by one at a time, also behind a path of %i more bytes', async (more) => {
  const inside = path.join(folder(), 'd'.repeat(more))
  mkdirSync(inside)
  const file = path.join(inside, 'a.state')
  const release = await claimState(file)
  await expect(claimState(file)).rejects.toThrow('another daemon uses the state file')
  await (await claimState(path.join(inside, 'b.state')))()
  release()
  await (await claimState(file))()
})
