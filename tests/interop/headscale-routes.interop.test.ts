import { expect } from 'vitest'
import { addressOf, approve, kernelSocksOf, oursIn } from './lab-guest.ts'
import { headscaleFlows, type HeadscaleWorld, HeadscaleWorlds } from './lab-headscale-world.ts'
import type { OurNode } from './lab-ours.ts'
import { pong } from './lab-ping.ts'
import { Space, SPACE_WEB_PORT, whyNoSpaces } from './lab-space.ts'
import { echoed, serveIn } from './lab-traffic.ts'
import type { Tailscaled } from './lab-tailscaled.ts'
import { webThroughSocks } from './lab-web.ts'

// Our node among routers on a real headscale: as their client, and as subnet router and exit node itself, with a TUN device and without. Every
// page says which computer answered and whom it saw.
const SITE_LAN = '10.55.0.0/24'
const SITE_HOST = '10.55.0.1'
const FAR_LAN = '10.56.0.0/24'
const FAR_HOST = '10.56.0.1'
/** Next door to our routers as well, and offered by nobody. */
const HIDDEN_HOST = '10.57.0.1'
const INTERNET = '203.0.113.80'
const ECHO_PORT = 7_000
const PAGE_MS = 1_500
const worlds = new HeadscaleWorlds()
const noSpaces = whyNoSpaces()
const flow = headscaleFlows('routes', worlds, noSpaces === undefined ? [] : [noSpaces])

/** Where questions begin: a node, or a computer with a TUN device and a proxy that dials by its kernel. */
interface Asker {
  readonly name: string
  readonly socksPort: number
}

/** What is answered at an address, by whom and to whom; '' for nothing. */
async function page(from: Asker, host: string, port: number = SPACE_WEB_PORT): Promise<string> {
  const text = await webThroughSocks(from.socksPort, host, port, { timeoutMs: PAGE_MS }).then(({ body }) => body.toString(), () => '')
  // Outside the mesh some other network may take the connection: that is nobody.
  return /^[a-z]+ to /.test(text) ? text : ''
}

async function answered(world: HeadscaleWorld, from: Asker, host: string, by: string): Promise<void> {
  await world.lab.until(`${from.name} is answered at ${host} by ${by === '' ? 'nobody' : by}`, async () => {
    const got = await page(from, host)
    if (by === '' ? got === '' : got.startsWith(by)) return true
    throw new Error(`the last answer: '${got}'`)
  })
}

interface Gate {
  readonly space: Space
  readonly far: Space
  /** What `far` sees of those who come through the gate. */
  readonly seenAs: string
}

const gates = new Map<HeadscaleWorld, Promise<Gate>>()

/** The computer that nodes of ours are routers on, and the one behind it: a private network, one that stays hidden, and a piece of the internet. */
function gateOf(world: HeadscaleWorld): Promise<Gate> {
  const gate = gates.get(world) ?? startGate(world)
  gates.set(world, gate)
  return gate
}

async function startGate(world: HeadscaleWorld): Promise<Gate> {
  const space = await Space.make(world.lab, 'gate', { url: world.headscale.url })
  const far = await Space.make(world.lab, 'far', { addresses: [`${FAR_HOST}/32`, `${HIDDEN_HOST}/32`, `${INTERNET}/32`] })
  const wire = await space.join(far)
  for (const host of [FAR_HOST, HIDDEN_HOST, INTERNET]) await space.ip('route', 'add', `${host}/32`, 'via', wire.there)
  await serveIn(world.lab, far.name, ECHO_PORT, FAR_HOST)
  return { space, far, seenAs: wire.here }
}

const made = new Map<string, Promise<OurNode>>()

/** The node of ours on the gate, in either mode; once for all flows. */
async function routerOf(world: HeadscaleWorld, mode: 'tun' | 'userspace'): Promise<OurNode> {
  const { space } = await gateOf(world)
  const key = `${world.version} ${mode}`
  const router = made.get(key) ?? oursIn(world, space, mode, mode)
  made.set(key, router)
  return router
}

const sites = new Map<HeadscaleWorld, Promise<Space>>()

/** A real router with a TUN device, which offers nothing yet; once for all flows. */
async function siteRouter(world: HeadscaleWorld): Promise<Tailscaled> {
  const site = sites.get(world) ?? Space.make(world.lab, 'site', { url: world.headscale.url, addresses: [`${SITE_HOST}/32`] })
  sites.set(world, site)
  return world.real('router', 'alice', { netns: (await site).name }, '--netfilter-mode=off')
}

