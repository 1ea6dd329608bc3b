import { readFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import { expect } from 'vitest'
import { headscaleFlows, type HeadscaleWorld, HeadscaleWorlds } from './lab-headscale-world.ts'
import { OurNode } from './lab-ours.ts'
import type { Tailscaled } from './lab-tailscaled.ts'

// How our node comes in at a real headscale, goes, and comes back, beside a real client that must reach it each time.
const worlds = new HeadscaleWorlds({ lines: ['tuning: {batch_change_delay: 20ms, node_store_batch_timeout: 20ms}'] })
const flow = headscaleFlows('login', worlds)
const EXPIRES_MS = 6_000
/** For flows that start programs or wait often, on a busy computer. */
const SLOW_MS = 240_000
/** headscale 0.29.3 may lose a new key when other news of the same node come within half a second. */
const QUIET_MS = 1_000
/** A command that waits tells what it waits for within this, on a busy computer too. */
const TOLD_MS = 3_000

function peerOf(world: HeadscaleWorld): Promise<Tailscaled> {
  return world.real('real')
}

/** A node of ours, logged in with a key of its own. */
async function loggedIn(world: HeadscaleWorld, name: string, ...flags: readonly string[]): Promise<OurNode> {
  const [node, key] = await Promise.all([world.ourDaemon(name), world.reusable('alice')])
  await node.up(world.headscale.url, key, ...flags)
  return node
}

async function state(world: HeadscaleWorld, node: OurNode | Tailscaled, wanted: string): Promise<void> {
  await world.lab.until(`${node.name} is ${wanted}`, async () => (await node.status()).BackendState === wanted)
}

async function refused(world: HeadscaleWorld, node: OurNode, key: string): Promise<string> {
  const { status, err } = await node.run(['up', '--login-server', world.headscale.url, '--hostname', node.name, '--timeout', '60s', '--auth-key', key], 70_000)
  expect(status).not.toBe(0)
  expect(await world.headscale.node(node.name)).toBeUndefined()
  return err
}

/** The login URL of a command that waits. */
async function loginUrl(world: HeadscaleWorld, node: OurNode): Promise<string> {
  const url = await world.lab.until('the login URL is shown', async () => (await node.status()).AuthURL || undefined)
  expect(url.startsWith(`${world.headscale.url}/register/`)).toBe(true)
  return url
}

async function register(world: HeadscaleWorld, url: string, user: string): Promise<void> {
  await world.headscale.cli('auth', 'register', '--auth-id', url.slice(url.lastIndexOf('/') + 1), '-u', user)
}

flow('an auth key: plain, and a one-off key a second time', async (world) => {
  const [real, node, second, key] = await Promise.all([peerOf(world), world.ourDaemon('plain'), world.ourDaemon('late'), world.key('alice')])
  await node.up(world.headscale.url, key)
  const status = await node.status()
  expect([status.BackendState, status.Self.DNSName, status.Health]).toEqual(['Running', 'plain.lab.test.', []])
  const listed = await world.headscale.node('plain')
  expect([listed?.ip_addresses, listed?.user?.name, listed?.online]).toEqual([status.TailscaleIPs, 'alice', true])
  await world.expectToWork(node, real)
  expect(await refused(world, second, key)).toMatch(/auth.?key.*(already|used)/i)
  await Promise.all([node.stop(), second.stop()])
}, SLOW_MS)

flow('a wrong and an expired auth key are refused in the words of the server', async (world) => {
  const [node, short] = await Promise.all([world.ourDaemon('refused'), world.headscale.cli('preauthkeys', 'create', '-u', '1', '-e', '1s')])
  expect(await refused(world, node, 'hskey-auth-nonsense')).toMatch(/auth.?key/i)
  await pause(1_000)
  expect(await refused(world, node, short)).toMatch(/auth.?key.*expired/i)
  expect((await node.status()).BackendState).not.toBe('Running')
  // The same daemon comes in once the key is right.
  await node.up(world.headscale.url, await world.reusable('alice'))
  await world.expectToWork(node, await peerOf(world))
  expect(node.log).not.toContain('hskey-auth-nonsense')
  await node.stop()
})

flow('an auth key with tags', async (world) => {
  const [real, node, key] = await Promise.all([peerOf(world), world.ourDaemon('tagged'), world.key(undefined, '--tags', 'tag:srv')])
  await node.up(world.headscale.url, key)
  expect([(await node.status()).Self.Tags, (await world.headscale.node('tagged'))?.tags]).toEqual([['tag:srv'], ['tag:srv']])
  await world.expectToWork(node, real)
  expect((await real.peer('tagged'))?.Tags).toEqual(['tag:srv'])
  await node.stop()
})

flow('an ephemeral node is gone when its daemon ends', async (world) => {
  const [real, key] = await Promise.all([peerOf(world), world.key('alice', '--ephemeral')])
  const node = await world.ourDaemon('passing', ['--state', 'mem:'])
  await node.up(world.headscale.url, key)
  await world.expectToWork(node, real)
  await node.stop()
  await world.lab.until('headscale forgot it', async () => (await world.headscale.node('passing')) === undefined)
  await world.lab.until('the real client sees it gone', async () => (await real.peer('passing')) === undefined)
})

flow('a login URL, registered by the operator', async (world) => {
  const [real, node] = await Promise.all([peerOf(world), world.ourDaemon('by-url')])
  const login = node.run(['up', '--login-server', world.headscale.url, '--hostname', 'by-url', '--timeout', '40s'], 50_000)
  const url = await loginUrl(world, node)
  expect(await (await fetch(url)).text()).toContain('auth register')
  await register(world, url, 'bob')
  const { status, err } = await login
  expect([status, err]).toEqual([0, expect.stringContaining('Success.')])
  expect(err).toContain(url)
  expect((await world.headscale.node('by-url'))?.user?.name).toBe('bob')
  await world.expectToWork(node, real)
  await node.stop()
})

flow('restart from state, after SIGTERM and after SIGKILL: the same node, without a key', async (world) => {
  const [real, node] = await Promise.all([peerOf(world), loggedIn(world, 'restarting')])
  await world.expectToWork(node, real)
  const [before, ip] = [await world.headscale.node('restarting'), await node.ip()]
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    await node.stop(signal)
    await node.start()
    await state(world, node, 'Running')
    const after = await world.headscale.node('restarting')
    expect([after?.id, after?.node_key, await node.ip()]).toEqual([before?.id, before?.node_key, ip])
    await world.expectToWork(node, real)
  }
  await node.stop()
}, SLOW_MS)

