import { ByteReader, ByteWriter, utf8Encode } from '@meshwright/core'
import { decodeZstdRaw, encodeZstdRaw, isZstdFrame } from './zstd.ts'

/** How a client asked for its frames: `MapRequest.Compress` is `zstd`, or empty. */
export type MapCompression = 'zstd' | 'none'

const LENGTH_BYTES = 4
/** Largest frame, compressed or not, unless told otherwise: a full map of some 50,000 peers. */
export const DEFAULT_MAX_MAP_FRAME_BYTES = 67_108_864

/** The one spelling of a keepalive: real clients compare the compressed bytes, so it must never vary. */
const KEEP_ALIVE: Uint8Array = utf8Encode('{"KeepAlive":true}')

/**
 * One frame of a map stream: length as u32 **little-endian**, then the payload (tailscale/tailscale:control/controlclient/direct.go).
 * With `zstd` the payload is a zstd frame that holds the JSON uncompressed, which every client reads.
 */
export function encodeMapChunk(json: Uint8Array, compression: MapCompression): Uint8Array {
  const payload = compression === 'zstd' ? encodeZstdRaw(json) : json
  return new ByteWriter(LENGTH_BYTES + payload.length).u32le(payload.length).bytes(payload).finish()
}

/** As {@link encodeMapChunk} for a payload that is already in its final form, such as a really compressed one. */
export function frameMapPayload(payload: Uint8Array): Uint8Array {
  return new ByteWriter(LENGTH_BYTES + payload.length).u32le(payload.length).bytes(payload).finish()
}

/** The keepalive frame, the same bytes every time. */
export function encodeKeepAliveChunk(compression: MapCompression): Uint8Array {
  return encodeMapChunk(KEEP_ALIVE, compression)
}

/** Why a map stream cannot be read further. */
export type MapChunkFailure = 'too-long' | 'zstd'

/** Settings of a {@link MapChunkReader}. */
export interface MapChunkReaderOptions {
  /** Largest frame and largest document, in bytes. */
  readonly maxFrameBytes?: number
  /** A real zstd decoder, where the runtime has one: gives the content, at most `maxBytes`, or `undefined`. */
  readonly decompress?: (payload: Uint8Array, maxBytes: number) => Uint8Array | undefined
}

/**
 * Cuts the body of a map stream into JSON documents. Memory grows with what has really come, never with what a length announces.
 * Payloads that begin as zstd are unpacked: raw and run-length blocks here, all others by `decompress`.
 */
export class MapChunkReader {
  readonly #maxBytes: number
  readonly #decompress: MapChunkReaderOptions['decompress']
  #parts: Uint8Array[] = []
  #held = 0
  #failure: MapChunkFailure | undefined

  constructor(options: MapChunkReaderOptions = {}) {
    this.#maxBytes = options.maxFrameBytes ?? DEFAULT_MAX_MAP_FRAME_BYTES
    this.#decompress = options.decompress
  }

  /** Set once the stream is lost: nothing more is read from it. */
  get failure(): MapChunkFailure | undefined {
    return this.#failure
  }

  /** Bytes that wait for the rest of their frame. */
  get buffered(): number {
    return this.#held
  }

  /** Adds a chunk of the body, which is kept: the caller must not change it any more. Call {@link MapChunkReader.next} until it gives nothing. */
  push(chunk: Uint8Array): void {
    if (this.#failure !== undefined || chunk.length === 0) return
    this.#parts.push(chunk)
    this.#held += chunk.length
  }

  /** The next document's bytes, or `undefined` when more must come or the stream is lost. */
  next(): Uint8Array | undefined {
    if (this.#failure !== undefined || this.#held < LENGTH_BYTES) return undefined
    const length = new ByteReader(this.#peek(LENGTH_BYTES)).u32le()
    if (length > this.#maxBytes) return this.#fail('too-long')
    if (this.#held < LENGTH_BYTES + length) return undefined
    const payload = this.#peek(LENGTH_BYTES + length).slice(LENGTH_BYTES, LENGTH_BYTES + length)
    this.#drop(LENGTH_BYTES + length)
    if (!isZstdFrame(payload)) return payload
    return decodeZstdRaw(payload, this.#maxBytes) ?? this.#decompress?.(payload, this.#maxBytes) ?? this.#fail('zstd')
  }

  // Joins parts only once a whole frame is there, so many small chunks cost one copy.
  #peek(length: number): Uint8Array {
    const first = this.#parts[0] ?? new Uint8Array(0)
    if (first.length >= length) return first
    let held = 0
    let count = 0
    while (held < length && count < this.#parts.length) {
      held += this.#parts[count]?.length ?? 0
      count += 1
    }
    const joined = new Uint8Array(held)
    let at = 0
    for (const part of this.#parts.splice(0, count)) {
      joined.set(part, at)
      at += part.length
    }
    this.#parts.unshift(joined)
    return joined
  }

  #drop(length: number): void {
    const first = this.#parts[0]
    if (first === undefined) return
    if (first.length > length) this.#parts[0] = first.subarray(length)
    else this.#parts.shift()
    this.#held -= length
  }

  #fail(failure: MapChunkFailure): undefined {
    this.#failure = failure
    this.#parts = []
    this.#held = 0
    return undefined
  }
}
