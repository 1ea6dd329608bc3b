import { ByteReader, ByteWriter } from '@meshwright/core'

const MAGIC = 0xfd2fb528
const MAX_BLOCK_BYTES = 131_072
const BLOCK_RLE = 1 // 0 is raw

/** True when the bytes begin as a zstd frame does (RFC 8878 section 3.1.1). */
export function isZstdFrame(bytes: Uint8Array): boolean {
  return bytes.length >= 4 && new ByteReader(bytes).u32le() === MAGIC
}

/**
 * A zstd frame that holds `content` uncompressed: what every decoder reads, made without an encoder (RFC 8878 section 3.1.1).
 *
 * | offset | bytes | field |
 * |---|---|---|
 * | 0 | 4 | magic `28 b5 2f fd` |
 * | 4 | 1 | descriptor a0: single segment, 4-byte content size, no checksum |
 * | 5 | 4 | content size, little-endian |
 * | 9 | 3 + n | blocks of at most 131,072 bytes: 24 bits little-endian (size × 8, type 0 × 2, last), bytes |
 */
export function encodeZstdRaw(content: Uint8Array): Uint8Array {
  const writer = new ByteWriter(9 + content.length + 3 * (1 + Math.floor(content.length / MAX_BLOCK_BYTES)))
  writer.u32le(MAGIC).u8(0xa0).u32le(content.length)
  for (let at = 0; at < content.length || at === 0; at += MAX_BLOCK_BYTES) {
    const block = content.subarray(at, at + MAX_BLOCK_BYTES)
    const header = (block.length << 3) | (at + block.length === content.length ? 1 : 0)
    writer.u16le(header & 0xffff).u8(header >> 16).bytes(block)
  }
  return writer.finish()
}

/**
 * The content of one zstd frame whose blocks are raw or run-length; `undefined` when it is broken, followed by more, longer than
 * `maxBytes`, or has a compressed block (which needs a real decoder). A content checksum is read over.
 */
export function decodeZstdRaw(bytes: Uint8Array, maxBytes: number): Uint8Array | undefined {
  const reader = new ByteReader(bytes)
  const size = readHeader(reader)
  if (size === undefined || (size.content ?? 0) > maxBytes) return undefined
  const blocks: { readonly source: Uint8Array; readonly length: number; readonly repeated: boolean }[] = []
  let total = 0
  for (let last = false; !last; ) {
    const header = reader.u16le() + reader.u8() * 65_536
    last = (header & 1) === 1
    const type = (header >> 1) & 3
    const length = header >> 3
    const source = reader.bytes(type === BLOCK_RLE ? 1 : length)
    total += length
    if (!reader.ok || type > BLOCK_RLE || length > MAX_BLOCK_BYTES || total > maxBytes) return undefined
    blocks.push({ source, length, repeated: type === BLOCK_RLE })
  }
  if (size.checksum) reader.skip(4)
  if (!reader.finished || (size.content !== undefined && size.content !== total)) return undefined
  const content = new Uint8Array(total)
  let to = 0
  for (const block of blocks) {
    if (block.repeated) content.fill(block.source[0] ?? 0, to, to + block.length)
    else content.set(block.source, to)
    to += block.length
  }
  return content
}

function readHeader(reader: ByteReader): { readonly content: number | undefined; readonly checksum: boolean } | undefined {
  const magic = reader.u32le()
  const descriptor = reader.u8()
  const single = (descriptor & 0x20) !== 0
  if (magic !== MAGIC || (descriptor & 0x08) !== 0) return undefined
  if (!single) reader.skip(1) // window descriptor
  reader.skip([0, 1, 2, 4][descriptor & 3] ?? 0) // dictionary id
  const code = descriptor >> 6
  let content: number | undefined
  if (code === 0) content = single ? reader.u8() : undefined
  else if (code === 1) content = reader.u16le() + 256
  else if (code === 2) content = reader.u32le()
  else content = Number(reader.u64le())
  return reader.ok ? { content, checksum: (descriptor & 0x04) !== 0 } : undefined
}
