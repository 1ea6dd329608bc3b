import { encodePacketFrame, FRAME_RECV_PACKET, FRAME_SEND_PACKET, FrameReader, KEY_BYTES, MAX_PACKET_BYTES } from '@meshwright/derp'
import type { Arms, Question } from './measure.ts'

const SIZES = [64, 1420]
const FRAMES = 64
const CHUNK_BYTES = 16_384

/** How many frames can a relay cut out of a stream and write again, against joining all chunks and copying each frame? */
export function questions(): readonly Question[] {
  return SIZES.map((size) => ({ name: `relay/frames-${size}`, unit: 'frames', setup: (): Arms => arms(size) }))
}

function arms(size: number): Arms {
  const key = new Uint8Array(KEY_BYTES).fill(5)
  const frame = encodePacketFrame(FRAME_SEND_PACKET, key, new Uint8Array(size).fill(6))
  const stream = new Uint8Array(frame.length * FRAMES)
  for (let i = 0; i < FRAMES; i += 1) stream.set(frame, i * frame.length)
  const chunks = Array.from({ length: Math.ceil(stream.length / CHUNK_BYTES) }, (_, i) => stream.subarray(i * CHUNK_BYTES, (i + 1) * CHUNK_BYTES))
  return { baseline: joining(chunks, key), contenders: [frameReader(chunks, key)] }
}

function frameReader(chunks: readonly Uint8Array[], key: Uint8Array): Arms['baseline'] {
  const reader = new FrameReader(() => KEY_BYTES + MAX_PACKET_BYTES)
  return {
    name: 'FrameReader',
    count: FRAMES,
    run(): void {
      let frames = 0
      for (const chunk of chunks) {
        reader.push(chunk)
        for (let frame = reader.next(); frame !== undefined; frame = reader.next()) {
          encodePacketFrame(FRAME_RECV_PACKET, key, frame.payload.subarray(KEY_BYTES))
          frames += 1
        }
      }
      if (frames !== FRAMES) throw new Error(`${frames} frames came out`)
    },
  }
}

function joining(chunks: readonly Uint8Array[], key: Uint8Array): Arms['baseline'] {
  let buffer = new Uint8Array(0)
  return {
    name: 'join and copy',
    count: FRAMES,
    run(): void {
      let frames = 0
      for (const chunk of chunks) {
        buffer = concat([buffer, chunk])
        while (buffer.length >= 5) {
          const length = new DataView(buffer.buffer, buffer.byteOffset).getUint32(1)
          if (buffer.length < 5 + length) break
          const payload = buffer.slice(5, 5 + length)
          buffer = buffer.slice(5 + length)
          const out = concat([key, payload.slice(KEY_BYTES)])
          const header = new Uint8Array(5)
          header[0] = FRAME_RECV_PACKET
          new DataView(header.buffer).setUint32(1, out.length)
          concat([header, out])
          frames += 1
        }
      }
      if (frames !== FRAMES) throw new Error(`${frames} frames came out`)
    },
  }
}

function concat(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const joined = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    joined.set(part, at)
    at += part.length
  }
  return joined
}
