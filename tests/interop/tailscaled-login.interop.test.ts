import { afterAll, beforeAll, expect } from 'vitest'
import { BIN, flows, peerName, whyNot } from './lab-flow.ts'
import { type ListedNode, bundlePrograms, OurControl, OurNode, type OurPrograms, OurRelay } from './lab-ours.ts'
import { interfaceAddress, Lab } from './lab-process.ts'
import { Tailscaled } from './lab-tailscaled.ts'
import { startWeb, webThroughSocks } from './lab-web.ts'

// The life of real tailscaled's keys at our control server: logins of every kind, expiry, logout, restarts of either side.
const PROGRAMS_NEEDED = ['tailscaled', 'tailscale']
const POLICY = { tagOwners: { 'tag:srv': ['alice@'] }, acls: [{ action: 'accept', src: ['*'], dst: ['*:*'] }] }
/** The shortest time that our server takes for `node.ephemeral.inactivity_timeout`. */
const EPHEMERAL_GRACE_S = 65
const flow = flows(peerName('tailscaled'), PROGRAMS_NEEDED)

interface Mesh {
  readonly lab: Lab
  readonly programs: OurPrograms
  readonly relay: OurRelay
  readonly control: OurControl
  readonly alice: string
  readonly bob: string
  /** A node of ours that stays. */
  readonly ours: OurNode
  readonly oursIp: string
  readonly web: number
  /** When an ephemeral node was killed. */
  readonly ephemeralEnded: number
}

let lab: Lab | undefined
let mesh: Mesh

beforeAll(async () => {
  if (whyNot(PROGRAMS_NEEDED) !== undefined) return
  lab = new Lab()
  mesh = await startMesh(lab)
})

afterAll(async () => {
  await lab?.stop()
})

async function startMesh(lab: Lab): Promise<Mesh> {
  const programs = await bundlePrograms(lab)
  const relay = new OurRelay(lab, programs)
  await relay.start(interfaceAddress() ?? '')
  const control = new OurControl(lab, programs, { lines: [`node: {ephemeral: {inactivity_timeout: ${EPHEMERAL_GRACE_S}s}}`] })
  await control.start(relay.mapFile)
  const [alice, bob] = [await control.createUser('alice'), await control.createUser('bob')]
  await control.setPolicy(POLICY)
  const ours = new OurNode(lab, programs, 'ours')
  const guest = new Tailscaled(lab, BIN, 'guest')
  const [ofOurs, ofGuest] = [await control.authKey('-u', alice), await control.authKey('-u', bob, '--ephemeral')]
  await Promise.all([ours.start(), guest.start()])
  await Promise.all([ours.up(control.url, ofOurs), guest.up(control.url, ofGuest)])
  await lab.until('the guest is online', async () => (await control.node('guest'))?.online)
  // Its time runs while the other flows do their work.
  await guest.stop('SIGKILL')
  return { lab, programs, relay, control, alice, bob, ours, oursIp: await ours.ip(), web: await startWeb(lab, 'hello'), ephemeralEnded: performance.now() }
}

async function started(name: string, key?: string): Promise<Tailscaled> {
  const node = new Tailscaled(mesh.lab, BIN, name)
  await node.start()
  if (key !== undefined) await node.up(mesh.control.url, key)
  return node
}

async function listed(name: string): Promise<ListedNode> {
  return mesh.lab.until(`the server lists ${name}`, () => mesh.control.node(name))
}

/** Proves that packets pass both ways. */
async function expectToWork(node: Tailscaled): Promise<void> {
  const ip = await node.ip()
  await mesh.lab.until(`${node.name} reaches our node`, async () => (await webThroughSocks(node.socksPort, mesh.oursIp, mesh.web)).body.toString() === 'hello')
  await mesh.lab.until(`our node reaches ${node.name}`, async () => (await webThroughSocks(mesh.ours.socksPort, ip, mesh.web, { timeoutMs: 2_000 })).body.toString() === 'hello')
}

flow('login by URL, approved by auth register', async () => {
  const node = await started('by-url')
  const login = node.run(node.upArguments(mesh.control.url), 40_000)
  const url = await mesh.lab.until('the login URL is shown', async () => (await node.status()).AuthURL || undefined)
  expect(url.startsWith(`${mesh.control.url}/register/`)).toBe(true)
  expect(await (await fetch(url)).text()).toContain('auth register')
  await mesh.control.cli('auth', 'register', '--auth-id', url.slice(url.lastIndexOf('/') + 1), '-u', 'bob')
  const { status, err } = await login
  expect([status, err]).toEqual([0, expect.stringContaining('Success.')])
  expect((await listed('by-url')).user?.name).toBe('bob')
  const shown = await node.status()
  expect(shown.User?.[String(shown.Self.UserID)]?.LoginName).toBe('bob')
  await expectToWork(node)
  await node.stop()
})

