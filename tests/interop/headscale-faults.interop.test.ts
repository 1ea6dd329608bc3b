import { readFileSync, writeFileSync } from 'node:fs'
import dgram from 'node:dgram'
import { expect } from 'vitest'
import { addressOf, cutUdp, kernelSocksOf, oursIn, socksOf } from './lab-guest.ts'
import { headscaleFlows, type HeadscaleWorld, HeadscaleWorlds } from './lab-headscale-world.ts'
import { OurNode } from './lab-ours.ts'
import { pause } from './lab-process.ts'
import { Space, SPACE_WEB_PORT, whyNoSpaces } from './lab-space.ts'
import { Exchange, goesByRack, streamOut } from './lab-traffic.ts'
import type { Tailscaled } from './lab-tailscaled.ts'
import { openDrip, webThroughSocks } from './lab-web.ts'

// What goes wrong around our node on a real headscale and a real derper, with real peers: servers die, peers change, the network changes, the
// computer sleeps, and it starts while the server is away.
const worlds = new HeadscaleWorlds({ apart: true })
const noSpaces = whyNoSpaces()
const flow = headscaleFlows('faults', worlds, noSpaces === undefined ? [] : [noSpaces])
/** The rule of the issue: after UDP was blocked, our packets arrive by relay. */
const BY_RELAY_MS = 5_000
const SLEEP_MS = 600_000
/** headscale 0.29.3 may lose a new key when other news of the same node come within half a second. */
const QUIET_MS = 1_000

async function relayed(world: HeadscaleWorld): Promise<readonly [Tailscaled, OurNode]> {
  return Promise.all([world.real('real-by-relay', 'bob', { relayOnly: true }), blocked(world)])
}

const nodes = new Map<string, Promise<OurNode>>()

/** A node of ours, made once for each world. */
function once(world: HeadscaleWorld, name: string, make: () => Promise<OurNode>): Promise<OurNode> {
  const key = `${world.version} ${name}`
  const node = nodes.get(key) ?? make()
  nodes.set(key, node)
  node.catch(() => nodes.delete(key)) // the next flow tries again
  return node
}

function blocked(world: HeadscaleWorld): Promise<OurNode> {
  return once(world, 'ours-by-relay', async () => {
    const [node, key] = await Promise.all([world.ourDaemon('ours-by-relay', ['--block-udp']), world.reusable('alice')])
    await node.up(world.headscale.url, key)
    return node
  })
}

/** Waits until our node has heard of a change that the server makes. */
async function hears(world: HeadscaleWorld, ours: OurNode, name: string): Promise<void> {
  await world.headscale.cli('nodes', 'rename', '-i', await world.headscale.nodeId('real'), name)
  await world.lab.until(`our node hears of ${name}`, async () => (await ours.peer(name)) !== undefined, 30_000)
  await world.headscale.cli('nodes', 'rename', '-i', await world.headscale.nodeId(name), 'real')
}

/** Starts our node again and waits until it runs. */
async function startAgain(world: HeadscaleWorld, ours: OurNode): Promise<void> {
  await ours.start()
  await world.lab.until('our node runs', async () => (await ours.status()).BackendState === 'Running')
}

flow('headscale is killed and started again: connections stay, and news come again', async (world) => {
  const [real, ours, [realByRelay, oursByRelay]] = await Promise.all([world.real('real'), world.ours(), relayed(world)])
  await world.expectToWork(real, ours)
  await world.expectToWork(realByRelay, oursByRelay)
  const drips = await Promise.all([openDrip(ours.socksPort, await real.ip(), world.web, 2_000), openDrip(oursByRelay.socksPort, await realByRelay.ip(), world.web, 2_000)])
  await world.headscale.stop('SIGKILL')
  await pause(500)
  await world.headscale.start(world.relayMap, undefined)
  await hears(world, ours, 'renamed')
  await world.lab.until('lines go on', () => drips.every((drip) => performance.now() - drip.lastAt < 500))
  expect(drips.map((drip) => drip.ended)).toEqual([undefined, undefined])
  for (const drip of drips) drip.close()
})

