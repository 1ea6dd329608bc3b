import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import readline from 'node:readline'
import { buildSync } from 'esbuild'
import { whyNoNamespaces } from './wireguard-lab.ts'
import type { TransferResult } from './wireguard-commands.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')
const TCP_PORT = 5001
const RUN_TIMEOUT_MS = 30_000

// One end of a TCP connection between two kernels: [mode, host, port, bytes to send, port of a SOCKS5 proxy].
const KERNEL_TCP = `
import net from 'node:net'
import { createHash } from 'node:crypto'
const [mode, host, port, size, proxy] = JSON.parse(process.argv[1])
const talk = (socket) => {
  const hash = createHash('sha256')
  let bytes = 0
  socket.on('data', (chunk) => { hash.update(chunk); bytes += chunk.length })
  socket.on('error', (error) => { console.log(JSON.stringify({ bytes, sha256: '', reason: error.code })); process.exit(0) })
  socket.on('end', () => { console.log(JSON.stringify({ bytes, sha256: hash.digest('hex'), reason: 'finished' })); socket.end() })
  socket.on('close', () => process.exit(0))
  if (proxy) socket.write(Buffer.alloc(size, mode))
  else socket.end(Buffer.alloc(size, mode))
}
setTimeout(() => { console.log(JSON.stringify({ bytes: 0, sha256: '', reason: 'timeout' })); process.exit(0) }, 30_000)
if (proxy) {
  const socket = net.connect({ host: '127.0.0.1', port: proxy }, () => socket.write(Buffer.of(5, 1, 0)))
  socket.once('data', () => {
    socket.write(Buffer.from([5, 1, 0, 1, ...host.split('.').map(Number), port >> 8, port & 255]))
    socket.once('data', (reply) => {
      if (reply[1] === 0) talk(socket)
      else { console.log(JSON.stringify({ bytes: 0, sha256: '', reason: 'SOCKS ' + reply[1] })); process.exit(0) }
    })
  })
} else if (mode === 'connect') talk(net.connect({ host, port, allowHalfOpen: true }))
else net.createServer({ allowHalfOpen: true }, talk).listen(port, host, () => console.log('ready'))
`

// Sends a datagram every 100 ms and counts what comes back: [mode, host, port, how many].
const KERNEL_UDP = `
import dgram from 'node:dgram'
const [mode, host, port, count] = JSON.parse(process.argv[1])
const socket = dgram.createSocket(host.includes(':') ? 'udp6' : 'udp4')
if (mode === 'echo') {
  socket.on('message', (bytes, from) => socket.send(bytes, from.port, from.address, () => {}))
  socket.bind(port, host, () => console.log('ready'))
} else {
  let sent = 0, answered = 0
  socket.on('message', () => { answered += 1 })
  const timer = setInterval(() => {
    if (sent === count) { clearInterval(timer); setTimeout(() => { console.log(JSON.stringify({ sent, answered })); process.exit(0) }, 1500); return }
    sent += 1
    socket.send(Buffer.from(String(sent)), port, host, () => {})
  }, 100)
}
`

/** Why wg or TUN devices cannot be had; `undefined` when they can. */
export function whyNoWgTools(): string | undefined {
  if (spawnSync('wg', ['--version']).status !== 0) return 'wg is not installed (Debian package wireguard-tools)'
  if (spawnSync('bash', ['--version']).status !== 0) return 'wg-quick needs bash'
  return whyNoNamespaces()
}

/** Why wg-quick would not choose a program in user space. */
export function kernelHasWireGuard(): boolean {
  if (existsSync('/sys/module/wireguard')) return true
  const name = `mwk${process.pid}`
  const made = spawnSync('ip', ['link', 'add', name, 'type', 'wireguard']).status === 0
  if (made) spawnSync('ip', ['link', 'del', name])
  return made
}

let folder: string | undefined
let count = 0
const open = new Set<WireGuardHost>()

