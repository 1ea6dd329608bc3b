import fc from 'fast-check'
import { expect, test } from 'vitest'
import { decodeDocument, decodeMapResponse, encodeJson, encodeZstdRaw, decodeZstdRaw, formatJson, formatTime, parseJson, parseTime } from './index.ts'

test('any JSON with integers of any size comes back as it was', () => {
  const value = fc.letrec((tie) => ({
    any: fc.oneof({ maxDepth: 5 }, fc.string(), fc.boolean(), fc.constant(null), fc.bigInt({ min: 2n ** 53n, max: 2n ** 90n }), fc.maxSafeInteger(), fc.double({ noNaN: true, noDefaultInfinity: true, min: -1e10, max: 1e10 }).filter((x) => !Object.is(x, -0)), fc.array(tie('any')), fc.dictionary(fc.string(), tie('any'))),
  })).any
  fc.assert(fc.property(value, (given) => {
    expect(parseJson(formatJson(given))).toEqual(given)
  }))
})

test('any JSON at all is either a MapResponse or refused with a problem, never thrown at', () => {
  fc.assert(fc.property(fc.jsonValue(), (given) => {
    const decoded = decodeMapResponse(given)
    expect(decoded.ok || decoded.problem.length > 0).toBe(true)
  }))
  fc.assert(fc.property(fc.dictionary(fc.constantFrom('Node', 'Peers', 'PeersChanged', 'DERPMap', 'PacketFilters', 'KeepAlive', 'OnlineChange'), fc.jsonValue()), (given) => {
    const decoded = decodeMapResponse(given)
    // What is accepted survives being written and read again.
    if (decoded.ok) expect(decodeDocument(decodeMapResponse, encodeJson(decoded.value))).toEqual(decoded)
  }))
})

test('times come back to the millisecond', () => {
  fc.assert(fc.property(fc.integer({ min: -62_135_596_800_000, max: 253_402_300_799_999 }), (at) => {
    expect(parseTime(formatTime(at))).toBe(at)
  }))
})

test('raw zstd gives back any content and refuses every cut of it', () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat(), (content, cut) => {
    const frame = encodeZstdRaw(content)
    expect(decodeZstdRaw(frame, 300)).toEqual(content)
    expect(decodeZstdRaw(frame.subarray(0, cut % frame.length), 300)).toBeUndefined()
  }))
})
