import { type ChildProcess, fork } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import { DerpClient, type DerpClientInput, type DerpClientOutput, encodePacketFrame, FRAME_RECV_PACKET, FRAME_SEND_PACKET, FrameReader } from '@meshwright/derp'
import { drive, nodeCryptoProvider, suspendAwareClock, systemRandom } from '@meshwright/runtime-node/relay'
import { NODE_FLAGS } from '../../examples/relay/src/node-flags.ts'
import { freePort } from '../interop/lab-process.ts'
import { Measured, pause } from './process.ts'
import { bundleProgram } from './servers.ts'

const DERPER = path.join(os.homedir(), '.cache', 'meshwright-interop', 'derper@v1.102.5', 'derper')
const PACKET_BYTES = 1_400
/** Handed to the socket at once. */
const FRAMES_PER_WRITE = 32
/** When nothing has arrived for so long, nothing more will. */
const SETTLED_MS = 1_000
/** What a child needs to read TypeScript, whatever runs this file. */
const LOADERS: string[] = ['--conditions=@meshwright/source', '--import', 'tsx']

/** The relays that can be measured. */
export type RelayKind = 'ours' | 'derper'

/** What a flood through a relay came to. Bytes of packets, keys and headers not counted. */
export interface FloodFigures {
  readonly relay: RelayKind
  readonly pairs: number
  readonly seconds: number
  /** What all senders got rid of, as fast as their own TCP let them. */
  readonly sentMegabytesPerSecond: number
  readonly deliveredMegabytesPerSecond: number
  /** Of what was sent. */
  readonly deliveredShare: number
  readonly peakRssMegabytes: number
  /** Memory that the flood added to what the idle relay held, at most. */
  readonly grownMegabytes: number
  readonly relayCpuSeconds: number
}

/** Why a relay cannot be measured here, or `undefined` when it can. */
export function missingRelay(kind: RelayKind): string | undefined {
  return kind === 'derper' && !existsSync(DERPER) ? `no derper at ${DERPER}: "npm run test:interop" installs it` : undefined
}

type Cleanup = () => void | Promise<void>

/** A relay, the receivers behind it in another process, and for each a sender that is connected. What is begun is ended by `cleanups`. */
async function startPairs(kind: RelayKind, pairs: number, cleanups: Cleanup[]): Promise<{ readonly relay: Awaited<ReturnType<typeof startRelay>>['relay']; readonly receivers: ReturnType<typeof startReceivers>; readonly senders: readonly Sender[] }> {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-flood-'))
  cleanups.push(() => rmSync(folder, { recursive: true, force: true }))
  const { relay, port } = await startRelay(kind, folder, cleanups)
  const receivers = startReceivers(port, pairs, cleanups)
  const keys = (await message(receivers)).keys ?? []
  const senders = await Promise.all(keys.map((hex) => Sender.connect(port, hex)))
  cleanups.push(() => senders.forEach((sender) => sender.stop()))
  return { relay, receivers, senders }
}

/** Floods a relay by pairs of clients: each sends to its partner as fast as it can. The receivers are another process. */
export async function measureFlood(kind: RelayKind, pairs: number, seconds: number): Promise<FloodFigures> {
  const cleanups: Cleanup[] = []
  try {
    const { relay, receivers, senders } = await startPairs(kind, pairs, cleanups)
    const idle = relay.rssBytes
    const cpu = relay.cpuSeconds
    const begun = performance.now()
    for (const sender of senders) void sender.flood()
    await pause(seconds * 1000)
    const sent = senders.reduce((sum, sender) => sum + sender.taken, 0)
    receivers.send('count')
    const { received = 0 } = await message(receivers)
    const took = (performance.now() - begun) / 1000
    return {
      relay: kind,
      pairs,
      seconds: took,
      sentMegabytesPerSecond: sent / took / 1e6,
      deliveredMegabytesPerSecond: received / took / 1e6,
      deliveredShare: received / sent,
      peakRssMegabytes: relay.peakRssBytes / 1_048_576,
      grownMegabytes: (relay.peakRssBytes - idle) / 1_048_576,
      relayCpuSeconds: relay.cpuSeconds - cpu,
    }
  } finally {
    for (const cleanup of cleanups.reverse()) await cleanup()
  }
}

