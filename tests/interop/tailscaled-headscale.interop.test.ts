import { afterAll, beforeAll, expect } from 'vitest'
import { BIN, flows, peerName, whyNot } from './lab-flow.ts'
import { RealDerper, RealHeadscale } from './lab-headscale.ts'
import { bundlePrograms, OurNode } from './lab-ours.ts'
import { interfaceAddress, Lab } from './lab-process.ts'
import { Tailscaled } from './lab-tailscaled.ts'
import { patternHash, sha256, startWeb, webThroughSocks } from './lab-web.ts'
import { patternBytes } from './wireguard-commands.ts'

// The other way round: our node as a guest of a real headscale with a real derper, beside real tailscaled. Nothing else here is ours.
const PROGRAMS_NEEDED = ['tailscaled', 'tailscale', 'headscale', 'derper']
const BYTES = 5_000_000
const flow = flows(peerName('headscale'), PROGRAMS_NEEDED)

interface Mesh {
  readonly lab: Lab
  readonly headscale: RealHeadscale
  readonly relay: RealDerper
  readonly key: string
  readonly real: Tailscaled
  readonly realByRelay: Tailscaled
  readonly ours: OurNode
  readonly oursByRelay: OurNode
  readonly web: number
  readonly ip: Readonly<Record<'real' | 'realByRelay' | 'ours' | 'oursByRelay', string>>
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
  const relay = new RealDerper(lab, BIN)
  await relay.start(interfaceAddress() ?? '')
  const headscale = new RealHeadscale(lab, BIN)
  await headscale.start(relay.mapFile, { acls: [{ action: 'accept', src: ['*'], dst: ['*:*'] }] })
  await headscale.cli('users', 'create', 'alice')
  const key = await headscale.authKey('1')
  const real = new Tailscaled(lab, BIN, 'real')
  const realByRelay = new Tailscaled(lab, BIN, 'real-by-relay', { relayOnly: true })
  const ours = new OurNode(lab, programs, 'ours')
  const oursByRelay = new OurNode(lab, programs, 'ours-by-relay', ['--block-udp'])
  const join = async (node: Tailscaled | OurNode): Promise<string> => {
    await node.start()
    await node.up(headscale.url, key)
    return node.ip()
  }
  const [a, b, c, d] = await Promise.all([join(real), join(realByRelay), join(ours), join(oursByRelay)])
  for (const name of ['real', 'real-by-relay', 'ours-by-relay']) await lab.until(`our node hears of ${name}`, async () => (await ours.peer(name)) !== undefined)
  return { lab, headscale, relay, key, real, realByRelay, ours, oursByRelay, web: await startWeb(lab, 'hello'), ip: { real: a, realByRelay: b, ours: c, oursByRelay: d } }
}

async function browse(from: Tailscaled | OurNode, to: string): Promise<void> {
  await mesh.lab.until(`${from.name} reaches ${to}`, async () => (await webThroughSocks(from.socksPort, to, mesh.web)).body.toString() === 'hello')
  const download = await webThroughSocks(from.socksPort, to, mesh.web, { path: `/bytes/${BYTES}`, timeoutMs: 20_000 })
  expect([download.body.length, sha256(download.body)]).toEqual([BYTES, patternHash(BYTES)])
  const upload = await webThroughSocks(from.socksPort, to, mesh.web, { path: '/hash', body: patternBytes(BYTES), timeoutMs: 20_000 })
  expect(upload.body.toString()).toBe(patternHash(BYTES))
}

flow('our node logs in by auth key', async () => {
  const status = await mesh.ours.status()
  expect([status.BackendState, status.Self.DNSName, status.MagicDNSSuffix]).toEqual(['Running', 'ours.lab.test.', 'lab.test'])
  expect(status.Health).toEqual([])
  expect(await mesh.real.peer('ours')).toMatchObject({ TailscaleIPs: status.TailscaleIPs ?? [] })
})

flow('our node: ping of each kind with real tailscaled, both ways', async () => {
  for (const [from, to] of [['real', 'ours'], ['realByRelay', 'oursByRelay']] as const) {
    for (const kind of ['--tsmp', '--icmp', '--until-direct=false']) {
      expect(await mesh[from].cli('ping', kind, '--c', '3', '--timeout', '5s', mesh.ip[to])).toContain('pong from ours')
      expect(await mesh[to].cli('ping', kind, '--c', '3', '--timeout', '5s', mesh.ip[from])).toContain('pong from real')
    }
  }
})

