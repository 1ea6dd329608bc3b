import dgram from 'node:dgram'
import { mkdtempSync, rmSync } from 'node:fs'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import tls from 'node:tls'
import { NodePrivateKey } from '@meshwright/crypto'
import { encodeFrame, encodePacketFrame, FRAME_PING, FRAME_RECV_PACKET, FRAME_SEND_PACKET, FrameReader } from '@meshwright/derp'
import { encodeBindingRequest } from '@meshwright/nat-traversal'
import { systemRandom } from '@meshwright/runtime-node/relay'
import { NODE_FLAGS } from '../../examples/relay/src/node-flags.ts'
import { freePort } from '../interop/lab-process.ts'
import { joinRelay } from './flood.ts'
import { atPace, Attacker, type LiarReport, type LiarResult, measureRounds, NEWCOMER_ADDRESS, PHASE_MS, type Sample, WITH_WHAT_IS_LEFT } from './liar-rounds.ts'
import type { RelayLieKind } from './lies.ts'
import { cpuSecondsOf, Measured, until } from './process.ts'
import type { RelayLiarOrder } from './relay-liar-process.ts'
import { bundleProgram } from './servers.ts'

const PAIRS = 10
const PACKETS_PER_SECOND = 400
const QUESTIONS_PER_SECOND = 200
const PACKET_BYTES = 200
/** What has not come by then is lost. */
const LOST_MS = 2_000
const AGAIN_MS = 100
const KEY_BYTES = 32
/** Where the transaction of a STUN message stands (RFC 8489, section 5). */
const TRANSACTION = { from: 8, to: 20 } as const

/** What is measured. */
export interface RelayLiarOptions {
  readonly halfOpen: number
  readonly kinds: readonly RelayLieKind[]
  readonly perSecond: number | undefined
  /** Whether each kind is also measured with its lies told to another relay, which nobody else uses: what they cost by sharing the machine alone. */
  readonly elsewhere: boolean
  /** The relay has TLS of its own, as honest clients speak it. */
  readonly tls: boolean
  readonly rounds: number
  tell(line: string): void
}

/** Packets of honest clients through our relay, and their questions to its STUN, beside a process that lies. */
export async function measureRelayLiars({ halfOpen, kinds, perSecond, elsewhere, tls: secure, rounds, tell }: RelayLiarOptions): Promise<LiarReport> {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-relay-liars-'))
  const bundled = await bundleProgram('examples/relay/src/main.ts', 'lied-to-relay')
  const start = (name: string, nice: boolean): Promise<LiedTo> => LiedTo.start({ file: bundled.file, keyFile: path.join(folder, `${name}.json`), secure, nice })
  const lied = await start('relay', false)
  const other = elsewhere ? await start('other', true) : undefined
  const { relay, port } = lied
  const attacker = new Attacker<RelayLiarOrder>('relay-liar-process.ts', [String(halfOpen)])
  const dial = (localAddress: string): net.Socket => {
    const socket = net.connect({ port, host: '127.0.0.1', localAddress, noDelay: true })
    return secure ? tls.connect({ socket, host: '127.0.0.1', rejectUnauthorized: false }) : socket
  }
  const pairs: Pair[] = []
  const stun = new StunAsker(lied.stunPort)
  try {
    for (let i = 0; i < PAIRS; i += 1) pairs.push(await Pair.join(port, dial))
    const newcomer = async (): Promise<number> => {
      const begun = performance.now()
      try {
        const socket = await joinRelay(port, NodePrivateKey.generate(systemRandom), () => dial(NEWCOMER_ADDRESS))
        socket.destroy()
        return (performance.now() - begun) / 1000
      } catch (error) {
        tell(error instanceof Error ? error.message : String(error))
        return Number.POSITIVE_INFINITY
      }
    }
    const requests = async (ms: number): Promise<Readonly<Record<string, Sample>>> => {
      const [packets, questions] = await Promise.all([atPace(ms, PACKETS_PER_SECOND, async (i) => pairs[i % pairs.length]?.pass()), atPace(ms, QUESTIONS_PER_SECOND, () => stun.ask())])
      return { packets, STUN: questions }
    }
    const spent = (): readonly number[] => {
      const own = process.cpuUsage()
      return [relay.cpuSeconds, cpuSecondsOf(attacker.pid), (own.user + own.system) / 1_000_000]
    }
    const besideOf = (to: LiedTo) => <T>(kind: RelayLieKind, work: () => Promise<T>): Promise<readonly [T, LiarResult]> =>
      attacker.beside({ kind, ms: PHASE_MS, port: to.port, stunPort: to.stunPort, perSecond }, work)
    const measured = await measureRounds<RelayLieKind>({
      kinds,
      rounds,
      requests,
      newcomer,
      beside: besideOf(lied),
      ...(other !== undefined && { elsewhere: besideOf(other) }),
      spent,
      rssBytes: () => relay.rssBytes,
      tell,
    })
    return { at: `our relay${secure ? ' with TLS' : ''} and its STUN`, halfOpen, perSecond, ...measured }
  } finally {
    attacker.stop()
    stun.close()
    for (const pair of pairs) pair.close()
    await relay.stop()
    await other?.relay.stop()
    bundled.remove()
    rmSync(folder, { recursive: true, force: true })
  }
}

