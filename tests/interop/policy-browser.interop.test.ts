import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { build } from 'esbuild'
import { afterAll, beforeAll, expect, test } from 'vitest'

// The policy compiler in a real browser: the same bundle, the same answers as in Node.
const ROOT = path.resolve(import.meta.dirname, '../..')
const PROGRAM = `
import { parseIp } from '@meshwright/ip'
import { checkPolicy, compilePolicy, diffAccess, explainAccess, parsePolicy, runPolicyTests, untestedStatements } from '@meshwright/policy'
import { formatHuJson } from '@meshwright/policy/hujson'

const TEXT = \`// Umlauts äöü and \\u{1F511} too.
{
  "groups": {"group:dev": ["alice@example.com", "bob@example.com"]},
  "tagOwners": {"tag:web": ["group:dev"]},
  "grants": [
    {"src": ["group:dev"], "dst": ["tag:web"], "ip": ["tcp:443"], "app": {"example.com/cap": [{"a": [1, null, "x"]}]}},
    {"src": ["autogroup:member"], "dst": ["autogroup:self", "10.0.0.0/8"], "ip": ["*"]},
  ],
  "ssh": [{"action": "check", "src": ["group:dev"], "dst": ["tag:web"], "users": ["autogroup:nonroot"]}],
  "tests": [{"src": "alice@example.com", "accept": ["tag:web:443"], "deny": ["tag:web:22"]}],
}\`
const node = (id, owner) => ({ id, name: 'n' + id, ...owner, addresses: [parseIp('100.64.0.' + id), parseIp('fd7a:115c:a1e0::' + id)], advertisedRoutes: [], approvedRoutes: [], created: id })
const users = ['alice', 'bob'].map((name, i) => ({ id: i + 1, login: name + '@example.com', role: 'member' }))
const tailnet = { users, nodes: [node(1, { user: 1, tags: [] }), node(2, { user: 2, tags: [] }), node(3, { tags: ['tag:web'] })], domains: ['example.com'] }

export function answers() {
  const refused = parsePolicy('{"acls": [{"action": "deny", "src": ["tag:x"], "dst": ["*:ssh"]}], "aclz": 1').diagnostics
  const { policy } = parsePolicy(TEXT)
  const compiled = compilePolicy(policy, tailnet)
  const { policy: later, affected } = compiled.update({ type: 'nodeSet', node: node(4, { user: 1, tags: [] }) })
  return JSON.stringify({
    refused,
    checked: checkPolicy(policy, tailnet),
    nodes: later.tailnet.nodes.map(({ id }) => [later.filterFor(id), later.peersFor(id).map((peer) => [peer.node.id, peer.addresses]), later.sshFor(id)]),
    affected: [...affected].sort(),
    explained: explainAccess(compiled, { source: parseIp('100.64.0.1'), destination: parseIp('100.64.0.3'), protocol: 6, port: 443 }),
    tests: runPolicyTests(compiled),
    untested: untestedStatements(compiled),
    diff: diffAccess(compiled, compilePolicy(parsePolicy('{"acls": []}').policy, tailnet)),
    formatted: formatHuJson(TEXT),
  })
}
`
const chromium = ['chromium', 'chromium-browser', 'google-chrome'].find((name) => spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0)
let folder = ''

beforeAll(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-browser-'))
})

afterAll(() => rmSync(folder, { recursive: true, force: true }))

async function bundle(contents: string, format: 'esm' | 'iife', file: string): Promise<string> {
  const outfile = path.join(folder, file)
  await build({ stdin: { contents, resolveDir: ROOT, loader: 'js' }, bundle: true, minify: true, format, platform: 'browser', target: 'es2022', conditions: ['@meshwright/source'], outfile, logLevel: 'silent' })
  return outfile
}

test('policy: a browser compiles, explains and compares as Node does [chromium]', async (context) => {
  if (chromium === undefined) {
    if (process.env['REQUIRE_INTEROP'] === '1') throw new Error('chromium is not installed')
    return context.skip('chromium is not installed')
  }
  const inNode = (await import(pathToFileURL(await bundle(PROGRAM, 'esm', 'policy.mjs')).href)) as { answers(): string }
  await bundle(`${PROGRAM}\ndocument.getElementById('out').textContent = answers()\n`, 'iife', 'page.js')
  writeFileSync(path.join(folder, 'page.html'), '<!doctype html><meta charset="utf-8"><title>policy</title><pre id="out">nothing</pre><script src="page.js"></script>\n')
  const args = ['--headless=new', '--no-sandbox', '--disable-gpu', '--no-first-run', `--user-data-dir=${path.join(folder, 'profile')}`, '--virtual-time-budget=10000', '--dump-dom', pathToFileURL(path.join(folder, 'page.html')).href]
  const { stdout, stderr, status } = spawnSync(chromium, args, { encoding: 'utf8', timeout: 60_000 })
  expect(status, stderr).toBe(0)
  const shown = /<pre id="out">(.*?)<\/pre>/s.exec(stdout)?.[1] ?? ''
  const text = shown.replaceAll('&lt;', '<').replaceAll('&gt;', '>').replaceAll('&amp;', '&')
  expect(text).toBe(inNode.answers())
  expect(JSON.parse(text)).toMatchObject({ checked: [], affected: [1, 3, 4], explained: { allowed: true } })
}, 90_000)
