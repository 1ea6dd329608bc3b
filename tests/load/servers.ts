import { execFile } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import https from 'node:https'
import os from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { NODE_FLAGS } from '../../examples/control-server/src/node-flags.ts'
import { bundle } from '../bundle.ts'
import { freePort } from '../interop/lab-process.ts'
import { WITH_WHAT_IS_LEFT } from './liar-rounds.ts'
import { Measured, pause } from './process.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')
const HEADSCALE = path.join(os.homedir(), '.cache', 'meshwright-interop', 'headscale@v0.29.3', 'headscale')
const READY_MS = 20_000
const run = promisify(execFile)

/** The control servers that can be measured. */
export type ServerKind = 'ours' | 'headscale'

/** A control server as a process, with users and a policy. */
export interface LoadServer {
  readonly url: string
  readonly process: Measured
  /** Where its files are, as long as it runs. */
  readonly folder: string
  /** A reusable key of a user; users are named u0, u1 and so on. */
  authKey(user: number): string
  /** The value of one of its metrics. */
  metric(name: string): Promise<number>
  stop(): Promise<void>
}

/** A policy to measure under: its text, and how many users it names. */
export interface LoadPolicy {
  readonly users: number
  readonly text: string
}

/** How a server is started. */
export interface ServerOptions {
  /** Its Noise key as text; default: a fresh one. */
  readonly noiseKey?: string
  readonly tls?: { readonly cert: string; readonly key: string }
  /** With the relay that is in it, for registered nodes alone; ours. */
  readonly relay?: boolean
  /** Where its fresh folder with the database is made; default: the system's folder for such. */
  readonly under?: string
  /** It gets the processor when nobody else wants it. */
  readonly nice?: boolean
}

/** A folder in memory, where the system has one: a disk that makes everybody wait now and then is then no part of what is measured. */
export function memoryFolder(): string | undefined {
  return existsSync('/dev/shm') ? '/dev/shm' : undefined
}

/** Why a server cannot be measured here, or `undefined` when it can. */
export function missing(kind: ServerKind): string | undefined {
  return kind === 'headscale' && !existsSync(HEADSCALE) ? `no headscale at ${HEADSCALE}: "npm run test:interop" installs it` : undefined
}

/** Bundles a program of ours from source, as an installed one would start. Gives the file and what removes it again. */
export async function bundleProgram(entry: string, name: string): Promise<{ readonly file: string; readonly remove: () => void }> {
  const folder = path.join(ROOT, '.cache', 'load', `${process.pid}-${name}`)
  const file = path.join(folder, `${name}.mjs`)
  await bundle({ [name]: path.join(ROOT, entry) }, folder)
  return { file, remove: () => rmSync(folder, { recursive: true, force: true }) }
}

/**
 * Starts a server on loopback with a database in a fresh folder. Both write warnings alone to their logs.
 * With MESHWRIGHT_LOAD_PROFILE, a folder, ours leaves a CPU profile there; MESHWRIGHT_LOAD_NODE_FLAGS are more flags for its Node
 * than the README of the control server names (the last of two that contradict each other counts: `--no-single-threaded-gc`).
 */
