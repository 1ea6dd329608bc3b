import os from 'node:os'
import { setTimeout as pause } from 'node:timers/promises'
import { expect } from 'vitest'
import type { OurNode } from './lab-ours.ts'
import type { Tailscaled } from './lab-tailscaled.ts'
import { webThroughSocks } from './lab-web.ts'
import { quiet, type World, worldFlows, Worlds } from './lab-world.ts'

// What becomes of real nodes while they live: keys end and are extended, names and tags change, nodes and users go.
const worlds = new Worlds()
const flow = worldFlows('lifetime', worlds)

const EXPIRES_MS = 6_000
const QUIET_MS = 10_000
/** After devices of this computer have changed. */
const SETTLED_MS = 5_000
/** From the moment of expiry until nothing of the node gets through. */
const FELT_MS = 2_000

/** Proves that the key's end is known to both, and that no packet passes any more. */
async function expectCutOff(world: World, node: Tailscaled, ip: string, ours: OurNode): Promise<void> {
  await world.lab.until('it knows', async () => (await node.status()).BackendState === 'NeedsLogin')
  await world.lab.until('our node no longer reaches it', async () => !(await world.reaches(ours, ip)))
  expect(await world.reaches(node, await ours.ip(), world.web, 1_000)).toBe(false)
  expect(await ours.peer(node.name)).toMatchObject({ Expired: true })
}

flow('a key expires on time', async (world) => {
  const [node, ours] = [await world.join('short-lived'), await world.ours()]
  await world.expectToWork(node, ours)
  const [{ id }, ip] = [await world.listed('short-lived'), await node.ip()]
  const end = Date.now() + EXPIRES_MS
  await world.control.ask({ command: 'expireNode', id: Number(id), expiry: end })
  await world.lab.until('it knows when', async () => Math.abs(Date.parse((await node.status()).Self.KeyExpiry ?? '') - end) < 1_000)
  await pause(end - Date.now() - 2_000)
  expect(await world.reaches(ours, ip, world.web, 1_800)).toBe(true)
  await pause(end - Date.now())
  await world.lab.until('our node no longer reaches it', async () => !(await world.reaches(ours, ip)))
  expect(Date.now() - end).toBeLessThan(FELT_MS + 500)
  await expectCutOff(world, node, ip, ours)
  await node.up(world.control.url, await world.reusable('alice'), '--force-reauth')
  expect([(await world.listed('short-lived')).id, await node.ip()]).toEqual([id, ip])
  await world.expectToWork(node, ours)
  await node.stop()
})

flow('a key ended by the administrator, and extended again without a login', async (world) => {
  const [node, ours] = [await world.join('pardoned'), await world.ours()]
  await world.expectToWork(node, ours)
  const [{ id }, ip] = [await world.listed('pardoned'), await node.ip()]
  await world.control.cli('nodes', 'expire', '-i', id)
  await expectCutOff(world, node, ip, ours)
  await world.control.cli('nodes', 'expire', '-i', id, '--expiry', '1h')
  await world.lab.until('it runs again', async () => (await node.status()).BackendState === 'Running')
  await world.expectToWork(node, ours)
  await world.control.cli('nodes', 'expire', '-i', id)
  await expectCutOff(world, node, ip, ours)
  await world.control.cli('nodes', 'expire', '-i', id, '--disable')
  await world.lab.until('it runs again', async () => (await node.status()).BackendState === 'Running')
  expect((await world.listed('pardoned')).expiry).toBeNull()
  await world.expectToWork(node, ours)
  await node.stop()
})

flow('rename while connected', async (world) => {
  const [node, ours] = [await world.join('before'), await world.ours()]
  const { id } = await world.listed('before')
  await world.control.cli('nodes', 'rename', '-i', id, 'after')
  await world.lab.until('it knows its new name', async () => (await node.status()).Self.DNSName === 'after.lab.test.')
  await world.lab.until('our node knows its new name', async () => (await ours.peer('after')) !== undefined && (await ours.peer('before')) === undefined)
  await world.expectToWork(node, ours)
  await node.stop()
})

