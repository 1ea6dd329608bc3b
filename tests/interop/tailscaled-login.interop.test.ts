import { setTimeout as pause } from 'node:timers/promises'
import { expect } from 'vitest'
import { MachinePublicKey } from '@meshwright/crypto'
import { LightClient } from '../load/light-client.ts'
import { type World, worldFlows, Worlds } from './lab-world.ts'
import type { Tailscaled } from './lab-tailscaled.ts'

// How real tailscaled comes in at our control server, goes, and comes back.

/** The shortest time that our server takes for `node.ephemeral.inactivity_timeout`. */
const EPHEMERAL_GRACE_S = 65
const RIVALS = 99
const worlds = new Worlds({ lines: [`node: {ephemeral: {inactivity_timeout: ${EPHEMERAL_GRACE_S}s}}`] })
const flow = worldFlows('login', worlds)

/** When the ephemeral node of each world was killed: its time runs while the other flows do their work. */
const ephemeralEnded = new Map<World, number>()

flow('an auth key that is reusable', async (world) => {
  const [ours, first, second] = await Promise.all([world.ours(), world.join('first'), world.join('second'), leaveGuestBehind(world)])
  await world.expectToWork(first, ours)
  await world.expectToWork(second, ours)
  expect((await world.control.nodes()).filter((node) => node.online && node.user?.name === 'alice').map((node) => node.givenName).sort()).toEqual(['first', 'ours', 'second'])
  const status = await first.status()
  expect([status.BackendState, status.TailscaleIPs]).toEqual(['Running', (await world.listed('first')).ipAddresses])
  expect(await world.health(first)).toEqual([])
  await Promise.all([first.stop(), second.stop()])
})

async function leaveGuestBehind(world: World): Promise<void> {
  const guest = await world.daemon('guest')
  await guest.up(world.control.url, await world.key('bob', '--ephemeral'))
  await world.lab.until('the guest is online', async () => (await world.control.node('guest'))?.online)
  expect((await world.listed('guest')).ephemeral).toBe(true)
  await guest.stop('SIGKILL')
  ephemeralEnded.set(world, performance.now())
}

async function refusedWith(world: World, node: Tailscaled, key: string): Promise<string> {
  const { status, err, ms } = await node.run(node.upArguments(world.control.url, ['--authkey', key]), 40_000)
  expect(status).not.toBe(0)
  expect(ms).toBeLessThan(10_000)
  expect(await world.control.node(node.name)).toBeUndefined()
  return err
}

flow('an auth key that is one-off', async (world) => {
  const key = await world.key('alice')
  const [first, second] = await Promise.all([world.daemon('one-off'), world.daemon('one-off-again')])
  await first.up(world.control.url, key)
  await world.expectToWork(first, await world.ours())
  expect(await refusedWith(world, second, key)).toMatch(/auth.?key.*(already|used)/i)
  await Promise.all([first.stop(), second.stop()])
})

flow('an auth key that is expired, revoked or unknown', async (world) => {
  const made = (expiration: number): Promise<{ readonly id: string; readonly key: string }> =>
    world.control.ask({ command: 'createAuthKey', userId: Number(world.users.alice), reusable: true, expiration }).then((answer) => answer['preAuthKey'] as { readonly id: string; readonly key: string }) // headscale's form
  const [{ key: short }, { id, key: revoked }, node] = [await made(Date.now() + 1_000), await made(Date.now() + 60_000), await world.daemon('refused')]
  await world.control.cli('preauthkeys', 'expire', '-i', id)
  await pause(1_000)
  expect(await refusedWith(world, node, short)).toMatch(/auth.?key.*expired/i)
  expect(await refusedWith(world, node, revoked)).toMatch(/auth.?key.*(revoked|expired)/i)
  expect(await refusedWith(world, node, 'hskey-auth-nonsense')).toMatch(/auth.?key/i)
  await node.stop()
})

flow('an auth key with tags', async (world) => {
  const [node, ours] = [await world.daemon('tagged'), await world.ours()]
  await node.up(world.control.url, await world.control.authKey('--tags', 'tag:srv'))
  expect((await world.listed('tagged')).tags).toEqual(['tag:srv'])
  expect((await node.status()).Self.Tags).toEqual(['tag:srv'])
  await world.expectToWork(node, ours)
  expect((await ours.peer('tagged'))?.Tags).toEqual(['tag:srv'])
  const whois = JSON.parse(await ours.cli('whois', '--json', await node.ip())) as { Node: { Tags: readonly string[] }; UserProfile: { LoginName: string } }
  expect([whois.Node.Tags, whois.UserProfile.LoginName]).toEqual([['tag:srv'], 'tagged-devices'])
  await node.stop()
})

flow('a login URL, approved', async (world) => {
  const node = await world.daemon('by-url')
  const login = node.run(node.upArguments(world.control.url), 40_000)
  const url = await world.lab.until('the login URL is shown', async () => (await node.status()).AuthURL || undefined)
  expect(url.startsWith(`${world.control.url}/register/`)).toBe(true)
  expect(await (await fetch(url)).text()).toContain('auth register')
  await world.control.cli('auth', 'register', '--auth-id', url.slice(url.lastIndexOf('/') + 1), '-u', 'bob')
  const { status, err } = await login
  expect([status, err]).toEqual([0, expect.stringContaining('Success.')])
  expect((await world.listed('by-url')).user?.name).toBe('bob')
  const shown = await node.status()
  expect(shown.User?.[String(shown.Self.UserID)]?.LoginName).toBe('bob')
  await world.expectToWork(node, await world.ours())
  await node.stop()
})

