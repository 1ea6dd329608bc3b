import { mkdtemp, readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { beforeAll, describe, expect, test as rule } from 'vitest'
import { check, diff, explain, fmt, preview, test } from './commands.ts'
import { readInventory } from './inventory.ts'
import { UsageError } from './usage.ts'

const POLICY = `{
  "tagOwners": {"tag:web": []},
  "acls": [{"action": "accept", "src": ["alice@example.com"], "dst": ["tag:web:443"]}],
  "tests": [{"src": "alice@example.com", "accept": ["tag:web:443", "tag:web:80"]}],
}
`
const INVENTORY = {
  users: [{ id: 1, login: 'alice@example.com', role: 'owner' }],
  nodes: [
    { id: 1, name: 'laptop', user: 'alice@example.com', addresses: ['100.64.0.1'] },
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

rule('check accepts a good policy, and with an inventory also runs its tests', async () => {
  expect(await check([policy], {})).toMatchObject({ status: 0 })
  const found = await check([policy], { inventory, format: 'github' })
  expect(found.status).toBe(1)
  expect(found.lines[0]).toContain('line=4,col=13::test(s) failed')
})

rule('test says which expectation failed, and where it stands', async () => {
  const { status, lines } = await test([policy], { inventory })
  expect([status, lines[0]?.endsWith(':4:68: tests[0]: alice@example.com does not reach tag:web:80')]).toEqual([1, true])
})

rule('explain says yes with the line, or no with what is missing', async () => {
  expect((await explain([policy, 'laptop', 'web:443'], { inventory })).lines).toEqual([
    'yes 100.64.0.1 -> 100.64.0.2 port 443',
    '    line 3: acl alice@example.com -> tag:web',
  ])
  expect((await explain([policy, 'web', '100.64.0.1:22'], { inventory })).status).toBe(1)
  await expect(explain([policy, 'nobody', 'web'], { inventory })).rejects.toThrow(UsageError)
})

rule('diff is a table of what is gained and lost, or the word that nothing is', async () => {
  const other = await file('other.hujson', POLICY.replace('web:443"]}],', 'web:444"]}],'))
  expect((await diff([policy, other], { inventory })).lines).toContain('| gained | ip | alice@example.com | tag:web | 6 | 444 |')
  expect((await diff([policy, policy], { inventory })).lines).toEqual(['Nobody gains or loses any access.'])
})

rule('preview shows what a node would receive', async () => {
  const { json } = await preview([policy], { inventory, as: 'web' })
  expect(json).toMatchObject({ node: 'web', filter: [{ SrcIPs: ['100.64.0.1'] }], peers: [{ name: 'laptop' }] })
})

rule('fmt rewrites a file once; then it is formatted', async () => {
  const target = await file('loose.hujson', '{"a":1,\n"bb":2}')
  expect((await fmt([target], { check: true })).status).toBe(1)
  await fmt([target], { write: true })
  expect(await readFile(target, 'utf8')).toBe('{\n\t"a":  1,\n\t"bb": 2\n}\n')
  expect((await fmt([target], { check: true })).status).toBe(0)
})

describe('inventories', () => {
  rule('the status of tailscale is one', async () => {
    const status = {
      Self: { DNSName: 'laptop.example.ts.net.', UserID: 7, TailscaleIPs: ['100.64.0.1'], AllowedIPs: ['100.64.0.1/32'] },
      Peer: {
        key: {
          DNSName: 'web.example.ts.net.',
          UserID: 9,
          Tags: ['tag:web'],
          TailscaleIPs: ['100.64.0.2'],
          AllowedIPs: ['100.64.0.2/32', '10.0.0.0/16'],
        },
      },
      User: { 7: { ID: 7, LoginName: 'alice@example.com' }, 9: { ID: 9, LoginName: 'tagged-devices' } },
    }
    const view = await readInventory(await file('status.json', JSON.stringify(status)))
    expect(view.nodes.map(({ name, user, tags, approvedRoutes }) => [name, user, tags, approvedRoutes.length])).toEqual([
      ['laptop', 7, [], 0],
      ['web', undefined, ['tag:web'], 1],
    ])
    expect(view.domains).toEqual(['example.com'])
  })

  rule('the node list of headscale is one; its bare user names are written with @ in policies', async () => {
    const list = [
      {
        id: '3',
        given_name: 'web',
        user: { id: '1', name: 'alice' },
        forced_tags: [],
        ip_addresses: ['100.64.0.2'],
        available_routes: ['10.0.0.0/16'],
        approved_routes: [],
      },
    ]
    const view = await readInventory(await file('headscale.json', JSON.stringify(list)))
    expect([view.users[0]?.login, view.nodes[0]?.id, view.nodes[0]?.advertisedRoutes.length]).toEqual(['alice', 3, 1])
  })

  rule('anything else is refused with the forms that are known', async () => {
    await expect(readInventory(await file('bad.json', '"x"'))).rejects.toThrow('not an inventory')
  })
})
