import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import { expect } from 'vitest'
import { fetchControlKey } from '@meshwright/runtime-node/control'
import { LightClient } from '../load/light-client.ts'
import { installClock, setClock } from './lab-clock.ts'
import { refusals, SmallDisk } from './lab-disk.ts'
import type { OurNode } from './lab-ours.ts'
import { cpuSeconds, type LabProcess } from './lab-process.ts'
import { Space, SPACE_WEB_PORT, whyNoSpaces } from './lab-space.ts'
import type { Tailscaled } from './lab-tailscaled.ts'
import { patternHash, sha256, webThroughSocks } from './lab-web.ts'
import { OPEN_POLICY } from './lab-fleet.ts'
import { pong } from './lab-ping.ts'
import { type World, worldFlows, Worlds } from './lab-world.ts'
import { patternBytes } from './wireguard-commands.ts'

// Real nodes with TUN devices, each on a computer of its own as far as the network goes: programs there use plain sockets of the kernel,
// and a firewall there blocks UDP for real. A node of ours in userspace mode is the third.
const noSpaces = whyNoSpaces()
const needs = noSpaces === undefined ? [] : [noSpaces]
const worlds = new Worlds()
const login = worldFlows('login', worlds, needs)
const lifetime = worldFlows('lifetime', worlds, needs)
const paths = worldFlows('paths', worlds, needs)
const access = worldFlows('access', worlds, needs)
const features = worldFlows('features', worlds, spawnSync('sh', ['-c', 'command -v ssh']).status === 0 ? needs : [...needs, 'ssh (openssh-client)'])
const faults = worldFlows('faults', worlds, needs)
const BYTES = 100_000_000
const TRANSFER_MS = 240_000
const UDP_PORT = 7_000
const FELT_MS = 2_000
const CHANGES = 10
/** No datagram of a stream with one each 20 ms arrives for so long: they are denied. */
const SILENCE_MS = 400

const HELPER = `
import { createHash } from 'node:crypto'
import dgram from 'node:dgram'
import fs from 'node:fs'
import http from 'node:http'
const [verb, host, port, more, name = host] = process.argv.slice(2)
const socket = () => dgram.createSocket('udp4')
const failed = (error) => { console.error(error.message); process.exit(1) }
if (verb === 'get') http.get({ host, port, path: more ?? '/', headers: { Host: name }, timeout: 3000 }, (answer) => answer.pipe(process.stdout)).on('error', failed).on('timeout', () => failed(new Error('no answer')))
if (verb === 'hash') http.get({ host, port, path: more }, (answer) => { const hash = createHash('sha256'); answer.on('data', (bytes) => hash.update(bytes)).on('end', () => process.stdout.write(hash.digest('hex'))) }).on('error', failed)
if (verb === 'post') fs.createReadStream(more).pipe(http.request({ host, port, path: '/hash', method: 'POST' }, (answer) => answer.pipe(process.stdout)).on('error', failed))
if (verb === 'drip') { let count = 0; http.get({ host, port, path: more }, (answer) => answer.on('data', (bytes) => console.log('got', count += String(bytes).split('\\n').length - 1)).on('end', () => console.log('complete')).on('error', failed)).on('error', failed) }
if (verb === 'receive') { let count = 0; socket().on('message', () => console.log('got', ++count)).bind(Number(port), host, () => console.log('bound')) }
if (verb === 'send') { const out = socket(); setInterval(() => out.send('x', Number(port), host, () => undefined), 20) }
`

interface Tun {
  readonly node: Tailscaled
  readonly space: Space
  readonly ip: string
}

interface Site {
  readonly a: Tun
  readonly b: Tun
  readonly ours: OurNode
  readonly oursIp: string
  readonly script: string
  /** What the control server writes to, from before the first node joined. */
  readonly disk: SmallDisk
  /** A second node of alice's. */
  c: Promise<Tun> | undefined
}

const sites = new Map<World, Promise<Site>>()

