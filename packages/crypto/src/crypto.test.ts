import { inspect } from 'node:util'
import { formatHex, parseHex } from '@meshwright/core'
import { SeededRandom } from '@meshwright/testkit'
import { describe, expect, test } from 'vitest'
import {
  BOX_NONCE_BYTES, boxSharedKey, ChallengePrivateKey, ChallengePublicKey, constantTimeEqual, DiscoPrivateKey, DiscoPublicKey, isAllZero, MachinePrivateKey, MachinePublicKey, nobleProvider, NodePrivateKey,
  NodePublicKey, NoiseHandshake, type NoisePattern, openBox, sealBox,
} from './index.ts'

const random = new SeededRandom(42)
const NACL_ALICE = '77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a'
const KINDS = [
  ['nodekey:', NodePrivateKey, NodePublicKey],
  ['mkey:', MachinePrivateKey, MachinePublicKey],
  ['discokey:', DiscoPrivateKey, DiscoPublicKey],
  ['chalpub:', ChallengePrivateKey, ChallengePublicKey],
] as const

describe.each(KINDS)('%s keys', (prefix, Private, Public) => {
  test('read what they write, and nothing else', () => {
    const secret = Private.generate(random.bytes)
    const text = secret.publicKey().format()
    expect(text).toMatch(new RegExp(`^${prefix}[0-9a-f]{64}$`))
    expect(Public.parse(text)?.format()).toBe(text)
    expect(Public.parse(prefix + text.slice(prefix.length).toUpperCase())?.format()).toBe(text)
    expect(Private.parse(secret.formatSecret())?.publicKey().format()).toBe(text)
    for (const wrong of ['', prefix, text.slice(1), `${text}0`, text.slice(0, -1), `other:${text.slice(prefix.length)}`, `${text.slice(0, -1)}g`]) expect(Public.parse(wrong)).toBeUndefined()
    expect(Private.fromBytes(new Uint8Array(31))).toBeUndefined()
  })
  test('never show a secret', () => {
    const secret = Private.generate(random.bytes)
    const hex = formatHex(secret.secretBytes)
    for (const shown of [String(secret), JSON.stringify({ secret }), inspect(secret), inspect({ deep: [secret] }, { depth: 9, showHidden: true })]) expect(shown).not.toContain(hex.slice(0, 12))
    expect(String(secret.publicKey())).toMatch(new RegExp(`^${prefix}\\[.{5}\\]$`))
    expect(inspect(secret.publicKey())).toBe(String(secret.publicKey()))
  })
  test('are clamped, compare by value, and are gone when destroyed', () => {
    const secret = Private.generate(() => new Uint8Array(32).fill(255))
    expect([secret.secretBytes[0]! & 7, secret.secretBytes[31]! >> 6]).toEqual([0, 1])
    const copy = Private.fromBytes(secret.secretBytes)!
    expect(constantTimeEqual(copy.secretBytes, secret.secretBytes)).toBe(true)
    copy.destroy()
    expect(() => copy.secretBytes).toThrow(expect.objectContaining({ code: 'CRYPTO_KEY_DESTROYED' }))
    expect(isAllZero(secret.secretBytes)).toBe(false) // a copy was destroyed, not this one
    expect(Public.zero().isZero).toBe(true)
    expect(secret.publicKey().isZero).toBe(false)
  })
})

test('keys of one kind are equal by their bytes', () => {
  const secret = NodePrivateKey.generate(random.bytes)
  const other = NodePrivateKey.generate(random.bytes)
  expect(secret.equals(NodePrivateKey.fromBytes(secret.secretBytes)!)).toBe(true)
  expect(secret.equals(other)).toBe(false)
  expect(secret.publicKey().equals(NodePublicKey.fromBytes(secret.publicKey().bytes)!)).toBe(true)
  expect(secret.publicKey().equals(other.publicKey())).toBe(false)
})

describe('boxes', () => {
  // Known answer of NaCl's own test suite (Bernstein, "Cryptography in NaCl", sections 5 and 10).
  test('the shared key is that of the NaCl paper', () => {
    const aliceSecret = parseHex(NACL_ALICE)
    const bobPublic = parseHex('de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f')
    expect(aliceSecret && bobPublic && formatHex(boxSharedKey(aliceSecret, bobPublic)!)).toBe('1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389')
  })
  test('open for the other side alone, and not when changed', () => {
    const [a, b, c] = [1, 2, 3].map(() => NodePrivateKey.generate(random.bytes)) as [NodePrivateKey, NodePrivateKey, NodePrivateKey]
    const there = boxSharedKey(a.secretBytes, b.publicKey().bytes)!
    const back = boxSharedKey(b.secretBytes, a.publicKey().bytes)!
    expect(back).toEqual(there)
    const nonce = random.bytes(BOX_NONCE_BYTES)
    for (const length of [0, 1, 63, 64, 65, 1000]) {
      const plaintext = random.bytes(length)
      const sealed = sealBox(there, nonce, plaintext)
      expect(openBox(back, nonce, sealed)).toEqual(plaintext)
      expect(openBox(boxSharedKey(c.secretBytes, a.publicKey().bytes)!, nonce, sealed)).toBeUndefined()
      const at = random.below(sealed.length)
      expect(openBox(back, nonce, sealed.map((byte, i) => (i === at ? byte ^ 1 : byte)))).toBeUndefined()
    }
    expect(openBox(back, nonce, new Uint8Array(15))).toBeUndefined()
    expect(openBox(back, new Uint8Array(5), new Uint8Array(40))).toBeUndefined()
    expect(boxSharedKey(a.secretBytes, new Uint8Array(32))).toBeUndefined()
  })
})

