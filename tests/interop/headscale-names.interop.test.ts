import { readFileSync, writeFileSync } from 'node:fs'
import { expect } from 'vitest'
import { hostAddress, type LabDns, startDns } from './lab-dns.ts'
import { programFile } from './lab-flow.ts'
import { OPEN_POLICY } from './lab-fleet.ts'
import { headscaleFlows, type HeadscaleWorld, HeadscaleWorlds } from './lab-headscale-world.ts'
import type { OurNode } from './lab-ours.ts'
import { pong } from './lab-ping.ts'
import { type Lab, runProgram } from './lab-process.ts'
import { Space, SPACE_WEB_PORT, whyNoSpaces } from './lab-space.ts'
import type { Tailscaled } from './lab-tailscaled.ts'
import { webThroughSocks } from './lab-web.ts'

// Names of the mesh and around it, as our node resolves them at a real headscale, beside a real client that is asked the same.
const CORP = { 'files.corp.example': '192.0.2.10' }
const OUTSIDE = { 'www.outside.example': '192.0.2.80' }
const RECORDS = 'extra-records.json'
/** For flows that start programs, on a busy computer. */
const SLOW_MS = 240_000
const PRINTER = { name: 'printer.lab.test', type: 'A', value: '100.64.0.250' }
/** Names, and what both nodes must answer: an address, or that there is none. */
const ASKED: readonly (readonly [string, RegExp])[] = [
  ['files.corp.example', /192\.0\.2\.10/],
  ['www.outside.example', /192\.0\.2\.80/],
  ['printer.lab.test', /100\.64\.0\.250/],
  ['nobody.lab.test', /RCodeNameError/],
  ['nobody.corp.example', /RCodeNameError/],
]

/** The DNS servers of each lab: one for a domain of its own, one for all else. */
const servers = new Map<Lab, Readonly<Record<'corp' | 'outside', LabDns>>>()

const worlds = new HeadscaleWorlds({
  // headscale takes name servers without a port alone.
  dns: async (lab) => {
    const [corpAt, outsideAt] = [await hostAddress(lab), await hostAddress(lab)]
    servers.set(lab, { corp: await startDns(lab, corpAt, 53, CORP), outside: await startDns(lab, outsideAt, 53, OUTSIDE) })
    writeFileSync(lab.at(RECORDS), JSON.stringify([PRINTER]))
    return `dns: {magic_dns: true, base_domain: lab.test, search_domains: [corp.example], extra_records_path: ${lab.at(RECORDS)}, override_local_dns: true, nameservers: {global: [${outsideAt}], split: {corp.example: [${corpAt}]}}}`
  },
})
const noSpaces = whyNoSpaces()
const needs = ['tailscale', ...(noSpaces === undefined ? [] : [noSpaces])]
const flow = headscaleFlows('names', worlds, needs)
const access = headscaleFlows('access', worlds, needs)

async function both(world: HeadscaleWorld): Promise<{ readonly ours: OurNode; readonly real: Tailscaled }> {
  const [ours, real] = await Promise.all([world.ours(), world.real('real', 'alice', {}, '--accept-dns')])
  return { ours, real }
}

function serversOf(world: HeadscaleWorld): Readonly<Record<'corp' | 'outside', LabDns>> {
  const found = servers.get(world.lab)
  if (found === undefined) throw new Error('the servers have not been started')
  return found
}

/** `tailscale dns query`, on either socket. */
async function query(world: HeadscaleWorld, node: OurNode | Tailscaled, name: string, type: string = 'A'): Promise<string> {
  const { out, err } = await runProgram(programFile('tailscale'), [`--socket=${world.lab.at(`${node.name}.sock`)}`, 'dns', 'query', name, type])
  return `${out}\n${err}`
}