flow('a login URL, rejected', async (world) => {
  const node = await world.daemon('rejected')
  const login = node.run(node.upArguments(world.control.url), 40_000)
  const url = await world.lab.until('the login URL is shown', async () => (await node.status()).AuthURL || undefined)
  await world.control.cli('auth', 'reject', '--auth-id', url.slice(url.lastIndexOf('/') + 1))
  const { status, err } = await login
  expect(status).not.toBe(0)
  expect(err).toMatch(/reject|refus|denied/i)
  await node.stop()
})

flow('--force-reauth while it runs', async (world) => {
  const [node, ours, key] = [await world.join('renewing'), await world.ours(), await world.reusable('alice')]
  await world.expectToWork(node, ours)
  const [{ id }, ip] = [await world.listed('renewing'), await node.ip()]
  await node.up(world.control.url, key, '--force-reauth')
  expect([(await world.listed('renewing')).id, await node.ip()]).toEqual([id, ip])
  await world.expectToWork(node, ours)
  await node.stop()
})

flow('logout and back', async (world) => {
  const [node, ours] = [await world.join('leaving'), await world.ours()]
  const { id, ipAddresses } = await world.listed('leaving')
  await node.cli('logout')
  await world.lab.until('it needs a login', async () => (await node.status()).BackendState === 'NeedsLogin')
  expect(Date.parse((await world.listed('leaving')).expiry ?? '')).toBeLessThanOrEqual(Date.now())
  await world.lab.until('our node sees it go', async () => {
    const peer = await ours.peer('leaving')
    return peer === undefined || peer.Expired === true
  })
  // 1.80 may hold settings of its own making after a logout, and then asks for this.
  await node.up(world.control.url, await world.reusable('alice'), '--reset')
  expect([(await world.listed('leaving')).id, (await world.listed('leaving')).ipAddresses]).toEqual([id, ipAddresses])
  await world.expectToWork(node, ours)
  await node.stop()
})

flow('profiles: login as another user, switch back and forth', async (world) => {
  const [node, ours] = [await world.join('two-faced'), await world.ours()]
  const asAlice = await node.ip()
  await node.cli('login', '--login-server', world.control.url, '--hostname', 'two-faced', '--accept-dns=false', '--timeout', '25s', '--authkey', await world.reusable('bob'))
  const asBob = await node.ip()
  expect(asBob).not.toBe(asAlice)
  expect((await world.control.nodes()).filter((each) => each.givenName.startsWith('two-faced')).map((each) => each.user?.name).sort()).toEqual(['alice', 'bob'])
  await world.expectToWork(node, ours)
  const profiles = (await node.cli('switch', '--list')).trim().split('\n').slice(1).map((line) => line.trim().split(/\s+/))
  const profile = (user: string): string => profiles.find((words) => words.some((word) => word.startsWith(user)))?.[0] ?? ''
  for (const [user, ip] of [['alice', asAlice], ['bob', asBob]] as const) {
    await node.cli('switch', profile(user))
    await world.lab.until(`it is ${user}'s`, async () => (await node.status()).BackendState === 'Running' && (await node.ip()) === ip)
    await world.expectToWork(node, ours)
  }
  await node.stop()
})

flow('daemon killed and started again', async (world) => {
  const [node, ours] = [await world.join('restarting'), await world.ours()]
  await world.expectToWork(node, ours)
  const ip = await node.ip()
  await node.stop('SIGKILL')
  await world.lab.until('our node sees it offline', async () => (await ours.peer('restarting'))?.Online === false)
  await node.start()
  await world.lab.until('it runs again', async () => (await node.status()).BackendState === 'Running')
  expect(await node.ip()).toBe(ip)
  await world.expectToWork(node, ours)
  await node.stop()
})

flow('a hundred logins at once with a one-off key: one succeeds', async (world) => {
  const key = await world.key('bob')
  const { publicKey } = (await (await fetch(`${world.control.url}/key?v=142`)).json()) as { readonly publicKey: string } // control-protocol 2.1
  const serverKey = MachinePublicKey.parse(publicKey)
  if (serverKey === undefined) throw new Error('the server tells no key')
  const node = await world.daemon('rival')
  const rivals = Array.from({ length: RIVALS }, (_, i) => new LightClient(i, { frame: () => undefined, lost: () => undefined }))
  const [real, light] = await Promise.all([
    node.run(node.upArguments(world.control.url, ['--authkey', key]), 40_000),
    Promise.allSettled(rivals.map((rival) => rival.join(world.control.url, serverKey, key))),
  ])
  const refusals = light.flatMap((result) => (result.status === 'rejected' ? [String(result.reason)] : []))
  expect(refusals.length + (real.status === 0 ? 0 : 1)).toBe(RIVALS)
  for (const refusal of refusals) expect(refusal).toMatch(/auth.?key.*(already|used)/i)
  expect((await world.control.nodes()).filter((each) => /^(rival|load-)/.test(each.givenName)).length).toBe(1)
  for (const rival of rivals) rival.drop()
  await node.stop('SIGKILL')
})

flow('an ephemeral node is gone after its logout', async (world) => {
  const [node, ours] = [await world.daemon('passing'), await world.ours()]
  await node.up(world.control.url, await world.key('bob', '--ephemeral'))
  await world.expectToWork(node, ours)
  await node.cli('logout')
  await world.lab.until('it is gone', async () => (await world.control.node('passing')) === undefined)
  await world.lab.until('our node sees it gone', async () => (await ours.peer('passing')) === undefined)
  await node.stop()
})

flow('an ephemeral node is gone after its grace', async (world) => {
  await world.lab.until('it is gone', async () => (await world.control.node('guest')) === undefined, 90_000)
  expect(performance.now() - (ephemeralEnded.get(world) ?? Infinity)).toBeGreaterThan(EPHEMERAL_GRACE_S * 1000 - 10_000)
}, 150_000)
