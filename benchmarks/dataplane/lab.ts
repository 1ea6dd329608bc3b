import { type ChildProcess, execFile, execFileSync, spawn, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import path from 'node:path'
import { promisify } from 'node:util'
import { buildSync } from 'esbuild'
import { NodePrivateKey } from '@meshwright/crypto'
import { parsePrefix } from '@meshwright/ip'
import { systemRandom } from '@meshwright/runtime-node'
import { formatUapiSet, UAPI_GET, type UapiChange } from '@meshwright/wireguard/text'

const run = promisify(execFile)
const ROOT = path.resolve(import.meta.dirname, '../..')
const UAPI_FOLDER = '/var/run/wireguard'
const PORT = 5000
const MTU = 1420
const START_MS = 30_000
const COMMAND_MS = 300_000

let labs = 0

/** A program that makes WireGuard interfaces, with its environment. */
export interface Opponent {
  readonly name: string
  readonly file: string
  readonly args: readonly string[]
  readonly env: Readonly<Record<string, string>>
  /** Of its interfaces. Default: 1420. */
  readonly mtu?: number
}

/** One end of a tunnel: a namespace, an interface, the process behind it. */
export interface End {
  readonly namespace: string
  readonly interfaceName: string
  readonly child: ChildProcess
  readonly key: NodePrivateKey
}

/** Builds meshwright-wg into one file, as users have it; inside the repository, so that it finds `koffi`. */
export function buildOurs(): { readonly file: string; remove(): void } {
  mkdirSync(path.join(ROOT, '.cache'), { recursive: true })
  const folder = mkdtempSync(path.join(ROOT, '.cache', 'bench-dataplane-'))
  const file = path.join(folder, 'meshwright-wg.mjs')
  buildSync({
    entryPoints: [path.join(ROOT, 'examples/wireguard/src/meshwright-wg.ts')], outfile: file, bundle: true, platform: 'node', format: 'esm', target: 'node20',
    conditions: ['@meshwright/source'], mainFields: ['module', 'main'], external: ['koffi'], logLevel: 'error',
    banner: { js: "import { createRequire as requireFrom } from 'node:module'; const require = requireFrom(import.meta.url)" },
  })
  return { file, remove: () => rmSync(folder, { recursive: true, force: true }) }
}

/** Two network namespaces joined by a veth pair: 10.87.0.1 and 10.87.0.2. */
export class Lab {
  readonly a: string
  readonly b: string
  readonly #children: Set<ChildProcess> = new Set()
  readonly #id: number
  #interfaces = 0

  constructor() {
    labs += 1
    this.#id = labs
    this.a = `bdA${process.pid}x${labs}`
    this.b = `bdB${process.pid}x${labs}`
    for (const namespace of [this.a, this.b]) {
      execFileSync('ip', ['netns', 'add', namespace])
      execFileSync('ip', ['-n', namespace, 'link', 'set', 'lo', 'up'])
    }
    execFileSync('ip', ['link', 'add', 'wire', 'netns', this.a, 'type', 'veth', 'peer', 'name', 'wire', 'netns', this.b])
    for (const [i, namespace] of [this.a, this.b].entries()) {
      execFileSync('ip', ['-n', namespace, 'addr', 'add', `10.87.0.${i + 1}/24`, 'dev', 'wire'])
      execFileSync('ip', ['-n', namespace, 'link', 'set', 'wire', 'up'])
    }
  }

  /** Starts an interface in a namespace and gives it a key. */
  async start(namespace: string, { file, args, env, mtu = MTU }: Opponent, port: number, address: string): Promise<End> {
    this.#interfaces += 1
    const interfaceName = `b${process.pid}x${this.#id}x${this.#interfaces}`.slice(-15)
    const child = spawn('ip', ['netns', 'exec', namespace, file, ...args, interfaceName], { stdio: 'ignore', env: { ...process.env, WG_PROCESS_FOREGROUND: '1', ...env } })
    this.#children.add(child)
    const socket = path.join(UAPI_FOLDER, `${interfaceName}.sock`)
    // The file is there a moment before somebody listens.
    for (let waited = 0; !(await uapi(socket, UAPI_GET).then(() => true, () => false)); waited += 20) {
      if (waited > START_MS || child.exitCode !== null) throw new Error(`${file} does not start`)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    const end = { namespace, interfaceName, child, key: NodePrivateKey.generate(systemRandom) }
    await this.set(end, [{ type: 'privateKey', key: end.key }, { type: 'listenPort', port }])
    for (const step of [['addr', 'add', address, 'dev', interfaceName], ['link', 'set', interfaceName, 'mtu', String(mtu), 'up']]) await run('ip', ['-n', namespace, ...step])
    return end
  }

  /** Makes `other` a peer of `end`. */
  async know(end: End, other: End, allowed: string, endpoint: { readonly host: number; readonly port: number }): Promise<void> {
    const [prefix, to] = [parsePrefix(allowed), parsePrefix(`10.87.0.${endpoint.host}/32`)]
    if (prefix === undefined || to === undefined) throw new Error(allowed)
    await this.set(end, [
      { type: 'peer', publicKey: other.key.publicKey(), remove: false, updateOnly: false, replaceAllowedIps: true, allowedIps: [{ prefix, remove: false }], endpoint: { ip: to.ip, port: endpoint.port } },
    ])
  }

  /** Two ends that know each other: 10.88.0.1 and 10.88.0.2; returns when packets pass. */
  async pair(opponent: Opponent, other: Opponent = opponent): Promise<readonly [End, End]> {
    const a = await this.start(this.a, opponent, PORT, '10.88.0.1/24')
    const b = await this.start(this.b, other, PORT, '10.88.0.2/24')
    await this.know(a, b, '10.88.0.2/32', { host: 2, port: PORT })
    await this.know(b, a, '10.88.0.1/32', { host: 1, port: PORT })
    await this.reach('10.88.0.2')
    return [a, b]
  }

  /** One end in A with many peers, each an interface of its own in B: 10.88.N.1 to 10.88.N.2. */
  async star(hub: Opponent, spoke: Opponent, peers: number): Promise<readonly End[]> {
    const a = await this.start(this.a, hub, PORT, '10.88.1.1/16')
    const spokes: End[] = []
    for (let i = 1; i <= peers; i += 1) {
      const b = await this.start(this.b, spoke, PORT + i, `10.88.${i}.2/32`)
      // One namespace holds all of them: replies are sent by the interface that owns the source.
      const table = String(100 + i)
      await run('ip', ['-n', this.b, 'route', 'add', '10.88.1.1/32', 'dev', b.interfaceName, 'table', table])
      await run('ip', ['-n', this.b, 'rule', 'add', 'from', `10.88.${i}.2`, 'lookup', table])
      await this.know(a, b, `10.88.${i}.2/32`, { host: 2, port: PORT + i })
      await this.know(b, a, '10.88.1.1/32', { host: 1, port: PORT })
      spokes.push(b)
    }
    for (let i = 1; i <= peers; i += 1) await this.reach(`10.88.${i}.2`)
    return [a, ...spokes]
  }

  async set(end: End, changes: readonly UapiChange[]): Promise<void> {
    const answer = await uapi(path.join(UAPI_FOLDER, `${end.interfaceName}.sock`), formatUapiSet(changes))
    if (!answer.includes('errno=0')) throw new Error(`${end.interfaceName}: ${answer.trim()}`)
  }

  async reach(address: string): Promise<void> {
    for (let i = 0; i < 40; i += 1) {
      if (await this.inA('ping', '-c', '1', '-W', '1', address).then(() => true, () => false)) return
    }
    throw new Error(`${address} is not reached`)
  }

  /** Runs a program in A; gives its output. */
  async inA(file: string, ...args: readonly string[]): Promise<string> {
    return (await run('ip', ['netns', 'exec', this.a, file, ...args], { timeout: COMMAND_MS, maxBuffer: 64 * 1024 * 1024 })).stdout
  }

  /** Starts a program in B that runs until it is stopped. */
  background(file: string, ...args: readonly string[]): ChildProcess {
    const child = spawn('ip', ['netns', 'exec', this.b, file, ...args], { stdio: ['ignore', 'pipe', 'ignore'] })
    this.#children.add(child)
    return child
  }

  /** The same, with a pipe to its standard input. */
  talking(file: string, ...args: readonly string[]): ChildProcess {
    const child = spawn('ip', ['netns', 'exec', this.b, file, ...args], { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#children.add(child)
    return child
  }

  /** Ends processes that this lab started. */
  async stop(...children: readonly ChildProcess[]): Promise<void> {
    for (const child of children) {
      this.#children.delete(child)
      if (child.exitCode !== null || child.signalCode !== null) continue
      const ended = new Promise((resolve) => child.once('exit', resolve))
      child.kill('SIGTERM')
      const forced = setTimeout(() => child.kill('SIGKILL'), 3_000)
      await ended
      clearTimeout(forced)
    }
  }

  async close(): Promise<void> {
    await this.stop(...this.#children)
    this.abandon()
  }

  /** Takes all away at once: for a program that is being ended. */
  abandon(): void {
    for (const child of this.#children) child.kill('SIGKILL')
    for (const namespace of [this.a, this.b]) spawnSync('ip', ['netns', 'del', namespace])
  }
}

/** Asks a UAPI socket. */
async function uapi(file: string, text: string): Promise<string> {
  const net = await import('node:net')
  return new Promise((resolve, reject) => {
    let answer = ''
    const socket = net.connect(file, () => socket.write(text))
    socket.on('data', (chunk) => {
      answer += String(chunk)
      if (answer.endsWith('\n\n')) {
        socket.destroy()
        resolve(answer)
      }
    })
    socket.on('error', reject)
  })
}

/** Processor time of processes so far, in seconds: fields 14 and 15 of /proc/PID/stat (proc(5)). */
export function cpuSeconds(children: readonly ChildProcess[]): number {
  return children.reduce((sum, { pid }) => {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
    return sum + (Number(fields[11]) + Number(fields[12])) / 100
  }, 0)
}

/** Memory of processes in MB: VmRSS of /proc/PID/status. */
export function rssMegabytes(children: readonly ChildProcess[]): number {
  return children.reduce((sum, { pid }) => sum + Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) / 1024, 0)
}