flow('userspace: dial and ping by name, full and short, whatever the case', async (world) => {
  const { ours, real } = await both(world)
  await world.expectToWork(ours, real)
  for (const [from, name] of [[ours, 'real'], [real, 'ours']] as const) {
    for (const each of [name, `${name}.lab.test`, `${name.toUpperCase()}.Lab.Test`]) expect((await webThroughSocks(from.socksPort, each, world.web)).body.toString()).toBe('hello')
    expect(await pong(from, '--until-direct=false', '--timeout', '5s', name)).toContain(`pong from ${name} `)
    // Names stand for IPv4 addresses alone.
    for (const node of [ours, real]) expect([await query(world, node, `${name}.lab.test`), await query(world, node, `${name}.lab.test`, 'AAAA')]).toEqual([expect.stringContaining('100.64.0.'), expect.not.stringContaining('fd7a:')])
  }
  expect(await pong(ours, '--until-direct=false', '--timeout', '5s', 'real.lab.test')).toContain('pong from real ')
  expect((await ours.cli('ip', '-4', 'real')).trim()).toBe(await real.ip())
  await expect(webThroughSocks(ours.socksPort, 'nobody.lab.test', world.web)).rejects.toThrow()
}, SLOW_MS)

flow('userspace: a record that headscale adds is dialled by its name, in the domain of the mesh and elsewhere', async (world) => {
  const { ours, real } = await both(world)
  const [value, names] = [await real.ip(), ['alias.lab.test', 'wiki.tools.example']]
  writeFileSync(world.lab.at(RECORDS), JSON.stringify([PRINTER, ...names.map((name) => ({ name, type: 'A', value }))]))
  for (const name of names) {
    for (const node of [ours, real]) await world.lab.until(`${node.name} answers ${name}`, async () => (await query(world, node, name)).includes(value))
    // The proxy of a real node does not know records that have a type.
    expect((await webThroughSocks(ours.socksPort, name, world.web)).body.toString()).toBe('hello')
  }
})

flow('userspace: split DNS and all else, as the real client answers; names of the mesh are asked of nobody', async (world) => {
  const { ours, real } = await both(world)
  for (const [name, answer] of ASKED) {
    for (const node of [ours, real]) expect(await query(world, node, name), `${node.name}: ${name}`).toMatch(answer)
  }
  const { corp, outside } = serversOf(world)
  expect([corp.asked.includes('files.corp.example'), corp.asked.includes('www.outside.example'), outside.asked.includes('files.corp.example')]).toEqual([true, false, false])
  expect([...corp.asked, ...outside.asked].filter((name) => name.endsWith('lab.test'))).toEqual([])
})

flow('userspace: a new name of a peer is known at once, the old one no longer', async (world) => {
  const { ours, real } = await both(world)
  await world.headscale.cli('nodes', 'rename', '-i', await world.headscale.nodeId('real'), 'renamed')
  await world.lab.until('the new name is answered', async () => (await query(world, ours, 'renamed.lab.test')).includes(await real.ip()))
  expect((await webThroughSocks(ours.socksPort, 'renamed', world.web)).body.toString()).toBe('hello')
  expect(await query(world, ours, 'real.lab.test')).toMatch(/RCodeNameError/)
  await world.headscale.cli('nodes', 'rename', '-i', await world.headscale.nodeId('renamed'), 'real')
  await world.lab.until('the old name is answered', async () => (await query(world, ours, 'real.lab.test')).includes(await real.ip()))
})

/** What the C library of the system makes of a name, where the node lives. */
async function resolve(node: OurNode | Tailscaled, name: string): Promise<string> {
  return (await node.inside('getent', ['ahostsv4', name])).out.split(/\s/)[0] ?? ''
}

async function nameServers(node: OurNode | Tailscaled): Promise<string> {
  return (await node.inside('cat', ['/etc/resolv.conf'])).out
}

const OWN_RESOLV_CONF = '# mine alone\nnameserver 192.0.2.1\n'

interface Tuns {
  readonly ours: OurNode
  readonly real: Tailscaled
  /** What our node's computer has as /etc/resolv.conf. */
  readonly resolvConf: string
}

const tuns = new Map<HeadscaleWorld, Promise<Tuns>>()

/** A node of ours and a real one with TUN devices, each on a computer of its own; both accept the names of the mesh. */
function tunsOf(world: HeadscaleWorld): Promise<Tuns> {
  const made = tuns.get(world) ?? startTuns(world)
  tuns.set(world, made)
  return made
}

