import { rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { type CommandResult, Program } from './program.ts'
import type { Lab } from './lab.ts'
import { Disappointment } from './waiting.ts'

const START_LIMIT_MS = 60_000
const COMMAND_LIMIT_MS = 60_000

/** A node in the words of `nodes list -o json`, as far as the demo reads it. */
export interface ListedNode {
  readonly id: string
  readonly givenName: string
  readonly online: boolean
  readonly ipAddresses: readonly string[]
  readonly tags: readonly string[]
  readonly user?: { readonly name: string } | null
  readonly expiry: string | null
}

/** Writes the configuration of the control server, the keys of headscale 0.29: SQLite in the demo's folder, our relay, no DNS but names of the mesh. */
export function writeControlConfig(folder: string, port: number, domain: string): string {
  const at = (name: string): string => JSON.stringify(path.join(folder, name))
  const file = path.join(folder, 'control.yaml')
  writeFileSync(
    file,
    `server_url: http://127.0.0.1:${port}
listen_addr: 127.0.0.1:${port}
noise: {private_key_path: ${at('noise.key')}}
prefixes: {v4: 100.64.0.0/10, v6: "fd7a:115c:a1e0::/48", allocation: sequential}
derp: {server: {enabled: false}, urls: [], paths: [${at('relays.yaml')}], auto_update_enabled: false}
disable_check_updates: true
database: {type: sqlite, sqlite: {path: ${at('control.sqlite')}}}
log: {level: info, format: text}
policy: {mode: database}
dns: {magic_dns: true, base_domain: ${domain}, override_local_dns: false, nameservers: {global: []}}
unix_socket: ${at('control.sock')}
unix_socket_permission: "0700"
logtail: {enabled: false}
`,
  )
  return file
}

/** The control server as a process, and its command line. */
export class ControlProcess {
  readonly url: string
  readonly configFile: string
  readonly #lab: Lab
  #program: Program | undefined

  constructor(lab: Lab, port: number, domain: string) {
    this.#lab = lab
    this.url = `http://127.0.0.1:${port}`
    this.configFile = writeControlConfig(lab.folder, port, domain)
  }

  get pid(): number {
    return this.#program?.pid ?? 0
  }

  /** Starts it, or starts it again. */
  async start(): Promise<void> {
    this.#program = this.#lab.start('control server', this.#lab.programs.control, ['serve', '--config', this.configFile, '--allow-loopback'])
    await this.#program.line(/\bready\b/, START_LIMIT_MS)
  }

  /** Ends it as a power cut would. */
  async killHard(): Promise<void> {
    await this.#program?.stop('SIGKILL')
  }

  /** A command of `meshwright-control`. @throws Disappointment when it is refused */
  async command(...words: readonly string[]): Promise<CommandResult> {
    const result = await this.#lab.run(this.#lab.programs.control, ['-c', this.configFile, ...words], COMMAND_LIMIT_MS)
    if (result.status !== 0) throw new Disappointment(`"meshwright-control ${words.slice(0, 2).join(' ')}" ended with status ${result.status}: ${(result.err || result.out).trim()}`)
    return result
  }

  async json<T>(...words: readonly string[]): Promise<T> {
    return JSON.parse((await this.command(...words, '-o', 'json')).out) as T // the shape is headscale's, which the server's own tests hold it to
  }

  /** Makes a key that lets one device in: of a user, or with a tag. */
  async authKey(owner: { readonly userId: string } | { readonly tag: string }): Promise<string> {
    const { key } = await this.json<{ readonly key: string }>('preauthkeys', 'create', ...('tag' in owner ? ['--tags', owner.tag] : ['-u', owner.userId]), '-e', '1h')
    return key
  }

  nodes(): Promise<readonly ListedNode[]> {
    return this.json<readonly ListedNode[]>('nodes', 'list')
  }

  /** Puts a policy in force. */
  async setPolicy(text: string): Promise<CommandResult> {
    const file = path.join(this.#lab.folder, 'policy.hujson')
    writeFileSync(file, text)
    try {
      return await this.command('policy', 'set', '-f', file)
    } finally {
      rmSync(file, { force: true })
    }
  }
}
