import { concatBytes, formatHex, utf8Encode } from '@meshwright/core'
import { NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import { parseIp } from '@meshwright/ip'
import { SeededRandom } from '@meshwright/testkit'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { decodeFrame, type DerpFrame, encodeFrame, FrameReader, MAX_PACKET_BYTES, openClientInfo, openServerInfo, sealClientInfo, sealServerInfo } from './index.ts'

const key = (byte: number): NodePublicKey => NodePublicKey.fromBytes(new Uint8Array(32).fill(byte)) ?? NodePublicKey.zero()
const ip = parseIp('10.0.0.1')
const ip6 = parseIp('2001:db8::1')
if (ip === undefined || ip6 === undefined) throw new Error('addresses')

const FRAMES: readonly DerpFrame[] = [
  { type: 'serverKey', key: key(1) },
  { type: 'clientInfo', key: key(2), box: new Uint8Array(40).fill(3) },
  { type: 'serverInfo', box: new Uint8Array(40).fill(3) },
  { type: 'sendPacket', destination: key(4), packet: Uint8Array.of(1, 2, 3) },
  { type: 'recvPacket', source: key(5), packet: new Uint8Array(0) },
  { type: 'keepAlive' },
  { type: 'notePreferred', preferred: true },
  { type: 'peerGone', peer: key(6), reason: 1 },
  { type: 'peerPresent', peer: key(7) },
  { type: 'peerPresent', peer: key(7), from: { ip, port: 4660 } },
  { type: 'peerPresent', peer: key(7), from: { ip: ip6, port: 4660 }, flags: 10 },
  { type: 'forwardPacket', source: key(8), destination: key(9), packet: Uint8Array.of(9) },
  { type: 'watchConns' },
  { type: 'closePeer', peer: key(10) },
  { type: 'ping', data: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8) },
  { type: 'pong', data: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8) },
  { type: 'health', text: 'schlecht 🙁' },
  { type: 'restarting', reconnectInMs: 5000, tryForMs: 0xffffffff },
  { type: 'unknown', code: 0x7f, payload: Uint8Array.of(1) },
]

test.each(FRAMES.map((frame) => [frame.type, frame] as const))('%s is read back as it was written', (_type, frame) => {
  const bytes = encodeFrame(frame)
  expect(new DataView(bytes.buffer).getUint32(1)).toBe(bytes.length - 5)
  expect(decodeFrame(bytes[0] ?? 0, bytes.subarray(5))).toEqual(frame)
})

test.each([
  ['a server key with another magic', 0x01, new Uint8Array(40)],
  ['a short client info', 0x02, new Uint8Array(55)],
  ['a short server info', 0x03, new Uint8Array(23)],
  ['a packet without whole key', 0x04, new Uint8Array(31)],
  ['a packet over 64 KiB', 0x04, new Uint8Array(32 + MAX_PACKET_BYTES + 1)],
  ['a preference of two bytes', 0x07, new Uint8Array(2)],
  ['a preference of none', 0x07, new Uint8Array(0)],
  ['a watch request with payload', 0x10, new Uint8Array(1)],
  ['a close request with more than a key', 0x11, new Uint8Array(33)],
  ['a forward without whole keys', 0x0a, new Uint8Array(63)],
  ['a ping of seven bytes', 0x12, new Uint8Array(7)],
])('%s is malformed', (_name, code, payload) => {
  expect(decodeFrame(code, payload)).toBeUndefined()
})

test('a PeerGone without reason means disconnected', () => {
  expect(decodeFrame(0x08, new Uint8Array(32))).toMatchObject({ reason: 0 })
})

test('a packet over 64 KiB is refused to the caller', () => {
  const packet = new Uint8Array(MAX_PACKET_BYTES + 1)
  expect(() => encodeFrame({ type: 'sendPacket', destination: key(1), packet })).toThrow(expect.objectContaining({ code: 'DERP_PACKET_TOO_LARGE' }))
})

test('a stream cut at any borders gives the same frames', () => {
  const stream = concatBytes(...FRAMES.map(encodeFrame))
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: stream.length }), { maxLength: 40 }), (cuts) => {
      const reader = new FrameReader(() => 1 << 20)
      const seen: unknown[] = []
      const borders = [0, ...cuts.sort((a, b) => a - b), stream.length]
      borders.slice(1).forEach((end, i) => {
        reader.push(stream.slice(borders[i], end))
        for (let raw = reader.next(); raw !== undefined; raw = reader.next()) seen.push(decodeFrame(raw.code, raw.payload))
      })
      expect(seen).toEqual(FRAMES)
      expect(reader.pendingBytes).toBe(0)
    }),
    { numRuns: 200 },
  )
})

