import { afterAll, beforeAll, expect } from 'vitest'
import { BIN, flows, peerName, whyNot } from './lab-flow.ts'
import { bundlePrograms, OurControl, OurNode, type OurPrograms, OurRelay } from './lab-ours.ts'
import { interfaceAddress, Lab } from './lab-process.ts'
import { Tailscaled } from './lab-tailscaled.ts'
import { patternHash, sha256, startWeb, webThroughSocks } from './lab-web.ts'
import { patternBytes } from './wireguard-commands.ts'

// Real tailscaled in a mesh of ours: our control server, our relay, our nodes beside it. Two nodes of each kind, one of them without
// UDP; users alice (direct) and bob (relay), and a second real node of bob's for what real nodes do with each other.
const PROGRAMS_NEEDED = ['tailscaled', 'tailscale']
const OPEN = { acls: [{ action: 'accept', src: ['*'], dst: ['*:*'] }] }
const MEGABYTES_5 = 5_000_000
const flow = flows(peerName('tailscaled'), PROGRAMS_NEEDED)

interface Mesh {
  readonly lab: Lab
  readonly programs: OurPrograms
  readonly control: OurControl
  /** Real, direct, alice. */
  readonly real: Tailscaled
  /** Real, relay only, bob. */
  readonly realByRelay: Tailscaled
  /** Real, direct, bob. */
  readonly other: Tailscaled
  /** Ours, direct, alice. */
  readonly ours: OurNode
  /** Ours, UDP blocked, bob. */
  readonly oursByRelay: OurNode
  readonly web: number
  readonly ip: Readonly<Record<'real' | 'realByRelay' | 'other' | 'ours' | 'oursByRelay', string>>
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
  const control = new OurControl(lab, programs)
  await control.start(relay.mapFile)
  const [alice, bob] = [await control.createUser('alice'), await control.createUser('bob')]
  await control.setPolicy(OPEN)
  const [ofAlice, ofBob] = [await control.authKey('-u', alice, '--reusable'), await control.authKey('-u', bob, '--reusable')]
  const real = new Tailscaled(lab, BIN, 'real')
  const realByRelay = new Tailscaled(lab, BIN, 'real-by-relay', { relayOnly: true })
  const other = new Tailscaled(lab, BIN, 'other')
  const ours = new OurNode(lab, programs, 'ours')
  const oursByRelay = new OurNode(lab, programs, 'ours-by-relay', ['--block-udp'])
  const join = async (node: Tailscaled | OurNode, key: string): Promise<string> => {
    await node.start()
    await node.up(control.url, key)
    return node.ip()
  }
  const [a, b, c, d, e] = await Promise.all([join(real, ofAlice), join(realByRelay, ofBob), join(other, ofBob), join(ours, ofAlice), join(oursByRelay, ofBob)])
  return { lab, programs, control, real, realByRelay, other, ours, oursByRelay, web: await startWeb(lab, 'hello'), ip: { real: a, realByRelay: b, other: c, ours: d, oursByRelay: e } }
}

flow('login by auth key', async () => {
  const nodes = await mesh.control.nodes()
  expect(nodes.map((node) => [node.givenName, node.user?.name, node.online]).sort()).toEqual([
    ['other', 'bob', true],
    ['ours', 'alice', true],
    ['ours-by-relay', 'bob', true],
    ['real', 'alice', true],
    ['real-by-relay', 'bob', true],
  ])
  const status = await mesh.real.status()
  expect(status.BackendState).toBe('Running')
  expect(status.TailscaleIPs).toEqual(nodes.find((node) => node.givenName === 'real')?.ipAddresses)
  expect(Object.values(status.Peer ?? {}).map((peer) => peer.DNSName).sort()).toEqual(['other.lab.test.', 'ours-by-relay.lab.test.', 'ours.lab.test.', 'real-by-relay.lab.test.'])
})

flow('disco ping, direct', async () => {
  expect(await mesh.real.cli('ping', '--c', '20', '--timeout', '3s', mesh.ip.ours)).toMatch(/pong from ours .* via (?!DERP)[^ ]*:\d+ in/)
  expect(await mesh.ours.cli('ping', '--c', '20', '--timeout', '3s', mesh.ip.real)).toMatch(/pong from real .* via (?!DERP)[^ ]*:\d+ in/)
  expect((await mesh.real.peer('ours'))?.CurAddr).not.toBe('')
  expect((await mesh.ours.peer('real'))?.CurAddr).not.toBe('')
})

flow('disco ping, by relay with UDP blocked', async () => {
  expect(await mesh.realByRelay.cli('ping', '--c', '1', '--until-direct=false', '--timeout', '5s', mesh.ip.oursByRelay)).toMatch(/pong from ours-by-relay .* via DERP\(ours\) in/)
  expect(await mesh.oursByRelay.cli('ping', '--c', '1', '--until-direct=false', '--timeout', '5s', mesh.ip.realByRelay)).toMatch(/pong from real-by-relay .* via DERP\(ours\) in/)
})

