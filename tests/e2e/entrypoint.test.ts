import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import path from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { startSmallMesh } from './mesh.ts'
import { Bench, freePort, PROGRAMS, ROOT, run } from './programs.ts'

const PACKAGING = path.join(ROOT, 'examples/node/packaging')
const bench = new Bench()
const children: ChildProcess[] = []

afterEach(async () => {
  for (const child of children.splice(0)) child.kill('SIGKILL')
  await bench.clean()
})

function entrypoint(folder: string, env: Readonly<Record<string, string>>): { readonly said: () => string; readonly ended: Promise<number | null>; readonly child: ChildProcess } {
  const child = spawn('sh', [path.join(PACKAGING, 'entrypoint.sh')], {
    env: { PATH: process.env['PATH'] ?? '', TMPDIR: folder, MESHWRIGHTD: `${process.execPath} ${PROGRAMS.daemon}`, MESHWRIGHT: `${process.execPath} ${PROGRAMS.cli}`, MESHWRIGHT_SOCKET: path.join(folder, 'd.sock'), ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  children.push(child)
  let text = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (bytes: Buffer) => (text += bytes.toString('utf8')))
  return { said: () => text, ended: new Promise((resolve) => child.once('close', resolve)), child }
}

async function until(what: string, look: () => boolean): Promise<void> {
  for (const deadline = performance.now() + 90_000; !look(); ) {
    if (performance.now() > deadline) throw new Error(`not in 90 s: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

test('the entrypoint of the container brings a node up from the environment, and ends it by SIGTERM', async () => {
  const folder = bench.folder()
  const { url, authKey: key, admin } = await startSmallMesh(bench, folder)
  const started = entrypoint(folder, {
    MESHWRIGHT_LOGIN_SERVER: url,
    MESHWRIGHT_AUTH_KEY: key,
    MESHWRIGHT_HOSTNAME: 'contained',
    MESHWRIGHT_STATE_DIR: path.join(folder, 'state'),
    MESHWRIGHT_SOCKS5: `127.0.0.1:${await freePort()}`,
    MESHWRIGHT_ROUTES: '10.1.0.0/16',
    MESHWRIGHT_UP_ARGS: '--accept-routes --timeout=90s',
    MESHWRIGHTD_FLAGS: '--port=0 --verbose=1',
  })
  const status = async (): Promise<{ readonly BackendState?: string; readonly Self?: { readonly HostName: string } }> =>
    JSON.parse((await run(PROGRAMS.cli, ['--socket', path.join(folder, 'd.sock'), 'status', '--json'])).out || '{}') as { readonly BackendState?: string } // the daemon's own form
  await until('the state is kept', () => existsSync(path.join(folder, 'state')))
  const deadline = performance.now() + 120_000
  let seen = await status()
  while (seen.BackendState !== 'Running' && performance.now() < deadline) seen = await status()
  expect(seen, started.said()).toMatchObject({ BackendState: 'Running', Self: { HostName: 'contained' } })
  expect((await admin('nodes', 'list-routes')).out).toContain('10.1.0.0/16')
  // The key is neither said nor left behind in a file; the state has keys of its own.
  await until('the key file is gone', () => !readdirSync(folder).some((name) => name.startsWith('tmp.')))
  expect(started.said()).not.toContain(key)
  started.child.kill('SIGTERM')
  expect(await started.ended).toBe(0)
})

test('started again with its state it comes up as the same node, though its one-off key is used up', async () => {
  const folder = bench.folder()
  const { url, admin } = await startSmallMesh(bench, folder)
  const { key } = JSON.parse((await admin('preauthkeys', 'create', '-u', '1', '-o', 'json')).out) as { readonly key: string } // headscale's form
  const ips: string[] = []
  for (let time = 0; time < 2; time += 1) {
    const started = entrypoint(folder, { MESHWRIGHT_LOGIN_SERVER: url, MESHWRIGHT_AUTH_KEY: key, MESHWRIGHT_HOSTNAME: 'again', MESHWRIGHT_STATE_DIR: path.join(folder, 'state'), MESHWRIGHT_UP_ARGS: '--timeout=20s', MESHWRIGHTD_FLAGS: '--port=0' })
    await until('it runs', () => started.said().includes('state: running'))
    const asked = await run(PROGRAMS.cli, ['--socket', path.join(folder, 'd.sock'), 'ip', '-4'])
    expect(asked, started.said()).toMatchObject({ status: 0 })
    ips.push(asked.out)
    await new Promise((resolve) => setTimeout(resolve, 1_500)) // were "up" to fail, it would end the container
    started.child.kill('SIGTERM')
    expect(await started.ended, started.said()).toBe(0)
    expect(started.said()).not.toContain('meshwright-entrypoint:')
  }
  expect(ips[1]).toBe(ips[0])
})

test('SIGTERM while it waits for a person to log it in ends it in order', async () => {
  const folder = bench.folder()
  const { url } = await startSmallMesh(bench, folder)
  const started = entrypoint(folder, { MESHWRIGHT_LOGIN_SERVER: url, MESHWRIGHT_STATE_DIR: 'mem:' })
  await until('the address to visit is shown', () => started.said().includes('/register/'))
  started.child.kill('SIGTERM')
  expect(await Promise.race([started.ended, new Promise((resolve) => setTimeout(() => resolve('it goes on'), 20_000))])).toBe(0)
})

test('the entrypoint ends as the daemon does, and says so, when it cannot start', async () => {
  const folder = bench.folder()
  const started = entrypoint(folder, { MESHWRIGHT_STATE_DIR: 'mem:', MESHWRIGHTD_FLAGS: '--tun=averyveryverylongname' })
  expect(await started.ended).toBe(2)
  expect(started.said()).toMatch(/not an interface name[\s\S]*meshwrightd ended with status 2/)
})

test('a login that is refused ends the container with the status of "up"', async () => {
  const folder = bench.folder()
  const server = createServer((_request, response) => response.writeHead(404).end())
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  writeFileSync(path.join(folder, 'key'), 'tskey-auth-wrong')
  const started = entrypoint(folder, {
    MESHWRIGHT_STATE_DIR: 'mem:',
    MESHWRIGHT_LOGIN_SERVER: `http://127.0.0.1:${typeof address === 'object' ? address?.port : 0}`,
    MESHWRIGHT_AUTH_KEY_FILE: path.join(folder, 'key'),
    MESHWRIGHT_UP_ARGS: '--timeout=2s',
  })
  expect(await started.ended).toBe(1)
  expect(started.said()).toContain('"meshwright up" ended with status 1')
  server.close()
})

test('the systemd unit is one that systemd understands', (context) => {
  const unit = path.join(PACKAGING, 'meshwrightd.service')
  for (const line of readFileSync(unit, 'utf8').split('\n')) expect(line).toMatch(/^(#.*|\[\w+\]|\w+=.*|)$/)
  const verified = spawnSync('systemd-analyze', ['verify', '--man=no', unit], { encoding: 'utf8' })
  if (verified.error !== undefined) context.skip('systemd-analyze is not installed')
  expect(verified.stderr.split('\n').filter((line) => line.includes('meshwrightd.service'))).toEqual([])
})
