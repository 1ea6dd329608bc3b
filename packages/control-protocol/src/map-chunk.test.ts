import { concatBytes, equalBytes, formatHex, parseHex, utf8Decode, utf8Encode } from '@meshwright/core'
import { expect, test } from 'vitest'
import { decodeZstdRaw, encodeKeepAliveChunk, encodeMapChunk, encodeZstdRaw, frameMapPayload, MapChunkReader } from './index.ts'

function readAll(reader: MapChunkReader): string[] {
  const texts: string[] = []
  for (let next = reader.next(); next !== undefined; next = reader.next()) texts.push(utf8Decode(next))
  return texts
}

test('the keepalive on the wire is the known one', () => {
  expect(formatHex(encodeKeepAliveChunk('zstd'))).toBe('1e00000028b52ffda0120000009100007b224b656570416c697665223a747275657d')
  expect(formatHex(encodeKeepAliveChunk('none'))).toBe('120000007b224b656570416c697665223a747275657d')
})

test('frames come out whole however the body is cut, compressed or not', () => {
  const texts = ['{"KeepAlive":true}', '{}', `{"x":"${'y'.repeat(300_000)}"}`]
  const stream = concatBytes(...texts.flatMap((text) => [encodeMapChunk(utf8Encode(text), 'zstd'), encodeMapChunk(utf8Encode(text), 'none')]))
  for (const size of [1, 5, 4096, stream.length]) {
    const reader = new MapChunkReader()
    const seen: string[] = []
    for (let at = 0; at < stream.length; at += size) {
      reader.push(stream.slice(at, at + size))
      seen.push(...readAll(reader))
    }
    expect(seen).toEqual(texts.flatMap((text) => [text, text]))
    expect(reader.buffered).toBe(0)
  }
})

test('a big-endian or hostile length is refused at once instead of waited for', () => {
  const reader = new MapChunkReader()
  reader.push(Uint8Array.of(0, 0, 1, 0x90))
  expect(reader.next()).toBeUndefined()
  expect(reader.failure).toBe('too-long')
  reader.push(new Uint8Array(1000))
  expect(reader.buffered).toBe(0)
})

test('content of exactly a block, of none and of many blocks survives raw zstd', () => {
  for (const length of [0, 1, 131_071, 131_072, 131_073, 400_000]) {
    const content = Uint8Array.from({ length }, (_, i) => i & 255)
    const decoded = decodeZstdRaw(encodeZstdRaw(content), 1_000_000)
    expect(decoded !== undefined && equalBytes(decoded, content)).toBe(true)
  }
})

test('run-length blocks, checksums and small headers are read; what grows past the bound is not', () => {
  const rle = parseHex('28b52ffd0058' + '0b0000' + '41') ?? new Uint8Array(0) // no size, window byte; last, RLE, 1 byte
  expect(decodeZstdRaw(rle, 10)).toEqual(Uint8Array.of(0x41))
  const checked = parseHex('28b52ffd2403' + '190000' + '616263' + '00000000') ?? new Uint8Array(0)
  expect(decodeZstdRaw(checked, 10)).toEqual(utf8Encode('abc'))
  const bomb = parseHex('28b52ffd0058' + '020010' + '41' + '030010' + '41') ?? new Uint8Array(0)
  expect(decodeZstdRaw(bomb, 300_000)?.length).toBe(262_144)
  expect(decodeZstdRaw(bomb, 200_000)).toBeUndefined()
})

test('compressed blocks need a real decoder, which gets the bound', () => {
  const payload = parseHex('28b52ffd2403' + '1d0000' + '616263') ?? new Uint8Array(0)
  const without = new MapChunkReader()
  without.push(frameMapPayload(payload))
  expect(without.next()).toBeUndefined()
  expect(without.failure).toBe('zstd')
  const asked: number[] = []
  const reader = new MapChunkReader({
    maxFrameBytes: 1000,
    decompress: (bytes, maxBytes) => {
      asked.push(bytes.length, maxBytes)
      return utf8Encode('{}')
    },
  })
  reader.push(frameMapPayload(payload))
  expect(readAll(reader)).toEqual(['{}'])
  expect(asked).toEqual([payload.length, 1000])
})
