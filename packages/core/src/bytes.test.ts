import { describe, expect, test } from 'vitest'
import {
  after, assertNever, ByteReader, ByteWriter, concatBytes, earlier, equalBytes, formatBase64, formatHex, instant, isMeshwrightError, MeshwrightError, PacketBatch, parseBase64, parseHex,
} from './index.ts'

test('what is written in wire order is read back', () => {
  const bytes = new ByteWriter(1).u8(1).u16be(2).u16le(3).u24be(0x10203).u32be(0xffffffff).u32le(4).u64be(5n).u64le(2n ** 64n - 1n).zeros(2).bytes(Uint8Array.of(9, 8)).finish()
  const reader = new ByteReader(bytes)
  expect([reader.u8(), reader.u16be(), reader.u16le(), reader.u24be(), reader.u32be(), reader.u32le(), reader.u64be(), reader.u64le()]).toEqual([1, 2, 3, 0x10203, 0xffffffff, 4, 5n, 2n ** 64n - 1n])
  reader.skip(2)
  expect([...reader.rest()]).toEqual([9, 8])
  expect(reader.finished).toBe(true)
})

describe('a reader past the end', () => {
  test('gives zeros, empty views and ok = false, for good', () => {
    const reader = new ByteReader(Uint8Array.of(1, 2, 3))
    expect(reader.u32be()).toBe(0)
    expect(reader.ok).toBe(false)
    expect([reader.u8(), reader.u16le(), reader.u24be(), reader.u64le(), reader.bytes(1).length, reader.remaining]).toEqual([0, 0, 0, 0n, 0, 0])
    expect(reader.finished).toBe(false)
  })
  test('refuses negative and non-numeric lengths', () => {
    for (const length of [-1, Number.NaN, Number.POSITIVE_INFINITY]) {
      const reader = new ByteReader(Uint8Array.of(1, 2, 3))
      expect(reader.bytes(length).length).toBe(0)
      expect(reader.ok).toBe(false)
    }
  })
})

test('a length can be patched once it is known', () => {
  const writer = new ByteWriter()
  writer.u16be(0).bytes(Uint8Array.of(1, 2, 3))
  expect([...writer.patchU16be(0, writer.length).finish()]).toEqual([0, 5, 1, 2, 3])
})

test('hexadecimal and base64 agree with the platform and refuse what is not theirs', () => {
  for (let length = 0; length < 70; length += 1) {
    const bytes = Uint8Array.from({ length }, (_, i) => (i * 37 + length) & 255)
    expect(formatHex(bytes)).toBe(Buffer.from(bytes).toString('hex'))
    expect(formatBase64(bytes)).toBe(Buffer.from(bytes).toString('base64'))
    expect(parseHex(formatHex(bytes).toUpperCase(), length)).toEqual(bytes)
    expect(parseBase64(formatBase64(bytes))).toEqual(bytes)
  }
  expect([parseHex('abc'), parseHex('zz'), parseHex('abcd', 1), parseBase64('AAA'), parseBase64('AB=='), parseBase64('A=AA'), parseBase64('AA-_')]).toEqual(Array(7).fill(undefined))
})

test('bytes compare and join by value', () => {
  expect(equalBytes(Uint8Array.of(1, 2), Uint8Array.of(1, 2))).toBe(true)
  expect(equalBytes(Uint8Array.of(1, 2), Uint8Array.of(1, 3))).toBe(false)
  expect(equalBytes(Uint8Array.of(1), Uint8Array.of(1, 2))).toBe(false)
  expect([...concatBytes(Uint8Array.of(1), new Uint8Array(0), Uint8Array.of(2, 3))]).toEqual([1, 2, 3])
})

test('an error is known by its code, also to another installed version', () => {
  const error = new MeshwrightError('CORE_TEST', 'a thing is wrong', { remedy: 'mend it' })
  expect(isMeshwrightError(error, 'CORE_TEST')).toBe(true)
  expect(isMeshwrightError(error, 'CORE_OTHER')).toBe(false)
  expect(isMeshwrightError(new Error('CORE_TEST'))).toBe(false)
  expect(isMeshwrightError(undefined)).toBe(false)
  const foreign = Object.assign(new Error('x'), { code: 'CORE_TEST', [Symbol.for('@meshwright/error')]: true })
  expect(isMeshwrightError(foreign, 'CORE_TEST')).toBe(true)
  expect(() => assertNever(1 as never)).toThrow(expect.objectContaining({ code: 'CORE_UNREACHABLE' }))
})

test('deadlines: after adds, earlier takes the minimum and undefined means never', () => {
  const now = instant(10)
  expect(after(now, 5)).toBe(15)
  expect(earlier(now, undefined)).toBe(10)
  expect(earlier(undefined, undefined)).toBeUndefined()
  expect(earlier(after(now, 1), now)).toBe(10)
})

describe('a packet batch', () => {
  test('of slots over its own slab keeps packets apart', () => {
    const batch = PacketBatch.slab(2, 4)
    expect([batch.addCopy(Uint8Array.of(1, 2)), batch.addCopy(Uint8Array.of(3, 4, 5, 6)), batch.addCopy(Uint8Array.of(7))]).toEqual([0, 1, -1])
    expect([...batch.source(0)]).toEqual([1, 2])
    expect([...batch.source(1)]).toEqual([3, 4, 5, 6])
    batch.reset()
    expect(batch.addCopy(Uint8Array.of(1, 2, 3, 4, 5))).toBe(-1)
  })
  test('refuses slots outside its memory', () => {
    const batch = new PacketBatch(new Uint8Array(100), 4)
    expect([batch.addSlot(90, 11), batch.addSlot(-1, 5), batch.addSlot(0, -1), batch.addSlot(0, 10, 101)]).toEqual([-1, -1, -1, -1])
    expect(batch.addSlot(10, 20, 40)).toBe(0)
    batch.targetLength[0] = 3
    expect(batch.result(0).byteOffset - batch.memory.byteOffset).toBe(40)
  })
})

test('hexadecimal of long arrays is made in pieces', () => {
  const bytes = Uint8Array.from({ length: 5_000 }, (_, i) => i & 255)
  expect(formatHex(bytes)).toBe(Buffer.from(bytes).toString('hex'))
})
