import type { Readable } from 'node:stream'

/**
 * Everything a request says, or `undefined` when it is more than `limit` bytes or breaks off. What is too much is left unread and the
 * stream open, so that the caller can say so; then the caller must close it.
 */
export function readBody(stream: Readable, limit: number): Promise<Uint8Array | undefined> {
  return new Promise((resolve) => {
    const parts: Uint8Array[] = []
    let length = 0
    const finish = (whole: boolean): void => {
      stream.off('data', onData).off('end', onEnd).off('close', onClose).off('error', onClose)
      if (!whole) stream.pause()
      resolve(whole ? Buffer.concat(parts) : undefined)
    }
    const onData = (part: Uint8Array): void => {
      length += part.length
      if (length > limit) finish(false)
      else parts.push(part)
    }
    const onEnd = (): void => finish(true)
    const onClose = (): void => finish(false) // the other side broke off: there is nobody to tell
    if (stream.destroyed) return onClose()
    stream.on('data', onData).on('end', onEnd).on('close', onClose).on('error', onClose)
  })
}
