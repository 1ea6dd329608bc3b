import http from 'node:http'
import type { Duplex } from 'node:stream'
import { CAPABILITY_VERSION, formatHandshakeHeader, NOISE_HANDSHAKE_HEADER, NOISE_UPGRADE, NoiseInitiator } from '@meshwright/control-protocol'
import { MachinePrivateKey, type MachinePublicKey } from '@meshwright/crypto'
import { fastCryptoProvider, systemRandom } from '@meshwright/runtime-node/control'
import { type NoiseChannel, NoiseStream } from '../../packages/runtime-node/src/noise-stream.ts'
import { LIAR_ADDRESS } from './wire.ts'

// Liars that shake hands well and then speak HTTP/2 (RFC 9113) as no client does: frame by frame, written by hand.

const DATA = 0
const HEADERS = 1
const PRIORITY = 2
const RST_STREAM = 3
const SETTINGS = 4
const PING = 6
const WINDOW_UPDATE = 8
const CONTINUATION = 9
const END_STREAM = 1
const END_HEADERS = 4
const HEAD_BYTES = 9
const MAX_PAYLOAD = 16_000

/** A frame: length (3 bytes), type, flags, stream (4 bytes), payload. */
export function frame(type: number, flags: number, stream: number, payload: Uint8Array = new Uint8Array(0)): Buffer {
  const head = Buffer.alloc(9)
  head.writeUIntBE(payload.length, 0, 3)
  head[3] = type
  head[4] = flags
  head.writeUInt32BE(stream, 5)
  return Buffer.concat([head, payload])
}

/** The head of a request in HPACK without any dynamic entry. */
function requestHead(target: string, method: 'GET' | 'POST' = 'POST'): Buffer {
  const literal = (nameIndex: number, value: string): Buffer => Buffer.concat([Buffer.from([nameIndex, value.length]), Buffer.from(value)])
  return Buffer.concat([Buffer.from([method === 'GET' ? 0x82 : 0x83, 0x87]), literal(4, target), literal(1, 'unused')])
}

/** A request whose body goes on: its first bytes, spaces, in frames that every receiver takes. */
export function bodyBegun(stream: number, bytes: number): Buffer {
  const parts = [frame(HEADERS, END_HEADERS, stream, requestHead('/machine/map'))]
  for (let left = bytes; left > 0; left -= MAX_PAYLOAD) parts.push(frame(DATA, 0, stream, Buffer.alloc(Math.min(left, MAX_PAYLOAD), 0x20)))
  return Buffer.concat(parts)
}

/** A request that anybody is answered. */
export function whoami(stream: number): Buffer {
  return frame(HEADERS, END_HEADERS | END_STREAM, stream, requestHead('/machine/whoami', 'GET'))
}

/** A channel in which anything may be written. */
export class RawHttp2 {
  /** Streams that the other side has ended (END_STREAM), and the codes of those that it has reset. */
  readonly ended: Set<number> = new Set()
  readonly resets: Map<number, number> = new Map()
  /** What it has sealed so far, a record each. */
  readonly records: readonly Uint8Array[]
  readonly #stream: NoiseStream
  readonly #raw: Duplex
  #unread = Buffer.alloc(0)
  #closed = false
  #received = 0

  constructor(stream: NoiseStream, raw: Duplex, records: readonly Uint8Array[]) {
    this.#stream = stream
    this.#raw = raw
    this.records = records
    stream.on('error', () => stream.destroy())
    stream.once('close', () => (this.#closed = true))
    stream.on('data', (bytes: Buffer) => this.#read(bytes))
    stream.write(Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), frame(SETTINGS, 0, 0)]))
  }

  /** The other side has ended it. */
  get closed(): boolean {
    return this.#closed
  }

  get receivedBytes(): number {
    return this.#received
  }

