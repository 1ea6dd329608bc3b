import { formatHex, parseHex } from '@meshwright/core'
import { DiscoPrivateKey, DiscoPublicKey, NodePublicKey } from '@meshwright/crypto'
import { formatEndpoint, parseEndpoint } from '@meshwright/ip'
import { SeededRandom } from '@meshwright/testkit'
import { describe, expect, test } from 'vitest'
import { classifyDatagram } from '../classify.ts'
import { decodeDiscoMessage, decodeGeneve, DiscoBox, discoSender, encodeDiscoMessage, encodeGeneve } from './index.ts'

const TX_ID = Uint8Array.from({ length: 12 }, (_, i) => i)
const NONCE = Uint8Array.from({ length: 24 }, (_, i) => 0xc0 + i)
const PRIVATE = DiscoPrivateKey.fromBytes(Uint8Array.from({ length: 32 }, (_, i) => i + 1)) ?? fail()
const PEER_PRIVATE = DiscoPrivateKey.fromBytes(Uint8Array.from({ length: 32 }, (_, i) => 0x80 + i)) ?? fail()
const NODE_KEY = NodePublicKey.fromBytes(Uint8Array.from({ length: 32 }, (_, i) => 0x40 + i)) ?? fail()
const PING =
  '5453f09f92ac07a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7cc0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d72caa755cfbf836d5de7d8d60c09d358f7d7c3112705059b070596f503f7cb4bc321c415c643f87e0292c6b904f602c68df8d16e79174e9b7931213032d9c'
const PONG =
  '5453f09f92ac07a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7cc0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7cc96b0fbc006fab2e2df89466362a6b07e7c3112705059b070596f503f7cf4fd705f05192278cfa99c98ecdd7028de90'

describe('the envelope', () => {
  const box = new DiscoBox({ privateKey: PRIVATE, random: () => NONCE })
  const peerBox = new DiscoBox({ privateKey: PEER_PRIVATE, random: () => NONCE })

  test('a ping and a pong are 124 and 110 fixed bytes', () => {
    const ping = encodeDiscoMessage({ type: 'ping', txId: TX_ID, nodeKey: NODE_KEY, padding: 0 })
    const pong = encodeDiscoMessage({ type: 'pong', txId: TX_ID, source: parseEndpoint('203.0.113.7:41641') ?? fail() })
    expect(formatHex(box.seal(peerBox.publicKey, ping) ?? fail())).toBe(PING)
    expect(formatHex(box.seal(peerBox.publicKey, pong) ?? fail())).toBe(PONG)
    expect(discoSender(hex(PING))?.text).toBe(box.publicKey.text)
    expect(peerBox.open(box.publicKey, hex(PING))).toEqual(ping)
  })

  test('a flipped bit anywhere behind the magic does not open', () => {
    const bytes = hex(PING)
    for (let at = 6; at < bytes.length; at += 1) {
      const flipped = bytes.slice()
      flipped[at] = (flipped[at] ?? 0) ^ 1
      expect(peerBox.open(box.publicKey, flipped)).toBeUndefined()
    }
  })

  test('the store of shared keys is bounded and forgets', () => {
    const random = new SeededRandom(1)
    const small = new DiscoBox({ privateKey: PRIVATE, random: random.bytes, cachedKeys: 3 })
    const keys = Array.from({ length: 5 }, () => DiscoPrivateKey.generate(random.bytes).publicKey())
    for (const key of keys) small.seal(key, TX_ID)
    expect(small.size).toBe(3)
    small.forget(keys[4] ?? fail())
    expect(small.size).toBe(2)
    small.clear()
    expect(small.size).toBe(0)
  })

  test('nothing is sealed for a low-order key', () => {
    expect(box.seal(DiscoPublicKey.zero(), TX_ID)).toBeUndefined()
  })
})

describe('messages', () => {
  test('an empty, cut or newer call-me-maybe is an empty list, not an error', () => {
    for (const text of ['0300', `0300${'00'.repeat(17)}`, `0301${'00'.repeat(18)}`]) {
      expect(decodeDiscoMessage(hex(text))).toEqual({ type: 'call-me-maybe', endpoints: [] })
    }
  })

  test('unknown types and cut bodies are undefined', () => {
    for (const text of ['', '01', '5500', `0100${'00'.repeat(11)}`, `0200${'00'.repeat(29)}`, `0400${'00'.repeat(71)}`, `0700${'00'.repeat(124)}`]) {
      expect(decodeDiscoMessage(hex(text))).toBeUndefined()
    }
  })

  test('a ping of a very old client has no node key', () => {
    expect(decodeDiscoMessage(hex(`0100${'07'.repeat(12)}`))).toEqual({ type: 'ping', txId: new Uint8Array(12).fill(7), padding: 0 })
  })

  test('bytes behind a pong are ignored, IPv4-mapped sources are IPv4', () => {
    const pong = decodeDiscoMessage(hex(`0200${'00'.repeat(12)}00000000000000000000ffffcb007107a2a9ffff`))
    expect(pong?.type === 'pong' && formatEndpoint(pong.source)).toBe('203.0.113.7:41641')
  })
})

describe('Geneve and classification', () => {
  test('a header has the eight known bytes', () => {
    const bytes = encodeGeneve({ protocol: 'disco', vni: 0x010203, control: true }, Uint8Array.of(9))
    expect(formatHex(bytes)).toBe('00807a110102030009')
    expect(decodeGeneve(bytes)).toEqual({ header: { protocol: 'disco', vni: 0x010203, control: true }, payload: Uint8Array.of(9) })
  })

  test('the five protocols of a socket are told apart', () => {
    const wireguard = Uint8Array.of(4, ...new Uint8Array(31))
    const initiation = Uint8Array.of(1, ...new Uint8Array(147))
    expect(classifyDatagram(hex('000100142112a442000102030405060708090a0b802200087461696c6e6f6465802800048aabad90'))).toBe('stun')
    expect(classifyDatagram(hex(PING))).toBe('disco')
    expect(classifyDatagram(wireguard)).toBe('wireguard')
    expect(classifyDatagram(initiation)).toBe('wireguard')
    expect(classifyDatagram(encodeGeneve({ protocol: 'disco', vni: 1, control: false }, hex(PING)))).toBe('relayed-disco')
    expect(classifyDatagram(encodeGeneve({ protocol: 'wireguard', vni: 1, control: false }, wireguard))).toBe('relayed-wireguard')
    for (const text of ['', '00', 'ff'.repeat(40), formatHex(initiation.subarray(1)), PING.slice(0, 122)]) expect(classifyDatagram(hex(text))).toBe('unknown')
  })
})

function hex(text: string): Uint8Array {
  return parseHex(text) ?? fail()
}

function fail(): never {
  throw new Error('a fixed value of this test is wrong')
}
