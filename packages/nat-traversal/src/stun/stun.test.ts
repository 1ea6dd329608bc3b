import { formatHex, instant, parseHex, utf8Encode } from '@meshwright/core'
import { formatEndpoint, parseEndpoint } from '@meshwright/ip'
import { drain, machineLaws, runTimers, VirtualClock } from '@meshwright/testkit'
import { describe, expect, test } from 'vitest'
import {
  answerBinding,
  BINDING_ERROR,
  BINDING_REQUEST,
  BindingTransaction,
  decodeBindingAnswer,
  decodeStunMessage,
  encodeBindingRequest,
  encodeMappedAddress,
  encodeStunMessage,
  ERROR_CODE,
  findAttribute,
  MAPPED_ADDRESS,
  SOFTWARE,
} from './index.ts'

const TXID = Uint8Array.from({ length: 12 }, (_, i) => i)
const REQUEST = '000100142112a442000102030405060708090a0b802200087461696c6e6f6465802800048aabad90'
const RESPONSE = '0101000c2112a442000102030405060708090a0b00200008000183bbea12d545'

describe('the codec', () => {
  test('a Binding request is the 40 bytes that relays demand', () => {
    expect(formatHex(encodeBindingRequest(TXID))).toBe(REQUEST)
  })

  test('an answer gives the mapped address', () => {
    expect(mapped(hex(RESPONSE))).toBe('203.0.113.7:41641')
  })

  test('RFC 5769 section 2.2: IPv4 response with other attributes', () => {
    const bytes = hex(
      '0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96',
    )
    expect(mapped(bytes)).toBe('192.0.2.1:32853')
    expect(decodeStunMessage(bytes)?.fingerprint).toBe('valid')
    expect(findAttribute(decodeStunMessage(bytes) ?? fail(), SOFTWARE)).toEqual(utf8Encode('test vector'))
  })

  test('RFC 5769 section 2.3: IPv6 response', () => {
    const bytes = hex(
      '010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c',
    )
    expect(mapped(bytes)).toBe('[2001:db8:1234:5678:11:2233:4455:6677]:32853')
    expect(decodeStunMessage(bytes)?.fingerprint).toBe('valid')
  })

  test('an address in a fingerprinted message that was changed makes the fingerprint wrong', () => {
    const bytes = hex(REQUEST)
    bytes[25] = 0x75
    expect(decodeStunMessage(bytes)?.fingerprint).toBe('wrong')
  })

  test('an IPv4-mapped answer is the IPv4 address', () => {
    const value = encodeMappedAddress({ ip: endpoint('[::ffff:203.0.113.7]:41641').ip, port: 41641 })
    expect(value.length).toBe(20)
    const response = encodeStunMessage({ type: 0x0101, transactionId: TXID, attributes: [{ type: MAPPED_ADDRESS, value }] })
    expect(mapped(response)).toBe('203.0.113.7:41641')
  })

  test.each(['', '00', REQUEST.slice(0, 38), `${REQUEST.slice(0, 7)}8${REQUEST.slice(8)}`, `8${REQUEST.slice(1)}`, REQUEST.replace('2112', '2113'), REQUEST.replace('80220008', '80220009')])(
    'broken framing is undefined: %s',
    (text) => {
      expect(decodeStunMessage(hex(text))).toBeUndefined()
    },
  )
})

describe('the server', () => {
  const from = endpoint('203.0.113.7:41641')

  test('answers a client of relays with its address', () => {
    expect(formatHex(answerBinding(hex(REQUEST), from) ?? fail())).toBe(RESPONSE)
  })

  test('answers an IPv4 client of a dual-stack socket in IPv4', () => {
    expect(formatHex(answerBinding(hex(REQUEST), endpoint('[::ffff:203.0.113.7]:41641')) ?? fail())).toBe(RESPONSE)
  })

  test('is silent to everybody else unless told otherwise', () => {
    const bare = encodeStunMessage({ type: BINDING_REQUEST, transactionId: TXID, attributes: [] })
    expect(answerBinding(bare, from)).toBeUndefined()
    expect(answerBinding(encodeBindingRequest(TXID, 'other'), from)).toBeUndefined()
    expect(formatHex(answerBinding(bare, from, { anyClient: true }) ?? fail())).toBe(RESPONSE)
  })

  test('is silent to answers, so that two servers cannot be set on each other', () => {
    expect(answerBinding(hex(RESPONSE), from, { anyClient: true })).toBeUndefined()
  })
})

describe('BindingTransaction', () => {
  test('sends at 0, 500, 1500, 3500, 7500, 15500 and 31500 ms and gives up at 39500 ms', () => {
    const clock = new VirtualClock()
    const seen = runTimers(new BindingTransaction(clock.now, { transactionId: TXID }), clock, instant(100_000))
    expect(seen.map(({ at, output }) => `${output.type}@${at}`)).toEqual(
      ['transmit@0', 'transmit@500', 'transmit@1500', 'transmit@3500', 'transmit@7500', 'transmit@15500', 'transmit@31500', 'failed@39500'],
    )
  })

  test('the answer of this transaction settles it, once', () => {
    const transaction = new BindingTransaction(instant(0), { transactionId: TXID })
    drain(transaction)
    transaction.handleInput(instant(20), { type: 'datagram', bytes: hex(RESPONSE.replace('0a0b', '0a0c')) })
    expect(drain(transaction)).toEqual([])
    transaction.handleInput(instant(30), { type: 'datagram', bytes: hex(RESPONSE) })
    transaction.handleInput(instant(31), { type: 'datagram', bytes: hex(RESPONSE) })
    expect(drain(transaction)).toEqual([{ type: 'mapped', endpoint: endpoint('203.0.113.7:41641'), roundTripMs: 30, sends: 1 }])
    expect(transaction.pollTimeout()).toBeUndefined()
  })

  test('an error answer fails it', () => {
    const transaction = new BindingTransaction(instant(0), { transactionId: TXID })
    const value = Uint8Array.of(0, 0, 4, 20)
    const bytes = encodeStunMessage({ type: BINDING_ERROR, transactionId: TXID, attributes: [{ type: ERROR_CODE, value }] })
    expect(decodeBindingAnswer(bytes)).toEqual({ type: 'refused', transactionId: TXID, code: 420 })
    transaction.handleInput(instant(1), { type: 'datagram', bytes })
    expect(drain(transaction).at(-1)).toEqual({ type: 'failed', code: 'STUN_REFUSED' })
  })

  test('keeps the laws of machines', () => {
    machineLaws({
      make: (_random, now) => new BindingTransaction(now, { transactionId: TXID }),
      arbitraryInput: (random) => {
        const bytes = random.chance(0.1) ? hex(RESPONSE) : random.bytes(random.below(60))
        return { type: 'datagram', bytes }
      },
      stateOf: (machine) => (machine instanceof BindingTransaction ? machine.state : 'other'),
      states: ['waiting', 'done'],
    })
  })
})

function mapped(bytes: Uint8Array): string | undefined {
  const answer = decodeBindingAnswer(bytes)
  return answer?.type === 'mapped' ? formatEndpoint(answer.endpoint) : undefined
}

function endpoint(text: string): NonNullable<ReturnType<typeof parseEndpoint>> {
  return parseEndpoint(text) ?? fail()
}

function hex(text: string): Uint8Array {
  return parseHex(text) ?? fail()
}

function fail(): never {
  throw new Error('a fixed value of this test is wrong')
}
