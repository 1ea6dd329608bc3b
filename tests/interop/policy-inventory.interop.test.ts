import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, expect } from 'vitest'
import { BIN, flows, peerName, whyNot } from './lab-flow.ts'
import { RealDerper, RealHeadscale } from './lab-headscale.ts'
import { interfaceAddress, Lab, runProgram, type RunResult } from './lab-process.ts'
import { Tailscaled } from './lab-tailscaled.ts'

// What real programs say of a tailnet is an inventory for our command line, and our answers are what the real nodes are told.
const PROGRAMS_NEEDED = ['tailscaled', 'tailscale', 'headscale', 'derper']
const MAIN = path.resolve(import.meta.dirname, '../../examples/policy-cli/src/main.ts')
const flow = flows(peerName('headscale'), PROGRAMS_NEEDED)

const POLICY = {
  groups: { 'group:dev': ['alice@', 'bob@example.com'] },
  hosts: { office: '10.33.0.0/16' },
  tagOwners: { 'tag:router': ['alice@'] },
  autoApprovers: { routes: { '10.33.0.0/16': ['tag:router'] }, exitNode: ['tag:router'] },
  acls: [
    { action: 'accept', src: ['group:dev'], dst: ['tag:router:22'] },
    { action: 'accept', src: ['bob@example.com'], dst: ['office:443'] },
  ],
}

interface Site {
  readonly lab: Lab
  readonly policy: string
  readonly byHeadscale: string
  readonly byTailscale: string
}

let lab: Lab | undefined
let site: Site

beforeAll(async () => {
  if (whyNot(PROGRAMS_NEEDED) !== undefined) return
  lab = new Lab()
  site = await start(lab)
})

afterAll(async () => {
  await lab?.stop()
})

async function start(lab: Lab): Promise<Site> {
  const relay = new RealDerper(lab, BIN)
  await relay.start(interfaceAddress() ?? '')
  const headscale = new RealHeadscale(lab, BIN)
  await headscale.start(relay.mapFile, POLICY)
  await headscale.cli('users', 'create', 'alice')
  await headscale.cli('users', 'create', 'bob', '--email', 'bob@example.com')
  const tagged = await headscale.cli('preauthkeys', 'create', '-u', '1', '--reusable', '-e', '1h', '--tags', 'tag:router')
  const nodes: readonly (readonly [string, string, readonly string[]])[] = [
    ['laptop', await headscale.authKey('1'), []],
    ['desk', await headscale.authKey('2'), []],
    ['router', tagged, ['--advertise-routes=10.33.0.0/16,10.44.0.0/16', '--advertise-exit-node']],
  ]
  const started = await Promise.all(
    nodes.map(async ([name, key, more]) => {
      const node = new Tailscaled(lab, BIN, name)
      await node.start()
      await node.up(headscale.url, key, ...more)
      return node
    }),
  )
  const router = await lab.until('headscale has the routes of the router', async () => {
    const list = await headscale.cli('nodes', 'list', '-o', 'json')
    return list.includes('"10.33.0.0/16"') && list.includes('"10.44.0.0/16"') && list
  })
  const desk = started[1]
  if (desk === undefined) throw new Error('no second node')
  await lab.until('bob is told of the router and its route', async () => (await desk.cli('status', '--json')).includes('10.33.0.0/16'))
  const at = (name: string, text: string): string => {
    writeFileSync(lab.at(name), text)
    return lab.at(name)
  }
  return { lab, policy: at('policy.json', JSON.stringify(POLICY)), byHeadscale: at('headscale.json', router), byTailscale: at('status.json', await desk.cli('status', '--json')) }
}

function policy(...args: readonly string[]): Promise<RunResult> {
  return runProgram(process.execPath, ['--conditions=@meshwright/source', '--import', 'tsx', MAIN, ...args])
}

flow('policy: the node list of headscale is an inventory', async () => {
  const inventory = ['-i', site.byHeadscale]
  expect(await policy('check', site.policy, ...inventory)).toMatchObject({ status: 0 })
  const ssh = await policy('explain', site.policy, 'laptop', 'router:22', ...inventory, '--json')
  expect([ssh.status, ssh.err]).toEqual([0, ''])
  expect(JSON.parse(ssh.out)).toMatchObject({ answers: [{ contributions: [{ sources: [{ text: 'group:dev', through: [{ text: 'alice@' }] }] }] }, { allowed: true }] })
  // The tag owns the router, not the user whose key it came with.
  expect((await policy('explain', site.policy, 'router', 'desk:22', ...inventory)).status).toBe(1)
  expect((await policy('explain', site.policy, 'desk', '10.33.7.7:443', ...inventory)).out).toContain('over router (10.33.0.0/16)')
  expect((await policy('explain', site.policy, 'desk', '10.44.7.7:443', ...inventory)).status).toBe(1)
})

flow('policy: what preview says a node receives is what headscale told the real node', async () => {
  const { status, out } = await policy('preview', site.policy, '--as', 'desk', '-i', site.byHeadscale, '--json')
  expect(status).toBe(0)
  const { peers } = JSON.parse(out) as { readonly peers: readonly { readonly name: string; readonly routes: readonly string[] }[] }
  const real = JSON.parse(readFileSync(site.byTailscale, 'utf8')) as { readonly Peer: Readonly<Record<string, { readonly DNSName: string; readonly AllowedIPs: readonly string[] }>> }
  // headscale tells everybody of exit nodes whom they see; the hosted service, and we, only those who may use them.
  const told = Object.values(real.Peer).map(({ DNSName, AllowedIPs }) => ({ name: DNSName.split('.')[0], routes: AllowedIPs.filter((route) => !/^100\.64\.|^fd7a:115c:a1e0:|\/0$/.test(route)) }))
  expect(peers.map(({ name, routes }) => ({ name, routes }))).toEqual(told)
})

flow('policy: the status of a real node is an inventory', async () => {
  const inventory = ['-i', site.byTailscale]
  expect((await policy('explain', site.policy, 'desk', 'router:22', ...inventory)).status).toBe(0)
  expect((await policy('explain', site.policy, 'desk', '10.33.7.7:443', ...inventory)).out).toContain('over router (10.33.0.0/16)')
  const wider = { ...POLICY, acls: [...POLICY.acls, { action: 'accept', src: ['bob@example.com'], dst: ['tag:router:80'] }] }
  writeFileSync(site.lab.at('wider.json'), JSON.stringify(wider))
  expect((await policy('diff', site.policy, site.lab.at('wider.json'), ...inventory)).out).toContain('| **gains** | bob@example.com | tag:router | port 80 |')
  expect((await policy('diff', site.policy, site.policy, ...inventory)).out).toContain('byte for byte')
})
