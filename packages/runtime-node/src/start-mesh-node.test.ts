import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'
import { NO_OFFLOADS } from './dataplane/give-up-offloads.ts'
import { noLaneCounters } from './dataplane/lane-context.ts'
import { fastCryptoProvider } from './fast-crypto.ts'
import { startMeshNode } from './start-mesh-node.ts'

const SOURCE = path.join(path.dirname(fileURLToPath(import.meta.url)), 'start-mesh-node.ts')
/** Nobody listens there. */
const NOWHERE = 'http://127.0.0.1:1'

describe('a node whose control server is away', () => {
  test('starts, says what is wrong, and is not ready', async () => {
    const node = await startMeshNode({ controlUrl: NOWHERE, hostname: 'here' })
    await expect(node.ready(AbortSignal.timeout(200))).rejects.toMatchObject({ code: 'RUNTIME_ABORTED' })
    expect(node.status().state).toBe('starting')
    await expect.poll(() => node.status().lastError, { timeout: 30_000 }).toMatch(/./)
    await node.close()
    await node.close()
  })

  test('says who does its cryptography: the fastest provider', async () => {
    const lines: string[] = []
    const node = await startMeshNode({ controlUrl: NOWHERE, hostname: 'here', log: (_level, line) => lines.push(line) })
    expect(node.crypto).toBe(fastCryptoProvider().name)
    expect(lines).toContain(`cryptography: ${node.crypto}`)
    const { counters, offloads, ...plane } = await node.dataPlane()
    expect(plane).toEqual({ lane: 'userspace', datagrams: expect.stringMatching(/^(calls|singles)$/) as string, restarts: 0 })
    // By the names that a worker's have.
    expect(Object.keys(counters ?? {}).sort()).toEqual(Object.keys(noLaneCounters()).sort())
    expect(offloads).toEqual({ ...NO_OFFLOADS, gso: plane.datagrams === 'calls' })
    await node.close()
  })

  test('refuses names and addresses that it does not know, and waits for nobody when it closes', async () => {
    const node = await startMeshNode({ controlUrl: NOWHERE, hostname: 'here' })
    await expect(node.dialTcp('db', 80)).rejects.toMatchObject({ code: 'ENOTFOUND' })
    await expect(node.dialTcp('100.64.0.2', 80)).rejects.toMatchObject({ code: 'EHOSTUNREACH' })
    await expect(node.ping('db', 'disco')).rejects.toMatchObject({ code: 'RUNTIME_NAME_UNKNOWN' })
    expect((await node.ping('100.64.0.2', 'ICMP')).error).toContain('not running')
    const waiting = node.ready().then(() => 'ready', (error: NodeJS.ErrnoException) => error.code)
    await node.close()
    expect(await waiting).toBe('RUNTIME_CLOSED')
  })
})

describe('options that make no sense are refused by name, before anything is opened', () => {
  test.each([
    [{ advertiseRoutes: ['10.0.0.0/33'] }, "advertiseRoutes: '10.0.0.0/33'"],
    [{ controlUrl: 'control.example' }, "controlUrl: 'control.example'"],
    [{ controlUrl: 'https://control.example/path' }, "controlUrl: 'https://control.example/path'"],
    [{ controlUrl: 'ftp://control.example' }, "controlUrl: 'ftp://control.example'"],
    [{ controlUrl: '' }, 'controlUrl: it is empty'],
    [{ port: 65_536 }, 'port: 65536'],
    [{ port: -1 }, 'port: -1'],
    [{ port: 1.5 }, 'port: 1.5'],
  ])('%j', async (options, told) => {
    await expect(startMeshNode({ controlUrl: NOWHERE, ...options })).rejects.toMatchObject({ code: 'RUNTIME_OPTION', message: expect.stringContaining(told) as string, remedy: expect.any(String) as string })
  })
})

