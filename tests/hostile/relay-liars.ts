import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { boxSharedKey, NodePrivateKey, NodePublicKey, sealBox } from '@meshwright/crypto'
import { encodeFrame, sealClientInfo } from '@meshwright/derp'
import { encodeBindingRequest } from '@meshwright/nat-traversal'
import { nodeCryptoProvider, systemRandom } from '@meshwright/runtime-node/relay'
import { relayKeyIn } from './wire.ts'

// What liars say to a relay and to its STUN: shared by the tests, and by who measures what honest clients feel of it.

const FRAME_SEND_PACKET = 4
const FRAME_PING = 0x12
const NONCE_BYTES = 24

/** The head of a frame of a relay: type, and length as it claims. */
export function header(type: number, length: number): Buffer {
  return Buffer.from([type, length >>> 24, (length >>> 16) & 255, (length >>> 8) & 255, length & 255])
}

/** A right introduction to the relay whose first bytes these are, and what is said behind it. */
export function introduction(received: Buffer, more: Uint8Array, key: NodePrivateKey = NodePrivateKey.generate(systemRandom)): Buffer {
  const box = sealClientInfo(key, serverOf(received), { version: 2, canAckPings: false, isProber: false }, systemRandom, nodeCryptoProvider)
  if (box === undefined) throw new Error('no box')
  return Buffer.concat([encodeFrame({ type: 'clientInfo', key: key.publicKey(), box }), more])
}

/** An introduction that is sealed as it should be, and holds this text. */
export function introductionOf(received: Buffer, text: string): Buffer {
  const key = NodePrivateKey.generate(systemRandom)
  const shared = boxSharedKey(key.secretBytes, serverOf(received).bytes, nodeCryptoProvider)
  if (shared === undefined) throw new Error('no key')
  const nonce = systemRandom(NONCE_BYTES)
  const box = Buffer.concat([nonce, sealBox(shared, nonce, Buffer.from(text))])
  return Buffer.from(encodeFrame({ type: 'clientInfo', key: key.publicKey(), box }))
}

function serverOf(received: Buffer): NodePublicKey {
  const server = NodePublicKey.fromBytes(relayKeyIn(received))
  if (server === undefined) throw new Error('the relay has told no key')
  return server
}

/** Sessions that were recorded with real clients and another relay: sealed to a key that this one has not. */
export const RECORDED_SESSIONS: readonly (readonly [string, Buffer])[] = (
  JSON.parse(readFileSync(path.resolve(import.meta.dirname, '../vectors/derp/client-vs-derper.json'), 'utf8')) as readonly { readonly name: string; readonly transcript: readonly { readonly dir: string; readonly hex?: string }[] }[]
).flatMap(({ name, transcript }) => {
  const sent = transcript.filter((each) => each.dir === 'c2s' && each.hex !== undefined).map((each) => Buffer.from(each.hex ?? '', 'hex'))
  return sent.length > 1 && sent[0]?.toString('latin1').startsWith('GET /derp') === true ? [[name, Buffer.concat(sent.slice(1))] as const] : []
})

/** First frames with which nobody is let in. */
export const BAD_INTRODUCTIONS: readonly (readonly [string, Buffer])[] = [
  ['no introduction but a packet', Buffer.concat([header(FRAME_SEND_PACKET, 64), randomBytes(64)])],
  ['an introduction of 4 GiB', header(2, 0xffff_ffff)],
  ['an introduction that is too short', Buffer.concat([header(2, 31), randomBytes(31)])],
  ['an introduction with a key of zeros', Buffer.concat([header(2, 120), Buffer.alloc(120)])],
  ['an introduction with a box of random bytes', Buffer.concat([header(2, 200), randomBytes(200)])],
  ['an introduction of 256 KiB of random bytes', Buffer.concat([header(2, 262_144), randomBytes(262_144)])],
]

/** What stands in introductions that are sealed as they should be, and whether who says it is let in: what is unknown is passed over. */
export const ODD_INTRODUCTIONS: readonly (readonly [name: string, text: string, letIn: boolean])[] = [
  ['members that nobody knows', '{"version":2,"New":[1],"CanAckPings":true,"__proto__":{"IsProber":true},"constructor":7}', true],
  ['a version above 2^53', '{"version":9007199254740993}', false],
  ['a version of 1e400', '{"version":1e400}', false],
  ['a version that is a text', '{"version":"2"}', false],
  ['an array', '[]', false],
  ['no JSON', '{', false],
  ['nothing', '', false],
  ['arrays 7,000 deep', '['.repeat(7_000), false],
  ['a mesh key of zeros, which gives no right', `{"version":2,"meshKey":"${'0'.repeat(64)}"}`, true],
  ['a mesh key that is a number', '{"version":2,"meshKey":7}', false],
]

