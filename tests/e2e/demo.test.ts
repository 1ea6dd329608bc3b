import { readdirSync, readFileSync } from 'node:fs'
import { spawnSync } from 'node:child_process'
import { afterEach, expect, test } from 'vitest'
import { Bench, freePort, PROGRAMS, run } from './programs.ts'

const bench = new Bench()
afterEach(() => bench.clean())

/** The folders of demos in a folder for such: one that only this test uses. */
const folders = (where: string): readonly string[] => readdirSync(where).filter((name) => name.startsWith('meshwright-demo-'))

/** Process ids of programs that hold one of these folders in their command line; none where there is no /proc. */
function processesIn(names: readonly string[]): readonly string[] {
  if (process.platform !== 'linux') return []
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false
    try {
      const line = readFileSync(`/proc/${pid}/cmdline`, 'utf8')
      return names.some((name) => line.includes(name))
    } catch {
      return false // it has ended meanwhile
    }
  })
}

interface Proof {
  readonly ok: boolean
  readonly steps: readonly { readonly name: string; readonly ok: boolean; readonly ms: number; readonly detail: string }[]
}

test('the proof holds, prints its JSON alone, and leaves nothing behind', async () => {
  const here = bench.folder('mw-')
  const ended = await run(PROGRAMS.demo, ['--once', '--json'], { timeoutMs: 280_000, env: { TMPDIR: here } })
  const proof = JSON.parse(ended.out) as Proof
  expect(proof.steps.filter((step) => !step.ok).map((step) => `✗ ${step.name}: ${step.detail}`), ended.err).toEqual([])
  expect(proof.ok).toBe(true)
  expect(ended.status).toBe(0)
  expect(ended.out.trim().split('\n')).toHaveLength(1)
  expect(Object.keys(proof)).toEqual(['ok', 'steps'])
  expect(proof.steps.length).toBeGreaterThanOrEqual(15)
  for (const step of proof.steps) {
    expect(Object.keys(step)).toEqual(['name', 'ok', 'ms', 'detail'])
    expect(step.detail).not.toBe('')
  }
  expect(folders(here)).toEqual([])
  expect(ended.err).not.toMatch(/\u001b\[/) // no colours where nobody looks
})

test('it stays up, the commands it prints work, and Ctrl-C removes everything', async () => {
  const here = bench.folder('mw-')
  const demo = bench.start(PROGRAMS.demo, [], { TMPDIR: here })
  await demo.said(/Ctrl-C ends all of it/, 250_000)
  const lines = demo.text.slice(demo.text.indexOf('The mesh stays up')).split('\n').map((line) => line.trim())
  const commands = lines.filter((line) => line.startsWith('node '))
  expect(commands.length).toBeGreaterThanOrEqual(6)
  for (const command of commands) {
    const [, file = '', ...args] = command.split(' ')
    const ended = await run(file, args)
    expect({ command, status: ended.status }, ended.err + ended.out).toEqual({ command, status: 0 })
    expect(ended.out).not.toBe('')
  }
  const curl = lines.find((line) => line.startsWith('curl '))?.split(' ') ?? []
  expect(curl).not.toEqual([])
  if (spawnSync('curl', ['--version']).status === 0) expect(spawnSync('curl', ['-sS', '--max-time', '60', ...curl.slice(1)], { encoding: 'utf8' }).stdout).toContain('"service":"application"')

  // Another program joins: the embedded HTTP service, as a tagged node on the application's port.
  const config = /-c (\S+control\.yaml)/.exec(demo.text)?.[1] ?? ''
  const key = await run(PROGRAMS.control, ['-c', config, 'preauthkeys', 'create', '--tags', 'tag:app'])
  const controlUrl = /control server (http:\/\/127\.0\.0\.1:\d+)/.exec(demo.text)?.[1] ?? ''
  const port = /app\.demo\.mesh:(\d+)/.exec(curl.join(' '))?.[1] ?? ''
  const service = bench.start(PROGRAMS.embedHttp, [], { CONTROL_URL: controlUrl, AUTH_KEY: key.out.trim(), PORT: port, ALLOW_LOOPBACK: '1' })
  await service.said(/http:\/\/hello\.demo\.mesh:\d+\/ is on the mesh/)
  const alice = /--socket (\S+alice-laptop\.sock)/.exec(demo.text)?.[1] ?? ''
  let hello = ''
  for (let i = 0; i < 20 && !hello.includes('Hello'); i += 1) {
    hello = (await run(PROGRAMS.cli, ['--socket', alice, 'nc', 'hello', port], { input: 'GET / HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n', timeoutMs: 60_000 })).out
  }
  expect(hello).toContain('Hello, alice on alice-laptop.demo.mesh!')
  expect(await service.stop('SIGINT')).toBe(0)

  const mine = folders(here)
  expect(mine).toHaveLength(1)
  await demo.stop('SIGINT')
  expect(folders(here)).toEqual([])
  expect(processesIn(mine)).toEqual([])
})

test.each(['SIGINT', 'SIGTERM'] as const)('%s in the middle of the proof leaves nothing behind', async (signal) => {
  const here = bench.folder('mw-')
  const demo = bench.start(PROGRAMS.demo, ['--once'], { TMPDIR: here })
  await demo.said(/✓ .*start, a process each/, 120_000)
  const mine = folders(here)
  expect(mine).toHaveLength(1)
  expect(await demo.stop(signal)).toBe(signal === 'SIGINT' ? 130 : 143)
  expect(folders(here)).toEqual([])
  expect(processesIn(mine)).toEqual([])
})

test('help and wrong options', async () => {
  const help = await run(PROGRAMS.demo, ['--help'])
  expect(help).toMatchObject({ status: 0, err: '' })
  expect(help.out).toContain('--once')
  for (const args of [['--twice'], ['--json'], ['now']]) expect((await run(PROGRAMS.demo, args)).status).toBe(2)
})

test('the tunnel by hand works', async () => {
  const ended = await run(PROGRAMS.twoPeers, [])
  expect(ended.status, ended.err).toBe(0)
  expect(ended.out).toContain('A has its answer: 84 bytes from 10.0.0.2')
})

test('the embedded service says what it needs', async () => {
  const ended = await run(PROGRAMS.embedHttp, [], { env: { CONTROL_URL: `http://127.0.0.1:${await freePort()}` } })
  expect(ended.status).not.toBe(0)
  expect(ended.err).toContain('set CONTROL_URL and AUTH_KEY')
})
