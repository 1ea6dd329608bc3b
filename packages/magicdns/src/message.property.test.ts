import fc from 'fast-check'
import { Ip } from '@meshwright/ip'
import { expect, test } from 'vitest'
import { decodeDns, type DnsData, type DnsMessage, encodeDns, parseReverseName, reverseName } from './index.ts'

const label = fc.stringMatching(/^[a-zA-Z0-9_-]{1,20}$/)
const name = fc.array(label, { maxLength: 6 }).map((labels) => (labels.length === 0 ? '.' : `${labels.join('.')}.`))
const u16 = fc.nat({ max: 0xffff })
const u32 = fc.nat({ max: 0xffff_ffff })
const bytes = (minLength: number, maxLength: number): fc.Arbitrary<Uint8Array> => fc.uint8Array({ minLength, maxLength })
const address = (length: number): fc.Arbitrary<Ip> => bytes(length, length).map((value) => Ip.fromOwnedBytes(value))
const data: fc.Arbitrary<DnsData> = fc.oneof(
  fc.record({ type: fc.constant('A' as const), address: address(4) }),
  fc.record({ type: fc.constant('AAAA' as const), address: address(16) }),
  fc.record({ type: fc.constantFrom('PTR' as const, 'CNAME' as const, 'NS' as const), target: name }),
  fc.record({ type: fc.constant('TXT' as const), texts: fc.array(bytes(0, 60), { maxLength: 4 }) }),
  fc.record({ type: fc.constant('SRV' as const), priority: u16, weight: u16, port: u16, target: name }),
  fc.record({ type: fc.constant('SOA' as const), primary: name, mailbox: name, serial: u32, refresh: u32, retry: u32, expire: u32, minimum: u32 }),
  fc.record({ type: fc.constant('other' as const), code: fc.constantFrom(65, 257, 52), bytes: bytes(0, 40) }),
)
const record = fc.record({ name, class: u16, ttl: u32, data })
const records = fc.array(record, { maxLength: 4 })
const message: fc.Arbitrary<DnsMessage> = fc.record({
  id: u16,
  response: fc.boolean(),
  opcode: fc.nat({ max: 15 }),
  authoritative: fc.boolean(),
  truncated: fc.boolean(),
  recursionDesired: fc.boolean(),
  recursionAvailable: fc.boolean(),
  authenticData: fc.boolean(),
  checkingDisabled: fc.boolean(),
  rcode: fc.nat({ max: 15 }),
  questions: fc.array(fc.record({ name, type: u16, class: u16 }), { maxLength: 2 }),
  answers: records,
  authorities: records,
  additionals: records,
  edns: fc.record({ udpSize: u16, version: fc.constant(0), dnssecOk: fc.boolean(), extendedRcode: fc.nat({ max: 255 }), options: bytes(0, 20) }),
})

/** Compression may give a name the letters' case of an earlier one. */
const fold = (value: unknown): unknown => JSON.parse(JSON.stringify(value, (_key, item: unknown) => (item instanceof Uint8Array ? [...item] : item)).toLowerCase())

test('a message survives encoding and decoding', () => {
  fc.assert(
    fc.property(message, (original) => {
      expect(fold(decodeDns(encodeDns(original)))).toEqual(fold(original))
    }),
    { numRuns: 300 },
  )
})

test('every cut of a message is refused, and so is anything behind it', () => {
  fc.assert(
    fc.property(message, (original) => {
      const whole = encodeDns(original)
      for (let length = 0; length < whole.length; length += 1) expect(decodeDns(whole.subarray(0, length))).toBeUndefined()
      expect(decodeDns(Uint8Array.from([...whole, 0]))).toBeUndefined()
    }),
    { numRuns: 40 },
  )
})

test('too long a message keeps its question and says that it is cut off', () => {
  fc.assert(
    fc.property(message, (original) => {
      const cut = encodeDns(original, 512)
      expect(cut.length).toBeLessThanOrEqual(512)
      if (encodeDns(original).length > 512) expect(decodeDns(cut)).toMatchObject({ truncated: true, answers: [], questions: original.questions.map(({ type }) => ({ type })) })
    }),
    { numRuns: 100 },
  )
})

test('the reverse name of an address leads back to it', () => {
  fc.assert(
    fc.property(fc.oneof(address(4), address(16)), (ip) => {
      expect(parseReverseName(reverseName(ip).toUpperCase())?.key).toBe(ip.key)
    }),
  )
})

test('names are compressed, and a second copy of a name costs two bytes', () => {
  const once = encodeDns({ id: 1, response: false, opcode: 0, rcode: 0, questions: [{ name: 'web.example.com.', type: 1, class: 1 }] })
  const twice = encodeDns({ id: 1, response: false, opcode: 0, rcode: 0, questions: [{ name: 'web.example.com.', type: 1, class: 1 }, { name: 'WEB.example.com.', type: 1, class: 1 }] })
  expect(twice.length - once.length).toBe(6)
})

const header = [0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
test.each([
  ['a pointer to itself', [0xc0, 12]],
  ['a pointer forward', [0xc0, 14, 0]],
  ['a pointer into the header', [0xc0, 0]],
  ['a loop of two', [1, 97, 0xc0, 12]],
  ['a reserved label kind', [0x80, 0]],
  ['a label behind the end', [60, 97]],
  ['a name of more than 255 bytes', [...Array.from({ length: 5 }, () => [63, ...new Array<number>(63).fill(97)]).flat(), 0]],
])('%s is no name', (_what, bytesOfName) => {
  expect(decodeDns(Uint8Array.from([...header, ...bytesOfName, 0, 1, 0, 1]))).toBeUndefined()
})

test('a chain of pointers is followed only so far', () => {
  const chain = (pointers: number): Uint8Array => {
    // One record of an unknown type carries the root and then pointers, each to the one before; the next record's name is the last of them.
    const at = 12 + 1 + 10
    const data = [0, ...Array.from({ length: pointers - 1 }, (_, i) => [0xc0 | ((at + (i === 0 ? 0 : 1 + 2 * (i - 1))) >> 8), (at + (i === 0 ? 0 : 1 + 2 * (i - 1))) & 255]).flat()]
    const last = at + 1 + 2 * (pointers - 2)
    const record = [0, 0, 65, 0, 1, 0, 0, 0, 0, data.length >> 8, data.length & 255, ...data]
    return Uint8Array.from([0, 1, 0x80, 0, 0, 0, 0, 2, 0, 0, 0, 0, ...record, 0xc0 | (last >> 8), last & 255, 0, 65, 0, 1, 0, 0, 0, 0, 0, 0])
  }
  expect(decodeDns(chain(127))?.answers).toHaveLength(2)
  expect(decodeDns(chain(128))).toBeUndefined()
})

test('bytes of a label that are no plain letters survive as escapes', () => {
  const wire = Uint8Array.from([...header, 4, 0x2e, 0x5c, 0x00, 0xff, 0, 0, 1, 0, 1])
  const read = decodeDns(wire)
  expect(read?.questions[0]?.name).toBe('\\.\\\\\\000\\255.')
  expect(read && encodeDns(read)).toEqual(wire)
  expect(() => encodeDns({ id: 1, response: false, opcode: 0, rcode: 0, questions: [{ name: 'ä.example.', type: 1, class: 1 }] })).toThrow(expect.objectContaining({ code: 'MAGICDNS_NAME' }))
})
