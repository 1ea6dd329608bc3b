import { spawn } from 'node:child_process'
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { Bench, PROGRAMS, ROOT, run } from './programs.ts'

// What is the same for every program: how it is asked for help and its version, what wrong usage is answered with, and a reader that goes away.
const bench = new Bench()
afterEach(() => bench.clean())

interface Bin {
  readonly name: string
  readonly file: string
  readonly version: string
}

const BINS: readonly Bin[] = readdirSync(path.join(ROOT, 'examples')).flatMap((folder) => {
  const manifest = path.join(ROOT, 'examples', folder, 'package.json')
  if (!existsSync(manifest)) return []
  const { bin = {}, version } = JSON.parse(readFileSync(manifest, 'utf8')) as { readonly bin?: Readonly<Record<string, string>>; readonly version: string } // our own
  return Object.entries(bin).map(([name, file]) => ({ name, file: path.join(ROOT, 'examples', folder, file), version }))
})

const bin = (name: string): string => BINS.find((each) => each.name === name)?.file ?? name

test('every program of the repository is in these tables', () => {
  expect(BINS.map(({ name }) => name).sort()).toEqual(['meshwright', 'meshwright-control', 'meshwright-policy', 'meshwright-relay', 'meshwright-wg', 'meshwrightd'])
})

test.each(BINS)('$name --help and -h say how it is used, --version the version; status 0, nothing on standard error', async ({ name, file, version }) => {
  for (const flag of ['--help', '-h']) {
    const { status, out, err } = await run(file, [flag])
    expect([status, err]).toEqual([0, ''])
    expect(out).toContain(name)
    expect(out.split('\n').length).toBeGreaterThan(5)
  }
  const told = await run(file, ['--version'])
  expect([told.status, told.err]).toEqual([0, ''])
  expect(told.out.split('\n')[0]).toContain(version)
})

/** Verbs by program, as the help of each lists them. */
const VERBS: readonly (readonly [string, readonly string[]])[] = [
  ['meshwright', ['up', 'down', 'set', 'login', 'logout', 'status', 'ping', 'path', 'ip', 'whois', 'netcheck', 'dns', 'dns status', 'dns query', 'exit-node', 'exit-node list', 'exit-node suggest', 'nc', 'metrics', 'metrics print', 'metrics write', 'debug', 'debug prefs', 'debug netmap', 'debug derp-map', 'debug denied', 'version']],
  ['meshwright-control', ['serve', 'configtest', 'health', 'version', 'generate private-key', 'users', 'users create', 'preauthkeys', 'preauthkeys create', 'auth', 'auth register', 'nodes', 'nodes list', 'nodes tag', 'policy', 'policy set', 'ssh', 'ssh approve']],
  ['meshwright-policy', ['check', 'test', 'explain', 'diff', 'preview', 'fmt', 'schema']],
  ['meshwright-wg', ['genkey', 'genpsk', 'pubkey', 'show', 'check', 'audit', 'mesh', 'rotate']],
]

/** Verbs that read their options by themselves; of the others, which share one reader, some. */
const OF_ITS_OWN: readonly string[] = ['generate private-key', 'show', 'check', 'audit', 'mesh', 'rotate', 'nc', 'metrics write']

describe.each(VERBS)('%s', (name, verbs) => {
  test('VERB --help: the usage and status 0', async () => {
    for (const verb of verbs) {
      const { status, out, err } = await run(bin(name), [...verb.split(' '), '--help'])
      expect([verb, status, err]).toEqual([verb, 0, ''])
      expect(out).toContain(verb.split(' ')[0])
    }
  })

  test('VERB with an option that it has not: status 2, the reason on standard error, nothing on standard output', async () => {
    for (const verb of verbs.filter((each, i) => i % 3 === 0 || OF_ITS_OWN.includes(each))) {
      const { status, out, err } = await run(bin(name), [...verb.split(' '), '--nonsense'])
      expect([verb, status, out]).toEqual([verb, 2, ''])
      expect(err).not.toMatch(/\n {4}at /)
    }
  })
})

