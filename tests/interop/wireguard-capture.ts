import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'

/** Stands in everything that tests send through tunnels, or its first 16 letters do: whoever reads it outside has read plaintext. */
export const PLAINTEXT_MARKER = 'meshwright plain text, never outside'

const START_TIMEOUT_MS = 60_000
// More would take memory for each frame, and the kernel would drop some.
const LONGEST_FRAME_BYTES = 2048
const PCAP_MAGIC = 0xa1b2c3d4
const PCAP_HEADER_BYTES = 24
const PCAP_RECORD_BYTES = 16
const ETHERNET_BYTES = 14
const IPV4 = 0x0800
const IPV6 = 0x86dd
const UDP = 17
const FRAGMENT_OFFSET = 0x1fff

/** Why nothing can be captured; `undefined` when it can. */
export function whyNoCapture(): string | undefined {
  return spawnSync('tcpdump', ['--version']).status === 0 ? undefined : 'tcpdump is not installed (Debian package tcpdump)'
}

/** A datagram on the line. */
export interface OuterDatagram {
  /** Milliseconds since 1970. */
  readonly at: number
  /** Of the Ethernet frame, in hexadecimal: tells directions apart, whatever the addresses. */
  readonly fromMac: string
  /** Time to live, or hop limit. */
  readonly hops: number
  /** `192.0.2.1:51820` or `[2001:db8:0:…]:51820`; IPv6 in full length. */
  readonly from: string
  readonly to: string
  readonly payload: Buffer
}

/** Makes an interface of a namespace send each datagram in a frame of its own: programs hand the kernel many at once. */
export function sendOneByOne(namespace: string, device: string): void {
  execFileSync('ip', ['-n', namespace, 'link', 'set', device, 'gso_max_segs', '1'])
}

/** Records all frames of an interface into a file, by the system's tcpdump. The frames must be short: see {@link sendOneByOne}. */
export class Capture {
  readonly file: string
  readonly #child: ChildProcess
  #said = ''

