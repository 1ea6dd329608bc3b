import { concatBytes, DONE, DROPPED, instant, PacketBatch } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { drain, machineLaws, runTimers, SeededRandom, VirtualClock } from '@meshwright/testkit'
import { beforeEach, expect, test } from 'vitest'
import { DerpClient, type DerpClientInput, type DerpClientOptions, type DerpClientOutput, encodeFrame, sealServerInfo } from './index.ts'

const random = new SeededRandom(7)
const serverKey = NodePrivateKey.generate(random.bytes)
const clientKey = NodePrivateKey.generate(random.bytes)
const peer = NodePrivateKey.generate(random.bytes).publicKey()
const greeting = encodeFrame({ type: 'serverKey', key: serverKey.publicKey() })
const serverInfo = (limits: { bytesPerSecond?: number; burstBytes?: number } = {}): Uint8Array =>
  encodeFrame({ type: 'serverInfo', box: sealServerInfo(serverKey, clientKey.publicKey(), { version: 2, ...limits }, random.bytes) ?? new Uint8Array(0) })

let clock: VirtualClock
beforeEach(() => {
  clock = new VirtualClock(1000)
})

function make(options: Partial<DerpClientOptions> = {}): DerpClient {
  return new DerpClient({ privateKey: clientKey, random: new SeededRandom(3).bytes, ...options })
}

function feed(client: DerpClient, input: DerpClientInput): DerpClientOutput[] {
  client.handleInput(clock.now, input)
  return drain(client)
}

function connected(options: Partial<DerpClientOptions> = {}): DerpClient {
  const client = make(options)
  feed(client, { type: 'opened' })
  feed(client, { type: 'bytes', bytes: concatBytes(greeting, serverInfo()) })
  feed(client, { type: 'writable' })
  expect(client.state).toBe('connected')
  return client
}

const written = (outputs: readonly DerpClientOutput[]): number[] => outputs.flatMap((output) => (output.type === 'write' ? [output.bytes[0] ?? 0] : []))

test('it introduces itself when it knows the server, and is connected when the answer opens', () => {
  const client = make({ preferred: true })
  expect(feed(client, { type: 'opened' })).toEqual([])
  expect(written(feed(client, { type: 'bytes', bytes: greeting }))).toEqual([0x02, 0x07])
  const [event] = feed(client, { type: 'bytes', bytes: serverInfo() })
  expect(event).toMatchObject({ type: 'connected', serverInfo: { version: 2 } })
})

test('under fast start it introduces itself at once and passes over the server key', () => {
  const client = make()
  expect(written(feed(client, { type: 'opened', serverKey: serverKey.publicKey() }))).toEqual([0x02])
  expect(feed(client, { type: 'bytes', bytes: concatBytes(greeting, serverInfo()) }).map((each) => each.type)).toEqual(['connected'])
})

test('packets sent before the introduction follow it in order', () => {
  const client = make()
  client.send(clock.now, peer, Uint8Array.of(1))
  client.send(clock.now, peer, Uint8Array.of(2))
  feed(client, { type: 'opened' })
  const outputs = feed(client, { type: 'bytes', bytes: greeting })
  expect(written(outputs)).toEqual([0x02, 0x04, 0x04])
})

test('the first frame must be the server key', () => {
  const client = make()
  feed(client, { type: 'opened' })
  expect(feed(client, { type: 'bytes', bytes: encodeFrame({ type: 'keepAlive' }) })).toEqual([{ type: 'failed', code: 'server-key-invalid' }, { type: 'close' }])
})

test('a server info that does not open ends the connection, whenever it comes', () => {
  const client = connected()
  expect(feed(client, { type: 'bytes', bytes: Uint8Array.of(3, 0, 0, 0, 0) })[0]).toEqual({ type: 'failed', code: 'server-info-invalid' })
})

test('a frame over 1 MiB ends the connection', () => {
  const client = connected()
  expect(feed(client, { type: 'bytes', bytes: Uint8Array.of(5, 0, 0x10, 0, 1) })[0]).toEqual({ type: 'failed', code: 'frame-too-long' })
})

test('a handshake that takes 10 s fails', () => {
  const client = make()
  feed(client, { type: 'opened' })
  expect(runTimers(client, clock, instant(100_000))[0]).toEqual({ at: 11_000, output: { type: 'failed', code: 'handshake-timeout' } })
})

test('120 s of silence end the connection, and every byte starts them anew', () => {
  const client = connected()
  clock.advance(119_000)
  client.handleTimeout(clock.now)
  feed(client, { type: 'bytes', bytes: encodeFrame({ type: 'keepAlive' }) })
  expect(runTimers(client, clock, instant(500_000))[0]).toEqual({ at: 1000 + 119_000 + 120_000, output: { type: 'failed', code: 'silent' } })
})

