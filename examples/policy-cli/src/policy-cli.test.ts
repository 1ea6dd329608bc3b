import { chmod, mkdtemp, readdir, readFile, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test as rule } from 'vitest'
import { check } from './check.ts'
import { diff } from './diff.ts'
import { explain } from './explain.ts'
import { fmt } from './fmt.ts'
import { readInventory } from './inventory.ts'
import { preview } from './preview.ts'
import { test } from './test-command.ts'
import { UsageError } from './usage.ts'

const POLICY = `{
  "tagOwners": {"tag:web": []},
  "acls": [{"action": "accept", "src": ["alice@example.com"], "dst": ["tag:web:443"]}],
  "ssh": [{"action": "check", "src": ["alice@example.com"], "dst": ["tag:web"], "users": ["root"]}],
  "tests": [{"src": "alice@example.com", "accept": ["tag:web:443", "tag:web:80"]}],
}
`
const INVENTORY = {
  users: [{ id: 1, login: 'alice@example.com', role: 'owner' }],
  nodes: [
    { id: 1, name: 'laptop', user: 'alice@example.com', addresses: ['100.64.0.1'], attributes: { 'node:os': 'linux' } },
    { id: 2, name: 'web', tags: ['tag:web'], addresses: ['100.64.0.2'] },
  ],
}

let folder = ''
let policy = ''
let inventory = ''

async function file(name: string, content: string): Promise<string> {
  const target = path.join(folder, name)
  await writeFile(target, content)
  return target
}

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'meshwright-policy-'))
  policy = await file('policy.hujson', POLICY)
  inventory = await file('inventory.json', JSON.stringify(INVENTORY))
})

afterAll(() => rm(folder, { recursive: true, force: true }))

rule('check accepts a good policy, and with an inventory also runs its tests', async () => {
  expect(await check([policy], {})).toMatchObject({ status: 0, json: { ok: true, diagnostics: [] } })
  const found = await check([policy], { inventory, format: 'github' })
  expect(found.status).toBe(1)
  expect(found.lines).toEqual([`::error file=${policy},line=5,col=13,title=POLICY_TEST_FAILED::test(s) failed. alice@example.com does not reach tag:web:80.`])
})