flow('two nodes of one name', async (world) => {
  const [first, ours] = [await world.join('twin'), await world.ours()]
  const second = await world.daemon('twin-two')
  await second.cli('up', '--login-server', world.control.url, '--hostname', 'twin', '--accept-dns=false', '--timeout', '25s', '--authkey', await world.reusable('bob'))
  expect((await world.control.nodes()).filter((node) => node.givenName.startsWith('twin')).map((node) => [node.givenName, node.user?.name])).toEqual([['twin', 'alice'], ['twin-1', 'bob']])
  expect([(await first.status()).Self.DNSName, (await second.status()).Self.DNSName]).toEqual(['twin.lab.test.', 'twin-1.lab.test.'])
  for (const [name, node] of [['twin', first], ['twin-1', second]] as const) {
    const ip = await node.ip()
    await world.lab.until(`our node knows ${name}`, async () => (await ours.peer(name))?.TailscaleIPs.includes(ip))
  }
  await expect(world.control.cli('nodes', 'rename', '-i', (await world.listed('twin-1')).id, 'twin')).rejects.toThrow(/twin already/)
  // The name that is free again is not given to one that has another.
  await world.control.cli('nodes', 'delete', '-i', (await world.listed('twin')).id, '--force')
  expect((await second.status()).Self.DNSName).toBe('twin-1.lab.test.')
  await Promise.all([first.stop(), second.stop()])
})

flow('tag while connected', async (world) => {
  const [node, ours] = [await world.join('changing'), await world.ours()]
  const { id } = await world.listed('changing')
  await world.control.cli('nodes', 'tag', '-i', id, '-t', 'tag:srv')
  await world.lab.until('it knows its tag', async () => (await node.status()).Self.Tags?.[0] === 'tag:srv')
  await world.lab.until('our node knows its tag', async () => (await ours.peer('changing'))?.Tags?.[0] === 'tag:srv')
  expect((await world.listed('changing')).user?.name).not.toBe('alice')
  await world.expectToWork(node, ours)
  await node.stop()
})

flow('delete while connected, and a new login', async (world) => {
  const [node, ours] = [await world.join('deleted'), await world.ours()]
  await world.expectToWork(node, ours)
  await world.control.cli('nodes', 'delete', '-i', (await world.listed('deleted')).id, '--force')
  await world.lab.until('our node sees it go', async () => (await ours.peer('deleted')) === undefined)
  expect(await world.reaches(node, await ours.ip(), world.web, 1_500)).toBe(false)
  await node.up(world.control.url, await world.reusable('bob'), '--force-reauth')
  await world.expectToWork(node, ours)
  await node.stop()
})

flow('a user is removed', async (world) => {
  const carol = await world.control.createUser('carol')
  const key = await world.control.authKey('-u', carol, '--reusable')
  const [node, ours] = [await world.daemon('of-carol'), await world.ours()]
  await node.up(world.control.url, key)
  await world.expectToWork(node, ours)
  await expect(world.control.cli('users', 'destroy', '-i', carol, '--force')).rejects.toThrow(/still has 1 node/)
  expect(await world.reaches(ours, await node.ip(), world.web, 2_000)).toBe(true)
  await world.control.cli('nodes', 'delete', '-i', (await world.listed('of-carol')).id, '--force')
  await world.control.cli('users', 'destroy', '-i', carol, '--force')
  await world.lab.until('our node sees it go', async () => (await ours.peer('of-carol')) === undefined)
  expect(await world.reaches(node, await ours.ip(), world.web, 1_500)).toBe(false)
  const again = await node.run(node.upArguments(world.control.url, ['--authkey', key, '--force-reauth']), 40_000)
  // 1.84 and 1.88 may take for success that they were running a moment ago.
  if (again.status !== 0) expect(again.err).toMatch(/auth.?key/i)
  // A refused login leaves its own state as it was; what counts is that nobody knows it.
  expect(await world.reaches(node, await ours.ip(), world.web, 1_500)).toBe(false)
  expect(await world.control.node('of-carol')).toBeUndefined()
  await node.stop()
})

