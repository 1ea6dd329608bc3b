import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { buildProgram, closeHosts, kernelHasWireGuard, type Line, WireGuardHost, whyNoWgTools } from './wireguard-host.ts'

// Three hosts made from one description: every one of them runs wg-quick on what "meshwright-wg mesh" wrote, and nothing else.
const missing = whyNoWgTools() ?? (kernelHasWireGuard() ? 'this kernel has WireGuard, which wg-quick prefers' : undefined)
const REQUIRED = process.env['REQUIRE_INTEROP'] === '1'
const NAMES = ['hub', 'web', 'phone'] as const
const [ALLOWED, DENIED] = [5001, 5002]
const MESH = `{
  // "phone" is reached by nobody before it has called: it has no endpoint
  "keepalive": 5,
  "hosts": {
    "hub": { "addresses": ["10.90.0.1", "fd90::1"], "endpoint": "192.0.2.1:51820" },
    "web": { "addresses": ["10.90.0.2", "fd90::2"], "endpoint": "[2001:db8::2]:51820" },
    "phone": { "addresses": ["10.90.0.3"] },
  },
  "allow": [
    { "from": ["hub", "phone"], "to": ["web"], "ports": ["tcp/${ALLOWED}"] },
    { "from": ["*"], "to": ["hub", "web", "phone"], "ports": ["icmp"] },
  ],
}`

beforeAll(() => {
  if (missing === undefined) buildProgram()
})
afterAll(closeHosts)

/** The three hosts, and the folder of whoever administers them. */
class Mesh {
  readonly hosts: ReadonlyMap<string, WireGuardHost>
  readonly #line: Line
  readonly #admin: WireGuardHost

  private constructor(hosts: ReadonlyMap<string, WireGuardHost>, line: Line, admin: WireGuardHost) {
    this.hosts = hosts
    this.#line = line
    this.#admin = admin
  }

  static async start(): Promise<Mesh> {
    const hosts = await Promise.all(NAMES.map(() => WireGuardHost.create()))
    const line = await WireGuardHost.line(...hosts)
    const made = new Mesh(new Map(NAMES.map((name, index) => [name, hosts[index] ?? unreachable()])), line, hosts[0] ?? unreachable())
    made.describe(MESH)
    await made.write('mesh')
    for (const name of NAMES) await made.of(name).run('wg-quick', 'up', 'wg0')
    return made
  }

  of(name: (typeof NAMES)[number]): WireGuardHost {
    return this.hosts.get(name) ?? unreachable()
  }

  describe(text: string): void {
    this.#admin.file('mesh.hujson', text)
  }

  /** Runs a verb on the description, and puts every file that is new or changed where its host has it. Gives "changed web/wg0.nft". */
  async write(...verb: readonly string[]): Promise<readonly string[]> {
    const { folder } = this.#admin
    const said = await this.#admin.run('meshwright-wg', ...verb, path.join(folder, 'mesh.hujson'), '--out', path.join(folder, 'out'))
    return said.split('\n').flatMap((line) => {
      const [, how, file = ''] = /^(new|changed) +(.*)$/.exec(line) ?? []
      if (how === undefined) return []
      const name = path.relative(path.join(folder, 'out'), file)
      this.hosts.get(path.dirname(name))?.install(`/etc/wireguard/${path.basename(name)}`, readFileSync(file, 'utf8'))
      return [`${how} ${name}`]
    })
  }

  /** Puts a changed file to use on a running interface. */
  async sync(name: (typeof NAMES)[number]): Promise<void> {
    await this.of(name).run('bash', '-c', 'wg syncconf wg0 <(wg-quick strip wg0)')
  }

