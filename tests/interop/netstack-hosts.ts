import { type ChildProcess, spawn } from 'node:child_process'
import { type Cipher, createCipheriv, createHash } from 'node:crypto'
import { parseIp } from '@meshwright/ip'
import { type FlowId, type KeepAlive, Netstack, type NetstackOptions, type NetstackOutput } from '@meshwright/netstack'
import { SeededRandom } from '@meshwright/testkit'
import { programFile } from './lab-flow.ts'
import { clock, type Line, type LineEnd, type Side } from './netstack-line.ts'

/** The addresses of the two sides; kernels want networks. */
export const ADDRESSES: readonly [{ readonly v4: string; readonly v6: string }, { readonly v4: string; readonly v6: string }] = [
  { v4: '10.77.0.1', v6: 'fd77::1' },
  { v4: '10.77.0.2', v6: 'fd77::2' },
]

/** What to do with a connection, by whichever host: both directions are used at once. See tests/interop/go/tcp-peer/jobs.go. */
export interface Job {
  /** So many bytes of stream number `key`, then FIN. */
  readonly send?: number
  readonly key?: number
  readonly echo?: boolean
  /** No FIN before the other side's. */
  readonly hold?: boolean
  /** Nothing is read before. */
  readonly pauseUntil?: Promise<void>
  /** Reset after so many bytes have come. */
  readonly resetAfter?: number
  readonly options?: { readonly receiveBuffer?: number; readonly sendBuffer?: number; readonly keepIdle?: number; readonly keepInterval?: number; readonly keepCount?: number }
}

/** How a connection went. */
export interface Done {
  readonly bytes: number
  readonly sha256: string
  /** '' when it ended in order. */
  readonly error: string
  /** From the start to the last byte that came. */
  readonly ms: number
}

/** A host with TCP, whoever wrote it. */
export interface TcpHost extends LineEnd {
  readonly name: string
  connect(to: string, port: number, job: Job, from?: number): Promise<Done>
  /** Runs the job with each connection that comes; the results in order of their ends. */
  listen(port: number, job: Job): Promise<Accepted>
  close(): Promise<void>
}

/** Results as they come. */
export class Accepted {
  #waiting: ((done: Done) => void)[] = []
  readonly #done: Done[] = []

  add(done: Done): void {
    const waiter = this.#waiting.shift()
    if (waiter === undefined) this.#done.push(done)
    else waiter(done)
  }

  next(): Promise<Done> {
    const done = this.#done.shift()
    return done === undefined ? new Promise((resolve) => this.#waiting.push(resolve)) : Promise.resolve(done)
  }
}

/** The bytes of a numbered stream: AES-128-CTR over zeros. */
function stream(key: number): Cipher {
  return createCipheriv('aes-128-ctr', Buffer.alloc(16, key), Buffer.alloc(16))
}

/** SHA-256 of the first bytes of a numbered stream. */
export function streamHash(key: number, size: number): string {
  const cipher = stream(key)
  const hash = createHash('sha256')
  const zeros = Buffer.alloc(1_000_000)
  for (let left = size; left > 0; left -= zeros.length) hash.update(cipher.update(zeros.subarray(0, Math.min(left, zeros.length))))
  return hash.digest('hex')
}

/** One connection of ours with its job. */
class Work {
  readonly #stack: Netstack
  readonly #flow: FlowId
  readonly #job: Job
  readonly #end: (done: Done) => void
  readonly #begun: number = performance.now()
  readonly #hash = createHash('sha256')
  readonly #cipher: Cipher
  readonly #zeros: Buffer = Buffer.alloc(65_536)
  #bytes = 0
  #lastMs = 0
  #left: number
  #rest: Uint8Array = new Uint8Array(0)
  #shut = false
  #ended = false
  #paused: boolean
  #unconsumed = 0

