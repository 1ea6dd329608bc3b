import type { Readable } from 'node:stream'

/** Everything a request says, or `undefined` when it is more than `limit` bytes or breaks off. */
export async function readBody(stream: Readable, limit: number): Promise<Uint8Array | undefined> {
  const parts: Uint8Array[] = []
  let length = 0
  try {
    for await (const part of stream as AsyncIterable<Uint8Array>) {
      length += part.length
      if (length > limit) return undefined
      parts.push(part)
    }
  } catch {
    return undefined // the other side broke off: there is nobody to tell
  }
  return Buffer.concat(parts)
}