  /** The secrets that the description led to must not be on the line either. */
  async finish(): Promise<void> {
    const stored: Record<string, Record<string, string>> = JSON.parse(readFileSync(path.join(this.#admin.folder, 'out', 'mesh-secrets.json'), 'utf8'))
    for (const [kind, secrets] of Object.entries(stored)) for (const [name, text] of Object.entries(secrets)) this.#admin.remember(`${kind} of ${name}`, Buffer.from(text, 'base64'))
    await this.#line.finish()
  }

  async close(): Promise<void> {
    for (const host of this.hosts.values()) await host.close()
    this.#line.close()
  }
}

function flow(title: string, run: (mesh: Mesh) => Promise<void>): void {
  test.concurrent(`${title} [wg-quick]`, async (context) => {
    if (missing !== undefined && !REQUIRED) return context.skip(missing)
    if (missing !== undefined) throw new Error(missing)
    const mesh = await Mesh.start()
    try {
      await run(mesh)
      await mesh.finish()
    } finally {
      await mesh.close()
    }
  })
}

flow('a mesh of three hosts from one file: what is allowed is reached, all else is not; another run changes what differs', async (mesh) => {
  const [hub, web, phone] = NAMES.map((name) => mesh.of(name))
  if (hub === undefined || web === undefined || phone === undefined) return unreachable()
  for (const host of [hub, web, phone]) for (const port of [ALLOWED, DENIED]) await host.serve(port)
  await Promise.all([hub.reach('10.90.0.2'), phone.reach('10.90.0.2'), phone.reach('10.90.0.1')])
  expect(await Promise.all([hub.ping('10.90.0.2', 5), phone.ping('10.90.0.2', 5), web.ping('fd90::1', 5), phone.ping('10.90.0.1', 5)])).toEqual(Array(4).fill({ sent: 5, answered: 5 }))
  expect(await Promise.all([hub.knock('10.90.0.2', ALLOWED), hub.knock('fd90::2', ALLOWED), phone.knock('10.90.0.2', ALLOWED)])).toEqual(['open', 'open', 'open'])
  expect(await Promise.all([hub.knock('10.90.0.2', DENIED), phone.knock('10.90.0.1', ALLOWED), web.knock('fd90::1', ALLOWED), web.knock('10.90.0.3', ALLOWED)])).toEqual(Array(4).fill('silence'))
  // The rules are those of the tunnel: on the line everybody answers.
  expect(await hub.knock('192.0.2.2', DENIED)).toBe('open')

  expect(await mesh.write('mesh')).toEqual([])
  const handshakes = await web.run('wg', 'show', 'wg0', 'latest-handshakes')
  const pinging = hub.ping('10.90.0.2', 60)
  mesh.describe(MESH.replace(`"tcp/${ALLOWED}"`, `"tcp/${ALLOWED}-${DENIED}"`))
  expect(await mesh.write('mesh')).toEqual(['changed web/wg0.nft'])
  await web.run('nft', '-f', '/etc/wireguard/wg0.nft')
  expect(await hub.knock('10.90.0.2', DENIED)).toBe('open')
  expect(await pinging).toEqual({ sent: 60, answered: 60 })
  expect(await web.run('wg', 'show', 'wg0', 'latest-handshakes')).toBe(handshakes)

  await web.run('wg-quick', 'down', 'wg0')
  expect(await web.run('nft', 'list', 'tables')).toBe('')
})

flow('rotate: two steps, with the old and the new key side by side between them, and no ping lost', async (mesh) => {
  const [hub, web, phone] = [mesh.of('hub'), mesh.of('web'), mesh.of('phone')]
  const pings = 200
  await Promise.all([hub.reach('10.90.0.2'), phone.reach('10.90.0.2')])
  const old = (await web.run('wg', 'show', 'wg0', 'public-key')).trim()
  const pinging = Promise.all([hub.ping('10.90.0.2', pings), web.ping('10.90.0.1', pings), phone.ping('10.90.0.2', pings), web.ping('10.90.0.3', pings), hub.ping('fd90::2', pings)])

  expect(await mesh.write('rotate', 'web')).toEqual(['changed hub/wg0.conf', 'changed phone/wg0.conf'])
  for (const name of ['hub', 'phone'] as const) await mesh.sync(name)
  const sideBySide = await hub.run('wg', 'show', 'wg0', 'allowed-ips')
  expect(sideBySide).toContain(`${old}\t10.90.0.2/32 fd90::2/128\n`)
  const next = /^(\S+)\t\(none\)$/m.exec(sideBySide)?.[1]
  expect(next).toBeDefined()

  expect(await mesh.write('rotate', 'web')).toEqual(['changed hub/wg0.conf', 'changed web/wg0.conf', 'changed phone/wg0.conf'])
  for (const name of ['web', 'hub', 'phone'] as const) await mesh.sync(name)
  expect(await pinging).toEqual(Array(5).fill({ sent: pings, answered: pings }))
  const key = (await web.run('wg', 'show', 'wg0', 'public-key')).trim()
  expect(key).toBe(next)
  for (const host of [hub, phone]) {
    expect(await host.run('wg', 'show', 'wg0', 'allowed-ips')).toContain(`${key}\t10.90.0.2/32 fd90::2/128\n`)
    expect(await host.run('wg', 'show', 'wg0', 'peers')).not.toContain(old)
  }
  expect(await mesh.write('mesh')).toEqual([])
})

flow('audit: drift, peers that were never seen or fell silent, prefixes that are too wide, one key in two places', async (mesh) => {
  const [hub, web, phone] = [mesh.of('hub'), mesh.of('web'), mesh.of('phone')]
  const conf = '/etc/wireguard/wg0.conf'
  const kinds = async (host: WireGuardHost, ...files: readonly string[]): Promise<{ readonly status: number | null; readonly kinds: readonly string[] }> => {
    const { status, stdout } = await host.try('meshwright-wg', ['audit', '--json', ...files])
    const { findings }: { readonly findings: readonly { readonly kind: string; readonly interface: string }[] } = JSON.parse(stdout)
    return { status, kinds: findings.map((finding) => finding.kind).toSorted() }
  }
  expect(await kinds(web, conf)).toMatchObject({ status: 1, kinds: expect.arrayContaining(['never-seen']) })
  await Promise.all([web.reach('10.90.0.1'), phone.reach('10.90.0.2'), phone.reach('10.90.0.1')])
  expect(await kinds(web, conf)).toEqual({ status: 0, kinds: [] })
  expect(await web.run('meshwright-wg', 'audit', conf)).toBe('nothing found\n')

  const phoneKey = (await phone.run('wg', 'show', 'wg0', 'public-key')).trim()
  await web.run('wg', 'set', 'wg0', 'peer', phoneKey, 'allowed-ips', '10.90.0.3/32,0.0.0.0/0')
  expect(await kinds(web, conf)).toEqual({ status: 1, kinds: ['drift'] })
  expect((await web.try('meshwright-wg', ['audit', conf])).stdout).toContain(`wg0: drift: ${phoneKey}: allowed IPs are`)
  web.install(conf, web.read(conf).replace('10.90.0.3/32', '10.90.0.3/32, 0.0.0.0/0'))
  expect(await kinds(web, conf)).toEqual({ status: 1, kinds: ['wide'] })
  await web.run('wg-quick', 'down', 'wg0')
  expect(await kinds(web, conf)).toEqual({ status: 1, kinds: ['down', 'wide'] })

  // Another program's interface, whose peer was heard from long ago in spite of keepalives.
  const [own, peer] = [await hub.keys(), await hub.keys()]
  hub.install('/etc/wireguard/wg7.conf', `[Interface]\nPrivateKey = ${own.secret}\n[Peer]\nPublicKey = ${peer.key}\nAllowedIPs = 10.7.0.1/32\nPersistentKeepalive = 25\n`)
  const hex = (text: string): string => Buffer.from(text, 'base64').toString('hex')
  const answer = `private_key=${hex(own.secret)}\npublic_key=${hex(peer.key)}\nlast_handshake_time_sec=${Math.floor(Date.now() / 1000) - 400}\nlast_handshake_time_nsec=0\npersistent_keepalive_interval=25\nallowed_ip=10.7.0.1/32\nerrno=0\n\n`
  const stub = hub.start(process.execPath, '-e', 'require("node:net").createServer((socket) => socket.on("data", () => socket.end(process.argv[1]))).listen("/run/wireguard/wg7.sock", () => console.log("ready"))', answer)
  await new Promise((resolve) => stub.stdout?.once('data', resolve))
  expect(await kinds(hub, '/etc/wireguard/wg7.conf')).toEqual({ status: 1, kinds: ['silent'] })

  // Another host takes the phone's key, and both talk to the hub by turns.
  web.install('/etc/wireguard/wg0.conf', phone.read(conf))
  await web.run('wg-quick', 'up', 'wg0')
  for (let i = 0; i < 2; i += 1) {
    await web.reach('10.90.0.1')
    await phone.run('wg', 'set', 'wg0', 'private-key', '/dev/null')
    await phone.run('bash', '-c', 'wg syncconf wg0 <(wg-quick strip wg0)')
    await phone.reach('10.90.0.1')
    await web.run('wg', 'set', 'wg0', 'private-key', '/dev/null')
    await web.run('bash', '-c', 'wg syncconf wg0 <(wg-quick strip wg0)')
  }
  expect(await kinds(hub, conf)).toMatchObject({ status: 1, kinds: expect.arrayContaining(['two-places']) })
  // The same in files: two interfaces of one host with one key.
  hub.install('/etc/wireguard/wg8.conf', readFileSync(path.join(hub.folder, 'out', 'hub', 'wg0.conf'), 'utf8'))
  expect((await kinds(hub, conf, '/etc/wireguard/wg8.conf')).kinds).toContain('duplicate-key')
  writeFileSync(path.join(hub.folder, 'bad.conf'), '[Interface]\nPrivateKey = x\n')
  expect(await hub.try('meshwright-wg', ['audit', path.join(hub.folder, 'bad.conf')])).toMatchObject({ status: 2, stderr: expect.stringContaining('bad.conf:2:14:') })
})

function unreachable(): never {
  throw new Error('there are three hosts')
}