  constructor(stack: Netstack, flow: FlowId, job: Job, end: (done: Done) => void, settle: () => void) {
    this.#stack = stack
    this.#flow = flow
    this.#job = job
    this.#end = end
    this.#left = job.send ?? 0
    this.#cipher = stream(job.key ?? 1)
    this.#paused = job.pauseUntil !== undefined
    void job.pauseUntil?.then(() => {
      this.#paused = false
      stack.consumed(clock(), flow, this.#unconsumed)
      settle()
    })
  }

  handle(output: NetstackOutput): void {
    if (output.type === 'opened' || output.type === 'writable') this.#push()
    else if (output.type === 'data') this.#take(output.bytes)
    else if (output.type === 'ended') {
      this.#ended = true
      this.#push()
    } else if (output.type === 'closed') {
      this.#end({ bytes: this.#bytes, sha256: this.#hash.digest('hex'), error: output.reason === 'finished' ? '' : output.reason, ms: this.#lastMs })
    }
  }

  #take(bytes: Uint8Array): void {
    this.#hash.update(bytes)
    this.#bytes += bytes.length
    this.#lastMs = performance.now() - this.#begun
    if (this.#job.echo === true) {
      this.#rest = this.#rest.length === 0 ? bytes : Buffer.concat([this.#rest, bytes])
      this.#push()
    }
    if (this.#paused) this.#unconsumed += bytes.length
    else this.#stack.consumed(clock(), this.#flow, bytes.length)
    if (this.#job.resetAfter !== undefined && this.#bytes >= this.#job.resetAfter) this.#stack.abort(clock(), this.#flow)
  }

  #push(): void {
    while (this.#rest.length > 0 || this.#left > 0) {
      if (this.#rest.length === 0) {
        this.#rest = this.#cipher.update(this.#zeros.subarray(0, Math.min(this.#left, this.#zeros.length)))
        this.#left -= this.#rest.length
      }
      this.#rest = this.#rest.subarray(this.#stack.write(clock(), this.#flow, this.#rest))
      if (this.#rest.length > 0) return
    }
    if (this.#shut || ((this.#job.echo === true || this.#job.hold === true) && !this.#ended)) return
    this.#shut = true
    this.#stack.shutdownWrite(clock(), this.#flow)
  }
}

/** Our stack at an end of the line. */
export class OurHost implements TcpHost {
  readonly name: string = 'ours'
  readonly stack: Netstack
  readonly #line: Line
  readonly #side: Side
  readonly #work: Map<FlowId, Work> = new Map()
  readonly #listeners: Map<number, (flow: FlowId) => void> = new Map()
  #timer: NodeJS.Timeout | undefined
  #settling = false
  #closed = false

  constructor(line: Line, side: Side, seed: number, options: NetstackOptions = {}) {
    const { v4, v6 } = ADDRESSES[side]
    const addresses = [v4, v6].map((text) => parseIp(text)).filter((ip) => ip !== undefined)
    this.stack = new Netstack(new SeededRandom(seed).bytes, { ...options, addresses })
    this.#line = line
    this.#side = side
    line.attach(side, this)
  }

  receive(packets: readonly Uint8Array[]): void {
    for (const packet of packets) this.stack.receive(clock(), packet)
    this.settle()
  }

  connect(to: string, port: number, job: Job, from?: number): Promise<Done> {
    const ip = parseIp(to)
    if (ip === undefined) throw new Error(to)
    return new Promise((resolve) => {
      const flow = this.stack.connectTcp(clock(), { ip, port }, from === undefined ? {} : { port: from })
      this.#begin(flow, job, resolve)
      this.settle()
    })
  }

  listen(port: number, job: Job): Promise<Accepted> {
    const accepted = new Accepted()
    const listener = this.stack.listenTcp(port)
    this.#listeners.set(listener, (flow) => this.#begin(flow, job, (done) => accepted.add(done)))
    return Promise.resolve(accepted)
  }

  close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#timer)
    return Promise.resolve()
  }

  /** Performs what the stack owes and waits for its next deadline. */
  settle(): void {
    if (this.#settling || this.#closed) return
    this.#settling = true
    const packets: Uint8Array[] = []
    for (let output = this.stack.pollOutput(); output !== undefined; output = this.stack.pollOutput()) {
      if (output.type === 'packet') packets.push(output.bytes)
      else this.#handle(output)
    }
    this.#settling = false
    clearTimeout(this.#timer)
    const due = this.stack.pollTimeout()
    if (due !== undefined) {
      const wait = (): void => {
        this.stack.handleTimeout(clock())
        this.settle()
      }
      // What is due now comes behind what has arrived already.
      if (due <= clock()) this.#timer = setTimeout(wait, 0)
      else this.#timer = setTimeout(wait, Math.ceil(due - clock()))
    }
    if (packets.length > 0) this.#line.send(this.#side, packets)
  }

  #begin(flow: FlowId, job: Job, end: (done: Done) => void): void {
    const { keepIdle, keepInterval = keepIdle, keepCount } = job.options ?? {}
    const work = new Work(
      this.stack,
      flow,
      job,
      (done) => {
        this.#work.delete(flow)
        end(done)
      },
      () => this.settle(),
    )
    this.#work.set(flow, work)
    if (keepIdle !== undefined) this.stack.setKeepAlive(clock(), flow, { idleMs: keepIdle * 1000, intervalMs: (keepInterval ?? keepIdle) * 1000, count: keepCount ?? 2 } satisfies KeepAlive)
  }

  #handle(output: NetstackOutput): void {
    if (output.type === 'opened' && output.listener !== undefined) this.#listeners.get(output.listener)?.(output.flow)
    if ('flow' in output) this.#work.get(output.flow)?.handle(output)
  }
}

const JSON_FRAME = 0x8000_0000

interface PeerEvent extends Done {
  readonly id: number
  readonly event: 'ready' | 'listening' | 'opened' | 'done'
}

/** `gvisor` as tailscaled sets it up, `gvisor-tuned` with CUBIC and RACK, or this computer's kernel. */
export type PeerKind = 'gvisor' | 'gvisor-tuned' | 'kernel'

/** Someone else's host at an end of the line: a process of tests/interop/go/tcp-peer. */
export class PeerHost implements TcpHost {
  readonly name: PeerKind
  readonly #child: ChildProcess
  readonly #line: Line
  readonly #side: Side
  readonly #handlers: Map<number, (event: PeerEvent) => void> = new Map()
  readonly #exited: Promise<void>
  #unread: Uint8Array[] = []
  #unreadBytes = 0
  #nextId = 1
  #closing = false

  private constructor(kind: PeerKind, line: Line, side: Side, mtu: number) {
    this.name = kind
    this.#line = line
    this.#side = side
    const { v4, v6 } = ADDRESSES[side]
    const program = programFile('tcp-peer')
    const [command = program, ...args] =
      kind === 'kernel'
        ? ['unshare', '-n', program, 'kernel', String(mtu), `${v4}/24`, `${v6}/64`]
        : [program, ...(kind === 'gvisor-tuned' ? ['-tuned'] : []), 'gvisor', String(mtu), v4, v6]
    const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#child = child
    child.stdout.on('data', (chunk: Buffer) => this.#read(chunk))
    child.stdin.on('error', (error) => this.#failed(error))
    this.#exited = new Promise((resolve) => child.once('close', () => resolve()))
    child.once('error', (error) => this.#failed(error))
    child.once('close', (status) => this.#failed(new Error(`tcp-peer ended with status ${String(status)}`)))
  }

  /** Starts it; ready when it is. */
  static start(kind: PeerKind, line: Line, side: Side, mtu = 1280): Promise<PeerHost> {
    return new Promise((resolve) => {
      const host = new PeerHost(kind, line, side, mtu)
      host.#handlers.set(0, () => {
        line.attach(side, host)
        resolve(host)
      })
    })
  }

  receive(packets: readonly Uint8Array[]): void {
    const frames = Buffer.allocUnsafe(packets.reduce((sum, packet) => sum + 4 + packet.length, 0))
    let at = 0
    for (const packet of packets) {
      frames.writeUInt32BE(packet.length, at)
      frames.set(packet, at + 4)
      at += 4 + packet.length
    }
    this.#child.stdin?.write(frames)
  }

  connect(to: string, port: number, job: Job, from = 0): Promise<Done> {
    return new Promise((resolve) => {
      this.#command({ ...job, op: 'connect', to: to.includes(':') ? `[${to}]:${port}` : `${to}:${port}`, from }, (event) => {
        if (event.event === 'done') resolve(done(event))
      })
    })
  }

  listen(port: number, job: Job): Promise<Accepted> {
    const accepted = new Accepted()
    return new Promise((resolve, reject) => {
      this.#command({ ...job, op: 'listen', port }, (event) => {
        if (event.event === 'listening' && (event.error ?? '') !== '') reject(new Error(event.error))
        else if (event.event === 'listening') resolve(accepted)
        else if (event.event === 'done') accepted.add(done(event))
      })
    })
  }

