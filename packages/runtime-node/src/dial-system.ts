import net from 'node:net'
import { abortError } from './dial-abort.ts'
import type { MeshSocket } from './running-node.ts'

/** Connects with the kernel's TCP, which is the mesh's behind a TUN device. Rejects with an error whose `code` is Node's. */
export function dialSystem(host: string, port: number, signal: AbortSignal | undefined, timeoutMs: number): Promise<MeshSocket> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ host, port, allowHalfOpen: true })
    const onAbort = (): void => void socket.destroy(abortError(`${host}:${port}: the dial was aborted`, signal))
    const timer = setTimeout(() => socket.destroy(Object.assign(new Error(`${host}:${port}: no answer within ${timeoutMs} ms (is the port allowed by the policy?)`), { code: 'ETIMEDOUT' })), timeoutMs)
    const settle = (): void => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', onAbort)
    }
    signal?.addEventListener('abort', onAbort, { once: true })
    if (signal?.aborted === true) onAbort()
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
