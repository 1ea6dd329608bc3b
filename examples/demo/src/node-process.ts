import http from 'node:http'
import path from 'node:path'
import type { Lab } from './lab.ts'
import { httpThroughSocks, type MeshAnswer } from './socks-http.ts'
import type { CommandResult } from './program.ts'
import { Disappointment } from './waiting.ts'

const START_LIMIT_MS = 60_000
/** For who answers in milliseconds on a computer that has time for it. */
const ANSWER_LIMIT_MS = 20_000
const COMMAND_LIMIT_MS = 75_000

/** `status --json`, as far as the demo reads it. */
export interface NodeStatus {
  readonly BackendState: string
  readonly AuthURL: string
  readonly TailscaleIPs: readonly string[] | null
  readonly Self: { readonly DNSName: string; readonly Tags?: readonly string[] }
  readonly Peer: Readonly<Record<string, { readonly DNSName: string; readonly CurAddr: string; readonly Relay: string; readonly Online: boolean }>> | null
  readonly Meshwright: { readonly PacketsIn: number; readonly DirectBytesOut: number; readonly RelayBytesOut: number; readonly Drops: Readonly<Record<string, number>> }
}

/** A node of the mesh: `meshwrightd` as a process, and the command line that speaks with it. */
export class NodeProcess {
  readonly name: string
  readonly socksPort: number
  readonly socketPath: string
  readonly #lab: Lab
  readonly #flags: readonly string[]

  constructor(lab: Lab, name: string, socksPort: number, flags: readonly string[] = []) {
    this.#lab = lab
    this.name = name
    this.socksPort = socksPort
    this.socketPath = path.join(lab.folder, `${name}.sock`)
    this.#flags = flags
  }

  async start(): Promise<void> {
    const state = path.join(this.#lab.folder, `${this.name}.state`)
    const args = ['--state', state, '--socket', this.socketPath, '--port', '0', '--tun', 'userspace-networking', '--socks5-server', `127.0.0.1:${this.socksPort}`, '--allow-loopback', ...this.#flags]
    await this.#lab.start(this.name, this.#lab.programs.daemon, args).line(/ is ready: /, START_LIMIT_MS)
  }

  /** A command of `meshwright` on this node. @throws Disappointment when its status is not 0 */
  async command(words: readonly string[], onOut?: (soFar: string) => void): Promise<CommandResult> {
    const result = await this.#lab.run(this.#lab.programs.cli, ['--socket', this.socketPath, ...words], COMMAND_LIMIT_MS, onOut)
    if (result.status !== 0) throw new Disappointment(`"meshwright ${words[0] ?? ''}" on ${this.name} ended with status ${result.status}: ${(result.err || result.out).trim()}`)
    return result
  }

  /** Logs in; ends when the node runs. */
  up(controlUrl: string, more: readonly string[], onOut?: (soFar: string) => void): Promise<CommandResult> {
    return this.command(['up', '--login-server', controlUrl, '--hostname', this.name, '--timeout', '60s', ...more], onOut)
  }

  /** What `meshwright status --json` shows. */
  async status(): Promise<NodeStatus> {
    return JSON.parse((await this.#api('GET', 'status')) || '{}') as NodeStatus // the shape that the daemon's tests hold it to
  }

  /** Blocks UDP while the node runs, or frees it: what `--block-udp` does at the start. */
  async blockUdp(on: boolean): Promise<void> {
    await this.#api('POST', `meshwright/block-udp?on=${on}`)
  }

  /** What this node sees of another; `undefined` when it has never heard of it. */
  async peer(name: string): Promise<{ readonly CurAddr: string; readonly Relay: string; readonly Online: boolean } | undefined> {
    return Object.values((await this.status()).Peer ?? {}).find((peer) => peer.DNSName.split('.')[0] === name)
  }

  /** An HTTP request into the mesh, through this node's SOCKS5 port. */
  http(host: string, port: number, options: { readonly timeoutMs?: number; readonly body?: Uint8Array } = {}): Promise<MeshAnswer> {
    return httpThroughSocks(this.socksPort, host, port, { timeoutMs: ANSWER_LIMIT_MS, ...options })
  }

  #api(method: string, what: string): Promise<string> {
    return new Promise((resolve, reject) => {
      const request = http.request({ socketPath: this.socketPath, method, path: `/localapi/v0/${what}`, headers: { Host: 'local-tailscaled.sock' }, agent: false, timeout: ANSWER_LIMIT_MS }, (response) => {
        let text = ''
        response.setEncoding('utf8')
        response.on('data', (more: string) => (text += more))
        response.on('end', () => ((response.statusCode ?? 500) < 300 ? resolve(text) : reject(new Disappointment(`${this.name} answered ${text.trim()}`))))
      })
      request.on('timeout', () => request.destroy(new Error(`${this.name} does not answer on its socket`)))
      request.on('error', reject)
      request.end()
    })
  }
}
