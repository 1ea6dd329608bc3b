import { execFile } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { formatPrefix } from '@meshwright/ip'
import type { TailnetView } from '@meshwright/policy'
import Database from 'libsql'

/** What `headscale policy check` says of a policy. */
export interface HeadscaleAnswer {
  readonly accepted: boolean
  /** Its error text in one line; '' when accepted. */
  readonly said: string
}

/** Asks a real `headscale policy check`, with a database of the users and nodes of a tailnet and no server. Two ask at a time. */
export class HeadscaleCheck {
  readonly #program: string
  readonly #folder: string = mkdtempSync(path.join(os.tmpdir(), 'meshwright-policy-check-'))

  constructor(program: string) {
    this.#program = program
  }

  /** Removes what it left on disk. */
  close(): void {
    rmSync(this.#folder, { recursive: true, force: true })
  }

  /** All answers, in the order of the questions. */
  async ask(questions: readonly { readonly policy: string; readonly tailnet: TailnetView }[]): Promise<readonly HeadscaleAnswer[]> {
    const template = this.#room('template')
    await this.#check(template, '{}')
    const answers: HeadscaleAnswer[] = []
    let next = 0
    const worker = async (): Promise<void> => {
      for (let i = next++; i < questions.length; i = next++) {
        const question = questions[i]
        if (question === undefined) return
        // A folder for each: what one database leaves beside its file must not meet another.
        const room = this.#room(String(i))
        copyFileSync(path.join(template, 'db.sqlite'), path.join(room, 'db.sqlite'))
        fill(path.join(room, 'db.sqlite'), question.tailnet)
        answers[i] = await this.#check(room, question.policy)
        rmSync(room, { recursive: true, force: true })
      }
    }
    await Promise.all([worker(), worker()])
    return answers
  }

  #room(name: string): string {
    const room = path.join(this.#folder, name)
    mkdirSync(room, { recursive: true })
    writeFileSync(path.join(room, 'config.yaml'), configOf(room))
    return room
  }

  #check(room: string, policy: string): Promise<HeadscaleAnswer> {
    writeFileSync(path.join(room, 'policy.json'), policy)
    const args = ['-c', path.join(room, 'config.yaml'), 'policy', 'check', '--force', '--bypass-grpc-and-access-database-directly', '-f', path.join(room, 'policy.json')]
    return new Promise((resolve, reject) => {
      execFile(this.#program, args, { timeout: 60_000 }, (error, stdout, stderr) => {
        if (error !== null && typeof error.code !== 'number') reject(error)
        else resolve({ accepted: error === null && stdout.includes('Policy is valid'), said: error === null ? '' : said(stderr) })
      })
    })
  }
}

function said(stderr: string): string {
  const lines = stderr.split('\n').map((line) => line.trim())
  return lines.filter((line) => line !== '' && !line.startsWith('{"level":"debug"')).join(' ')
}

function fill(file: string, { users, nodes }: TailnetView): void {
  const database = new Database(file)
  try {
    database.exec('PRAGMA journal_mode = DELETE')
    const now = '2026-01-01 00:00:00+00:00'
    const user = database.prepare('INSERT INTO users (id, name, email, provider_identifier, provider, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?)')
    for (const { id, login } of users) {
      const local = login.split('@')[0] ?? login
      user.run(id, local, login.includes('@') ? login : '', login.includes('@') ? `https://id.example/${id}` : null, login.includes('@') ? 'oidc' : '', now, now)
    }
    const node = database.prepare(
      `INSERT INTO nodes (id, machine_key, node_key, disco_key, endpoints, host_info, ipv4, ipv6, hostname, given_name, user_id, register_method, tags, approved_routes, created_at, updated_at)
       VALUES (?, ?, ?, ?, '[]', ?, ?, ?, ?, ?, ?, 'cli', ?, ?, ?, ?)`,
    )
    for (const [i, each] of nodes.entries()) {
      const key = (i + 1).toString(16).padStart(64, '0')
      const [v4, v6] = [4, 6].map((family) => each.addresses.find((ip) => ip.family === family)?.key ?? null)
      const routes = each.advertisedRoutes.map(formatPrefix)
      const info = JSON.stringify({ Hostname: each.name, RoutableIPs: routes })
      const owner = each.tags.length > 0 ? null : (each.user ?? null)
      node.run(i + 1, `mkey:${key}`, `nodekey:${key}`, `discokey:${key}`, info, v4, v6, each.name, each.name, owner, JSON.stringify(each.tags), JSON.stringify(each.approvedRoutes.map(formatPrefix)), now, now)
    }
  } finally {
    database.close()
  }
}

function configOf(room: string): string {
  return `server_url: http://127.0.0.1:1
listen_addr: 127.0.0.1:0
metrics_listen_addr: 127.0.0.1:0
grpc_listen_addr: 127.0.0.1:0
noise: {private_key_path: ${room}/noise.key}
prefixes: {v4: 100.64.0.0/10, v6: "fd7a:115c:a1e0::/48"}
derp: {server: {enabled: false}, urls: [], paths: [], auto_update_enabled: false}
database: {type: sqlite, sqlite: {path: ${room}/db.sqlite, write_ahead_log: false}}
dns: {magic_dns: false, base_domain: example.net, override_local_dns: false, nameservers: {global: []}}
policy: {mode: database}
unix_socket: ${room}/hs.sock
log: {level: error}
disable_check_updates: true
`
}
