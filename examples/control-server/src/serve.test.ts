import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import https from 'node:https'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { selfSignedCertificate } from '@meshwright/runtime-node/relay'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { freePort } from '../../demo/src/free-port.ts'
import { writeConfigForTests } from './config-for-tests.ts'
import { ask } from './cli/client.ts'

// The program as a black box, run from its sources, or as built where that is named.
const ROOT = path.resolve(import.meta.dirname, '../../..')
const MAIN = path.join(import.meta.dirname, 'main.ts')
const BUILT = process.env['MESHWRIGHT_CONTROL_MAIN']
const NODE = BUILT === undefined ? ['--conditions=@meshwright/source', '--import', 'tsx', MAIN] : [BUILT]
/** Rounds of the kill test; a long run sets more. */
const KILLS = Number(process.env['MESHWRIGHT_KILLS'] ?? 3)

let folder: string
let config: string
let port: number
let server: ChildProcess | undefined

beforeEach(async () => {
  folder = mkdtempSync(path.join(tmpdir(), 'meshwright-control-'))
  port = await freePort()
  writeFileSync(path.join(folder, 'policy.hujson'), '{"acls":[{"action":"accept","src":["*"],"dst":["*:*"]}]}')
  config = writeConfigForTests(folder, port, { policy: `{mode: file, path: ${folder}/policy.hujson}`, log: '{}' })
})

afterEach(() => {
  server?.kill('SIGKILL')
  server = undefined
  rmSync(folder, { recursive: true, force: true })
})

async function start(): Promise<ChildProcess> {
  const child = spawn(process.execPath, [...NODE, 'serve', '-c', config], { cwd: ROOT, stdio: ['ignore', 'ignore', 'pipe'] })
  server = child
  let log = ''
  await new Promise<void>((resolve, reject) => {
    child.stderr.on('data', (part: Buffer) => {
      log += part.toString()
      if (log.includes(' ready ')) resolve()
    })
    child.once('exit', () => reject(new Error(`the server ended: ${log}`)))
  })
  return child
}

async function cli(...words: string[]): Promise<{ code: number; out: string; err: string }> {
  try {
    const { stdout, stderr } = await promisify(execFile)(process.execPath, [...NODE, ...words, '-c', config], { cwd: ROOT })
    return { code: 0, out: stdout, err: stderr }
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string }
    return { code, out: stdout, err: stderr }
  }
}

test('serves its key and its health, keeps secrets to itself, and answers the command line', async () => {
  const child = await start()
  const base = `http://127.0.0.1:${port}`
  expect(await (await fetch(`${base}/key?v=142`)).json()).toEqual({ legacyPublicKey: `mkey:${'0'.repeat(64)}`, publicKey: expect.stringMatching(/^mkey:[0-9a-f]{64}$/) })
  expect((await fetch(`${base}/key`)).status).toBe(400)
  expect(await (await fetch(`${base}/health`)).json()).toEqual({ status: 'pass' })
  expect(await (await fetch(`${base}/verify`, { method: 'POST', body: JSON.stringify({ NodePublic: `nodekey:${'ab'.repeat(32)}` }) })).json()).toEqual({ Allow: false })
  expect((await fetch(`${base}/register/hskey-authreq-${'a'.repeat(24)}`)).status).toBe(404)
  expect((await fetch(`${base}/nothing`)).status).toBe(404)
  for (const secret of ['noise.key', 'db.sqlite']) expect(statSync(path.join(folder, secret)).mode & 0o777).toBe(0o600)
  const created = await cli('users', 'create', 'alice', '-o', 'json')
  expect(created.code).toBe(0)
  expect(JSON.parse(created.out)).toMatchObject({ id: '1', name: 'alice' })
  const key = await cli('preauthkeys', 'create', '-u', '1', '--reusable', '-e', '24h')
  expect(key.out).toMatch(/^hskey-auth-[0-9a-f]{12}-[0-9a-f]{64}\n$/)
  expect(await cli('users', 'create', 'alice')).toMatchObject({ code: 1, err: expect.stringContaining('user alice exists already') })
  expect(await cli('users', 'creat', 'x')).toMatchObject({ code: 2, err: expect.stringContaining('did you mean create?') })
  writeFileSync(path.join(folder, 'bad.hujson'), '{"acls":[{"action":"accept","src":["*"],"dst":["tag:x:1"]}]}')
  expect(await cli('policy', 'check', '-f', path.join(folder, 'bad.hujson'))).toMatchObject({ code: 1, err: expect.stringContaining('line 1, column') })
  child.kill('SIGTERM')
  expect(await once(child, 'exit')).toEqual([0, null])
})

