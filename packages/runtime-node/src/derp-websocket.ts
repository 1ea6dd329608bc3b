import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'
import type { WebSocket } from 'ws'
import { boundUnfinished, webSocketBounds } from './websocket-bounds.ts'

const PROTOCOL = 'derp'
/** Longest message that is taken of a client: a real relay takes no longer one either, so that no client sends one (derper 1.102.5). */
const TAKEN_MESSAGE_BYTES = 32_768
/** Largest message that is taken of a relay: it cuts as it likes, and its largest frame has 64 KiB and a little. */
const MAX_MESSAGE_BYTES = 1_048_576
/** Longest message that is sent: a real relay ends the connection above 32,768 bytes (seen with derper 1.102.5). */
const SENT_MESSAGE_BYTES = 16_384
/** RFC 6455 section 7.4.1: a type of data that cannot be accepted. */
const CLOSE_UNSUPPORTED_DATA = 1003

/** Loads what speaks WebSocket now: to load it when the first client asks would hold up all others for ten milliseconds. */
export function loadWebSockets(): void {
  import('ws').catch(() => undefined) // whoever asks for one is told
}

/**
 * Takes a WebSocket upgrade of the subprotocol `derp` and gives the bytes of its binary messages as one stream; the borders of messages
 * mean nothing. A text message ends the connection. Source: tailscale/tailscale:derp/derpserver/websocket.go.
 */
export async function acceptDerpWebSocket(request: IncomingMessage, socket: Duplex, head: Uint8Array): Promise<Duplex> {
  const { WebSocketServer } = await import('ws')
  const server = new WebSocketServer({ noServer: true, clientTracking: false, perMessageDeflate: false, ...webSocketBounds(TAKEN_MESSAGE_BYTES), handleProtocols: () => PROTOCOL })
  return new Promise((resolve, reject) => {
    socket.once('close', () => reject(new Error('the connection was closed')))
    server.once('wsClientError', reject)
    server.handleUpgrade(request, socket, Buffer.from(head.buffer, head.byteOffset, head.length), (webSocket) => {
      boundUnfinished(webSocket, socket, TAKEN_MESSAGE_BYTES)
      resolve(new WebSocketBytes(webSocket))
    })
  })
}

/** Asks for a WebSocket of the subprotocol `derp` on a connected socket, TLS or not, and gives its bytes as one stream. */
export async function dialDerpWebSocket(socket: Socket, host: string, signal: AbortSignal): Promise<Duplex> {
  const ws = await import('ws')
  signal.throwIfAborted()
  // `ws:` whatever the socket is: TLS, where there is any, is done already.
  const webSocket = new ws.WebSocket(`ws://${host}/derp`, PROTOCOL, { createConnection: () => socket, perMessageDeflate: false, ...webSocketBounds(MAX_MESSAGE_BYTES) })
  return new Promise((resolve, reject) => {
    const fail = (error: Error): void => {
      signal.removeEventListener('abort', onAbort)
      webSocket.on('error', () => undefined) // `close` follows and changes nothing any more
      webSocket.terminate()
      reject(error)
    }
    const onAbort = (): void => fail(new Error('given up'))
    signal.addEventListener('abort', onAbort, { once: true })
    webSocket.once('error', fail)
    webSocket.once('open', () => {
      signal.removeEventListener('abort', onAbort)
      webSocket.off('error', fail)
      boundUnfinished(webSocket, socket, MAX_MESSAGE_BYTES)
      resolve(new WebSocketBytes(webSocket))
    })
  })
}

/** The binary messages of a WebSocket as a stream of bytes, with back-pressure both ways. */
class WebSocketBytes extends Duplex {
  readonly #webSocket: WebSocket

  constructor(webSocket: WebSocket) {
    super()
    this.#webSocket = webSocket
    webSocket.on('message', (data, isBinary) => {
      if (!isBinary || !(data instanceof Buffer)) return webSocket.close(CLOSE_UNSUPPORTED_DATA)
      if (webSocket.readyState === webSocket.OPEN && !this.push(data)) webSocket.pause()
    })
    webSocket.on('error', (error) => this.destroy(error))
    webSocket.once('close', () => this.destroy())
  }

  override _read(): void {
    if (this.#webSocket.isPaused) this.#webSocket.resume()
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#send(chunk, done)
  }

  // What is corked together leaves together.
  override _writev(chunks: { chunk: Buffer }[], done: (error?: Error | null) => void): void {
    this.#send(Buffer.concat(chunks.map(({ chunk }) => chunk)), done)
  }

  #send(bytes: Buffer, done: (error?: Error | null) => void): void {
    let at = 0
    for (; bytes.length - at > SENT_MESSAGE_BYTES; at += SENT_MESSAGE_BYTES) this.#webSocket.send(bytes.subarray(at, at + SENT_MESSAGE_BYTES))
    this.#webSocket.send(bytes.subarray(at), done)
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#webSocket.close()
    done()
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#webSocket.terminate()
    done(error)
  }
}