flow('an address is given to nobody else while its node lives', async (world) => {
  const [ours, leaver] = [await world.ours(), await world.join('leaver')]
  const { id, ipAddresses } = await world.listed('leaver')
  await leaver.cli('logout')
  // What is taken is known to a server that was killed and started again, too.
  await world.control.stop('SIGKILL')
  await world.control.start(world.base.relayMap)
  const newcomers = await Promise.all([world.join('newcomer-1'), world.join('newcomer-2', 'bob')])
  const all = (await world.control.nodes()).flatMap((node) => node.ipAddresses)
  expect(new Set(all).size).toBe(all.length)
  await leaver.up(world.control.url, await world.reusable('alice'), '--reset') // 1.80 may hold settings of its own making after a logout
  expect([(await world.listed('leaver')).id, (await world.listed('leaver')).ipAddresses, (await leaver.status()).TailscaleIPs]).toEqual([id, ipAddresses, ipAddresses])
  for (const node of [leaver, ...newcomers]) await world.expectToWork(node, ours)
  await Promise.all([leaver, ...newcomers].map((node) => node.stop()))
})

flow('the control server is killed and started again while transfers go on', async (world) => {
  const [node, ours] = [await world.join('steady'), await world.ours()]
  await world.expectToWork(node, ours)
  const lines = 120 // 6 seconds
  const drip = { path: `/drip/${lines}`, timeoutMs: 20_000 }
  const done = Promise.all([webThroughSocks(node.socksPort, await ours.ip(), world.web, drip), webThroughSocks(ours.socksPort, await node.ip(), world.web, drip)])
  done.catch(() => undefined)
  await world.control.stop('SIGKILL')
  await pause(1_500)
  await world.control.start(world.base.relayMap)
  for (const { body } of await done) expect(body.toString().trimEnd().split('\n').length).toBe(lines)
  const back = performance.now()
  await world.lab.until('both are online again', async () => (await world.control.node('steady'))?.online === true && (await world.control.node('ours'))?.online === true, 30_000)
  expect(performance.now() - back).toBeLessThan(20_000)
  // Nothing was lost, and the new server is listened to.
  const late = await world.join('late')
  await world.expectToWork(late, ours)
  await world.lab.until('it hears of the newcomer', async () => (await node.peer('late')) !== undefined)
  expect(await world.health(node)).toEqual([])
  await Promise.all([node.stop(), late.stop()])
})

flow('home relays outlive a killed control server: a newcomer knows that of a node that is away, and a deleted node has its own at once when it is back', async (world) => {
  const [away, gone] = await Promise.all([world.join('away'), world.join('gone')])
  const relay = async (from: Tailscaled, name: string): Promise<void> => void (await world.lab.until(`${from.name} knows the home relay of ${name}`, async () => (await from.peer(name))?.Relay === 'ours'))
  await Promise.all([relay(gone, 'away'), relay(away, 'gone')])
  await away.stop('SIGKILL')
  await world.control.cli('nodes', 'delete', '-i', (await world.listed('gone')).id, '--force')
  await world.control.stop('SIGKILL')
  await world.control.start(world.base.relayMap)
  const newcomer = await world.join('newcomer')
  await relay(newcomer, 'away')
  // Clients do not tell it again.
  await gone.up(world.control.url, await world.reusable('alice'), '--force-reauth')
  await relay(newcomer, 'gone')
  await Promise.all([gone.stop(), newcomer.stop()])
})

flow('status shows no warning at any moment of ten quiet seconds', async (world) => {
  const [node, ours] = [await world.join('quiet'), await world.ours()]
  await world.expectToWork(node, ours)
  await world.lab.until('it has nothing to complain of', async () => (await world.health(node)).length === 0)
  const complaints = new Set<string>()
  const networks = (): string => JSON.stringify(os.networkInterfaces())
  let [known, changedAt] = [networks(), -Infinity]
  for (const end = performance.now() + QUIET_MS; performance.now() < end; await pause(200)) {
    const lines = [...(await world.health(node)), ...(await ours.status()).Health]
    // What a person reads; the line for a release's own nature is known.
    lines.push(...quiet(/# Health check:\n([^]*)/.exec(await node.cli('status'))?.[1]?.match(/^#     - .*$/gm) ?? []))
    // Devices of other labs come and go, and nodes look for their ways anew: that is no quiet moment.
    if (networks() !== known) [known, changedAt] = [networks(), performance.now()]
    if (performance.now() - changedAt > SETTLED_MS) for (const line of lines) complaints.add(line)
  }
  expect([...complaints]).toEqual([])
  await node.stop()
})
