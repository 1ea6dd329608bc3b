import { createHash } from 'node:crypto'
import http from 'node:http'
import net, { type Socket } from 'node:net'
import type { Lab } from './lab-process.ts'
import { patternBytes } from './wireguard-commands.ts'

const REPLIES: Readonly<Record<number, string>> = { 1: 'general failure', 2: 'not allowed', 3: 'network unreachable', 4: 'host unreachable', 5: 'refused', 6: 'timed out' }

/** An answer that came over the mesh. */
export interface WebAnswer {
  readonly status: number
  readonly body: Buffer
  readonly ms: number
}

/**
 * A program behind a node: on loopback, where nodes in userspace mode hand connections to. `GET /` greets, `GET /bytes/N` sends N bytes,
 * `POST /hash` answers the hash of what came, `GET /drip/N` sends a line every 50 ms, N times.
 */
export async function startWeb(lab: Lab, greeting: string): Promise<number> {
  const server = http.createServer((request, response) => {
    const [, verb = '', count = '0'] = (request.url ?? '/').split('/')
    if (verb === 'bytes') return void response.end(patternBytes(Number(count)))
    if (verb === 'drip') return drip(response, Number(count))
    if (verb === 'hash') {
      const hash = createHash('sha256')
      request.on('data', (bytes: Buffer) => hash.update(bytes))
      request.on('end', () => response.end(hash.digest('hex')))
      return
    }
    response.end(greeting)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  lab.onStop(() => {
    server.closeAllConnections()
    server.close()
  })
  const address = server.address()
  if (typeof address !== 'object' || address === null) throw new Error('no port')
  return address.port
}

function drip(response: http.ServerResponse, lines: number): void {
  let sent = 0
  const timer = setInterval(() => {
    sent += 1
    response.write(`line ${sent}\n`)
    if (sent < lines) return
    clearInterval(timer)
    response.end()
  }, 50)
  response.on('close', () => clearInterval(timer))
}

/** What a transfer of `size` bytes must hash to. */
export function patternHash(size: number): string {
  return sha256(patternBytes(size))
}

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/** One HTTP request through a SOCKS5 port (RFC 1928), on a connection of its own; a name is resolved by the proxy. @throws Error */
export async function webThroughSocks(socksPort: number, host: string, port: number, options: { readonly path?: string; readonly body?: Uint8Array; readonly timeoutMs?: number } = {}): Promise<WebAnswer> {
  const begun = performance.now()
  const limitMs = options.timeoutMs ?? 10_000
  const socket = net.connect(socksPort, '127.0.0.1')
  const timer = setTimeout(() => socket.destroy(new Error(`no answer from ${host}:${port} within ${limitMs} ms`)), limitMs)
  try {
    await greet(socket, host, port)
    const answer = await ask(socket, `${host}:${port}`, options.path ?? '/', options.body)
    return { ...answer, ms: performance.now() - begun }
  } finally {
    clearTimeout(timer)
    socket.destroy()
  }
}

/** Whether a connection through a SOCKS5 port opens in time: that of one packet each way, and nothing is sent on it. */
export async function opensThroughSocks(socksPort: number, host: string, port: number, timeoutMs: number): Promise<boolean> {
  const socket = net.connect(socksPort, '127.0.0.1')
  const timer = setTimeout(() => socket.destroy(), timeoutMs)
  return greet(socket, host, port)
    .then(() => true, () => false)
    .finally(() => {
      clearTimeout(timer)
      socket.destroy()
    })
}

/** A download of lines that goes on while other things happen. */
export interface Drip {
  /** How many lines have come. */
  readonly lines: number
  /** When the last of them came, by `performance.now()`. */
  readonly lastAt: number
  /** Why it ended, if it did. */
  readonly ended: string | undefined
  close(): void
}

/** Asks for `/drip/LINES` through a SOCKS5 port; gives the download when the first line is there. @throws Error */
export async function openDrip(socksPort: number, host: string, port: number, lines: number): Promise<Drip> {
  const socket = net.connect(socksPort, '127.0.0.1')
  const drip = { lines: 0, lastAt: 0, ended: undefined as string | undefined, close: () => void socket.destroy() }
  const limit = setTimeout(() => socket.destroy(new Error(`no line from ${host}:${port}`)), 5_000)
  try {
    await greet(socket, host, port)
    await new Promise<void>((resolve, reject) => {
      const end = (how: string): void => {
        drip.ended ??= how
        reject(new Error(how))
      }
      socket.on('error', (error) => end(error.message)).on('close', () => end('closed'))
      const request = http.request({ createConnection: () => socket, path: `/drip/${lines}`, headers: { Host: host, Connection: 'close' } }, (response) => {
        response.on('data', (bytes: Buffer) => {
          drip.lines += bytes.toString('latin1').split('\n').length - 1
          drip.lastAt = performance.now()
          resolve()
        })
        response.on('end', () => end('complete')).on('error', (error) => end(error.message))
      })
      request.on('error', (error) => end(error.message))
      request.end()
    })
    return drip
  } finally {
    clearTimeout(limit)
    if (drip.lines === 0) socket.destroy()
  }
}

/** A connection through a SOCKS5 port that may be half-closed. @throws Error */
export async function connectThroughSocks(socksPort: number, host: string, port: number, limitMs: number = 10_000): Promise<Socket> {
  const socket = net.connect({ host: '127.0.0.1', port: socksPort, allowHalfOpen: true })
  const timer = setTimeout(() => socket.destroy(new Error(`no connection to ${host}:${port} within ${limitMs} ms`)), limitMs)
  try {
    await greet(socket, host, port)
    return socket
  } catch (error) {
    socket.destroy()
    throw error
  } finally {
    clearTimeout(timer)
  }
}

async function greet(socket: Socket, host: string, port: number): Promise<void> {
  const name = Buffer.from(host, 'latin1')
  socket.write(Buffer.of(5, 1, 0))
  const method = await take(socket, 2)
  if (method[1] !== 0) throw new Error('the SOCKS5 proxy wants a password')
  const v4 = net.isIPv4(host) ? Buffer.from(host.split('.').map(Number)) : undefined
  socket.write(Buffer.concat([Buffer.of(5, 1, 0), v4 === undefined ? Buffer.concat([Buffer.of(3, name.length), name]) : Buffer.concat([Buffer.of(1), v4]), Buffer.of(port >> 8, port & 255)]))
  const answer = await take(socket, 4)
  if (answer[1] !== 0) throw new Error(`connection ${REPLIES[answer[1] ?? 0] ?? `failed (SOCKS5 reply ${String(answer[1])})`}`)
  const addressBytes = answer[3] === 1 ? 4 : answer[3] === 4 ? 16 : ((await take(socket, 1))[0] ?? 0)
  await take(socket, addressBytes + 2)
}

function take(socket: Socket, length: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const done = (): void => void socket.off('readable', look).off('error', reject).off('close', onClose)
    const onClose = (): void => {
      done()
      reject(new Error('the proxy closed the connection'))
    }
    const look = (): void => {
      const bytes: unknown = socket.read(length)
      if (!Buffer.isBuffer(bytes)) return
      done()
      resolve(bytes)
    }
    socket.on('readable', look).once('error', reject).once('close', onClose)
    look()
  })
}

function ask(socket: Socket, authority: string, path: string, body: Uint8Array | undefined): Promise<{ readonly status: number; readonly body: Buffer }> {
  return new Promise((resolve, reject) => {
    const headers = { Host: authority, Connection: 'close', ...(body !== undefined && { 'Content-Length': body.length }) }
    const request = http.request({ createConnection: () => socket, method: body === undefined ? 'GET' : 'POST', path, headers }, (response) => {
      const parts: Buffer[] = []
      response.on('data', (bytes: Buffer) => parts.push(bytes))
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body: Buffer.concat(parts) }))
      response.on('error', reject)
    })
    request.on('error', reject)
    request.end(body)
  })
}