flow('logout and back', async (world) => {
  const [real, node] = await Promise.all([peerOf(world), loggedIn(world, 'leaving')])
  await world.expectToWork(node, real)
  const before = await world.headscale.node('leaving')
  await node.cli('logout')
  await state(world, node, 'NeedsLogin')
  expect((await world.headscale.node('leaving'))?.expiry?.seconds ?? Infinity).toBeLessThanOrEqual(Date.now() / 1000)
  await world.lab.until('the real client sees it go', async () => {
    const peer = await real.peer('leaving')
    return peer === undefined || peer.Expired === true
  })
  expect(readFileSync(world.lab.at('leaving', 'state.json'), 'utf8')).not.toMatch(/privkey:(?!0{64})[0-9a-f]{64}.*"NodeID"/)
  await node.stop()
  await node.start()
  await state(world, node, 'NeedsLogin')
  await node.up(world.headscale.url, await world.reusable('alice'))
  const after = await world.headscale.node('leaving')
  expect([after?.id, after?.ip_addresses]).toEqual([before?.id, before?.ip_addresses])
  await world.expectToWork(node, real)
  await node.stop()
})

flow('a key that ends: on time, by the operator, and extended again without a login', async (world) => {
  const [real, node] = await Promise.all([peerOf(world), loggedIn(world, 'short-lived')])
  await world.expectToWork(node, real)
  const [id, ip] = [await world.headscale.nodeId('short-lived'), await node.ip()]
  const gone = async (): Promise<void> => {
    await state(world, node, 'NeedsLogin')
    await world.lab.until('the real client no longer reaches it', async () => !(await world.reaches(real, ip)))
    expect(await world.reaches(node, await real.ip())).toBe(false)
  }
  const end = Date.now() + EXPIRES_MS
  await world.headscale.cli('nodes', 'expire', '-i', id, '-e', new Date(end).toISOString())
  await pause(1_500)
  expect((await node.status()).BackendState).toBe('Running')
  await gone()
  expect(Date.now()).toBeGreaterThan(end - 1_000)
  await world.headscale.cli('nodes', 'expire', '-i', id, '-e', new Date(Date.now() + 3_600_000).toISOString())
  await state(world, node, 'Running')
  await world.expectToWork(node, real)
  await world.headscale.cli('nodes', 'expire', '-i', id)
  await gone()
  await node.up(world.headscale.url, await world.reusable('alice'), '--force-reauth')
  expect([await world.headscale.nodeId('short-lived'), await node.ip()]).toEqual([id, ip])
  await world.expectToWorkAnew(node, real)
  await node.stop()
}, SLOW_MS)