test('a frame over its limit breaks the stream before a byte of it is kept', () => {
  const reader = new FrameReader((code) => (code === 4 ? 100 : 'skip'))
  reader.push(Uint8Array.of(4, 0, 0, 0, 101, 1, 2, 3))
  expect(reader.next()).toBeUndefined()
  expect(reader.broken).toBe(true)
  reader.push(encodeFrame({ type: 'keepAlive' }))
  expect(reader.next()).toBeUndefined()
  expect(reader.pendingBytes).toBe(0)
})

test('a claimed length costs nothing until bytes arrive, and a skipped frame nothing at all', () => {
  const before = process.memoryUsage().arrayBuffers
  const readers = Array.from({ length: 2000 }, () => {
    const reader = new FrameReader((code) => (code === 4 ? 1 << 20 : 'skip'))
    reader.push(Uint8Array.of(4, 0, 0x10, 0, 0, 1))
    reader.next()
    return reader
  })
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2000 * 8192)
  expect(readers.every((reader) => !reader.broken)).toBe(true)

  const reader = new FrameReader((code) => (code === 6 ? 0 : 'skip'))
  reader.push(Uint8Array.of(0x7f, 0xff, 0xff, 0xff, 0xff))
  for (let i = 0; i < 100; i += 1) {
    reader.push(new Uint8Array(1000))
    expect(reader.next()).toBeUndefined()
    expect(reader.pendingBytes).toBeLessThan(10)
  }
})

test('both introductions open for their receiver alone', () => {
  const random = new SeededRandom(1)
  const client = NodePrivateKey.generate(random.bytes)
  const server = NodePrivateKey.generate(random.bytes)
  const info = { version: 2, canAckPings: true, isProber: true, meshKey: random.bytes(32), appName: 'x' }
  const box = sealClientInfo(client, server.publicKey(), info, random.bytes) ?? new Uint8Array(0)
  expect(openClientInfo(server, client.publicKey(), box)).toEqual(info)
  expect(openClientInfo(client, client.publicKey(), box)).toBeUndefined()
  box[30] = (box[30] ?? 0) ^ 1
  expect(openClientInfo(server, client.publicKey(), box)).toBeUndefined()
  const limits = { version: 2, bytesPerSecond: 1000, burstBytes: 2000 }
  const answer = sealServerInfo(server, client.publicKey(), limits, random.bytes) ?? new Uint8Array(0)
  expect(openServerInfo(client, server.publicKey(), answer)).toEqual(limits)
  expect(sealClientInfo(client, NodePublicKey.zero(), info, random.bytes)).toBeUndefined()
})

test('ClientInfo is, byte for byte, what an independent NaCl makes of it', () => {
  const client = NodePrivateKey.fromBytes(Uint8Array.from({ length: 32 }, (_, i) => i + 1))
  const server = NodePrivateKey.fromBytes(Uint8Array.from({ length: 32 }, (_, i) => 0x80 + i))
  if (client === undefined || server === undefined) throw new Error('keys')
  const nonce = Uint8Array.from({ length: 24 }, (_, i) => 0xc0 + i)
  const box = sealClientInfo(client, server.publicKey(), { version: 2, canAckPings: true, isProber: false }, () => nonce) ?? new Uint8Array(0)
  const frame = encodeFrame({ type: 'clientInfo', key: client.publicKey(), box })
  expect(formatHex(frame)).toBe(
    '020000006807a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7cc0c1c2c3c4c5c6c7c8c9cacbcccdcecf' +
      'd0d1d2d3d4d5d6d7b6f70c46b39e2630ebaecc4bd2a34bbe075e4776002034da187c5d6b1955b79c1e1e66727211a1ce10451da9735a1944',
  )
})

test.each(['{"meshKey":""}', '{"version":"2"}', '[]', 'x', '{"CanAckPings":1}'])('the introduction %s is refused', async (json) => {
  const { boxSharedKey, sealBox } = await import('@meshwright/crypto')
  const random = new SeededRandom(2)
  const client = NodePrivateKey.generate(random.bytes)
  const server = NodePrivateKey.generate(random.bytes)
  const seal = (text: string): Uint8Array => {
    const nonce = random.bytes(24)
    return concatBytes(nonce, sealBox(boxSharedKey(client.secretBytes, server.publicKey().bytes) ?? nonce, nonce, utf8Encode(text)))
  }
  expect(openClientInfo(server, client.publicKey(), seal(json))).toBeUndefined()
  expect(openClientInfo(server, client.publicKey(), seal('{"VERSION":2,"canackpings":true,"meshKey":null,"New":[]}'))).toEqual({
    version: 2,
    canAckPings: true,
    isProber: false,
  })
})
