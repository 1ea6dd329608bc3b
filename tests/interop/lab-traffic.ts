import { createHash, type Hash } from 'node:crypto'
import dgram from 'node:dgram'
import { existsSync, writeFileSync } from 'node:fs'
import net, { type Socket } from 'node:net'
import { type Lab, type LabProcess, type RunResult } from './lab-process.ts'
import { connectThroughSocks } from './lab-web.ts'

const BLOCK_BYTES = 8_192
const BLOCK_MS = 10
/** 200 MB by a derper took two real nodes 16 to 22 s on a busy computer, and ours as long; several such transfers may run side by side. */
const TRAFFIC_MS = 240_000
/** For what is on its way yet: tailscaled 1.80.3 repairs one or two segments for each of its timeouts after the way has changed (docs/interop-versions.md). */
const FINISH_MS = 180_000
/** An end that falls silent does so after so long without a byte. */
const SILENT_AFTER_MS = 3_000

// One program for both ends of traffic in a namespace: serves HTTP and echoes datagrams, asks for them and tells what came as JSON, or is a
// SOCKS5 proxy that dials by the kernel (RFC 1928: no password, IPv4 addresses and names).
const PROGRAM = `
import { createHash } from 'node:crypto'
import dgram from 'node:dgram'
import http from 'node:http'
import net from 'node:net'
const [verb, host, port, ...rest] = process.argv.slice(2)
const family = host.includes(':') ? 'udp6' : 'udp4'
const pattern = (bytes) => Buffer.alloc(bytes, 'meshwright traffic ')
if (verb === 'serve') {
  const udp = dgram.createSocket(family)
  udp.on('message', (bytes, from) => udp.send(bytes, from.port, from.address))
  udp.bind(Number(port), host, () => http.createServer((request, response) => {
    const [, what, count] = request.url.split('/')
    if (what === 'bytes') return response.end(pattern(Number(count)))
    const hash = createHash('sha256')
    request.on('data', (bytes) => hash.update(bytes)).on('end', () => response.end(what === 'hash' ? hash.digest('hex') : 'hello to ' + request.socket.remoteAddress.replace('::ffff:', '')))
  }).listen(Number(port), '::', () => console.log('listening')))
} else if (verb === 'udp') {
  const [count, size] = rest.map(Number)
  const udp = dgram.createSocket(family)
  const missing = new Set(Array.from({ length: count }, (_, i) => i))
  const finish = () => { console.log(JSON.stringify({ answered: count - missing.size })); process.exit(0) }
  udp.on('message', (bytes) => { if (bytes.length === size) missing.delete(bytes.readUInt32BE(0)); if (missing.size === 0) finish() })
  const send = () => { for (const i of missing) { const bytes = Buffer.alloc(size); bytes.writeUInt32BE(i); udp.send(bytes, Number(port), host) } }
  // What is lost on the way is sent again: UDP promises nothing, and the first packet waits for a session.
  send(); setInterval(send, 500); setTimeout(finish, 10_000)
} else if (verb === 'socks') {
  const dial = (client, asked) => {
    const named = asked[3] === 3
    const target = named ? asked.subarray(5, 5 + asked[4]).toString('latin1') : asked.subarray(4, 8).join('.')
    const server = net.connect({ host: target, port: asked.readUInt16BE(named ? 5 + asked[4] : 8) })
    server.once('connect', () => {
      client.write(Buffer.of(5, 0, 0, 1, 0, 0, 0, 0, 0, 0))
      client.pipe(server)
      server.pipe(client)
    })
    for (const [a, b] of [[client, server], [server, client]]) a.on('error', () => b.destroy()).on('close', () => b.destroy())
  }
  net.createServer((client) => {
    client.once('error', () => client.destroy())
    // Whoever asks waits for each answer: a piece is a message.
    client.once('data', () => {
      client.write(Buffer.of(5, 0))
      client.once('data', (asked) => dial(client, asked))
    })
  }).listen(Number(port), host, () => console.log('listening'))
} else if (verb === 'stream') {
  const udp = dgram.createSocket(family)
  setInterval(() => udp.send(Buffer.alloc(500), Number(port), host), 50)
} else if (verb === 'http') {
  const bytes = Number(rest[0])
  const ask = (options, body) => new Promise((resolve, reject) => http.request({ host, port, ...options }, (answer) => {
    const parts = []
    answer.on('data', (part) => parts.push(part)).on('end', () => resolve(Buffer.concat(parts)))
  }).on('error', reject).end(body))
  const sent = createHash('sha256').update(pattern(bytes)).digest('hex')
  const down = await ask({ path: '/bytes/' + bytes })
  const up = await ask({ path: '/hash', method: 'POST' }, pattern(bytes))
  console.log(JSON.stringify({ down: down.equals(pattern(bytes)), up: up.toString() === sent }))
} else if (verb === 'get') {
  http.get({ host, port, timeout: 5_000 }, (answer) => answer.pipe(process.stdout)).on('timeout', () => process.exit(1)).on('error', () => process.exit(1))
}
`

