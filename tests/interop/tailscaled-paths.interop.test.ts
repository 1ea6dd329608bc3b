import { expect } from 'vitest'
import type { OurNode } from './lab-ours.ts'
import { pong } from './lab-ping.ts'
import type { Tailscaled } from './lab-tailscaled.ts'
import { patternHash, sha256, webThroughSocks } from './lab-web.ts'
import { type World, worldFlows, Worlds } from './lab-world.ts'
import { patternBytes } from './wireguard-commands.ts'

// The ways of packets between real nodes and ours: directly, by one of two relays of ours, and from one to the other. In userspace mode;
// tailscaled-tun does the like with TUN devices.
const REGIONS = ['one', 'two'] as const
const BYTES = 100_000_000
/** Ten seconds on a quiet computer; correct is what it must be, also on a busy one. */
const TRANSFER_MS = 240_000
/** Real nodes look at relays anew every 20 to 26 seconds, and keep a home that is only a little worse. */
const MOVED_MS = 90_000
const worlds = new Worlds({ relays: REGIONS, apart: true, preferFirst: true })
const flow = worldFlows('paths', worlds)

type Node = OurNode | Tailscaled

/** Two pairs: nodes with UDP, and nodes that have only relays. */
async function pairs(world: World): Promise<{ readonly direct: readonly [Tailscaled, OurNode]; readonly relayed: readonly [Tailscaled, OurNode] }> {
  const [real, ours, realByRelay, oursByRelay] = await Promise.all([
    world.real('real'),
    world.ours(),
    world.real('real-by-relay', 'bob', { relayOnly: true }),
    world.ours('ours-by-relay', 'bob', ['--block-udp']),
  ])
  return { direct: [real, ours], relayed: [realByRelay, oursByRelay] }
}

async function ping(from: Node, to: Node, ...flags: readonly string[]): Promise<string> {
  return pong(from, '--timeout', '8s', ...flags, await to.ip())
}

flow('ping of each kind by relay, both ways: disco, --tsmp, --icmp, --peerapi', async (world) => {
  const { relayed: [real, ours], direct: [other] } = await pairs(world)
  await world.expectToWork(real, ours)
  for (const [from, to] of [[real, ours], [ours, real], [real, other]] as const) {
    expect(await ping(from, to, '--until-direct=false')).toMatch(/pong from [\w-]+ .* via DERP\((one|two)\) in/)
    expect(await ping(from, to, '--tsmp')).toContain('via TSMP')
    expect(await ping(from, to, '--icmp')).toContain('via ICMP')
  }
  for (const [from, to] of [[real, other], [other, real]] as const) expect(await ping(from, to, '--peerapi')).toMatch(/hit peerapi of [\w.-]+/)
  expect(await real.peer('ours-by-relay')).toMatchObject({ CurAddr: '' })
})

flow('ping of each kind directly, both ways', async (world) => {
  const { direct: [real, ours] } = await pairs(world)
  const other = await world.real('other', 'bob')
  for (const [from, to] of [[real, ours], [ours, real], [real, other]] as const) {
    expect(await from.cli('ping', '--c', '20', '--timeout', '3s', await to.ip())).toMatch(/pong from [\w-]+ .* via (?!DERP)[^ ]*:\d+ in/)
    expect(await ping(from, to, '--tsmp')).toContain('via TSMP')
    expect(await ping(from, to, '--icmp')).toContain('via ICMP')
  }
  for (const [from, to] of [[real, other], [other, real]] as const) expect(await ping(from, to, '--peerapi')).toMatch(/hit peerapi of [\w.-]+/)
  // The real client forgets a path that it has not used for some seconds: each look is behind a ping.
  await world.lab.until('the real client names the path', async () => {
    await ping(real, ours, '--tsmp')
    return ((await real.peer('ours'))?.CurAddr ?? '') !== ''
  })
})

/** A page, a download and an upload. */
async function browse(world: World, from: Node, to: Node, bytes: number = BYTES): Promise<void> {
  const ip = await to.ip()
  await world.lab.until(`${from.name} reaches ${to.name}`, async () => (await webThroughSocks(from.socksPort, ip, world.web)).body.toString() === 'hello')
  const download = await webThroughSocks(from.socksPort, ip, world.web, { path: `/bytes/${bytes}`, timeoutMs: TRANSFER_MS })
  expect([download.body.length, sha256(download.body)]).toEqual([bytes, patternHash(bytes)])
  const upload = await webThroughSocks(from.socksPort, ip, world.web, { path: '/hash', body: patternBytes(bytes), timeoutMs: TRANSFER_MS })
  expect(upload.body.toString()).toBe(patternHash(bytes))
}

