import { readdir, readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { applyMapResponse, type NetworkMap } from '@meshwright/control-client'
import {
  decodeDocument,
  decodeMapResponse,
  decodeOverTLSPublicKeyResponse,
  decodeRegisterRequest,
  decodeRegisterResponse,
  decodeZstdRaw,
  encodeJson,
  frameMapPayload,
  MapChunkReader,
  type MapResponse,
  NoiseInitiator,
  parseJson,
} from '@meshwright/control-protocol'
import { concatBytes, equalBytes, formatHex, instant, parseBase64, parseHex, utf8Decode } from '@meshwright/core'
import { MachinePrivateKey, MachinePublicKey, nobleProvider } from '@meshwright/crypto'
import { formatPrefix } from '@meshwright/ip'
import { type CaseResult, type Kind, UnknownForm } from '../kind.ts'

type Json = Readonly<Record<string, unknown>>

const MAX_FRAME = 1_000_000
const RECORDED_AT = Date.UTC(2026, 10, 21, 7)

/** Recorded answers of a real headscale: frames decoded and applied, register answers read, a whole Noise session recomputed. */
export const kind: Kind = {
  name: 'headscale',
  defaultPath: 'vectors/headscale',
  copied: true,
  async run(given: string): Promise<readonly CaseResult[]> {
    const files = (await stat(given)).isDirectory() ? (await readdir(given)).map((name) => path.join(given, name)).sort() : [given]
    const results: CaseResult[] = []
    for (const file of files) {
      const name = path.basename(file)
      if (name === 'README.md') continue
      const value = parseJson(await readFile(file, 'utf8'))
      if (name === 'register.json') results.push(...registerCases(record(value)))
      else if (name === 'noise-session.json') results.push(...noiseCases(record(value)))
      else if (name === 'frames-user-node.json') results.push(...frameCases('user', array(value), USER_END))
      else if (name === 'frames-tagged-node.json') results.push(...frameCases('tagged', array(value), TAGGED_END))
      else throw new UnknownForm(file, 'recorded answers of headscale')
    }
    if (results.length === 0) throw new UnknownForm(given, 'recorded answers of headscale')
    return results
  },
}

const USER_END = { 4: { name: 'ts-a.lab.test' }, 6: { name: 'srv2.lab.test', route: '192.168.77.0/24' } }
const TAGGED_END = { 4: { name: 'ts-a.lab.test' }, 5: { name: 'js.lab.test' } }

function registerCases(file: Json): CaseResult[] {
  const results: CaseResult[] = []
  for (const [i, entry] of array(file.key).entries()) {
    const decoded = decodeDocument(decodeOverTLSPublicKeyResponse, String(entry.body))
    const readable = decoded.ok && MachinePublicKey.parse(decoded.value.publicKey)?.isZero === false
    results.push(result('key', `key:${i} ${String(entry.query)}`, readable === (entry.status === 200) ? [] : ['read as the opposite']))
  }
  for (const [i, entry] of array(file.register).entries()) {
    const id = `register:${i} ${String(entry.case)}`
    const body = String(entry.body)
    if (body === 'as above') continue
    const decoded = decodeDocument(decodeRegisterResponse, body)
    results.push(result('register', id, decoded.ok ? lost(parseJson(body), decoded.value) : [`${decoded.path}: ${decoded.problem}`]))
  }
  return results
}

function frameCases(who: string, entries: readonly Json[], end: Readonly<Record<number, { name: string; route?: string }>>): CaseResult[] {
  const results: CaseResult[] = []
  // The second poll of the same node, which asked for no compression, is a stream of its own.
  const streams = new Map<string, { map: NetworkMap | undefined; problems: string[] }>()
  for (const [i, entry] of entries.entries()) {
    if (entry.json === undefined) continue
    const id = `${who}:${i} ${String(entry.action)}`
    const decoded = decodeMapResponse(entry.json)
    if (!decoded.ok) {
      results.push(result('frames', id, [`${decoded.path}: ${decoded.problem}`]))
      continue
    }
    results.push(result('frames', id, [...lost(entry.json, decoded.value), ...payloadProblems(entry)]))
    const stream = typeof entry.plainBase64 === 'string' ? 'second poll' : 'first poll'
    const state = streams.get(stream) ?? { map: undefined, problems: [] }
    streams.set(stream, state)
    const before = state.map
    const snapshot = describe(before)
    state.map = applyMapResponse(before, decoded.value, RECORDED_AT)
    if (describe(before) !== snapshot) state.problems.push(`frame ${i} changed an older map`)
    if (applyMapResponse(state.map, { ...decoded.value, Peers: [] }, RECORDED_AT) !== state.map) state.problems.push(`frame ${i} is not idempotent`)
  }
  for (const [name, { map, problems }] of streams) results.push(result('deltas', `${who} ${name}`, [...problems, ...endProblems(map, end)]))
  return results
}

// What `json` says must be what stands in the frame. Compressed blocks are no business of the pure decoder: it must refuse them.
function payloadProblems(entry: Json): string[] {
  const plain = typeof entry.plainBase64 === 'string' ? parseBase64(entry.plainBase64) : undefined
  const zstd = typeof entry.zstdBase64 === 'string' ? parseBase64(entry.zstdBase64) : undefined
  const payload = plain ?? zstd
  if (payload === undefined) return ['no payload']
  const reader = new MapChunkReader({ maxFrameBytes: MAX_FRAME })
  reader.push(frameMapPayload(payload))
  const document = reader.next()
  if (document === undefined) return zstd !== undefined && hasCompressedBlock(zstd) && reader.failure === 'zstd' ? [] : ['not unpacked']
  if (zstd !== undefined && decodeZstdRaw(zstd, document.length - 1) !== undefined) return ['longer than its bound']
  return JSON.stringify(parseJson(document)) === JSON.stringify(entry.json) ? [] : ['differs from its json']
}

function hasCompressedBlock(frame: Uint8Array): boolean {
  const descriptor = frame[4] ?? 0
  const single = (descriptor & 0x20) !== 0
  const header = 5 + (single ? 0 : 1) + ([0, 1, 2, 4][descriptor & 3] ?? 0) + ([single ? 1 : 0, 2, 4, 8][descriptor >> 6] ?? 0)
  return (((frame[header] ?? 0) >> 1) & 3) === 2
}

function endProblems(map: NetworkMap | undefined, end: Readonly<Record<number, { name: string; route?: string }>>): string[] {
  if (map === undefined) return ['no map']
  const problems: string[] = []
  if ([...map.peers.keys()].join() !== Object.keys(end).join()) problems.push(`peers ${[...map.peers.keys()].join()}`)
  for (const [id, wanted] of Object.entries(end)) {
    const peer = map.peers.get(Number(id))
    if (peer?.name !== wanted.name) problems.push(`peer ${id} is ${peer?.name}`)
    if (peer?.online !== true) problems.push(`peer ${id} is not online`)
    if (wanted.route !== undefined && peer?.allowedIps.map(formatPrefix).includes(wanted.route) !== true) problems.push(`peer ${id} lacks ${wanted.route}`)
    if (peer !== undefined && map.peersByKey.get(peer.nodeKey.text) !== peer) problems.push(`peer ${id} is not found by its key`)
  }
  return problems
}

function noiseCases(vector: Json): CaseResult[] {
  const machineKey = MachinePrivateKey.fromBytes(hex(vector.machinePrivate)) ?? MachinePrivateKey.generate(() => new Uint8Array(32))
  const client = new NoiseInitiator({
    provider: nobleProvider,
    random: () => hex(vector.clientEphemeralPrivate),
    machineKey,
    serverKey: MachinePublicKey.fromBytes(hex(vector.serverPublic)) ?? MachinePublicKey.zero(),
    version: Number(vector.capver),
  })
  const now = instant(0)
  const [request, ...sent] = streamOf(vector, 'c2s')
  const received = concatBytes(...streamOf(vector, 's2c'))
  const head = Buffer.from(received).indexOf('\r\n\r\n') + 4
  const initiation = /X-Tailscale-Handshake: (\S+)/.exec(utf8Decode(request ?? new Uint8Array(0)))?.[1] ?? ''
  const results: CaseResult[] = [result('noise', 'initiation', formatHex(parseBase64(initiation) ?? new Uint8Array(0)) === formatHex(client.initiation) ? [] : ['differs'])]

  client.handleInput(now, { type: 'received', bytes: received.subarray(head) })
  const plain: Uint8Array[] = []
  const problems: string[] = []
  let early = ''
  for (let output = client.pollOutput(); output !== undefined; output = client.pollOutput()) {
    if (output.type === 'data') plain.push(output.bytes)
    if (output.type === 'early') early = utf8Decode(encodeJson(output.payload))
    if (output.type === 'failed') problems.push(output.message)
  }
  results.push(result('noise', 'records of the server', problems))
  results.push(result('noise', 'early payload', early === vector.earlyPayload ? [] : [early]))

  // The client's records: opened with the recorded key, sealed again by us, and the same bytes must come out.
  const records = concatBytes(...sent)
  const own: string[] = []
  const requests: Uint8Array[] = []
  for (let at = 0, counter = 0; at + 3 <= records.length; counter += 1) {
    const length = (records[at + 1] ?? 0) * 256 + (records[at + 2] ?? 0)
    const record = records.subarray(at, at + 3 + length)
    if (record.length < 3 + length) break // the recording ends within a record
    const nonce = new Uint8Array(12)
    new DataView(nonce.buffer).setBigUint64(4, BigInt(counter), false)
    const plaintext = nobleProvider.aeadOpen(hex(vector.c2sKey), nonce, record.subarray(3)) ?? new Uint8Array(0)
    requests.push(plaintext)
    client.send(now, plaintext)
    const output = client.pollOutput()
    if (output?.type !== 'transmit' || !equalBytes(output.bytes, record)) own.push(`record ${counter}`)
    at += 3 + length
  }
  results.push(result('noise', `${requests.length} records of the client`, requests.length > 0 ? own : ['none']))

  const answers = dataByStream(concatBytes(...plain))
  const bodies = dataByStream(concatBytes(...requests).subarray(24)) // behind the connection preface
  const registration = [...bodies].find(([, body]) => decodeDocument(decodeRegisterRequest, body).ok && utf8Decode(body).includes('"Auth"'))
  const answer = registration && answers.get(registration[0])
  results.push(result('noise', 'the registration inside', answer !== undefined && decodeDocument(decodeRegisterResponse, answer).ok ? [] : ['not found']))
  return results
}

/** The DATA frames of an HTTP/2 connection, joined for each stream (RFC 9113 section 4.1); no padding is expected. */
function dataByStream(bytes: Uint8Array): Map<number, Uint8Array> {
  const streams = new Map<number, Uint8Array>()
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  for (let at = 0; at + 9 <= bytes.length; ) {
    const length = view.getUint16(at) * 256 + view.getUint8(at + 2)
    const stream = view.getUint32(at + 5) & 0x7fffffff
    if (view.getUint8(at + 3) === 0) streams.set(stream, concatBytes(streams.get(stream) ?? new Uint8Array(0), bytes.subarray(at + 9, at + 9 + length)))
    at += 9 + length
  }
  return streams
}

function streamOf(vector: Json, dir: string): Uint8Array[] {
  return array(vector.transcript).filter((chunk) => chunk.dir === dir).map((chunk) => hex(chunk.hex))
}

function lost(before: unknown, decoded: MapResponse | object): string[] {
  const difference = firstDifference(before, parseJson(encodeJson(decoded)), '')
  return difference === undefined ? [] : [`lost or changed: ${difference}`]
}

function firstDifference(before: unknown, after: unknown, at: string): string | undefined {
  if (Array.isArray(before)) {
    if (!Array.isArray(after) || after.length !== before.length) return at
    return before.map((item, i) => firstDifference(item, after[i], `${at}[${i}]`)).find((found) => found !== undefined)
  }
  if (typeof before !== 'object' || before === null) return before === after ? undefined : at
  for (const [name, value] of Object.entries(before)) {
    const found = value === null ? undefined : firstDifference(value, record(after)[name], `${at}.${name}`)
    if (found !== undefined) return found
  }
  return undefined
}

function describe(map: NetworkMap | undefined): string {
  return map === undefined ? '' : JSON.stringify([map.self.wire, [...map.peers.values()].map((peer) => peer.wire), map.packetFilter, map.dns, [...map.users], map.ssh])
}

function result(group: string, id: string, problems: readonly string[]): CaseResult {
  return { group, id, passed: problems.length === 0, ...(problems.length > 0 && { detail: problems.join('; ') }) }
}

function hex(text: unknown): Uint8Array {
  return parseHex(String(text)) ?? new Uint8Array(0)
}

function record(value: unknown): Json {
  return typeof value === 'object' && value !== null ? Object.fromEntries(Object.entries(value)) : {}
}

function array(value: unknown): Json[] {
  return Array.isArray(value) ? value.map(record) : []
}
