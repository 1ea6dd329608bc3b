import { mkdirSync, readFileSync } from 'node:fs'
import { type Lab, type LabProcess, runOk, runProgram, type RunResult, startInside } from './lab-process.ts'

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
  readonly ExitNodeStatus?: { readonly Online: boolean } | null
  readonly User: Readonly<Record<string, { readonly LoginName: string; readonly DisplayName: string }>> | null
}

/** How a daemon is started. */
export interface TailscaledOptions {
  /** Everything by relay. */
  readonly relayOnly?: boolean
  readonly env?: Readonly<Record<string, string>>
  /** `mem:` for a node that leaves nothing behind. */
  readonly state?: string
  /** `1.80.3`; the newest when absent. */
  readonly version?: string
  /** With a kernel TUN device in this network namespace, and with an /etc of its own there, instead of userspace mode. */
  readonly netns?: string
  /** In that namespace, but in userspace mode, without a device and without SOCKS. */
  readonly userspace?: boolean
  /** What /etc/resolv.conf holds there at first. */
  readonly resolvConf?: string
  /** The port of WireGuard; 0: any. */
  readonly port?: number
}

/** A map stream begins. */
const POLL = 'PollNetMap: stream=true'
const SOCKS_PORT = /SOCKS5 listening on \S+:(\d+)/
const NEVER_DIRECT = 'TS_DEBUG_NEVER_DIRECT_UDP'
const switches = new Map<string, string>()

/** What keeps a release to relays: old ones only know how to do without UDP at all. */
function relayOnlySwitch(daemon: string): string {
  const found = switches.get(daemon) ?? (readFileSync(daemon).includes(NEVER_DIRECT) ? NEVER_DIRECT : 'TS_DEBUG_ALWAYS_USE_DERP')
  switches.set(daemon, found)
  return found
}

/** A real tailscaled, with the real command line of the same version. */
export class Tailscaled {
  readonly name: string
  readonly #lab: Lab
  readonly #bin: string
  readonly #suffix: string
  readonly #options: TailscaledOptions
  #process: LabProcess | undefined
  #polls: () => number = () => 0
  #socksPort = 0

  constructor(lab: Lab, bin: string, name: string, options: TailscaledOptions = {}) {
    this.#lab = lab
    this.#bin = bin
    this.#suffix = options.version === undefined ? '' : `@${options.version}`
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

  /** The file of its command line. */
  get program(): string {
    return `${this.#bin}/tailscale${this.#suffix}`
  }

  /** Starts the daemon, or starts it again with its state; other environment variables count from then on. */
  async start(env: Readonly<Record<string, string>> = {}): Promise<void> {
    const { netns, relayOnly, state, port = 0, userspace = netns === undefined } = this.#options
    const daemon = `${this.#bin}/tailscaled${this.#suffix}`
    const folder = this.#lab.at(this.name)
    mkdirSync(folder, { recursive: true })
    // Port 0: the daemon chooses a free one itself and tells it. It ends when a given one is taken meanwhile.
    const socks = netns === undefined ? ['--socks5-server=localhost:0'] : []
    const args = ['--no-logs-no-support', `--tun=${userspace ? 'userspace-networking' : 'tailscale0'}`, `--statedir=${folder}`, `--state=${state ?? `${folder}/state.json`}`, `--socket=${this.socket}`, ...socks, `--port=${port}`, '--verbose=1']
    const given = { TS_NO_LOGS_NO_SUPPORT: 'true', ...(relayOnly === true && { [relayOnlySwitch(daemon)]: '1' }), ...this.#options.env, ...env }
    const started = netns === undefined ? this.#lab.start(`tailscaled ${this.name}`, daemon, args, { env: given }) : startInside(this.#lab, this.name, netns, [daemon, ...args], given, this.#options.resolvConf)
    this.#process = started
    this.#polls = started.counted(POLL)
    await this.#lab.until(`${this.name} answers on its socket`, async () => {
      started.mustLive()
      if (netns === undefined) this.#socksPort = Number(SOCKS_PORT.exec(started.log)?.[1])
      return (netns !== undefined || this.#socksPort > 0) && (await this.status()).BackendState !== 'NoState'
    })
  }

  /** Runs a program where a node with a TUN device lives: its network, its /etc. */
  inside(file: string, args: readonly string[], timeoutMs: number = 30_000): Promise<RunResult> {
    return runProgram('nsenter', ['-t', String(this.#process?.pid ?? 0), '-m', '-n', file, ...args], { timeoutMs })
  }

  /** Ends the daemon, keeping its state. */
  async stop(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    await this.#process?.stop(signal)
  }

  get log(): string {
    return this.#process?.log ?? ''
  }

  /** How many map streams the daemon has begun since it was started. */
  get polls(): number {
    return this.#polls()
  }

  run(args: readonly string[], timeoutMs?: number): Promise<RunResult> {
    return runProgram(this.program, [`--socket=${this.socket}`, ...args], { ...(timeoutMs !== undefined && { timeoutMs }), ...(this.#options.env !== undefined && { env: this.#options.env }) })
  }

  /** A command that must succeed. */
  async cli(...args: readonly string[]): Promise<string> {
    try {
      return await runOk(this.program, [`--socket=${this.socket}`, ...args])
    } catch (error) {
      throw new Error(`${this.name}: ${error instanceof Error ? error.message : String(error)}\n${this.#process?.tail() ?? ''}`, { cause: error })
    }
  }

  upArguments(server: string, more: readonly string[] = []): readonly string[] {
    // Never by accident: a daemon without a namespace of its own would write to the resolv.conf of this computer.
    const dns = more.some((flag) => flag.startsWith('--accept-dns')) ? [] : ['--accept-dns=false']
    return ['up', '--login-server', server, '--hostname', this.name, '--timeout', '50s', ...dns, ...more]
  }

  /** Logs in; ends when the node runs. */
  async up(server: string, key?: string, ...more: readonly string[]): Promise<void> {
    await this.cli(...this.upArguments(server, [...(key === undefined ? [] : ['--authkey', key]), ...more]))
  }

  async status(): Promise<TailscaleStatus> {
    return JSON.parse(await runOk(this.program, [`--socket=${this.socket}`, 'status', '--json'], { timeoutMs: 10_000 })) as TailscaleStatus // the shape of the program's own documentation
  }

  /** `tailscale debug netmap`. */
  async netmap(): Promise<Readonly<Record<string, unknown>>> {
    return JSON.parse(await this.cli('debug', 'netmap')) as Readonly<Record<string, unknown>> // an object by definition
  }

  async peer(name: string): Promise<TailscalePeer | undefined> {
    return Object.values((await this.status()).Peer ?? {}).find((peer) => peer.DNSName.split('.')[0] === name)
  }

  async ip(): Promise<string> {
    return (await this.cli('ip', '-4')).trim()
  }
}