function siteOf(world: World): Promise<Site> {
  const made = sites.get(world) ?? startSite(world)
  sites.set(world, made)
  return made
}

async function startSite(world: World): Promise<Site> {
  const script = world.lab.at('tun-helper.mjs')
  writeFileSync(script, HELPER)
  const disk = await SmallDisk.under(world)
  const [first, second] = [await Space.make(world.lab, 'tun-a', { url: world.control.url }), await Space.make(world.lab, 'tun-b', { url: world.control.url })]
  await first.join(second)
  const tun = async (name: string, space: Space, user: 'alice' | 'bob'): Promise<Tun> => {
    const node = await world.join(name, user, { netns: space.name }, '--netfilter-mode=off')
    return { node, space, ip: await node.ip() }
  }
  const [a, b, ours] = await Promise.all([tun('tun-a', first, 'alice'), tun('tun-b', second, 'bob'), world.ours()])
  return { a, b, ours, oursIp: await ours.ip(), script, disk, c: undefined }
}

/** What is written by a program where a node lives that knows nothing of the mesh. */
async function program(site: Site, at: Tun, words: readonly string[], timeoutMs?: number): Promise<string> {
  const { status, out, err } = await at.node.inside(process.execPath, [site.script, ...words], timeoutMs)
  return status === 0 ? out : `nothing: ${err.trim()}`
}

/** A page, fetched by such a program. */
function page(site: Site, from: Tun, host: string, port: number): Promise<string> {
  return program(site, from, ['get', host, String(port)])
}

async function works(world: World, site: Site, limitMs?: number): Promise<void> {
  const { a, b, ours, oursIp } = site
  await world.lab.until('a program at a reaches our node', async () => (await page(site, a, oursIp, world.web)) === 'hello', limitMs)
  await world.lab.until('a program at a reaches b', async () => (await page(site, a, b.ip, SPACE_WEB_PORT)) === `tun-b to ${a.ip}`, limitMs)
  await world.lab.until('a program at b reaches a', async () => (await page(site, b, a.ip, SPACE_WEB_PORT)) === `tun-a to ${b.ip}`, limitMs)
  const atOurs = await ours.ip()
  await world.lab.until('our node reaches a', async () => (await webThroughSocks(ours.socksPort, a.ip, SPACE_WEB_PORT, { timeoutMs: 2_000 })).body.toString() === `tun-a to ${atOurs}`, limitMs)
}

login('TUN: auth key; plain programs reach each other by TCP, over real devices and our node', async (world) => {
  const site = await siteOf(world)
  for (const { node, space, ip } of [site.a, site.b]) {
    expect(await space.ip('addr', 'show', 'dev', 'tailscale0')).toContain(`inet ${ip}/32`)
    expect((await node.status()).BackendState).toBe('Running')
  }
  await works(world, site)
  for (const { node } of [site.a, site.b]) expect(await world.health(node)).toEqual([])
})

const UP = ['--accept-dns=false', '--netfilter-mode=off', '--timeout', '25s'] as const

/** The second node of alice's, once it is wanted. */
function thirdOf(world: World, site: Site): Promise<Tun> {
  site.c ??= (async () => {
    const space = await Space.make(world.lab, 'tun-c', { url: world.control.url })
    const node = await world.join('tun-c', 'alice', { netns: space.name }, '--netfilter-mode=off')
    return { node, space, ip: await node.ip() }
  })()
  return site.c
}

/** Whether the device has this address and no other of the mesh, and programs get through with it. */
async function livesAt(world: World, site: Site, { node, space }: Tun, ip: string): Promise<void> {
  await world.lab.until(`the device has ${ip}`, async () => {
    const told = await space.ip('-4', 'addr', 'show', 'dev', 'tailscale0')
    return told.includes(`inet ${ip}/32`) && told.match(/inet 100\./g)?.length === 1
  })
  await world.lab.until('a program gets through', async () => (await page(site, { node, space, ip }, site.oursIp, world.web)) === 'hello', 40_000)
}

