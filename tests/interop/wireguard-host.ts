import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import readline from 'node:readline'
import { buildSync } from 'esbuild'
import { Capture, PLAINTEXT_MARKER, sendOneByOne, whyNoCapture } from './wireguard-capture.ts'
import type { TransferResult } from './wireguard-commands.ts'
import { whyNoNamespaces } from './wireguard-programs.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')
const TCP_PORT = 5001
const RUN_TIMEOUT_MS = 60_000
// At most 16 bytes, repeated.
const MARKER_IN_PING = Buffer.from(PLAINTEXT_MARKER.slice(0, 16)).toString('hex')

// One end of a TCP connection between two kernels: [mode, host, port, bytes to send, port of a SOCKS5 proxy].
const KERNEL_TCP = `
const letters = (mode, size) => Buffer.alloc(size, '${PLAINTEXT_MARKER} ' + mode + ' ')
import net from 'node:net'
import { createHash } from 'node:crypto'
const [mode, host, port, size, proxy] = JSON.parse(process.argv[1])
const talk = (socket, first = Buffer.alloc(0)) => {
  const hash = createHash('sha256').update(first)
  let bytes = first.length
  socket.on('data', (chunk) => { hash.update(chunk); bytes += chunk.length })
  socket.on('error', (error) => { console.log(JSON.stringify({ bytes, sha256: '', reason: error.code })); process.exit(0) })
  socket.on('end', () => { console.log(JSON.stringify({ bytes, sha256: hash.digest('hex'), reason: 'finished' })); socket.end() })
  socket.on('close', () => process.exit(0))
  if (proxy) socket.write(letters(mode, size))
  else socket.end(letters(mode, size))
}
setTimeout(() => { console.log(JSON.stringify({ bytes: 0, sha256: '', reason: 'timeout' })); process.exit(0) }, 30_000)
if (proxy) {
  const socket = net.connect({ host: '127.0.0.1', port: proxy }, () => socket.write(Buffer.of(5, 1, 0)))
  socket.once('data', () => {
    socket.write(Buffer.from([5, 1, 0, 1, ...host.split('.').map(Number), port >> 8, port & 255]))
    socket.once('data', (reply) => {
      // What the other end says at once may come together with the reply.
      if (reply[1] === 0) talk(socket, reply.subarray(10))
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
    socket.send(Buffer.from('${PLAINTEXT_MARKER} ' + sent), port, host, () => {})
  }, 100)
}
`

/** Why wg or TUN devices cannot be had; `undefined` when they can. */
export function whyNoWgTools(): string | undefined {
  if (spawnSync('wg', ['--version']).status !== 0) return 'wg is not installed (Debian package wireguard-tools)'
  if (spawnSync('bash', ['--version']).status !== 0) return 'wg-quick needs bash'
  return whyNoNamespaces() ?? whyNoCapture()
}