rule('check of several files tells of each, and fails when one is bad', async () => {
  const bad = await file('bad.hujson', '{"acls": [{"action": "deny", "src": [], "dst": []}], "grant": []}')
  const { status, lines, json } = await check([policy, bad], {})
  expect(status).toBe(1)
  expect(lines[0]).toBe(`${policy}: good`)
  expect(lines.slice(1).map((line) => line.replace(`${bad}:`, '').replace(/ \(.*/, ''))).toEqual(['1:54: unknown field: "grant"', '1:22: action="deny" is not supported', '2 problems'])
  expect(json).toMatchObject({ ok: false, files: [{ ok: true }, { ok: false }] })
})

rule('test says which expectation failed, where it stands, and what no test exercises', async () => {
  const { status, lines } = await test([policy], { inventory })
  expect(status).toBe(1)
  expect(lines.map((line) => line.replaceAll(policy, 'P'))).toEqual([
    'P:5:68: tests[0]: alice@example.com does not reach tag:web:80',
    '0 of 1 test passed',
    '',
    '1 statement that no test exercises:',
    '  P:4:11:  ssh[0]  alice@example.com -> tag:web',
  ])
})

describe('explain', () => {
  rule('says yes with the line and column of everything that takes part', async () => {
    expect((await explain([policy, 'laptop', 'web:443'], { inventory })).lines).toEqual([
      'yes  laptop (100.64.0.1) -> web (100.64.0.2)  tcp 443',
      '     by acl 3:12',
      '         source       alice@example.com 3:41',
      '         destination  tag:web 3:71',
      '         let in by    web',
    ])
  })

  rule('says no with what the nearest statements lack, and tells of SSH on its port', async () => {
    const { status, lines } = await explain([policy, 'laptop', 'web:22'], { inventory })
    expect(status).toBe(1)
    expect(lines).toEqual([
      'no   laptop (100.64.0.1) -> web (100.64.0.2)  tcp 22',
      '     acl 3:12 alice@example.com -> tag:web',
      '         lacks        22: it allows 443',
      '     ssh 4:11 after a check as root',
      '         source       alice@example.com 4:39',
      '         destination  tag:web 4:69',
    ])
  })

  rule('takes the policy from --policy; without an inventory it imagines one device for each name', async () => {
    const { status, lines } = await explain(['alice@example.com', 'tag:web:443'], { policy })
    expect([status, lines[0], lines[2]]).toEqual([0, '(no inventory: one device for each user and tag that the policy names)', 'yes  alice@example.com (100.64.0.1) -> tag:web (100.64.0.2)  tcp 443'])
  })

  rule('knows addresses with and without brackets, and refuses what it does not know', async () => {
    expect((await explain([policy, 'laptop', '100.64.0.2:443'], { inventory })).status).toBe(0)
    expect((await explain([policy, 'laptop', 'web'], { inventory, proto: 'icmp' })).lines[0]).toBe('no   laptop (100.64.0.1) -> web (100.64.0.2)  icmp')
    for (const [words, proto] of [[['nobody', 'web'], 'tcp'], [['laptop', 'web:99999'], 'tcp'], [['laptop', 'web'], 'tcpp'], [['laptop'], 'tcp'], [['fd7a::1', 'web'], 'tcp']] as const)
      await expect(explain([policy, ...words], { inventory, proto })).rejects.toThrow(UsageError)
  })
})

rule('diff is a table of what is gained and lost, or the proof that nothing is', async () => {
  const other = await file('other.hujson', POLICY.replace('web:443"]}],\n  "ssh"', 'web:444"]}],\n  "ssh"').replace('["root"]', '["autogroup:nonroot"]'))
  const { lines } = await diff([policy, other], { inventory })
  expect(lines.filter((line) => line.startsWith('|') || line.startsWith('#'))).toEqual([
    '### Access: 2 gained, 2 lost',
    '| | who | where | what |',
    '|---|---|---|---|',
    '| **gains** | alice@example.com | tag:web | port 444 |',
    '| **gains** | alice@example.com | tag:web | SSH as any user but root, after a check |',
    '| **loses** | alice@example.com | tag:web | port 443 |',
    '| **loses** | alice@example.com | tag:web | SSH as root, after a check |',
  ])
  expect(await diff([policy, policy], { inventory })).toMatchObject({ status: 0, json: { changes: [], identical: true } })
  const renamed = await file('renamed.hujson', POLICY.replace('"tag:web:443"]}],\n  "ssh"', '"100.64.0.2:443"]}],\n  "ssh"'))
  expect((await diff([policy, renamed], { inventory })).lines).toEqual(['Nothing changes: each of the 2 nodes receives the same filter, peers, routes, SSH rules and attributes, byte for byte.'])
})

rule('preview shows what a node would receive, to people and in wire form', async () => {
  const { json, lines } = await preview([policy], { inventory, as: 'web' })
  expect(json).toMatchObject({ node: 'web', filter: [{ SrcIPs: ['100.64.0.1'] }], peers: [{ name: 'laptop' }] })
  expect(lines).toContain('  100.64.0.1  -> 100.64.0.2  tcp, udp, icmp port 443')
  expect(lines).toContain('  100.64.0.1  as root  after a check')
  await expect(preview([policy], { inventory, as: 'nobody' })).rejects.toThrow('known are laptop, web')
})

describe('fmt', () => {
  rule('rewrites a file once, whole, with its rights and through a link; then it is formatted', async () => {
    const target = await file('loose.hujson', '{"a":1,\n"bb":2}')
    await chmod(target, 0o640)
    const link = path.join(folder, 'link.hujson')
    await symlink(target, link)
    expect((await fmt([link], { check: true })).status).toBe(1)
    await fmt([link], { write: true })
    expect(await readFile(target, 'utf8')).toBe('{\n\t"a":  1,\n\t"bb": 2\n}\n')
    expect((await stat(target)).mode & 0o777).toBe(0o640)
    expect((await fmt([link, target], { check: true })).status).toBe(0)
    expect((await readdir(folder)).filter((name) => name.endsWith('.new'))).toEqual([])
  })

  rule('leaves a file alone that it cannot read as HuJSON, and refuses impossible wishes', async () => {
    const target = await file('broken.hujson', '{"a": ')
    expect((await fmt([target], { write: true })).status).toBe(1)
    expect(await readFile(target, 'utf8')).toBe('{"a": ')
    await expect(fmt(['-'], { write: true })).rejects.toThrow(UsageError)
    await expect(fmt([target], { write: true, check: true })).rejects.toThrow(UsageError)
    await expect(fmt([path.join(folder, 'none')], {})).rejects.toThrow(UsageError)
  })
})

describe('inventories', () => {
  rule('the status of tailscale is one', async () => {
    const self = { DNSName: 'laptop.example.ts.net.', OS: 'macOS', UserID: 7, NodeID: 31, TailscaleIPs: ['100.64.0.1'], AllowedIPs: ['100.64.0.1/32'], Created: '2026-01-02T00:00:00Z', Online: true }
    const peer = { DNSName: 'web.example.ts.net.', UserID: 9, NodeID: 30, Tags: ['tag:web'], TailscaleIPs: ['100.64.0.2'], AllowedIPs: ['100.64.0.2/32', '10.0.0.0/16'], Created: '2026-01-01T00:00:00Z', Online: false }
    const User = { 7: { ID: 7, LoginName: 'alice@example.com' }, 9: { ID: 9, LoginName: 'tagged-devices' } }
    const view = await readInventory(await file('status.json', JSON.stringify({ Self: self, Peer: { key: peer }, User })))
    expect(view.nodes.map(({ id, name, user, tags, approvedRoutes, created, online }) => [id, name, user, tags, approvedRoutes.length, created, online])).toEqual([
      [31, 'laptop', 7, [], 0, Date.UTC(2026, 0, 2), true],
      [30, 'web', undefined, ['tag:web'], 1, Date.UTC(2026, 0, 1), false],
    ])
    expect([view.users.map(({ login }) => login), view.domains, view.nodes[0]?.attributes?.get('node:os')]).toEqual([['alice@example.com'], ['example.com'], { value: 'macos' }])
  })

  rule('the node list of headscale is one: bare user names, users of tagged nodes that are none, times in seconds', async () => {
    const list = [
      { id: 3, given_name: 'laptop', user: { id: 1, name: 'alice' }, ip_addresses: ['100.64.0.1'], created_at: { seconds: 1_700_000_000, nanos: 500_000_000 }, online: true },
      { id: 4, given_name: 'web', user: { id: 2147455555, name: 'tagged-devices' }, tags: ['tag:web'], ip_addresses: ['100.64.0.2'], available_routes: ['10.0.0.0/16'], approved_routes: [] },
    ]
    const view = await readInventory(await file('headscale.json', JSON.stringify(list)))
    expect(view.users.map(({ login }) => login)).toEqual(['alice'])
    expect(view.nodes.map(({ id, user, advertisedRoutes, approvedRoutes, created, online }) => [id, user, advertisedRoutes.length, approvedRoutes.length, created, online])).toEqual([
      [3, 1, 0, 0, 1_700_000_000_500, true],
      [4, undefined, 1, 0, 4, false],
    ])
  })

  rule('anything else is refused with the reason', async () => {
    const refused: readonly (readonly [unknown, string])[] = [
      ['x', 'not an inventory'],
      [{ nodes: [{ name: 'a', addresses: ['1.2.3'] }] }, 'a: 1.2.3 is not an address'],
      [{ users: [{ login: 'a@b', role: 'king' }], nodes: [] }, 'role king is none of'],
      [{ nodes: [{ name: 'a', user: 'nobody@b', addresses: [] }] }, 'user nobody@b is not among the users'],
      [{ nodes: [{ id: 1, addresses: [] }, { id: 1, addresses: [] }] }, 'two nodes have the id 1'],
    ]
    for (const [value, reason] of refused) await expect(readInventory(await file('bad.json', JSON.stringify(value)))).rejects.toThrow(reason)
  })
})

rule('policies of more than 2 MiB and inventories of more than 64 MiB are refused unread', async () => {
  const [long, longer] = [await file('long.hujson', '{}'), await file('longer.json', '{}')]
  await truncate(long, 50_000_000)
  await truncate(longer, 70_000_000)
  const refused = /longer than 2 MiB, which is the most that is read/
  await expect(check([long], {})).rejects.toThrow(refused)
  await expect(check(['/dev/zero'], {})).rejects.toThrow(refused)
  await expect(fmt([long], {})).rejects.toThrow(refused)
  await expect(readInventory(longer)).rejects.toThrow(/longer\.json.* longer than 64 MiB/)
})