flow('derper is killed and started again: the node says so, connections by relay go on when it is back', async (world) => {
  const [realByRelay, oursByRelay] = await relayed(world)
  const drip = await openDrip(oursByRelay.socksPort, await realByRelay.ip(), world.web, 4_000)
  await world.base.relay.stop('SIGKILL')
  await world.lab.until('the node tells of its relay', async () => /home relay.*cannot be reached/.test((await oursByRelay.status()).Health.join()))
  await world.base.relay.start(world.base.address)
  const back = performance.now()
  await world.lab.until('lines go on', () => drip.lastAt > back, 60_000)
  expect(drip.ended).toBeUndefined()
  drip.close()
  // Interfaces of this computer come and go with other flows, and nodes renew their connections then.
  await world.lab.until('the node has nothing to complain of', async () => (await oursByRelay.status()).Health.length === 0)
})

flow('node key, disco key and endpoints of a peer change, and ours', async (world) => {
  const [real, ours] = await Promise.all([world.real('real'), world.ours()])
  const keyOf = async (): Promise<string | undefined> => Object.entries((await ours.status()).Peer ?? {}).find(([, peer]) => peer.DNSName.startsWith('real.'))?.[0]
  const before = await keyOf()
  await real.stop('SIGKILL') // its disco key lives in the process, its port as well
  await real.start()
  await world.expectToWork(real, ours, 30_000)
  await real.up(world.headscale.url, await world.reusable('alice'), '--force-reauth')
  await world.lab.until('our node hears of the new key', async () => ![undefined, before].includes(await keyOf()))
  await world.expectToWork(real, ours, 30_000)
  await ours.up(world.headscale.url, await world.reusable('alice'), '--force-reauth')
  await world.expectToWorkAnew(ours, real, 30_000)
  await ours.stop('SIGKILL')
  await startAgain(world, ours)
  await world.expectToWork(real, ours, 30_000)
})

type Mode = 'userspace' | 'tun'
const MODES: readonly Mode[] = ['userspace', 'tun']
/** How flows are called in each mode. */
const CALLED: Readonly<Record<Mode, string>> = { userspace: '', tun: 'with a TUN device, ' }

interface Mover {
  readonly space: Space
  readonly ours: OurNode
  /** A SOCKS5 port that leads into the mesh from there: through the node, or by the kernel and its TUN device. */
  readonly socks: number
}

const movers = new Map<string, Promise<Mover>>()

// Reads how far the wall clock is ahead of the real one from a file, when it is asked for the time: a thread that carries packets has no timers.
const CLOCK = `
import { readFileSync } from 'node:fs'
const now = Date.now.bind(Date)
let [ahead, lookedAt] = [0, -Infinity]
Date.now = () => {
  if (performance.now() - lookedAt > 20) {
    lookedAt = performance.now()
    try { ahead = Number(readFileSync(process.env.LAB_CLOCK, 'utf8')) } catch { ahead = 0 }
  }
  return now() + ahead
}
`

/** A node of ours in a space of its own, whose network can be changed, with a wall clock that can be set, in all its threads. */
function moverOf(world: HeadscaleWorld, mode: Mode): Promise<Mover> {
  const key = `${world.version} ${mode}`
  const mover = movers.get(key) ?? startMover(world, mode)
  movers.set(key, mover)
  return mover
}

async function startMover(world: HeadscaleWorld, mode: Mode): Promise<Mover> {
  const { lab } = world
  const name = mode === 'tun' ? 'mover-tun' : 'mover'
  const space = await Space.make(lab, name, { url: world.headscale.url })
  const clock = lab.at('clock.mjs')
  writeFileSync(clock, CLOCK)
  const flags = mode === 'tun' ? [] : ['--tun', 'userspace-networking', '--socks5-server', '0.0.0.0:1055']
  const ours = new OurNode(lab, world.base.programs, name, flags, { NODE_EXTRA_CA_CERTS: world.base.trust.NODE_EXTRA_CA_CERTS, NODE_OPTIONS: `--import=${clock}`, LAB_CLOCK: lab.at(`${name}.clock`) }, space.name)
  await ours.start()
  await ours.up(world.headscale.url, await world.reusable('alice'))
  return { space, ours, socks: await (mode === 'tun' ? kernelSocksOf : socksOf)(lab, space) }
}

