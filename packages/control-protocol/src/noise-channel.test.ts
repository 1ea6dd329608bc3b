import { concatBytes, equalBytes, formatHex, instant, parseHex } from '@meshwright/core'
import { clampX25519, MachinePrivateKey, MachinePublicKey, nobleProvider } from '@meshwright/crypto'
import { drain, machineLaws, SeededRandom } from '@meshwright/testkit'
import { expect, test } from 'vitest'
import { MAX_RECORD_PLAINTEXT_BYTES, NoiseInitiator, type NoiseInitiatorOutput, NoiseResponder, type NoiseResponderOutput, parseHandshakeHeader, formatHandshakeHeader } from './index.ts'
import { encodeErrorFrame } from './noise-messages.ts'
import { recordNonce } from './noise-records.ts'

const now = instant(0)
const counting = (from: number): Uint8Array => clampX25519(Uint8Array.from({ length: 32 }, (_, i) => from + i))
const machine = (from: number): MachinePrivateKey => MachinePrivateKey.fromBytes(counting(from)) ?? MachinePrivateKey.generate(() => counting(from))
const hex = (text: string): Uint8Array => parseHex(text) ?? new Uint8Array(0)

// Two keys in the order in which the machines draw them.
function scripted(...keys: Uint8Array[]): (length: number) => Uint8Array {
  return () => Uint8Array.from(keys.shift() ?? new Uint8Array(32))
}

// Made with two independent stacks of primitives; the initiation was accepted by the reference responder.
const INITIATION =
  '008301006079a631eede1bf9c98f12032cdeadd0e7a079398fc786b88cc846ec89af85a51aad5b8febedeb97415be53612205e6bfab385e34cb127dd8854c4f9afb10f9b0ee14955717c9c81d5a9dba3172885550d91f4d04c0bb18519a2d3022e6cb061e4'
const RESPONSE = '020030675dd574ed7789310b3d2e7681f3790b466c773b1521fecf36577958371ea52f3e4ae55a20a1631c85cbfc4028103d4c'
const HANDSHAKE_HASH = '8949b7a6697f39dc8122f593892e75fc6ecf6e33ed584b4ac262bb61bfa1a2d6'
const EARLY_RECORD =
  '040078fbc76f9652cdeabe59b19d1b2571e8a4eff8213bd4cdbd12a5f46e72e765caa08940aab6c4efb90b8d7be6000623bdc11ebdd9710669a33b39bebef64f9509da4957c8a717a882a893fc32eb4184164f1097f1235fc4e1f680ffca16a2848f438d080b946684407fe6488db0fe81776688d6d9ed4c657d8e'
const PREFACE = '505249202a20485454502f322e300d0a0d0a534d0d0a0d0a'

function pair(options: { early?: boolean; version?: number } = {}): { client: NoiseInitiator; server: NoiseResponder } {
  const client = new NoiseInitiator({
    provider: nobleProvider,
    random: scripted(counting(0x40)),
    machineKey: machine(0x00),
    serverKey: machine(0x20).publicKey(),
    version: options.version ?? 131,
  })
  const server = new NoiseResponder({
    provider: nobleProvider,
    random: scripted(counting(0x60), counting(0x80)),
    machineKey: machine(0x20),
    earlyPayload: options.early ?? true,
  })
  return { client, server }
}

function sent(outputs: readonly (NoiseInitiatorOutput | NoiseResponderOutput)[]): Uint8Array {
  return concatBytes(...outputs.flatMap((output) => (output.type === 'transmit' ? [output.bytes] : [])))
}

function plain(outputs: readonly (NoiseInitiatorOutput | NoiseResponderOutput)[]): Uint8Array {
  return concatBytes(...outputs.flatMap((output) => (output.type === 'data' ? [output.bytes] : [])))
}

test('initiation, response, early payload, records and handshake hash are those of the known-answer vector', () => {
  const { client, server } = pair()
  expect(formatHex(client.initiation)).toBe(INITIATION)
  server.handleInput(now, { type: 'initiation', bytes: client.initiation })
  const accepted = drain(server)
  expect(formatHex(sent(accepted))).toBe(RESPONSE + EARLY_RECORD)
  const established = accepted.find((output) => output.type === 'established')
  expect(established).toMatchObject({ version: 131 })
  expect(established?.machineKey.text).toBe('mkey:8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f')
  expect(established && formatHex(established.handshakeHash)).toBe(HANDSHAKE_HASH)

  client.handleInput(now, { type: 'received', bytes: sent(accepted) })
  const seen = drain(client)
  expect(seen.map((output) => output.type)).toEqual(['established', 'early'])
  expect(seen[1]).toMatchObject({ payload: { nodeKeyChallenge: 'chalpub:493e82fc74464a59268817623d2053c5eb8e2cc4a988b4fee179ec6b010d531d' } })

  client.send(now, hex(PREFACE))
  client.send(now, new Uint8Array(0))
  const records = sent(drain(client))
  expect(formatHex(records)).toBe('0400287eb3910720d9c7dc47d1a09f81e3004186381007cb835aff65d8e7d24fb4350c6ad74d67dfe7006c' + '0400104f0f75cb9c0bc29e0066effcb4d31f74')
  server.handleInput(now, { type: 'received', bytes: records })
  expect(formatHex(plain(drain(server)))).toBe(PREFACE)
})

