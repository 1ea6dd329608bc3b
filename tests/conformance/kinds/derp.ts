import { formatHex, instant, parseHex, type RandomSource, utf8Decode } from '@meshwright/core'
import { BOX_NONCE_BYTES, boxSharedKey, NodePrivateKey, NodePublicKey, openBox } from '@meshwright/crypto'
import {
  decodeFrame, decodeMetacert, decideUpgrade, DerpClient, type DerpClientOutput, DerpServer, encodeFrame, encodeUpgradeRequest, encodeUpgradeResponse,
  FrameReader, openClientInfo, type RawFrame, sealClientInfo, UpgradeResponseReader,
} from '@meshwright/derp'
import { formatEndpoint } from '@meshwright/ip'
import { SeededRandom } from '@meshwright/testkit'
import { readdir, readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { type CaseResult, type Kind, UnknownForm } from '../kind.ts'

interface Chunk {
  readonly dir: 'c2s' | 's2c'
  readonly ms?: number
  readonly hex?: string
}

interface ExpectedFrame {
  readonly dir: 'c2s' | 's2c'
  readonly http?: string
  readonly type?: number
  readonly length?: number
  readonly json?: string
  readonly note?: string
  readonly [field: string]: unknown
}

interface Session {
  readonly name: string
  readonly serverPublic: string
  readonly serverPrivate?: string
  readonly clientPublic: string
  readonly clientPrivate?: string
  readonly meshKey?: string
  readonly closed?: boolean
  readonly metacertDER?: string
  readonly server?: string
  readonly framesNote?: string
  readonly transcript: readonly Chunk[]
  readonly frames: readonly ExpectedFrame[]
}

interface Metacert {
  readonly der: string
  readonly serverPublic: string
}

type Direction = 'c2s' | 's2c'

/** Recorded relay connections: every frame is decoded, every HTTP head understood, and both of our machines take the other side. */
export const kind: Kind = {
  name: 'derp',
  defaultPath: 'vectors/derp',
  copied: true,
  async run(location: string): Promise<readonly CaseResult[]> {
    const files = (await stat(location)).isDirectory() ? (await readdir(location)).filter((name) => name.endsWith('.json')).sort().map((name) => path.join(location, name)) : [location]
    const results: CaseResult[] = []
    for (const file of files) results.push(...runFile(file, JSON.parse(await readFile(file, 'utf8'))))
    if (results.length === 0) throw new UnknownForm(location, 'sessions with "transcript" and "frames", or certificates with "der"')
    return results
  },
}

function runFile(file: string, data: unknown): CaseResult[] {
  if (Array.isArray(data) && data.every(isSession)) {
    return data.flatMap((session) => [
      ...(['c2s', 's2c'] as const).flatMap((dir) => [judge('frames', `${session.name}/${dir}`, () => checkFrames(session, dir)), judge('http', `${session.name}/${dir}`, () => checkHttp(session, dir))]),
      judge('client', session.name, () => replayToClient(session)),
      judge('server', session.name, () => replayToServer(session, data)),
      ...(session.metacertDER === undefined ? [] : [judge('metacert', session.name, () => checkMetacert(session.metacertDER ?? '', session.serverPublic))]),
    ])
  }
  if (typeof data === 'object' && data !== null) {
    const entries = Object.entries(data)
    if (entries.length > 0 && entries.every(([, value]) => isMetacert(value))) {
      return entries.map(([name, value]: [string, Metacert]) => judge('metacert', name, () => checkMetacert(value.der, value.serverPublic)))
    }
  }
  throw new UnknownForm(file, 'sessions with "transcript" and "frames", or certificates with "der"')
}

function isSession(value: unknown): value is Session {
  return typeof value === 'object' && value !== null && 'transcript' in value && 'frames' in value && 'name' in value
}

function isMetacert(value: unknown): value is Metacert {
  return typeof value === 'object' && value !== null && 'der' in value && 'serverPublic' in value
}

/** `check` gives what differs, or nothing. */
function judge(group: string, id: string, check: () => string | undefined): CaseResult {
  const detail = check()
  return { group, id: `${group}/${id}`, passed: detail === undefined, ...(detail !== undefined && { detail }) }
}

function bytes(hex: string): Uint8Array {
  const parsed = parseHex(hex)
  if (parsed === undefined) throw new TypeError(`not hexadecimal: ${hex.slice(0, 20)}`)
  return parsed
}

/** All bytes of a direction up to the first that were left out of the recording; `cut` tells that some were. */
function stream(session: Session, dir: Direction): { head: string; body: Uint8Array; cut: boolean } {
  const chunks = session.transcript.filter((chunk) => chunk.dir === dir)
  const gap = chunks.findIndex((chunk) => chunk.hex === undefined)
  const whole = bytes((gap < 0 ? chunks : chunks.slice(0, gap)).map((chunk) => chunk.hex ?? '').join(''))
  const http = session.frames.find((frame) => frame.dir === dir && frame.http !== undefined)?.http
  const headBytes = http === undefined ? 0 : Buffer.byteLength(http, 'latin1')
  return { head: Buffer.from(whole.subarray(0, headBytes)).toString('latin1'), body: whole.subarray(headBytes), cut: gap >= 0 }
}

function readFrames(body: Uint8Array, random: SeededRandom): RawFrame[] {
  const reader = new FrameReader(() => 2 << 20)
  const frames: RawFrame[] = []
  for (let at = 0; at < body.length; ) {
    const size = 1 + random.below(random.chance(0.5) ? 7 : 300)
    reader.push(body.slice(at, at + size))
    at += size
    for (let raw = reader.next(); raw !== undefined; raw = reader.next()) frames.push(raw)
  }
  return frames
}

function checkFrames(session: Session, dir: Direction): string | undefined {
  const expected = session.frames.filter((frame) => frame.dir === dir && frame.http === undefined)
  for (let seed = 1; seed <= 5; seed += 1) {
    const frames = readFrames(stream(session, dir).body, new SeededRandom(seed))
    if (frames.length !== expected.length) return `${frames.length} frames instead of ${expected.length} (borders ${seed})`
    for (const [i, want] of expected.entries()) {
      const raw = frames[i]
      const got = raw && describeFrame(session, raw)
      for (const [name, value] of Object.entries(want)) {
        if (['dir', 'name', 'note'].includes(name)) continue
        // Long payloads are told by their length alone in the recording's expectation.
        if (name === 'payload' && value === `${raw?.payload.length} bytes`) continue
        if (!isDeepStrictEqual(got?.[name], value)) return `frame ${i} (${want.name}): ${name} is ${String(got?.[name])}, not ${String(value)}`
      }
    }
  }
  return undefined
}

/** A frame in the words of the recording, all from our decoders. */
function describeFrame(session: Session, raw: RawFrame): Record<string, unknown> {
  const frame = decodeFrame(raw.code, raw.payload)
  const common = { type: raw.code, length: raw.payload.length, payload: formatHex(raw.payload) }
  switch (frame?.type) {
    case 'serverKey':
      return { ...common, magicOk: true, serverPublic: formatHex(frame.key.bytes) }
    case 'clientInfo':
      return { ...common, clientPublic: formatHex(frame.key.bytes), json: openAny(session, frame.box) }
    case 'serverInfo':
      return { ...common, json: openAny(session, frame.box) }
    case 'sendPacket':
      return { ...common, dst: formatHex(frame.destination.bytes), packet: formatHex(frame.packet) }
    case 'recvPacket':
      return { ...common, src: formatHex(frame.source.bytes), packet: formatHex(frame.packet) }
    case 'forwardPacket':
      return { ...common, src: formatHex(frame.source.bytes), dst: formatHex(frame.destination.bytes), packet: formatHex(frame.packet) }
    case 'peerGone':
      return { ...common, peer: formatHex(frame.peer.bytes), reason: raw.payload.length > 32 ? frame.reason : null }
    case 'peerPresent':
      return { ...common, peer: formatHex(frame.peer.bytes), ...(frame.from && { addr: formatEndpoint(frame.from) }), ...(frame.flags !== undefined && { flags: frame.flags }) }
    case 'health':
      return { ...common, text: frame.text }
    case 'restarting':
      return { ...common, reconnectInMs: frame.reconnectInMs, tryForMs: frame.tryForMs }
    case undefined:
      // A packet without a whole key: the recording still names the bytes that stand where the key should.
      return { ...common, dst: formatHex(raw.payload), packet: '' }
    default:
      return common
  }
}

/** The text inside a box, with whichever private key the recording gives. */
function openAny(session: Session, box: Uint8Array): string | undefined {
  const client = session.clientPrivate
  const [own, peer] = client === undefined ? [session.serverPrivate ?? '', session.clientPublic] : [client, session.serverPublic]
  const key = boxSharedKey(bytes(own), bytes(peer))
  const opened = key && openBox(key, box.subarray(0, BOX_NONCE_BYTES), box.subarray(BOX_NONCE_BYTES))
  return opened && utf8Decode(opened)
}

function checkHttp(session: Session, dir: Direction): string | undefined {
  const { head, body } = stream(session, dir)
  if (head === '') return undefined
  const header = (name: string): string | undefined => new RegExp(`^${name}: (.*)\r$`, 'im').exec(head)?.[1]
  if (dir === 's2c') {
    const outcome = new UpgradeResponseReader().push(Buffer.concat([Buffer.from(head, 'latin1'), body.subarray(0, 9)]))
    if (outcome?.type !== 'upgraded' || formatHex(outcome.rest) !== formatHex(body.subarray(0, 9))) return `understood as ${outcome?.type}`
    if (outcome.serverKey?.text !== `nodekey:${session.serverPublic}`) return 'another server key'
    const key = NodePublicKey.parse(`nodekey:${session.serverPublic}`)
    const own = key && Buffer.from(encodeUpgradeResponse(key)).toString('latin1')
    // headscale writes the key in another form.
    return own === head || head.includes('nodekey:') ? undefined : `we would answer ${JSON.stringify(own)}`
  }
  const [method = '', target = ''] = head.split(' ')
  const decision = decideUpgrade({ method, path: target, header })
  const fastStart = header('Derp-Fast-Start') === '1'
  if (decision.type !== 'derp' || decision.fastStart !== fastStart) return `understood as ${decision.type}`
  const idealNode = header('Ideal-Node')
  const own = Buffer.from(encodeUpgradeRequest({ host: header('Host') ?? '', fastStart, ...(idealNode !== undefined && { idealNode }) })).toString('latin1')
  // Real clients, whose keys are not given, write the headers in our order; the recorder's own client need not.
  const lines = (text: string): string[] => (session.clientPrivate === undefined ? text.split('\r\n') : text.split('\r\n').sort())
  return isDeepStrictEqual(lines(own), lines(head)) ? undefined : `we would ask ${JSON.stringify(own)}`
}

function checkMetacert(der: string, serverPublic: string): string | undefined {
  const found = decodeMetacert(bytes(der))
  return found?.serverKey.text === `nodekey:${serverPublic}` && found.version === 2 ? undefined : `read as ${String(found?.serverKey.text)}`
}

/** Feeds what the server said to our client; every frame must become the event that belongs to it. */
function replayToClient(session: Session): string | undefined {
  const known = session.clientPrivate !== undefined
  // Without the recorded client's key the server's box cannot open: then the client must hang up at it.
  const random = new SeededRandom(4)
  const privateKey = known ? NodePrivateKey.fromBytes(bytes(session.clientPrivate ?? '')) : NodePrivateKey.generate(random.bytes)
  if (privateKey === undefined) return 'no client key'
  const client = new DerpClient({ privateKey, random: random.bytes })
  const now = instant(0)
  client.handleInput(now, { type: 'opened' })
  const { body } = stream(session, 's2c')
  const seen: string[] = []
  for (let at = 0; at < body.length; at += 50) {
    client.handleInput(now, { type: 'bytes', bytes: body.slice(at, at + 50) })
    for (let output = client.pollOutput(); output !== undefined; output = client.pollOutput()) seen.push(...describeEvent(output))
  }
  const expected = session.frames.filter((frame) => frame.dir === 's2c').flatMap((frame) => expectedEvent(frame))
  const first = expected.indexOf('connected')
  const wanted = known ? expected : first < 0 ? [] : ['failed server-info-invalid']
  return isDeepStrictEqual(seen, wanted) ? undefined : `events ${seen.join(', ').slice(0, 300)} instead of ${wanted.join(', ').slice(0, 300)}`
}

function describeEvent(output: DerpClientOutput): string[] {
  switch (output.type) {
    case 'connected':
      return ['connected']
    case 'packet':
      return [`packet ${formatHex(output.source.bytes)} ${formatHex(output.packet)}`]
    case 'peerGone':
      return [`peerGone ${formatHex(output.peer.bytes)} ${output.reason}`]
    case 'peerPresent':
      return [`peerPresent ${formatHex(output.peer.bytes)} ${output.from ? formatEndpoint(output.from) : ''} ${output.flags ?? ''}`]
    case 'failed':
      return [`failed ${output.code}`]
    case 'write':
    case 'close':
      return []
    default:
      return [output.type]
  }
}

function expectedEvent(frame: ExpectedFrame): string[] {
  switch (frame.type) {
    case 0x03:
      return ['connected']
    case 0x05:
      return [`packet ${String(frame.src)} ${String(frame.packet)}`]
    case 0x08:
      return [`peerGone ${String(frame.peer)} ${String(frame.reason)}`]
    case 0x09:
      return [`peerPresent ${String(frame.peer)} ${String(frame.addr ?? '')} ${String(frame.flags ?? '')}`]
    case 0x14:
      return ['health']
    case 0x15:
      return ['restarting']
    default:
      return []
  }
}

/**
 * Lets the recorded client talk to our server at the recorded times, and compares frame by frame with what the real server said. Where
 * other clients took part, they are played too, as far as their keys are known; what needs others is left out of the comparison.
 */
function replayToServer(session: Session, all: readonly Session[]): string | undefined {
  const random = new SeededRandom(6)
  const secret = session.serverPrivate
  const privateKey = secret === undefined ? NodePrivateKey.generate(random.bytes) : NodePrivateKey.fromBytes(bytes(secret))
  if (privateKey === undefined) return 'no server key'
  const infoJson = session.frames.find((frame) => frame.type === 2)?.json ?? '{}'
  const meshText = /"meshKey":"([0-9a-f]{64})"/.exec(infoJson)?.[1]
  const server = new DerpServer({
    privateKey,
    random: random.bytes,
    admission: session.name.startsWith('admission'),
    ...(meshText !== undefined && { meshKey: bytes(meshText) }),
  })
  const play = new Replay(server, session, random.bytes)
  const partner = all.find((other) => other.name === `${session.name}-b`)
  play.run(partner)
  const real = (frame: ExpectedFrame): boolean => frame.dir === 's2c' && frame.type !== undefined
  // The far side of this server in these recordings is ours, not a real one: only the handshake and the answers are comparable.
  const relayed = session.clientPrivate === undefined || session.name.endsWith('-b')
  const comparable = relayed ? [0x01, 0x03] : [0x01, 0x03, 0x05, 0x06, 0x08, 0x13]
  const wanted = session.frames
    .filter(real)
    .filter((frame) => comparable.includes(frame.type ?? 0) && !needsOthers(frame, session, partner))
    .filter((frame) => !relayed || frame.note === undefined) // a note marks what the recorder's server did wrong on purpose
  const got = play.said.filter((raw) => comparable.includes(raw.code))
  const shape = (code: number, peer: string, rest: string): string => `${code} ${peer} ${rest}`
  const wantedShapes = wanted.map((frame) =>
    shape(frame.type ?? 0, String(frame.src ?? frame.peer ?? ''), frame.type === 1 || frame.type === 3 ? '' : String(frame.packet ?? frame.reason ?? frame.payload ?? '')),
  )
  const gotShapes = got.map((raw) => {
    const d = describeFrame(session, raw)
    return shape(raw.code, String(d.src ?? d.peer ?? ''), raw.code === 1 || raw.code === 3 ? '' : String(d.packet ?? d.reason ?? d.payload ?? ''))
  })
  if (!isDeepStrictEqual(gotShapes, wantedShapes)) {
    const at = wantedShapes.findIndex((each, i) => each !== gotShapes[i])
    return `frame ${at}: we said ${String(gotShapes[at < 0 ? wantedShapes.length : at]).slice(0, 200)}, the real server ${String(wantedShapes[at]).slice(0, 200)}`
  }
  const mustClose = session.closed === true || session.name.startsWith('meshkey-empty') || session.name.startsWith('admission')
  return play.closed === mustClose ? undefined : play.closed ? 'we closed the connection' : 'we did not close the connection'
}

/** PeerGone about, or packets from, clients whose keys the recording does not give. */
function needsOthers(frame: ExpectedFrame, session: Session, partner: Session | undefined): boolean {
  const who = frame.src ?? (frame.reason === 0 ? frame.peer : undefined)
  return who !== undefined && who !== session.clientPublic && who !== partner?.clientPublic
}

class Replay {
  readonly said: RawFrame[] = []
  closed = false
  readonly #server: DerpServer
  readonly #session: Session
  readonly #random: RandomSource
  readonly #reader: FrameReader = new FrameReader(() => 2 << 20)
  #now = instant(0)

  constructor(server: DerpServer, session: Session, random: RandomSource) {
    this.#server = server
    this.#session = session
    this.#random = random
  }

  run(partner: Session | undefined): void {
    this.#now = instant(this.#session.transcript.find((chunk) => chunk.dir === 'c2s')?.ms ?? 0)
    this.#server.handleInput(this.#now, { type: 'accepted', conn: 1 })
    this.#drain()
    if (partner !== undefined) {
      this.#server.handleInput(this.#now, { type: 'accepted', conn: 2 })
      this.#server.handleInput(this.#now, { type: 'bytes', conn: 2, bytes: this.#introduction(partner) })
    }
    const reader = new FrameReader(() => 2 << 20)
    let head = Buffer.byteLength(this.#session.frames.find((frame) => frame.dir === 'c2s')?.http ?? '', 'latin1')
    for (const chunk of this.#session.transcript) {
      this.#passTime(chunk.ms ?? this.#now)
      const all = bytes(chunk.hex ?? '')
      if (chunk.dir === 's2c') {
        if (partner !== undefined) this.#playPartner(partner, all)
        continue
      }
      const skipped = Math.min(head, all.length)
      head -= skipped
      reader.push(all.slice(skipped))
      for (let raw = reader.next(); raw !== undefined; raw = reader.next()) {
        const frame = raw.code === 0x02 ? this.#introduction(this.#session, raw) : encodeFrame({ type: 'unknown', code: raw.code, payload: raw.payload })
        this.#server.handleInput(this.#now, { type: 'bytes', conn: 1, bytes: frame })
        this.#drain()
      }
    }
  }

  /** The partner does what made the real server say this. */
  #playPartner(partner: Session, chunk: Uint8Array): void {
    const reader = new FrameReader(() => 2 << 20)
    reader.push(chunk)
    for (let raw = reader.next(); raw !== undefined; raw = reader.next()) {
      const frame = decodeFrame(raw.code, raw.payload)
      const own = NodePublicKey.parse(`nodekey:${this.#session.clientPublic}`)
      if (frame?.type === 'recvPacket' && own && formatHex(frame.source.bytes) === partner.clientPublic) {
        this.#server.handleInput(this.#now, { type: 'bytes', conn: 2, bytes: encodeFrame({ type: 'sendPacket', destination: own, packet: frame.packet }) })
      }
      if (frame?.type === 'peerGone' && frame.reason === 0 && formatHex(frame.peer.bytes) === partner.clientPublic) {
        this.#server.handleInput(this.#now, { type: 'closed', conn: 2 })
      }
      this.#drain()
    }
  }

  /** ClientInfo for our server's key where the recorded one was sealed for another. */
  #introduction(session: Session, recorded?: RawFrame): Uint8Array {
    const secret = session.clientPrivate === undefined ? undefined : NodePrivateKey.fromBytes(bytes(session.clientPrivate))
    if (secret === undefined) return encodeFrame({ type: 'unknown', code: 2, payload: recorded?.payload ?? new Uint8Array(0) })
    const json = session.frames.find((frame) => frame.type === 2)?.json ?? ''
    const realServer = NodePublicKey.parse(`nodekey:${session.serverPublic}`)
    const original = recorded && decodeFrame(2, recorded.payload)
    // The empty mesh key cannot be sealed by us; what must be seen is that opening it fails.
    const broken = original?.type === 'clientInfo' && realServer && json.includes('"meshKey":""') && openClientInfo(secret, realServer, original.box) === undefined
    if (broken) return encodeFrame({ type: 'unknown', code: 2, payload: new Uint8Array(60) })
    const meshKey = /"meshKey":"([0-9a-f]{64})"/.exec(json)?.[1]
    const info = { version: 2, canAckPings: json.includes('"CanAckPings":true'), isProber: json.includes('"IsProber":true'), ...(meshKey !== undefined && { meshKey: bytes(meshKey) }) }
    const box = sealClientInfo(secret, this.#server.publicKey, info, this.#random) ?? new Uint8Array(0)
    return encodeFrame({ type: 'clientInfo', key: secret.publicKey(), box })
  }

  #passTime(ms: number): void {
    // A keepalive comes at 60 to 65 s in ours as in the real one, at another moment of its own choice: give it the whole span.
    const until = instant(ms > 60_000 ? ms + 5_000 : ms)
    for (let due = this.#server.pollTimeout(); due !== undefined && due <= until; due = this.#server.pollTimeout()) {
      this.#now = due > this.#now ? due : this.#now
      this.#server.handleTimeout(this.#now)
      this.#drain()
    }
    if (until > this.#now) this.#now = until
  }

  #drain(): void {
    for (let output = this.#server.pollOutput(); output !== undefined; output = this.#server.pollOutput()) {
      if (output.type === 'verify') this.#server.handleInput(this.#now, { type: 'verified', conn: output.conn, allow: false })
      if (output.type === 'write') this.#server.handleInput(this.#now, { type: 'writable', conn: output.conn })
      if (output.type === 'close' && output.conn === 1) this.closed = true
      if (output.type !== 'write' || output.conn !== 1) continue
      this.#reader.push(output.bytes)
      for (let raw = this.#reader.next(); raw !== undefined; raw = this.#reader.next()) this.said.push(raw)
    }
  }
}