/** Pages both ways between the mover and a real node. */
async function worksThere(world: HeadscaleWorld, mover: Mover, socks: number, real: Tailscaled, limitMs: number): Promise<void> {
  const [there, here] = [await real.ip(), await mover.ours.ip()]
  await world.lab.until('the mover reaches the real node', async () => (await webThroughSocks(socks, there, world.web, { timeoutMs: 2_000 })).body.toString() === 'hello', limitMs)
  await world.lab.until('the real node reaches the mover', async () => (await webThroughSocks(real.socksPort, here, SPACE_WEB_PORT, { timeoutMs: 2_000 })).body.toString().startsWith(`${mover.ours.name} to`), limitMs)
}

/** Waits until a connection carries both ways again; ends it, and every byte must have come. */
async function goesOn(world: HeadscaleWorld, exchange: Exchange): Promise<void> {
  const [near, far] = [exchange.near.gotBytes, exchange.far.gotBytes]
  await world.lab.until('the connection carries both ways', () => {
    exchange.check()
    return exchange.near.gotBytes - near > 50_000 && exchange.far.gotBytes - far > 50_000
  }, 120_000)
  expect(await exchange.finish(world.lab)).toBe(true)
}

// What these ask in userspace mode above, asked of the thread that carries the packets of a TUN device, and of plain programs.
flow('with a TUN device, headscale is killed and started again: a connection stays, and news come again', async (world) => {
  const [mover, real] = await Promise.all([moverOf(world, 'tun'), world.real('real')])
  await worksThere(world, mover, mover.socks, real, 30_000)
  const exchange = await Exchange.start(world.lab, mover.socks, await real.ip())
  await world.headscale.stop('SIGKILL')
  await pause(500)
  await world.headscale.start(world.relayMap, undefined)
  await hears(world, mover.ours, 'renamed-tun')
  await goesOn(world, exchange)
})

flow('with a TUN device, derper is killed and started again: the node says so, a connection by relay goes on when it is back', async (world) => {
  const [mover, real] = await Promise.all([moverOf(world, 'tun'), world.real('real')])
  await worksThere(world, mover, mover.socks, real, 30_000)
  const exchange = await Exchange.start(world.lab, mover.socks, await real.ip())
  await cutUdp(mover.space)
  const relayed = (await mover.ours.status()).Meshwright.RelayBytesOut
  await world.lab.until('it goes by relay', async () => {
    exchange.check()
    return (await mover.ours.status()).Meshwright.RelayBytesOut - relayed > 100_000
  }, 60_000)
  await world.base.relay.stop('SIGKILL')
  await world.lab.until('the node tells of its relay', async () => /home relay.*cannot be reached/.test((await mover.ours.status()).Health.join()))
  await world.base.relay.start(world.base.address)
  await goesOn(world, exchange)
  await mover.space.sh('nft delete table inet cut')
  await world.lab.until('the node has nothing to complain of', async () => (await mover.ours.status()).Health.length === 0, 60_000)
}, 300_000)

flow('with a TUN device, node key, disco key and endpoints of a peer change, and ours', async (world) => {
  const [mover, real] = await Promise.all([moverOf(world, 'tun'), world.real('real')])
  await real.stop('SIGKILL')
  await real.start()
  await worksThere(world, mover, mover.socks, real, 30_000)
  const keyOf = async (): Promise<string | undefined> => Object.entries((await mover.ours.status()).Peer ?? {}).find(([, peer]) => peer.DNSName.startsWith('real.'))?.[0]
  const before = await keyOf()
  await real.up(world.headscale.url, await world.reusable('alice'), '--force-reauth')
  await world.lab.until('our node hears of the new key', async () => ![undefined, before].includes(await keyOf()))
  await worksThere(world, mover, mover.socks, real, 30_000)
  const [id, ip] = [await world.headscale.nodeId(mover.ours.name), await mover.ours.ip()]
  await pause(QUIET_MS)
  await mover.ours.up(world.headscale.url, await world.reusable('alice'), '--force-reauth')
  expect([await world.headscale.nodeId(mover.ours.name), await mover.ours.ip()]).toEqual([id, ip])
  if (!world.version.startsWith('1.92.')) await worksThere(world, mover, mover.socks, real, 40_000) // see `expectToWorkAnew`
  await mover.ours.stop('SIGKILL')
  await startAgain(world, mover.ours)
  await worksThere(world, mover, mover.socks, real, 40_000)
}, 300_000)