for (const kind of ['tsmp', 'icmp']) {
  flow(`ping --${kind}, both ways`, async () => {
    for (const [from, to] of [['real', 'ours'], ['realByRelay', 'oursByRelay'], ['real', 'oursByRelay'], ['realByRelay', 'ours']] as const) {
      expect(await mesh[from].cli('ping', `--${kind}`, '--c', '3', '--timeout', '5s', mesh.ip[to])).toContain(`via ${kind.toUpperCase()}`)
      expect(await mesh[to].cli('ping', `--${kind}`, '--c', '1', '--timeout', '5s', mesh.ip[from])).toContain(`via ${kind.toUpperCase()}`)
    }
  })
}

/** A page, a download and an upload from one node to another. */
async function browse(from: Tailscaled | OurNode, to: string): Promise<void> {
  const page = await webThroughSocks(from.socksPort, to, mesh.web)
  expect([page.status, page.body.toString()]).toEqual([200, 'hello'])
  const download = await webThroughSocks(from.socksPort, to, mesh.web, { path: `/bytes/${MEGABYTES_5}`, timeoutMs: 20_000 })
  expect([download.body.length, sha256(download.body)]).toEqual([MEGABYTES_5, patternHash(MEGABYTES_5)])
  const upload = await webThroughSocks(from.socksPort, to, mesh.web, { path: '/hash', body: patternBytes(MEGABYTES_5), timeoutMs: 20_000 })
  expect(upload.body.toString()).toBe(patternHash(MEGABYTES_5))
}

flow('HTTP through its SOCKS5 to our node, direct', async () => {
  const before = (await mesh.ours.status()).Meshwright
  await browse(mesh.real, mesh.ip.ours)
  const after = (await mesh.ours.status()).Meshwright
  expect(after.DirectBytesOut - before.DirectBytesOut).toBeGreaterThan(MEGABYTES_5)
  expect(after.RelayBytesOut - before.RelayBytesOut).toBeLessThan(100_000)
})

flow('HTTP through our SOCKS5 to a program behind it, direct', async () => {
  const before = (await mesh.ours.status()).Meshwright
  await browse(mesh.ours, mesh.ip.real)
  const after = (await mesh.ours.status()).Meshwright
  expect(after.DirectBytesIn - before.DirectBytesIn).toBeGreaterThan(MEGABYTES_5)
  expect(after.RelayBytesIn - before.RelayBytesIn).toBeLessThan(100_000)
})

flow('HTTP through its SOCKS5 to our node, by relay with UDP blocked', async () => {
  await browse(mesh.realByRelay, mesh.ip.oursByRelay)
  expect(await mesh.realByRelay.peer('ours-by-relay')).toMatchObject({ CurAddr: '', Relay: 'ours' })
})

flow('HTTP through our SOCKS5 to a program behind it, by relay with UDP blocked', async () => {
  const before = (await mesh.oursByRelay.status()).Meshwright
  await browse(mesh.oursByRelay, mesh.ip.realByRelay)
  const after = (await mesh.oursByRelay.status()).Meshwright
  expect(after.RelayBytesIn - before.RelayBytesIn).toBeGreaterThan(MEGABYTES_5)
  expect(after.DirectBytesIn + after.DirectBytesOut).toBe(0)
})

flow('two of them with each other, direct', async () => {
  await mesh.real.cli('ping', '--c', '20', '--timeout', '3s', mesh.ip.other)
  await browse(mesh.real, mesh.ip.other)
  expect((await mesh.real.peer('other'))?.CurAddr).not.toBe('')
})

flow('two of them with each other, through our relay', async () => {
  await browse(mesh.realByRelay, mesh.ip.other)
  await browse(mesh.other, mesh.ip.realByRelay)
  expect(await mesh.realByRelay.peer('other')).toMatchObject({ CurAddr: '', Relay: 'ours' })
})

flow('MagicDNS names', async () => {
  expect(await mesh.real.cli('dns', 'query', 'ours.lab.test')).toContain(mesh.ip.ours)
  for (const name of ['ours', 'ours.lab.test']) {
    expect((await webThroughSocks(mesh.real.socksPort, name, mesh.web)).body.toString()).toBe('hello')
  }
  // Its command line asks the system's DNS for full names, which it does not manage here.
  expect(await mesh.real.cli('ping', '--c', '1', '--until-direct=false', '--timeout', '5s', 'ours')).toContain('pong from ours ')
  for (const name of ['real', 'real.lab.test']) {
    expect((await webThroughSocks(mesh.ours.socksPort, name, mesh.web)).body.toString()).toBe('hello')
    expect(await mesh.ours.cli('ping', '--c', '1', '--until-direct=false', '--timeout', '5s', name)).toContain('pong from real ')
  }
  const status = await mesh.real.status()
  expect([status.MagicDNSSuffix, status.CurrentTailnet?.MagicDNSEnabled]).toEqual(['lab.test', true])
})

