import { applyMapResponse } from '@meshwright/control-client'
import {
  decodeC2nRequest,
  decodeC2nResponse,
  decodeDocument,
  decodeInitiation,
  decodeMapRequest,
  decodeMapResponse,
  decodeRegisterRequest,
  decodeRegisterResponse,
  decodeZstdRaw,
  encodeC2nResponse,
  encodeKeepAliveChunk,
  encodeMapChunk,
  encodeZstdRaw,
  MapChunkReader,
  NoiseInitiator,
  parseJson,
} from '@meshwright/control-protocol'
import { formatBase64, utf8Encode } from '@meshwright/core'
import { MachinePrivateKey, nobleProvider } from '@meshwright/crypto'
import { SeededRandom } from '@meshwright/testkit'
import { decodeEarlyHeader, encodeEarlyPayload, encodeErrorFrame, encodeFrame, errorFrameText, TYPE_RECORD } from '../../packages/control-protocol/src/noise-messages.ts'
import { NoiseFrameReader } from '../../packages/control-protocol/src/noise-records.ts'
import { fuzzDecoder } from './fuzz-decoder.ts'

const KEY = `nodekey:${'a1'.repeat(32)}`
const NODE = `{"ID":7,"StableID":"7","Name":"a.b.","User":9007199254740993,"Key":"${KEY}","KeyExpiry":"2026-01-01T00:00:00Z","DiscoKey":"discokey:${'b2'.repeat(32)}","Addresses":["100.64.0.7/32"],"AllowedIPs":null,"Endpoints":["1.2.3.4:5"],"CapMap":{"x":[1,{"y":null}],"z":null},"Hostinfo":{"Services":[{"Proto":"tcp","Port":22}],"NetInfo":{"DERPLatency":{"1-v4":0.01}}}}`
const RESPONSES = [
  `{"Node":${NODE},"Peers":[${NODE}],"PacketFilters":{"base":[{"SrcIPs":["*"],"DstPorts":[{"IP":"*","Ports":{"First":0,"Last":65535}}]}],"*":null}}`,
  '{"PeersChangedPatch":[{"NodeID":7,"Online":true,"LastSeen":"2026-01-01T00:00:00.5+01:00"}],"OnlineChange":{"7":false},"PeersRemoved":[8]}',
  '{"DERPMap":{"Regions":{"900":{"RegionID":900,"Nodes":[{"Name":"900a","HostName":"h"}]}}},"SSHPolicy":{"rules":[{"principals":[{"any":true}],"sshUsers":{"*":"="}}]},"DisplayMessages":{"a":{"Title":"t"},"b":null}}',
].map((text) => utf8Encode(text))
const REQUESTS = [
  `{"Version":142,"NodeKey":"${KEY}","Auth":{"AuthKey":"k"},"Expiry":"0001-01-01T00:00:00Z","NodeKeySignature":null,"Hostinfo":{"OS":"linux"}}`,
  `{"Version":142,"NodeKey":"${KEY}","Stream":true,"Endpoints":["1.2.3.4:5"],"EndpointTypes":[1]}`,
].map((text) => utf8Encode(text))
const machineKey = MachinePrivateKey.generate(new SeededRandom(5).bytes)

fuzzDecoder('JSON with exact integers', [...RESPONSES, utf8Encode('[1e5,-12345678901234567890,"\\u12ab"]')], (bytes) => parseJson(bytes))

fuzzDecoder('MapResponse, and applying it', RESPONSES, (bytes) => {
  const decoded = decodeDocument(decodeMapResponse, bytes)
  if (!decoded.ok) return decoded
  const base = decodeDocument(decodeMapResponse, RESPONSES[0] ?? bytes)
  const map = base.ok ? applyMapResponse(undefined, base.value, 1e12) : undefined
  const next = applyMapResponse(map, decoded.value, 1e12)
  return [decoded, next?.peers.size, next?.packetFilter.length]
})

fuzzDecoder('MapRequest', REQUESTS, (bytes) => decodeDocument(decodeMapRequest, bytes))

fuzzDecoder('RegisterRequest', REQUESTS, (bytes) => decodeDocument(decodeRegisterRequest, bytes))

fuzzDecoder('RegisterResponse', [utf8Encode('{"User":{"ID":1},"AuthURL":"https://x","Error":"","NodeKeyExpired":false}')], (bytes) => decodeDocument(decodeRegisterResponse, bytes))

fuzzDecoder('raw zstd', [encodeZstdRaw(utf8Encode('{"KeepAlive":true}')), Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, 0, 0x58, 0x0b, 0, 0, 0x41)], (bytes) => decodeZstdRaw(bytes, 1_000_000)?.length ?? 'refused')

fuzzDecoder('map stream', [encodeKeepAliveChunk('zstd'), encodeMapChunk(utf8Encode('{}'), 'none')], (bytes) => {
  const reader = new MapChunkReader({ maxFrameBytes: 100_000 })
  const lengths: number[] = []
  for (let at = 0; at < bytes.length; at += 50) {
    reader.push(bytes.slice(at, at + 50))
    for (let next = reader.next(); next !== undefined; next = reader.next()) lengths.push(next.length)
  }
  return [lengths, reader.failure]
})

const initiator = new NoiseInitiator({ provider: nobleProvider, random: new SeededRandom(6).bytes, machineKey, serverKey: machineKey.publicKey(), version: 142 })

fuzzDecoder('Noise initiation', [initiator.initiation], (bytes) => decodeInitiation(bytes) ?? 'refused')

// The parts of the channel behind the handshake, whose key agreement would cost minutes in so many rounds.
fuzzDecoder('Noise frames', [encodeFrame(TYPE_RECORD, new Uint8Array(40)), encodeErrorFrame('too old')], (bytes) => {
  const reader = new NoiseFrameReader()
  const seen: string[] = []
  let whole = true
  for (let at = 0; at < bytes.length && whole; at += 37) {
    whole = reader.push(bytes.slice(at, at + 37), (type, body) => seen.push(`${type}:${body.length}:${type === TYPE_RECORD ? '' : errorFrameText(body)}`) < 100)
  }
  return [seen, whole]
})

fuzzDecoder('early payload header', [encodeEarlyPayload(utf8Encode('{}')).subarray(0, 9)], (bytes) => decodeEarlyHeader(bytes) ?? 'HTTP/2')

const C2N = utf8Encode('POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello')
fuzzDecoder('c2n request', [C2N], (bytes) => decodeC2nRequest({ URL: '', Payload: formatBase64(bytes) }) ?? 'refused')

fuzzDecoder('c2n response', [encodeC2nResponse({ status: 200, reason: 'OK', headers: new Map([['A', 'b']]), body: C2N })], (bytes) => decodeC2nResponse(bytes) ?? 'refused')
