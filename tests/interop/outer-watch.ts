import { type ChildProcess, spawn } from 'node:child_process'
import { appendFileSync, closeSync, existsSync, openSync, readdirSync, readFileSync, readSync, statSync } from 'node:fs'
import path from 'node:path'
import { type OuterDatagram, PLAINTEXT_MARKER, readFrame, whyNoCapture } from './wireguard-capture.ts'

/** The folder with the captures of a whole run, in its environment. */
export const WATCH_FOLDER = 'MESHWRIGHT_INTEROP_WATCH'

const KEYS_FILE = 'keys'
const START_TIMEOUT_MS = 10_000
// Name service and port mapping are plain by nature.
const FILTER = 'udp and not port 53 and not port 1900 and not port 5351'
const PCAP_HEADER_BYTES = 24
const PCAP_RECORD_BYTES = 16
const PIECE_BYTES = 1 << 23
const TRANSPORT = 4
const SMALLEST_TRANSPORT_BYTES = 32

/**
 * Watches every datagram between the programs of a run: what passes the loopback device, where all of this computer's own addresses are, and
 * the wires of network namespaces. What flows through tunnels is marked, so it must not be seen; nor may a private key, nor the same counter twice.
 */
export class OuterWatch {
  readonly #file: string
  readonly #child: ChildProcess
  #said = ''

  private constructor(file: string, args: readonly string[]) {
    this.#file = file
    this.#child = spawn(args[0] ?? '', [...args.slice(1), '-w', file, '-U', '-B', '65536', '-s', '0', '-Z', 'root', FILTER], { stdio: ['ignore', 'ignore', 'pipe'] })
    this.#child.stderr?.on('data', (chunk) => (this.#said += String(chunk)))
    this.#child.once('error', (error) => (this.#said += error.message))
  }