/** Builds meshwright-wg into one file, and puts it into a folder for PATH. Inside the repository, so that it finds `koffi`. */
export function buildProgram(): void {
  mkdirSync(path.join(ROOT, '.cache'), { recursive: true })
  folder = mkdtempSync(path.join(ROOT, '.cache', 'meshwright-wg-'))
  const file = path.join(folder, 'meshwright-wg.mjs')
  buildSync({
    entryPoints: [path.join(ROOT, 'examples/wireguard/src/meshwright-wg.ts')], outfile: file, bundle: true, platform: 'node', format: 'esm', target: 'node20',
    conditions: ['@meshwright/source'], mainFields: ['module', 'main'], external: ['koffi'], logLevel: 'error',
    banner: { js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url)" },
  })
  script(folder, 'meshwright-wg', `exec ${process.execPath} ${file} "$@"`)
}

/** Takes away all that is left. */
export async function closeHosts(): Promise<void> {
  for (const host of [...open]) await host.close()
  if (folder !== undefined) rmSync(folder, { recursive: true, force: true })
}

/** A network namespace with a folder of its own, in which wg, wg-quick and meshwright-wg are run. */
export class WireGuardHost {
  /** Free for the name of an interface: sockets of all namespaces lie in one folder. */
  readonly interfaceName: string
  readonly folder: string
  readonly #namespace: string
  readonly #children: ChildProcess[] = []

