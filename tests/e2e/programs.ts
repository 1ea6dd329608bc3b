import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

export { freePort } from '../../examples/demo/src/free-port.ts'

/** The root of the repository. */
export const ROOT: string = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..')

const built = (file: string): string => path.join(ROOT, 'examples', file)

/** The built programs. */
export const PROGRAMS = {
  control: built('control-server/dist/main.js'),
  relay: built('relay/dist/main.js'),
  daemon: built('node/dist/meshwrightd.js'),
  cli: built('node/dist/meshwright.js'),
  demo: built('demo/dist/main.js'),
  twoPeers: built('two-peers/dist/main.js'),
  embedHttp: built('embed-http/dist/main.js'),
  policy: built('policy-cli/dist/main.js'),
  policyEmbed: built('policy-embed/dist/main.js'),
} as const

for (const file of Object.values(PROGRAMS)) if (!existsSync(file)) throw new Error(`${file} is not built: run "npm run build" first`)

/** How a program ended. */
export interface Ended {
  readonly status: number | null
  readonly out: string
  readonly err: string
}

/** So long a program may take for what it does in two seconds: a cold and busy computer takes ten times as long. No test asserts that it is fast. */
const PATIENCE_MS = 90_000

/** Runs a program to its end. */
export function run(file: string, args: readonly string[], options: { readonly input?: string; readonly env?: Readonly<Record<string, string>>; readonly timeoutMs?: number; readonly cwd?: string } = {}): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [file, ...args], { stdio: 'pipe', env: environment(options.env), cwd: options.cwd ?? os.tmpdir() })
    const timer = setTimeout(() => child.kill('SIGKILL'), options.timeoutMs ?? PATIENCE_MS)
    let out = ''
    let err = ''
    child.stdout.on('data', (bytes: Buffer) => (out += bytes.toString('utf8')))
    child.stderr.on('data', (bytes: Buffer) => (err += bytes.toString('utf8')))
    child.stdin.on('error', () => undefined) // a program that does not read its input may be gone already
    child.stdin.end(options.input ?? '')
    child.once('error', reject)
    child.once('close', (status) => {
      clearTimeout(timer)
      resolve({ status, out, err })
    })
  })
}

/** A program that goes on. */
export class Background {
  readonly #child: ChildProcess
  readonly #ended: Promise<number | null>
  #text = ''

  constructor(file: string, args: readonly string[], env: Readonly<Record<string, string>> = {}) {
    this.#child = spawn(process.execPath, [file, ...args], { stdio: ['ignore', 'pipe', 'pipe'], env: environment(env), cwd: os.tmpdir() })
    for (const stream of [this.#child.stdout, this.#child.stderr]) stream?.on('data', (bytes: Buffer) => (this.#text += bytes.toString('utf8')))
    this.#ended = new Promise((resolve) => this.#child.once('close', resolve))
  }

  get pid(): number {
    return this.#child.pid ?? 0
  }

  /** All that it has said so far. */
  get text(): string {
    return this.#text
  }

  /** Resolves when it has said something that matches. */
  async said(pattern: RegExp, timeoutMs: number = PATIENCE_MS): Promise<RegExpExecArray> {
    const deadline = performance.now() + timeoutMs
    for (;;) {
      const match = pattern.exec(this.#text)
      if (match !== null) return match
      if (this.#child.exitCode !== null) throw new Error(`it ended with ${this.#child.exitCode} before it said ${String(pattern)}:\n${this.#text}`)
      if (performance.now() > deadline) throw new Error(`it did not say ${String(pattern)} within ${timeoutMs} ms:\n${this.#text}`)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }

  /** Sends a signal and waits for the end; gives its status. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    this.#child.kill(signal)
    return this.#ended
  }

  /** Waits for its end; gives its status. */
  ended(): Promise<number | null> {
    return this.#ended
  }
}

/** Folders and processes of one test file; `clean` ends and removes all of them. */
export class Bench {
  readonly #folders: string[] = []
  readonly #running: Background[] = []

  /** @param prefix short where sockets stand deep in it: their paths may have 103 bytes */
  folder(prefix: string = 'meshwright-e2e-'): string {
    const folder = mkdtempSync(path.join(os.tmpdir(), prefix))
    this.#folders.push(folder)
    return folder
  }

  start(file: string, args: readonly string[], env: Readonly<Record<string, string>> = {}): Background {
    const program = new Background(file, args, env)
    this.#running.push(program)
    return program
  }

  async clean(): Promise<void> {
    await Promise.all(this.#running.splice(0).map((program) => program.stop('SIGKILL')))
    for (const folder of this.#folders.splice(0)) rmSync(folder, { recursive: true, force: true })
  }
}

/** Writes a configuration of a control server that stands alone: one relay that nobody runs, policy in the database. */
export function controlConfig(folder: string, port: number, change: (lines: string) => string = (lines) => lines): string {
  const at = (name: string): string => JSON.stringify(path.join(folder, name))
  const file = path.join(folder, 'control.yaml')
  writeFileSync(path.join(folder, 'relays.yaml'), 'regions: {900: {regionid: 900, regioncode: none, regionname: None, nodes: [{name: 900a, regionid: 900, hostname: 127.0.0.1, ipv4: 127.0.0.1, derpport: 9, stunport: -1}]}}\n')
  writeFileSync(
    file,
    change(`server_url: http://127.0.0.1:${port}
listen_addr: 127.0.0.1:${port}
noise: {private_key_path: ${at('noise.key')}}
prefixes: {v4: 100.64.0.0/10, v6: "fd7a:115c:a1e0::/48", allocation: sequential}
derp: {server: {enabled: false}, urls: [], paths: [${at('relays.yaml')}], auto_update_enabled: false}
disable_check_updates: true
database: {type: sqlite, sqlite: {path: ${at('control.sqlite')}}}
log: {level: info, format: text}
policy: {mode: database}
dns: {magic_dns: true, base_domain: e2e.test, override_local_dns: false, nameservers: {global: []}}
unix_socket: ${at('control.sock')}
unix_socket_permission: "0700"
`),
  )
  return file
}

function environment(more: Readonly<Record<string, string>> = {}): NodeJS.ProcessEnv {
  // The programs run as a person would run them: without what vitest puts into the environment.
  const { NODE_OPTIONS: _options, VITEST: _vitest, NODE_ENV: _mode, ...rest } = process.env
  return { ...rest, ...more }
}
