import { readFileSync } from 'node:fs'
import path from 'node:path'
import { encodeJson } from '@meshwright/control-protocol'
import { MachinePrivateKey, type MachinePublicKey } from '@meshwright/crypto'
import { type ControlConnection, dialControl, fastCryptoProvider, systemRandom } from '@meshwright/runtime-node/control'
import { outsideFrom } from './outside-from.ts'
import { afterHead, LIAR_ADDRESS, talk, upgradeHead } from './wire.ts'

/** A recorded handshake of a real client and its first records. */
export interface RecordedHandshake {
  readonly initiation: string
  readonly serverStaticPrivate: string
  readonly firstClientRecords: readonly { readonly record: string; readonly plaintext: string }[]
}

/** Handshakes that were recorded with real clients: all with one server key, which a server under test may use. */
export const RECORDED: readonly RecordedHandshake[] = (
  JSON.parse(readFileSync(path.resolve(import.meta.dirname, '../vectors/control/noise.json'), 'utf8')) as readonly RecordedHandshake[]
).filter((each) => each.serverStaticPrivate !== undefined && each.firstClientRecords !== undefined)

/** `privkey:` text of the server key of the recordings. */
export const RECORDED_SERVER_KEY = `privkey:${RECORDED[0]?.serverStaticPrivate ?? ''}`

const initiation = (): Buffer => Buffer.from(RECORDED[0]?.initiation ?? '', 'hex')

/** What a stranger with a key of its own gets as answer to a request inside the channel; `0`: none, the stream was reset. */
export async function ask(connection: ControlConnection, target: string, body: Uint8Array | undefined, method: string = 'POST'): Promise<{ readonly status: number; readonly text: string }> {
  return new Promise((resolve) => {
    const parts: Uint8Array[] = []
    let status = 0
    const finish = (): void => resolve({ status, text: Buffer.concat(parts).toString('utf8', 0, 2_000) })
    const cancel = connection.request({ method, path: target, headers: {}, body }, {
      response: (code) => {
        status = code
      },
      chunk: (bytes) => {
        parts.push(bytes)
        if (target === '/machine/map') {
          finish()
          cancel()
        }
      },
      end: finish,
      failed: finish,
    })
  })
}

/** A connection with a machine key that nobody knows. */
export function stranger(url: string, serverKey: MachinePublicKey, from: string = LIAR_ADDRESS, machineKey: MachinePrivateKey = MachinePrivateKey.generate(systemRandom)): Promise<ControlConnection> {
  return dialControl({ url, serverKey, machineKey, random: systemRandom, provider: fastCryptoProvider(), outside: outsideFrom(from), timeoutMs: 30_000 })
}

/** Heads of requests, and handshakes, of which none may be believed. */
export const BAD_HANDSHAKES: readonly (readonly [string, string | Buffer])[] = [
  ['no upgrade at all', 'POST /ts2021 HTTP/1.1\r\nHost: liar\r\nContent-Length: 0\r\n\r\n'],
  ['another upgrade', 'POST /ts2021 HTTP/1.1\r\nHost: liar\r\nUpgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 0\r\n\r\n'],
  ['no handshake', 'POST /ts2021 HTTP/1.1\r\nHost: liar\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\nContent-Length: 0\r\n\r\n'],
  ['a handshake that is no base64', upgradeHead('%%%')],
  ['an empty initiation', upgradeHead('')],
  ['a truncated initiation', upgradeHead(initiation().subarray(0, 100))],
  ['an initiation that is too long', upgradeHead(Buffer.concat([initiation(), Buffer.alloc(1)]))],
  ['an initiation of 64 KiB', upgradeHead(Buffer.alloc(12_000, 1))],
  ['a flipped bit in the sealed key', upgradeHead(flipped(initiation(), 60))],
  ['a flipped bit in the tag', upgradeHead(flipped(initiation(), 100))],
  ['another version than was sealed', upgradeHead(flipped(initiation(), 1))],
  ['an ephemeral key of zeros', upgradeHead(Buffer.concat([initiation().subarray(0, 5), Buffer.alloc(32), initiation().subarray(37)]))],
  ['an ephemeral key of low order', upgradeHead(Buffer.concat([initiation().subarray(0, 5), Buffer.from('e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800', 'hex'), initiation().subarray(37)]))],
  ['bytes that are no HTTP', Buffer.alloc(4_096, 0xff)],
  ['a header without end', `GET / HTTP/1.1\r\nX: ${'a'.repeat(100_000)}`],
]

/** Replays a recorded handshake and, behind it, the recorded records. Gives what the server wrote behind its 101, and whether it closed. */
export async function replay(port: number, records: readonly Uint8Array[], listenMs: number = 2_000, from: string = LIAR_ADDRESS): Promise<{ readonly bytes: number; readonly closed: boolean }> {
  const { received, closed } = await talk(port, [upgradeHead(initiation()), ...records.map((record) => () => record)], listenMs, from)
  return { bytes: afterHead(received).length, closed }
}

