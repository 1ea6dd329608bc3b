import { expect } from 'vitest'
import { type LabDns, startDns } from './lab-dns.ts'
import { pong } from './lab-ping.ts'
import type { Lab } from './lab-process.ts'
import { Space, whyNoSpaces } from './lab-space.ts'
import type { Tailscaled } from './lab-tailscaled.ts'
import { webThroughSocks } from './lab-web.ts'
import { type World, worldFlows, Worlds } from './lab-world.ts'

// Names of the mesh and around it, as real nodes resolve them: in userspace mode by their command line and their proxy; with a TUN device
// by the resolver of the system, which asks 100.100.100.100.
const CORP = { 'files.corp.example': '192.0.2.10' }
const OUTSIDE = { 'www.outside.example': '192.0.2.80' }
const PRINTER = '100.64.0.250'
const BASE = 'magic_dns: true, base_domain: lab.test, search_domains: [corp.example]'
const RECORDS = `extra_records: [{name: printer.lab.test, type: A, value: ${PRINTER}}, {name: wiki.tools.example, type: AAAA, value: "fd7a:115c:a1e0::250"}]`

/** The DNS servers of each lab: one for a domain of its own, one for all else. */
const servers = new Map<Lab, Readonly<Record<'corp' | 'outside', LabDns>>>()

/** @param forAll nodes use the server for all else in the place of their own */
async function dnsLine(lab: Lab, address: string, forAll: boolean): Promise<string> {
  const [corp, outside] = [await startDns(lab, address, 0, CORP), await startDns(lab, address, 0, OUTSIDE)]
  servers.set(lab, { corp, outside })
  const split = `split: {corp.example: ["${address}:${corp.port}"]}`
  return forAll
    ? `dns: {${BASE}, ${RECORDS}, override_local_dns: true, nameservers: {global: ["${address}:${outside.port}"], ${split}}}`
    : `dns: {${BASE}, ${RECORDS}, override_local_dns: false, nameservers: {global: [], ${split}}}`
}

// A node in userspace mode cannot learn of the own resolvers of its system, so it is given some.
const worlds = new Worlds({ dns: (lab, address) => dnsLine(lab, address, true) })
const flow = worldFlows('names', worlds)
const resolving = new Map<World, Promise<Tailscaled>>()

/** A real node that accepts DNS settings: in userspace mode that changes nothing outside of it. */
function realOf(world: World): Promise<Tailscaled> {
  const made = resolving.get(world) ?? world.join('real', 'alice', {}, '--accept-dns')
  resolving.set(world, made)
  return made
}

async function query(node: Tailscaled, name: string, type: string = 'A'): Promise<string> {
  const { out, err } = await node.run(['dns', 'query', name, type])
  return `${out}\n${err}`
}

function serversOf(world: World): Readonly<Record<'corp' | 'outside', LabDns>> {
  const found = servers.get(world.lab)
  if (found === undefined) throw new Error('the servers have not been started')
  return found
}

flow('MagicDNS by `tailscale dns query`, the proxy and ping: full and short names', async (world) => {
  const [real, ours] = await Promise.all([realOf(world), world.ours()])
  await world.expectToWork(real, ours)
  const ip = await ours.ip()
  expect(await query(real, 'ours.lab.test')).toContain(ip)
  expect(await query(real, 'ours.lab.test.')).toContain(ip)
  expect(await query(real, 'OURS.Lab.Test')).toContain(ip)
  // Addresses of IPv6 are told by their names only with the attribute magicdns-aaaa: there is nothing, and no error.
  expect(await query(real, 'ours.lab.test', 'AAAA')).toMatch(/RCodeSuccess/)
  for (const name of ['ours', 'ours.lab.test']) expect((await webThroughSocks(real.socksPort, name, world.web)).body.toString()).toBe('hello')
  for (const name of ['real', 'real.lab.test']) expect((await webThroughSocks(ours.socksPort, name, world.web)).body.toString()).toBe('hello')
  expect(await pong(real, '--until-direct=false', '--timeout', '5s', 'ours')).toContain('pong from ours ')
  for (const name of ['real', 'real.lab.test']) expect(await pong(ours, '--until-direct=false', '--timeout', '5s', name)).toContain('pong from real ')
  const status = await real.status()
  expect([status.MagicDNSSuffix, status.CurrentTailnet?.MagicDNSEnabled]).toEqual(['lab.test', true])
})

