import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import path from 'node:path'
import type { AdminCommand } from '@meshwright/control-server'
import { selfSignedCertificate } from '@meshwright/runtime-node'
import { ask } from '../../examples/control-server/src/cli/client.ts'
import { bundle } from '../bundle.ts'
import { freePort, type Lab, type LabProcess, residentBytes, runOk, runProgram, type RunResult, startInside } from './lab-process.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')
const REGION = 900
const COMMAND_MS = 60_000

/** Our programs, each as one file made from the sources as they are. */
export interface OurPrograms {
  readonly control: string
  readonly relay: string
  readonly daemon: string
  readonly cli: string
}

/**
 * Bundles our programs from source, so that each start costs a tenth of a second and not the compilation of the house.
 * @param only which of them will be started
 */
export async function bundlePrograms(lab: Lab, only: readonly (keyof OurPrograms)[] = ['control', 'relay', 'daemon', 'cli']): Promise<OurPrograms> {
  const entries = { control: 'control-server/src/main.ts', relay: 'relay/src/main.ts', daemon: 'node/src/meshwrightd.ts', cli: 'node/src/meshwright.ts' }
  const folder = await bundleInto(lab, '', Object.fromEntries(only.map((name) => [name, path.join(ROOT, 'examples', entries[name])])))
  const at = (name: keyof OurPrograms): string => path.join(folder, `${name}.mjs`)
  return { control: at('control'), relay: at('relay'), daemon: at('daemon'), cli: at('cli') }
}

/** What is different from a relay with a certificate of its own making that the relay map pins. */
export interface OurRelayOptions {
  readonly region?: number
  readonly code?: string
  /** A certificate and key that all sides trust, for clients before 1.82: they know no pins. */
  readonly certificate?: { readonly cert: string; readonly key: string }
  /** More flags for the program. */
  readonly flags?: readonly string[]
}

/** Our relay, with STUN. */
export class OurRelay {
  readonly #lab: Lab
  readonly #programs: OurPrograms
  readonly #options: OurRelayOptions
  #process: LabProcess | undefined
  #port = 0
  #stunPort = 0
  #region: Readonly<Record<string, unknown>> | undefined

  constructor(lab: Lab, programs: OurPrograms, options: OurRelayOptions = {}) {
    this.#lab = lab
    this.#programs = programs
    this.#options = options
  }

  /** The file for `derp.paths`, ours and headscale's, with this relay alone. */
  get mapFile(): string {
    return this.#lab.at('relays.yaml')
  }

  get stunPort(): number {
    return this.#stunPort
  }

  get log(): string {
    return this.#process?.log ?? ''
  }