flow('--force-reauth while it runs: another node key, the same node; by auth key and by login URL', async (world) => {
  const [real, node] = await Promise.all([peerOf(world), loggedIn(world, 'renewing')])
  await world.expectToWork(node, real)
  const before = await world.headscale.node('renewing')
  await pause(QUIET_MS)
  await node.up(world.headscale.url, await world.reusable('alice'), '--force-reauth')
  const after = await world.headscale.node('renewing')
  expect([after?.id, after?.ip_addresses, after?.node_key === before?.node_key]).toEqual([before?.id, before?.ip_addresses, false])
  await world.expectToWorkAnew(node, real)
  const login = node.run(['up', '--login-server', world.headscale.url, '--hostname', 'renewing', '--timeout', '40s', '--force-reauth'], 50_000)
  const url = await loginUrl(world, node)
  await pause(QUIET_MS)
  await register(world, url, 'alice')
  expect((await login).status).toBe(0)
  const last = await world.headscale.node('renewing')
  expect([last?.id, last?.ip_addresses, last?.node_key === after?.node_key]).toEqual([before?.id, before?.ip_addresses, false])
  await world.expectToWorkAnew(node, real)
  await node.stop()
})

// The last: the server is taken away under everybody.
flow('the server is away at the start: a first login, and a node with state, go on when it comes', async (world) => {
  const [real, known, fresh, key] = await Promise.all([peerOf(world), loggedIn(world, 'known'), world.ourDaemon('fresh'), world.reusable('alice')])
  await world.expectToWork(known, real)
  const ip = await known.ip()
  await known.stop()
  await world.headscale.stop('SIGKILL')
  await known.start()
  const login = fresh.run(['up', '--login-server', world.headscale.url, '--hostname', 'fresh', '--timeout', '60s', '--auth-key', key], 70_000)
  await world.lab.until('the health line names the server', async () => (await known.status()).Health.some((line) => line.includes('control')))
  // The command has begun, and has had time to say so: on a busy computer it is not the first of these to get anywhere.
  await world.lab.until('the login does not reach the server', async () => (await fresh.status()).Health.some((line) => line.includes('cannot reach')))
  await pause(TOLD_MS)
  await world.headscale.start(world.relayMap, undefined)
  const { status, err } = await login
  expect([status, err]).toEqual([0, expect.stringContaining('cannot reach')])
  await state(world, known, 'Running')
  expect(await known.ip()).toBe(ip)
  await world.expectToWork(fresh, real, 40_000)
  await world.expectToWork(known, real, 40_000)
  await world.lab.until('nothing is complained of', async () => (await known.status()).Health.length === 0)
  await Promise.all([known.stop(), fresh.stop()])
}, SLOW_MS)