  /**
   * Begins, if this run is watched.
   * @param at.namespace a network namespace; absent: this one
   * @param at.folder default: that of the run
   */
  static async start(device: string, at: { readonly namespace?: string; readonly folder?: string | undefined }): Promise<OuterWatch | undefined> {
    const { namespace, folder = process.env[WATCH_FOLDER] } = at
    if (folder === undefined) return undefined
    const inside = namespace === undefined ? [] : ['ip', 'netns', 'exec', namespace]
    const watch = new OuterWatch(path.join(folder, `${namespace ?? 'here'}-${device}.pcap`), [...inside, 'tcpdump', '-i', device])
    for (const end = Date.now() + START_TIMEOUT_MS; !watch.#said.includes('listening on'); ) {
      if (Date.now() > end || watch.#child.exitCode !== null) {
        watch.#child.kill('SIGKILL')
        throw new Error(`tcpdump does not begin at ${device}: ${watch.#said}`)
      }
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    return watch
  }

  /** Ends; the frames that the kernel had no room for are written beside the capture. */
  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.#child.once('close', resolve))
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    this.#child.kill('SIGINT')
    await ended
    appendFileSync(`${this.#file}.missed`, /(\d+) packets? dropped by kernel/.exec(this.#said)?.[1] ?? '0')
  }
}

/** Why a run cannot be watched; `undefined` when it can. */
export function whyNoWatch(): string | undefined {
  return process.platform !== 'linux' || process.getuid?.() !== 0 ? 'captures need Linux and root' : whyNoCapture()
}

/** Notes the private keys that the state files of a folder hold, so that they are searched for when the run is over. */
export function noteKeys(folder: string): void {
  const watch = process.env[WATCH_FOLDER]
  if (watch === undefined) return
  const found = new Set<string>()
  for (const file of smallFiles(folder)) for (const key of keysIn(readFileSync(file, 'utf8'))) found.add(key)
  if (found.size > 0) appendFileSync(path.join(watch, KEYS_FILE), `${[...found].join('\n')}\n`)
}

const LARGEST_STATE_BYTES = 1 << 20

function smallFiles(folder: string): readonly string[] {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((each) => each.isFile() && /state|key|profile/i.test(each.name))
    .map((each) => path.join(each.parentPath, each.name))
    .filter((file) => statSync(file).size <= LARGEST_STATE_BYTES)
}

// tailscaled wraps what it stores in base64: once, or twice for profiles.
function keysIn(text: string, depth: number = 0): readonly string[] {
  // All zeros: there is none, as with the former key of a node that never changed it.
  const own = [...text.matchAll(/privkey:(?!0{64})([0-9a-f]{64})/g)].map((match) => match[1] ?? '')
  const wrapped = depth > 1 ? [] : [...text.matchAll(/[A-Za-z0-9+/]{64,}={0,2}/g)].flatMap((match) => keysIn(Buffer.from(match[0], 'base64').toString('latin1'), depth + 1))
  return [...own, ...wrapped]
}

/** What a run's captures show. */
export interface WatchResult {
  readonly datagrams: number
  readonly bytes: number
  /** Transport messages of WireGuard. */
  readonly messages: number
  /** Frames that could not be captured. */
  readonly missed: number
  readonly keys: number
  /** A line for each thing that must not be there; never a secret. */
  readonly findings: readonly string[]
}

/** Reads the captures of a folder. */
export function readWatch(folder: string): WatchResult {
  const file = path.join(folder, KEYS_FILE)
  const keys = existsSync(file) ? [...new Set(readFileSync(file, 'utf8').split('\n').filter((line) => line !== ''))] : []
  const search = new Search([...keys.flatMap((hex) => forms(Buffer.from(hex, 'hex')).map((bytes) => ['a private key', bytes] as const)), ['plaintext', Buffer.from(PLAINTEXT_MARKER.slice(0, 16))]])
  const findings: string[] = []
  const sums = { datagrams: 0, bytes: 0, messages: 0, missed: 0 }
  for (const name of readdirSync(folder).sort()) {
    if (name.endsWith('.missed')) sums.missed += Number(readFileSync(path.join(folder, name), 'utf8'))
    if (!name.endsWith('.pcap')) continue
    const seen = new Map<string, Message>()
    for (const { at: time, from, to, hops, payload } of framesOf(path.join(folder, name))) {
      sums.datagrams += 1
      sums.bytes += payload.length
      const what = search.first(payload)
      if (what !== undefined) findings.push(`${what} from ${from} to ${to} (${name})`)
      for (const at of transportMessages(payload)) {
        sums.messages += 1
        const id = `${from} ${to} ${payload.toString('latin1', at + 4, at + 16)}`
        const message = { begin: payload.toString('latin1', at + 16, at + 32), hops, time }
        const earlier = seen.get(id)
        const told = earlier === undefined ? undefined : cameAgain(earlier, message)
        if (told !== undefined) findings.push(`receiver index ${payload.readUInt32LE(at + 4)} and counter ${payload.readBigUInt64LE(at + 8)} came twice, ${told}, from ${from} to ${to} (${name})`)
        seen.set(id, message)
      }
    }
  }
  return { ...sums, keys: keys.length, findings }
}

/** What is remembered of a transport message. */
interface Message {
  readonly begin: string
  readonly hops: number
  /** Milliseconds since 1970. */
  readonly time: number
}

/** Why a message under the same counter must not be; `undefined` for one that a router has sent out by the wire it came in by: it has fewer hops left. */
function cameAgain(earlier: Message, { begin, hops, time }: Message): string | undefined {
  const isSame = earlier.begin === begin
  if (isSame && hops < earlier.hops) return undefined
  // A datagram that is sent again is bad manners; other bytes under a counter are a broken cipher, or another session under the same index.
  return `with ${isSame ? 'the same' : 'other'} bytes, ${(time - earlier.time).toFixed(3)} ms later, ${earlier.hops} and ${hops} hops left`
}

function forms(key: Buffer): readonly Buffer[] {
  return [key, Buffer.from(key.toString('hex')), Buffer.from(key.toString('base64').replace(/=+$/, ''))]
}

function* framesOf(file: string): Generator<OuterDatagram> {
  const handle = openSync(file, 'r')
  try {
    readSync(handle, Buffer.alloc(PCAP_HEADER_BYTES))
    let [held, at] = [Buffer.alloc(0), 0]
    for (;;) {
      const wanted = PCAP_RECORD_BYTES + (held.length < at + PCAP_RECORD_BYTES ? 0 : held.readUInt32LE(at + 8))
      if (wanted === PCAP_RECORD_BYTES || held.length < at + wanted) {
        const piece = Buffer.allocUnsafe(PIECE_BYTES)
        const read = readSync(handle, piece)
        if (read === 0) return
        held = Buffer.concat([held.subarray(at), piece.subarray(0, read)])
        at = 0
        continue
      }
      const datagram = readFrame(held.readUInt32LE(at) * 1000 + held.readUInt32LE(at + 4) / 1000, held.subarray(at + PCAP_RECORD_BYTES, at + wanted))
      if (datagram !== undefined) yield datagram
      at += wanted
    }
  } finally {
    closeSync(handle)
  }
}

/**
 * Where transport messages begin in a datagram: at its begin, and, when a program handed the kernel many at once, at every multiple of their length.
 * The length is nowhere in the capture: it is the distance at which the same type and receiver index come again, with the next counter.
 */
export function transportMessages(payload: Buffer): readonly number[] {
  if (payload.length < SMALLEST_TRANSPORT_BYTES || payload.readUInt32LE(0) !== TRANSPORT) return []
  const head = payload.subarray(0, 8)
  for (let step = payload.indexOf(head, SMALLEST_TRANSPORT_BYTES); step > 0; step = payload.indexOf(head, step + 1)) {
    if (step % 16 !== 0) continue
    const all = Array.from({ length: Math.ceil(payload.length / step) }, (_, i) => i * step)
    if (all.every((at) => at + SMALLEST_TRANSPORT_BYTES <= payload.length && payload.subarray(at, at + 8).equals(head))) return all
  }
  return [0]
}

/** Looks for many byte strings at once: two bytes by a table, four by a map, then all. */
export class Search {
  readonly #firstTwo = new Uint8Array(1 << 16)
  readonly #byFour = new Map<number, (readonly [string, Buffer])[]>()

  constructor(wanted: readonly (readonly [name: string, bytes: Buffer])[]) {
    for (const [name, bytes] of wanted) {
      if (bytes.length < 16) throw new Error(`${name} is too short to be searched for: random bytes would hold it`)
      this.#firstTwo[bytes.readUInt16LE(0)] = 1
      const four = bytes.readUInt32LE(0)
      this.#byFour.set(four, [...(this.#byFour.get(four) ?? []), [name, bytes]])
    }
  }

  /** What is found first in `bytes`. */
  first(bytes: Buffer): string | undefined {
    for (let at = 0; at + 4 <= bytes.length; at += 1) {
      if (this.#firstTwo[(bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8)] !== 1) continue
      const found = this.#byFour.get(bytes.readUInt32LE(at))?.find(([, wanted]) => bytes.subarray(at, at + wanted.length).equals(wanted))
      if (found !== undefined) return found[0]
    }
    return undefined
  }
}