test('says what is wrong and how to put it right: no server, taken port, broken policy, foreign key file', async () => {
  expect(await cli('nodes', 'list')).toMatchObject({ code: 1, err: expect.stringContaining('start it with: meshwright-control serve') })
  const taken = createServer().listen(port, '127.0.0.1')
  await once(taken, 'listening')
  expect(await cli('serve')).toMatchObject({ code: 1, err: expect.stringMatching(/is in use by another program[^]*listen_addr/) })
  taken.close()
  writeFileSync(path.join(folder, 'policy.hujson'), '{"acls":[')
  expect(await cli('serve')).toMatchObject({ code: 2, err: expect.stringMatching(/policy\.hujson:1:\d+: /) })
  writeFileSync(path.join(folder, 'noise.key'), 'half')
  expect(await cli('serve')).toMatchObject({ code: 2, err: expect.stringContaining('does not hold a key') })
  expect(readFileSync(path.join(folder, 'noise.key'), 'utf8')).toBe('half')
})

test('new connections get a certificate that was renewed at a SIGHUP, old ones live on, and one that cannot be used changes nothing', async () => {
  const names = { cert: path.join(folder, 'tls.crt'), key: path.join(folder, 'tls.key') }
  const place = (made: { readonly cert: string; readonly key: string }): void => {
    writeFileSync(names.cert, made.cert)
    writeFileSync(names.key, made.key)
  }
  const [first, second] = [selfSignedCertificate(['127.0.0.1']), selfSignedCertificate(['127.0.0.1'])]
  place(first)
  writeFileSync(config, `${readFileSync(config, 'utf8').replace('server_url: http:', 'server_url: https:')}tls_cert_path: ${names.cert}\ntls_key_path: ${names.key}\n`)
  const child = await start()
  let log = ''
  child.stderr?.on('data', (part: Buffer) => (log += part.toString()))
  const health = (ca: string, agent: https.Agent | false = false): Promise<number | string | undefined> =>
    new Promise((resolve) => {
      https.get({ host: '127.0.0.1', port, path: '/health', ca, agent }, (response) => response.resume().on('end', () => resolve(response.statusCode))).on('error', (error: NodeJS.ErrnoException) => resolve(error.code))
    })
  const kept = new https.Agent({ keepAlive: true, maxSockets: 1 })
  expect(await health(first.cert, kept)).toBe(200)
  const [before] = Object.values(kept.freeSockets).flat()
  place(second)
  child.kill('SIGHUP')
  await expect.poll(() => health(second.cert), { timeout: 30_000 }).toBe(200)
  expect(await health(first.cert)).toBe('DEPTH_ZERO_SELF_SIGNED_CERT')
  expect(await health(first.cert, kept)).toBe(200) // by the connection that was there
  expect(Object.values(kept.freeSockets).flat()[0]).toBe(before)
  kept.destroy()
  writeFileSync(names.key, first.key)
  child.kill('SIGHUP')
  await expect.poll(() => log, { timeout: 30_000 }).toMatch(/error: the key .*tls\.key of the certificate .*tls\.crt cannot be used/)
  expect(await health(second.cert)).toBe(200)
})

test(`a write that was acknowledged is there after kill -9, at ${KILLS} random moments`, async () => {
  const acknowledged: string[] = []
  for (let round = 0; round < KILLS; round += 1) {
    const child = await start()
    const socket = path.join(folder, 'control.sock')
    const { users } = await ask(socket, { command: 'listUsers' })
    expect((users as { name: string }[]).map((user) => user.name)).toEqual(expect.arrayContaining(acknowledged))
    const dead = once(child, 'exit')
    setTimeout(() => child.kill('SIGKILL'), Math.random() * 300)
    const writers = Array.from({ length: 4 }, async (_, writer) => {
      for (let i = 0; ; i += 1) {
        const name = `r${round}w${writer}i${i}`
        try {
          await ask(socket, { command: 'createUser', name })
        } catch {
          return // killed: what was not answered may or may not be there
        }
        acknowledged.push(name)
      }
    })
    await Promise.all([...writers, dead])
  }
  expect(acknowledged.length).toBeGreaterThan(0)
})
