import { setTimeout as pause } from 'node:timers/promises'
import { expect } from 'vitest'
import type { OurNode } from './lab-ours.ts'
import type { Tailscaled } from './lab-tailscaled.ts'
import { type Drip, openDrip, opensThroughSocks, startWeb, webThroughSocks } from './lab-web.ts'
import { OPEN_POLICY } from './lab-fleet.ts'
import { type World, worldFlows, Worlds } from './lab-world.ts'

// What a policy at our control server means to packets of real nodes. Every change is made while all are connected and stay so.
const worlds = new Worlds({ policy: null })
const flow = worldFlows('access', worlds)

/** Peers that were gone and are back need a new handshake; a lost one is repeated by WireGuard after 5 s, or after 15 s of silence. */
const RESTORED_MS = 40_000
const FELT_MS = 2_000
const CHANGES = 100
/** Between two connections that are tried. */
const PROBE_MS = 50
/** No connection opens for so long: they are denied. */
const SILENCE_MS = 300

interface Three {
  readonly real: Tailscaled
  readonly ours: OurNode
  readonly other: Tailscaled
  readonly ip: Readonly<Record<'real' | 'ours' | 'other', string>>
}

/** A real node and one of ours of alice's, another real one of bob's. */
async function three(world: World): Promise<Three> {
  const [real, ours, other] = await Promise.all([world.real('real'), world.ours(), world.real('other', 'bob')])
  const [a, b, c] = await Promise.all([real.ip(), ours.ip(), other.ip()])
  return { real, ours, other, ip: { real: a, ours: b, other: c } }
}

/** With everything allowed and working, whatever earlier flows left. */
async function openThree(world: World): Promise<Three> {
  const all = await three(world)
  await world.control.setPolicy(OPEN_POLICY)
  await world.expectToWork(all.real, all.ours, RESTORED_MS)
  await world.expectToWork(all.other, all.ours, RESTORED_MS)
  await world.expectToWork(all.real, all.other, RESTORED_MS)
  return all
}

/**
 * Begins a connection every moment until they open, or no longer do; gives the milliseconds from `since` to when that began to be so. One
 * beside the other: a connection that was begun too early is repeated by TCP no sooner than after a second.
 */
async function felt(world: World, since: number, from: OurNode | Tailscaled, to: string, port: number, wanted: boolean): Promise<number> {
  let openedAt = 0
  /** When the connections after the last that opened were begun. */
  let silent: number[] = []
  for (;;) {
    const begun = performance.now()
    silent.push(begun)
    void opensThroughSocks(from.socksPort, to, port, 5 * FELT_MS).then((open) => {
      if (!open) return
      openedAt = openedAt === 0 ? performance.now() : openedAt
      silent = silent.filter((each) => each > begun)
    })
    await pause(PROBE_MS)
    if (wanted && openedAt > 0) return openedAt - since
    const [first = begun] = silent
    if (!wanted && silent.length > 0 && performance.now() - first > SILENCE_MS) return first - since
    if (begun - since > 5 * FELT_MS) throw new Error(`${from.name} ${wanted ? 'does not reach' : 'still reaches'} ${to}:${port} after ${5 * FELT_MS} ms\n${world.lab.tails()}`)
  }
}

// The first of all: no policy was ever set.
flow('everything is denied without a policy that allows it', async (world) => {
  const { real, ours, other, ip } = await three(world)
  const denied = async (): Promise<void> => {
    for (const [from, to] of [[real, ip.ours], [ours, ip.real], [other, ip.real], [real, ip.other]] as const) expect(await world.reaches(from, to)).toBe(false)
    // Who may reach nobody does not even hear of anybody.
    expect([(await real.status()).Peer ?? {}, (await ours.status()).Peer ?? {}]).toEqual([{}, {}])
  }
  await denied()
  await world.control.setPolicy({ acls: [] })
  await denied()
  await world.control.setPolicy(OPEN_POLICY)
  await world.expectToWork(real, ours)
  await world.expectToWork(real, other)
  await world.control.setPolicy({ acls: [] })
  await world.lab.until('all is denied again', async () => !(await world.reaches(real, ip.ours)) && !(await world.reaches(ours, ip.real)) && !(await world.reaches(other, ip.real)), 3_000)
  await world.lab.until('nobody hears of anybody', async () => Object.keys((await real.status()).Peer ?? {}).length === 0, 3_000)
})