test('a closed node does nothing more, and says so at once', async () => {
  const node = await startMeshNode({ controlUrl: NOWHERE, hostname: 'here' })
  const udp = node.listenUdp(53, () => undefined)
  expect(udp.send(Uint8Array.of(1), 53, '100.64.0.2')).toBe(false) // it has no address yet
  await node.close()
  const closed = { code: 'RUNTIME_CLOSED' }
  await expect(node.dialTcp('100.64.0.2', 80)).rejects.toMatchObject(closed)
  await expect(node.fetch('http://100.64.0.2/')).rejects.toMatchObject(closed)
  await expect(node.ping('100.64.0.2', 'ICMP')).rejects.toMatchObject(closed)
  await expect(node.logout()).rejects.toMatchObject(closed)
  await expect(node.ready()).rejects.toMatchObject(closed)
  for (const use of [() => node.listenTcp(80, () => undefined), () => node.listenUdp(54, () => undefined), () => node.up(), () => node.setPrefs({ shieldsUp: true })]) expect(use).toThrow(expect.objectContaining(closed))
  expect(udp.send(Uint8Array.of(1), 53, '100.64.0.2')).toBe(false)
  udp.close()
  node.down()
})

test('a state file is that of one node: a second one is refused until the first is closed', async () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'meshwright-node-'))
  const start = (name: string): ReturnType<typeof startMeshNode> => startMeshNode({ controlUrl: NOWHERE, hostname: 'here', stateFile: path.join(folder, name) })
  const first = await start('state')
  await expect(start('state')).rejects.toMatchObject({ code: 'RUNTIME_OPTION', message: expect.stringContaining('another node in this process') as string })
  await expect(start(path.join('..', path.basename(folder), 'state'))).rejects.toMatchObject({ code: 'RUNTIME_OPTION' })
  const other = await start('other')
  await Promise.all([first.close(), other.close()])
  await (await start('state')).close()
  await expect(startMeshNode({ controlUrl: NOWHERE, stateFile: path.join(folder, 'state'), port: 99_999 })).rejects.toMatchObject({ code: 'RUNTIME_OPTION' })
  await (await start('state')).close()
  rmSync(folder, { recursive: true })
})

test('a state file that cannot be read is refused', async () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'meshwright-node-'))
  const stateFile = path.join(folder, 'state')
  writeFileSync(stateFile, '{"half')
  await expect(startMeshNode({ controlUrl: NOWHERE, stateFile })).rejects.toMatchObject({ code: 'STATE_FILE_CORRUPT' })
  rmSync(folder, { recursive: true })
})

test('a closed node keeps its process alive with nothing: the process ends by itself', async () => {
  // A control server that takes connections and never says a word: the dial is in the middle of something when the node closes.
  const silent = createServer(() => undefined)
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
  const address = silent.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  const folder = mkdtempSync(path.join(tmpdir(), 'meshwright-exit-'))
  const program = path.join(folder, 'program.mts')
  writeFileSync(
    program,
    `import { NO_OFFLOADS } from './dataplane/give-up-offloads.ts'
import { noLaneCounters } from './dataplane/lane-context.ts'
import { fastCryptoProvider } from './fast-crypto.ts'
import { startMeshNode } from ${JSON.stringify(SOURCE)}
for (const controlUrl of ['${NOWHERE}', 'http://127.0.0.1:${port}']) {
  const node = await startMeshNode({ controlUrl, hostname: 'here', stateFile: ${JSON.stringify(path.join(folder, 'state'))} })
  node.listenTcp(80, () => {})
  node.listenUdp(53, () => {})
  void node.dialTcp('100.64.0.2', 80).catch(() => {})
  await new Promise((resolve) => setTimeout(resolve, 300))
  await node.close()
}
console.log('closed')
`,
  )
  try {
    const { stdout } = await promisify(execFile)(process.execPath, ['--conditions=@meshwright/source', '--import', 'tsx', program], { cwd: path.dirname(SOURCE), timeout: 90_000 })
    expect(stdout).toBe('closed\n')
  } finally {
    silent.close()
    rmSync(folder, { recursive: true })
  }
})
