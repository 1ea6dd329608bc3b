import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { ControlClient, type ControlClientOutput, type ControlState, formatControlState, type NetworkMap, parseControlState } from '@meshwright/control-client'
import { instant, type Instant } from '@meshwright/core'
import { DiscoPrivateKey } from '@meshwright/crypto'
import { parseEndpoint } from '@meshwright/ip'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ControlTransport } from '../../packages/runtime-node/src/control-dial.ts'
import { drive, type Driver } from '../../packages/runtime-node/src/drive.ts'
import { systemRandom } from '../../packages/runtime-node/src/random.ts'
import { freePort } from './lab-process.ts'

const run = promisify(execFile)
const folder = process.env.MESHWRIGHT_INTEROP_BIN
const headscale = folder === undefined ? undefined : path.join(folder, 'headscale')
const missing = headscale === undefined ? 'MESHWRIGHT_INTEROP_BIN is not set' : existsSync(headscale) ? undefined : `${headscale} does not exist`
const WAIT_MS = 20_000

/** A real headscale on loopback with an open policy and one user, alice. */
class Headscale {
  readonly #program: string
  readonly #dir: string
  readonly url: string
  #process: ChildProcess | undefined

  private constructor(program: string, dir: string, url: string) {
    this.#program = program
    this.#dir = dir
    this.url = url
  }

  static async start(program: string): Promise<Headscale> {
    const dir = await mkdtemp(path.join(tmpdir(), 'meshwright-headscale-'))
    const [port, metrics] = await Promise.all([freePort(), freePort()])
    const server = new Headscale(program, dir, `http://127.0.0.1:${port}`)
    await writeFile(path.join(dir, 'policy.hujson'), '{"acls":[{"action":"accept","src":["*"],"dst":["*:*"]}]}')
    await writeFile(
      path.join(dir, 'derp.yaml'),
      'regions:\n  900:\n    regionid: 900\n    regioncode: lab\n    regionname: Lab\n    nodes:\n      - {name: 900a, regionid: 900, hostname: 127.0.0.1, ipv4: 127.0.0.1, ipv6: none, stunport: 3478, derpport: 3443}\n',
    )
    await writeFile(
      path.join(dir, 'config.yaml'),
      `server_url: ${server.url}
listen_addr: 127.0.0.1:${port}
metrics_listen_addr: 127.0.0.1:${metrics}
noise: {private_key_path: ${dir}/noise.key}
prefixes: {v4: 100.64.0.0/10, v6: "fd7a:115c:a1e0::/48", allocation: sequential}
derp: {server: {enabled: false}, urls: [], paths: [${dir}/derp.yaml], auto_update_enabled: false}
disable_check_updates: true
database: {type: sqlite, sqlite: {path: ${dir}/db.sqlite}}
log: {level: debug, format: text}
policy: {mode: file, path: ${dir}/policy.hujson}
dns: {magic_dns: true, base_domain: lab.test, override_local_dns: false, nameservers: {global: []}}
unix_socket: ${dir}/hs.sock
unix_socket_permission: "0700"
logtail: {enabled: false}
`,
    )
    await server.#launch()
    await server.cli('users', 'create', 'alice')
    return server
  }