flow('a change of policy is felt by packets within 2 s in 99 of 100 cases, without a reconnect', async (world) => {
  const { real, ours, ip } = await openThree(world)
  const secret = await startWeb(world.lab, 'secret')
  const allow = (...ports: readonly number[]): unknown => ({ acls: [{ action: 'accept', src: ['alice@'], dst: [`alice@:${ports.join(',')}`] }] })
  await world.control.setPolicy(allow(world.web))
  const { polls } = real
  expect(polls).toBeGreaterThan(0)
  // These go on all the time: nothing of them is lost.
  const drips = [await openDrip(real.socksPort, ip.ours, world.web, 100_000), await openDrip(ours.socksPort, ip.real, world.web, 100_000)]
  const times: number[] = []
  for (let change = 0; change < CHANGES; change += 1) {
    const allowed = change % 2 === 0
    const begun = performance.now()
    await world.control.setPolicy(allowed ? allow(world.web, secret) : allow(world.web))
    times.push(...(await Promise.all([felt(world, begun, real, ip.ours, secret, allowed), felt(world, begun, ours, ip.real, secret, allowed)])))
  }
  times.sort((a, b) => a - b)
  expect(times.length).toBe(2 * CHANGES)
  expect(times[Math.ceil(times.length * 0.99) - 1]).toBeLessThan(FELT_MS)
  expect(drips.map((drip) => drip.ended)).toEqual([undefined, undefined])
  for (const drip of drips) expect(performance.now() - drip.lastAt).toBeLessThan(1_000)
  expect(real.polls).toBe(polls)
  for (const drip of drips) drip.close()
}, 400_000)

flow('access that is taken away stops the packets of running connections', async (world) => {
  const { real, ours, other, ip } = await openThree(world)
  const ways = [[real, ip.ours], [ours, ip.real], [real, ip.other], [other, ip.ours]] as const
  const drips = await Promise.all(ways.map(([from, to]) => openDrip(from.socksPort, to, world.web, 100_000)))
  const [own, withBob] = [drips.slice(0, 2), drips.slice(2)]
  await pause(500)
  /** After what was done just now these have stopped in time, and nothing more comes. */
  const stopped = async (which: readonly Drip[], taken: number): Promise<void> => {
    await pause(FELT_MS)
    const lines = which.map((drip) => drip.lines)
    await pause(1_000)
    expect(which.map((drip) => drip.lines)).toEqual(lines)
    for (const drip of which) expect(drip.lastAt - taken).toBeLessThan(FELT_MS)
  }
  // Of bob alone: alice's own go on all the time.
  const [bob, before] = [performance.now(), own.map((drip) => drip.lines)]
  await world.control.setPolicy({ acls: [{ action: 'accept', src: ['alice@'], dst: ['alice@:*'] }] })
  await stopped(withBob, bob)
  for (const [i, drip] of own.entries()) expect(drip.lines - (before[i] ?? 0)).toBeGreaterThan(30) // a line each 50 ms, for 3 s
  const all = performance.now()
  await world.control.setPolicy({ acls: [] })
  await stopped(own, all)
  for (const drip of drips) drip.close()
})

// Filters of real clients look at the first packet of a connection alone (tailscale/tailscale:wgengine/filter/filter.go), and ours agrees with them.
flow('a port that is taken away while another stays: no new connection within 2 s, one that runs goes on; without any port it stops', async (world) => {
  const { real, ours, ip } = await openThree(world)
  const secret = await startWeb(world.lab, 'secret')
  const ways = [[real, ip.ours], [ours, ip.real]] as const
  const drips = await Promise.all(ways.map(([from, to]) => openDrip(from.socksPort, to, secret, 100_000)))
  const before = drips.map((drip) => drip.lines)
  const taken = performance.now()
  await world.control.setPolicy({ acls: [{ action: 'accept', src: ['alice@'], dst: [`alice@:${world.web}`] }] })
  for (const ms of await Promise.all(ways.map(([from, to]) => felt(world, taken, from, to, secret, false)))) expect(ms).toBeLessThan(FELT_MS)
  await pause(FELT_MS)
  for (const [i, drip] of drips.entries()) expect([drip.ended, drip.lines - (before[i] ?? 0) > 20]).toEqual([undefined, true])
  const all = performance.now()
  await world.control.setPolicy({ acls: [] })
  await pause(FELT_MS)
  for (const drip of drips) expect(drip.lastAt - all).toBeLessThan(FELT_MS)
  for (const drip of drips) drip.close()
})