/** What one end of a transfer sends, as its hash. */
export function lettersHash(mode: 'connect' | 'listen', size: number): string {
  return createHash('sha256').update(Buffer.alloc(size, `${PLAINTEXT_MARKER} ${mode} `)).digest('hex')
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
const lines = new Set<Line>()

/** Builds meshwright-wg into one file, and puts it into a folder for PATH. Inside the repository, so that it finds `koffi`. */
export function buildProgram(): void {
  mkdirSync(path.join(ROOT, '.cache'), { recursive: true })
  folder = mkdtempSync(path.join(ROOT, '.cache', 'meshwright-wg-'))
  const file = path.join(folder, 'meshwright-wg.mjs')
  buildSync({
    entryPoints: [path.join(ROOT, 'examples/wireguard/src/meshwright-wg.ts')], outfile: file, bundle: true, platform: 'node', format: 'esm', target: 'node20',
    conditions: ['@meshwright/source'], mainFields: ['module', 'main'], external: ['koffi'], logLevel: 'error',
    banner: { js: "import { createRequire as requireFrom } from 'node:module'; const require = requireFrom(import.meta.url)" },
  })
  script(folder, 'meshwright-wg', `exec ${process.execPath} ${file} "$@"`)
}

/** The file that is all of meshwright-wg. */
export function programBundle(): string {
  if (folder === undefined) throw new Error('the program is not built')
  return path.join(folder, 'meshwright-wg.mjs')
}

/** Takes away all that is left. */
export async function closeHosts(): Promise<void> {
  for (const host of [...open]) await host.close()
  for (const line of [...lines]) line.close()
  if (folder !== undefined) rmSync(folder, { recursive: true, force: true })
}

// Everything that wg-quick and the programs write lies in places of the host's own: /etc is a copy, /run/wireguard is empty.
const PRIVATE_PLACES = (folder: string): string => `set -e
mkdir -p /etc/wireguard /run/wireguard ${folder}/private
mount -t tmpfs tmpfs ${folder}/private
cp -a /etc ${folder}/private/etc
rm -rf ${folder}/private/etc/wireguard/* ${folder}/private/etc/resolv.conf
echo "nameserver 192.0.2.53" > ${folder}/private/etc/resolv.conf
mount --bind ${folder}/private/etc /etc
mount -t tmpfs -o mode=755 tmpfs /run/wireguard
echo ready
exec sleep infinity`

/** A host: a network namespace, a mount namespace and a folder of its own, in which wg, wg-quick and meshwright-wg are run. */
export class WireGuardHost {
  readonly interfaceName = 'wg0'
  readonly folder: string
  readonly #namespace: string
  readonly #holder: ChildProcess & { readonly pid: number }
  readonly #children: ChildProcess[] = []
  readonly #secrets: Map<string, Uint8Array> = new Map()

  private constructor(place: string, namespace: string, holder: ChildProcess & { readonly pid: number }) {
    this.folder = place
    this.#namespace = namespace
    this.#holder = holder
    open.add(this)
  }

  /** Makes a host without a line to anywhere. */
  static async create(): Promise<WireGuardHost> {
    if (folder === undefined) throw new Error('the program is not built')
    const namespace = nextName()
    const place = mkdtempSync(path.join(folder, 'host-'))
    execFileSync('ip', ['netns', 'add', namespace])
    execFileSync('ip', ['-n', namespace, 'link', 'set', 'lo', 'up'])
    const holder = spawn('ip', ['netns', 'exec', namespace, 'unshare', '-m', '--propagation', 'private', 'sh', '-c', PRIVATE_PLACES(place)], { stdio: ['ignore', 'pipe', 'inherit'] })
    const { pid } = holder
    if (pid === undefined) throw new Error('no process holds the namespaces')
    const host = new WireGuardHost(place, namespace, Object.assign(holder, { pid }))
    const line = await Promise.race([linesOf(holder).next(), new Promise<string>((resolve) => holder.once('exit', () => resolve('it ended')))])
    if (line !== 'ready') throw new Error(`the host has no places of its own: ${line}`)
    return host
  }

  /** Joins hosts by a line: 192.0.2.1, 192.0.2.2 and so on, and 2001:db8::1 and so on. All that is on it is captured. */
  static async line(...hosts: readonly WireGuardHost[]): Promise<Line> {
    const middle = nextName()
    execFileSync('ip', ['netns', 'add', middle])
    execFileSync('ip', ['-n', middle, 'link', 'add', 'line', 'type', 'bridge'])
    execFileSync('ip', ['-n', middle, 'link', 'set', 'line', 'up'])
    for (const [index, host] of hosts.entries()) {
      execFileSync('ip', ['link', 'add', 'line', 'netns', host.#namespace, 'type', 'veth', 'peer', 'name', `line${index}`, 'netns', middle])
      execFileSync('ip', ['-n', middle, 'link', 'set', `line${index}`, 'master', 'line', 'up'])
      execFileSync('ip', ['-n', host.#namespace, 'addr', 'add', `192.0.2.${index + 1}/24`, 'dev', 'line'])
      execFileSync('ip', ['-n', host.#namespace, 'addr', 'add', `2001:db8::${index + 1}/64`, 'dev', 'line', 'nodad'])
      execFileSync('ip', ['-n', host.#namespace, 'link', 'set', 'line', 'up'])
      sendOneByOne(host.#namespace, 'line')
    }
    try {
      return new Line(middle, hosts, await Capture.start(middle, 'line', path.join(folder ?? '', `${middle}.pcap`)))
    } catch (error) {
      spawnSync('ip', ['netns', 'del', middle])
      throw error
    }
  }

  /** Something more that must not be on any line. */
  remember(name: string, secret: Uint8Array): void {
    this.#secrets.set(name, secret)
  }

  /** What must not be on any line. */
  get secrets(): ReadonlyMap<string, Uint8Array> {
    return this.#secrets
  }

  /** A new private key and its public key, by the real wg. */
  async keys(): Promise<Keys> {
    const secret = (await this.run('wg', 'genkey')).trim()
    this.#secrets.set(`private key ${this.#secrets.size} of ${this.#namespace}`, Buffer.from(secret, 'base64'))
    return { secret, key: (await this.pipe(secret, 'wg', 'pubkey')).trim() }
  }

  /** A new preshared key, by the real wg. */
  async psk(): Promise<string> {
    const psk = (await this.run('wg', 'genpsk')).trim()
    this.#secrets.set(`preshared key ${this.#secrets.size} of ${this.#namespace}`, Buffer.from(psk, 'base64'))
    return psk
  }

  /** Writes a file at a place of the host's own, which only its programs see there. */
  install(file: string, text: string): void {
    writeFileSync(this.#seen(file), text, { mode: 0o600 })
  }

  /** Reads a file as the host's programs see it. */
  read(file: string): string {
    return readFileSync(this.#seen(file), 'utf8')
  }

  /** Whether there is such a file, as the host's programs see files. */
  has(file: string): boolean {
    return existsSync(this.#seen(file))
  }

  async close(): Promise<void> {
    if (!open.delete(this)) return
    const ended = this.#children.map((child) => (child.exitCode !== null || child.signalCode !== null ? undefined : new Promise((resolve) => child.once('close', resolve))))
    // Daemons are no children of ours, but all that runs in this namespace was started by this test.
    for (const pid of this.pids()) kill(pid)
    await Promise.all(ended)
    for (let i = 0; i < 100 && this.pids().length > 0; i += 1) await new Promise((resolve) => setTimeout(resolve, 20))
    kill(this.#holder.pid)
    spawnSync('ip', ['netns', 'del', this.#namespace])
  }

  /** Processes of the host. */
  pids(): number[] {
    const { stdout } = spawnSync('ip', ['netns', 'pids', this.#namespace], { encoding: 'utf8' })
    return stdout.split('\n').filter((line) => line !== '').map(Number).filter((pid) => pid !== this.#holder.pid)
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
    const child = spawn('nsenter', [...this.#entrance(), program, ...args], { env: this.#env(), timeout: RUN_TIMEOUT_MS })
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
    const child = spawn('nsenter', [...this.#entrance(), program, ...args], { stdio: ['ignore', 'pipe', 'inherit'], env: this.#env() })
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

  /** Starts a program that answers TCP at a port of all addresses, until the host is closed. */
  async serve(port: number): Promise<void> {
    await linesOf(this.start(process.execPath, '-e', "require('node:net').createServer((socket) => socket.on('error', () => 0).end('hello')).listen(Number(process.argv[1]), '::', () => console.log('ready'))", String(port))).next()
  }

  /** What becomes of a TCP connection within two seconds: `open`, `ECONNREFUSED` and the like, or `silence`. */
  async knock(address: string, port: number): Promise<string> {
    const script = `
      const [host, port] = process.argv.slice(1)
      const say = (text) => { console.log(text); process.exit(0) }
      require('node:net').connect(Number(port), host, () => say('open')).on('error', (error) => say(error.code))
      setTimeout(say, 2000, 'silence')`
    return (await this.run(process.execPath, '-e', script, address, String(port))).trim()
  }

  /** Waits until one ping is answered: the first packet waits for a session. */
  async reach(address: string): Promise<void> {
    await this.run('ping', '-n', '-q', '-c', '1', '-W', '20', address)
  }

  /** Pings twenty times a second; resolves with how many were sent and how many answered. */
  async ping(address: string, times: number): Promise<{ readonly sent: number; readonly answered: number }> {
    const { stdout } = await this.try('ping', ['-n', '-q', '-i', '0.05', '-c', String(times), '-p', MARKER_IN_PING, address])
    const [, sent, answered] = /(\d+) packets transmitted, (\d+) received/.exec(stdout) ?? []
    if (sent === undefined || answered === undefined) throw new Error(`ping says ${stdout}`)
    return { sent: Number(sent), answered: Number(answered) }
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

  #seen(file: string): string {
    return `/proc/${this.#holder.pid}/root${file}`
  }

  #entrance(): readonly string[] {
    return ['-t', String(this.#holder.pid), '-n', '-m', '--']
  }

  #env(): NodeJS.ProcessEnv {
    return { ...process.env, PATH: `${this.folder}:${folder ?? ''}:${process.env['PATH'] ?? ''}`, WG_QUICK_USERSPACE_IMPLEMENTATION: 'meshwright-wg' }
  }
}

/** What joins hosts. */
export class Line {
  readonly #middle: string
  readonly #hosts: readonly WireGuardHost[]
  readonly #capture: Capture

  constructor(middle: string, hosts: readonly WireGuardHost[], capture: Capture) {
    this.#middle = middle
    this.#hosts = hosts
    this.#capture = capture
    lines.add(this)
  }

  /** What was on it, at the end of a flow: searched for secrets, plaintext and repeated counters. @throws with what was found */
  async finish(): Promise<void> {
    const secrets = new Map(this.#hosts.flatMap((host) => [...host.secrets]))
    const found = await this.#capture.finish(secrets)
    if (found.length > 0) throw new Error(`outside: ${[...new Set(found)].slice(0, 5).join('; ')} (${found.length} in all)`)
  }

  close(): void {
    if (!lines.delete(this)) return
    this.#capture.kill()
    rmSync(this.#capture.file, { force: true })
    spawnSync('ip', ['netns', 'del', this.#middle])
  }
}

/** A key pair, in base64. */
export interface Keys {
  readonly secret: string
  readonly key: string
}

function nextName(): string {
  count += 1
  return `mwq${process.pid.toString(36)}x${count}`
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