flow('with a TUN device, a start while headscale is away: plain programs go by the last map, and news come when it is back', async (world) => {
  const [mover, real] = await Promise.all([moverOf(world, 'tun'), world.real('real')])
  await worksThere(world, mover, mover.socks, real, 30_000)
  const mine = await mover.ours.ip()
  await mover.ours.stop()
  await world.headscale.stop('SIGKILL')
  await startAgain(world, mover.ours)
  expect(await mover.ours.ip()).toBe(mine)
  expect(await mover.space.ip('-4', 'route', 'show', 'table', '53')).toContain(`${await real.ip()} dev mw0`)
  await worksThere(world, mover, mover.socks, real, 40_000)
  await world.headscale.start(world.relayMap, undefined)
  await hears(world, mover.ours, 'back-tun')
  await worksThere(world, mover, mover.socks, real, 40_000)
}, 300_000)

for (const mode of MODES) {
  flow(`${CALLED[mode]}the link goes down and comes back with another address: the connection goes on`, async (world) => {
    const [mover, real] = await Promise.all([moverOf(world, mode), world.real('real')])
    await worksThere(world, mover, mover.socks, real, 20_000)
    const address = await addressOf(mover.space)
    const [other, gateway, device] = [address.replace(/\.2$/, '.3'), address.replace(/\.2$/, '.1'), `${mover.space.name}i`]
    const exchange = await Exchange.start(world.lab, mover.socks, await real.ip(), goesByRack(world.version))
    await mover.space.ip('link', 'set', device, 'down')
    await pause(1_000)
    await mover.space.ip('addr', 'flush', 'dev', device)
    await mover.space.ip('addr', 'add', `${other}/24`, 'dev', device)
    await mover.space.ip('link', 'set', device, 'up')
    await mover.space.ip('route', 'add', 'default', 'via', gateway)
    // What comes through our own forwarding died with the address; what is in the mesh did not.
    const socks = await socksOf(world.lab, mover.space)
    await worksThere(world, mover, socks, real, 30_000)
    await mover.space.ip('addr', 'add', `${address}/24`, 'dev', device)
    const [near, far] = [exchange.near.gotBytes, exchange.far.gotBytes]
    await world.lab.until('the old connection carries both ways', () => {
      exchange.check()
      return exchange.near.gotBytes - near > 50_000 && exchange.far.gotBytes - far > 50_000
    }, 60_000)
    expect(await exchange.finish(world.lab)).toBe(true)
  })
}

flow('UDP is blocked after a direct path was chosen: our packets arrive by relay within 5 s', async (world) => {
  const { lab } = world
  const space = await Space.make(lab, 'blocked', { url: world.headscale.url })
  const [ours, real] = await Promise.all([oursIn(world, space, 'blocked', 'tun'), world.real('real')])
  const ip = await real.ip()
  await lab.until('there is a direct path', async () => (await ours.run(['ping', '--c', '5', '--timeout', '2s', ip])).out.match(/ via (?!DERP)[^ ]*:\d+ in/) !== null)
  const arrivals = { last: 0, count: 0, longest: 0 }
  const sink = dgram.createSocket('udp4')
  sink.on('message', () => {
    const now = performance.now()
    if (arrivals.count > 0) arrivals.longest = Math.max(arrivals.longest, now - arrivals.last)
    arrivals.last = now
    arrivals.count += 1
  })
  await new Promise<void>((resolve) => sink.bind(0, '127.0.0.1', resolve))
  lab.onStop(() => void sink.close())
  const stream = streamOut(lab, space.name, ip, sink.address().port)
  await lab.until('datagrams arrive', () => arrivals.count > 20)
  arrivals.longest = 0
  const { RelayBytesOut } = (await ours.status()).Meshwright
  await cutUdp(space)
  const cut = performance.now()
  const by = arrivals.count
  await lab.until('datagrams arrive again', () => arrivals.count > by + 40 && performance.now() - arrivals.last < 500)
  expect(arrivals.longest).toBeLessThan(BY_RELAY_MS)
  expect(performance.now() - cut).toBeGreaterThan(1_000) // there was a gap to be closed
  expect((await ours.status()).Meshwright.RelayBytesOut).toBeGreaterThan(RelayBytesOut)
  await stream.stop()
})