  /** Its region in the form of a relay map file. */
  get region(): Readonly<Record<string, unknown>> {
    if (this.#region === undefined) throw new Error('the relay has not been started')
    return this.#region
  }

  async start(address: string): Promise<void> {
    const { region = REGION, code = 'ours', certificate, flags = [] } = this.#options
    const first = this.#port === 0
    if (first) [this.#port, this.#stunPort] = [await freePort(), await freePort()]
    const { lab, port, stunPort } = { lab: this.#lab, port: this.#port, stunPort: this.#stunPort }
    const own = certificate === undefined ? ['--self-signed', '--cert', lab.at(`relay-${region}.crt.pem`), '--key', lab.at(`relay-${region}.key.pem`)] : ['--cert', certificate.cert, '--key', certificate.key]
    const started = lab.start(`our relay ${code}`, process.execPath, [this.#programs.relay, '--key-file', lab.at(`relay-${region}.key`), '--addr', `${address}:${port}`, '--stun-port', String(stunPort), ...own, ...flags])
    this.#process = started
    const text = await lab.until('our relay is ready', () => {
      started.mustLive()
      return /^for the DERP map: (.*)$/m.exec(started.log)?.[1]
    })
    if (!first) return
    const told = JSON.parse(text) as Readonly<Record<string, string | number>> // the relay's own words
    const node = Object.fromEntries(Object.entries(told).map(([name, value]) => [name.toLowerCase(), value]).filter(([name]) => certificate === undefined || name !== 'certname'))
    this.#region = { regionid: region, regioncode: code, regionname: `Our relay ${code}`, nodes: [{ ...node, name: `${region}a`, regionid: region }] }
    writeRelayMap(this.mapFile, [this])
  }

  async stop(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    await this.#process?.stop(signal)
  }
}

/** Writes a file for `derp.paths` with the regions of several relays. @param scores how far regions count, by number: 2 is twice as far as measured */
export function writeRelayMap(file: string, relays: readonly OurRelay[], scores?: Readonly<Record<string, number>>): void {
  const regions = Object.fromEntries(relays.map(({ region }) => [String(region['regionid']), region]))
  writeFileSync(file, JSON.stringify({ regions, ...(scores !== undefined && { homeparams: { regionscore: scores } }) })) // JSON is YAML
}

/** A node in the words of `nodes list -o json`. */
export interface ListedNode {
  readonly id: string
  readonly name: string
  readonly givenName: string
  readonly online: boolean
  readonly ephemeral: boolean
  readonly ipAddresses: readonly string[]
  readonly tags: readonly string[]
  readonly user?: { readonly name: string } | null
  readonly expiry: string | null
}

/** What is different from a plain server on loopback. */
export interface OurControlOptions {
  /** More lines for the configuration. */
  readonly lines?: readonly string[]
  /** HTTPS at this address, with a certificate of its own making, and the embedded relay in the place of another. */
  readonly tlsAddress?: string
  /** In the place of plain MagicDNS: a line of the configuration that begins with `dns:`. */
  readonly dns?: string
}

/** Our control server and its command line. */
export class OurControl {
  readonly #lab: Lab
  readonly #programs: OurPrograms
  readonly #options: OurControlOptions
  #process: LabProcess | undefined
  #port = 0

  constructor(lab: Lab, programs: OurPrograms, options: OurControlOptions = {}) {
    this.#lab = lab
    this.#programs = programs
    this.#options = options
  }

  get url(): string {
    return this.#options.tlsAddress === undefined ? `http://127.0.0.1:${this.#port}` : `https://${this.#options.tlsAddress}:${this.#port}`
  }

  get pid(): number | undefined {
    return this.#process?.pid
  }

  /** Its certificate, for those who must trust it. */
  get certificateFile(): string {
    return this.#lab.at('control.crt.pem')
  }

  get log(): string {
    return this.#process?.log ?? ''
  }

  /** Starts it, or starts it again with its data. */
  async start(relayMap?: string): Promise<void> {
    const { at, file } = { at: (name: string) => JSON.stringify(this.#lab.at(name)), file: this.#lab.at('control.yaml') }
    if (this.#port === 0) {
      this.#port = await freePort()
      const lines = [
        `server_url: ${this.url}`,
        `listen_addr: ${this.#options.tlsAddress ?? '127.0.0.1'}:${this.#port}`,
        `noise: {private_key_path: ${at('noise.key')}}`,
        'prefixes: {v4: 100.64.0.0/10, v6: "fd7a:115c:a1e0::/48", allocation: sequential}',
        ...(await this.#relayLines(relayMap)),
        'disable_check_updates: true',
        `database: {type: sqlite, sqlite: {path: ${at('control.sqlite')}}}`,
        'log: {level: debug, format: text}',
        'policy: {mode: database}',
        this.#options.dns ?? 'dns: {magic_dns: true, base_domain: lab.test, override_local_dns: false, nameservers: {global: []}}',
        `unix_socket: ${at('control.sock')}`,
        'unix_socket_permission: "0700"',
        'logtail: {enabled: false}',
        ...(this.#options.lines ?? []),
      ]
      writeFileSync(file, `${lines.join('\n')}\n`)
    }
    this.#process = this.#lab.start('our control server', process.execPath, [this.#programs.control, 'serve', '--config', file])
    const started = this.#process
    await this.#lab.until('our control server is ready', () => {
      started.mustLive()
      return /\bready\b/.test(started.log)
    })
  }

  async #relayLines(relayMap: string | undefined): Promise<readonly string[]> {
    const { tlsAddress } = this.#options
    const paths = relayMap === undefined ? '[]' : JSON.stringify([relayMap])
    if (tlsAddress === undefined) return [`derp: {server: {enabled: false}, urls: [], paths: ${paths}, auto_update_enabled: false}`]
    const { cert, key } = selfSignedCertificate([tlsAddress])
    writeFileSync(this.certificateFile, cert)
    writeFileSync(this.#lab.at('control.key.pem'), key)
    const server = `{enabled: true, region_id: 999, region_code: embedded, region_name: Embedded, verify_clients: true, stun_listen_addr: "${tlsAddress}:${await freePort()}", private_key_path: ${JSON.stringify(this.#lab.at('embedded.key'))}, ipv4: ${tlsAddress}}`
    return [`tls_cert_path: ${JSON.stringify(this.certificateFile)}`, `tls_key_path: ${JSON.stringify(this.#lab.at('control.key.pem'))}`, `derp: {server: ${server}, urls: [], paths: ${paths}, auto_update_enabled: false}`]
  }

  async stop(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    await this.#process?.stop(signal)
  }

  run(...words: readonly string[]): Promise<RunResult> {
    return runProgram(process.execPath, [this.#programs.control, '-c', this.#lab.at('control.yaml'), ...words], { timeoutMs: COMMAND_MS })
  }

  /** A command of an administrator over the socket, without the start of a program: for what is timed. @throws Failure */
  ask(command: AdminCommand): Promise<Record<string, unknown>> {
    return ask(this.#lab.at('control.sock'), command)
  }

  /** A command that must succeed. */
  cli(...words: readonly string[]): Promise<string> {
    return runOk(process.execPath, [this.#programs.control, '-c', this.#lab.at('control.yaml'), ...words], { timeoutMs: COMMAND_MS })
  }

  async json<T>(...words: readonly string[]): Promise<T> {
    return JSON.parse(await this.cli(...words, '-o', 'json')) as T // the shape is headscale's
  }

  async createUser(name: string): Promise<string> {
    return (await this.json<{ readonly id: string }>('users', 'create', name)).id
  }

  async authKey(...flags: readonly string[]): Promise<string> {
    return (await this.json<{ readonly key: string }>('preauthkeys', 'create', '-e', '1h', ...flags)).key
  }

  async nodes(): Promise<readonly ListedNode[]> {
    return (await this.ask({ command: 'listNodes' }))['nodes'] as readonly ListedNode[] // what `nodes list -o json` prints
  }

  async node(name: string): Promise<ListedNode | undefined> {
    return (await this.nodes()).find((each) => each.givenName === name)
  }

  async setPolicy(policy: unknown): Promise<void> {
    await this.ask({ command: 'setPolicy', policy: JSON.stringify(policy) })
  }
}

/** A peer as our daemon shows it. */
export interface OurPeer {
  readonly HostName: string
  readonly DNSName: string
  readonly TailscaleIPs: readonly string[]
  readonly CurAddr: string
  readonly Relay: string
  readonly Online: boolean
  readonly Expired?: boolean
  readonly Tags?: readonly string[]
}

/** What our daemon tells as `status --json`. */
export interface OurStatus {
  readonly BackendState: string
  readonly AuthURL: string
  readonly TailscaleIPs: readonly string[] | null
  readonly Self: OurPeer
  readonly Health: readonly string[]
  readonly Peer: Readonly<Record<string, OurPeer>> | null
  readonly MagicDNSSuffix: string
  readonly Meshwright: { readonly HomeRelay: string; readonly RelayBytesIn: number; readonly RelayBytesOut: number; readonly DirectBytesIn: number; readonly DirectBytesOut: number; readonly PacketsIn: number; readonly Drops: Readonly<Record<string, number>>; readonly Held: Readonly<Record<string, number>> }
}

/** Our node as daemon, with our command line. */
export class OurNode {
  readonly name: string
  readonly #lab: Lab
  readonly #programs: OurPrograms
  readonly #flags: readonly string[]
  readonly #env: Readonly<Record<string, string>>
  readonly #netns: string | undefined
  #process: LabProcess | undefined
  #socksPort = 0

  /** @param netns with a kernel TUN device, `mw0`, in this network namespace and with an /etc of its own there, instead of userspace mode */
  constructor(lab: Lab, programs: OurPrograms, name: string, flags: readonly string[] = [], env: Readonly<Record<string, string>> = {}, netns?: string) {
    this.#lab = lab
    this.#programs = programs
    this.name = name
    this.#flags = flags
    this.#env = env
    this.#netns = netns
  }

  get socksPort(): number {
    return this.#socksPort
  }

  /** Resident memory, from /proc. */
  get rssBytes(): number {
    return residentBytes(this.pid)
  }

  get pid(): number | undefined {
    return this.#process?.pid
  }

  get #socket(): string {
    return this.#lab.at(`${this.name}.sock`)
  }

  async start(): Promise<void> {
    mkdirSync(this.#lab.at(this.name), { recursive: true })
    const netns = this.#netns
    const way = netns === undefined ? ['--tun', 'userspace-networking', '--socks5-server', `127.0.0.1:${(this.#socksPort = await freePort())}`] : ['--tun', 'mw0']
    const args = [this.#programs.daemon, '--state', this.#lab.at(this.name, 'state.json'), '--socket', this.#socket, '--port', '0', ...way, '--verbose', '1', ...this.#flags]
    const started = netns === undefined ? this.#lab.start(`meshwrightd ${this.name}`, process.execPath, args, { env: this.#env }) : startInside(this.#lab, this.name, netns, [process.execPath, ...args], this.#env)
    this.#process = started
    await this.#lab.until(`${this.name} is ready`, () => {
      started.mustLive()
      return / is ready: /.test(started.log)
    }, 60_000)
  }

  async stop(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    await this.#process?.stop(signal)
  }

  get log(): string {
    return this.#process?.log ?? ''
  }

  run(args: readonly string[], timeoutMs: number = COMMAND_MS): Promise<RunResult> {
    return runProgram(process.execPath, [this.#programs.cli, '--socket', this.#socket, ...args], { timeoutMs })
  }

  async cli(...args: readonly string[]): Promise<string> {
    const { status, out, err } = await this.run(args)
    if (status !== 0) throw new Error(`"meshwright ${args.join(' ')}" on ${this.name} ended with status ${status}: ${`${err}\n${out}`.trim()}\n${this.#process?.tail() ?? ''}`)
    return out
  }

  async up(server: string, key?: string, ...more: readonly string[]): Promise<void> {
    await this.cli('up', '--login-server', server, '--hostname', this.name, '--timeout', '50s', ...(key === undefined ? [] : ['--auth-key', key]), ...more)
  }

  async status(): Promise<OurStatus> {
    return JSON.parse(await this.#api('status')) as OurStatus
  }

  /** Runs a program where a node with a TUN device lives: its network, its /etc. */
  inside(file: string, args: readonly string[], timeoutMs: number = COMMAND_MS): Promise<RunResult> {
    return runProgram('nsenter', ['-t', String(this.pid ?? 0), '-m', '-n', file, ...args], { timeoutMs })
  }

  /** The network map in the form of tailscaled. */
  async netmap(): Promise<Readonly<Record<string, unknown>>> {
    return JSON.parse(await this.#api('debug?action=current-netmap', 'POST')) as Readonly<Record<string, unknown>> // an object by definition
  }

  async peer(name: string): Promise<OurPeer | undefined> {
    return Object.values((await this.status()).Peer ?? {}).find((peer) => peer.DNSName.split('.')[0] === name)
  }

  async ip(): Promise<string> {
    return (await this.cli('ip', '-4')).trim()
  }

  #api(what: string, method: 'GET' | 'POST' = 'GET'): Promise<string> {
    return new Promise((resolve, reject) => {
      const request = http.request({ socketPath: this.#socket, method, path: `/localapi/v0/${what}`, headers: { Host: 'local-tailscaled.sock' }, agent: false, timeout: 5_000 }, (response) => {
        let text = ''
        response.setEncoding('utf8')
        response.on('data', (more: string) => (text += more))
        response.on('end', () => ((response.statusCode ?? 500) < 300 ? resolve(text) : reject(new Error(`${this.name} answered ${text.trim()}`))))
      })
      request.on('timeout', () => request.destroy(new Error(`${this.name} does not answer on its socket`)))
      request.on('error', reject)
      request.end()
    })
  }
}

/** Bundles programs from source, each into one file `NAME.mjs` of a folder that the lab removes at its end. @param suffix of the folder's name */
export async function bundleInto(lab: Lab, suffix: string, entryPoints: Readonly<Record<string, string>>): Promise<string> {
  const folder = path.join(ROOT, '.cache', 'interop', `${path.basename(lab.folder)}${suffix}`)
  lab.onStop(() => rmSync(folder, { recursive: true, force: true }))
  await bundle(entryPoints, folder)
  return folder
}
