import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import readline from 'node:readline'
import { buildSync } from 'esbuild'
import { formatHex, parseHex } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { systemRandom } from '@meshwright/runtime-node'
import { formatUapiErrno, parseUapiAnswer, type ShownPeer, UAPI_GET } from '@meshwright/wireguard/text'
import { Capture, type OuterDatagram, PLAINTEXT_MARKER, sendOneByOne } from './wireguard-capture.ts'
import { patternBytes, type PeerAnswer, type PeerCommand, type ProviderName, TRANSFER_BYTES, type TransferResult } from './wireguard-commands.ts'
import type { WireGuardProgram } from './wireguard-programs.ts'

/** The line between the two: IPv4 and IPv6 addresses of each end, and a second pair for roaming. */
export const OUTER = { ours4: '192.0.2.1', theirs4: '192.0.2.2', theirs4b: '192.0.2.3', ours6: '2001:db8::1', theirs6: '2001:db8::2', flood4: '192.0.2.9' } as const
/** Addresses in the tunnel. */
export const INNER = { ours4: '10.88.0.1', theirs4: '10.88.0.2', ours6: 'fd88::1', theirs6: 'fd88::2' } as const
export const OUR_PORT = 51820
export const THEIR_PORT = 51821
export const TCP_PORT = 5001
export const EXPECTED_SHA256: string = createHash('sha256').update(patternBytes(TRANSFER_BYTES)).digest('hex')

// The kernel's end of a TCP connection, run in the namespace of the other program. As `patternBytes`.
const KERNEL_TCP = `
import net from 'node:net'
import { createCipheriv, createHash } from 'node:crypto'
const [mode, host, port, size, marker] = JSON.parse(process.argv[1])
const bytes = createCipheriv('aes-128-ctr', Buffer.alloc(16, 7), Buffer.alloc(16)).update(new Uint8Array(size))
for (let at = 0; at + marker.length <= size; at += 256) bytes.write(marker, at)
const talk = (socket) => {
  const hash = createHash('sha256')
  let count = 0
  socket.on('data', (chunk) => { hash.update(chunk); count += chunk.length })
  socket.on('error', (error) => { console.log(JSON.stringify({ bytes: count, sha256: '', reason: error.code })); process.exit(0) })
  socket.on('end', () => console.log(JSON.stringify({ bytes: count, sha256: hash.digest('hex'), reason: 'finished' })))
  socket.on('close', () => process.exit(0))
  socket.end(bytes)
}
if (mode === 'connect') talk(net.connect({ host, port, allowHalfOpen: true }))
else net.createServer({ allowHalfOpen: true }, talk).listen(port, host, () => console.log('ready'))
`

let bundle: { readonly folder: string; readonly peer: string; readonly flood: string } | undefined
let count = 0
const open = new Set<WireGuardLab>()

/** Builds our side once into one file, and the flood: a dozen processes start from them. Inside the repository, so that `koffi` is found. */
export function buildPeer(): void {
  const cache = path.resolve(import.meta.dirname, '../../.cache')
  mkdirSync(cache, { recursive: true })
  const folder = mkdtempSync(path.join(cache, 'wireguard-peer-'))
  const [peer, flood] = ['peer', 'flood'].map((name) => {
    const outfile = path.join(folder, `${name}.mjs`)
    buildSync({
      entryPoints: [path.join(import.meta.dirname, `wireguard-${name}.ts`)], outfile, bundle: true, platform: 'node', format: 'esm', target: 'node20',
      conditions: ['@meshwright/source'], mainFields: ['module', 'main'], external: ['koffi'], logLevel: 'error',
    })
    return outfile
  })
  if (peer !== undefined && flood !== undefined) bundle = { folder, peer, flood }
}

/** Takes away all that is left: namespaces, processes, the built file. */
export async function closeAll(): Promise<void> {
  for (const lab of [...open]) await lab.close()
  if (bundle !== undefined) rmSync(bundle.folder, { recursive: true, force: true })
}

const FLOOD_RISES_MS = 300
/** For tcpdump to write down what has been on the line. */
const CAPTURE_MS = 30_000