  close(): Promise<void> {
    this.#closing = true
    this.#child.stdin?.end()
    this.#child.kill('SIGKILL')
    return this.#exited
  }

  #failed(error: Error): void {
    if (!this.#closing) throw error
  }

  #command(command: Job & { readonly op: string; readonly [name: string]: unknown }, handler: (event: PeerEvent) => void): void {
    const id = this.#nextId
    this.#nextId += 1
    this.#handlers.set(id, handler)
    const { pauseUntil, ...rest } = command
    this.#tell({ ...rest, id, paused: pauseUntil !== undefined })
    void pauseUntil?.then(() => this.#tell({ op: 'resume', id }))
  }

  #tell(command: object): void {
    const text = Buffer.from(JSON.stringify(command))
    const head = Buffer.alloc(4)
    head.writeUInt32BE(JSON_FRAME + text.length)
    this.#child.stdin?.write(Buffer.concat([head, text]))
  }

  #read(chunk: Buffer): void {
    this.#unread.push(chunk)
    this.#unreadBytes += chunk.length
    const bytes = this.#unread.length === 1 ? chunk : Buffer.concat(this.#unread, this.#unreadBytes)
    const packets: Uint8Array[] = []
    let at = 0
    while (at + 4 <= bytes.length) {
      const header = bytes.readUInt32BE(at)
      const length = header % JSON_FRAME
      if (at + 4 + length > bytes.length) break
      const frame = bytes.subarray(at + 4, at + 4 + length)
      if (header < JSON_FRAME) packets.push(frame)
      else {
        const event = JSON.parse(frame.toString('utf8')) as PeerEvent
        this.#handlers.get(event.id)?.(event)
      }
      at += 4 + length
    }
    this.#unread = at === bytes.length ? [] : [bytes.subarray(at)]
    this.#unreadBytes = bytes.length - at
    if (packets.length > 0) this.#line.send(this.#side, packets)
  }
}

function done(event: PeerEvent): Done {
  return { bytes: event.bytes, sha256: event.sha256 ?? '', error: event.error ?? '', ms: event.ms }
}