flow('login by URL refused by auth reject', async () => {
  const node = await started('rejected')
  const login = node.run(node.upArguments(mesh.control.url), 40_000)
  const url = await mesh.lab.until('the login URL is shown', async () => (await node.status()).AuthURL || undefined)
  await mesh.control.cli('auth', 'reject', '--auth-id', url.slice(url.lastIndexOf('/') + 1))
  const { status, err } = await login
  expect(status).not.toBe(0)
  expect(err).toMatch(/reject|refus|denied/i)
  await node.stop()
})

flow('a one-off auth key works once', async () => {
  const key = await mesh.control.authKey('-u', mesh.alice)
  const first = await started('one-off', key)
  await expectToWork(first)
  const second = await started('one-off-again')
  const { status, err, ms } = await second.run(second.upArguments(mesh.control.url, ['--authkey', key]), 40_000)
  expect(status).not.toBe(0)
  expect(err).toMatch(/auth.?key.*(already|used)/i)
  expect(ms).toBeLessThan(10_000)
  expect(await mesh.control.node('one-off-again')).toBeUndefined()
  await Promise.all([first.stop(), second.stop()])
})

flow('an unknown auth key is refused in clear words', async () => {
  const node = await started('unknown-key')
  const { status, err, ms } = await node.run(node.upArguments(mesh.control.url, ['--authkey', 'hskey-auth-nonsense']), 40_000)
  expect(status).not.toBe(0)
  expect(err).toMatch(/auth.?key/i)
  expect(ms).toBeLessThan(10_000)
  await node.stop()
})

flow('a tagged auth key makes a tagged node', async () => {
  const node = await started('tagged', await mesh.control.authKey('--tags', 'tag:srv'))
  expect((await listed('tagged')).tags).toEqual(['tag:srv'])
  expect((await node.status()).Self.Tags).toEqual(['tag:srv'])
  await expectToWork(node)
  expect((await mesh.ours.peer('tagged'))?.Tags).toEqual(['tag:srv'])
  const whois = JSON.parse(await mesh.ours.cli('whois', '--json', await node.ip())) as { Node: { Tags: readonly string[] }; UserProfile: { LoginName: string } }
  expect([whois.Node.Tags, whois.UserProfile.LoginName]).toEqual([['tag:srv'], 'tagged-devices'])
  await node.stop()
})

flow('an expired node is cut off, and comes back with a new login', async () => {
  const key = await mesh.control.authKey('-u', mesh.alice, '--reusable')
  const node = await started('expiring', key)
  await expectToWork(node)
  const [{ id }, ip] = [await listed('expiring'), await node.ip()]
  await mesh.control.cli('nodes', 'expire', '-i', id)
  await mesh.lab.until('it knows', async () => (await node.status()).BackendState === 'NeedsLogin')
  await mesh.lab.until('our node no longer reaches it', () => webThroughSocks(mesh.ours.socksPort, ip, mesh.web, { timeoutMs: 500 }).then(() => false, () => true))
  await expect(webThroughSocks(node.socksPort, mesh.oursIp, mesh.web, { timeoutMs: 1_500 })).rejects.toThrow()
  expect(await mesh.ours.peer('expiring')).toMatchObject({ Expired: true })
  await node.up(mesh.control.url, key, '--force-reauth')
  expect([(await listed('expiring')).id, await node.ip()]).toEqual([id, ip])
  await expectToWork(node)
  await node.stop()
})

flow('logout and back', async () => {
  const key = await mesh.control.authKey('-u', mesh.alice, '--reusable')
  const node = await started('leaving', key)
  const { id } = await listed('leaving')
  await node.cli('logout')
  expect((await node.status()).BackendState).toBe('NeedsLogin')
  expect(Date.parse((await listed('leaving')).expiry ?? '')).toBeLessThanOrEqual(Date.now())
  await mesh.lab.until('our node sees it go', async () => {
    const peer = await mesh.ours.peer('leaving')
    return peer === undefined || peer.Expired === true
  })
  await node.up(mesh.control.url, key)
  expect((await listed('leaving')).id).toBe(id)
  await expectToWork(node)
  await node.stop()
})

flow('a new key by --force-reauth while it runs', async () => {
  const key = await mesh.control.authKey('-u', mesh.alice, '--reusable')
  const node = await started('renewing', key)
  await expectToWork(node)
  const [{ id }, ip] = [await listed('renewing'), await node.ip()]
  await node.up(mesh.control.url, key, '--force-reauth')
  expect([(await listed('renewing')).id, await node.ip()]).toEqual([id, ip])
  await expectToWork(node)
  await node.stop()
})