login('TUN: restart, --force-reauth, another profile and back, logout: the device has the address of the moment', async (world) => {
  const site = await siteOf(world)
  const c = await thirdOf(world, site)
  await livesAt(world, site, c, c.ip)
  await c.node.stop('SIGKILL')
  await c.node.start()
  await livesAt(world, site, c, c.ip)
  const key = await world.reusable('alice')
  await c.node.up(world.control.url, key, '--netfilter-mode=off', '--force-reauth')
  await livesAt(world, site, c, c.ip)
  await c.node.cli('login', '--login-server', world.control.url, '--hostname', 'tun-c', ...UP, '--authkey', await world.reusable('bob'))
  const asBob = await c.node.ip()
  expect(asBob).not.toBe(c.ip)
  await livesAt(world, site, c, asBob)
  const profiles = (await c.node.cli('switch', '--list')).trim().split('\n').slice(1).map((line) => line.trim().split(/\s+/))
  await c.node.cli('switch', profiles.find((words) => words.some((word) => word.startsWith('alice')))?.[0] ?? '')
  await livesAt(world, site, c, c.ip)
  await c.node.cli('logout')
  await world.lab.until('the device has no address', async () => !(await c.space.sh('ip -4 addr show dev tailscale0 || true')).includes('inet 100.'))
  // 1.80 may hold settings of its own making after a logout, and then asks for this.
  await c.node.up(world.control.url, key, '--netfilter-mode=off', '--reset')
  await livesAt(world, site, c, c.ip)
  expect(await world.health(c.node)).toEqual([])
})

lifetime('TUN: plain programs are cut off when the key ends, go on when it is extended, and are cut off when the node is deleted', async (world) => {
  const site = await siteOf(world)
  const c = await thirdOf(world, site)
  const { id } = await world.listed('tun-c')
  const cutOff = async (): Promise<void> => {
    // What is no address of the mesh goes to the network of this computer: somebody there may answer.
    const answer = (): Promise<string> => webThroughSocks(site.ours.socksPort, c.ip, SPACE_WEB_PORT, { timeoutMs: 1_000 }).then(({ body }) => body.toString(), () => '')
    await world.lab.until('our node no longer reaches it', async () => !(await answer()).startsWith('tun-c to '))
    expect(await page(site, c, site.oursIp, world.web)).not.toBe('hello')
  }
  await livesAt(world, site, c, c.ip)
  await world.control.cli('nodes', 'expire', '-i', id)
  await cutOff()
  await world.control.cli('nodes', 'expire', '-i', id, '--expiry', '1h')
  await livesAt(world, site, c, c.ip)
  await world.control.cli('nodes', 'delete', '-i', id, '--force')
  await cutOff()
  await c.node.up(world.control.url, await world.reusable('alice'), '--netfilter-mode=off', '--force-reauth')
  // 1.84 and 1.88 may take for success that they were running a moment ago; numbers of deleted nodes are not given again.
  const ip = await world.lab.until('it has another address', async () => {
    const now = await c.node.ip()
    return now !== c.ip && now
  })
  site.c = Promise.resolve({ ...c, ip })
  await livesAt(world, site, c, ip)
})

const BLOCK = 'nft add table inet block && nft add chain inet block out "{ type filter hook output priority 0; }" && nft add chain inet block in "{ type filter hook input priority 0; }" && nft add rule inet block out oifname != "tailscale0" meta l4proto udp drop && nft add rule inet block in iifname != "tailscale0" meta l4proto udp drop'

/** Pings until the way is the wanted one; gives it. */
async function way(world: World, from: Tailscaled, to: string, wanted: RegExp, limitMs: number): Promise<number> {
  const begun = performance.now()
  await world.lab.until(`the way to ${to} is ${String(wanted)}`, async () => wanted.test((await from.run(['ping', '--c', '1', '--until-direct=false', '--timeout', '2s', to])).out), limitMs)
  return performance.now() - begun
}

const BY_RELAY = /via DERP\(ours\)/
const DIRECT = /via (?!DERP)[^ ]*:\d+ in/

