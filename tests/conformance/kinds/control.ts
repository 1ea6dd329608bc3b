import { readdir, readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import {
  decodeC2nRequest,
  decodeC2nResponse,
  type Decoded,
  decodeHealthChangeRequest,
  decodeMapRequest,
  decodeMapResponse,
  decodePingResponse,
  decodeQueryFeatureRequest,
  decodeRegisterRequest,
  decodeSetDNSRequest,
  encodeC2nResponse,
  encodeJson,
  type JsonDecoder,
  mapRequestKind,
  type MapRequest,
  NoiseResponder,
  parseHandshakeHeader,
  parseJson,
  parseTime,
  type RegisterRequest,
} from '@meshwright/control-protocol'
import { equalBytes, formatBase64, formatHex, instant, parseHex, utf8Encode } from '@meshwright/core'
import { MachinePrivateKey, nobleProvider } from '@meshwright/crypto'
import { type CaseResult, type Kind, UnknownForm } from '../kind.ts'

type Json = Readonly<Record<string, unknown>>

/** Recorded traffic of real clients: every handshake recomputed, every body decoded and written again without loss. */
export const kind: Kind = {
  name: 'control',
  defaultPath: 'vectors/control',
  copied: true,
  async run(given: string): Promise<readonly CaseResult[]> {
    const files = (await stat(given)).isDirectory() ? (await readdir(given)).map((name) => path.join(given, name)).sort() : [given]
    const results: CaseResult[] = []
    for (const file of files) {
      const name = path.basename(file)
      if (name === 'noise.json') results.push(...array(await load(file)).map(noiseCase))
      else if (name === 'c2n.json') results.push(...array(await load(file)).map(c2nCase))
      else if (name === 'misc.jsonl') results.push(...(await lines(file)).map(miscCase))
      else if (name === 'cases.json') results.push(...(await indexedCases(file)))
      else if (name.startsWith('session-')) results.push(...(await lines(file)).flatMap((line, i) => sessionCase(line, `${name}:${i + 1}`)))
      else if (name !== 'README.md') throw new UnknownForm(file, 'a file of recorded control traffic')
    }
    if (results.length === 0) throw new UnknownForm(given, 'recorded control traffic')
    return results
  },
}

function noiseCase(vector: Json, index: number): CaseResult {
  const server = MachinePrivateKey.fromBytes(hex(vector.serverStaticPrivate)) ?? MachinePrivateKey.generate(() => new Uint8Array(32))
  const responder = new NoiseResponder({ provider: nobleProvider, random: () => hex(vector.responderEphemeralPrivate), machineKey: server, earlyPayload: false })
  const now = instant(0)
  const header = headerOf(vector.request, 'X-Tailscale-Handshake')
  responder.handleInput(now, { type: 'initiation', bytes: parseHandshakeHeader(header) ?? new Uint8Array(0) })
  const problems: string[] = []
  if (header !== formatBase64(hex(vector.initiation))) problems.push('header and initiation differ')
  for (let output = responder.pollOutput(); output !== undefined; output = responder.pollOutput()) {
    if (output.type === 'transmit' && formatHex(output.bytes) !== vector.response) problems.push('response')
    if (output.type === 'failed') problems.push(output.message)
    if (output.type !== 'established') continue
    if (output.machineKey.text !== vector.clientMachinePublic) problems.push('client key')
    if (output.version !== vector.capver) problems.push('version')
    if (formatHex(output.handshakeHash) !== vector.handshakeHash) problems.push('handshake hash')
  }
  for (const record of array(vector.firstClientRecords)) {
    responder.handleInput(now, { type: 'received', bytes: hex(record.record) })
    const output = responder.pollOutput()
    if (output?.type !== 'data' || formatHex(output.bytes) !== record.plaintext) problems.push('record')
  }
  return result('noise', `noise:${index}`, problems)
}

function c2nCase(vector: Json, index: number): CaseResult {
  const id = `c2n:${index} ${String(vector.client)} ${String(vector.type)} ${String(vector.name)}`
  const answer = String(vector.answer)
  if (vector.type !== 'c2n') {
    if (vector.method === 'HEAD') return result('pings', id, answer === '' ? [] : ['a HEAD has no body'])
    return result('pings', id, roundTrip(decodePingResponse, parseJson(answer)))
  }
  const request = decodeC2nRequest({ URL: '', Types: 'c2n', Payload: formatBase64(utf8Encode(String(vector.payload))) })
  const [first = '', , body] = /^([^\r]*)\r\n[\s\S]*?\r\n\r\n([\s\S]*)$/.exec(String(vector.payload))?.slice(1, 4) ?? []
  const problems: string[] = []
  if (request === undefined || `${request.method} ${request.path} HTTP/1.1` !== first) problems.push('request line')
  if (body !== undefined && request && Buffer.from(request.body).toString() !== body) problems.push('request body')
  const response = decodeC2nResponse(utf8Encode(answer))
  if (response === undefined) return result('c2n', id, [...problems, 'the answer is not read'])
  if (!answer.startsWith(`HTTP/1.1 ${response.status} ${response.reason}\r\n`)) problems.push('status line')
  if (!answer.endsWith(Buffer.from(response.body).toString())) problems.push('answer body')
  // What we write must be read alike by whoever reads theirs.
  const again = decodeC2nResponse(encodeC2nResponse(response))
  if (again?.status !== response.status || !equalBytes(again.body, response.body)) problems.push('our spelling of it')
  return result('c2n', id, problems)
}

function miscCase(vector: Json, index: number): CaseResult {
  const id = `misc:${index} ${String(vector.what)}`
  if (vector.path === '/machine/set-dns') return result('misc', id, roundTrip(decodeSetDNSRequest, vector.body))
  if (vector.path === '/machine/feature/query') return result('misc', id, roundTrip(decodeQueryFeatureRequest, vector.body))
  if (vector.path === '/ts2021') return result('misc', id, parseHandshakeHeader(headerOf(vector, 'X-Tailscale-Handshake')) ? [] : ['handshake header'])
  return result('misc', id, typeof vector.path === 'string' ? [] : ['no path'])
}

function sessionCase(line: Json, id: string): CaseResult[] {
  if (line.kind === 'map-frame') {
    const { DERPMap: relays, DNSConfig: dns, ...rest } = record(line.obj)
    // Later full frames stand for these two by a text.
    const frame = { ...rest, ...(typeof relays === 'object' && { DERPMap: relays }), ...(typeof dns === 'object' && { DNSConfig: dns }) }
    return [result('map frames', id, roundTrip(decodeMapResponse, frame))]
  }
  if (line.kind !== 'rpc') return []
  if (line.path === '/machine/register') return [result('register', id, roundTrip(decodeRegisterRequest, line.body))]
  if (line.path === '/machine/map') return [result('map requests', id, roundTrip(decodeMapRequest, line.body))]
  if (line.path === '/machine/update-health') return [result('update-health', id, roundTrip(decodeHealthChangeRequest, line.body))]
  if (line.path === '/machine/feature/query') return [result('feature query', id, roundTrip(decodeQueryFeatureRequest, line.body))]
  return []
}

// What each kind of case must be recognised by.
const REGISTER_RULES: Readonly<Record<string, (request: RegisterRequest) => boolean>> = {
  'register: first, with auth key': (request) => (request.Auth?.AuthKey ?? '') !== '' && zero(request.OldNodeKey),
  'register: interactive, first request': (request) => request.Auth === undefined && (request.Followup ?? '') === '',
  'register: interactive, followup': (request) => (request.Followup ?? '').startsWith('http'),
  'register: daemon restart': (request) => request.Auth === undefined && zero(request.OldNodeKey),
  'register: rotation (old and new key)': (request) => !zero(request.OldNodeKey) && request.OldNodeKey !== request.NodeKey,
  'register: rotation after NodeKeyExpired with auth key': (request) => !zero(request.OldNodeKey) && request.Auth?.AuthKey !== undefined,
  'register: expired key, tried again before NodeKeyExpired': (request) => (request.Followup ?? '') === '',
  'register: logout': (request) => (parseTime(request.Expiry ?? '') ?? Number.POSITIVE_INFINITY) < 1_000_000 && !zero(request.NodeKey),
  'register: request tags': (request) => request.Hostinfo?.RequestTags?.[0]?.startsWith('tag:') === true,
  'register: refused key': (request) => request.Auth?.AuthKey === 'bogus',
}
const MAP_RULES: Readonly<Record<string, (request: MapRequest) => boolean>> = {
  'map: streaming, first': (request) => mapRequestKind(request) === 'stream' && request.Compress === 'zstd',
  'map: streaming after rotation': (request) => mapRequestKind(request) === 'stream',
  'map: lite, first (no endpoints)': (request) => mapRequestKind(request) === 'lite' && (request.Endpoints ?? []).length === 0,
  'map: lite with endpoints': (request) => mapRequestKind(request) === 'lite' && (request.Endpoints?.length ?? 0) > 0 && request.Endpoints?.length === request.EndpointTypes?.length,
  'map: lite with NetInfo': (request) => mapRequestKind(request) === 'lite' && request.Hostinfo?.NetInfo?.PreferredDERP !== undefined,
  'map: lite with RoutableIPs': (request) => (request.Hostinfo?.RoutableIPs?.length ?? 0) > 0,
  'map: lite with sshHostKeys': (request) => (request.Hostinfo?.sshHostKeys?.length ?? 0) > 0,
  'map: lite with ShieldsUp': (request) => request.Hostinfo?.ShieldsUp === true,
  'map: DebugFlags': (request) => (request.DebugFlags?.length ?? 0) > 0,
}

async function indexedCases(file: string): Promise<CaseResult[]> {
  const results: CaseResult[] = []
  for (const [i, entry] of array(await load(file)).entries()) {
    const name = String(entry.case)
    const line = (await lines(path.join(path.dirname(file), String(entry.file))))[Number(entry.line) - 1] ?? {}
    const id = `cases:${i} ${name} (${String(entry.client)}, ${String(entry.mode)})`
    const problems: string[] = []
    const register = REGISTER_RULES[name]
    const map = MAP_RULES[name]
    if (register !== undefined) judge(decodeRegisterRequest(line.body), register, problems)
    else if (map !== undefined) judge(decodeMapRequest(line.body), map, problems)
    else if (name === 'feature query') judge(decodeQueryFeatureRequest(line.body), (query) => query.Feature !== '', problems)
    else if (name === 'update-health') judge(decodeHealthChangeRequest(line.body), (change) => change.Subsys !== '', problems)
    else if (name === 'ping answer HEAD') problems.push(...(line.method === 'HEAD' ? [] : ['not HEAD']))
    else if (name === 'c2n or ping answer POST') problems.push(...(typeof line.body === 'string' ? (decodeC2nResponse(utf8Encode(line.body)) ? [] : ['not read']) : roundTrip(decodePingResponse, line.body)))
    else problems.push('no rule for this case')
    results.push(result('cases', id, problems))
  }
  return results
}

function judge<T>(decoded: Decoded<T>, rule: (value: T) => boolean, problems: string[]): void {
  if (!decoded.ok) problems.push(`${decoded.path}: ${decoded.problem}`)
  else if (!rule(decoded.value)) problems.push('not recognised for what it is')
}

/** Decodes, encodes, and compares as JSON; null and absent are the same in this protocol outside maps, where Go writes null for empty. */
function roundTrip<T>(decode: JsonDecoder<T>, value: unknown): string[] {
  const decoded = decode(value)
  if (!decoded.ok) return [`${decoded.path}: ${decoded.problem}`]
  const difference = firstDifference(value, parseJson(encodeJson(decoded.value)), '')
  return difference === undefined ? [] : [`lost or changed: ${difference}`]
}

function firstDifference(before: unknown, after: unknown, at: string): string | undefined {
  if (typeof before === 'object' && before !== null && !Array.isArray(before)) {
    for (const [name, value] of Object.entries(before)) {
      if (value === null) continue
      const found = firstDifference(value, record(after)[name], `${at}.${name}`)
      if (found !== undefined) return found
    }
    return undefined
  }
  if (Array.isArray(before)) {
    if (!Array.isArray(after) || after.length !== before.length) return at
    return before.map((item, i) => firstDifference(item, after[i], `${at}[${i}]`)).find((found) => found !== undefined)
  }
  return before === after ? undefined : at
}

function headerOf(request: unknown, name: string): string {
  const list = record(request).headers
  const at = Array.isArray(list) ? list.indexOf(name) : -1
  return Array.isArray(list) && at >= 0 ? String(list[at + 1]) : ''
}

function zero(key: string | undefined): boolean {
  return key === undefined || /:0{64}$/.test(key)
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

async function load(file: string): Promise<unknown> {
  const value = parseJson(await readFile(file, 'utf8'))
  if (value === undefined) throw new UnknownForm(file, 'JSON')
  return value
}

async function lines(file: string): Promise<Json[]> {
  return (await readFile(file, 'utf8')).trim().split('\n').map((line) => record(parseJson(line)))
}