  async #launch(): Promise<void> {
    const child = spawn(this.#program, ['serve', '-c', `${this.#dir}/config.yaml`], { stdio: ['ignore', 'ignore', 'pipe'] })
    this.#process = child
    let log = ''
    child.stderr.on('data', (bytes: Buffer) => {
      log = (log + bytes.toString()).slice(-20_000)
    })
    for (let tries = 0; tries < 150; tries += 1) {
      if (child.exitCode !== null) throw new Error(`headscale ended with status ${child.exitCode}:\n${log}`)
      const up = await fetch(`${this.url}/health`).then((response) => response.ok, () => false)
      if (up && existsSync(`${this.#dir}/hs.sock`)) return
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
    throw new Error(`headscale did not come up:\n${log}`)
  }

  async cli(...args: string[]): Promise<string> {
    const { stdout } = await run(this.#program, ['-c', `${this.#dir}/config.yaml`, ...args])
    return stdout.trim()
  }

  authKey(...more: string[]): Promise<string> {
    return this.cli('preauthkeys', 'create', '-u', '1', '--reusable', '-e', '1h', ...more)
  }

  async #end(): Promise<void> {
    const child = this.#process
    if (child === undefined || child.exitCode !== null) return
    const ended = new Promise((resolve) => child.once('exit', resolve))
    child.kill('SIGKILL')
    await ended
  }

  async restart(): Promise<void> {
    await this.#end()
    await this.#launch()
  }

  async stop(): Promise<void> {
    await this.#end()
    await rm(this.#dir, { recursive: true, force: true })
  }
}

/** One of our clients over a real connection, with what it has said so far. */
class Node {
  readonly client: ControlClient
  readonly #driver: Driver<Parameters<ControlClient['handleInput']>[1]>
  readonly #transport: ControlTransport
  readonly #watchers = new Set<() => void>()
  readonly seen: ControlClientOutput[] = []
  state: ControlState | undefined

  constructor(url: string, hostname: string, state?: ControlState) {
    this.state = state
    this.client = new ControlClient({ random: systemRandom, wallClock: Date.now, hostinfo: { Hostname: hostname, OS: 'linux' }, ...(state && { state }) })
    this.#transport = new ControlTransport({ url, machineKey: this.client.machineKey, random: systemRandom }, (input) => this.#driver.feed(input))
    this.#driver = drive(this.client, () => instant(performance.now()), (output) => {
      if (output.type === 'request' || output.type === 'cancel') return this.#transport.perform(output)
      if (output.type === 'saveState') this.state = output.state
      this.seen.push(output)
      for (const watcher of [...this.#watchers]) watcher()
    })
  }

  act(change: (now: Instant) => void): void {
    this.#driver.act(change)
  }

  get map(): NetworkMap | undefined {
    return this.client.status().map
  }

  /** Waits until `condition` holds; looked at after each output. */
  async until(what: string, condition: () => boolean): Promise<void> {
    if (condition()) return
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#watchers.delete(watcher)
        reject(new Error(`not within ${WAIT_MS} ms: ${what}; seen ${this.seen.map((output) => (output.type === 'problem' ? output.message : output.type)).join(', ')}`))
      }, WAIT_MS)
      const watcher = (): void => {
        if (!condition()) return
        clearTimeout(timer)
        this.#watchers.delete(watcher)
        resolve()
      }
      this.#watchers.add(watcher)
    })
  }

  saw(type: ControlClientOutput['type']): boolean {
    return this.seen.some((output) => output.type === type)
  }

  stop(): void {
    this.#driver.act(() => this.client.stop())
    this.#driver.stop()
    this.#transport.close()
  }
}

if (missing !== undefined && process.env.REQUIRE_INTEROP === '1') {
  test('headscale is there, since REQUIRE_INTEROP=1', () => expect.fail(missing))
}

