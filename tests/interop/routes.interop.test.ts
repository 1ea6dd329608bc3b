import { expect } from 'vitest'
import type { OurControl } from './lab-ours.ts'
import { Space, SPACE_WEB_PORT, whyNoSpaces } from './lab-space.ts'
import type { Tailscaled } from './lab-tailscaled.ts'
import { webThroughSocks } from './lab-web.ts'
import { type World, worldFlows, Worlds } from './lab-world.ts'

// Two real routers with TUN devices, each in a namespace with the same private network behind it, and a real client in userspace mode.
// The page on 10.55.0.1 says which of the two was reached; nobody else has that address.
const LAN = '10.55.0.0/24'
const HOST = '10.55.0.1'
const VIA_SIX = 'fd7a:115c:a1e0:b1a:0:7:a37:0/120' // 10.55.0.0/24 of site 7
const HOST_VIA_SIX = 'fd7a:115c:a1e0:b1a:0:7:a37:1'
const INTERNET = '203.0.113.80'
const OPEN = { acls: [{ action: 'accept', src: ['*'], dst: ['*:*'] }] }
const AUTO = { ...OPEN, autoApprovers: { routes: { '10.55.0.0/16': ['alice@'] } } }
/** A change of routes is told at once; a router that was not used before needs a handshake. */
const FELT_MS = 6_000
const PAGE_MS = 1_500

const worlds = new Worlds({ policy: OPEN })
const noSpaces = whyNoSpaces()
const flow = worldFlows('routes', worlds, noSpaces === undefined ? [] : [noSpaces])

interface Site {
  readonly control: OurControl
  readonly client: Tailscaled
  readonly spaces: Readonly<Record<'first' | 'second', Space>>
  readonly first: Tailscaled
  second: Tailscaled | undefined
}

const sites = new Map<World, Promise<Site>>()

function siteOf(world: World): Promise<Site> {
  const site = sites.get(world) ?? startSite(world)
  sites.set(world, site)
  return site
}

async function startSite(world: World): Promise<Site> {
  const space = (label: string): Promise<Space> => Space.make(world.lab, label, { url: world.control.url, addresses: [`${HOST}/32`] })
  const [spaceOne, spaceTwo] = [await space('first'), await space('second')]
  const [client, first] = await Promise.all([
    world.join('client', 'alice', {}, '--accept-routes'),
    world.join('first', 'alice', { netns: spaceOne.name }, '--netfilter-mode=off', `--advertise-routes=${LAN},${VIA_SIX}`),
  ])
  return { control: world.control, client, first, second: undefined, spaces: { first: spaceOne, second: spaceTwo } }
}

/** The second router, once it is wanted. */
async function secondOf(world: World, site: Site): Promise<Tailscaled> {
  site.second ??= await world.join('second', 'alice', { netns: site.spaces.second.name }, '--netfilter-mode=off', `--advertise-routes=${LAN}`)
  return site.second
}

/** What is answered at an address behind routers. Outside the mesh some other network may take the connection: that is nobody. */
async function page(client: Tailscaled, host: string = HOST): Promise<string> {
  const text = await webThroughSocks(client.socksPort, host, SPACE_WEB_PORT, { timeoutMs: PAGE_MS }).then(({ body }) => body.toString(), () => '')
  return /^(first|second|internet) to /.test(text) ? text : 'nobody'
}

/** Milliseconds until the page behind routers comes from who is named. */
async function answeredBy(world: World, site: Site, who: string, limitMs: number = FELT_MS, host: string = HOST): Promise<number> {
  const begun = performance.now()
  await world.lab.until(`${host} is answered by ${who}`, async () => (await page(site.client, host)).startsWith(who), limitMs)
  return performance.now() - begun
}

async function idOf(world: World, name: string): Promise<string> {
  return (await world.listed(name)).id
}

async function routesOf(world: World, name: string): Promise<{ approved: readonly string[]; available: readonly string[]; serving: readonly string[] }> {
  const [node] = await world.control.json<readonly { approvedRoutes: string[]; availableRoutes: string[]; subnetRoutes: string[] }[]>('nodes', 'list-routes', '-i', await idOf(world, name))
  return { approved: node?.approvedRoutes ?? [], available: node?.availableRoutes ?? [], serving: node?.subnetRoutes ?? [] }
}

flow('a subnet route that is advertised carries nothing until it is approved by hand', async (world) => {
  const site = await siteOf(world)
  expect(await world.lab.until('the route is offered', async () => {
    const routes = await routesOf(world, 'first')
    return routes.available.length === 2 && routes
  })).toEqual({ approved: [], available: [LAN, VIA_SIX].sort(), serving: [] })
  expect(await page(site.client)).toBe('nobody')
  await site.control.cli('nodes', 'approve-routes', '-i', await idOf(world, 'first'), '-r', LAN)
  await answeredBy(world, site, 'first')
  expect((await routesOf(world, 'first')).serving).toEqual([LAN])
  // Not translated: the page sees the client's own address.
  expect(await page(site.client)).toBe(`first to ${await site.client.ip()}`)
})

flow('a client that does not accept routes does not use them', async (world) => {
  const site = await siteOf(world)
  await site.client.cli('set', '--accept-routes=false')
  await answeredBy(world, site, 'nobody')
  await site.client.cli('set', '--accept-routes')
  await answeredBy(world, site, 'first')
})

flow('a route that its router withdraws is gone, and back when it is advertised again', async (world) => {
  const site = await siteOf(world)
  await site.first.cli('set', '--advertise-routes=')
  await answeredBy(world, site, 'nobody')
  await site.first.cli('set', `--advertise-routes=${LAN},${VIA_SIX}`)
  await answeredBy(world, site, 'first')
})