flow('a port that is forbidden fails, and works once it is allowed', async (world) => {
  const { real, ours, other, ip } = await openThree(world)
  const secret = await startWeb(world.lab, 'secret')
  await world.control.setPolicy({ acls: [{ action: 'accept', src: ['alice@'], dst: [`alice@:${world.web}`] }] })
  for (const [from, to] of [[real, ip.ours], [ours, ip.real]] as const) {
    await world.lab.until('the port is closed', async () => !(await world.reaches(from, to, secret)), 3_000)
    expect((await webThroughSocks(from.socksPort, to, world.web)).body.toString()).toBe('hello')
  }
  expect(await world.lab.until('bob sees nothing of alice', async () => !(await other.peer('ours')) && !(await ours.peer('other')), 3_000)).toBe(true)
  await world.control.setPolicy({ acls: [{ action: 'accept', src: ['alice@'], dst: [`alice@:${world.web},${secret}`] }] })
  for (const [from, to] of [[real, ip.ours], [ours, ip.real]] as const) await world.lab.until('the port is open', () => world.reaches(from, to, secret), 3_000)
  await world.control.setPolicy(OPEN_POLICY)
  await world.expectToWork(real, other, RESTORED_MS)
  await world.expectToWork(other, ours, RESTORED_MS)
})

flow('grants give capabilities, which whois shows', async (world) => {
  const { real, ours, other, ip } = await openThree(world)
  const cap = 'example.com/cap/painter'
  const grants = [
    { src: ['*'], dst: ['*'], ip: ['*'] },
    { src: ['bob@'], dst: ['alice@'], app: { [cap]: [{ colours: ['red', 'blue'] }, { may: 'paint' }] } },
  ]
  const capsOf = async (node: OurNode | Tailscaled, address: string): Promise<unknown> => (JSON.parse(await node.cli('whois', '--json', address)) as { CapMap?: Readonly<Record<string, unknown>> | null }).CapMap?.[cap]
  await world.control.setPolicy({ grants })
  const values = [{ colours: ['red', 'blue'] }, { may: 'paint' }]
  for (const node of [real, ours]) await world.lab.until(`${node.name} knows what bob may`, async () => (await capsOf(node, ip.other)) !== undefined)
  expect([await capsOf(real, ip.other), await capsOf(ours, ip.other)]).toEqual([values, values])
  // Nobody else has it, and the other way round it means nothing.
  expect([await capsOf(real, ip.ours), await capsOf(ours, ip.real), await capsOf(other, ip.real)]).toEqual([undefined, undefined, undefined])
  await world.control.setPolicy({ grants: grants.slice(0, 1) })
  await world.lab.until('it is taken away', async () => (await capsOf(real, ip.other)) === undefined && (await capsOf(ours, ip.other)) === undefined)
})

flow('autogroup:self: a user reaches the own devices only', async (world) => {
  const { real, ours, other, ip } = await openThree(world)
  const second = await world.real('second', 'bob')
  await world.control.setPolicy({ acls: [{ action: 'accept', src: ['autogroup:member'], dst: ['autogroup:self:*'] }] })
  await world.lab.until('others are out of reach', async () => !(await world.reaches(other, ip.real)) && !(await world.reaches(real, ip.other)) && !(await world.reaches(ours, ip.other)), 3_000)
  await world.expectToWork(real, ours)
  await world.expectToWork(other, second, RESTORED_MS)
  expect(Object.values((await real.status()).Peer ?? {}).map((peer) => peer.DNSName)).toEqual(['ours.lab.test.'])
})

flow('a policy that does not compile changes nothing', async (world) => {
  const { real, ours, other, ip } = await openThree(world)
  await world.control.setPolicy({ acls: [{ action: 'accept', src: ['alice@'], dst: ['alice@:*'] }] })
  await world.lab.until('bob is out', async () => !(await world.reaches(other, ip.real)), 3_000)
  const before = await world.control.ask({ command: 'getPolicy' })
  await expect(world.control.setPolicy({ acls: [{ action: 'accept', src: ['group:nobody'], dst: ['*:*'] }] })).rejects.toThrow(/group:nobody/)
  await expect(world.control.ask({ command: 'setPolicy', policy: '{"acls": [' })).rejects.toThrow()
  await expect(world.control.setPolicy({ acls: [{ action: 'accept', src: ['*'], dst: ['*:*'] }], tests: [{ src: 'bob@', deny: ['alice@:80'] }] })).rejects.toThrow()
  expect(await world.control.ask({ command: 'getPolicy' })).toEqual(before)
  expect([await world.reaches(real, ip.ours, world.web, 5_000), await world.reaches(ours, ip.real, world.web, 5_000), await world.reaches(other, ip.real)]).toEqual([true, true, false])
})

flow('status shows no warning at a quiet moment', async (world) => {
  const { real, ours, other } = await openThree(world)
  for (const node of [real, other]) expect(await world.health(node)).toEqual([])
  expect((await ours.status()).Health).toEqual([])
})