/** What a burst through a relay came to: everybody sends so much, and all that will arrive has arrived. No time is measured. */
export interface BurstFigures {
  /** Of what the senders got rid of. */
  readonly deliveredShare: number
  /** Memory that it added to what the idle relay held, at most. */
  readonly grownMegabytes: number
  /** Senders whose TCP made them wait. */
  readonly slowed: number
}

/** As {@link measureFlood}, until every sender is rid of so many bytes and nothing arrives any more. */
export async function measureBurst(kind: RelayKind, pairs: number, bytesEach: number): Promise<BurstFigures> {
  const cleanups: Cleanup[] = []
  try {
    const { relay, receivers, senders } = await startPairs(kind, pairs, cleanups)
    const idle = relay.rssBytes
    await Promise.all(senders.map((sender) => sender.flood(bytesEach)))
    const sent = senders.reduce((sum, sender) => sum + sender.taken, 0)
    let received = -1
    for (let last = -2; received < sent && last < received; ) {
      if (received >= 0) await pause(SETTLED_MS)
      last = received
      receivers.send('count')
      received = (await message(receivers)).received ?? 0
    }
    return { deliveredShare: received / sent, grownMegabytes: (relay.peakRssBytes - idle) / 1_048_576, slowed: senders.filter((sender) => sender.waited).length }
  } finally {
    for (const cleanup of cleanups.reverse()) await cleanup()
  }
}