flow('an approval that is taken back ends the route', async (world) => {
  const site = await siteOf(world)
  const id = await idOf(world, 'first')
  await site.control.cli('nodes', 'approve-routes', '-i', id, '-r', '')
  await answeredBy(world, site, 'nobody')
  await site.control.cli('nodes', 'approve-routes', '-i', id, '-r', `${LAN},${VIA_SIX}`)
  await answeredBy(world, site, 'first')
})

flow('4via6 is a plain route', async (world) => {
  await answeredBy(world, await siteOf(world), 'first', FELT_MS, HOST_VIA_SIX)
})

flow('autoApprovers approve a route at once', async (world) => {
  const site = await siteOf(world)
  await site.control.setPolicy(AUTO)
  await secondOf(world, site)
  expect((await routesOf(world, 'second')).approved).toEqual([LAN])
  // The first of them keeps the traffic; the second stands by.
  expect((await routesOf(world, 'second')).serving).toEqual([])
  await answeredBy(world, site, 'first')
})

flow('a router whose connection closes is replaced within 12 s, and takes over again when it is back', async (world) => {
  const site = await siteOf(world)
  await secondOf(world, site)
  await answeredBy(world, site, 'first')
  await site.first.stop('SIGKILL')
  expect(await answeredBy(world, site, 'second', 15_000)).toBeLessThan(12_000)
  await site.first.start()
  await answeredBy(world, site, 'first', 20_000)
})

flow('a router that falls silent is replaced within 20 s, and takes over again when it answers', async (world) => {
  const site = await siteOf(world)
  await secondOf(world, site)
  await answeredBy(world, site, 'first', 20_000)
  const pid = site.first.pid ?? 0
  process.kill(pid, 'SIGSTOP')
  try {
    expect(await answeredBy(world, site, 'second', 25_000)).toBeLessThan(20_000)
  } finally {
    process.kill(pid, 'SIGCONT')
  }
  await answeredBy(world, site, 'first', 30_000)
})

flow('an exit node carries what goes elsewhere, and only while it is chosen', async (world) => {
  const site = await siteOf(world)
  const internet = await Space.make(world.lab, 'internet', { addresses: [`${INTERNET}/32`] })
  const wire = await site.spaces.first.join(internet)
  await site.spaces.first.ip('route', 'add', `${INTERNET}/32`, 'via', wire.there)
  await internet.ip('route', 'add', '100.64.0.0/10', 'via', wire.here)
  await site.first.cli('set', '--advertise-exit-node')
  const id = await idOf(world, 'first')
  await world.lab.until('the exit node is offered', async () => (await routesOf(world, 'first')).available.includes('0.0.0.0/0'))
  await site.control.cli('nodes', 'approve-routes', '-i', id, '-r', `${LAN},${VIA_SIX},0.0.0.0/0`)
  const address = await site.first.ip()
  await world.lab.until('the client may choose it', async () => (await site.client.run(['set', `--exit-node=${address}`])).status === 0)
  await answeredBy(world, site, 'internet', FELT_MS, INTERNET)
  expect(await page(site.client, INTERNET)).toBe(`internet to ${await site.client.ip()}`)
  expect(await site.client.peer('first')).toMatchObject({ ExitNode: true, Online: true })
  // Clients look for it in their last whole map alone: those that tell whom they chose (1.88 and newer) are made to build it anew.
  await world.lab.until('it shows the exit node that it uses', async () => (await site.client.status()).ExitNodeStatus?.Online === true)
  await site.client.cli('set', '--exit-node=')
  await answeredBy(world, site, 'nobody', FELT_MS, INTERNET)
  await answeredBy(world, site, 'first')
})

flow('TUN: the kernel of a client takes approved routes, 4via6 and the exit node, only as long as it accepts them', async (world) => {
  const site = await siteOf(world)
  const space = await Space.make(world.lab, 'client-tun', { url: world.control.url })
  const node = await world.join('client-tun', 'alice', { netns: space.name }, '--netfilter-mode=off', '--accept-routes')
  const ip = await node.ip()
  // Names of URLs in brackets are IPv6; a program of the kernel's that knows nothing of the mesh.
  const script = "require('http').get(process.argv[1], { timeout: 2000 }, (answer) => answer.pipe(process.stdout)).on('error', () => process.exit(1)).on('timeout', () => process.exit(1))"
  const fetched = async (url: string): Promise<string> => (await node.inside(process.execPath, ['-e', script, url])).out
  await world.lab.until('the routed page opens', async () => (await fetched(`http://${HOST}/`)) === `first to ${ip}`)
  await world.lab.until('the page opens by 4via6', async () => (await fetched(`http://[${HOST_VIA_SIX}]/`)).startsWith('first to '))
  expect(await fetched(`http://${INTERNET}/`)).not.toMatch(/^internet/)
  const exit = await site.first.ip()
  await world.lab.until('it may choose the exit node', async () => (await node.run(['set', `--exit-node=${exit}`])).status === 0)
  await world.lab.until('what goes elsewhere goes by the exit node', async () => (await fetched(`http://${INTERNET}/`)) === `internet to ${ip}`)
  expect((await node.status()).BackendState).toBe('Running')
  await node.cli('set', '--exit-node=')
  await world.lab.until('the exit node is left', async () => !(await fetched(`http://${INTERNET}/`)).startsWith('internet'))
  await node.cli('set', '--accept-routes=false')
  await world.lab.until('the route is left', async () => !(await fetched(`http://${HOST}/`)).startsWith('first'))
  await node.stop()
})

flow('status shows no warning when all is quiet', async (world) => {
  const { client, first } = await siteOf(world)
  // The second router is told by its own program that there are routes of others, which it does not take.
  for (const node of [client, first]) await world.lab.until(`${node.name} has nothing to complain of`, async () => (await world.health(node)).length === 0)
})
