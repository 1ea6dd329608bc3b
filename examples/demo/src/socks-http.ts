import http from 'node:http'
import { connect, type Socket } from 'node:net'

const REPLIES: Readonly<Record<number, string>> = { 1: 'general failure', 2: 'not allowed', 4: 'host unreachable', 5: 'refused', 6: 'timed out' }

/** An answer over the mesh. */
export interface MeshAnswer {
  readonly status: number
  readonly body: string
}

/** One HTTP request through a node's SOCKS5 port (RFC 1928), on a connection of its own. The host is resolved by the node. @throws Error */
export async function httpThroughSocks(socksPort: number, host: string, port: number, options: { readonly timeoutMs: number; readonly path?: string; readonly body?: Uint8Array }): Promise<MeshAnswer> {
  const socket = connect(socksPort, '127.0.0.1')
  const timer = setTimeout(() => socket.destroy(new Error(`no answer within ${options.timeoutMs} ms`)), options.timeoutMs)
  try {
    await greet(socket, host, port)
    return await ask(socket, `${host}:${port}`, options.path ?? '/', options.body)
  } finally {
    clearTimeout(timer)
    socket.destroy()
  }
}

async function greet(socket: Socket, host: string, port: number): Promise<void> {
  const name = Buffer.from(host, 'latin1')
  socket.write(Buffer.concat([Buffer.of(5, 1, 0, 5, 1, 0, 3, name.length), name, Buffer.of(port >> 8, port & 255)]))
  const answer = await take(socket, 12) // 2 bytes for the greeting, 10 for the request: the node's replies carry an IPv4 address always
  if (answer[3] !== 0) throw new Error(`connection ${REPLIES[answer[3] ?? 0] ?? `failed (SOCKS5 reply ${answer[3] ?? '?'})`}`)
}

function take(socket: Socket, length: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    let bytes: Buffer = Buffer.alloc(0)
    const done = (): void => {
      socket.off('data', onData).off('error', fail).off('close', onClose)
    }
    const fail = (error: Error): void => {
      done()
      reject(error)
    }
    const onClose = (): void => fail(new Error('the connection was closed'))
    const onData = (more: Buffer): void => {
      bytes = Buffer.concat([bytes, more])
      if (bytes.length < length) return
      done()
      resolve(bytes) // the server of HTTP speaks second: nothing can have come behind the reply
    }
    socket.on('data', onData).once('error', fail).once('close', onClose)
  })
}

function ask(socket: Socket, authority: string, path: string, body: Uint8Array | undefined): Promise<MeshAnswer> {
  return new Promise((resolve, reject) => {
    const request = http.request({ createConnection: () => socket, method: body === undefined ? 'GET' : 'POST', path, headers: { Host: authority, ...(body === undefined ? {} : { 'Content-Length': body.length }) } }, (response) => {
      let text = ''
      response.setEncoding('utf8')
      response.on('data', (more: string) => (text += more))
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body: text }))
      response.on('error', reject)
    })
    request.on('error', reject)
    request.end(body)
  })
}