test('a ping is measured, and fails after 3 s', () => {
  const client = connected()
  client.ping(clock.now)
  const [write] = drain(client)
  if (write?.type !== 'write') throw new Error('no ping')
  clock.advance(25)
  expect(feed(client, { type: 'bytes', bytes: encodeFrame({ type: 'pong', data: write.bytes.slice(5) }) })).toEqual([{ type: 'pong', roundTripMs: 25 }])
  client.ping(clock.now)
  expect(runTimers(client, clock, instant(50_000)).at(-2)).toEqual({ at: 4025, output: { type: 'failed', code: 'ping-timeout' } })
})

test('pings of the server are answered with their first 8 bytes, short ones not', () => {
  const client = connected()
  const outputs = feed(client, {
    type: 'bytes',
    bytes: concatBytes(
      encodeFrame({ type: 'unknown', code: 0x12, payload: new Uint8Array(7) }),
      encodeFrame({ type: 'unknown', code: 0x12, payload: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8, 9, 10) }),
    ),
  })
  expect(outputs).toEqual([{ type: 'write', bytes: encodeFrame({ type: 'pong', data: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8) }) }])
})

test('events of the server come out as they went in', () => {
  const client = connected()
  const frames = [
    encodeFrame({ type: 'recvPacket', source: peer, packet: Uint8Array.of(1, 2) }),
    encodeFrame({ type: 'peerGone', peer, reason: 1 }),
    encodeFrame({ type: 'health', text: 'unwell' }),
    encodeFrame({ type: 'health', text: '' }),
    encodeFrame({ type: 'restarting', reconnectInMs: 1, tryForMs: 2 }),
    encodeFrame({ type: 'unknown', code: 0x7f, payload: new Uint8Array(9) }),
  ]
  const [packet, ...events] = feed(client, { type: 'bytes', bytes: concatBytes(...frames) })
  if (packet?.type !== 'packet') throw new Error('no packet')
  expect(packet.source.equals(peer)).toBe(true)
  expect(Array.from(packet.packet)).toEqual([1, 2])
  expect(events).toEqual([
    { type: 'peerGone', peer, reason: 1 },
    { type: 'health', problem: 'unwell' },
    { type: 'health' },
    { type: 'restarting', reconnectInMs: 1, tryForMs: 2 },
  ])
})

test('packets of one chunk that span it do not overwrite each other', () => {
  const client = connected()
  const frames = [1, 2, 3].map((byte) => encodeFrame({ type: 'recvPacket', source: peer, packet: new Uint8Array(500).fill(byte) }))
  const stream = concatBytes(...frames)
  client.handleInput(clock.now, { type: 'bytes', bytes: stream.slice(0, 300) })
  client.handleInput(clock.now, { type: 'bytes', bytes: stream.slice(300, 800) })
  client.handleInput(clock.now, { type: 'bytes', bytes: stream.slice(800) })
  expect(drain(client).map((each) => each.type === 'packet' && new Set(each.packet))).toEqual([new Set([1]), new Set([2]), new Set([3])])
})

test('a full transport holds packets back, 32 at most, the oldest gives way', () => {
  const client = connected({ windowBytes: 1000 })
  for (let i = 0; i < 50; i += 1) client.send(clock.now, peer, new Uint8Array(500).fill(i))
  expect(written(drain(client))).toHaveLength(2)
  expect(client.stats().dropped['queue-full']).toBe(16)
  const next = feed(client, { type: 'writable' })
  expect(next.map((each) => each.type === 'write' && each.bytes[37])).toEqual([18, 19])
})

test('a limit that the server announces is kept by dropping', () => {
  const client = make()
  feed(client, { type: 'opened', serverKey: serverKey.publicKey() })
  feed(client, { type: 'bytes', bytes: serverInfo({ bytesPerSecond: 1037, burstBytes: 2074 }) })
  const sent = [1, 2, 3].map(() => client.send(clock.now, peer, new Uint8Array(1000)))
  expect(sent).toEqual([true, true, false])
  clock.advance(1000)
  expect(client.send(clock.now, peer, new Uint8Array(1000))).toBe(true)
  expect(client.stats().dropped['rate-limited']).toBe(1)
})

test('the home is told when it changes, and only then', () => {
  const client = connected()
  client.setPreferred(clock.now, false)
  expect(drain(client)).toEqual([])
  client.setPreferred(clock.now, true)
  expect(drain(client)).toEqual([{ type: 'write', bytes: encodeFrame({ type: 'notePreferred', preferred: true }) }])
})

test('after the end nothing is sent and nothing happens', () => {
  const client = connected()
  expect(feed(client, { type: 'closed' })).toEqual([{ type: 'failed', code: 'closed' }])
  expect(client.send(clock.now, peer, Uint8Array.of(1))).toBe(false)
  expect(feed(client, { type: 'closed' })).toEqual([])
  expect(client.pollTimeout()).toBeUndefined()
})