flow('HTTP, 100 MB each way directly', async (world) => {
  const { direct: [real, ours] } = await pairs(world)
  // Each end finds its way by itself.
  for (const [from, to] of [[real, ours], [ours, real]] as const) expect(await from.cli('ping', '--c', '20', '--timeout', '3s', await to.ip())).toMatch(/ via (?!DERP)[^ ]*:\d+ in/)
  const before = (await ours.status()).Meshwright
  await browse(world, real, ours)
  const after = (await ours.status()).Meshwright
  expect(after.DirectBytesOut - before.DirectBytesOut).toBeGreaterThan(BYTES)
  expect(after.DirectBytesIn - before.DirectBytesIn).toBeGreaterThan(BYTES)
  expect(after.RelayBytesOut + after.RelayBytesIn - before.RelayBytesOut - before.RelayBytesIn).toBeLessThan(BYTES / 10)
}, 600_000)

flow('HTTP, 100 MB each way by relay with UDP blocked', async (world) => {
  const { relayed: [real, ours] } = await pairs(world)
  const before = (await ours.status()).Meshwright
  await browse(world, ours, real)
  const after = (await ours.status()).Meshwright
  expect(after.RelayBytesOut - before.RelayBytesOut).toBeGreaterThan(BYTES)
  expect(after.RelayBytesIn - before.RelayBytesIn).toBeGreaterThan(BYTES)
  expect(after.DirectBytesIn + after.DirectBytesOut).toBe(0)
  expect(await real.peer('ours-by-relay')).toMatchObject({ CurAddr: '' })
}, 600_000)

flow('HTTP between two real nodes, directly and by relay, and through every proxy', async (world) => {
  const { direct: [real, ours], relayed: [realByRelay, oursByRelay] } = await pairs(world)
  const other = await world.real('other', 'bob')
  for (const [from, to] of [[real, other], [other, real]] as const) await from.cli('ping', '--c', '20', '--timeout', '3s', await to.ip())
  // What goes directly from one to the other meets nothing of ours.
  await browse(world, realByRelay, other)
  for (const [from, to] of [[real, other], [other, realByRelay], [ours, real], [realByRelay, oursByRelay]] as const) await browse(world, from, to, 5_000_000)
  expect((await real.peer('other'))?.CurAddr).not.toBe('')
  expect((await realByRelay.peer('other'))?.CurAddr).toBe('')
}, 600_000)

flow('netcheck against our STUN', async (world) => {
  const { direct: [real] } = await pairs(world)
  const report = JSON.parse(await real.cli('netcheck', '--format=json')) as { UDP: boolean; IPv4: boolean; GlobalV4: string; PreferredDERP: number; RegionLatency: Readonly<Record<string, number>> }
  expect([report.UDP, report.IPv4, report.GlobalV4.split(':')[0]]).toEqual([true, true, world.base.address])
  expect(Object.keys(report.RegionLatency).sort()).toEqual(['900', '901'])
  expect(report.PreferredDERP).toBe(900)
})

/** Which region both nodes of a pair call home. */
async function homes(real: Tailscaled, ours: OurNode): Promise<readonly string[]> {
  return [(await real.status()).Self.Relay, (await ours.status()).Meshwright.HomeRelay]
}

flow('a relay dies: clients move to the other region, and return when it is there again', async (world) => {
  // The real one has UDP: without it, old releases find a relay near by ICMP, and its computer goes on to answer that.
  const { direct: [real], relayed: [, ours] } = await pairs(world)
  const [one] = world.base.relays
  if (one === undefined) throw new Error('a relay is needed')
  const areAt = async (home: string): Promise<void> => {
    await world.lab.until(`both are at home in ${home}`, async () => (await homes(real, ours)).every((each) => each === home), MOVED_MS)
    await world.expectToWork(real, ours, 40_000)
    expect(await pong(real, '--timeout', '8s', '--until-direct=false', await ours.ip())).toContain(`via DERP(${home})`)
  }
  await areAt(REGIONS[0])
  await one.stop('SIGKILL')
  await areAt(REGIONS[1])
  await one.start(world.base.address)
  await areAt(REGIONS[0])
}, 300_000)

flow('a relay restarts: its clients are back', async (world) => {
  const { direct: [real], relayed: [, ours] } = await pairs(world)
  const before = await homes(real, ours)
  expect(before).toEqual([REGIONS[0], REGIONS[0]])
  const [relay] = world.base.relays
  await relay?.stop('SIGKILL')
  await relay?.start(world.base.address)
  await world.expectToWork(real, ours, 40_000)
  expect(await world.health(real)).toEqual([])
})

flow('status shows no warning when all is quiet', async (world) => {
  const { direct: [real], relayed: [realByRelay] } = await pairs(world)
  for (const node of [real, realByRelay]) await world.lab.until(`${node.name} has nothing to complain of`, async () => (await world.health(node)).length === 0)
})