/** How a lab is set up. */
export interface LabOptions {
  readonly provider?: ProviderName
  readonly psk?: boolean
  /** Whether we ask for cookies always. */
  readonly underLoad?: boolean
  /** Who knows where the other is; default both. */
  readonly endpoints?: 'ours' | 'theirs' | 'both'
  /** Family of the outer addresses. */
  readonly outer?: 4 | 6
}

/** What is told about a peer, in place of what stood there. */
export interface PeerChange {
  /** `undefined`: the one that it has. */
  readonly key?: NodePrivateKey
  readonly psk?: Uint8Array
  /** Text with port. */
  readonly endpoint?: string
  readonly keepaliveSeconds?: number
  /** Take the peer away first, sessions and all. */
  readonly anew?: boolean
}

/**
 * Two network namespaces with a line between them: our engine in one, another program in the other. All that is on the line is
 * captured, and searched when the lab is finished.
 */
export class WireGuardLab {
  readonly psk: Uint8Array | undefined
  /** Name of their interface, and of its socket. */
  readonly name: string
  readonly #program: WireGuardProgram
  readonly #options: LabOptions
  readonly #keys: Record<Side, NodePrivateKey> = { ours: NodePrivateKey.generate(systemRandom), theirs: NodePrivateKey.generate(systemRandom) }
  readonly #told: Record<Side, { key: NodePrivateKey; psk: Uint8Array | undefined; endpoint: string | undefined; keepaliveSeconds: number }>
  /** By what they are called; none of them may be on the line. */
  readonly #secrets: Map<string, Uint8Array> = new Map()
  readonly #ours: string
  readonly #theirs: string
  #capture: Capture | undefined
  readonly #children: ChildProcess[] = []
  readonly #answers: Map<number, (answer: PeerAnswer) => void> = new Map()
  #peer: ChildProcess | undefined
  #commands = 0