  private constructor(file: string, child: ChildProcess) {
    this.file = file
    this.#child = child
    child.stderr?.on('data', (chunk) => (this.#said += String(chunk)))
  }

  /** Begins; resolves once frames are recorded. `filter` is one of tcpdump's, for noise that the test itself makes. */
  static async start(namespace: string, device: string, file: string, filter: string = ''): Promise<Capture> {
    const args = ['netns', 'exec', namespace, 'tcpdump', '-i', device, '-w', file, '-U', '--immediate-mode', '-B', '32768', '-s', String(LONGEST_FRAME_BYTES), '-Z', 'root', ...(filter === '' ? [] : [filter])]
    const capture = new Capture(file, spawn('ip', args, { stdio: ['ignore', 'ignore', 'pipe'] }))
    const end = Date.now() + START_TIMEOUT_MS
    while (!capture.#said.includes('listening on')) {
      if (Date.now() > end || capture.#child.exitCode !== null) {
        capture.kill()
        throw new Error(`tcpdump does not begin: ${capture.#said}`)
      }
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    return capture
  }

  /** What was recorded until now. */
  datagrams(): readonly OuterDatagram[] {
    return existsSync(this.file) ? readDatagrams(readFileSync(this.file)) : []
  }

  /** Ends, and gives what must not be there: see {@link findLeaks}. A capture with holes is a finding too. */
  async finish(secrets: ReadonlyMap<string, Uint8Array>): Promise<readonly string[]> {
    const ended = new Promise((resolve) => this.#child.once('close', resolve))
    if (this.#child.exitCode === null) {
      this.#child.kill('SIGINT')
      await ended
    }
    const bytes = readFileSync(this.file)
    const dropped = Number(/(\d+) packets? dropped by kernel/.exec(this.#said)?.[1] ?? Number.NaN)
    return [...(dropped === 0 ? [] : [`the capture has holes: ${dropped} frames`]), ...findLeaks(bytes, secrets)]
  }

  /** Ends without a look. */
  kill(): void {
    this.#child.kill('SIGKILL')
  }
}

/**
 * Searches a capture for what must never be outside: each secret's bytes (raw, in hexadecimal, in base64), the plaintext marker, and two
 * transport messages of one direction with the same receiver index and counter. Gives a line for each finding; never a secret.
 * @param secrets by what they are called in findings
 */
export function findLeaks(pcap: Buffer, secrets: ReadonlyMap<string, Uint8Array>): readonly string[] {
  const found: string[] = []
  if (pcap.length < PCAP_HEADER_BYTES || pcap.readUInt32LE(0) !== PCAP_MAGIC) return ['the capture is not readable']
  for (const [name, bytes] of secrets) {
    if (bytes.length < 16) throw new Error(`${name} is too short to be searched for: random bytes would hold it`)
    const raw = Buffer.from(bytes)
    const forms = [raw, Buffer.from(raw.toString('hex')), Buffer.from(raw.toString('hex').toUpperCase()), Buffer.from(raw.toString('base64').replace(/=+$/, ''))]
    if (forms.some((form) => pcap.includes(form))) found.push(`${name} is on the wire`)
  }
  if (pcap.includes(PLAINTEXT_MARKER.slice(0, 16))) found.push('plaintext is on the wire')
  for (const { length, captured } of frameLengths(pcap)) if (length !== captured) found.push(`only ${captured} of the ${length} bytes of a frame were captured`)
  const seen = new Set<string>()
  for (const { fromMac, payload, to } of readDatagrams(pcap)) {
    if (payload.length < 32 || payload.readUInt32LE(0) !== 4) continue
    const name = `${fromMac} ${payload.toString('hex', 4, 16)}`
    if (seen.has(name)) found.push(`receiver index ${payload.readUInt32LE(4)} and counter ${payload.readBigUInt64LE(8)} came twice, to ${to}`)
    seen.add(name)
  }
  return found
}

/** The UDP datagrams of a capture of Ethernet frames; fragments and everything else are passed over. */
export function readDatagrams(pcap: Buffer): readonly OuterDatagram[] {
  const datagrams: OuterDatagram[] = []
  for (let at = PCAP_HEADER_BYTES; at + PCAP_RECORD_BYTES <= pcap.length; ) {
    const length = pcap.readUInt32LE(at + 8)
    const frame = pcap.subarray(at + PCAP_RECORD_BYTES, at + PCAP_RECORD_BYTES + length)
    if (frame.length < length) break // still being written
    const datagram = readFrame(pcap.readUInt32LE(at) * 1000 + pcap.readUInt32LE(at + 4) / 1000, frame)
    if (datagram !== undefined) datagrams.push(datagram)
    at += PCAP_RECORD_BYTES + length
  }
  return datagrams
}

function frameLengths(pcap: Buffer): readonly { readonly length: number; readonly captured: number }[] {
  const lengths: { readonly length: number; readonly captured: number }[] = []
  for (let at = PCAP_HEADER_BYTES; at + PCAP_RECORD_BYTES <= pcap.length; at += PCAP_RECORD_BYTES + pcap.readUInt32LE(at + 8)) {
    lengths.push({ captured: pcap.readUInt32LE(at + 8), length: pcap.readUInt32LE(at + 12) })
  }
  return lengths
}

/** The datagram of an Ethernet frame; `undefined` for everything else, and for fragments but the first. */
export function readFrame(at: number, frame: Buffer): OuterDatagram | undefined {
  if (frame.length < ETHERNET_BYTES + 28) return undefined
  const type = frame.readUInt16BE(12)
  const packet = frame.subarray(ETHERNET_BYTES)
  const four = type === IPV4 && packet[9] === UDP
  if (!four && !(type === IPV6 && packet.length >= 48 && packet[6] === UDP)) return undefined
  if (four && (packet.readUInt16BE(6) & FRAGMENT_OFFSET) !== 0) return undefined
  const udp = packet.subarray(four ? ((packet[0] ?? 0) & 15) * 4 : 40)
  if (udp.length < 8) return undefined
  const address = (from: number): string => (four ? packet.subarray(from, from + 4).join('.') : `[${packet.toString('hex', from, from + 16).replace(/(.{4})(?=.)/g, '$1:')}]`)
  const [source, destination] = four ? [12, 16] : [8, 24]
  return {
    at,
    fromMac: frame.toString('hex', 6, 12),
    hops: packet[four ? 8 : 7] ?? 0,
    from: `${address(source)}:${udp.readUInt16BE(0)}`,
    to: `${address(destination)}:${udp.readUInt16BE(2)}`,
    payload: udp.subarray(8, udp.readUInt16BE(4)),
  }
}
