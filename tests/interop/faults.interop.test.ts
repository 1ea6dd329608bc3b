import { cpSync, existsSync, readFileSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import tls from 'node:tls'
import { selfSignedCertificate } from '@meshwright/runtime-node'
import { fetchControlKey } from '@meshwright/runtime-node/control'
import { expect } from 'vitest'
import { LightClient } from '../load/light-client.ts'
import { installClock, setClock } from './lab-clock.ts'
import { refusals, SmallDisk } from './lab-disk.ts'
import type { OurNode } from './lab-ours.ts'
import { cpuSeconds, pause, residentBytes } from './lab-process.ts'
import type { Tailscaled } from './lab-tailscaled.ts'
import { webThroughSocks } from './lab-web.ts'
import { type World, worldFlows, Worlds } from './lab-world.ts'

// What goes wrong around a control server: thirty clients of three kinds (some real nodes, two of ours, the rest light clients that only
// talk with the server) must hardly notice.
const CLIENTS = 30
/** Few, so that a run of all flows stays short: MESHWRIGHT_REAL_CLIENTS=26 for as many as there can be, since flows need two light ones. */
const REAL = Number(process.env['MESHWRIGHT_REAL_CLIENTS'] ?? 4)
/** Real nodes that join at once. */
const JOINING = 6
const BACK_MS = 10_000
/** So long the proxy waits for a server that is away. */
const PROXY_WAITS_MS = 5_000
/** For all that is not what a flow is about: a busy computer takes its time. */
const SOME_TIME_MS = 40_000
const MEGABYTE = 1_048_576

const worlds = new Worlds()
const flow = worldFlows('faults', worlds)
/** Flows that mount a small disk. */
const diskFlow = worldFlows('faults', worlds, process.getuid?.() === 0 ? [] : ['mounting a disk needs root'])

interface Crowd {
  readonly real: readonly Tailscaled[]
  readonly ours: readonly OurNode[]
  readonly light: readonly LightClient[]
  /** The names of peers that the last frames of a light client told of. */
  readonly heard: ReadonlyMap<LightClient, Set<string>>
}

const crowds = new Map<World, Promise<Crowd>>()

function crowdOf(world: World): Promise<Crowd> {
  const crowd = crowds.get(world) ?? startCrowd(world)
  crowds.set(world, crowd)
  return crowd
}

/** A connection to a port of this computer where somebody listens within a moment; `undefined` when nobody does. */
async function reached(port: number): Promise<net.Socket | undefined> {
  for (const deadline = performance.now() + PROXY_WAITS_MS; performance.now() < deadline; await pause(20)) {
    const socket = net.connect(port, '127.0.0.1')
    if (await new Promise<boolean>((resolve) => socket.once('connect', () => resolve(true)).once('error', () => resolve(false)))) return socket
  }
  return undefined
}

/**
 * A proxy that ends TLS in front of the server, which speaks plain HTTP behind it, and waits a moment for a server that is away, as proxies can
 * be told. Real clients come this way: after a connection that is refused, or ended in front of them, they sit out ten seconds from the kill
 * on (1.80.3: whatever the server does), and it would be these that are measured.
 */
async function startProxy(world: World): Promise<{ readonly url: string; readonly trust: string }> {
  const { cert, key } = selfSignedCertificate([world.base.address])
  const trust = world.lab.at('trust.pem')
  writeFileSync(trust, `${readFileSync(world.base.trust.SSL_CERT_FILE, 'utf8')}\n${cert}`)
  const sockets = new Set<net.Socket>()
  const pass = async (client: tls.TLSSocket): Promise<void> => {
    sockets.add(client)
    client.on('error', () => client.destroy()).on('close', () => sockets.delete(client))
    const server = await reached(Number(new URL(world.control.url).port))
    if (server === undefined || client.destroyed) {
      server?.destroy()
      client.destroy()
      return
    }
    sockets.add(server)
    server.on('error', () => server.destroy()).on('close', () => {
      sockets.delete(server)
      client.destroy()
    })
    client.on('close', () => server.destroy())
    client.pipe(server).pipe(client)
  }
  const proxy = tls.createServer({ cert, key }, (client) => void pass(client))
  proxy.on('tlsClientError', () => undefined)
  await new Promise<void>((resolve) => proxy.listen(0, world.base.address, resolve))
  world.lab.onStop(() => {
    for (const socket of sockets) socket.destroy()
    proxy.close()
  })
  const address = proxy.address()
  if (typeof address !== 'object' || address === null) throw new Error('no port')
  return { url: `https://${world.base.address}:${address.port}`, trust }
}

async function startCrowd(world: World): Promise<Crowd> {
  const proxy = await startProxy(world)
  const join = async (name: string, user: 'alice' | 'bob', relayOnly = false): Promise<Tailscaled> => {
    const node = await world.daemon(name, { relayOnly, env: { SSL_CERT_FILE: proxy.trust } })
    await node.up(proxy.url, await world.reusable(user))
    return node
  }
  const real = await Promise.all([join('laptop', 'alice'), join('server', 'alice'), join('phone', 'bob', true), join('tablet', 'bob')])
  while (real.length < REAL) real.push(...(await Promise.all(Array.from({ length: Math.min(JOINING, REAL - real.length) }, (_, i) => join(`desk-${real.length + i}`, i % 2 === 0 ? 'alice' : 'bob')))))
  const ours = await Promise.all([world.ours('ours'), world.ours('ours-by-relay', 'bob', ['--block-udp'])])
  const url = world.control.url
  const key = await fetchControlKey({ url })
  const heard = new Map<LightClient, Set<string>>()
  let ended = false
  const events = {
    frame: (client: LightClient, text: string) => {
      for (const [, name = ''] of text.matchAll(/"Name":"(heard-[0-9]+)\./g)) heard.get(client)?.add(name)
    },
    // As real clients do: again and again, ever more slowly.
    lost: (client: LightClient) => {
      const again = async (): Promise<void> => {
        for (let attempt = 1; !ended; attempt += 1) {
          await pause(Math.min(attempt * attempt * 10, 30_000))
          if (await client.reconnect(url, key).then(() => true, () => false)) return
        }
      }
      void again()
    },
  }
  const light = Array.from({ length: CLIENTS - real.length - ours.length }, (_, i) => new LightClient(i, events))
  for (const client of light) heard.set(client, new Set())
  const authKey = await world.reusable('alice')
  for (const client of light) {
    await client.join(url, key, authKey)
    await client.poll()
  }
  world.lab.onStop(() => {
    ended = true
    for (const client of light) client.drop()
  })
  await world.lab.until('all light clients have their maps', () => light.every((client) => client.peers.size === CLIENTS - 1))
  return { real, ours, light, heard }
}

/** Connections that carry a line every 50 ms: between real nodes directly and by relay, and with nodes of ours. */
async function talk(crowd: Crowd, world: World, lines: number): Promise<() => Promise<void>> {
  const [laptop, server, phone] = crowd.real
  const [ours] = crowd.ours
  if (laptop === undefined || server === undefined || phone === undefined || ours === undefined) throw new Error('the crowd is not complete')
  const pairs: readonly (readonly [Tailscaled | OurNode, Tailscaled | OurNode])[] = [[laptop, server], [phone, server], [laptop, ours], [ours, phone]]
  const talks = await Promise.all(pairs.map(async ([from, to]) => ({ from, to, ip: await to.ip() })))
  const ends = talks.map(({ from, ip }) => webThroughSocks(from.socksPort, ip, world.web, { path: `/drip/${lines}`, timeoutMs: lines * 50 + 30_000 }))
  for (const end of ends) end.catch(() => undefined) // looked at below
  return async () => {
    const expected = Array.from({ length: lines }, (_, i) => `line ${i + 1}\n`).join('')
    for (const [i, end] of ends.entries()) expect((await end).body.toString(), `${talks[i]?.from.name ?? ''} from ${talks[i]?.to.name ?? ''}`).toBe(expected)
  }
}

let renames = 0

/** Milliseconds until every client has heard of a change: its poll is open, and works. */
async function allHear(crowd: Crowd, world: World, limitMs: number, begun: number = performance.now()): Promise<number> {
  renames += 1
  const name = `heard-${renames}`
  await world.lab.until('the server takes a change', async () => {
    const [first] = (await world.control.nodes()).filter((node) => node.name === 'load-0')
    await world.control.ask({ command: 'renameNode', id: Number(first?.id), newName: name })
    return true
  }, limitMs)
  const light = crowd.light.slice(1)
  // Each question is a program of its own: who has heard is not asked again.
  const unheard = new Set([...crowd.real, ...crowd.ours])
  await world.lab.until(`every client hears of ${name}`, async () => {
    await Promise.all([...unheard].map(async (node) => (await node.peer(name)) !== undefined && unheard.delete(node)))
    const deaf = [...light.filter((client) => crowd.heard.get(client)?.has(name) !== true), ...unheard]
    if (deaf.length > 0) throw new Error(`not heard by ${deaf.map((client) => client.name).join()}`)
    return true
  }, limitMs)
  return performance.now() - begun
}

/** What an administrator has put into the server, and what nodes depend on. */
async function facts(world: World): Promise<unknown> {
  const { users } = await world.control.ask({ command: 'listUsers' })
  const { preAuthKeys } = await world.control.ask({ command: 'listAuthKeys' })
  const { policy } = await world.control.ask({ command: 'getPolicy' })
  const nodes = (await world.control.nodes()).map(({ id, ipAddresses, givenName, expiry, tags }) => ({ id, ipAddresses, givenName, expiry, tags }))
  return { users, preAuthKeys, policy, nodes }
}

async function noWarnings(crowd: Crowd, world: World): Promise<void> {
  const silent = async (node: Tailscaled | OurNode, health: () => Promise<readonly string[]>): Promise<void> => {
    await world.lab.until(`${node.name} has nothing to complain of`, async () => {
      const complaints = await health()
      if (complaints.length > 0) throw new Error(complaints.join('; '))
      return true
    }, SOME_TIME_MS)
  }
  for (const node of crowd.real) await silent(node, () => world.health(node))
  for (const node of crowd.ours) await silent(node, async () => (await node.status()).Health)
}

flow('thirty clients join, and none shows a warning', async (world) => {
  const crowd = await crowdOf(world)
  await noWarnings(crowd, world)
})

flow('control server killed and started again under 30 clients: no connection drops, all back in 10 s, nothing lost', async (world) => {
  const crowd = await crowdOf(world)
  const finish = await talk(crowd, world, 160)
  const before = await facts(world)
  await world.control.stop('SIGKILL')
  await world.control.start()
  const up = performance.now()
  expect(await facts(world)).toEqual(before)
  expect(await allHear(crowd, world, BACK_MS, up)).toBeLessThan(BACK_MS)
  expect((await world.control.nodes()).filter((node) => !node.online).map((node) => node.givenName)).toEqual([])
  await finish()
  await noWarnings(crowd, world)
})

diskFlow('a disk that is full refuses changes with the reason, keeps all else going, and works again when there is room', async (world) => {
  const crowd = await crowdOf(world)
  const disk = await SmallDisk.under(world)
  await allHear(crowd, world, SOME_TIME_MS)
  const finish = await talk(crowd, world, 40)
  const before = await facts(world)
  disk.fill()
  const refused = await refusals(world, 20)
  expect(refused.length).toBeGreaterThan(0)
  expect(refused[0]).toMatch(/could not be stored: .*full/)
  const made = 20 - refused.length
  expect(((await facts(world)) as { users: unknown[] }).users.length).toBe((before as { users: unknown[] }).users.length + made)
  expect(world.control.log).toMatch(/check the disk/)
  await finish()
  disk.clear()
  expect(await world.control.createUser('there-is-room')).toMatch(/^[0-9]+$/)
  await allHear(crowd, world, SOME_TIME_MS)
  await disk.leave()
  await allHear(crowd, world, SOME_TIME_MS)
  await noWarnings(crowd, world)
})

flow('the clock of the control server jumps a day ahead, and back: nobody drops out, keys with an end are judged by it', async (world) => {
  const crowd = await crowdOf(world)
  await installClock(world)
  await world.control.stop()
  await world.control.start()
  await allHear(crowd, world, SOME_TIME_MS)
  const tablet = await world.listed('tablet')
  await world.control.cli('nodes', 'expire', '-i', tablet.id, '-e', '1h')
  const finish = await talk(crowd, world, 200)
  const others = { ...crowd, real: crowd.real.filter((node) => node !== crowd.real[3]) } // all but the tablet
  for (const days of [1, -1]) {
    await setClock(world, days * 86_400_000)
    // The server's clock counts, and it looks every ten seconds.
    await world.lab.until(`the tablet ${days === 1 ? 'has expired' : 'is good again'}`, async () => ((await crowd.real[0]?.peer('tablet'))?.Expired ?? false) === (days === 1), SOME_TIME_MS)
    await allHear(days === 1 ? others : crowd, world, SOME_TIME_MS)
    const offline = (await world.control.nodes()).filter((node) => !node.online && !['late', 'early'].includes(node.givenName))
    expect(offline.map((node) => node.givenName)).toEqual([])
    // Keys made now are good now.
    const late = await world.daemon(days === 1 ? 'late' : 'early')
    await late.up(world.control.url, await world.key('alice'))
    await world.expectToWork(late, crowd.real[1] ?? late)
    await late.stop()
  }
  await setClock(world, 0)
  await world.control.cli('nodes', 'expire', '-i', tablet.id, '--disable')
  await world.lab.until('the tablet is back', async () => (await crowd.real[3]?.status())?.BackendState === 'Running' && (await crowd.real[0]?.peer('tablet'))?.Expired !== true)
  await finish()
  await noWarnings(crowd, world)
})

/** Many changes, a good share of a second of them at a time, with much in each. */
async function churn(crowd: Crowd, rounds: number): Promise<void> {
  for (let round = 0; round < rounds; round += 1) {
    await Promise.all(crowd.light.map((client, i) => client.update(Array.from({ length: 60 }, (_, n) => `198.51.${i}.${n}:${10_000 + ((round * 61 + n) % 50_000)}`))))
  }
}

flow('a client that never reads, and a slow one, cost the others nothing and the server no memory; both learn all when they read again', async (world) => {
  const crowd = await crowdOf(world)
  const [, , , tablet] = crowd.real
  const [, slow] = crowd.real
  if (tablet?.pid === undefined || slow?.pid === undefined) throw new Error('the crowd is not complete')
  const pid = world.control.pid
  await churn(crowd, 20)
  const before = residentBytes(pid)
  process.kill(tablet.pid, 'SIGSTOP')
  // Reads for a moment, twice a second.
  const crawl = setInterval(() => {
    process.kill(slow.pid ?? 0, 'SIGCONT')
    setTimeout(() => process.kill(slow.pid ?? 0, 'SIGSTOP'), 50)
  }, 500)
  try {
    await churn(crowd, 60)
    const others = { ...crowd, real: crowd.real.filter((node) => node !== tablet && node !== slow) }
    expect(await allHear(others, world, SOME_TIME_MS)).toBeLessThan(20_000)
    expect(residentBytes(pid) - before).toBeLessThan(128 * MEGABYTE)
  } finally {
    clearInterval(crawl)
    await pause(100)
    for (const node of [tablet, slow]) process.kill(node.pid ?? 0, 'SIGCONT')
  }
  await allHear(crowd, world, SOME_TIME_MS)
  await noWarnings(crowd, world)
}, 400_000)

flow('two polls of one node: the newer one is served, the older one ends', async (world) => {
  const crowd = await crowdOf(world)
  const [, client] = crowd.light
  if (client === undefined) throw new Error('the crowd is not complete')
  const node = await world.listed(client.name)
  const ended = client.replacedEnded
  await client.reconnect(world.control.url, await fetchControlKey({ url: world.control.url }))
  await world.lab.until('the older one has ended', () => client.replacedEnded === ended + 1)
  expect((await world.control.node(client.name))?.online).toBe(true)
  await allHear(crowd, world, SOME_TIME_MS)
  expect(client.replacedEnded).toBe(ended + 1)
  expect((await world.control.node(client.name))?.id).toBe(node.id)
})

flow('two polls of one node: a copy of a daemon beside it makes no storm', async (world) => {
  const crowd = await crowdOf(world)
  const [laptop] = crowd.real
  if (laptop === undefined) throw new Error('the crowd is not complete')
  cpSync(world.lab.at('laptop'), world.lab.at('copy'), { recursive: true })
  const copy = await world.daemon('copy', { env: { SSL_CERT_FILE: world.lab.at('trust.pem') } })
  await world.lab.until('the copy runs', async () => (await copy.status()).BackendState === 'Running')
  const pid = world.control.pid
  const cpu = cpuSeconds(pid)
  await pause(5_000)
  const spent = cpuSeconds(pid) - cpu
  expect(spent).toBeLessThan(1)
  expect((await world.control.node('laptop'))?.online).toBe(true)
  await copy.stop('SIGKILL')
  await allHear(crowd, world, SOME_TIME_MS)
  expect(existsSync(world.lab.at('copy'))).toBe(true)
})

flow('status shows no warning when all is quiet again', async (world) => {
  await noWarnings(await crowdOf(world), world)
})