export async function startServer(kind: ServerKind, policy: LoadPolicy, options: ServerOptions = {}): Promise<LoadServer> {
  const folder = mkdtempSync(path.join(options.under ?? os.tmpdir(), 'meshwright-load-'))
  const at = (name: string): string => JSON.stringify(path.join(folder, name))
  const [port, metrics] = [await freePort(), await freePort()]
  const url = `${options.tls === undefined ? 'http' : 'https'}://127.0.0.1:${port}`
  const config = path.join(folder, 'config.yaml')
  writeFileSync(path.join(folder, 'policy.hujson'), policy.text)
  if (options.noiseKey !== undefined) writeFileSync(path.join(folder, 'noise.key'), options.noiseKey, { mode: 0o600 })
  if (options.tls !== undefined) for (const [name, pem] of Object.entries(options.tls)) writeFileSync(path.join(folder, `${name}.pem`), pem, { mode: 0o600 })
  // Clients must be told of a relay; nobody connects to it.
  const node = { name: '900a', regionid: 900, hostname: '127.0.0.1', ipv4: '127.0.0.1', ipv6: 'none', stunport: -1, derpport: 1 }
  writeFileSync(path.join(folder, 'derp.yaml'), `regions:\n  900: ${JSON.stringify({ regionid: 900, regioncode: 'none', regionname: 'None', nodes: [node] })}\n`)
  const relayLine = options.relay === true ? `{server: {enabled: true, verify_clients: true, private_key_path: ${at('derp.key')}, stun_listen_addr: ""}, urls: [], paths: [], auto_update_enabled: false}` : `{server: {enabled: false}, urls: [], paths: [${at('derp.yaml')}], auto_update_enabled: false}`
  const lines = [
    `server_url: ${url}`,
    `listen_addr: 127.0.0.1:${port}`,
    `noise: {private_key_path: ${at('noise.key')}}`,
    'prefixes: {v4: 100.64.0.0/10, v6: "fd7a:115c:a1e0::/48", allocation: sequential}',
    `derp: ${relayLine}`,
    'disable_check_updates: true',
    `database: {type: sqlite, sqlite: {path: ${at('db.sqlite')}}}`,
    'log: {level: warn, format: text}',
    'dns: {magic_dns: true, base_domain: load.test, override_local_dns: false, nameservers: {global: []}}',
    `unix_socket: ${at('control.sock')}`,
    'unix_socket_permission: "0700"',
    'logtail: {enabled: false}',
    `policy: {mode: file, path: ${at('policy.hujson')}}`,
    ...(options.tls === undefined ? [] : [`tls_cert_path: ${at('cert.pem')}`, `tls_key_path: ${at('key.pem')}`]),
    `metrics_listen_addr: 127.0.0.1:${metrics}`,
  ]
  writeFileSync(config, `${lines.join('\n')}\n`)
  const bundled = kind === 'ours' ? await bundleProgram('examples/control-server/src/main.ts', 'control') : undefined
  const [file, before] = bundled === undefined ? [HEADSCALE, []] : [process.execPath, [bundled.file]]
  const profile = process.env['MESHWRIGHT_LOAD_PROFILE']
  const profiling = bundled === undefined || profile === undefined ? [] : ['--cpu-prof', '--cpu-prof-dir', profile]
  const flags = bundled === undefined ? [] : [...NODE_FLAGS, ...(process.env['MESHWRIGHT_LOAD_NODE_FLAGS'] ?? '').split(' ').filter((flag) => flag !== '')]
  const [start, ...first] = options.nice === true ? [...WITH_WHAT_IS_LEFT, file] : [file]
  const server = new Measured(kind, start, [...first, ...flags, ...profiling, ...before, 'serve', bundled === undefined ? '-c' : '--config', config])
  const clear = (): void => {
    bundled?.remove()
    rmSync(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 })
  }
  process.on('exit', clear) // a folder in memory must not outlive a run that was broken off
  const stop = async (): Promise<void> => {
    process.off('exit', clear)
    await server.stop()
    clear()
  }
  const cli = async (...words: readonly string[]): Promise<string> => (await run(file, [...before, '-c', config, ...words], { timeout: READY_MS })).stdout
  try {
    await ready(server, url, options.tls?.cert)
    const keys: string[] = []
    for (let user = 0; user < policy.users; user += 1) {
      const { id } = JSON.parse(await cli('users', 'create', `u${user}`, '-o', 'json')) as { readonly id: string | number }
      const { key } = JSON.parse(await cli('preauthkeys', 'create', '-u', String(id), '--reusable', '-e', '24h', '-o', 'json')) as { readonly key: string }
      keys.push(key)
    }
    const metric = async (name: string): Promise<number> => Number(new RegExp(`^${name} (.*)$`, 'm').exec(await (await fetch(`http://127.0.0.1:${metrics}/metrics`)).text())?.[1])
    return { url, process: server, folder, authKey: (user) => keys[user % keys.length] ?? '', metric, stop }
  } catch (error) {
    await stop()
    throw new Error(`${kind} does not start: ${error instanceof Error ? error.message : String(error)}\n${server.log}`, { cause: error })
  }
}

async function ready(server: Measured, url: string, ca: string | undefined): Promise<void> {
  const deadline = performance.now() + READY_MS
  for (;;) {
    if (!server.alive) throw new Error('it ended')
    const healthy = await new Promise<boolean>((resolve) => {
      const answered = (answer: http.IncomingMessage): void => {
        answer.resume()
        resolve(answer.statusCode === 200)
      }
      const request = ca === undefined ? http.get(`${url}/health`, { agent: false }, answered) : https.get(`${url}/health`, { agent: false, ca }, answered)
      request.once('error', () => resolve(false)) // not listening yet
    })
    if (healthy) return
    if (performance.now() > deadline) throw new Error('it is not ready in time')
    await pause(50)
  }
}