paths('TUN: pings of each kind directly; with UDP blocked by a firewall everything goes by relay; directly again once it is open', async (world) => {
  const site = await siteOf(world)
  const { a, b, oursIp } = site
  const kinds = async (): Promise<void> => {
    for (const to of [b.ip, oursIp]) {
      expect(await pong(a.node, '--tsmp', '--timeout', '8s', to)).toContain('via TSMP')
      expect(await pong(a.node, '--icmp', '--timeout', '8s', to)).toContain('via ICMP')
    }
    expect(await pong(a.node, '--peerapi', '--timeout', '8s', b.ip)).toContain('hit peerapi of')
  }
  const netcheck = async (): Promise<{ readonly UDP: boolean; readonly GlobalV4?: string; readonly RegionLatency?: Readonly<Record<string, number>> | null }> =>
    JSON.parse((await a.node.inside('env', [`SSL_CERT_FILE=${world.base.trust.SSL_CERT_FILE}`, a.node.program, `--socket=${a.node.socket}`, 'netcheck', '--format=json'])).out) as { UDP: boolean } // the program's own words
  await works(world, site)
  for (const to of [b.ip, oursIp]) await way(world, a.node, to, DIRECT, 40_000)
  await kinds()
  const open = await netcheck()
  expect([open.UDP, (await a.space.ip('-4', 'addr')).includes(`inet ${open.GlobalV4?.split(':')[0] ?? '?'}/`), Object.keys(open.RegionLatency ?? {})]).toEqual([true, true, ['900']])
  await a.space.sh(BLOCK)
  try {
    for (const to of [b.ip, oursIp]) await way(world, a.node, to, BY_RELAY, 40_000)
    await works(world, site)
    await kinds()
    expect((await netcheck()).UDP).toBe(false)
  } finally {
    await a.space.sh('nft delete table inet block')
  }
  for (const to of [b.ip, oursIp]) await way(world, a.node, to, DIRECT, 40_000)
  await works(world, site)
}, 400_000)

function received(receiver: LabProcess): number {
  return Number(/got (\d+)\s*(?:complete\s*)?$/.exec(receiver.log)?.[1] ?? 0)
}

access('TUN: a stream of datagrams stops when its port is taken away, while another goes on; both go on once it is back', async (world) => {
  const site = await siteOf(world)
  const { a, b, script } = site
  const allow = (...ports: readonly number[]): unknown => ({ acls: [{ action: 'accept', src: ['*'], dst: [`*:${ports.join(',')}`] }] })
  const start = (at: Tun, ...words: readonly string[]): LabProcess => world.lab.start(`${words[0] ?? ''} at ${at.node.name}`, 'ip', ['netns', 'exec', at.space.name, process.execPath, script, ...words])
  await works(world, site)
  const ports = [UDP_PORT, UDP_PORT + 1] as const
  const receivers = ports.map((port) => start(b, 'receive', b.ip, String(port)))
  for (const receiver of receivers) await world.lab.until('the receiver is ready', () => receiver.log.includes('bound'))
  const senders = ports.map((port) => start(a, 'send', b.ip, String(port)))
  const counts = (): readonly number[] => receivers.map(received)
  await world.lab.until('both streams flow', () => counts().every((count) => count > 10))
  const felt: number[] = []
  for (let change = 0; change < CHANGES; change += 1) {
    const allowed = change % 2 === 1
    const [, before = 0] = counts()
    const begun = performance.now()
    await world.control.setPolicy(allowed ? allow(...ports) : allow(ports[1]))
    let [last, lastAt] = [counts()[0] ?? 0, begun]
    await world.lab.until(`the stream ${allowed ? 'flows again' : 'stops'}`, () => {
      const [now = 0] = counts()
      if (now > last) [last, lastAt] = [now, performance.now()]
      return allowed ? lastAt > begun : performance.now() - lastAt > SILENCE_MS
    }, 5 * FELT_MS, 10)
    felt.push(lastAt - begun)
    await world.lab.until('the other goes on', () => (counts()[1] ?? 0) > before + 10, FELT_MS)
  }
  expect(felt.filter((ms) => ms > FELT_MS)).toEqual([])
  await world.control.setPolicy(OPEN_POLICY)
  for (const each of [...senders, ...receivers]) await each.stop('SIGKILL')
})

