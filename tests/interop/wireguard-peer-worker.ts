// Our side of the tests with other WireGuard programs on the worker's lane: a TUN device in this process's network namespace, whose programs are
// those of the kernel. What it is asked is what the side on the event loop is asked.
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import net from 'node:net'
import { type DataPlane, parseLaneMode, startDataPlane } from '@meshwright/runtime-node/dataplane'
import { formatUapi, type UapiChange } from '@meshwright/wireguard/text'
import { PLAINTEXT_MARKER } from './wireguard-capture.ts'
import { patternBytes, type PeerCommand, type PeerSide, type SideCommand, TRANSFER_BYTES, type TransferResult } from './wireguard-commands.ts'

const NAME = 'ours'
const MTU = 1420
/** At most 16 bytes, repeated. */
const MARKER_IN_PING = Buffer.from(PLAINTEXT_MARKER.slice(0, 16)).toString('hex')
const LOAD_EVERY_MS = 100

/** Our side on the worker's lane. */
export class WorkerPeer implements PeerSide {
  readonly #plane: DataPlane
  readonly #log: string[]
  readonly #accepted: TransferResult[] = []
  readonly #pings: Set<ChildProcess> = new Set()

  private constructor(plane: DataPlane, log: string[]) {
    this.#plane = plane
    this.#log = log
  }

  /** @param mode as MESHWRIGHT_DATAPLANE has it */
  static async start(command: Extract<PeerCommand, { op: 'start' }>, mode: string): Promise<WorkerPeer> {
    const log: string[] = []
    const plane = await startDataPlane({ name: NAME, mtu: MTU, mode: parseLaneMode(mode), workerUrl: new URL(import.meta.url), log: (_level, line) => log.push(line), onGone: (reason) => log.push(reason) })
    for (const address of command.addresses) ip('addr', 'add', `${address}/${address.includes(':') ? 64 : 24}`, 'dev', NAME, ...(address.includes(':') ? ['nodad'] : []))
    ip('link', 'set', NAME, 'mtu', String(MTU), 'up')
    if (command.underLoad) setInterval(() => plane.testWorker('load'), LOAD_EVERY_MS)
    const peer = new WorkerPeer(plane, log)
    net.createServer({ allowHalfOpen: true }, (socket) => void transfer(socket).then((result) => peer.#accepted.push(result))).listen(command.tcpPort, '::')
    return peer
  }

  apply(changes: readonly UapiChange[]): Promise<number> {
    return this.#plane.apply(changes)
  }

  async run(command: SideCommand): Promise<unknown> {
    switch (command.op) {
      case 'get':
        return formatUapi(await this.#plane.shown())
      case 'secrets':
        return [] // those of sessions do not leave the worker
      case 'ping':
        return this.#ping(command.to, command.timeoutMs)
      case 'tcp':
        return transfer(net.connect({ host: command.to, port: command.port, allowHalfOpen: true }))
      case 'accepted':
        return this.#accepted
      case 'status': {
        const { device, lane } = await this.#plane.status()
        return { log: this.#log, drops: Object.fromEntries(device.drops), cookieRepliesSent: device.cookieRepliesSent, provider: lane.provider }
      }
    }
  }

  #ping(to: string, timeoutMs: number): Promise<number | null> {
    const child = spawn('ping', ['-n', '-c', '1', '-W', String(timeoutMs / 1000), '-p', MARKER_IN_PING, to], { stdio: ['ignore', 'pipe', 'ignore'] })
    this.#pings.add(child)
    let said = ''
    child.stdout.on('data', (bytes) => (said += String(bytes)))
    return new Promise((resolve) => {
      child.once('close', () => {
        this.#pings.delete(child)
        const time = /time=([\d.]+)/.exec(said)?.[1]
        resolve(time === undefined ? null : Number(time))
      })
    })
  }
}

/** Both ends send the pattern and hash what comes. */
function transfer(socket: net.Socket): Promise<TransferResult> {
  const hash = createHash('sha256')
  let bytes = 0
  socket.on('data', (chunk) => {
    hash.update(chunk)
    bytes += chunk.length
  })
  socket.end(patternBytes(TRANSFER_BYTES))
  return new Promise((resolve) => {
    socket.once('error', (error) => resolve({ bytes, sha256: '', reason: error.message }))
    socket.once('end', () => resolve({ bytes, sha256: hash.digest('hex'), reason: 'finished' }))
  })
}

function ip(...words: readonly string[]): void {
  const { status } = spawnSync('ip', words)
  if (status !== 0) throw new Error(`ip ${words.join(' ')} ended with ${status}`)
}