describe.each(['IK', 'IKpsk2'] as const)('Noise %s', (pattern: NoisePattern) => {
  const make = (psk?: Uint8Array): [NoiseHandshake, NoiseHandshake] => {
    const a = NodePrivateKey.generate(random.bytes)
    const b = NodePrivateKey.generate(random.bytes)
    const common = { pattern, provider: nobleProvider, random: random.bytes, prologue: Uint8Array.of(1) }
    return [
      new NoiseHandshake({ ...common, role: 'initiator', staticPrivateKey: a.secretBytes, remoteStaticKey: b.publicKey().bytes, ...(psk ? { psk } : {}) }),
      new NoiseHandshake({ ...common, role: 'responder', staticPrivateKey: b.secretBytes }),
    ]
  }
  test('gives both sides the same keys, crossed, and tells the responder who it was', () => {
    const [initiator, responder] = make()
    expect(responder.writeMessage()).toBeUndefined() // not its turn
    expect(responder.readMessage(initiator.writeMessage(Uint8Array.of(7))!)).toEqual(Uint8Array.of(7))
    expect(initiator.finish()).toBeUndefined()
    expect(initiator.readMessage(responder.writeMessage()!)).toEqual(new Uint8Array(0))
    const [ours, theirs] = [initiator.finish()!, responder.finish()!]
    expect(ours.sendKey).toEqual(theirs.receiveKey)
    expect(ours.receiveKey).toEqual(theirs.sendKey)
    expect(ours.sendKey).not.toEqual(ours.receiveKey)
    expect(initiator.finish()).toBeUndefined() // once
  })
  test('fails for good when any byte of a message changes, is missing or added', () => {
    const first = make()[0].writeMessage()!
    for (const change of [...first.keys()].filter((at) => at % 7 === 0)) {
      const [initiator, responder] = make()
      const message = initiator.writeMessage()!
      message[change] = (message[change] ?? 0) ^ 0x10
      expect(responder.readMessage(message)).toBeUndefined()
      expect(responder.state).toBe('failed')
    }
    for (const length of [0, 31, 32, 79, 80, 95]) {
      const [initiator, responder] = make()
      expect(responder.readMessage(initiator.writeMessage()!.subarray(0, length))).toBeUndefined()
    }
  })
  test('low-order keys are refused', () => {
    const [, responder] = make()
    expect(responder.readMessage(new Uint8Array(96))).toBeUndefined()
  })
})

test('a wrong pre-shared key fails at the second message', () => {
  const a = NodePrivateKey.generate(random.bytes)
  const b = NodePrivateKey.generate(random.bytes)
  const common = { pattern: 'IKpsk2', provider: nobleProvider, random: random.bytes, prologue: new Uint8Array(0) } as const
  const initiator = new NoiseHandshake({ ...common, role: 'initiator', staticPrivateKey: a.secretBytes, remoteStaticKey: b.publicKey().bytes, psk: new Uint8Array(32).fill(1) })
  const responder = new NoiseHandshake({ ...common, role: 'responder', staticPrivateKey: b.secretBytes, psk: new Uint8Array(32).fill(2) })
  expect(responder.readMessage(initiator.writeMessage()!)).toBeDefined()
  expect(initiator.readMessage(responder.writeMessage()!)).toBeUndefined()
})

test('misuse is thrown with a code: wrong lengths, an initiator without its peer', () => {
  const common = { pattern: 'IK', provider: nobleProvider, random: random.bytes, prologue: new Uint8Array(0) } as const
  expect(() => new NoiseHandshake({ ...common, role: 'responder', staticPrivateKey: new Uint8Array(5) })).toThrow(expect.objectContaining({ code: 'CRYPTO_KEY_LENGTH' }))
  expect(() => new NoiseHandshake({ ...common, role: 'initiator', staticPrivateKey: new Uint8Array(32) })).toThrow(expect.objectContaining({ code: 'CRYPTO_KEY_LENGTH' }))
})

test('comparisons of secrets look at every byte', () => {
  expect(constantTimeEqual(Uint8Array.of(1, 2), Uint8Array.of(1, 2))).toBe(true)
  expect(constantTimeEqual(Uint8Array.of(1, 2), Uint8Array.of(0, 2))).toBe(false)
  expect(constantTimeEqual(Uint8Array.of(1), Uint8Array.of(1, 2))).toBe(false)
  expect([isAllZero(new Uint8Array(4)), isAllZero(Uint8Array.of(0, 1))]).toEqual([true, false])
})
