import net from 'node:net'
import type { MeshSocket } from './running-node.ts'

/** Connects with the kernel's TCP, which is the mesh's behind a TUN device. Rejects with an error whose `code` is Node's. */
export function dialSystem(host: string, port: number, signal: AbortSignal | undefined, timeoutMs: number): Promise<MeshSocket> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ host, port, allowHalfOpen: true })
    const giveUp = (code: string, message: string): void => void socket.destroy(Object.assign(new Error(`${host}:${port}: ${message}`), { code }))
    const onAbort = (): void => giveUp('ABORT_ERR', 'the dial was aborted')
    const timer = setTimeout(() => giveUp('ETIMEDOUT', `no answer within ${timeoutMs} ms (is the port allowed by the policy?)`), timeoutMs)
    const settle = (): void => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', onAbort)
    }
    signal?.addEventListener('abort', onAbort, { once: true })
    socket.once('error', (error) => {
      settle()
      reject(error)
    })
    socket.once('connect', () => {
      settle()
      resolve(socket as net.Socket & MeshSocket) // its addresses are known once it is connected
    })
  })
}