/** Where a traffic program runs: it runs and starts programs in a namespace, or here. */
export interface Place {
  inside(file: string, args: readonly string[], timeoutMs?: number): Promise<RunResult>
}

function program(lab: Lab): string {
  const file = lab.at('traffic.mjs')
  if (!existsSync(file)) writeFileSync(file, PROGRAM)
  return file
}

/**
 * Starts HTTP and a UDP echo on one port of a namespace.
 * @param address of the echo; from all addresses, it would answer from the one that is nearest to who asks
 */
export async function serveIn(lab: Lab, space: string, port: number, address: string = '::'): Promise<LabProcess> {
  const started = lab.start(`traffic in ${space}`, 'ip', ['netns', 'exec', space, process.execPath, program(lab), 'serve', address, String(port)])
  await lab.until(`traffic is served in ${space}`, () => started.log.includes('listening'))
  return started
}

/** Starts a SOCKS5 proxy on all addresses of a namespace that dials by the kernel there. */
export async function socksIn(lab: Lab, space: string, port: number): Promise<LabProcess> {
  const started = lab.start(`SOCKS5 in ${space}`, 'ip', ['netns', 'exec', space, process.execPath, program(lab), 'socks', '0.0.0.0', String(port)])
  await lab.until(`the SOCKS5 proxy in ${space} listens`, () => started.log.includes('listening'))
  return started
}

/** Sends twenty datagrams a second from a namespace, until it is stopped. */
export function streamOut(lab: Lab, space: string, host: string, port: number): LabProcess {
  return lab.start(`datagrams from ${space}`, 'ip', ['netns', 'exec', space, process.execPath, program(lab), 'stream', host, String(port)])
}

/** Starts a UDP echo on loopback of this computer; gives its port. */
export async function echoHere(lab: Lab): Promise<number> {
  const socket = dgram.createSocket('udp4')
  socket.on('message', (bytes, from) => socket.send(bytes, from.port, from.address))
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve))
  lab.onStop(() => {
    socket.close()
  })
  return socket.address().port
}

async function tell<T>(lab: Lab, place: Place, words: readonly string[]): Promise<T> {
  const { status, out, err } = await place.inside(process.execPath, [program(lab), ...words], TRAFFIC_MS)
  if (status !== 0) throw new Error(`traffic "${words.join(' ')}" ended with ${status}: ${err}`)
  return JSON.parse(out) as T // the program's own words
}

/** Sends datagrams to an echo, again until answered; gives how many were. */
export async function echoed(lab: Lab, from: Place, host: string, port: number, count: number, size: number): Promise<number> {
  return (await tell<{ readonly answered: number }>(lab, from, ['udp', host, String(port), String(count), String(size)])).answered
}

/** Downloads and uploads; gives whether each came as it was sent. */
export function transferred(lab: Lab, from: Place, host: string, port: number, bytes: number): Promise<{ readonly down: boolean; readonly up: boolean }> {
  return tell(lab, from, ['http', host, String(port), String(bytes)])
}

/** The page at an address, or what went wrong. */
export async function pageFrom(lab: Lab, from: Place, host: string, port: number): Promise<string> {
  const { status, out, err } = await from.inside(process.execPath, [program(lab), 'get', host, String(port)], 15_000)
  return status === 0 ? out : `nothing (${err.trim()})`
}