/** A relay of ours as a process, started as its README says. */
class LiedTo {
  readonly relay: Measured
  readonly port: number
  readonly stunPort: number

  private constructor(relay: Measured, port: number, stunPort: number) {
    this.relay = relay
    this.port = port
    this.stunPort = stunPort
  }

  /**
   * With MESHWRIGHT_LOAD_PROFILE, a folder, it leaves a CPU profile there; MESHWRIGHT_LOAD_NODE_FLAGS are more flags for its Node
   * than the README names.
   * @param nice it gets the processor when nobody else wants it
   */
  static async start({ file, keyFile, secure, nice }: { readonly file: string; readonly keyFile: string; readonly secure: boolean; readonly nice: boolean }): Promise<LiedTo> {
    const [port, stunPort] = [await freePort(), await freePort()]
    const [program, ...first] = nice ? [...WITH_WHAT_IS_LEFT, process.execPath] : [process.execPath]
    const words = ['--key-file', keyFile, secure ? '--self-signed' : '--http', '--addr', `127.0.0.1:${port}`, '--stun-port', String(stunPort)]
    const relay = new Measured('our relay', program, [...first, ...nodeFlags(), file, ...words])
    if ((await until(() => relay.log.includes('relay listening'), 20_000)) !== undefined) return new LiedTo(relay, port, stunPort)
    await relay.stop()
    throw new Error(`our relay does not start: ${relay.log}`)
  }
}

function nodeFlags(): readonly string[] {
  const profile = process.env['MESHWRIGHT_LOAD_PROFILE']
  return [...NODE_FLAGS, ...(process.env['MESHWRIGHT_LOAD_NODE_FLAGS'] ?? '').split(' ').filter((flag) => flag !== ''), ...(profile === undefined ? [] : ['--cpu-prof', '--cpu-prof-interval', '200', '--cpu-prof-dir', profile])]
}

/** What is waited for, by a number or a name of its own. */
class Waiting<K> {
  readonly #waiting = new Map<K, () => void>()

  /** @throws Error (the promise rejects with it) when it does not come */
  until(key: K): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(key)
        reject(new Error('lost'))
      }, LOST_MS)
      this.#waiting.set(key, () => {
        clearTimeout(timer)
        resolve()
      })
    })
  }

  came(key: K): void {
    this.#waiting.get(key)?.()
    this.#waiting.delete(key)
  }
}

/** Two honest clients: one sends, the other gets. */
class Pair {
  readonly #from: net.Socket
  readonly #to: net.Socket
  readonly #key: Uint8Array
  readonly #waiting = new Waiting<bigint>()
  #sent = 0n

  private constructor(from: net.Socket, to: net.Socket, key: Uint8Array) {
    this.#from = from
    this.#to = to
    this.#key = key
    const reader = new FrameReader(() => 1 << 20)
    to.on('data', (bytes: Buffer) => {
      reader.push(bytes)
      for (let frame = reader.next(); frame !== undefined; frame = reader.next()) {
        if (frame.code === FRAME_PING) to.write(encodeFrame({ type: 'pong', data: frame.payload.slice() }))
        else if (frame.code === FRAME_RECV_PACKET) this.#waiting.came(Buffer.from(frame.payload).readBigUInt64BE(KEY_BYTES))
      }
    })
    from.resume()
  }

  static async join(port: number, dial: (localAddress: string) => net.Socket): Promise<Pair> {
    const key = NodePrivateKey.generate(systemRandom)
    const to = await joinRelay(port, key, () => dial('127.0.0.1'))
    return new Pair(await joinRelay(port, NodePrivateKey.generate(systemRandom), () => dial('127.0.0.1')), to, key.publicKey().bytes)
  }

  /** Sends a packet; ends when it has arrived. */
  pass(): Promise<void> {
    this.#sent += 1n
    const packet = Buffer.alloc(PACKET_BYTES)
    packet.writeBigUInt64BE(this.#sent, 0)
    const arrived = this.#waiting.until(this.#sent)
    this.#from.write(encodePacketFrame(FRAME_SEND_PACKET, this.#key, packet))
    return arrived
  }

  close(): void {
    this.#from.destroy()
    this.#to.destroy()
  }
}

/** Asks a STUN service for its address, again and again until it is told, as every client of it does: UDP promises nothing (RFC 8489, section 6.2.1). */
class StunAsker {
  readonly #port: number
  readonly #socket = dgram.createSocket('udp4')
  readonly #waiting = new Waiting<string>()

  constructor(port: number) {
    this.#port = port
    this.#socket.on('message', (bytes) => this.#waiting.came(bytes.toString('hex', TRANSACTION.from, TRANSACTION.to)))
  }

  /** Asks; ends when the answer is there. */
  ask(): Promise<void> {
    const transaction = systemRandom(TRANSACTION.to - TRANSACTION.from)
    const answered = this.#waiting.until(Buffer.from(transaction).toString('hex'))
    const send = (): void => this.#socket.send(encodeBindingRequest(transaction), this.#port, '127.0.0.1')
    const again = setInterval(send, AGAIN_MS)
    send()
    return answered.finally(() => clearInterval(again))
  }

  close(): void {
    this.#socket.close()
  }
}