paths('TUN: HTTP, 100 MB each way, directly and by relay with UDP blocked', async (world) => {
  const site = await siteOf(world)
  const { a, ours, oursIp } = site
  const file = world.lab.at('upload.bin')
  writeFileSync(file, patternBytes(BYTES))
  const transfers = async (): Promise<void> => {
    expect(await program(site, a, ['hash', oursIp, String(world.web), `/bytes/${BYTES}`], TRANSFER_MS)).toBe(patternHash(BYTES))
    expect(await program(site, a, ['post', oursIp, String(world.web), file], TRANSFER_MS)).toBe(patternHash(BYTES))
  }
  const bytes = async (): Promise<readonly [number, number]> => {
    const { DirectBytesIn, DirectBytesOut, RelayBytesIn, RelayBytesOut } = (await ours.status()).Meshwright
    return [DirectBytesIn + DirectBytesOut, RelayBytesIn + RelayBytesOut]
  }
  await way(world, a.node, oursIp, DIRECT, 40_000)
  const before = await bytes()
  await transfers()
  const direct = await bytes()
  expect(direct[0] - before[0]).toBeGreaterThan(2 * BYTES)
  await a.space.sh(BLOCK)
  try {
    await way(world, a.node, oursIp, BY_RELAY, 40_000)
    await world.lab.until('pages come by relay', async () => (await page(site, a, oursIp, world.web)) === 'hello')
    await transfers()
    expect((await bytes())[1] - direct[1]).toBeGreaterThan(2 * BYTES)
  } finally {
    await a.space.sh('nft delete table inet block')
  }
  await way(world, a.node, oursIp, DIRECT, 40_000)
}, 900_000)

const SSH_USERS = { src: ['alice@'], dst: ['autogroup:self'], users: ['root'] }
const SSH_OPTIONS = ['StrictHostKeyChecking=no', 'UserKnownHostsFile=/dev/null', 'BatchMode=yes', 'IdentityAgent=none', 'GlobalKnownHostsFile=/dev/null', 'ConnectTimeout=5'].flatMap((option) => ['-o', option])

/** Puts a policy for SSH between alice's nodes in force; gives how to run a command from the first node at her second, as root. */
async function sshOf(world: World, site: Site): Promise<(command: string) => Promise<{ readonly status: number; readonly out: string; readonly err: string }>> {
  const c = await thirdOf(world, site)
  await c.node.cli('set', '--ssh')
  await world.control.setPolicy({ ...(OPEN_POLICY as object), ssh: [{ action: 'accept', ...SSH_USERS }] })
  const ssh = (command: string): Promise<{ readonly status: number; readonly out: string; readonly err: string }> => site.a.node.inside('ssh', ['-F', 'none', ...SSH_OPTIONS, `root@${c.ip}`, command], 60_000)
  // tailscaled 1.80 ends itself when a policy comes while a session is being let in (isStillValid of its ssh/tailssh, on a connection that is not judged yet).
  await world.lab.until('the policy for SSH has come', async () => (await c.node.cli('debug', 'netmap')).includes('"sshUsers"'))
  await world.lab.until('a session is let in', async () => {
    const { status, out } = await ssh('echo $((6 * 7)); exit 3')
    return status === 3 && out === '42\n'
  })
  return ssh
}