  #read(bytes: Buffer): void {
    this.#received += bytes.length
    this.#unread = Buffer.concat([this.#unread, bytes])
    for (;;) {
      const length = this.#unread.length < HEAD_BYTES ? Number.POSITIVE_INFINITY : HEAD_BYTES + this.#unread.readUIntBE(0, 3)
      if (length > this.#unread.length) return
      const [type, flags = 0, stream] = [this.#unread[3], this.#unread[4], this.#unread.readUInt32BE(5)]
      if ((type === DATA || type === HEADERS) && (flags & END_STREAM) !== 0) this.ended.add(stream)
      if (type === RST_STREAM) this.resets.set(stream, this.#unread.readUInt32BE(HEAD_BYTES))
      this.#unread = this.#unread.subarray(length)
    }
  }

  /** Writes bytes below the channel: records as somebody between could put them there. */
  inject(bytes: Uint8Array): void {
    if (!this.#raw.destroyed) this.#raw.write(bytes)
  }

  /** Reads nothing more that comes. */
  stopReading(): void {
    this.#stream.pause()
  }

  /** Writes as fast as it is taken, or until it is closed. */
  async write(bytes: Uint8Array): Promise<void> {
    if (this.#closed || this.#stream.destroyed) return
    if (this.#stream.write(bytes)) return
    await new Promise<void>((resolve) => {
      const go = (): void => {
        this.#stream.off('drain', go).off('close', go)
        resolve()
      }
      this.#stream.on('drain', go).on('close', go)
    })
  }

  close(): void {
    this.#stream.destroy()
  }
}

/** Shakes hands, and gives what no HTTP/2 library gives. */
export async function rawHttp2(url: string, serverKey: MachinePublicKey, machineKey: MachinePrivateKey = MachinePrivateKey.generate(systemRandom), from: string = LIAR_ADDRESS): Promise<RawHttp2> {
  const channel = new NoiseInitiator({ provider: fastCryptoProvider(), random: systemRandom, machineKey, serverKey, version: CAPABILITY_VERSION })
  const headers = { Upgrade: NOISE_UPGRADE, Connection: 'upgrade', [NOISE_HANDSHAKE_HEADER]: formatHandshakeHeader(channel.initiation) }
  const raw = await new Promise<Duplex>((resolve, reject) => {
    const request = http.request(new URL('/ts2021', url), { method: 'POST', headers, agent: false, localAddress: from })
    request.once('error', reject)
    request.once('response', (response) => reject(new Error(`status ${String(response.statusCode)}`)))
    request.once('upgrade', (_response, socket, head) => {
      if (head.length > 0) socket.unshift(head)
      resolve(socket)
    })
    request.end()
  })
  const records: Uint8Array[] = []
  const told: NoiseChannel = {
    handleInput: (at, input) => channel.handleInput(at, input),
    handleTimeout: (at) => channel.handleTimeout(at),
    pollTimeout: () => channel.pollTimeout(),
    send: (at, plaintext) => channel.send(at, plaintext),
    pollOutput: () => {
      const output = channel.pollOutput()
      if (output?.type === 'transmit') records.push(output.bytes.slice())
      return output
    },
  }
  const stream = new NoiseStream(raw, told)
  const established = new Promise((resolve, reject) => stream.once('established', resolve).once('error', reject).once('close', () => reject(new Error('closed'))))
  stream.begin(new Uint8Array(0))
  await established
  return new RawHttp2(stream, raw, records)
}

type Flood = (raw: RawHttp2, frames: number) => Promise<void>

/** So many frames as fit in 64 kB or so are written at once. */
async function pour(raw: RawHttp2, frames: number, make: (i: number) => Buffer, begin: Buffer = Buffer.alloc(0)): Promise<void> {
  await raw.write(begin)
  for (let i = 0; i < frames && !raw.closed; ) {
    const parts: Buffer[] = []
    for (let bytes = 0; bytes < 65_536 && i < frames; i += 1) {
      const one = make(i)
      bytes += one.length
      parts.push(one)
    }
    await raw.write(Buffer.concat(parts))
    await new Promise((resolve) => setImmediate(resolve)) // what came back is read in between
  }
}

const stream = (i: number): number => 2 * i + 1

/** Floods by name; those that must end the connection are marked. */
export const FLOODS: readonly (readonly [name: string, ends: boolean, flood: Flood])[] = [
  ['rapid reset: requests taken back at once', true, (raw, frames) => pour(raw, frames, (i) => Buffer.concat([frame(HEADERS, END_HEADERS, stream(i), requestHead('/machine/map')), frame(RST_STREAM, 0, stream(i), Buffer.from([0, 0, 0, 8]))]))],
  ['more streams than are allowed', false, (raw, frames) => pour(raw, Math.min(frames, 5_000), (i) => frame(HEADERS, END_HEADERS, stream(i), requestHead('/machine/register')))],
  ['pings', true, (raw, frames) => pour(raw, frames, (i) => frame(PING, 0, 0, Buffer.from(i.toString(16).padStart(16, '0'), 'hex')))],
  ['pings whose answers nobody reads', true, (raw, frames) => (raw.stopReading(), pour(raw, frames, () => frame(PING, 0, 0, Buffer.alloc(8))))],
  ['settings', true, (raw, frames) => pour(raw, frames, () => frame(SETTINGS, 0, 0, Buffer.from([0, 4, 0, 1, 0, 0])))],
  ['header blocks without end (CONTINUATION)', true, (raw, frames) => pour(raw, frames, () => frame(CONTINUATION, 0, 1, Buffer.alloc(4_000, 0x82)), frame(HEADERS, END_STREAM, 1, requestHead('/')))],
  ['empty continuations', true, (raw, frames) => pour(raw, frames, () => frame(CONTINUATION, 0, 1), frame(HEADERS, END_STREAM, 1, requestHead('/')))],
  [
    'a header entry of 4 kB, named thousands of times (HPACK bomb)',
    false,
    (raw, frames) => {
      // One literal with indexing (index 62 from then on), then blocks of nothing but that index.
      const entry = Buffer.concat([Buffer.from([0x40, 1, 0x78, 0x7f, 0xa1, 0x1e]), Buffer.alloc(4_000, 0x61)])
      const bomb = Buffer.alloc(12_000, 0xbe)
      return pour(raw, Math.min(frames, 500), (i) => frame(HEADERS, END_HEADERS | END_STREAM, stream(i + 1), Buffer.concat([requestHead('/machine/whoami', 'GET'), bomb])), frame(HEADERS, END_HEADERS | END_STREAM, 1, Buffer.concat([requestHead('/machine/whoami', 'GET'), entry])))
    },
  ],
  ['thousands of header fields', false, (raw, frames) => pour(raw, Math.min(frames, 200), (i) => frame(HEADERS, END_HEADERS | END_STREAM, stream(i), Buffer.concat([requestHead('/machine/whoami', 'GET'), ...Array.from({ length: 3_000 }, () => Buffer.from([0x00, 1, 0x78, 1, 0x79]))])))],
  ['empty data frames', false, (raw, frames) => pour(raw, frames, () => frame(DATA, 0, 1), frame(HEADERS, END_HEADERS, 1, requestHead('/machine/map')))],
  ['window updates', false, (raw, frames) => pour(raw, frames, () => frame(WINDOW_UPDATE, 0, 0, Buffer.from([0, 0, 0, 1])))],
  ['a window beyond 2^31', true, (raw) => pour(raw, 3, () => frame(WINDOW_UPDATE, 0, 0, Buffer.from([0x7f, 0xff, 0xff, 0xff])))],
  ['priorities', false, (raw, frames) => pour(raw, frames, (i) => frame(PRIORITY, 0, stream(i), Buffer.from([0, 0, 0, 0, 16])))],
  ['frames of unknown types', false, (raw, frames) => pour(raw, frames, () => frame(0x7a, 0xff, 3, Buffer.alloc(100)))],
  ['a frame longer than allowed', true, (raw) => pour(raw, 1, () => frame(DATA, 0, 1, Buffer.alloc(1_000_000)))],
  ['data for a stream that was never opened', true, (raw) => pour(raw, 10, () => frame(DATA, 0, 99, Buffer.alloc(100)))],
  ['bytes that are no HTTP/2', true, (raw) => pour(raw, 10, () => Buffer.alloc(10_000, 0xff))],
  [
    'a hundred bodies of nearly 1 MiB that do not end',
    false,
    async (raw) => {
      await raw.write(Buffer.concat(Array.from({ length: 100 }, (_, i) => frame(HEADERS, END_HEADERS, stream(i), requestHead('/machine/register')))))
      // The windows of a connection that is answered stay open: what is read is counted, and what is not is not sent.
      await pour(raw, 100 * 60, (i) => frame(DATA, 0, stream(Math.floor(i / 60)), Buffer.alloc(16_000, 0x20)))
    },
  ],
]
