import { expect } from 'vitest'
import { addressesOf, cutUdp, type GuestNode, oursIn, socksOf } from './lab-guest.ts'
import { headscaleFlows, type HeadscaleWorld, HeadscaleWorlds } from './lab-headscale-world.ts'
import { Space, whyNoSpaces } from './lab-space.ts'
import type { OurNode } from './lab-ours.ts'
import { echoed, echoHere, Exchange, serveIn, transferred } from './lab-traffic.ts'
import type { Tailscaled } from './lab-tailscaled.ts'
import { patternHash, sha256, webThroughSocks } from './lab-web.ts'
import { patternBytes } from './wireguard-commands.ts'

// What passes between our node and real ones on a real headscale: by a real derper, directly, and while the way changes.
const BYTES = 100_000_000
const SMALL = 2_000_000
const TRANSFER_MS = 240_000
const PORT = 7_777
const noSpaces = whyNoSpaces()
const flow = headscaleFlows('data', new HeadscaleWorlds(), noSpaces === undefined ? [] : [noSpaces])

/** Downloads and uploads through a SOCKS5 port. */
async function browse(world: HeadscaleWorld, from: GuestNode, host: string, bytes: number): Promise<void> {
  const download = await webThroughSocks(from.socksPort, host, world.web, { path: `/bytes/${bytes}`, timeoutMs: TRANSFER_MS })
  expect([download.body.length, sha256(download.body)]).toEqual([bytes, patternHash(bytes)])
  const upload = await webThroughSocks(from.socksPort, host, world.web, { path: '/hash', body: patternBytes(bytes), timeoutMs: TRANSFER_MS })
  expect(upload.body.toString()).toBe(patternHash(bytes))
}

async function blockedNode(world: HeadscaleWorld): Promise<OurNode> {
  const [node, key] = await Promise.all([world.ourDaemon('ours-by-relay', ['--block-udp']), world.reusable('alice')])
  await node.up(world.headscale.url, key)
  return node
}

/** ICMP and HTTP both ways, in both families, then the long transfer. */
async function everything(world: HeadscaleWorld, real: Tailscaled, ours: OurNode): Promise<void> {
  for (const [from, to] of [[real, ours], [ours, real]] as const) {
    for (const ip of await addressesOf(to)) {
      expect(await from.cli('ping', '--icmp', '--c', '3', '--timeout', '5s', ip)).toContain('pong from')
      await browse(world, from, ip, SMALL)
    }
  }
  await browse(world, ours, (await addressesOf(real))[0], BYTES)
}

flow('userspace, directly: ICMP and HTTP both ways by IPv4 and IPv6, 100 MB each way', async (world) => {
  const [real, ours] = await Promise.all([world.real('real'), world.ours('ours')])
  await world.expectToWork(real, ours)
  for (const [from, to] of [[real, ours], [ours, real]] as const) expect(await from.cli('ping', '--c', '20', '--timeout', '3s', await to.ip())).toMatch(/ via (?!DERP)[^ ]*:\d+ in/)
  const before = (await ours.status()).Meshwright
  await everything(world, real, ours)
  const after = (await ours.status()).Meshwright
  expect(after.DirectBytesOut - before.DirectBytesOut).toBeGreaterThan(BYTES)
  expect(after.DirectBytesIn - before.DirectBytesIn).toBeGreaterThan(BYTES)
  expect(after.RelayBytesOut + after.RelayBytesIn - before.RelayBytesOut - before.RelayBytesIn).toBeLessThan(BYTES / 10)
}, 600_000)

flow('userspace, by derper with UDP blocked: ICMP and HTTP both ways by IPv4 and IPv6, 100 MB each way', async (world) => {
  const [real, ours] = await Promise.all([world.real('real-by-relay', 'alice', { relayOnly: true }), blockedNode(world)])
  await world.expectToWork(real, ours)
  await everything(world, real, ours)
  const after = (await ours.status()).Meshwright
  expect(after.RelayBytesOut).toBeGreaterThan(BYTES)
  expect(after.RelayBytesIn).toBeGreaterThan(BYTES)
  expect(after.DirectBytesIn + after.DirectBytesOut).toBe(0)
  expect(await real.peer('ours-by-relay')).toMatchObject({ CurAddr: '' })
}, 600_000)