  constructor() {
    if (folder === undefined) throw new Error('the program is not built')
    count += 1
    this.interfaceName = `mwq${process.pid.toString(36)}x${count}`
    this.#namespace = `${this.interfaceName}n`
    this.folder = mkdtempSync(path.join(folder, 'host-'))
    execFileSync('ip', ['netns', 'add', this.#namespace])
    open.add(this)
    execFileSync('ip', ['-n', this.#namespace, 'link', 'set', 'lo', 'up'])
  }

  /** Joins two hosts by a line: 192.0.2.1 and 192.0.2.2. */
  static line(a: WireGuardHost, b: WireGuardHost): void {
    execFileSync('ip', ['link', 'add', 'line', 'netns', a.#namespace, 'type', 'veth', 'peer', 'name', 'line', 'netns', b.#namespace])
    for (const [host, address] of [[a, '192.0.2.1'], [b, '192.0.2.2']] as const) {
      execFileSync('ip', ['-n', host.#namespace, 'addr', 'add', `${address}/24`, 'dev', 'line'])
      execFileSync('ip', ['-n', host.#namespace, 'link', 'set', 'line', 'up'])
    }
  }

  async close(): Promise<void> {
    if (!open.delete(this)) return
    const ended = this.#children.map((child) => (child.exitCode !== null || child.signalCode !== null ? undefined : new Promise((resolve) => child.once('close', resolve))))
    // Daemons are no children of ours, but all that runs in this namespace was started by this test.
    for (const pid of this.pids()) kill(pid)
    await Promise.all(ended)
    for (let i = 0; i < 100 && this.pids().length > 0; i += 1) await new Promise((resolve) => setTimeout(resolve, 20))
    spawnSync('ip', ['netns', 'del', this.#namespace])
    rmSync(`/var/run/wireguard/${this.interfaceName}.sock`, { force: true })
  }

  /** Processes in the namespace. */
  pids(): number[] {
    const { stdout } = spawnSync('ip', ['netns', 'pids', this.#namespace], { encoding: 'utf8' })
    return stdout.split('\n').filter((line) => line !== '').map(Number)
  }

  /** Runs a program to its end; gives its standard output. @throws with what it said when it fails */
  async run(program: string, ...args: readonly string[]): Promise<string> {
    return this.pipe('', program, ...args)
  }

  /** Runs a program with text on its standard input. @throws when it fails */
  async pipe(input: string, program: string, ...args: readonly string[]): Promise<string> {
    const { status, stdout, stderr } = await this.try(program, args, input)
    if (status !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${status}: ${stderr}`)
    return stdout
  }

  /** Runs a program to its end, whatever that is. */
  try(program: string, args: readonly string[], input: string = ''): Promise<{ readonly status: number | null; readonly stdout: string; readonly stderr: string }> {
    const child = spawn('ip', ['netns', 'exec', this.#namespace, program, ...args], { env: this.#env(), timeout: RUN_TIMEOUT_MS })
    this.#children.push(child)
    let [stdout, stderr] = ['', '']
    child.stdout.on('data', (chunk) => (stdout += String(chunk)))
    child.stderr.on('data', (chunk) => (stderr += String(chunk)))
    child.stdin.on('error', () => child.stdin.destroy())
    child.stdin.end(input)
    return new Promise((resolve, reject) => {
      child.once('error', reject)
      child.once('close', (status) => resolve({ status, stdout, stderr }))
    })
  }

  /** Starts a program and leaves it running. */
  start(program: string, ...args: readonly string[]): ChildProcess {
    const child = spawn('ip', ['netns', 'exec', this.#namespace, program, ...args], { stdio: ['ignore', 'pipe', 'inherit'], env: this.#env() })
    this.#children.push(child)
    return child
  }

  /** Writes a file that only its owner can read; gives its path. */
  file(name: string, text: string): string {
    const file = path.join(this.folder, name)
    writeFileSync(file, text, { mode: 0o600 })
    return file
  }

  /** Puts a program into this host's PATH. */
  program(name: string, body: string): void {
    script(this.folder, name, body)
  }

  /** Connects to another host, maybe through a SOCKS5 proxy, and sends `bytes` each way. The hash is of `bytes` letters. */
  async transfer(to: WireGuardHost, address: string, bytes: number, proxyPort?: number): Promise<readonly TransferResult[]> {
    const theirs = to.start(process.execPath, '--input-type=module', '-e', KERNEL_TCP, JSON.stringify(['listen', address, TCP_PORT, bytes]))
    const lines = linesOf(theirs)
    await lines.next()
    const ours = linesOf(this.start(process.execPath, '--input-type=module', '-e', KERNEL_TCP, JSON.stringify(['connect', address, TCP_PORT, bytes, proxyPort])))
    return Promise.all([ours, lines].map(async (each) => JSON.parse(await each.next())))
  }

  /** Sends datagrams to another host, ten in a second; resolves with how many came back. */
  async echo(to: WireGuardHost, address: string, port: number, times: number): Promise<{ readonly sent: number; readonly answered: number }> {
    const theirs = to.start(process.execPath, '--input-type=module', '-e', KERNEL_UDP, JSON.stringify(['echo', address, port, 0]))
    await linesOf(theirs).next()
    const result = await linesOf(this.start(process.execPath, '--input-type=module', '-e', KERNEL_UDP, JSON.stringify(['send', address, port, times]))).next()
    theirs.kill('SIGKILL')
    return JSON.parse(result)
  }

  #env(): NodeJS.ProcessEnv {
    return { ...process.env, PATH: `${this.folder}:${folder ?? ''}:${process.env['PATH'] ?? ''}`, WG_QUICK_USERSPACE_IMPLEMENTATION: 'meshwright-wg' }
  }
}

function linesOf(child: ChildProcess): { next(): Promise<string> } {
  if (child.stdout === null) throw new Error('no output')
  const ready: string[] = []
  const waiting: ((line: string) => void)[] = []
  readline.createInterface({ input: child.stdout }).on('line', (line) => {
    const resolve = waiting.shift()
    if (resolve === undefined) ready.push(line)
    else resolve(line)
  })
  return {
    next(): Promise<string> {
      const line = ready.shift()
      return line === undefined ? new Promise((resolve) => waiting.push(resolve)) : Promise.resolve(line)
    },
  }
}

function script(directory: string, name: string, body: string): void {
  const file = path.join(directory, name)
  writeFileSync(file, `#!/bin/bash\n${body}\n`)
  chmodSync(file, 0o755)
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    return // it has just ended
  }
}
