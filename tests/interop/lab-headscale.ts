import { randomBytes } from 'node:crypto'
import { copyFileSync, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { freePort, type Lab, type LabProcess, runOk } from './lab-process.ts'

const REGION = 901

/** What is different from a relay whose certificate of its own making is pinned by the relay map. */
export interface RealDerperOptions {
  /** Files of a certificate for the address that all sides trust: clients before 1.82 know no pins. */
  readonly certificate?: { readonly cert: string; readonly key: string }
}

/** A real derper with a certificate of its own making, and the relay map that names it. */
export class RealDerper {
  readonly #lab: Lab
  readonly #bin: string
  readonly #options: RealDerperOptions
  #region: Readonly<Record<string, unknown>> | undefined
  #args: readonly string[] = []
  #process: LabProcess | undefined

  constructor(lab: Lab, bin: string, options: RealDerperOptions = {}) {
    this.#lab = lab
    this.#bin = bin
    this.#options = options
  }

  /** Its region in the form of a relay map file. */
  get region(): Readonly<Record<string, unknown>> {
    if (this.#region === undefined) throw new Error('derper has not been started')
    return this.#region
  }

  get mapFile(): string {
    return this.#lab.at('derper.yaml')
  }

  /** Starts it, or starts it again with its key, at its ports. */
  async start(address: string): Promise<void> {
    if (this.#region !== undefined) return void (await this.#run())
    const [port, stunPort] = [await freePort(), await freePort()]
    const key = randomBytes(32)
    key.writeUInt8(key.readUInt8(0) & 248, 0)
    key.writeUInt8((key.readUInt8(31) & 127) | 64, 31)
    writeFileSync(this.#lab.at('derper.json'), JSON.stringify({ PrivateKey: `privkey:${key.toString('hex')}` }))
    const certificates = this.#lab.at('derper-certificates')
    mkdirSync(certificates)
    const { certificate } = this.#options
    if (certificate !== undefined) {
      copyFileSync(certificate.cert, path.join(certificates, `${address}.crt`))
      copyFileSync(certificate.key, path.join(certificates, `${address}.key`))
    }
    this.#args = ['-c', this.#lab.at('derper.json'), '-a', `${address}:${port}`, '-certmode', 'manual', '-certdir', certificates, '-hostname', address, '-http-port', '-1', '-stun-port', String(stunPort)]
    const pin = await this.#run()
    const node = { name: `${REGION}a`, regionid: REGION, hostname: address, ...(pin !== '' && { certname: pin }), ipv4: address, ipv6: 'none', stunport: stunPort, derpport: port }
    this.#region = { regionid: REGION, regioncode: 'real', regionname: 'Real relay', nodes: [node] }
    writeRealRelayMap(this.mapFile, [this.#region])
  }

  async stop(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    await this.#process?.stop(signal)
  }

  /** Runs it; gives the pin of its certificate, '' where all sides trust it. */
  async #run(): Promise<string> {
    const started = this.#lab.start('derper', `${this.#bin}/derper`, this.#args)
    this.#process = started
    const found = await this.#lab.until('derper is ready', () => (this.#options.certificate === undefined ? /sha256-raw:[0-9a-f]{64}/.exec(started.log)?.[0] : /serving on /.exec(started.log)?.[0]))
    return this.#options.certificate === undefined ? found : ''
  }
}

/** Writes a file for headscale's `derp.paths`: it takes no quoted number as key of a region, so JSON alone will not do. */
export function writeRealRelayMap(file: string, regions: readonly Readonly<Record<string, unknown>>[]): void {
  writeFileSync(file, `regions:\n${regions.map((region) => `  ${String(region['regionid'])}: ${JSON.stringify(region)}\n`).join('')}`)
}

/** What is different from a plain headscale. */
export interface RealHeadscaleOptions {
  /** In the place of plain MagicDNS: a line of the configuration that begins with `dns:`. */
  readonly dns?: string
  /** How often the files of the relay map are read again, as headscale writes durations. Default: never. */
  readonly relayMapEvery?: string
  /** More lines for the configuration. */
  readonly lines?: readonly string[]
}

/** A node in the words of `nodes list -o json`. */
export interface HeadscaleNode {
  readonly id: number
  readonly name: string
  readonly given_name: string
  readonly ip_addresses: readonly string[]
  readonly online?: boolean
  readonly tags?: readonly string[]
  readonly user?: { readonly name: string }
  readonly expiry?: { readonly seconds: number }
  readonly node_key: string
}

/** A real headscale on loopback, with a policy file. */
export class RealHeadscale {
  readonly #lab: Lab
  readonly #bin: string
  readonly #options: RealHeadscaleOptions
  #port = 0
  #process: LabProcess | undefined

  constructor(lab: Lab, bin: string, options: RealHeadscaleOptions = {}) {
    this.#lab = lab
    this.#bin = bin
    this.#options = options
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`
  }

  /** Starts it, or starts it again with its data. @param users who is created at first: a policy may name them */
  async start(relayMap: string, policy: unknown, users: readonly string[] = []): Promise<void> {
    const at = (name: string): string => this.#lab.at(name)
    if (this.#port === 0) {
      const [port, metrics] = [await freePort(), await freePort()]
      this.#port = port
      writeFileSync(at('headscale-policy.hujson'), JSON.stringify(policy))
      writeFileSync(
        at('headscale.yaml'),
        `server_url: ${this.url}
listen_addr: 127.0.0.1:${port}
metrics_listen_addr: 127.0.0.1:${metrics}
noise: {private_key_path: ${at('headscale.key')}}
prefixes: {v4: 100.64.0.0/10, v6: "fd7a:115c:a1e0::/48", allocation: sequential}
derp: {server: {enabled: false}, urls: [], paths: [${relayMap}], ${this.#options.relayMapEvery === undefined ? 'auto_update_enabled: false' : `auto_update_enabled: true, update_frequency: ${this.#options.relayMapEvery}`}}
disable_check_updates: true
database: {type: sqlite, sqlite: {path: ${at('headscale.sqlite')}}}
log: {level: debug, format: text}
policy: {mode: file, path: ${at('headscale-policy.hujson')}}
${this.#options.dns ?? 'dns: {magic_dns: true, base_domain: lab.test, override_local_dns: false, nameservers: {global: []}}'}
unix_socket: ${at('headscale.sock')}
unix_socket_permission: "0700"
logtail: {enabled: false}
cli: {timeout: 30s}
${(this.#options.lines ?? []).join('\n')}
`,
      )
    }
    const started = this.#lab.start('headscale', `${this.#bin}/headscale`, ['serve', '-c', at('headscale.yaml')])
    this.#process = started
    await this.#lab.until('headscale is ready', async () => {
      if (!started.alive) throw new Error(started.tail())
      return existsSync(at('headscale.sock')) && (await fetch(`${this.url}/health`)).ok
    })
    for (const user of users) await this.cli('users', 'create', user)
  }

  async stop(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    await this.#process?.stop(signal)
  }

  async cli(...args: readonly string[]): Promise<string> {
    return (await runOk(`${this.#bin}/headscale`, ['-c', this.#lab.at('headscale.yaml'), ...args])).trim()
  }

  authKey(user: string): Promise<string> {
    return this.cli('preauthkeys', 'create', '-u', user, '--reusable', '-e', '1h')
  }

  /** Another policy: it reads the file again when it is told to, and says nothing. */
  setPolicy(policy: unknown): void {
    writeFileSync(this.#lab.at('headscale-policy.hujson'), JSON.stringify(policy))
    const pid = this.#process?.pid
    if (pid === undefined) throw new Error('headscale does not run')
    process.kill(pid, 'SIGHUP')
  }

  get log(): string {
    return this.#process?.log ?? ''
  }

  /** All nodes that it knows. */
  async nodes(): Promise<readonly HeadscaleNode[]> {
    return JSON.parse(await this.cli('nodes', 'list', '-o', 'json')) as readonly HeadscaleNode[] // the shape of the program's own output
  }

  async node(name: string): Promise<HeadscaleNode | undefined> {
    return (await this.nodes()).find((node) => node.given_name === name)
  }

  /** The number of a node, by its name. */
  async nodeId(name: string): Promise<string> {
    const found = await this.node(name)
    if (found === undefined) throw new Error(`headscale does not list ${name}`)
    return String(found.id)
  }
}