flow('TUN devices on both sides: kernel ICMP, UDP and HTTP both ways by IPv4 and IPv6', async (world) => {
  const { lab } = world
  const space = (label: string): Promise<Space> => Space.make(lab, label, { url: world.headscale.url })
  const [here, there] = [await space('kernel-ours'), await space('kernel-real')]
  await here.join(there)
  const [ours, real] = await Promise.all([oursIn(world, here, 'kernel-ours', 'tun'), world.real('kernel-real', 'alice', { netns: there.name }, '--netfilter-mode=off')])
  await Promise.all([serveIn(lab, here.name, PORT), serveIn(lab, there.name, PORT)])
  for (const [from, to] of [[ours, real], [real, ours]] as const) {
    for (const ip of await addressesOf(to)) {
      await lab.until(`${from.name} pings ${ip}`, async () => (await from.inside('ping', ['-n', '-q', '-c', '1', '-W', '2', ip])).status === 0)
      for (const size of ['56', '1200']) expect((await from.inside('ping', ['-n', '-q', '-i', '0.05', '-c', '10', '-s', size, ip])).out).toMatch(/ (10|9) received/)
      // 1400 bytes are two packets; the old release drops pieces of IPv6.
      for (const size of [16, 1_200, ...(ip.includes(':') && world.version.startsWith('1.80.') ? [] : [1_400])]) expect(await echoed(lab, from, ip, PORT, 20, size), `${size} bytes from ${from.name} to ${ip}`).toBe(20)
      expect(await transferred(lab, from, ip, PORT, SMALL), `${from.name} to ${ip}`).toEqual({ down: true, up: true })
    }
  }
  // In userspace mode, datagrams that nobody in the node claims go to programs of its computer, as tailscaled hands them on.
  const userspace = await world.ours('ours')
  const echo = await echoHere(lab)
  for (const ip of await addressesOf(userspace)) expect(await echoed(lab, real, ip, echo, 20, 1_000), `datagrams to ${ip}`).toBe(20)
}, 300_000)

// Some dozens of segments: 1.80.3 has sent 84 kB in the first minute after a change, and gone on at full speed later.
const MOVING_BYTES = 20_000

flow('the way changes under load, from direct to derper and back: no connection is lost, every byte comes', async (world) => {
  const { lab } = world
  const space = await Space.make(lab, 'changing', { url: world.headscale.url })
  const [ours, real] = await Promise.all([oursIn(world, space, 'changing', 'userspace'), world.real('real')])
  const socks = await socksOf(lab, space)
  const ip = await real.ip()
  await lab.until('there is a direct path', async () => (await ours.run(['ping', '--c', '5', '--timeout', '2s', ip])).out.match(/ via (?!DERP)[^ ]*:\d+ in/) !== null)
  const exchange = await Exchange.start(lab, socks, ip)
  const sent = async (): Promise<{ readonly direct: number; readonly relay: number }> => {
    const { DirectBytesOut, RelayBytesOut } = (await ours.status()).Meshwright
    return { direct: DirectBytesOut, relay: RelayBytesOut }
  }
  const moving = async (what: 'direct' | 'relay'): Promise<void> => {
    const [before, near, far] = [await sent(), exchange.near.gotBytes, exchange.far.gotBytes]
    // The TCP of real nodes takes its time after some seconds of silence: one segment for each of its timeouts, and those double.
    await lab.until(`both directions go ${what}`, async () => {
      exchange.check()
      const moved = { [what]: (await sent())[what] - before[what], here: exchange.near.gotBytes - near, there: exchange.far.gotBytes - far }
      if (Object.values(moved).every((bytes) => bytes > MOVING_BYTES)) return true
      throw new Error(`bytes so far: ${JSON.stringify(moved)}`)
    }, 90_000)
  }
  await moving('direct')
  await cutUdp(space)
  await moving('relay')
  await space.sh('nft delete table inet cut')
  await moving('direct')
  expect(await exchange.finish(lab)).toBe(true)
}, 300_000)