test('how the stream is cut, and whether there is an early payload, changes nothing', () => {
  for (const early of [true, false]) {
    for (const size of [1, 2, 7, 1000, 1_000_000]) {
      const { client, server } = pair({ early })
      server.handleInput(now, { type: 'initiation', bytes: client.initiation })
      const random = new SeededRandom(size)
      const message = random.bytes(MAX_RECORD_PLAINTEXT_BYTES * 3 + 5)
      for (let at = 0; at < message.length; at += 3000) server.send(now, message.subarray(at, at + 3000))
      server.send(now, new Uint8Array(0))
      const stream = sent(drain(server))
      for (let at = 0; at < stream.length; at += size) client.handleInput(now, { type: 'received', bytes: stream.slice(at, at + size) })
      const outputs = drain(client)
      expect(outputs.filter((output) => output.type === 'early').length).toBe(early ? 1 : 0)
      expect(equalBytes(plain(outputs), message)).toBe(true)
    }
  }
})

test('an early payload of one-byte records and an HTTP/2 start of nine bytes are told apart', () => {
  const { client, server } = pair({ early: false })
  server.handleInput(now, { type: 'initiation', bytes: client.initiation })
  for (const byte of hex('ffffff545300000002').values()) server.send(now, Uint8Array.of(byte))
  server.send(now, hex('7b'))
  server.send(now, hex('7d000012'))
  client.handleInput(now, { type: 'received', bytes: sent(drain(server)) })
  const outputs = drain(client)
  expect(outputs.map((output) => output.type)).toEqual(['established', 'early', 'data'])
  expect(formatHex(plain(outputs))).toBe('000012')
})

test('a client that is too old for the early payload gets none', () => {
  const { client, server } = pair({ version: 48 })
  server.handleInput(now, { type: 'initiation', bytes: client.initiation })
  expect(sent(drain(server)).length).toBe(51)
})

test('a changed bit anywhere in the handshake or a record ends the channel', () => {
  for (let at = 0; at < 101; at += 5) {
    const { client, server } = pair()
    const bytes = client.initiation.slice()
    bytes[at] = (bytes[at] ?? 0) ^ 1
    server.handleInput(now, { type: 'initiation', bytes })
    const outputs = drain(server)
    expect(outputs.at(-1)).toMatchObject({ type: 'failed', code: 'NOISE_HANDSHAKE' })
    client.handleInput(now, { type: 'received', bytes: sent(outputs) })
    expect(drain(client)[0]).toMatchObject({ type: 'failed', code: 'NOISE_REFUSED' })
  }
  for (const at of [3, 50, 60, 100]) {
    const { client, server } = pair()
    server.handleInput(now, { type: 'initiation', bytes: client.initiation })
    const bytes = sent(drain(server))
    bytes[at] = (bytes[at] ?? 0) ^ 1
    client.handleInput(now, { type: 'received', bytes })
    expect(drain(client).at(-1)).toMatchObject({ type: 'failed', code: at < 51 ? 'NOISE_HANDSHAKE' : 'NOISE_RECORD' })
    expect(client.send(now, Uint8Array.of(1))).toBe(false)
  }
})

test('a frame of 4097 bytes is fatal on both sides, however it is cut', () => {
  const long = concatBytes(hex('040ffe'), new Uint8Array(4_094))
  for (const cut of [0, 1, 2, 3, 4, 4_096]) {
    const { client, server } = pair()
    server.handleInput(now, { type: 'initiation', bytes: client.initiation })
    client.handleInput(now, { type: 'received', bytes: sent(drain(server)) })
    drain(client)
    for (const end of [client, server]) {
      for (const bytes of [long.subarray(0, cut), long.subarray(cut)]) end.handleInput(now, { type: 'received', bytes })
      expect(drain(end)).toMatchObject([{ type: 'failed', code: 'NOISE_FRAME' }])
    }
  }
})