/** Records that no channel takes: too long, of another type, replayed, empty of meaning. */
export const BAD_RECORDS: readonly (readonly [string, Uint8Array])[] = [
  ['recorded records of another session', Buffer.from((RECORDED[0]?.firstClientRecords ?? []).map(({ record }) => record).join(''), 'hex')],
  ['a record of 65,535 bytes', Buffer.concat([Buffer.from([4, 0xff, 0xff]), Buffer.alloc(65_535)])],
  ['a record without a tag', Buffer.from([4, 0, 3, 1, 2, 3])],
  ['an empty record', Buffer.from([4, 0, 0])],
  ['a frame of an unknown type', Buffer.from([9, 0, 1, 0])],
  ['a second initiation', initiation()],
]

/** Bodies of requests that mean nothing, with the paths that they are sent to. None may be answered with 200 and a map, or with 500. */
export function badBodies(nodeKeyOfAnother: string): readonly (readonly [string, string, Uint8Array])[] {
  const own = `nodekey:${'ab'.repeat(32)}`
  const zero = `nodekey:${'0'.repeat(64)}`
  const text = (json: string): Uint8Array => Buffer.from(json)
  return [
    ['no JSON', '/machine/map', text('{')],
    ['an array', '/machine/map', text('[]')],
    ['null', '/machine/map', text('null')],
    ['bytes that are no UTF-8', '/machine/map', Buffer.from([0x22, 0xff, 0xfe, 0x22])],
    ['arrays 100,000 deep', '/machine/map', text('['.repeat(100_000))],
    ['objects 1,000 deep', '/machine/map', text(`{"Version":142,"Hostinfo":${'{"Location":'.repeat(1_000)}1${'}'.repeat(1_001)}`)],
    ['a version that is a text', '/machine/map', encodeJson({ Version: '142', NodeKey: own })],
    ['a version above 2^53', '/machine/map', text(`{"Version":9007199254740993,"NodeKey":"${own}"}`)],
    ['a version of 1e400', '/machine/map', text(`{"Version":1e400,"NodeKey":"${own}"}`)],
    ['a negative version', '/machine/map', text(`{"Version":-1,"NodeKey":"${own}"}`)],
    ['no node key', '/machine/map', encodeJson({ Version: 142, Stream: true })],
    ['an empty node key', '/machine/map', encodeJson({ Version: 142, NodeKey: '' })],
    ['a node key of zeros', '/machine/map', encodeJson({ Version: 142, NodeKey: zero, Stream: true })],
    ['a node key that is a number', '/machine/map', encodeJson({ Version: 142, NodeKey: 7 })],
    ['a node key of another device', '/machine/map', encodeJson({ Version: 142, NodeKey: nodeKeyOfAnother, Stream: true, Compress: 'zstd' })],
    ['endpoints of another device', '/machine/map', encodeJson({ Version: 142, NodeKey: nodeKeyOfAnother, OmitPeers: true, Endpoints: ['127.0.0.1:1'] })],
    ['a node key that nobody has', '/machine/map', encodeJson({ Version: 142, NodeKey: own, Stream: true })],
    ['endpoints that are objects', '/machine/map', text(`{"Version":142,"NodeKey":"${own}","Endpoints":[{}]}`)],
    ['a map request to register', '/machine/register', encodeJson({ Version: 142, Stream: true })],
    ['a registration with a key of zeros', '/machine/register', encodeJson({ Version: 142, NodeKey: zero, Auth: { AuthKey: 'hskey-auth-x' } })],
    ['an auth key of 500 kB', '/machine/register', encodeJson({ Version: 142, NodeKey: own, Auth: { AuthKey: 'k'.repeat(500_000) } })],
    ['a registration of a node of another device', '/machine/register', encodeJson({ Version: 142, NodeKey: nodeKeyOfAnother })],
    ['a logout of a node of another device', '/machine/register', encodeJson({ Version: 142, NodeKey: nodeKeyOfAnother, Expiry: '1970-01-01T00:02:03Z' })],
    ['a followup of nothing', '/machine/register', encodeJson({ Version: 142, NodeKey: nodeKeyOfAnother, Followup: '../../etc/passwd' })],
    ['an SSH question about IDs above 2^53', '/machine/ssh/action/9007199254740993/to/9007199254740993', new Uint8Array(0)],
    ['an SSH question about no IDs', '/machine/ssh/action/__proto__/to/constructor', new Uint8Array(0)],
    ['a feature of another device', '/machine/feature/query', encodeJson({ Feature: 'serve', NodeKey: nodeKeyOfAnother })],
    ['members called __proto__', '/machine/map', text(`{"__proto__":{"Stream":true},"Version":142,"NodeKey":"${own}","constructor":{"prototype":{}}}`)],
    ['a path that climbs', '/machine/../../../etc/passwd', new Uint8Array(0)],
    ['a path of 8 kB', `/machine/${'a'.repeat(8_000)}`, new Uint8Array(0)],
  ]
}

/** A body of 64 MiB, where one has 1 MiB at most. */
export async function endlessBody(url: string, serverKey: MachinePublicKey, target: string): Promise<number> {
  const connection = await stranger(url, serverKey)
  const { status } = await ask(connection, target, Buffer.alloc(67_108_864, 0x20))
  connection.close()
  return status
}

function flipped(bytes: Buffer, at: number): Buffer {
  const copy = Buffer.from(bytes)
  copy[at] = (copy[at] ?? 0) ^ 1
  return copy
}
