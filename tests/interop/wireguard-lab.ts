import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import readline from 'node:readline'
import { buildSync } from 'esbuild'
import { formatHex } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { systemRandom } from '@meshwright/runtime-node'
import { formatUapiErrno, parseUapiAnswer, type ShownPeer, UAPI_GET } from '@meshwright/wireguard/text'
import { patternBytes, type PeerAnswer, type PeerCommand, TRANSFER_BYTES, type TransferResult } from './wireguard-commands.ts'

/** Where wireguard-go is found, or why the tests cannot run. */
export function wireguardGo(): { readonly program: string; readonly missing: undefined } | { readonly program: undefined; readonly missing: string } {
  const folder = process.env['MESHWRIGHT_INTEROP_BIN']
  const program = folder === undefined ? undefined : path.join(folder, 'wireguard')
  if (program === undefined) return { program: undefined, missing: 'MESHWRIGHT_INTEROP_BIN is not set' }
  const missing = existsSync(program) ? whyNoNamespaces() : `${program} is not there`
  return missing === undefined ? { program, missing } : { program: undefined, missing }
}

/** Why namespaces and TUN devices cannot be had; `undefined` when they can. */
export function whyNoNamespaces(): string | undefined {
  if (process.platform !== 'linux') return 'needs Linux'
  if (process.getuid?.() !== 0) return 'needs root'
  if (!existsSync('/dev/net/tun')) return 'needs /dev/net/tun'
  const probe = `mwprobe${process.pid}`
  try {
    execFileSync('ip', ['netns', 'add', probe], { stdio: 'ignore' })
    execFileSync('ip', ['netns', 'del', probe], { stdio: 'ignore' })
    return undefined
  } catch {
    return 'needs network namespaces (ip netns)'
  }
}

/** The line between the two: IPv4 and IPv6 addresses of each end, and a second pair for roaming. */
export const OUTER = { ours4: '192.0.2.1', theirs4: '192.0.2.2', theirs4b: '192.0.2.3', ours6: '2001:db8::1', theirs6: '2001:db8::2' } as const
/** Addresses in the tunnel. */
export const INNER = { ours4: '10.88.0.1', theirs4: '10.88.0.2', ours6: 'fd88::1', theirs6: 'fd88::2' } as const
export const OUR_PORT = 51820
export const THEIR_PORT = 51821
export const TCP_PORT = 5001
export const EXPECTED_SHA256: string = createHash('sha256').update(patternBytes(TRANSFER_BYTES)).digest('hex')

// The kernel's end of a TCP connection, run in the namespace of wireguard-go.
const KERNEL_TCP = `
import net from 'node:net'
import { createCipheriv, createHash } from 'node:crypto'
const [mode, host, port, size] = JSON.parse(process.argv[1])
const talk = (socket) => {
  const hash = createHash('sha256')
  let bytes = 0
  socket.on('data', (chunk) => { hash.update(chunk); bytes += chunk.length })
  socket.on('error', (error) => { console.log(JSON.stringify({ bytes, sha256: '', reason: error.code })); process.exit(0) })
  socket.on('end', () => console.log(JSON.stringify({ bytes, sha256: hash.digest('hex'), reason: 'finished' })))
  socket.on('close', () => process.exit(0))
  socket.end(createCipheriv('aes-128-ctr', Buffer.alloc(16, 7), Buffer.alloc(16)).update(new Uint8Array(size)))
}
if (mode === 'connect') talk(net.connect({ host, port, allowHalfOpen: true }))
else net.createServer({ allowHalfOpen: true }, talk).listen(port, host, () => console.log('ready'))
`

let bundle: { readonly folder: string; readonly file: string } | undefined
let count = 0
const open = new Set<WireGuardLab>()

/** Builds our side once into one file: a dozen processes start from it. */
export function buildPeer(): void {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-wg-'))
  const file = path.join(folder, 'peer.mjs')
  buildSync({ entryPoints: [path.join(import.meta.dirname, 'wireguard-peer.ts')], outfile: file, bundle: true, platform: 'node', format: 'esm', target: 'node20', conditions: ['@meshwright/source'], logLevel: 'error' })
  bundle = { folder, file }
}

