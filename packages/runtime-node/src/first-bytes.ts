import type { Socket } from 'node:net'

/**
 * Waits for the first bytes of a connection, and leaves them in it. Nothing more is read of it until somebody else does, so that whoever says
 * nothing, or half of it, costs nothing but the socket. One that ends before is destroyed.
 * @param isEnough whether these are all that is waited for; the bytes so far, again each time that more have come
 */
export function firstBytes(socket: Socket, seen: (bytes: Buffer) => void, isEnough: (bytes: Buffer) => boolean = () => true): void {
  const came: Buffer[] = []
  const look = (): void => {
    const bytes = socket.read() as Buffer | null // no encoding was set
    if (bytes === null) return // its end: `end` or `close` follows
    came.push(bytes)
    const all = came.length === 1 ? bytes : Buffer.concat(came)
    if (!isEnough(all)) return
    socket.off('readable', look).off('end', gone)
    socket.unshift(all)
    seen(all)
  }
  const gone = (): void => void socket.destroy()
  socket.on('readable', look).once('end', gone)
}