flow('daemon restart', async () => {
  const node = await started('restarting', await mesh.control.authKey('-u', mesh.alice))
  await expectToWork(node)
  const ip = await node.ip()
  await node.stop('SIGKILL')
  await mesh.lab.until('our node sees it offline', async () => (await mesh.ours.peer('restarting'))?.Online === false)
  await node.start()
  await mesh.lab.until('it runs again', async () => (await node.status()).BackendState === 'Running')
  expect(await node.ip()).toBe(ip)
  await expectToWork(node)
  await node.stop()
})

flow('rename and tag while connected', async () => {
  const node = await started('changing', await mesh.control.authKey('-u', mesh.alice))
  const { id } = await listed('changing')
  await mesh.control.cli('nodes', 'rename', '-i', id, 'changed')
  await mesh.lab.until('it knows its new name', async () => (await node.status()).Self.DNSName === 'changed.lab.test.')
  await mesh.lab.until('our node knows its new name', async () => (await mesh.ours.peer('changed')) !== undefined)
  await mesh.control.cli('nodes', 'tag', '-i', id, '-t', 'tag:srv')
  await mesh.lab.until('it knows its tag', async () => (await node.status()).Self.Tags?.[0] === 'tag:srv')
  await expectToWork(node)
  await node.stop()
})

flow('delete while connected', async () => {
  const node = await started('deleted', await mesh.control.authKey('-u', mesh.alice))
  await expectToWork(node)
  await mesh.control.cli('nodes', 'delete', '-i', (await listed('deleted')).id, '--force')
  await mesh.lab.until('our node sees it go', async () => (await mesh.ours.peer('deleted')) === undefined)
  await expect(webThroughSocks(node.socksPort, mesh.oursIp, mesh.web, { timeoutMs: 1_500 })).rejects.toThrow()
  await node.up(mesh.control.url, await mesh.control.authKey('-u', mesh.bob), '--force-reauth')
  await expectToWork(node)
  await node.stop()
})

flow('control server killed and restarted while a transfer goes on', async () => {
  const node = await started('steady', await mesh.control.authKey('-u', mesh.alice))
  await expectToWork(node)
  const ip = await node.ip()
  const lines = 120 // 6 seconds
  const transfers = [webThroughSocks(node.socksPort, mesh.oursIp, mesh.web, { path: `/drip/${lines}`, timeoutMs: 20_000 }), webThroughSocks(mesh.ours.socksPort, ip, mesh.web, { path: `/drip/${lines}`, timeoutMs: 20_000 })]
  const done = Promise.all(transfers)
  done.catch(() => undefined)
  await mesh.control.stop('SIGKILL')
  await new Promise((resolve) => setTimeout(resolve, 1_500))
  await mesh.control.start(mesh.relay.mapFile)
  for (const { body } of await done) expect(body.toString().trimEnd().split('\n').length).toBe(lines)
  const back = performance.now()
  await mesh.lab.until('both are online again', async () => (await mesh.control.node('steady'))?.online === true && (await mesh.control.node('ours'))?.online === true, 30_000)
  expect(performance.now() - back).toBeLessThan(20_000)
  // Nothing was lost, and the new server is listened to.
  const late = await started('late', await mesh.control.authKey('-u', mesh.alice))
  await expectToWork(late)
  await mesh.lab.until('it hears of the newcomer', async () => (await node.peer('late')) !== undefined)
  expect((await node.status()).Health ?? []).toEqual([])
  await Promise.all([node.stop(), late.stop()])
})

flow('five logins at once with a one-off key: one succeeds', async () => {
  const key = await mesh.control.authKey('-u', mesh.bob)
  const nodes = await Promise.all(Array.from({ length: 5 }, (_, i) => started(`rival-${i}`)))
  const results = await Promise.all(nodes.map((node) => node.run(node.upArguments(mesh.control.url, ['--authkey', key]), 40_000)))
  expect(results.filter((result) => result.status === 0).length).toBe(1)
  expect((await mesh.control.nodes()).filter((node) => node.givenName.startsWith('rival-')).length).toBe(1)
  await Promise.all(nodes.map((node) => node.stop('SIGKILL')))
})

flow('an ephemeral node is gone after its logout', async () => {
  const node = await started('passing', await mesh.control.authKey('-u', mesh.bob, '--ephemeral'))
  await expectToWork(node)
  await node.cli('logout')
  await mesh.lab.until('it is gone', async () => (await mesh.control.node('passing')) === undefined)
  await node.stop()
})

flow('an ephemeral node is gone after its grace', async () => {
  await mesh.lab.until('it is gone', async () => (await mesh.control.node('guest')) === undefined, 90_000)
  expect(performance.now() - mesh.ephemeralEnded).toBeGreaterThan(EPHEMERAL_GRACE_S * 1000 - 10_000)
}, 150_000)