/** One end of an {@link Exchange}: what it sent and what it got. */
class End {
  readonly #socket: Socket
  readonly sent: Hash = createHash('sha256')
  readonly got: Hash = createHash('sha256')
  gotBytes = 0
  sentBytes = 0
  lastAt = performance.now()
  longestGapMs = 0
  error: string | undefined
  #timer: NodeJS.Timeout

  /** @param fallsSilent sends nothing while nothing comes */
  constructor(socket: Socket, fallsSilent: boolean = false) {
    this.#socket = socket
    let count = 0
    this.#timer = setInterval(() => {
      if (socket.writableNeedDrain || (fallsSilent && performance.now() - this.lastAt > SILENT_AFTER_MS)) return
      const block = Buffer.alloc(BLOCK_BYTES, (count += 1) & 255)
      this.sent.update(block)
      this.sentBytes += block.length
      socket.write(block)
    }, BLOCK_MS)
    socket.on('data', (bytes: Buffer) => {
      this.got.update(bytes)
      this.gotBytes += bytes.length
      const now = performance.now()
      this.longestGapMs = Math.max(this.longestGapMs, now - this.lastAt)
      this.lastAt = now
    })
    socket.on('end', () => (this.error ??= 'the other side has ended it'))
    socket.on('error', (error) => (this.error = error.message))
    socket.on('close', () => clearInterval(this.#timer))
  }

  /** Sends nothing more. */
  pause(): void {
    clearInterval(this.#timer)
  }

  destroy(): void {
    clearInterval(this.#timer)
    this.#socket.destroy()
  }
}

/** Whether the TCP of a tailscaled in userspace mode goes by RACK (wgengine/netstack: 1.82 took it away on all systems). */
export function goesByRack(version: string): boolean {
  return Number(version.split('.')[1]) < 82
}

/** One connection through the mesh that carries some 6 Mbit/s each way until it is finished. Everything that comes is hashed. */
export class Exchange {
  /** The end that dialled, through a SOCKS5 port. */
  readonly near: End
  /** The end that was dialled, on loopback behind the other node. */
  readonly far: End

  private constructor(near: End, far: End) {
    this.near = near
    this.far = far
  }

  /**
   * @param nearFallsSilent the end that dialled sends nothing while nothing comes: while it goes on, a node that {@link goesByRack} may send
   * nothing again of what it lost (docs/interop-versions.md)
   */
  static async start(lab: Lab, socksPort: number, ip: string, nearFallsSilent: boolean = false): Promise<Exchange> {
    const server = net.createServer({ allowHalfOpen: true })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const address = server.address()
    if (typeof address !== 'object' || address === null) throw new Error('no port')
    const accepted = new Promise<Socket>((resolve) => server.once('connection', resolve))
    const socket = await connectThroughSocks(socksPort, ip, address.port)
    const [near, far] = [new End(socket, nearFallsSilent), new End(await accepted)]
    lab.onStop(() => {
      near.destroy()
      far.destroy()
      server.close()
    })
    server.close()
    return new Exchange(near, far)
  }

  /** Forgets gaps until now. */
  resetGaps(): void {
    this.near.longestGapMs = this.far.longestGapMs = 0
  }

  /** Waits until all has come; gives whether every byte came both ways. @throws Error when the connection was lost */
  async finish(lab: Lab): Promise<boolean> {
    const { near, far } = this
    near.pause()
    far.pause()
    // Not by half-closing: real releases end both directions with the first.
    await lab.until('both ends have all', () => {
      this.check()
      return near.gotBytes === far.sentBytes && far.gotBytes === near.sentBytes
    }, FINISH_MS)
    const whole = near.sent.digest('hex') === far.got.digest('hex') && far.sent.digest('hex') === near.got.digest('hex')
    near.destroy()
    far.destroy()
    return whole
  }

  /** @throws Error when the connection was lost */
  check(): void {
    if (this.near.error !== undefined) throw new Error(`the connection was lost where it was dialled: ${this.near.error}`)
    if (this.far.error !== undefined) throw new Error(`the connection was lost where it was taken: ${this.far.error}`)
  }
}
