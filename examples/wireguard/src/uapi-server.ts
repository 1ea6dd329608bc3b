import { accessSync, chmodSync, constants, existsSync, mkdirSync, rmSync, watch } from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import { formatHex } from '@meshwright/core'
import { formatEndpoint } from '@meshwright/ip'
import { formatUapi, formatUapiErrno, UAPI_EIO, UapiReader, type UapiRequest } from '@meshwright/wireguard/text'
import type { Controlled } from './controlled.ts'
import { UsageError } from './usage-error.ts'

/** In answers to `get`: when a peer moved (milliseconds since 1970), and where to. */
export const ROAMED_KEY = 'meshwright_roamed'

/** Where `wg` looks for the sockets of interfaces in user space. */
export const UAPI_FOLDER = '/var/run/wireguard'

/** The socket of an interface. */
export function uapiPath(name: string): string {
  return path.join(UAPI_FOLDER, `${name}.sock`)
}

/**
 * Makes sure that nobody serves the socket of this interface, and takes away what a killed program left.
 * @throws UsageError when somebody does
 */
export async function claimUapiPath(file: string): Promise<void> {
  try {
    mkdirSync(path.dirname(file), { recursive: true, mode: 0o755 })
    accessSync(path.dirname(file), constants.W_OK)
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error)
    throw new UsageError(`wg finds interfaces in ${path.dirname(file)}, which cannot be written to (${why}): run as root`, 1)
  }
  if (!existsSync(file)) return
  const served = await new Promise<boolean>((resolve) => {
    const probe = net.connect(file, () => {
      probe.destroy()
      resolve(true)
    })
    probe.on('error', () => resolve(false))
  })
  if (served) throw new UsageError(`the interface is served already: somebody listens at ${file}`, 1)
  rmSync(file, { force: true })
}

/** Serves a tunnel's configuration: whoever may open the socket may read its secrets, so it has mode 0600. */
export class UapiServer {
  readonly #tunnel: Controlled
  readonly #file: string
  readonly #server: net.Server
  readonly #connections: Set<net.Socket> = new Set()
  #closed = false

  constructor(tunnel: Controlled, file: string) {
    this.#tunnel = tunnel
    this.#file = file
    this.#server = net.createServer((socket) => this.#serve(socket))
  }

  /** Begins to listen. @param fd a listening socket that was handed down (WG_UAPI_FD), in place of one at the path */
  listen(fd?: number): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#server.once('error', (error) => reject(new UsageError(`cannot listen at ${this.#file}: ${error.message}`, 1)))
      const before = process.umask(0o077)
      this.#server.listen(fd === undefined ? { path: this.#file } : { fd }, () => {
        if (fd === undefined) chmodSync(this.#file, 0o600)
        resolve()
      })
      process.umask(before)
    })
  }

  /** Calls back once when the socket's file is gone: deleting it is how an interface is ended by hand. */
  whenDeleted(gone: () => void): void {
    const watcher = watch(path.dirname(this.#file), () => {
      if (existsSync(this.#file) || this.#closed) return
      watcher.close()
      gone()
    })
    watcher.unref()
    this.#server.once('close', () => watcher.close())
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    for (const socket of this.#connections) socket.destroy()
    this.#server.close()
    rmSync(this.#file, { force: true })
  }

  #serve(socket: net.Socket): void {
    this.#connections.add(socket)
    socket.on('close', () => this.#connections.delete(socket))
    socket.on('error', () => socket.destroy())
    const reader = new UapiReader()
    // One after the other: answers come in the order of the requests.
    let last: Promise<void> = Promise.resolve()
    socket.on('data', (chunk) => {
      for (const request of reader.push(chunk)) last = last.then(() => this.#answer(socket, request))
    })
  }

  // Lines of our own behind each public key: `wg` passes over keys that it does not know, `audit` reads them.
  async #state(): Promise<string> {
    const device = await this.#tunnel.shown()
    const places = new Map(device.peers.map(({ publicKey }) => [formatHex(publicKey.bytes), this.#tunnel.placesOf(publicKey)]))
    return formatUapi(device).replace(/^public_key=([0-9a-f]{64})\n/gm, (line, key: string) => line + (places.get(key) ?? []).map(({ at, endpoint }) => `${ROAMED_KEY}=${at} ${formatEndpoint(endpoint)}\n`).join(''))
  }

  async #answer(socket: net.Socket, request: UapiRequest): Promise<void> {
    if (socket.destroyed) return
    if (request.type === 'close') socket.destroy()
    else if (request.type === 'get') socket.write(request.errno === 0 ? await this.#state().catch(() => formatUapiErrno(UAPI_EIO)) : formatUapiErrno(request.errno))
    else {
      // What stands before a bad line is done all the same.
      const errno = await this.#tunnel.apply(request.changes).catch(() => UAPI_EIO)
      socket.write(formatUapiErrno(errno === 0 ? request.errno : errno))
    }
  }
}