flow('whois names the user', async () => {
  const seen = async (node: Tailscaled | OurNode, ip: string): Promise<unknown> => {
    const { Node, UserProfile } = JSON.parse(await node.cli('whois', '--json', ip)) as { Node: { Name: string }; UserProfile: { LoginName: string } }
    return [Node.Name, UserProfile.LoginName]
  }
  expect(await seen(mesh.real, mesh.ip.ours)).toEqual(['ours.lab.test.', 'alice'])
  expect(await seen(mesh.real, mesh.ip.oursByRelay)).toEqual(['ours-by-relay.lab.test.', 'bob'])
  expect(await seen(mesh.ours, mesh.ip.real)).toEqual(['real.lab.test.', 'alice'])
  expect(await seen(mesh.ours, mesh.ip.realByRelay)).toEqual(['real-by-relay.lab.test.', 'bob'])
})

/** Milliseconds until `from` can, or cannot, open the page on `to`. */
// Peers that were gone and are back need a new handshake; a lost one is repeated by WireGuard after 5 s, or after 15 s of silence.
const RESTORED_MS = 40_000

async function felt(from: Tailscaled | OurNode, to: string, port: number, wanted: boolean, limitMs: number = 10_000): Promise<number> {
  const begun = performance.now()
  await mesh.lab.until(`${from.name} ${wanted ? 'reaches' : 'no longer reaches'} ${to}:${port}`, async () => {
    const works = await webThroughSocks(from.socksPort, to, port, { timeoutMs: 400 }).then(() => true, () => false)
    return works === wanted
  }, limitMs)
  return performance.now() - begun
}

flow('a forbidden port fails, and works once the policy allows it', async () => {
  const secret = await startWeb(mesh.lab, 'secret')
  const allow = (...ports: readonly number[]): unknown => ({ acls: [{ action: 'accept', src: ['alice@'], dst: [`alice@:${ports.join(',')}`] }] })
  const ways = [[mesh.real, mesh.ip.ours], [mesh.ours, mesh.ip.real]] as const
  try {
    await mesh.control.setPolicy(allow(mesh.web))
    for (const [from, to] of ways) {
      expect(await felt(from, to, secret, false)).toBeLessThan(3_000)
      expect((await webThroughSocks(from.socksPort, to, mesh.web)).body.toString()).toBe('hello')
      await expect(webThroughSocks(from.socksPort, to, secret, { timeoutMs: 1_500 })).rejects.toThrow()
    }
    // Who may not reach anybody there does not even see them.
    expect(await mesh.lab.until('bob sees nothing of alice', async () => !(await mesh.realByRelay.peer('ours')) && !(await mesh.ours.peer('real-by-relay')))).toBe(true)
    await mesh.control.setPolicy(allow(mesh.web, secret))
    for (const ms of await Promise.all(ways.map(([from, to]) => felt(from, to, secret, true)))) expect(ms).toBeLessThan(3_000)
    await mesh.control.setPolicy(allow(mesh.web))
    for (const ms of await Promise.all(ways.map(([from, to]) => felt(from, to, secret, false)))) expect(ms).toBeLessThan(3_000)
    for (const [from, to] of ways) expect((await webThroughSocks(from.socksPort, to, mesh.web)).body.toString()).toBe('hello')
  } finally {
    await mesh.control.setPolicy(OPEN)
  }
  await Promise.all([felt(mesh.real, mesh.ip.oursByRelay, mesh.web, true, RESTORED_MS), felt(mesh.oursByRelay, mesh.ip.real, mesh.web, true, RESTORED_MS)])
})

flow('a policy that does not compile changes nothing', async () => {
  await expect(mesh.control.setPolicy({ acls: [{ action: 'accept', src: ['group:nobody'], dst: ['*:*'] }] })).rejects.toThrow(/group:nobody/)
  expect((await webThroughSocks(mesh.real.socksPort, mesh.ip.ours, mesh.web)).body.toString()).toBe('hello')
})

flow('an empty policy denies everything', async () => {
  try {
    await mesh.control.setPolicy({ acls: [] })
    await Promise.all([felt(mesh.real, mesh.ip.ours, mesh.web, false), felt(mesh.ours, mesh.ip.real, mesh.web, false), felt(mesh.realByRelay, mesh.ip.other, mesh.web, false)])
  } finally {
    await mesh.control.setPolicy(OPEN)
  }
  await Promise.all([felt(mesh.real, mesh.ip.ours, mesh.web, true, RESTORED_MS), felt(mesh.ours, mesh.ip.real, mesh.web, true, RESTORED_MS), felt(mesh.realByRelay, mesh.ip.other, mesh.web, true, RESTORED_MS)])
})

flow('status shows no warning', async () => {
  for (const node of [mesh.real, mesh.realByRelay, mesh.other]) {
    expect((await node.status()).Health ?? []).toEqual([])
    expect(await node.cli('status')).not.toContain('Health check')
  }
  for (const node of [mesh.ours, mesh.oursByRelay]) expect((await node.status()).Health).toEqual([])
})
