import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import { freePort, type Lab, type LabProcess, runOk } from './lab-process.ts'

const REGION = 901

/** A real derper with a certificate of its own making, and the relay map that names it. */
export class RealDerper {
  readonly #lab: Lab
  readonly #bin: string

  constructor(lab: Lab, bin: string) {
    this.#lab = lab
    this.#bin = bin
  }

  get mapFile(): string {
    return this.#lab.at('derper.yaml')
  }

  async start(address: string): Promise<void> {
    const [port, stunPort] = [await freePort(), await freePort()]
    const key = randomBytes(32)
    key.writeUInt8(key.readUInt8(0) & 248, 0)
    key.writeUInt8((key.readUInt8(31) & 127) | 64, 31)
    writeFileSync(this.#lab.at('derper.json'), JSON.stringify({ PrivateKey: `privkey:${key.toString('hex')}` }))
    const certificates = this.#lab.at('derper-certificates')
    mkdirSync(certificates)
    const started = this.#lab.start('derper', `${this.#bin}/derper`, [
      '-c', this.#lab.at('derper.json'), '-a', `${address}:${port}`, '-certmode', 'manual', '-certdir', certificates, '-hostname', address, '-http-port', '-1', '-stun-port', String(stunPort),
    ])
    const pin = await this.#lab.until('derper tells its certificate', () => /sha256-raw:[0-9a-f]{64}/.exec(started.log)?.[0])
    const node = { name: `${REGION}a`, regionid: REGION, hostname: address, certname: pin, ipv4: address, ipv6: 'none', stunport: stunPort, derpport: port }
    // headscale takes no quoted number as key of a region, so JSON alone will not do.
    const region = { regionid: REGION, regioncode: 'real', regionname: 'Real relay', nodes: [node] }
    writeFileSync(this.mapFile, `regions:\n  ${REGION}: ${JSON.stringify(region)}\n`)
  }
}

/** A real headscale on loopback, with a policy file. */
export class RealHeadscale {
  readonly #lab: Lab
  readonly #bin: string
  #port = 0
  #process: LabProcess | undefined

  constructor(lab: Lab, bin: string) {
    this.#lab = lab
    this.#bin = bin
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`
  }

  async start(relayMap: string, policy: unknown): Promise<void> {
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
derp: {server: {enabled: false}, urls: [], paths: [${relayMap}], auto_update_enabled: false}
disable_check_updates: true
database: {type: sqlite, sqlite: {path: ${at('headscale.sqlite')}}}
log: {level: debug, format: text}
policy: {mode: file, path: ${at('headscale-policy.hujson')}}
dns: {magic_dns: true, base_domain: lab.test, override_local_dns: false, nameservers: {global: []}}
unix_socket: ${at('headscale.sock')}
unix_socket_permission: "0700"
logtail: {enabled: false}
`,
      )
    }
    const started = this.#lab.start('headscale', `${this.#bin}/headscale`, ['serve', '-c', at('headscale.yaml')])
    this.#process = started
    await this.#lab.until('headscale is ready', async () => {
      if (!started.alive) throw new Error(started.tail())
      return existsSync(at('headscale.sock')) && (await fetch(`${this.url}/health`)).ok
    })
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

  /** The number of a node, by its name. */
  async nodeId(name: string): Promise<string> {
    const nodes = JSON.parse(await this.cli('nodes', 'list', '-o', 'json')) as readonly { readonly id: number; readonly given_name: string }[]
    const found = nodes.find((node) => node.given_name === name)
    if (found === undefined) throw new Error(`headscale does not list ${name}`)
    return String(found.id)
  }
}