describe.skipIf(missing !== undefined)(`our control client and a real headscale${missing === undefined ? '' : ` (skipped: ${missing})`}`, () => {
  let server: Headscale
  const nodes: Node[] = []

  const node = (hostname: string, state?: ControlState): Node => {
    const made = new Node(server.url, hostname, state)
    nodes.push(made)
    return made
  }

  beforeAll(async () => {
    server = await Headscale.start(headscale ?? '')
  })

  afterAll(async () => {
    for (const one of nodes) one.stop()
    await server?.stop()
  })

  test('two nodes log in by auth key, see each other, and hear of endpoints, disco keys and home relays', async () => {
    console.info(await server.cli('version'))
    const key = await server.authKey()
    const a = node('ours-a')
    const disco = DiscoPrivateKey.generate(systemRandom).publicKey()
    a.act((now) => {
      a.client.setDiscoKey(now, disco)
      a.client.login(now, { authKey: key })
    })
    await a.until('a map of a', () => a.map !== undefined)
    expect(a.map?.self.name).toBe('ours-a.lab.test')
    expect(a.map?.self.nodeKey.text).toBe(a.client.nodeKey?.publicKey().text)
    expect(a.map?.relays.regions.get(900)?.nodes[0]?.derpPort).toBe(3443)
    expect(a.map?.packetFilter.length).toBeGreaterThan(0)
    expect(a.map?.dns.Proxied).toBe(true)
    expect(a.client.status().state).toBe('running')

    const b = node('ours-b')
    b.act((now) => b.client.login(now, { authKey: key }))
    await b.until('b sees a', () => b.map?.peers.size === 1)
    await a.until('a sees b', () => a.map?.peers.size === 1)
    const endpoint = parseEndpoint('192.0.2.10:41641')
    a.act((now) => {
      a.client.setNetInfo(now, { PreferredDERP: 900, WorkingUDP: true })
      if (endpoint !== undefined) a.client.setEndpoints(now, [{ endpoint, type: 1 }])
    })
    const seenByB = (): NonNullable<Node['map']>['self'] | undefined => [...(b.map?.peers.values() ?? [])][0]
    await b.until("b knows a's home relay, endpoint and disco key", () => seenByB()?.homeRegion === 900 && seenByB()?.endpoints.length === 1)
    expect(seenByB()?.endpoints[0]).toEqual(endpoint)
    expect(seenByB()?.discoKey?.text).toBe(disco.text)
    expect(seenByB()?.online).toBe(true)

    b.stop()
    await a.until('a hears that b is offline', () => [...(a.map?.peers.values() ?? [])][0]?.online === false)
  })

  test('a login by URL waits for the operator and then succeeds', async () => {
    const c = node('ours-c')
    c.act((now) => c.client.login(now))
    await c.until('a URL', () => c.saw('openUrl'))
    const url = c.seen.find((output) => output.type === 'openUrl')?.url ?? ''
    expect(url.startsWith(`${server.url}/register/`)).toBe(true)
    expect(c.client.status()).toMatchObject({ state: 'needsApprovalUrl', authUrl: url })
    await server.cli('auth', 'register', '--auth-id', url.slice(url.lastIndexOf('/') + 1), '-u', 'alice')
    await c.until('a map', () => c.map !== undefined)
    expect(c.seen.find((output) => output.type === 'loginFinished')?.login?.LoginName).toContain('alice')
  })

  test('a refused key is told in the words of the server', async () => {
    const d = node('ours-d')
    d.act((now) => d.client.login(now, { authKey: 'hskey-auth-nonsense' }))
    await d.until('a refusal', () => d.saw('problem'))
    expect(d.seen.find((output) => output.type === 'problem')).toMatchObject({ code: 'CONTROL_LOGIN_REFUSED', message: expect.stringContaining('auth-key') })
    d.stop()
  })

  test('a restart with the saved state comes back as the same node without a key; so does a killed and restarted server', async () => {
    const key = await server.authKey()
    const first = node('ours-e')
    first.act((now) => first.client.login(now, { authKey: key }))
    await first.until('a map', () => first.map !== undefined)
    const saved = parseControlState(formatControlState(first.state ?? expect.fail('no state was saved')))
    const id = first.map?.self.id
    first.stop()
    const again = node('ours-e', saved)
    again.act((now) => again.client.login(now))
    await again.until('a map', () => again.map !== undefined)
    expect(again.map?.self.id).toBe(id)
    expect(again.map?.self.nodeKey.text).toBe(first.client.nodeKey?.publicKey().text)

    await server.restart()
    await again.until('the poll is back', () => again.seen.filter((output) => output.type === 'polling' && output.up).length === 2)
    expect(again.map?.self.id).toBe(id)
  })

  test('an expired key is noticed and the next login brings the same node back; a forced login gives it a new key', async () => {
    const key = await server.authKey()
    const f = node('ours-f')
    f.act((now) => f.client.login(now, { authKey: key }))
    await f.until('a map', () => f.map !== undefined)
    const { id } = f.map?.self ?? expect.fail('no map')
    const before = f.client.nodeKey?.publicKey().text
    await server.cli('nodes', 'expire', '-i', String(id))
    await f.until('the expiry', () => f.saw('keyExpired'))
    expect(f.client.status().state).toBe('keyExpired')
    f.act((now) => f.client.login(now, { authKey: key }))
    await f.until('running again', () => f.client.status().state === 'running')
    expect(f.map?.self.id).toBe(id)
    f.act((now) => f.client.login(now, { authKey: key, forceNewKey: true }))
    await f.until('a map under a new key', () => f.map?.self.nodeKey.text !== before)
    expect(f.map?.self.id).toBe(id)
    expect(f.map?.self.nodeKey.text).toBe(f.client.nodeKey?.publicKey().text)
  })

  test('a logged-out node forgets its key; the server counts it as expired', async () => {
    const key = await server.authKey()
    const g = node('ours-g')
    g.act((now) => g.client.login(now, { authKey: key }))
    await g.until('a map', () => g.map !== undefined)
    const id = Number(g.map?.self.id)
    g.act((now) => g.client.logout(now))
    await g.until('logged out', () => g.saw('loggedOut'))
    expect(g.client.status()).toMatchObject({ state: 'needsLogin', map: undefined })
    expect(g.state?.nodeKey).toBeUndefined()
    const listed = JSON.parse(await server.cli('nodes', 'list', '-o', 'json')) as { id: number; expiry?: { seconds: number } }[]
    const seconds = listed.find((one) => Number(one.id) === id)?.expiry?.seconds ?? 0
    expect(seconds).toBeGreaterThan(0)
    expect(seconds * 1000).toBeLessThanOrEqual(Date.now())
  })

  test('a deleted node is told so when it speaks again', async () => {
    const key = await server.authKey()
    const h = node('ours-h')
    h.act((now) => h.client.login(now, { authKey: key }))
    await h.until('a map', () => h.map !== undefined)
    await server.cli('nodes', 'delete', '-i', String(h.map?.self.id), '--force')
    h.act((now) => h.client.setNetInfo(now, { PreferredDERP: 900 }))
    await h.until('a problem', () => h.saw('problem'))
    expect(h.seen.find((output) => output.type === 'problem')).toMatchObject({ code: 'CONTROL_UPDATE_FAILED', message: expect.stringContaining('404') })
  })
})