flow('a name of the mesh that nobody has is answered with that, and asked of nobody', async (world) => {
  const real = await realOf(world)
  expect(await query(real, 'nobody.lab.test')).toMatch(/RCodeNameError/)
  const { corp, outside } = serversOf(world)
  expect([...corp.asked, ...outside.asked].filter((name) => name.endsWith('lab.test'))).toEqual([])
})

flow('whois names the user', async (world) => {
  const [real, ours, other] = await Promise.all([realOf(world), world.ours(), world.ours('of-bob', 'bob')])
  const seen = async (node: typeof real | typeof ours, ip: string): Promise<unknown> => {
    const { Node, UserProfile } = JSON.parse(await node.cli('whois', '--json', ip)) as { Node: { Name: string }; UserProfile: { LoginName: string } }
    return [Node.Name, UserProfile.LoginName]
  }
  expect(await seen(real, await ours.ip())).toEqual(['ours.lab.test.', 'alice'])
  expect(await seen(real, await other.ip())).toEqual(['of-bob.lab.test.', 'bob'])
  expect(await seen(ours, await real.ip())).toEqual(['real.lab.test.', 'alice'])
})

flow('split DNS: names of a domain go to its server, all else to the global one', async (world) => {
  const real = await realOf(world)
  expect(await query(real, 'files.corp.example')).toContain(CORP['files.corp.example'])
  expect(await query(real, 'www.outside.example')).toContain(OUTSIDE['www.outside.example'])
  const { corp, outside } = serversOf(world)
  expect([corp.asked.includes('files.corp.example'), outside.asked.includes('www.outside.example')]).toEqual([true, true])
  expect([corp.asked.includes('www.outside.example'), outside.asked.includes('files.corp.example')]).toEqual([false, false])
})

flow('extra records, under the domain of the mesh and elsewhere', async (world) => {
  const real = await realOf(world)
  expect(await query(real, 'printer.lab.test')).toContain(PRINTER)
  expect(await query(real, 'wiki.tools.example', 'AAAA')).toContain('fd7a:115c:a1e0::250')
})

flow('colliding names are told apart', async (world) => {
  const [first, second] = [await world.join('same'), await world.daemon('same-two')]
  await second.cli('up', '--login-server', world.control.url, '--hostname', 'same', '--accept-dns=false', '--timeout', '25s', '--authkey', await world.reusable('bob'))
  const [real, one, two] = [await realOf(world), await first.ip(), await second.ip()]
  await world.lab.until('both are known', async () => (await real.peer('same')) !== undefined && (await real.peer('same-1')) !== undefined)
  expect(await query(real, 'same.lab.test')).toContain(one)
  expect(await query(real, 'same-1.lab.test')).toContain(two)
  await world.control.cli('nodes', 'rename', '-i', (await world.listed('same')).id, 'unlike')
  await world.lab.until('the new name is answered', async () => (await query(real, 'unlike.lab.test')).includes(one))
  expect(await query(real, 'same.lab.test')).not.toContain(one)
  await Promise.all([first.stop(), second.stop()])
})

const noSpaces = whyNoSpaces()
const tunWorlds = new Worlds({ dns: (lab, address) => dnsLine(lab, address, false) })
const tunFlow = worldFlows('names', tunWorlds, noSpaces === undefined ? [] : [noSpaces])
const tunNodes = new Map<World, Promise<{ readonly node: Tailscaled; readonly outside: LabDns }>>()

/** A node with a TUN device in a space of its own, whose own resolver is a server of the lab. */
function withTun(world: World): Promise<{ readonly node: Tailscaled; readonly outside: LabDns }> {
  const made = tunNodes.get(world) ?? startWithTun(world)
  tunNodes.set(world, made)
  return made
}

async function startWithTun(world: World): Promise<{ readonly node: Tailscaled; readonly outside: LabDns }> {
  const space = await Space.make(world.lab, 'tun', { url: world.control.url })
  const gateway = /default via ([\d.]+)/.exec(await space.ip('route'))?.[1] ?? ''
  const outside = await startDns(world.lab, gateway, 53, OUTSIDE)
  const node = await world.daemon('tun', { netns: space.name, resolvConf: `nameserver ${gateway}\n` })
  await node.cli('up', '--login-server', world.control.url, '--hostname', 'tun', '--accept-dns', '--netfilter-mode=off', '--timeout', '25s', '--authkey', await world.reusable('alice'))
  return { node, outside }
}