flow('subnet routes of a real router are used when they are accepted, and while they are offered and approved', async (world) => {
  const [router, ours] = await Promise.all([siteRouter(world), world.ours('ours', 'alice', [], '--accept-routes')])
  await router.cli('set', `--advertise-routes=${SITE_LAN}`)
  expect(await page(ours, SITE_HOST)).toBe('')
  await approve(world, 'router', SITE_LAN)
  await answered(world, ours, SITE_HOST, 'site')
  expect(await page(ours, SITE_HOST)).toBe(`site to ${await ours.ip()}`)
  await ours.cli('set', '--accept-routes=false')
  await answered(world, ours, SITE_HOST, '')
  expect((await ours.status()).Health.join()).toContain('--accept-routes is false')
  await ours.cli('set', '--accept-routes')
  await answered(world, ours, SITE_HOST, 'site')
  await router.cli('set', '--advertise-routes=')
  await answered(world, ours, SITE_HOST, '')
})

flow('with a TUN device, subnet routes of a real router: plain programs use them while they are accepted, offered and approved', async (world) => {
  const space = await Space.make(world.lab, 'taker', { url: world.headscale.url })
  const [ours, router, socksPort] = await Promise.all([oursIn(world, space, 'taker', 'tun', '--accept-routes=false'), siteRouter(world), kernelSocksOf(world.lab, space)])
  const kernel: Asker = { name: 'the kernel beside our node', socksPort }
  await router.cli('set', `--advertise-routes=${SITE_LAN}`)
  await approve(world, 'router', SITE_LAN)
  await world.lab.until('our node hears of the route', async () => (await ours.status()).Health.join().includes('--accept-routes is false'))
  expect(await page(kernel, SITE_HOST)).toBe('')
  await ours.cli('set', '--accept-routes')
  await answered(world, kernel, SITE_HOST, 'site')
  expect(await page(kernel, SITE_HOST)).toBe(`site to ${await ours.ip()}`)
  expect((await ours.inside('ping', ['-n', '-q', '-c', '3', '-i', '0.2', '-W', '3', SITE_HOST])).out).toMatch(/ [23] received/)
  expect(await space.ip('-4', 'route', 'show', 'table', '53')).toContain(`${SITE_LAN} dev mw0`)
  expect((await ours.status()).Health).toEqual([])
  await router.cli('set', '--advertise-routes=')
  await answered(world, kernel, SITE_HOST, '')
  await world.lab.until('the kernel has no such route any more', async () => !(await space.ip('-4', 'route', 'show', 'table', '53')).includes(SITE_LAN))
})

flow('a subnet router in userspace mode: TCP, UDP and pings reach what it offers, and nothing else', async (world) => {
  const gate = await gateOf(world)
  const elsewhere = await Space.make(world.lab, 'kernel', { url: world.headscale.url })
  const [router, client, kernel] = await Promise.all([
    routerOf(world, 'userspace'),
    world.real('client', 'alice', {}, '--accept-routes'),
    world.real('kernel', 'alice', { netns: elsewhere.name }, '--accept-routes', '--netfilter-mode=off'),
  ])
  await router.cli('set', `--advertise-routes=${FAR_LAN}`)
  await offered(world, router, FAR_LAN)
  await answered(world, client, FAR_HOST, 'far')
  expect(await page(client, FAR_HOST)).toBe(`far to ${gate.seenAs}`)
  await world.lab.until('the kernel of another node pings through it', async () => (await kernel.inside('ping', ['-n', '-q', '-c', '1', '-W', '3', FAR_HOST])).status === 0)
  expect(await echoed(world.lab, kernel, FAR_HOST, ECHO_PORT, 20, 500)).toBe(20)
  expect((await kernel.inside('ping', ['-n', '-q', '-c', '1', '-W', '2', '10.56.0.77'])).status).not.toBe(0)
  expect(await page(client, FAR_HOST, 81)).toBe('') // nobody listens: refused, and not held for ever
  expect((await router.status()).Health.join()).not.toContain('forwarding')
  await router.cli('set', '--advertise-routes=')
  await answered(world, client, FAR_HOST, '')
})

flow('an exit node in userspace mode leads into the internet, and not into the networks next door', async (world) => {
  const [gate, client] = [await gateOf(world), await world.real('client', 'alice', {}, '--accept-routes')]
  await exitNode(world, gate, client, await routerOf(world, 'userspace'))
})