/** What throws out who has been let in. */
export const BAD_FRAMES: readonly (readonly [string, Buffer])[] = [
  ['a packet of more than 64 KiB', header(FRAME_SEND_PACKET, 65_536 + 33)],
  ['a packet of 4 GiB', header(FRAME_SEND_PACKET, 0xffff_ffff)],
  ['a packet without a whole key', Buffer.concat([header(FRAME_SEND_PACKET, 31), Buffer.alloc(31)])],
  ['watching without the key of the mesh', header(0x10, 0)],
  ['forwarding without it', Buffer.concat([header(0x0a, 65), Buffer.alloc(65)])],
  ['closing another without it', Buffer.concat([header(0x11, 32), Buffer.alloc(32)])],
  ['a home note of two bytes', Buffer.concat([header(7, 2), Buffer.alloc(2)])],
  ['a ping of 7 bytes', Buffer.concat([header(FRAME_PING, 7), Buffer.alloc(7)])],
  ['a ping of 1,001 bytes', Buffer.concat([header(FRAME_PING, 1_001), Buffer.alloc(1_001)])],
]

/** Frames of unknown types, one of them a gigabyte long as it claims. */
export function unknownFrames(bytes: number): Buffer {
  return Buffer.concat([header(0x77, 3), Buffer.alloc(3), header(0x78, 1 << 30), Buffer.alloc(bytes)])
}

/** Pings and packets to nobody, by turns. */
export function pingsAndPackets(count: number): Buffer {
  const [ping, nowhere] = [Buffer.concat([header(FRAME_PING, 8), Buffer.alloc(8)]), Buffer.concat([header(FRAME_SEND_PACKET, 132), randomBytes(132)])]
  return Buffer.concat(Array.from({ length: count }, (_, i) => (i % 2 === 0 ? ping : nowhere)))
}

const WEB_SOCKET = 'GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: derp\r\n'

/** What its HTTP side refuses. */
export const BAD_HEADS: readonly (readonly [string, string | Buffer])[] = [
  ['no HTTP', Buffer.alloc(4_096, 0xfe)],
  ['a header without end', `GET /derp HTTP/1.1\r\nX: ${'a'.repeat(100_000)}`],
  ['a WebSocket without a key', `${WEB_SOCKET}\r\n`],
  ['a WebSocket of another version', `${WEB_SOCKET}Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 7\r\n\r\n`],
  ['an upgrade of another path', 'GET /other HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n'],
]

/** A WebSocket's upgrade, and messages of it that claim 2 MiB and 2^62 bytes. */
export const WEB_SOCKET_HEAD = `${WEB_SOCKET}Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n`
export const WEB_SOCKET_CLAIMS: readonly Buffer[] = ['0000000000200000', '4000000000000000'].map((length) => Buffer.concat([Buffer.from('82ff', 'hex'), Buffer.from(length, 'hex'), Buffer.alloc(4 + 65_536)]))

/** Datagrams that a STUN service does not answer: recorded ones that a real one does not, a request cut at every length and with a bit changed anywhere, and what is too long. */
export function badDatagrams(): readonly Uint8Array[] {
  const recorded = JSON.parse(readFileSync(path.resolve(import.meta.dirname, '../vectors/stun/server-behaviour.json'), 'utf8')) as readonly { readonly request: string; readonly response: string | null }[] // our own recording
  const good = encodeBindingRequest(systemRandom(12))
  return [
    ...recorded.filter((each) => each.response === null).map((each) => Buffer.from(each.request, 'hex')),
    ...Array.from({ length: good.length }, (_, length) => good.subarray(0, length)),
    ...Array.from({ length: good.length }, (_, at) => Uint8Array.from(good, (byte, i) => (i === at ? byte ^ 0x40 : byte))),
    Buffer.concat([good, Buffer.alloc(60_000)]),
    randomBytes(1_400),
  ]
}
