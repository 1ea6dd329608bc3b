import net from 'node:net'

/** What came of a raw conversation. */
export interface Talk {
  readonly received: Buffer
  /** The other side ended it, within the time. */
  readonly closed: boolean
}

/** Where liars come from: an address of loopback that honest clients do not use. */
export const LIAR_ADDRESS = '127.0.0.66'

/** Where many liars come from, one after the other: sixteen addresses. */
export const LIAR_ADDRESSES: readonly string[] = Array.from({ length: 16 }, (_, i) => `127.0.0.${66 + i}`)

/**
 * Connects, writes the chunks one after the other, and listens until the other side closes or `listenMs` are over. Whatever a chunk
 * function gives is written when the first answer has come.
 */
export function talk(port: number, chunks: readonly (Uint8Array | string | ((received: Buffer) => Uint8Array))[], listenMs: number = 300, from: string = LIAR_ADDRESS): Promise<Talk> {
  return new Promise((resolve) => {
    const socket = net.connect({ port, host: '127.0.0.1', localAddress: from })
    const parts: Buffer[] = []
    const later: ((received: Buffer) => Uint8Array)[] = []
    let closed = false
    const finish = (): void => {
      clearTimeout(timer)
      socket.destroy()
      resolve({ received: Buffer.concat(parts), closed })
    }
    const timer = setTimeout(finish, listenMs)
    socket.on('error', () => undefined) // a reset: the other side did not want any more
    socket.on('data', (bytes: Buffer) => {
      parts.push(bytes)
      for (const chunk of later.splice(0)) socket.write(chunk(Buffer.concat(parts)))
    })
    socket.once('end', () => {
      closed = true
      finish()
    })
    socket.once('close', () => {
      closed = true
      finish()
    })
    socket.once('connect', () => {
      for (const chunk of chunks) {
        if (typeof chunk === 'function') later.push(chunk)
        else socket.write(chunk)
      }
    })
  })
}

/** Connections that are opened, told something, and then left alone. */
export class Crowd {
  readonly #sockets: net.Socket[] = []
  #closed = 0

  /** How many the other side has closed. */
  get closed(): number {
    return this.#closed
  }

  get size(): number {
    return this.#sockets.length
  }

  /** Opens `count` more, some at once; each says `first` and nothing else. Those that are refused count as closed. */
  async open(port: number, count: number, first: Uint8Array | string | (() => Uint8Array), atOnce: number = 250, from: readonly string[] = [LIAR_ADDRESS]): Promise<void> {
    for (let left = count; left > 0; left -= atOnce) {
      await Promise.all(
        Array.from({ length: Math.min(left, atOnce) }, () =>
          new Promise<void>((resolve) => {
            const socket = net.connect({ port, host: '127.0.0.1', localAddress: from[this.#sockets.length % from.length] })
            this.#sockets.push(socket)
            socket.on('error', () => undefined)
            socket.once('close', () => {
              this.#closed += 1
              resolve()
            })
            socket.once('connect', () => {
              const bytes = typeof first === 'function' ? first() : first
              if (bytes.length > 0) socket.write(bytes)
              resolve()
            })
            socket.resume()
          }),
        ),
      )
    }
  }

  /** All that are still open say something more. */
  say(more: Uint8Array | string): void {
    for (const socket of this.#sockets) if (!socket.destroyed) socket.write(more)
  }

  close(): void {
    for (const socket of this.#sockets.splice(0)) socket.destroy()
  }
}

/** The head of an upgrade to the control protocol, with an initiation. */
export function upgradeHead(initiation: Uint8Array | string): string {
  const text = typeof initiation === 'string' ? initiation : Buffer.from(initiation).toString('base64')
  return `POST /ts2021 HTTP/1.1\r\nHost: liar\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\nContent-Length: 0\r\nX-Tailscale-Handshake: ${text}\r\n\r\n`
}

/** The head of an upgrade to a relay's frames. */
export const DERP_HEAD = 'GET /derp HTTP/1.1\r\nHost: liar\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n'

/** What follows the head of an answer. */
export function afterHead(received: Buffer): Buffer {
  const end = received.indexOf('\r\n\r\n')
  return end < 0 ? Buffer.alloc(0) : received.subarray(end + 4)
}

/** The relay's key in its first frame. */
export function relayKeyIn(received: Buffer): Uint8Array {
  return afterHead(received).subarray(13, 45)
}