describe('wrong usage: status 2, one line that says why, no stack', () => {
  test.for<readonly [string, readonly string[], string]>([
    ['meshwright', ['down', 'now'], 'too many non-flag arguments: now'],
    ['meshwright', ['status', 'x', 'y'], 'too many non-flag arguments: x y'],
    ['meshwright', ['version', 'x'], 'too many non-flag arguments: x'],
    ['meshwright', ['dns', 'stauts'], 'unknown subcommand: dns stauts (did you mean "status"?)'],
    ['meshwright-control', ['--nonsense'], 'unknown command --nonsense'],
    ['meshwright-control', ['nodes', 'lst'], 'unknown command nodes lst'],
    ['meshwright-control', ['generate'], 'generate knows only private-key'],
    ['meshwright-control', ['generate', 'private-key', '--nonsense'], '--nonsense'],
    ['meshwright-control', ['-o', 'xml', 'version'], 'xml'],
    ['meshwright-relay', [], '--key-file is missing'],
    ['meshwright-relay', ['serve'], "Unexpected argument 'serve'"],
    ['meshwright-relay', ['--nonsense'], "Unknown option '--nonsense'"],
    ['meshwright-wg', ['check', '--nonsense'], 'usage: meshwright-wg check [--json] FILE'],
    ['meshwright-wg', ['show', '--nonsense'], 'usage: meshwright-wg show'],
    ['meshwright-wg', ['a/b'], 'a/b'],
    ['meshwright-wg', ['genkey', 'x'], 'takes no arguments'],
  ])('%s %j', async ([name, args, reason]) => {
    const { status, out, err } = await run(bin(name), args)
    expect([status, out]).toEqual([2, ''])
    expect(err).toContain(reason)
    expect(err).not.toMatch(/\n {4}at /)
  })

  test.for([['main.js', 'CONTROL_URL'], ['chat.js', 'CONTROL_URL'], ['socks-gateway.js', 'CONTROL_URL'], ['ci-job.js', 'URL'], ['tcp-forwarder.js', 'FORWARD']])('examples that take their settings from the environment say what is missing: %j', async ([file = '', variable = '']) => {
    const { status, out, err } = await run(path.join(ROOT, 'examples/embed-http/dist', file), [])
    expect([status, out, err.trim().split('\n').length]).toEqual([2, '', 1])
    expect(err).toContain(variable)
  })
})

/** Runs a program whose reader is gone before it says a word; gives its status and what it complained of. */
function unread(file: string, args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<readonly [number | null, string]> {
  return new Promise((resolve) => {
    const child = spawn('sh', ['-c', '{ sleep 0.2; "$@"; echo "status $?" >&2; } | true', 'sh', process.execPath, file, ...args], { stdio: ['ignore', 'ignore', 'pipe'], cwd: os.tmpdir(), env: { ...process.env, NODE_OPTIONS: '', ...env } })
    let err = ''
    child.stderr.on('data', (bytes: Buffer) => (err += bytes.toString('utf8')))
    child.once('close', () => {
      const status = /status (\d+)\n$/.exec(err)?.[1]
      resolve([status === undefined ? null : Number(status), err.replace(/status \d+\n$/, '')])
    })
  })
}

test.runIf(process.platform !== 'win32').for<readonly [string, readonly string[]]>([
  ...BINS.map(({ name }): readonly [string, readonly string[]] => [name, ['--help']]),
  ['meshwright', ['version', '--json']],
  ['meshwright-control', ['nodes', '--help']],
  ['meshwright-control', ['version', '-o', 'json']],
  ['meshwright-control', ['generate', 'private-key']],
  ['meshwright-policy', ['schema', '--json']],
  ['meshwright-wg', ['genkey']],
])('a reader that has gone (| head) is no failure: %j', async ([name, args]) => {
  expect(await unread(bin(name), args)).toEqual([0, ''])
})

test.runIf(process.platform !== 'win32')('a demo that nobody reads ends in good order: with the status of a broken pipe, and no file is left', async () => {
  const folder = bench.folder()
  expect(await unread(PROGRAMS.demo, ['--once'], { TMPDIR: folder })).toEqual([141, ''])
  expect(readdirSync(folder)).toEqual([])
})

test('JSON is alone on standard output, also where there is nothing to tell', async () => {
  const version = await run(bin('meshwright'), ['version', '--json'])
  expect(JSON.parse(version.out)).toMatchObject({ short: '0.1.0' })
  const control = await run(bin('meshwright-control'), ['version', '-o', 'json'])
  expect(JSON.parse(control.out)).toEqual({ version: '0.1.0' })
  const missing = await run(bin('meshwright'), ['--socket', path.join(bench.folder(), 'none.sock'), 'status', '--json'])
  expect(missing).toMatchObject({ status: 1, out: '' })
  const wrong = await run(PROGRAMS.policy, ['check', '--json'])
  expect(wrong.status).toBe(2)
  expect(JSON.parse(wrong.out)).toMatchObject({ ok: false })
})

test('what a living daemon tells as JSON is one value and nothing else; what it cannot tell is an error with nothing on standard output', async () => {
  const folder = bench.folder()
  const socket = path.join(folder, 'd.sock')
  await bench.start(PROGRAMS.daemon, ['--state', path.join(folder, 'd.state'), '--socket', socket]).said(/ is ready: /)
  for (const words of [['status', '--json'], ['status', '--json', '--peers=false'], ['dns', 'status', '--json'], ['version', '--json', '--daemon'], ['debug', 'prefs'], ['debug', 'derp-map'], ['debug', 'denied']]) {
    const { status, out, err } = await run(bin('meshwright'), ['--socket', socket, ...words])
    expect([words, status, err, typeof JSON.parse(out)]).toEqual([words, 0, '', 'object'])
  }
  for (const words of [['whois', '--json', '100.64.0.1'], ['path', '--json', 'nobody'], ['debug', 'netmap'], ['netcheck', '--format=json'], ['dns', 'query', '--json', 'nobody']]) {
    expect([words, await run(bin('meshwright'), ['--socket', socket, ...words])]).toEqual([words, { status: 1, out: '', err: expect.stringMatching(/^[^\n]+\n$/) as string }])
  }
})