features('TUN: SSH by the usual client, Taildrop, serve and nc', async (world) => {
  const site = await siteOf(world)
  const [{ node: from }, c] = [site.a, await thirdOf(world, site)]
  const to = c.node
  const ssh = await sshOf(world, site)
  await world.control.setPolicy(OPEN_POLICY)
  await world.lab.until('no session is let in', async () => (await ssh('echo in')).status === 255)

  const [file, inbox] = [world.lab.at('picture.bin'), world.lab.at('inbox')]
  writeFileSync(file, patternBytes(1_000_000))
  mkdirSync(inbox)
  await world.lab.until('it is a target', async () => (await from.cli('file', 'cp', '--targets')).includes('tun-c'))
  await from.cli('file', 'cp', file, 'tun-c:')
  await to.cli('file', 'get', inbox)
  expect(readdirSync(inbox)).toEqual(['picture.bin'])
  expect(sha256(readFileSync(`${inbox}/picture.bin`))).toBe(patternHash(1_000_000))

  await to.cli('serve', '--bg', '--http=8080', `http://localhost:${SPACE_WEB_PORT}`)
  await to.cli('serve', '--bg', '--tcp=9000', `tcp://localhost:${SPACE_WEB_PORT}`)
  const served = /^tun-c to (127\.0\.0\.1|::1)$/
  await world.lab.until('the page is served by HTTP', async () => served.test(await program(site, site.a, ['get', c.ip, '8080', '/', 'tun-c.lab.test:8080'])))
  await world.lab.until('the page is served by TCP', async () => served.test(await program(site, site.a, ['get', c.ip, '9000'])))
  const { out } = await from.inside('sh', ['-c', `(printf 'GET / HTTP/1.0\\r\\n\\r\\n'; sleep 2) | "$0" --socket="$1" nc "$2" 9000`, from.program, from.socket, c.ip])
  expect(out).toMatch(/200 OK[^]*tun-c to /)
  await to.cli('serve', 'reset')
})

features('TUN: SSH check mode: a session is held until the command line approves it, the next is not asked; one that is refused ends', async (world) => {
  const site = await siteOf(world)
  const c = await thirdOf(world, site)
  const ssh = await sshOf(world, site)
  const check = async (period: object): Promise<void> => {
    await world.control.setPolicy({ ...(OPEN_POLICY as object), ssh: [{ action: 'check', ...period, ...SSH_USERS }] })
    await world.lab.until('the rules are there', async () => JSON.stringify((await c.node.netmap())['SSHPolicy'] ?? '').includes('holdAndDelegate'))
  }
  const held = (): Promise<string> => world.lab.until('a session waits', async () => (await world.control.json<readonly { readonly authId: string }[]>('ssh', 'list'))[0]?.authId)
  await check({})
  const first = ssh('echo checked')
  expect(await world.control.cli('ssh', 'approve', '--auth-id', await held())).toBe('SSH from tun-a to tun-c as root was approved.\n')
  expect(await first).toMatchObject({ status: 0, out: 'checked\n' })
  expect((await ssh('echo again')).out).toBe('again\n')
  // What was approved does not count for a rule that asks always.
  await check({ checkPeriod: 'always' })
  const second = ssh('echo in')
  await world.control.cli('ssh', 'reject', '--auth-id', await held())
  const { status, out, err } = await second
  expect([status, out]).toEqual([255, ''])
  expect(err).toContain('An administrator refused this session.')
  await world.control.setPolicy(OPEN_POLICY)
})

/** A node that is only talked about: what it tells its server is heard by daemons, or not. */
class Told {
  readonly #world: World
  readonly client: LightClient
  readonly #id: number

  private constructor(world: World, client: LightClient, id: number) {
    this.#world = world
    this.client = client
    this.#id = id
  }

  static async join(world: World, index: number): Promise<Told> {
    const client = new LightClient(index, { frame: () => undefined, lost: () => undefined })
    world.lab.onStop(() => client.drop())
    await client.join(world.control.url, await fetchControlKey({ url: world.control.url }), await world.reusable('alice'))
    await client.poll()
    return new Told(world, client, Number((await world.listed(client.name)).id))
  }

  /** Gets another name; ends when all these know it. */
  async renamed(name: string, nodes: readonly Tailscaled[]): Promise<void> {
    await this.#world.control.ask({ command: 'renameNode', id: this.#id, newName: name })
    for (const node of nodes) await this.#world.lab.until(`${node.name} hears of ${name}`, async () => (await node.peer(name)) !== undefined)
  }
}