/** Takes away all that is left: namespaces, processes, the built file. */
export async function closeAll(): Promise<void> {
  for (const lab of [...open]) await lab.close()
  if (bundle !== undefined) rmSync(bundle.folder, { recursive: true, force: true })
}

/** How a lab is set up. */
export interface LabOptions {
  readonly provider?: 'noble' | 'node'
  readonly psk?: boolean
  /** Whether we ask for cookies always. */
  readonly underLoad?: boolean
  /** Who knows where the other is; default both. */
  readonly endpoints?: 'ours' | 'theirs' | 'both'
  /** Family of the outer addresses. */
  readonly outer?: 4 | 6
}

/** Two network namespaces with a line between them: our engine in one, wireguard-go in the other. */
export class WireGuardLab {
  readonly ourKey: NodePrivateKey = NodePrivateKey.generate(systemRandom)
  readonly theirKey: NodePrivateKey = NodePrivateKey.generate(systemRandom)
  readonly psk: Uint8Array | undefined
  /** Name of their interface, and of its socket. */
  readonly name: string
  readonly #ours: string
  readonly #theirs: string
  readonly #children: ChildProcess[] = []
  readonly #answers: Map<number, (answer: PeerAnswer) => void> = new Map()
  #peer: ChildProcess | undefined
  #commands = 0

  private constructor(options: LabOptions) {
    count += 1
    this.name = `mwt${process.pid.toString(36)}x${count}`
    this.#ours = `${this.name}a`
    this.#theirs = `${this.name}b`
    this.psk = options.psk ? systemRandom(32) : undefined
  }

  /** Sets everything up; nothing has been sent yet. */
  static async start(program: string, options: LabOptions = {}): Promise<WireGuardLab> {
    const lab = new WireGuardLab(options)
    open.add(lab)
    try {
      await lab.#start(program, options)
      return lab
    } catch (error) {
      await lab.close()
      throw error
    }
  }