async function startTuns(world: HeadscaleWorld): Promise<Tuns> {
  const [first, second] = [await Space.make(world.lab, 'tun-ours', { url: world.headscale.url }), await Space.make(world.lab, 'tun-real', { url: world.headscale.url })]
  const [ours, real, key] = await Promise.all([world.ourDaemon('tun-ours', [], first.name), world.daemon('tun-real', { netns: second.name, resolvConf: '# nothing\n' }), world.reusable('bob')])
  const resolvConf = world.lab.at('tun-ours', 'etc', 'resolv.conf')
  writeFileSync(resolvConf, OWN_RESOLV_CONF)
  await Promise.all([ours.up(world.headscale.url, key, '--accept-dns'), real.up(world.headscale.url, key, '--accept-dns', '--netfilter-mode=off')])
  return { ours, real, resolvConf }
}

/** What a plain program gets from a page of another computer of the mesh. */
async function page(node: OurNode | Tailscaled, host: string): Promise<string> {
  const { status, out } = await node.inside(process.execPath, ['-e', `require('http').get({ host: '${host}', port: ${SPACE_WEB_PORT}, timeout: 1500 }, (answer) => answer.pipe(process.stdout)).on('timeout', () => process.exit(1)).on('error', () => process.exit(1))`])
  return status === 0 ? out : 'nothing'
}

flow('TUN: 100.100.100.100 answers the resolver of the system; resolv.conf is left alone unless asked', async (world) => {
  const [{ ours: userspace }, { ours, real, resolvConf }] = await Promise.all([both(world), tunsOf(world)])
  await world.lab.until('the real client set the resolver, as it was told', async () => (await nameServers(real)).includes('nameserver 100.100.100.100'))
  await ours.cli('down')
  await world.lab.until('it is down', async () => (await ours.status()).BackendState === 'Stopped')
  await ours.cli('up', '--login-server', world.headscale.url)
  await world.lab.until('it runs', async () => (await ours.status()).BackendState === 'Running')
  // Neither coming up nor going down wrote to it.
  expect([await nameServers(ours), readFileSync(resolvConf, 'utf8')]).toEqual([OWN_RESOLV_CONF, OWN_RESOLV_CONF])
  // Whoever wants it points the system there.
  writeFileSync(resolvConf, 'nameserver 100.100.100.100\nsearch lab.test corp.example\n')
  const ip = await userspace.ip()
  await world.lab.until('a name of the mesh is resolved', async () => (await resolve(ours, 'ours.lab.test')) === ip)
  const wanted = [['ours.lab.test', ip], ['ours', ip], ['files.corp.example', CORP['files.corp.example']], ['files', CORP['files.corp.example']], ['www.outside.example', OUTSIDE['www.outside.example']], ['printer', '100.64.0.250'], ['nobody.lab.test', '']] as const
  for (const [name, address] of wanted) expect([await resolve(ours, name), await resolve(real, name)], name).toEqual([address, address])
  // Plain programs reach each other by name, through both devices.
  const [atOurs, atReal] = [await ours.ip(), await real.ip()]
  await world.lab.until('the real node is reached by name', async () => (await page(ours, 'tun-real')) === `tun-real to ${atOurs}`)
  await world.lab.until('our node is reached by name', async () => (await page(real, 'tun-ours')) === `tun-ours to ${atReal}`)
}, SLOW_MS)

access('TUN: denied in by our filter, denied out by that of the peer; replies are allowed', async (world) => {
  const { ours, real } = await tunsOf(world)
  const [atOurs, atReal] = [await ours.ip(), await real.ip()]
  const only = (from: string, to: string): unknown => ({ acls: [{ action: 'accept', src: [from], dst: [`${to}:*`] }] })
  await world.lab.until('both ways are open', async () => (await page(ours, atReal)) !== 'nothing' && (await page(real, atOurs)) !== 'nothing')
  world.headscale.setPolicy(only(atOurs, atReal))
  await world.lab.until('ours is closed', async () => (await page(real, atOurs)) === 'nothing')
  await world.lab.until('the way out and its answers are open', async () => (await page(ours, atReal)) === `tun-real to ${atOurs}`)
  expect(await page(real, atOurs)).toBe('nothing')
  world.headscale.setPolicy(only(atReal, atOurs))
  await world.lab.until('the real node is closed', async () => (await page(ours, atReal)) === 'nothing')
  await world.lab.until('ours is open', async () => (await page(real, atOurs)) === `tun-ours to ${atReal}`)
  world.headscale.setPolicy(OPEN_POLICY)
})
