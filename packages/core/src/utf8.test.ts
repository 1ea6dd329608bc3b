import { expect, test } from 'vitest'
import { utf8Decode, utf8DecodeStrict, utf8Encode } from './index.ts'

test('UTF-8 agrees with the platform on every code point and on random bytes', () => {
  for (let code = 0; code <= 0x10ffff; code += code < 0x3000 ? 1 : 37) {
    const text = String.fromCodePoint(code)
    expect(Buffer.from(utf8Encode(text))).toEqual(Buffer.from(new TextEncoder().encode(text)))
  }
  let state = 12345
  for (let round = 0; round < 5000; round += 1) {
    const bytes = Uint8Array.from({ length: round % 13 }, () => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0
      return round % 2 ? state >>> 24 : [0xe0, 0xed, 0xf0, 0xf4, 0x80, 0x9f, 0xa0, 0xbf, 0x41, 0xc2, 0xff][(state >>> 16) % 11]!
    })
    expect(utf8Decode(bytes)).toBe(new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes))
    const strict = utf8DecodeStrict(bytes)
    expect(strict === undefined).toBe(utf8Decode(bytes).includes('\ufffd'))
  }
})