faults('TUN: a node that never reads, and a slow one: connections of the others go on, and both learn all when they read again', async (world) => {
  const site = await siteOf(world)
  const { a, b, oursIp, script } = site
  const c = await thirdOf(world, site)
  const [frozen, slow] = [c.node.pid, b.node.pid]
  if (frozen === undefined || slow === undefined) throw new Error('not all nodes run')
  const told = await Told.join(world, 1)
  await works(world, site)
  const drip = world.lab.start(`drip at ${a.node.name}`, 'ip', ['netns', 'exec', a.space.name, process.execPath, script, 'drip', oursIp, String(world.web), '/drip/160'])
  await world.lab.until('it flows', () => received(drip) > 5)
  process.kill(frozen, 'SIGSTOP')
  // Reads for a moment, twice a second.
  const crawl = setInterval(() => {
    process.kill(slow, 'SIGCONT')
    setTimeout(() => process.kill(slow, 'SIGSTOP'), 50)
  }, 500)
  try {
    for (let round = 0; round < 40; round += 1) await told.client.update(Array.from({ length: 60 }, (_, n) => `198.51.100.${n}:${10_000 + round * 61 + n}`))
    await told.renamed('told-meanwhile', [a.node])
  } finally {
    clearInterval(crawl)
    await pause(100) // its last moment is over
    for (const pid of [frozen, slow]) process.kill(pid, 'SIGCONT')
  }
  await told.renamed('told-again', [a.node, b.node, c.node])
  await world.lab.until('the connection ends as it should', () => drip.log.includes('complete'))
  expect(drip.log).toContain('got 160\n')
  await drip.stop('SIGKILL')
  await works(world, site)
  await livesAt(world, site, c, c.ip)
  for (const { node } of [a, b]) await world.lab.until(`${node.name} has nothing to complain of`, async () => (await world.health(node)).length === 0)
})

faults('TUN: the clock of the control server jumps a day ahead, and back: connections of plain programs go on, and news come', async (world) => {
  const site = await siteOf(world)
  const { a, b, oursIp, script } = site
  await installClock(world)
  await world.control.stop()
  await world.control.start()
  const told = await Told.join(world, 2)
  await works(world, site)
  const drip = world.lab.start(`drip at ${a.node.name}`, 'ip', ['netns', 'exec', a.space.name, process.execPath, script, 'drip', oursIp, String(world.web), '/drip/160'])
  await world.lab.until('it flows', () => received(drip) > 5)
  for (const [name, days] of [['told-tomorrow', 1], ['told-yesterday', -1], ['told-today', 0]] as const) {
    await setClock(world, days * 86_400_000)
    await told.renamed(name, [a.node, b.node])
    expect((await world.control.nodes()).filter((node) => /^tun-[ab]$/.test(node.givenName)).map((node) => node.online)).toEqual([true, true])
  }
  await world.lab.until('the connection ends as it should', () => drip.log.includes('complete'))
  expect(drip.log).toContain('got 160\n')
  await drip.stop('SIGKILL')
  await works(world, site)
  for (const { node } of [a, b]) await world.lab.until(`${node.name} has nothing to complain of`, async () => (await world.health(node)).length === 0)
})

faults('TUN: a disk that is full refuses changes with the reason; connections of plain programs go on, and news come again when there is room', async (world) => {
  const site = await siteOf(world)
  const { a, b, oursIp, script, disk } = site
  await works(world, site)
  const told = await Told.join(world, 3)
  await told.renamed('told-before', [a.node, b.node])
  const drip = world.lab.start(`drip at ${a.node.name}`, 'ip', ['netns', 'exec', a.space.name, process.execPath, script, 'drip', oursIp, String(world.web), '/drip/100'])
  await world.lab.until('it flows', () => received(drip) > 5)
  disk.fill()
  const refused = await refusals(world, 20)
  expect(refused.length).toBeGreaterThan(0)
  expect(refused[0]).toMatch(/could not be stored: .*full/)
  // Who was there goes on, also with whom it had not talked yet.
  expect(await page(site, b, oursIp, world.web)).toBe('hello')
  disk.clear()
  await told.renamed('told-with-room', [a.node, b.node])
  await world.lab.until('the connection ends as it should', () => drip.log.includes('complete'))
  expect(drip.log).toContain('got 100\n')
  await drip.stop('SIGKILL')
  await works(world, site)
  for (const { node } of [a, b]) await world.lab.until(`${node.name} has nothing to complain of`, async () => (await world.health(node)).length === 0)
})

