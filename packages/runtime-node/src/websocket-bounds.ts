import type { Duplex } from 'node:stream'
import type { WebSocket } from 'ws'

/** What may have come since the last whole message, beside the bytes of one: heads of frames, pings and the like. */
const BESIDE_BYTES = 32_768

/** Options of a WebSocket whose other end nobody trusts. */
export interface WebSocketBounds {
  readonly maxPayload: number
  readonly maxFragments: number
  readonly maxBufferedChunks: number
}

/**
 * A frame of one byte costs a hundred bytes of memory, and a piece of a stream as it came more than that: whoever cuts a message into more than
 * these is none that means well.
 * @param messageBytes the longest message that is taken
 */
export function webSocketBounds(messageBytes: number): WebSocketBounds {
  return { maxPayload: messageBytes, maxFragments: Math.max(64, messageBytes / 4_096), maxBufferedChunks: Math.max(256, messageBytes / 256) }
}

/**
 * Ends a WebSocket on which more has come than a message and its frames since the last whole one. What came stays in memory until its message
 * is whole, and a frame of one byte keeps the whole piece of the stream in which it came: `maxPayload` alone does not bound that.
 * @param transport what the WebSocket is read from: call this in the tick in which it is opened
 * @param hold so many bytes more (or fewer, below zero) are held; false: too many are, and the WebSocket is ended
 */
export function boundUnfinished(webSocket: WebSocket, transport: Duplex, messageBytes: number, hold: (bytes: number) => boolean = () => true): void {
  let since = 0
  const letGo = (): void => {
    hold(-since)
    since = 0
  }
  // Before it is read, so that a whole message begins anew; what follows it in its own piece of the stream is not counted.
  transport.prependListener('data', (bytes: Uint8Array) => {
    since += bytes.length
    if (!hold(bytes.length)) webSocket.terminate()
  })
  webSocket.prependListener('message', letGo)
  transport.on('data', () => {
    if (since > messageBytes + BESIDE_BYTES) webSocket.terminate()
  })
  transport.once('close', letGo)
}