for (const mode of MODES) {
  flow(`${CALLED[mode]}ten minutes of sleep, with every connection dead afterwards: all is back within 15 s`, async (world) => {
    const { lab } = world
    const [mover, real] = await Promise.all([moverOf(world, mode), world.real('real')])
    const socks = await socksOf(lab, mover.space)
    await worksThere(world, mover, socks, real, 30_000)
    const pid = mover.ours.pid ?? 0
    const ports = [...(await mover.space.sh(`ss -tnpH | grep pid=${pid}, | awk '{print $4}'`)).matchAll(/:(\d+)\n/g)].map(([, port]) => Number(port)).filter((port) => port !== 1055)
    expect(ports.length).toBeGreaterThan(1)
    process.kill(pid, 'SIGSTOP')
    try {
      // The networks between have forgotten them, and say nothing.
      const set = `{ ${ports.join(', ')} }`
      await mover.space.sh(`nft add table inet forgotten; for hook in input output; do nft "add chain inet forgotten $hook { type filter hook $hook priority 0; policy accept; }"; nft "add rule inet forgotten $hook tcp sport ${set} drop"; nft "add rule inet forgotten $hook tcp dport ${set} drop"; done`)
      writeFileSync(lab.at(`${mover.ours.name}.clock`), String(SLEEP_MS))
      await pause(1_000)
    } finally {
      process.kill(pid, 'SIGCONT')
    }
    const awake = performance.now()
    await worksThere(world, mover, socks, real, 30_000)
    await hears(world, mover.ours, `after-sleep-${mode}`)
    expect(performance.now() - awake).toBeLessThan(15_000)
    expect(mover.ours.log).toMatch(/slept for (599|60\d) s/)
    await mover.space.sh('nft delete table inet forgotten')
  })
}

flow('a start while headscale is away: with the last map; not with one that was changed, nor with a changed state file', async (world) => {
  const [real, ours] = await Promise.all([world.real('real'), world.ours()])
  await world.expectToWork(real, ours)
  const mine = await ours.ip()
  const [state, map] = [world.lab.at('ours', 'state.json'), world.lab.at('ours', 'state.json.map')]
  await ours.stop()
  await world.headscale.stop('SIGKILL')
  await startAgain(world, ours)
  await world.expectToWork(real, ours)
  expect(await ours.ip()).toBe(mine)
  await ours.stop()

  const good = readFileSync(map, 'utf8')
  // More for everybody, in the server's own words.
  const wider = good.replace('"SrcIPs":[', '"SrcIPs":["0.0.0.0/0",')
  expect(wider).not.toBe(good)
  writeFileSync(map, wider)
  await ours.start()
  await world.lab.until('it says so', () => /state\.json\.map was not written by this node, or was changed: it is not used/.test(ours.log))
  await pause(1_500)
  expect((await ours.status()).BackendState).not.toBe('Running')
  expect(await world.reaches(real, mine)).toBe(false)
  await world.headscale.start(world.relayMap, undefined)
  await world.lab.until('our node has a map again', async () => (await ours.status()).BackendState === 'Running', 40_000)
  await world.expectToWork(real, ours, 40_000)
  await ours.stop()
  expect(readFileSync(map, 'utf8')).not.toContain('0.0.0.0/0",')

  const keys = readFileSync(state, 'utf8')
  writeFileSync(state, keys.replace(/"_machinekey": "..../, '"_machinekey": "AAAA'))
  await expect(ours.start()).rejects.toThrow(/holds '_machinekey' in a form that cannot be read/)
  expect(readFileSync(state, 'utf8')).toContain('AAAA') // left as it was
  writeFileSync(state, keys)
  await startAgain(world, ours)
  await world.expectToWork(real, ours, 30_000)
})
