import { mkdirSync } from 'node:fs'
import { freePort, type Lab, type LabProcess, runOk, runProgram, type RunResult } from './lab-process.ts'

/** A peer as `tailscale status --json` shows it. */
export interface TailscalePeer {
  readonly HostName: string
  readonly DNSName: string
  readonly TailscaleIPs: readonly string[] | null
  readonly UserID: number
  readonly CurAddr: string
  readonly Relay: string
  readonly Online: boolean
  readonly Expired?: boolean
  readonly Tags?: readonly string[]
  readonly RxBytes: number
  readonly TxBytes: number
}

/** `tailscale status --json`, as far as the tests read it. */
export interface TailscaleStatus {
  readonly BackendState: string
  readonly AuthURL: string
  readonly TailscaleIPs: readonly string[] | null
  readonly Self: TailscalePeer & { readonly KeyExpiry?: string }
  readonly Health: readonly string[] | null
  readonly MagicDNSSuffix: string
  readonly CurrentTailnet: { readonly Name: string; readonly MagicDNSSuffix: string; readonly MagicDNSEnabled: boolean } | null
  readonly Peer: Readonly<Record<string, TailscalePeer>> | null
  readonly User: Readonly<Record<string, { readonly LoginName: string; readonly DisplayName: string }>> | null
}

/** How a daemon is started. */
export interface TailscaledOptions {
  /** Everything by relay. */
  readonly relayOnly?: boolean
  readonly env?: Readonly<Record<string, string>>
  /** `mem:` for a node that leaves nothing behind. */
  readonly state?: string
}

/** A real tailscaled in userspace mode, with the real command line. */
export class Tailscaled {
  readonly name: string
  readonly #lab: Lab
  readonly #bin: string
  readonly #options: TailscaledOptions
  #process: LabProcess | undefined
  #socksPort = 0

  constructor(lab: Lab, bin: string, name: string, options: TailscaledOptions = {}) {
    this.#lab = lab
    this.#bin = bin
    this.name = name
    this.#options = options
  }

  get socksPort(): number {
    return this.#socksPort
  }

  get pid(): number | undefined {
    return this.#process?.pid
  }

  get socket(): string {
    return this.#lab.at(`${this.name}.sock`)
  }

  /** Starts the daemon, or starts it again with its state. */
  async start(): Promise<void> {
    const folder = this.#lab.at(this.name)
    mkdirSync(folder, { recursive: true })
    this.#socksPort = await freePort()
    const args = ['--no-logs-no-support', '--tun=userspace-networking', `--statedir=${folder}`, `--state=${this.#options.state ?? `${folder}/state.json`}`, `--socket=${this.socket}`, `--socks5-server=localhost:${this.#socksPort}`, '--port=0', '--verbose=1']
    const env = { TS_NO_LOGS_NO_SUPPORT: 'true', ...(this.#options.relayOnly === true && { TS_DEBUG_NEVER_DIRECT_UDP: '1' }), ...this.#options.env }
    this.#process = this.#lab.start(`tailscaled ${this.name}`, `${this.#bin}/tailscaled`, args, { env })
    await this.#lab.until(`${this.name} answers on its socket`, async () => (await this.status()).BackendState !== 'NoState')
  }

  /** Ends the daemon, keeping its state. */
  async stop(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    await this.#process?.stop(signal)
  }

  get log(): string {
    return this.#process?.log ?? ''
  }

  run(args: readonly string[], timeoutMs?: number): Promise<RunResult> {
    return runProgram(`${this.#bin}/tailscale`, [`--socket=${this.socket}`, ...args], timeoutMs === undefined ? {} : { timeoutMs })
  }

  /** A command that must succeed. */
  async cli(...args: readonly string[]): Promise<string> {
    try {
      return await runOk(`${this.#bin}/tailscale`, [`--socket=${this.socket}`, ...args])
    } catch (error) {
      throw new Error(`${this.name}: ${error instanceof Error ? error.message : String(error)}\n${this.#process?.tail() ?? ''}`, { cause: error })
    }
  }

  upArguments(server: string, more: readonly string[] = []): readonly string[] {
    return ['up', '--login-server', server, '--hostname', this.name, '--accept-dns=false', '--timeout', '25s', ...more]
  }

  /** Logs in; ends when the node runs. */
  async up(server: string, key?: string, ...more: readonly string[]): Promise<void> {
    await this.cli(...this.upArguments(server, [...(key === undefined ? [] : ['--authkey', key]), ...more]))
  }

  async status(): Promise<TailscaleStatus> {
    return JSON.parse(await runOk(`${this.#bin}/tailscale`, [`--socket=${this.socket}`, 'status', '--json'], { timeoutMs: 10_000 })) as TailscaleStatus // the shape of the program's own documentation
  }

  async peer(name: string): Promise<TailscalePeer | undefined> {
    return Object.values((await this.status()).Peer ?? {}).find((peer) => peer.DNSName.split('.')[0] === name)
  }

  async ip(): Promise<string> {
    return (await this.cli('ip', '-4')).trim()
  }
}