faults('TUN: two polls of one node: a copy of its computer makes no storm, nobody else notices, and the node goes on when the copy is gone', async (world) => {
  const site = await siteOf(world)
  const { a, oursIp, script } = site
  const c = await thirdOf(world, site)
  const { id } = await world.listed('tun-c')
  await livesAt(world, site, c, c.ip)
  const space = await Space.make(world.lab, 'tun-copy', { url: world.control.url })
  cpSync(world.lab.at('tun-c'), world.lab.at('tun-copy'), { recursive: true })
  rmSync(world.lab.at('tun-copy', 'etc'), { recursive: true })
  const drip = world.lab.start(`drip at ${a.node.name}`, 'ip', ['netns', 'exec', a.space.name, process.execPath, script, 'drip', oursIp, String(world.web), '/drip/160'])
  const copy = await world.daemon('tun-copy', { netns: space.name })
  await world.lab.until('the copy runs, as the same node', async () => (await copy.status()).BackendState === 'Running' && (await copy.ip()) === c.ip)
  const cpu = cpuSeconds(world.control.pid)
  await pause(5_000)
  expect(cpuSeconds(world.control.pid) - cpu).toBeLessThan(1)
  expect((await world.control.nodes()).filter((node) => node.ipAddresses.includes(c.ip)).map((node) => [node.id, node.online])).toEqual([[id, true]])
  await copy.stop('SIGKILL')
  await world.lab.until('the connection ends as it should', () => drip.log.includes('complete'))
  expect(drip.log).toContain('got 160\n')
  await drip.stop('SIGKILL')
  await livesAt(world, site, c, c.ip)
})

faults('TUN: control server killed and started again: datagrams and connections of plain programs go on', async (world) => {
  const site = await siteOf(world)
  const { a, b, oursIp, script } = site
  await works(world, site)
  const start = (at: Tun, ...words: readonly string[]): LabProcess => world.lab.start(`${words[0] ?? ''} at ${at.node.name}`, 'ip', ['netns', 'exec', at.space.name, process.execPath, script, ...words])
  const receiver = start(b, 'receive', b.ip, String(UDP_PORT + 2))
  await world.lab.until('the receiver is ready', () => receiver.log.includes('bound'))
  const [sender, drip] = [start(a, 'send', b.ip, String(UDP_PORT + 2)), start(a, 'drip', oursIp, String(world.web), '/drip/160')]
  await world.lab.until('both flow', () => received(receiver) > 10 && received(drip) > 5)
  await world.control.stop('SIGKILL')
  const [datagrams, lines] = [received(receiver), received(drip)]
  await pause(1_500)
  await world.control.start()
  expect(received(receiver)).toBeGreaterThan(datagrams + 30)
  expect(received(drip)).toBeGreaterThan(lines + 10)
  await world.lab.until('all are online again', async () => (await world.control.nodes()).filter((node) => /^tun-[ab]$/.test(node.givenName)).every((node) => node.online), 40_000)
  await world.lab.until('the connection ends as it should', () => drip.log.includes('complete'))
  expect(drip.log).toContain('got 160\n')
  const at = received(receiver)
  await world.lab.until('datagrams go on', () => received(receiver) > at + 20)
  for (const each of [sender, receiver, drip]) await each.stop('SIGKILL')
  for (const { node } of [a, b]) await world.lab.until(`${node.name} has nothing to complain of`, async () => (await world.health(node)).length === 0)
})