test('a second initiation makes nobody else of the client: the channel is over', () => {
  const { client, server } = pair()
  server.handleInput(now, { type: 'initiation', bytes: client.initiation })
  client.handleInput(now, { type: 'received', bytes: sent(drain(server)) })
  drain(client)
  const other = new NoiseInitiator({ provider: nobleProvider, random: scripted(counting(0x41)), machineKey: machine(0x01), serverKey: machine(0x20).publicKey(), version: 131 })
  server.handleInput(now, { type: 'initiation', bytes: other.initiation })
  const outputs = drain(server)
  expect(outputs.filter(({ type }) => type === 'established')).toEqual([])
  expect(outputs.at(-1)).toMatchObject({ type: 'failed', code: 'NOISE_HANDSHAKE' })
  expect([server.state, server.send(now, hex('00'))]).toEqual(['failed', false])
})

test('a record has the nonce of its number, big-endian, also behind 2^32', () => {
  expect(formatHex(recordNonce(1))).toBe('000000000000000000000001')
  expect(formatHex(recordNonce(0xffff_ffff))).toBe('0000000000000000ffffffff')
  expect(formatHex(recordNonce(0x1_0000_0002))).toBe('000000000000000100000002')
  expect(formatHex(recordNonce(Number.MAX_SAFE_INTEGER - 1))).toBe('00000000001ffffffffffffe')
})

test('an error frame is shown without control characters', () => {
  const { client } = pair()
  client.handleInput(now, { type: 'received', bytes: encodeErrorFrame('too old\u001b[31m') })
  expect(drain(client)).toEqual([{ type: 'failed', code: 'NOISE_REFUSED', message: 'the control server refused the handshake: too old?[31m' }])
})

test('the zero key of a server is refused by name', () => {
  expect(() => new NoiseInitiator({ provider: nobleProvider, random: new SeededRandom(1).bytes, machineKey: machine(0), serverKey: MachinePublicKey.zero(), version: 142 })).toThrow(
    'not a usable X25519 key',
  )
})

test('the handshake header takes exactly an initiation in base64', () => {
  const { client } = pair()
  expect(parseHandshakeHeader(formatHandshakeHeader(client.initiation))).toEqual(client.initiation)
  for (const bad of ['', '!', 'AAAA', formatHandshakeHeader(client.initiation.subarray(1)), 'A'.repeat(400)]) expect(parseHandshakeHeader(bad)).toBeUndefined()
})

test('both ends obey the machine laws', () => {
  machineLaws<Parameters<NoiseInitiator['handleInput']>[1], NoiseInitiatorOutput>({
    make: (random) => new NoiseInitiator({ provider: nobleProvider, random: random.bytes, machineKey: MachinePrivateKey.generate(random.bytes), serverKey: machine(0x20).publicKey(), version: 142 }),
    arbitraryInput: (random) => ({ type: 'received', bytes: random.bytes(random.below(200)) }),
    exercise(client, at, random) {
      if (!(client instanceof NoiseInitiator)) return
      const server = new NoiseResponder({ provider: nobleProvider, random: random.bytes, machineKey: machine(0x20) })
      server.handleInput(at, { type: 'initiation', bytes: client.initiation })
      server.send(at, Uint8Array.of(1))
      reachedInitiator.add(client.state)
      const bytes = sent(drain(server))
      client.handleInput(at, { type: 'received', bytes: bytes.subarray(0, 60) })
      reachedInitiator.add(client.state)
      client.handleInput(at, { type: 'received', bytes: bytes.subarray(60) })
    },
    stateOf: (client) => (client instanceof NoiseInitiator ? client.state : ''),
    states: ['open', 'failed'],
    seeds: 3,
  })
  expect([...reachedInitiator]).toEqual(['handshaking', 'early'])
  machineLaws<Parameters<NoiseResponder['handleInput']>[1], NoiseResponderOutput>({
    make: (random) => new NoiseResponder({ provider: nobleProvider, random: random.bytes, machineKey: machine(0x20) }),
    arbitraryInput: (random) => ({ type: random.chance(0.2) ? 'initiation' : 'received', bytes: random.bytes(random.below(200)) }),
    exercise(server, at, random) {
      const client = new NoiseInitiator({ provider: nobleProvider, random: random.bytes, machineKey: machine(0), serverKey: machine(0x20).publicKey(), version: 142 })
      if (random.chance(0.5)) server.handleInput(at, { type: 'initiation', bytes: client.initiation })
    },
    stateOf: (server) => (server instanceof NoiseResponder ? server.state : ''),
    states: ['waiting', 'open', 'failed'],
    describe: (output) => (output.type === 'established' ? output.machineKey.text : output.type === 'failed' ? output.message : formatHex(output.bytes)),
    seeds: 6,
  })
})

const reachedInitiator = new Set<string>()