const infoOnce = serverInfo()

test('it keeps the laws of machines', () => {
  const stateOf = (machine: object): string => (machine instanceof DerpClient ? machine.state : '')
  machineLaws<DerpClientInput, DerpClientOutput>({
    make: (source) => new DerpClient({ privateKey: clientKey, random: source.bytes, preferred: true }),
    arbitraryInput: (source) => arbitrary(source),
    exercise: (machine, now, source) => {
      const steps = source.below(4)
      const bytes = (chunk: Uint8Array): void => machine.handleInput(now, { type: 'bytes', bytes: chunk })
      if (steps > 0) machine.handleInput(now, { type: 'opened' })
      if (machine instanceof DerpClient) machine.send(now, peer, source.bytes(50))
      if (steps > 1) bytes(greeting)
      if (steps > 2) bytes(infoOnce)
      if (machine instanceof DerpClient) machine.ping(now)
    },
    stateOf,
    states: ['idle', 'greeting', 'introduced', 'connected', 'closed'],
    seeds: 16,
  })
})

function arbitrary(source: SeededRandom): DerpClientInput {
  const kind = source.below(12)
  if (kind === 0) return { type: 'writable' }
  if (kind === 1 && source.chance(0.1)) return { type: 'closed' }
  if (kind === 2 && source.chance(0.2)) return { type: 'opened' }
  if (kind === 3 && source.chance(0.1)) return { type: 'bytes', bytes: source.bytes(source.below(40)) }
  const code = source.pick([0x01, 0x03, 0x05, 0x06, 0x08, 0x09, 0x12, 0x13, 0x14, 0x15, 0x60])
  return { type: 'bytes', bytes: encodeFrame({ type: 'unknown', code: code === 0x03 && source.chance(0.9) ? 0x06 : code, payload: source.bytes(source.below(70)) }) }
}

/** Sealed packets of some lengths side by side; every fifth slot was dropped. */
function sealed(lengths: readonly number[]): PacketBatch {
  const batch = new PacketBatch(Uint8Array.from({ length: 200_000 }, (_, i) => i & 255), lengths.length)
  let at = 64
  for (const length of lengths) {
    const slot = batch.addSlot(at, length)
    batch.targetLength[slot] = length
    batch.verdict[slot] = slot % 5 === 4 ? DROPPED : DONE
    at += length
  }
  return batch
}

test.each([
  ['with room for all', {}, (client: DerpClient) => client],
  ['with room for some of them', { windowBytes: 5_000 }, (client: DerpClient) => client],
  ['with a full window', { windowBytes: 100 }, (client: DerpClient) => (client.send(clock.now, peer, new Uint8Array(100)), client)],
  ['before the introduction', undefined, (client: DerpClient) => client],
  ['after the end', {}, (client: DerpClient) => (feed(client, { type: 'closed' }), client)],
] as const)('a batch leaves as its packets would one by one: %s', (_name, options, prepare) => {
  const batch = sealed(Array.from({ length: 64 }, (_, i) => 1 + ((i * 37) % 1_300)))
  const [whole, single] = [0, 1].map(() => prepare(options === undefined ? make() : connected(options)))
  if (whole === undefined || single === undefined) throw new Error('no clients')
  let sent = 0
  for (let i = 0; i < batch.count; i += 1) if (batch.verdict[i] === DONE && single.send(clock.now, peer, batch.result(i))) sent += batch.targetLength[i] ?? 0
  expect(whole.sendBatch(clock.now, peer, batch)).toBe(sent)
  const bytes = (client: DerpClient): Uint8Array => concatBytes(...drain(client).flatMap((output) => (output.type === 'write' ? [output.bytes] : [])))
  expect(bytes(whole)).toEqual(bytes(single))
  for (const client of [whole, single]) client.handleInput(clock.now, options === undefined ? { type: 'opened', serverKey: serverKey.publicKey() } : { type: 'writable' })
  expect(bytes(whole).length).toBe(bytes(single).length)
  expect(whole.stats()).toEqual(single.stats())
})

test('what may go to the transport at once is one write', () => {
  const client = connected()
  client.sendBatch(clock.now, peer, sealed([100, 200, 300]))
  expect(drain(client).map((output) => (output.type === 'write' ? output.bytes.length : output.type))).toEqual([600 + 3 * 37])
})

test('a rate limit of the server counts for each packet of a batch', () => {
  const client = make()
  feed(client, { type: 'opened' })
  feed(client, { type: 'bytes', bytes: concatBytes(greeting, serverInfo({ bytesPerSecond: 1_000, burstBytes: 1_000 })) })
  feed(client, { type: 'writable' })
  expect(client.sendBatch(clock.now, peer, sealed([400, 400, 400]))).toBe(800)
  expect(client.stats().dropped['rate-limited']).toBe(1)
})