function startReceivers(port: number, pairs: number, cleanups: (() => void | Promise<void>)[]): ChildProcess {
  const receivers = fork(path.join(import.meta.dirname, 'flood-receivers.ts'), [String(port), String(pairs)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'], execArgv: LOADERS })
  cleanups.push(() => void receivers.kill('SIGKILL'))
  return receivers
}

async function startRelay(kind: RelayKind, folder: string, cleanups: (() => void | Promise<void>)[]): Promise<{ readonly relay: Measured; readonly port: number }> {
  const key = path.join(folder, 'relay.json')
  writeFileSync(key, JSON.stringify({ PrivateKey: NodePrivateKey.generate(systemRandom).formatSecret() }))
  const [port, stun] = [await freePort(), await freePort()]
  if (kind === 'derper') {
    // `-dev` is plain HTTP at the address that is given.
    const relay = new Measured('derper', DERPER, ['-dev', '-c', key, '-a', `127.0.0.1:${port}`, '-http-port', '-1', '-stun-port', String(stun)])
    cleanups.push(() => relay.stop())
    const real = (await listening(relay, port)) ? port : 3340
    return { relay, port: real }
  }
  const { file, remove } = await bundleProgram('examples/relay/src/main.ts', 'relay')
  cleanups.push(remove)
  const profile = process.env['MESHWRIGHT_LOAD_PROFILE']
  const relay = new Measured('our relay', process.execPath, [...NODE_FLAGS, ...(profile === undefined ? [] : ['--cpu-prof', '--cpu-prof-dir', profile]), file, '--key-file', key, '--http', '--addr', `127.0.0.1:${port}`, '--stun-port', '-1'])
  cleanups.push(() => relay.stop())
  if (!(await listening(relay, port))) throw new Error(`our relay does not start: ${relay.log}`)
  return { relay, port }
}

async function listening(relay: Measured, port: number): Promise<boolean> {
  for (let i = 0; i < 50 && relay.alive; i += 1) {
    const answered = await new Promise<boolean>((resolve) => {
      const socket = net.connect(port, '127.0.0.1')
      socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
      socket.once('connect', () => socket.destroy())
    })
    if (answered) return true
    await pause(100)
  }
  return false
}

interface FromReceivers {
  readonly keys?: readonly string[]
  readonly received?: number
}

function message(child: ChildProcess): Promise<FromReceivers> {
  return new Promise((resolve, reject) => {
    child.once('message', (value) => resolve(value as FromReceivers))
    child.once('exit', () => reject(new Error('the receivers ended')))
  })
}

/** A client that has been let in, and then is bytes alone: the machine's own limits are not what is measured. */
export async function joinRelay(port: number, key: NodePrivateKey, dial: () => net.Socket = () => net.connect({ port, host: '127.0.0.1', noDelay: true })): Promise<net.Socket> {
  const socket = dial()
  socket.on('error', () => undefined)
  const client = new DerpClient({ privateKey: key, random: systemRandom, provider: nodeCryptoProvider })
  await new Promise<void>((resolve, reject) => {
    let head = Buffer.alloc(0)
    let upgraded = false
    const driver = drive<DerpClientInput, DerpClientOutput>(client, suspendAwareClock(), (output) => {
      if (output.type === 'write') socket.write(output.bytes)
      else if (output.type === 'connected') {
        driver.stop()
        socket.off('data', onData).off('close', onClose)
        resolve()
      }
    })
    const onClose = (): void => reject(new Error('the relay closed a connection during its handshake'))
    const onData = (bytes: Buffer): void => {
      if (upgraded) return driver.feed({ type: 'bytes', bytes })
      head = Buffer.concat([head, bytes])
      const end = head.indexOf('\r\n\r\n')
      if (end < 0) return
      upgraded = true
      driver.feed({ type: 'opened' })
      if (head.length > end + 4) driver.feed({ type: 'bytes', bytes: head.subarray(end + 4) })
    }
    socket.on('data', onData).once('close', onClose)
    socket.write('GET /derp HTTP/1.1\r\nHost: relay\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n')
  })
  return socket
}

/** Counts what arrives as packets on a connection. */
export function countPackets(socket: net.Socket, onPacket: (bytes: number) => void): void {
  const reader = new FrameReader(() => 1 << 20)
  socket.on('data', (bytes: Buffer) => {
    reader.push(bytes)
    for (let frame = reader.next(); frame !== undefined; frame = reader.next()) if (frame.code === FRAME_RECV_PACKET) onPacket(frame.payload.length - 32)
  })
}

class Sender {
  readonly #socket: net.Socket
  readonly #frames: Uint8Array
  #written = 0
  #waited = false
  #stopped = false

  constructor(socket: net.Socket, to: NodePublicKey) {
    this.#socket = socket
    const frame = encodePacketFrame(FRAME_SEND_PACKET, to.bytes, randomBytes(PACKET_BYTES))
    this.#frames = Buffer.concat(Array.from({ length: FRAMES_PER_WRITE }, () => frame))
  }

  static async connect(port: number, to: string): Promise<Sender> {
    const key = NodePrivateKey.generate(systemRandom)
    const peer = NodePublicKey.parse(`nodekey:${to}`)
    if (peer === undefined) throw new Error('no key')
    const socket = await joinRelay(port, key)
    socket.resume()
    return new Sender(socket, peer)
  }

  /** Bytes of packets that TCP has taken from this sender. */
  get taken(): number {
    const frames = (this.#written - this.#socket.writableLength) / (this.#frames.length / FRAMES_PER_WRITE)
    return Math.max(0, frames) * PACKET_BYTES
  }

  /** Whether its TCP has made it wait: the kernel did not take all that was written, in the turn in which it was. */
  get waited(): boolean {
    return this.#waited
  }

  /** Sends as fast as its TCP takes it; ends when so many bytes of packets have gone out. */
  flood(limit: number = Number.POSITIVE_INFINITY): Promise<void> {
    return new Promise((resolve) => {
      const finished = (): boolean => this.#stopped || (this.#written / this.#frames.length) * FRAMES_PER_WRITE * PACKET_BYTES >= limit
      const more = (): void => {
        while (!finished()) {
          this.#written += this.#frames.length
          if (this.#socket.write(this.#frames)) continue
          // A write of so many bytes says "wait" also when the kernel has taken them all: that is known in the next turn.
          setImmediate(() => (this.#waited ||= this.#socket.writableLength > 0))
          return
        }
        if (this.#socket.writableLength === 0) resolve()
      }
      this.#socket.on('drain', more)
      more()
    })
  }

  stop(): void {
    this.#stopped = true
    this.#socket.destroy()
  }
}