/** What the C library of the system makes of a name, where the node lives. */
async function resolve(node: Tailscaled, name: string): Promise<string> {
  return (await node.inside('getent', ['ahostsv4', name])).out.split(/\s/)[0] ?? ''
}

tunFlow("TUN: the system's resolver asks 100.100.100.100: full names, short names, search domains", async (world) => {
  const [{ node }, ours] = await Promise.all([withTun(world), world.ours()])
  const ip = await ours.ip()
  await world.lab.until('the resolver is set', async () => (await node.inside('cat', ['/etc/resolv.conf'])).out.includes('nameserver 100.100.100.100'))
  expect((await node.inside('cat', ['/etc/resolv.conf'])).out).toMatch(/^search lab\.test corp\.example/m)
  await world.lab.until('a full name is resolved', async () => (await resolve(node, 'ours.lab.test')) === ip)
  expect(await resolve(node, 'ours')).toBe(ip)
  // A short name that only the second search domain has.
  expect(await resolve(node, 'files')).toBe(CORP['files.corp.example'])
  // Programs that ask the address itself, by UDP and by TCP.
  for (const options of ['', 'options use-vc\\n']) {
    const script = `printf 'nameserver 100.100.100.100\\n${options}' > /etc/asked.conf && mount --bind /etc/asked.conf /etc/resolv.conf && getent ahostsv4 ours.lab.test`
    expect((await node.inside('unshare', ['-m', 'sh', '-c', script])).out.split(/\s/)[0]).toBe(ip)
  }
})

tunFlow("TUN: the system's resolver tells colliding names apart", async (world) => {
  const [{ node }, first, second] = await Promise.all([withTun(world), world.join('same'), world.daemon('same-two')])
  await second.cli('up', '--login-server', world.control.url, '--hostname', 'same', '--accept-dns=false', '--timeout', '25s', '--authkey', await world.reusable('bob'))
  const [one, two] = [await first.ip(), await second.ip()]
  await world.lab.until('both are resolved', async () => (await resolve(node, 'same')) === one && (await resolve(node, 'same-1')) === two)
  await Promise.all([first.stop(), second.stop()])
})

tunFlow('TUN: split DNS, extra records, and all else as before', async (world) => {
  const { node, outside } = await withTun(world)
  await world.lab.until('a name of the split domain is resolved', async () => (await resolve(node, 'files.corp.example')) === CORP['files.corp.example'])
  expect(outside.asked).not.toContain('files.corp.example')
  expect(await resolve(node, 'printer.lab.test')).toBe(PRINTER)
  expect(await resolve(node, 'printer')).toBe(PRINTER)
  expect(await resolve(node, 'www.outside.example')).toBe(OUTSIDE['www.outside.example'])
  expect(outside.asked).toContain('www.outside.example')
  expect(outside.asked.filter((name) => name.endsWith('.lab.test'))).toEqual([])
})

tunFlow('TUN: after `down` the resolver is as it was', async (world) => {
  const { node } = await withTun(world)
  await node.cli('down')
  await world.lab.until('the resolver is as it was', async () => !(await node.inside('cat', ['/etc/resolv.conf'])).out.includes('100.100.100.100'))
  expect(await resolve(node, 'www.outside.example')).toBe(OUTSIDE['www.outside.example'])
  await node.cli('up', '--login-server', world.control.url, '--hostname', 'tun', '--accept-dns', '--netfilter-mode=off', '--timeout', '25s')
  await world.lab.until('names of the mesh are resolved again', async () => (await resolve(node, 'printer.lab.test')) === PRINTER)
})

for (const [label, row] of [['', flow], ['TUN: ', tunFlow]] as const) {
  row(`${label}status shows no warning when all is quiet`, async (world) => {
    const node = label === '' ? await realOf(world) : (await withTun(world)).node
    await world.lab.until('it has nothing to complain of', async () => (await world.health(node)).length === 0)
  })
}