  async close(): Promise<void> {
    if (!open.delete(this)) return
    const ended = this.#children.map((child) => (child.exitCode !== null || child.signalCode !== null ? undefined : new Promise((resolve) => child.once('close', resolve))))
    for (const child of this.#children) child.kill('SIGKILL')
    await Promise.all(ended)
    for (const namespace of [this.#ours, this.#theirs]) {
      try {
        execFileSync('ip', ['netns', 'del', namespace], { stdio: 'ignore' })
      } catch {
        continue // it was never made
      }
    }
    rmSync(this.socketPath, { force: true })
  }

  get socketPath(): string {
    return `/var/run/wireguard/${this.name}.sock`
  }

  /** Asks our side. */
  ask<Result>(command: PeerCommand): Promise<Result> {
    const id = (this.#commands += 1)
    return new Promise((resolve, reject) => {
      this.#answers.set(id, (answer) => {
        if ('error' in answer) reject(new Error(answer.error))
        else resolve(answer.result as Result)
      })
      this.#peer?.stdin?.write(`${JSON.stringify({ id, command })}\n`)
    })
  }

  /** Pings through the tunnel until an answer comes. */
  async pingUntil(to: string, timeoutMs: number): Promise<void> {
    const end = Date.now() + timeoutMs
    while ((await this.ask<number | null>({ op: 'ping', to, timeoutMs: 1000 })) === null) {
      if (Date.now() > end) throw new Error(`no answer from ${to}: ${JSON.stringify(await this.ask({ op: 'status' }))}`)
    }
  }

  /** How many of `times` pings, one every second, stayed without answer. */
  async pingEverySecond(to: string, times: number): Promise<number> {
    const pings: Promise<number | null>[] = []
    for (let i = 0; i < times; i += 1) {
      pings.push(this.ask({ op: 'ping', to, timeoutMs: 3000 }))
      await sleep(1000)
    }
    return (await Promise.all(pings)).filter((rttMs) => rttMs === null).length
  }

  /** Their kernel listens, we connect; both send. */
  async weConnect(host: string): Promise<readonly TransferResult[]> {
    const child = this.#kernelTcp('listen', host)
    const lines = readline.createInterface({ input: child.stdout })
    const results = new Promise<TransferResult>((resolve, reject) => {
      lines.on('line', (line) => line !== 'ready' && resolve(JSON.parse(line)))
      child.on('close', () => reject(new Error('their end of TCP ended')))
    })
    await new Promise((resolve) => lines.once('line', resolve))
    return Promise.all([this.ask<TransferResult>({ op: 'tcp', to: host, port: TCP_PORT }), results])
  }

  /** Their kernel connects to us; both send. */
  async theyConnect(host: string): Promise<readonly TransferResult[]> {
    const before = (await this.ask<readonly TransferResult[]>({ op: 'accepted' })).length
    const child = this.#kernelTcp('connect', host)
    const theirs = await new Promise<TransferResult>((resolve, reject) => {
      readline.createInterface({ input: child.stdout }).once('line', (line) => resolve(JSON.parse(line)))
      child.on('close', () => reject(new Error('their end of TCP ended')))
    })
    for (;;) {
      const ours = (await this.ask<readonly TransferResult[]>({ op: 'accepted' }))[before]
      if (ours !== undefined) return [ours, theirs]
      await sleep(20)
    }
  }

  /** Changes wireguard-go by the lines of a UAPI `set`. */
  async setTheirs(lines: readonly string[]): Promise<void> {
    const answer = await this.#uapi(`set=1\n${lines.join('\n')}\n\n`)
    if (answer !== formatUapiErrno(0)) throw new Error(`wireguard-go answers ${answer.trim()}`)
  }

  /** How wireguard-go sees us. */
  async theirView(): Promise<ShownPeer> {
    const peer = parseUapiAnswer(await this.#uapi(UAPI_GET), this.name)?.device.peers[0]
    if (peer === undefined) throw new Error('wireguard-go does not know us')
    return peer
  }

  /** How we see wireguard-go. */
  async ourView(): Promise<ShownPeer> {
    const peer = parseUapiAnswer(await this.ask<string>({ op: 'get' }), 'ours')?.device.peers[0]
    if (peer === undefined) throw new Error('we do not know wireguard-go')
    return peer
  }

  /** Changes our side by the lines of a UAPI `set`. */
  setOurs(lines: readonly string[]): Promise<void> {
    return this.ask({ op: 'set', lines })
  }

  /** Begins a peer block about wireguard-go, or about us. */
  peerLine(who: 'ours' | 'theirs'): string {
    return `public_key=${formatHex((who === 'ours' ? this.ourKey : this.theirKey).publicKey().bytes)}`
  }

  /** `ip` in their namespace. */
  theirIp(...args: readonly string[]): void {
    execFileSync('ip', ['-n', this.#theirs, ...args])
  }

  async #start(program: string, options: LabOptions): Promise<void> {
    const line = `${this.name}v`
    for (const namespace of [this.#ours, this.#theirs]) {
      execFileSync('ip', ['netns', 'add', namespace])
      execFileSync('ip', ['-n', namespace, 'link', 'set', 'lo', 'up'])
    }
    execFileSync('ip', ['link', 'add', line, 'netns', this.#ours, 'type', 'veth', 'peer', 'name', line, 'netns', this.#theirs])
    for (const [namespace, four, six] of [[this.#ours, OUTER.ours4, OUTER.ours6], [this.#theirs, OUTER.theirs4, OUTER.theirs6]] as const) {
      execFileSync('ip', ['-n', namespace, 'addr', 'add', `${four}/24`, 'dev', line])
      execFileSync('ip', ['-n', namespace, 'addr', 'add', `${six}/64`, 'dev', line, 'nodad'])
      execFileSync('ip', ['-n', namespace, 'link', 'set', line, 'up'])
    }
    this.#spawn(this.#theirs, program, ['-f', this.name], 'ignore')
    await this.#startOurs(options)
    await until(() => existsSync(this.socketPath), 20_000, 'wireguard-go has no socket')
    this.theirIp('addr', 'add', `${INNER.theirs4}/24`, 'dev', this.name)
    this.theirIp('addr', 'add', `${INNER.theirs6}/64`, 'dev', this.name, 'nodad')
    this.theirIp('link', 'set', this.name, 'mtu', '1420', 'up')
    await this.setTheirs([`private_key=${formatHex(this.theirKey.secretBytes)}`, `listen_port=${THEIR_PORT}`, ...this.#peerLines('ours', options)])
    await this.setOurs([`private_key=${formatHex(this.ourKey.secretBytes)}`, `listen_port=${OUR_PORT}`, ...this.#peerLines('theirs', options)])
  }

  #peerLines(who: 'ours' | 'theirs', { endpoints = 'both', outer = 4 }: LabOptions): string[] {
    const [four, six] = who === 'ours' ? [OUTER.ours4, OUTER.ours6] : [OUTER.theirs4, OUTER.theirs6]
    const port = who === 'ours' ? OUR_PORT : THEIR_PORT
    const lines = [this.peerLine(who)]
    if (this.psk !== undefined) lines.push(`preshared_key=${formatHex(this.psk)}`)
    // "ours" means that only our side is told an endpoint.
    if (endpoints === 'both' || (endpoints === 'ours') === (who === 'theirs')) lines.push(`endpoint=${outer === 4 ? four : `[${six}]`}:${port}`)
    const [inner4, inner6] = who === 'ours' ? [INNER.ours4, INNER.ours6] : [INNER.theirs4, INNER.theirs6]
    return [...lines, 'replace_allowed_ips=true', `allowed_ip=${inner4}/32`, `allowed_ip=${inner6}/128`]
  }

  async #startOurs(options: LabOptions): Promise<void> {
    if (bundle === undefined) throw new Error('our side is not built')
    const peer = this.#spawn(this.#ours, process.execPath, [bundle.file], 'pipe')
    this.#peer = peer
    if (peer.stdout === null) throw new Error('our side has no output')
    readline.createInterface({ input: peer.stdout }).on('line', (text) => {
      const answer: PeerAnswer = JSON.parse(text)
      this.#answers.get(answer.id)?.(answer)
      this.#answers.delete(answer.id)
    })
    await this.ask({ op: 'start', provider: options.provider ?? 'noble', addresses: [INNER.ours4, INNER.ours6], tcpPort: TCP_PORT, underLoad: options.underLoad ?? false })
  }

  #kernelTcp(mode: 'listen' | 'connect', host: string): ChildProcess & { readonly stdout: NonNullable<ChildProcess['stdout']> } {
    const child = this.#spawn(this.#theirs, process.execPath, ['--input-type=module', '-e', KERNEL_TCP, JSON.stringify([mode, host, TCP_PORT, TRANSFER_BYTES])], 'pipe')
    const { stdout } = child
    if (stdout === null) throw new Error('no output')
    return Object.assign(child, { stdout })
  }

  #spawn(namespace: string, program: string, args: readonly string[], output: 'pipe' | 'ignore'): ChildProcess {
    const child = spawn('ip', ['netns', 'exec', namespace, program, ...args], { stdio: [output, output, 'inherit'], env: { ...process.env, LOG_LEVEL: 'error', WG_PROCESS_FOREGROUND: '1' } })
    this.#children.push(child)
    return child
  }

  #uapi(request: string): Promise<string> {
    return new Promise((resolve, reject) => {
      const socket = net.connect(this.socketPath, () => socket.write(request))
      let text = ''
      socket.setEncoding('utf8')
      socket.on('error', reject)
      socket.on('data', (chunk: string) => {
        text += chunk
        if (!text.endsWith('\n\n')) return
        socket.destroy()
        resolve(text)
      })
      socket.on('close', () => reject(new Error('wireguard-go hung up')))
    })
  }
}

/** Waits in real time. */
export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

/** Waits until something holds. */
export async function until(holds: () => boolean | Promise<boolean>, timeoutMs: number, otherwise: string): Promise<void> {
  const end = Date.now() + timeoutMs
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(otherwise)
    await sleep(20)
  }
}
