import { concatBytes, parseHex, utf8Encode } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import {
  decodeClientInfo, decodeFrame, decodeMetacert, decodeServerInfo, encodeFrame, encodeMetacert, encodeUpgradeResponse, FrameReader, openClientInfo, openServerInfo, sealClientInfo, sealServerInfo,
  UpgradeResponseReader,
} from '@meshwright/derp'
import { parseIp } from '@meshwright/ip'
import { SeededRandom } from '@meshwright/testkit'
import { expect } from 'vitest'
import { fuzzDecoder, fuzzRule } from './fuzz-decoder.ts'

const random = new SeededRandom(21)
const client = NodePrivateKey.generate(random.bytes)
const server = NodePrivateKey.generate(random.bytes)
const peer = client.publicKey()
const ip = parseIp('192.0.2.1')
if (ip === undefined) throw new Error('address')
const empty = new Uint8Array(0)
const clientInfo = sealClientInfo(client, server.publicKey(), { version: 2, canAckPings: true, isProber: false, meshKey: random.bytes(32) }, random.bytes) ?? empty
const serverInfo = sealServerInfo(server, client.publicKey(), { version: 2, bytesPerSecond: 1000 }, random.bytes) ?? empty

const frames = [
  encodeFrame({ type: 'serverKey', key: server.publicKey() }),
  encodeFrame({ type: 'clientInfo', key: peer, box: clientInfo }),
  encodeFrame({ type: 'serverInfo', box: serverInfo }),
  encodeFrame({ type: 'sendPacket', destination: peer, packet: random.bytes(40) }),
  encodeFrame({ type: 'peerGone', peer, reason: 1 }),
  encodeFrame({ type: 'peerPresent', peer, from: { ip, port: 1 }, flags: 1 }),
  encodeFrame({ type: 'forwardPacket', source: peer, destination: server.publicKey(), packet: random.bytes(9) }),
  encodeFrame({ type: 'ping', data: random.bytes(8) }),
  encodeFrame({ type: 'health', text: 'Prüfung' }),
  encodeFrame({ type: 'restarting', reconnectInMs: 1, tryForMs: 2 }),
]

fuzzDecoder('decodeFrame', frames.map((frame) => concatBytes(frame.subarray(0, 1), frame.subarray(5))), (bytes) => decodeFrame(bytes[0] ?? 0, bytes.subarray(1)))

fuzzDecoder('FrameReader', [concatBytes(...frames), ...frames], (bytes) => {
  const reader = new FrameReader((code) => (code < 0x16 ? 1000 : 'skip'))
  const seen: unknown[] = []
  for (let at = 0; at < bytes.length; at += 61) {
    reader.push(bytes.subarray(at, Math.min(at + 61, bytes.length)))
    for (let raw = reader.next(); raw !== undefined; raw = reader.next()) seen.push([raw.code, raw.payload.slice()])
  }
  return { seen, broken: reader.broken, pending: reader.pendingBytes }
})

const CHUNKS = [7, 100, 10_000]
fuzzDecoder('UpgradeResponseReader', [encodeUpgradeResponse(server.publicKey())], (bytes) =>
  CHUNKS.map((size) => {
    const reader = new UpgradeResponseReader()
    for (let at = 0; at < bytes.length; at += size) {
      const outcome = reader.push(bytes.subarray(at, Math.min(at + size, bytes.length)))
      if (outcome !== undefined) return outcome.type
    }
    return 'incomplete'
  }),
)

const metacert = encodeMetacert(server.publicKey(), 1_767_225_600_000, parseHex('302a300506032b6570032100' + '11'.repeat(32)) ?? empty, () => new Uint8Array(64))
fuzzDecoder('decodeMetacert', [metacert], decodeMetacert)

const text = (json: string): Uint8Array => utf8Encode(json)
fuzzDecoder('decodeClientInfo', [text('{"version":2,"CanAckPings":true,"meshKey":null,"AppName":"x"}'), text(`{"meshKey":"${'ab'.repeat(32)}"}`)], decodeClientInfo)
fuzzDecoder('decodeServerInfo', [text('{"version":2,"TokenBucketBytesPerSecond":10,"TokenBucketBytesBurst":20}')], decodeServerInfo)

fuzzRule('boxes of random bytes do not open, whatever their length', () => {
  for (let length = 0; length < 60; length += 1) {
    expect(openClientInfo(server, peer, random.bytes(length))).toBeUndefined()
    expect(openServerInfo(client, server.publicKey(), random.bytes(length))).toBeUndefined()
  }
})