flow('a subnet router with a TUN device: masqueraded, and without IP forwarding it says what to do', async (world) => {
  const gate = await gateOf(world)
  await gate.space.sh('echo 0 > /proc/sys/net/ipv4/ip_forward')
  const [router, client] = await Promise.all([routerOf(world, 'tun'), world.real('client', 'alice', {}, '--accept-routes')])
  await router.cli('set', `--advertise-routes=${FAR_LAN}`)
  await offered(world, router, FAR_LAN)
  expect((await router.status()).Health.join()).toContain('sysctl -w net.ipv4.ip_forward=1')
  expect(await page(client, FAR_HOST)).toBe('')
  await gate.space.sh('echo 1 > /proc/sys/net/ipv4/ip_forward')
  expect((await router.status()).Health.join()).not.toContain('sysctl')
  await answered(world, client, FAR_HOST, 'far')
  expect(await page(client, FAR_HOST)).toBe(`far to ${gate.seenAs}`)
  await router.cli('set', '--snat-subnet-routes=false')
  await gate.far.ip('route', 'add', '100.64.0.0/10', 'via', gate.seenAs)
  await answered(world, client, FAR_HOST, `far to ${await client.ip()}`)
  await gate.far.ip('route', 'del', '100.64.0.0/10')
  await router.cli('set', '--snat-subnet-routes')
})

flow('an exit node with a TUN device leads into the internet, and not into the networks next door', async (world) => {
  const [gate, client] = [await gateOf(world), await world.real('client', 'alice', {}, '--accept-routes')]
  await exitNode(world, gate, client, await routerOf(world, 'tun'))
})

flow('a real exit node carries what goes elsewhere, only while it is chosen', async (world) => {
  const gate = await gateOf(world)
  const space = await Space.make(world.lab, 'exit', { url: world.headscale.url })
  const wire = await space.join(gate.far)
  await space.ip('route', 'add', `${INTERNET}/32`, 'via', wire.there)
  await gate.far.ip('route', 'add', '100.64.0.0/10', 'via', wire.here)
  const [exit, ours] = await Promise.all([world.real('exit', 'alice', { netns: space.name }, '--netfilter-mode=off', '--advertise-exit-node'), world.ours('ours', 'alice', [], '--accept-routes')])
  await approve(world, 'exit', '0.0.0.0/0,::/0')
  const address = await exit.ip()
  await world.lab.until('it may be chosen', async () => (await ours.run(['set', `--exit-node=${address}`])).status === 0)
  await answered(world, ours, INTERNET, 'far')
  expect(await page(ours, INTERNET)).toBe(`far to ${await ours.ip()}`)
  await ours.cli('set', '--exit-node=')
  await answered(world, ours, INTERNET, '')
})

flow('shields up: nobody gets in, what this node asks for comes, and down again as before', async (world) => {
  const [ours, client] = await Promise.all([world.ours('ours', 'alice', [], '--accept-routes'), world.real('client', 'alice', {}, '--accept-routes')])
  await world.expectToWork(client, ours)
  await ours.cli('set', '--shields-up')
  const [mine, theirs] = [await ours.ip(), await client.ip()]
  expect(await world.reaches(client, mine)).toBe(false)
  expect((await client.run(['ping', '--icmp', '--c', '1', '--timeout', '1s', mine])).status).not.toBe(0)
  expect(await world.reaches(ours, theirs, world.web, 3_000)).toBe(true)
  expect(await pong(ours, '--icmp', '--timeout', '5s', theirs)).toContain('pong from client')
  await ours.cli('set', '--shields-up=false')
  await world.expectToWork(client, ours)
})

/** Waits until a node's offer has come to the server, and approves it. */
async function offered(world: HeadscaleWorld, router: OurNode, routes: string): Promise<void> {
  const id = await world.headscale.nodeId(router.name)
  await world.lab.until(`${router.name} offers ${routes}`, async () => (await world.headscale.cli('nodes', 'list-routes', '-i', id)).includes(routes.split(',')[0] ?? routes))
  await approve(world, router.name, routes)
}

/** A node of ours as exit node, from offer to withdrawal. */
async function exitNode(world: HeadscaleWorld, gate: Gate, client: Tailscaled, exit: OurNode): Promise<void> {
  await exit.cli('set', '--advertise-routes=', '--advertise-exit-node')
  await offered(world, exit, '0.0.0.0/0,::/0')
  const address = await exit.ip()
  await world.lab.until('it may be chosen', async () => (await client.run(['set', `--exit-node=${address}`])).status === 0)
  await answered(world, client, INTERNET, 'far')
  expect(await page(client, INTERNET)).toBe(`far to ${gate.seenAs}`)
  for (const host of [FAR_HOST, HIDDEN_HOST, await addressOf(gate.space), gate.seenAs]) expect(await page(client, host), host).toBe('')
  await client.cli('set', '--exit-node=')
  await answered(world, client, INTERNET, '')
  await exit.cli('set', '--advertise-exit-node=false')
}
