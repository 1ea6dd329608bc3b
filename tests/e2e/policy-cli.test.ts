import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { Bench, PROGRAMS, run } from './programs.ts'

const bench = new Bench()
afterEach(() => bench.clean())

const POLICY = '{"tagOwners": {"tag:web": []}, "grants": [{"src": ["alice@example.com"], "dst": ["tag:web"], "ip": ["tcp:443"]}]}\n'
const BAD = '{"acls": [{"action": "deny", "src": ["*"], "dst": ["*:*"]}]}\n'
const INVENTORY = JSON.stringify({
  users: [{ id: 1, login: 'alice@example.com', role: 'owner' }],
  nodes: [
    { id: 1, name: 'laptop', user: 1, addresses: ['100.64.0.1'] },
    { id: 2, name: 'web', tags: ['tag:web'], addresses: ['100.64.0.2'] },
  ],
})

interface Shop {
  readonly folder: string
  readonly policy: string
  readonly inventory: string
}

function shop(): Shop {
  const folder = bench.folder()
  const files = { folder, policy: path.join(folder, 'policy.hujson'), inventory: path.join(folder, 'inventory.json') }
  writeFileSync(files.policy, POLICY)
  writeFileSync(files.inventory, INVENTORY)
  return files
}

const policy = (args: readonly string[], input?: string) => run(PROGRAMS.policy, args, input === undefined ? {} : { input })

test('every command answers with one JSON value and status 0 where all is well', async () => {
  const { policy: file, inventory } = shop()
  for (const args of [
    ['check', file],
    ['check', file, '-i', inventory],
    ['test', file, '-i', inventory],
    ['explain', file, 'laptop', 'web:443', '-i', inventory],
    ['explain', 'alice@example.com', 'tag:web:443', '--policy', file],
    ['diff', file, file, '-i', inventory],
    ['preview', file, '--as', 'web', '-i', inventory],
    ['fmt', file],
    ['schema'],
  ]) {
    const { status, out, err } = await policy([...args, '--json'])
    expect([args[0], status, err]).toEqual([args[0], 0, ''])
    expect(typeof JSON.parse(out)).toBe('object')
  }
})

test('status 1 for what is refused or not allowed, with the reason', async () => {
  const { folder, policy: file, inventory } = shop()
  const bad = path.join(folder, 'bad.hujson')
  writeFileSync(bad, BAD)
  expect(await policy(['check', bad])).toMatchObject({ status: 1, out: expect.stringContaining(`${bad}:1:22: action="deny" is not supported`) as string })
  expect(await policy(['test', bad, '-i', inventory])).toMatchObject({ status: 1 })
  expect(await policy(['diff', file, bad, '-i', inventory])).toMatchObject({ status: 1 })
  expect(await policy(['explain', file, 'web', 'laptop:443', '-i', inventory])).toMatchObject({ status: 1, out: expect.stringMatching(/^no /) as string })
  expect(JSON.parse((await policy(['check', bad, '--format', 'json'])).out)).toMatchObject({ ok: false, diagnostics: [{ code: 'POLICY_ACTION', line: 1, column: 22 }] })
})

describe('status 2 for wrong usage, told in one line', () => {
  test.for([
    [[], 'no command'],
    [['chekc'], "no command 'chekc'"],
    [['check'], 'check needs FILE'],
    [['check', '/nowhere/x.hujson'], '/nowhere/x.hujson'],
    [['check', 'x', '--as', 'y'], 'check takes no --as'],
    [['check', 'x', '--wrong'], "Unknown option '--wrong'"],
    [['check', 'x', '--format', 'xml'], '--format xml'],
    [['test', 'x'], '--inventory INV is missing'],
    [['preview', 'x'], '--as NODE is missing'],
    [['explain', 'a', 'b', 'c', 'd'], 'explain needs'],
  ] as const)('%j', async ([args, reason]) => {
    const { status, out, err } = await policy(args)
    expect([status, out]).toEqual([2, ''])
    expect(err.split('\n')[0]).toContain(reason)
  })
})

test('standard input is a file by the name of -', async () => {
  const { policy: file, inventory } = shop()
  expect(await policy(['check', '-'], BAD)).toMatchObject({ status: 1, out: expect.stringContaining('<stdin>:1:22:') as string })
  expect(await policy(['fmt', '-'], '{"a":1,\n}')).toMatchObject({ status: 0, out: '{\n\t"a": 1,\n}\n' })
  expect(await policy(['explain', file, 'laptop', 'web:443', '-i', '-'], INVENTORY)).toMatchObject({ status: 0 })
  expect(await policy(['test', '-', '-i', inventory], POLICY)).toMatchObject({ status: 0 })
  expect(await policy(['test', '-', '-i', '-'], POLICY)).toMatchObject({ status: 2 })
})

test('help for all and for each command', async () => {
  expect(await policy(['--help'])).toMatchObject({ status: 0, out: expect.stringMatching(/^usage: meshwright-policy COMMAND/) as string })
  for (const command of ['check', 'test', 'explain', 'diff', 'preview', 'fmt', 'schema']) {
    const { status, out } = await policy([command, '--help'])
    expect([status, out.startsWith(`usage: meshwright-policy ${command}`)]).toEqual([0, true])
    expect(await policy(['help', command])).toMatchObject({ status: 0, out })
  }
})

test('fmt --write rewrites, and fmt --check agrees from then on', async () => {
  const { policy: file } = shop()
  writeFileSync(file, '{"b":[1,\n2]} // end\n')
  expect((await policy(['fmt', file, '--check'])).status).toBe(1)
  expect((await policy(['fmt', file, '--write'])).status).toBe(0)
  expect((await policy(['fmt', file, '--check'])).status).toBe(0)
  expect(readFileSync(file, 'utf8')).toContain('// end')
  expect(existsSync(`${file}.new`)).toBe(false)
})