flow('our node: HTTP with real tailscaled, direct', async () => {
  expect(await mesh.ours.cli('ping', '--c', '20', '--timeout', '3s', mesh.ip.real)).toMatch(/ via (?!DERP)[^ ]*:\d+ in/)
  expect(await mesh.real.cli('ping', '--c', '20', '--timeout', '3s', mesh.ip.ours)).toMatch(/ via (?!DERP)[^ ]*:\d+ in/)
  const before = (await mesh.ours.status()).Meshwright
  await browse(mesh.real, mesh.ip.ours)
  await browse(mesh.ours, mesh.ip.real)
  const after = (await mesh.ours.status()).Meshwright
  expect(after.DirectBytesOut - before.DirectBytesOut).toBeGreaterThan(2 * BYTES)
  expect(after.RelayBytesOut - before.RelayBytesOut).toBeLessThan(100_000)
  expect((await mesh.real.peer('ours'))?.CurAddr).not.toBe('')
})

flow('our node: HTTP with real tailscaled, by real derper with UDP blocked', async () => {
  await browse(mesh.realByRelay, mesh.ip.oursByRelay)
  await browse(mesh.oursByRelay, mesh.ip.realByRelay)
  expect(await mesh.realByRelay.peer('ours-by-relay')).toMatchObject({ CurAddr: '', Relay: 'real' })
  const { RelayBytesOut, DirectBytesOut, DirectBytesIn } = (await mesh.oursByRelay.status()).Meshwright
  expect(RelayBytesOut).toBeGreaterThan(2 * BYTES)
  expect(DirectBytesIn + DirectBytesOut).toBe(0)
})

flow('our node: names and whois', async () => {
  expect((await webThroughSocks(mesh.ours.socksPort, 'real.lab.test', mesh.web)).body.toString()).toBe('hello')
  expect((await webThroughSocks(mesh.real.socksPort, 'ours.lab.test', mesh.web)).body.toString()).toBe('hello')
  expect(await mesh.ours.cli('whois', mesh.ip.real)).toContain('alice')
  expect(await mesh.real.cli('whois', mesh.ip.ours)).toContain('alice')
})

flow('our node: expired, and back with a new login', async () => {
  await mesh.headscale.cli('nodes', 'expire', '-i', await mesh.headscale.nodeId('ours'))
  await mesh.lab.until('our node knows', async () => (await mesh.ours.status()).BackendState === 'NeedsLogin')
  await mesh.lab.until('the real node no longer reaches it', () => webThroughSocks(mesh.real.socksPort, mesh.ip.ours, mesh.web, { timeoutMs: 500 }).then(() => false, () => true))
  await mesh.ours.up(mesh.headscale.url, mesh.key, '--force-reauth')
  expect(await mesh.ours.ip()).toBe(mesh.ip.ours)
  await mesh.lab.until('both ways work again', async () => {
    await webThroughSocks(mesh.ours.socksPort, mesh.ip.real, mesh.web)
    return (await webThroughSocks(mesh.real.socksPort, mesh.ip.ours, mesh.web)).status === 200
  })
})

flow('our node: restart with its state', async () => {
  await mesh.ours.stop('SIGKILL')
  await mesh.ours.start()
  await mesh.lab.until('it runs again', async () => (await mesh.ours.status()).BackendState === 'Running')
  expect(await mesh.ours.ip()).toBe(mesh.ip.ours)
  await mesh.lab.until('both ways work again', async () => {
    await webThroughSocks(mesh.ours.socksPort, mesh.ip.real, mesh.web)
    return (await webThroughSocks(mesh.real.socksPort, mesh.ip.ours, mesh.web)).status === 200
  })
})

flow('our node: headscale killed and restarted while a transfer goes on', async () => {
  const lines = 80 // 4 seconds
  const done = Promise.all([
    webThroughSocks(mesh.ours.socksPort, mesh.ip.real, mesh.web, { path: `/drip/${lines}`, timeoutMs: 20_000 }),
    webThroughSocks(mesh.realByRelay.socksPort, mesh.ip.oursByRelay, mesh.web, { path: `/drip/${lines}`, timeoutMs: 20_000 }),
  ])
  done.catch(() => undefined)
  await mesh.headscale.stop('SIGKILL')
  await mesh.headscale.start(mesh.relay.mapFile, undefined)
  for (const { body } of await done) expect(body.toString().trimEnd().split('\n').length).toBe(lines)
  const newcomer = new Tailscaled(mesh.lab, BIN, 'newcomer')
  await newcomer.start()
  await newcomer.up(mesh.headscale.url, mesh.key)
  await mesh.lab.until('our node hears of a newcomer', async () => (await mesh.ours.peer('newcomer')) !== undefined, 30_000)
})
