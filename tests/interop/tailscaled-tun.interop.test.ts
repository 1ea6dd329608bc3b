import { writeFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import { expect } from 'vitest'
import type { OurNode } from './lab-ours.ts'
import type { LabProcess } from './lab-process.ts'
import { Space, SPACE_WEB_PORT, whyNoSpaces } from './lab-space.ts'
import type { Tailscaled } from './lab-tailscaled.ts'
import { webThroughSocks } from './lab-web.ts'
import { OPEN_POLICY, type World, worldFlows, Worlds } from './lab-world.ts'

// Real nodes with TUN devices, each on a computer of its own as far as the network goes: programs there use plain sockets of the kernel,
// and a firewall there blocks UDP for real. A node of ours in userspace mode is the third.
const noSpaces = whyNoSpaces()
const needs = noSpaces === undefined ? [] : [noSpaces]
const worlds = new Worlds()
const login = worldFlows('login', worlds, needs)
const paths = worldFlows('paths', worlds, needs)
const access = worldFlows('access', worlds, needs)
const UDP_PORT = 7_000
const FELT_MS = 2_000

const HELPER = `
import dgram from 'node:dgram'
import http from 'node:http'
const [verb, host, port] = process.argv.slice(2)
const socket = () => dgram.createSocket('udp4')
if (verb === 'get') http.get('http://' + host + ':' + port + '/', { timeout: 5000 }, (answer) => answer.pipe(process.stdout)).on('error', (error) => { console.error(error.message); process.exit(1) })
if (verb === 'receive') { let count = 0; socket().on('message', () => console.log('got', ++count)).bind(Number(port), host, () => console.log('bound')) }
if (verb === 'send') { const out = socket(); setInterval(() => out.send('x', Number(port), host, () => undefined), 20) }
`

interface Tun {
  readonly node: Tailscaled
  readonly space: Space
  readonly ip: string
}

interface Site {
  readonly a: Tun
  readonly b: Tun
  readonly ours: OurNode
  readonly oursIp: string
  readonly script: string
}

const sites = new Map<World, Promise<Site>>()

function siteOf(world: World): Promise<Site> {
  const made = sites.get(world) ?? startSite(world)
  sites.set(world, made)
  return made
}

async function startSite(world: World): Promise<Site> {
  const script = world.lab.at('tun-helper.mjs')
  writeFileSync(script, HELPER)
  const [first, second] = [await Space.make(world.lab, 'tun-a', { url: world.control.url }), await Space.make(world.lab, 'tun-b', { url: world.control.url })]
  await first.join(second)
  const tun = async (name: string, space: Space, user: 'alice' | 'bob'): Promise<Tun> => {
    const node = await world.join(name, user, { netns: space.name }, '--netfilter-mode=off')
    return { node, space, ip: await node.ip() }
  }
  const [a, b, ours] = await Promise.all([tun('tun-a', first, 'alice'), tun('tun-b', second, 'bob'), world.ours()])
  return { a, b, ours, oursIp: await ours.ip(), script }
}

/** The first words of a page, fetched by a program that knows nothing of the mesh. */
async function page(site: Site, from: Tun, host: string, port: number): Promise<string> {
  const { status, out, err } = await from.node.inside(process.execPath, [site.script, 'get', host, String(port)])
  return status === 0 ? out : `nothing: ${err.trim()}`
}

async function works(world: World, site: Site, limitMs?: number): Promise<void> {
  const { a, b, ours, oursIp } = site
  await world.lab.until('a program at a reaches our node', async () => (await page(site, a, oursIp, world.web)) === 'hello', limitMs)
  await world.lab.until('a program at a reaches b', async () => (await page(site, a, b.ip, SPACE_WEB_PORT)) === `tun-b to ${a.ip}`, limitMs)
  await world.lab.until('a program at b reaches a', async () => (await page(site, b, a.ip, SPACE_WEB_PORT)) === `tun-a to ${b.ip}`, limitMs)
  const atOurs = await ours.ip()
  await world.lab.until('our node reaches a', async () => (await webThroughSocks(ours.socksPort, a.ip, SPACE_WEB_PORT, { timeoutMs: 2_000 })).body.toString() === `tun-a to ${atOurs}`, limitMs)
}

login('TUN: auth key; plain programs reach each other by TCP, over real devices and our node', async (world) => {
  const site = await siteOf(world)
  for (const { node, space, ip } of [site.a, site.b]) {
    expect(await space.ip('addr', 'show', 'dev', 'tailscale0')).toContain(`inet ${ip}/32`)
    expect((await node.status()).BackendState).toBe('Running')
  }
  await works(world, site)
  for (const { node } of [site.a, site.b]) expect(await world.health(node)).toEqual([])
})

const BLOCK = 'nft add table inet block && nft add chain inet block out "{ type filter hook output priority 0; }" && nft add chain inet block in "{ type filter hook input priority 0; }" && nft add rule inet block out oifname != "tailscale0" meta l4proto udp drop && nft add rule inet block in iifname != "tailscale0" meta l4proto udp drop'

/** Pings until the way is the wanted one; gives it. */
async function way(world: World, from: Tailscaled, to: string, wanted: RegExp, limitMs: number): Promise<number> {
  const begun = performance.now()
  await world.lab.until(`the way to ${to} is ${String(wanted)}`, async () => wanted.test((await from.run(['ping', '--c', '1', '--until-direct=false', '--timeout', '2s', to])).out), limitMs)
  return performance.now() - begun
}

const BY_RELAY = /via DERP\(ours\)/
const DIRECT = /via (?!DERP)[^ ]*:\d+ in/

paths('TUN: pings of each kind directly; with UDP blocked by a firewall everything goes by relay; directly again once it is open', async (world) => {
  const site = await siteOf(world)
  const { a, b, oursIp } = site
  const kinds = async (): Promise<void> => {
    for (const to of [b.ip, oursIp]) {
      expect(await a.node.cli('ping', '--tsmp', '--c', '1', '--timeout', '8s', to)).toContain('via TSMP')
      expect(await a.node.cli('ping', '--icmp', '--c', '1', '--timeout', '8s', to)).toContain('via ICMP')
    }
    expect(await a.node.cli('ping', '--peerapi', '--c', '1', '--timeout', '8s', b.ip)).toContain('hit peerapi of')
  }
  await works(world, site)
  for (const to of [b.ip, oursIp]) await way(world, a.node, to, DIRECT, 20_000)
  await kinds()
  await a.space.sh(BLOCK)
  try {
    for (const to of [b.ip, oursIp]) await way(world, a.node, to, BY_RELAY, 20_000)
    await works(world, site)
    await kinds()
    const report = JSON.parse((await a.node.inside('env', [`SSL_CERT_FILE=${world.base.trust.SSL_CERT_FILE}`, a.node.program, `--socket=${a.node.socket}`, 'netcheck', '--format=json'])).out) as { UDP: boolean }
    expect(report.UDP).toBe(false)
  } finally {
    await a.space.sh('nft delete table inet block')
  }
  for (const to of [b.ip, oursIp]) await way(world, a.node, to, DIRECT, 40_000)
  await works(world, site)
}, 180_000)

function received(receiver: LabProcess): number {
  return Number(/got (\d+)\s*$/.exec(receiver.log)?.[1] ?? 0)
}

access('TUN: a stream of datagrams stops when its port is taken away, while another goes on; both go on once it is back', async (world) => {
  const site = await siteOf(world)
  const { a, b, script } = site
  const allow = (...ports: readonly number[]): unknown => ({ acls: [{ action: 'accept', src: ['*'], dst: [`*:${ports.join(',')}`] }] })
  const start = (at: Tun, ...words: readonly string[]): LabProcess => world.lab.start(`${words[0] ?? ''} at ${at.node.name}`, 'ip', ['netns', 'exec', at.space.name, process.execPath, script, ...words])
  await works(world, site)
  const ports = [UDP_PORT, UDP_PORT + 1] as const
  const receivers = ports.map((port) => start(b, 'receive', b.ip, String(port)))
  for (const receiver of receivers) await world.lab.until('the receiver is ready', () => receiver.log.includes('bound'))
  const senders = ports.map((port) => start(a, 'send', b.ip, String(port)))
  const counts = (): readonly number[] => receivers.map(received)
  await world.lab.until('both streams flow', () => counts().every((count) => count > 10))
  await world.control.setPolicy(allow(ports[1]))
  await pause(FELT_MS)
  const [first = 0, second = 0] = counts()
  await pause(1_000)
  expect(counts()[0]).toBe(first)
  expect(counts()[1]).toBeGreaterThan(second + 20)
  await world.control.setPolicy(allow(...ports))
  await world.lab.until('it flows again', () => (counts()[0] ?? 0) > first + 10, FELT_MS)
  await world.control.setPolicy(OPEN_POLICY)
  for (const each of [...senders, ...receivers]) await each.stop('SIGKILL')
})
