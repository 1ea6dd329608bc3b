import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { NOISE_UPGRADE } from '@meshwright/control-protocol'
import type { ReadPace } from './noise-stream.ts'
import { boundUnfinished, webSocketBounds } from './websocket-bounds.ts'

/** Largest WebSocket message that is taken: clients cut as they like, records have 4096 bytes at most. */
const MAX_MESSAGE_BYTES = 1_048_576

/** Whether a request asks for the control protocol inside a WebSocket: what clients do that cannot send an upgrade of their own making. */
export function asksForWebSocket(request: IncomingMessage): boolean {
  const protocols = (request.headers['sec-websocket-protocol'] ?? '').split(',').map((name) => name.trim())
  return request.method === 'GET' && request.headers.upgrade?.toLowerCase() === 'websocket' && protocols.includes(NOISE_UPGRADE)
}

/**
 * Takes a WebSocket upgrade and gives the bytes of its binary messages as one stream; the borders of messages mean nothing.
 * @param pace is told what messages hold that are not whole
 */
export async function acceptWebSocket(request: IncomingMessage, socket: Duplex, head: Uint8Array, pace?: ReadPace): Promise<Duplex> {
  // Only when somebody asks for it: most servers never load it.
  const { createWebSocketStream, WebSocketServer } = await import('ws')
  const server = new WebSocketServer({ noServer: true, clientTracking: false, perMessageDeflate: false, ...webSocketBounds(MAX_MESSAGE_BYTES), handleProtocols: () => NOISE_UPGRADE })
  return new Promise((resolve, reject) => {
    socket.once('close', () => reject(new Error('the connection was closed')))
    server.once('wsClientError', reject)
    server.handleUpgrade(request, socket, Buffer.from(head.buffer, head.byteOffset, head.length), (webSocket) => {
      boundUnfinished(webSocket, socket, MAX_MESSAGE_BYTES, pace && ((bytes) => pace.hold(bytes)))
      resolve(createWebSocketStream(webSocket))
    })
  })
}