  private constructor(program: WireGuardProgram, options: LabOptions) {
    this.#program = program
    this.#options = options
    count += 1
    this.name = `mwt${process.pid.toString(36)}x${count}`
    this.#ours = `${this.name}a`
    this.#theirs = `${this.name}b`
    this.psk = options.psk ? systemRandom(32) : undefined
    const { endpoints = 'both', outer = 4 } = options
    // "ours" means that only our side is told an endpoint.
    const place = (side: Side): string | undefined => (endpoints === side ? undefined : endpointOf(side, outer))
    this.#told = {
      ours: { key: this.#keys.ours, psk: this.psk, endpoint: place('ours'), keepaliveSeconds: 0 },
      theirs: { key: this.#keys.theirs, psk: this.psk, endpoint: place('theirs'), keepaliveSeconds: 0 },
    }
    for (const side of ['ours', 'theirs'] as const) this.#secrets.set(`private key (${side})`, this.#keys[side].secretBytes)
    if (this.psk !== undefined) this.#secrets.set('preshared key', this.psk)
  }

  /** Sets everything up; nothing has been sent yet. */
  static async start(program: WireGuardProgram, options: LabOptions = {}): Promise<WireGuardLab> {
    const lab = new WireGuardLab(program, options)
    open.add(lab)
    try {
      await lab.#start()
      return lab
    } catch (error) {
      await lab.close()
      throw error
    }
  }

  /** The end of every flow: what was on the line is searched for secrets, plaintext and repeated counters. @throws with what was found */
  async finish(): Promise<void> {
    for (const [index, text] of (await this.ask<readonly string[]>({ op: 'secrets' })).entries()) {
      const bytes = parseHex(text, 32)
      if (bytes !== undefined) this.#secrets.set(`session secret ${index}`, bytes)
    }
    if (this.#capture === undefined) throw new Error('there is no capture')
    await this.sees(({ payload }) => payload[0] === 4, 'nothing was captured')
    const found = await this.#capture.finish(this.#secrets)
    if (found.length > 0) throw new Error(`outside: ${[...new Set(found)].slice(0, 5).join('; ')} (${found.length} in all)`)
  }

  /** What was on the line until now, in order. */
  captured(): readonly OuterDatagram[] {
    return this.#capture?.datagrams() ?? []
  }

  /** Waits until such a datagram was on the line: on a busy computer the capture is behind what has arrived. */
  async sees(such: (datagram: OuterDatagram) => boolean, otherwise: string): Promise<void> {
    await until(() => this.captured().some(such), CAPTURE_MS, otherwise)
  }

  async close(): Promise<void> {
    if (!open.delete(this)) return
    this.#capture?.kill()
    if (this.#capture !== undefined) rmSync(this.#capture.file, { force: true })
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
      if (this.#peer?.exitCode !== null) return reject(new Error('our side has ended'))
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

  /** Tells the other program about us, or changes what it was told. */
  async tellThem(change: PeerChange = {}): Promise<void> {
    await this.#tell('ours', change, (lines) => this.setTheirs(lines))
  }

  /** Tells our side about them, or changes what it was told. */
  async tellUs(change: PeerChange = {}): Promise<void> {
    await this.#tell('theirs', change, (lines) => this.setOurs(lines))
  }

  /** Gives one side another private key; the other side is not told. */
  async changeKey(side: Side, key: NodePrivateKey): Promise<void> {
    this.#secrets.set(`private key (${side}, ${this.#secrets.size})`, key.secretBytes)
    this.#keys[side] = key
    const lines = [`private_key=${formatHex(key.secretBytes)}`]
    await (side === 'ours' ? this.setOurs(lines) : this.setTheirs(lines))
  }

  /** Changes the other program by the lines of a UAPI `set`. */
  async setTheirs(lines: readonly string[]): Promise<void> {
    const answer = await this.#uapi(`set=1\n${lines.join('\n')}\n\n`)
    if (answer !== formatUapiErrno(0)) throw new Error(`${this.#program.label} answers ${answer.trim()}`)
  }

  /** How they see us. */
  async theirView(): Promise<ShownPeer> {
    const peer = parseUapiAnswer(await this.#uapi(UAPI_GET), this.name)?.device.peers[0]
    if (peer === undefined) throw new Error('they do not know us')
    const { latestHandshake } = peer
    return this.#program.handshakeTime === 'ago' && latestHandshake !== undefined ? { ...peer, latestHandshake: Date.now() - latestHandshake } : peer
  }

  /** How we see them. */
  async ourView(): Promise<ShownPeer> {
    const peer = parseUapiAnswer(await this.ask<string>({ op: 'get' }), 'ours')?.device.peers[0]
    if (peer === undefined) throw new Error('we do not know them')
    return peer
  }

  /** Changes our side by the lines of a UAPI `set`. */
  setOurs(lines: readonly string[]): Promise<void> {
    return this.ask({ op: 'set', lines })
  }

  /** Begins a peer block about them, or about us. */
  peerLine(who: Side): string {
    return peerLine(this.#told[who].key)
  }

  /** A flood of handshakes at them, from an address of its own, for some seconds at the most; resolves once it has begun. */
  async flood(ms: number): Promise<() => void> {
    if (bundle === undefined) throw new Error('the flood is not built')
    const { floodPerSecond: perSecond } = this.#program
    const options = { to: OUTER.theirs4, port: THEIR_PORT, from: OUTER.flood4, publicKey: formatHex(this.#keys.theirs.publicKey().bytes), ms, ...(Number.isFinite(perSecond) && { perSecond }) }
    const child = this.#spawn(this.#ours, process.execPath, [bundle.flood, JSON.stringify(options)], 'pipe')
    await new Promise((resolve) => child.stdout?.once('data', resolve))
    await sleep(FLOOD_RISES_MS)
    return () => child.kill('SIGKILL')
  }

  /** `ip` in their namespace. */
  theirIp(...args: readonly string[]): void {
    execFileSync('ip', ['-n', this.#theirs, ...args])
  }

  async #tell(about: Side, change: PeerChange, set: (lines: readonly string[]) => Promise<void>): Promise<void> {
    const told = this.#told[about]
    const old = told.key
    const mayChange = about === 'theirs' || this.#program.changesPeers
    Object.assign(told, { key: this.#keys[about], ...(change.psk !== undefined && { psk: change.psk }), ...(change.endpoint !== undefined && { endpoint: change.endpoint }) })
    told.keepaliveSeconds = change.keepaliveSeconds ?? told.keepaliveSeconds
    if (change.psk !== undefined) this.#secrets.set(`preshared key (${this.#secrets.size})`, change.psk)
    if (change.anew === true || !mayChange) await set([peerLine(old), 'remove=true'])
    const lines = [peerLine(told.key)]
    if (told.psk !== undefined) lines.push(`preshared_key=${formatHex(told.psk)}`)
    if (told.endpoint !== undefined) lines.push(`endpoint=${told.endpoint}`)
    // Without a keepalive nothing is said: this one does not know 0.
    if (told.keepaliveSeconds > 0 || mayChange) lines.push(`persistent_keepalive_interval=${told.keepaliveSeconds}`)
    const [inner4, inner6] = about === 'ours' ? [INNER.ours4, INNER.ours6] : [INNER.theirs4, INNER.theirs6]
    lines.push('replace_allowed_ips=true', `allowed_ip=${inner4}/32`, `allowed_ip=${inner6}/128`)
    // In one request, since a prefix has one owner: a new key takes the prefixes, the old one goes.
    if (mayChange && !old.equals(told.key)) lines.push(peerLine(old), 'remove=true')
    await set(lines)
  }

  async #start(): Promise<void> {
    const { file, args } = this.#program
    if (file === undefined) throw new Error(this.#program.missing)
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
      sendOneByOne(namespace, line)
    }
    execFileSync('ip', ['-n', this.#ours, 'addr', 'add', `${OUTER.flood4}/24`, 'dev', line])
    this.#capture = await Capture.start(this.#ours, line, path.join(bundle?.folder ?? '', `${this.name}.pcap`), `not host ${OUTER.flood4}`)
    this.#spawn(this.#theirs, file, args(this.name), 'ignore')
    await this.#startOurs(this.#options)
    await until(() => existsSync(this.socketPath), 20_000, `${this.#program.label} has no socket`)
    this.theirIp('addr', 'add', `${INNER.theirs4}/24`, 'dev', this.name)
    this.theirIp('addr', 'add', `${INNER.theirs6}/64`, 'dev', this.name, 'nodad')
    this.theirIp('link', 'set', this.name, 'mtu', '1420', 'up')
    await this.setTheirs([`private_key=${formatHex(this.#keys.theirs.secretBytes)}`, `listen_port=${THEIR_PORT}`])
    await this.setOurs([`private_key=${formatHex(this.#keys.ours.secretBytes)}`, `listen_port=${OUR_PORT}`])
    await this.tellThem({ anew: false })
    await this.tellUs()
  }

  async #startOurs(options: LabOptions): Promise<void> {
    if (bundle === undefined) throw new Error('our side is not built')
    const peer = this.#spawn(this.#ours, process.execPath, [bundle.peer], 'pipe')
    this.#peer = peer
    if (peer.stdout === null) throw new Error('our side has no output')
    readline.createInterface({ input: peer.stdout }).on('line', (text) => {
      const answer: PeerAnswer = JSON.parse(text)
      this.#answers.get(answer.id)?.(answer)
      this.#answers.delete(answer.id)
    })
    peer.once('exit', () => {
      for (const [id, answer] of this.#answers) answer({ id, error: 'our side has ended' })
    })
    await this.ask({ op: 'start', provider: options.provider ?? 'noble', addresses: [INNER.ours4, INNER.ours6], tcpPort: TCP_PORT, underLoad: options.underLoad ?? false })
  }

  #kernelTcp(mode: 'listen' | 'connect', host: string): ChildProcess & { readonly stdout: NonNullable<ChildProcess['stdout']> } {
    const child = this.#spawn(this.#theirs, process.execPath, ['--input-type=module', '-e', KERNEL_TCP, JSON.stringify([mode, host, TCP_PORT, TRANSFER_BYTES, PLAINTEXT_MARKER])], 'pipe')
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
      socket.on('close', () => reject(new Error('they hung up')))
    })
  }
}

/** Our side or the other program's. */
export type Side = 'ours' | 'theirs'

/** Where a side is reached. */
export function endpointOf(side: Side, outer: 4 | 6): string {
  const { ours4, ours6, theirs4, theirs6 } = OUTER
  const [four, six, port] = side === 'ours' ? [ours4, ours6, OUR_PORT] : [theirs4, theirs6, THEIR_PORT]
  return `${outer === 4 ? four : `[${six}]`}:${port}`
}

function peerLine(key: NodePrivateKey): string {
  return `public_key=${formatHex(key.publicKey().bytes)}`
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
    await sleep(50)
  }
}
