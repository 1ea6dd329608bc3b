import { type IncomingMessage, STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'

/** Fields of a head that are read; a head with more of them is refused, because what is not read is not known. */
export const MAX_FIELDS = 100
/** How long a refusal has to reach who sent what is refused; nothing of it is read meanwhile. */
const LINGER_MS = 500

/** What is said to who sent no request. */
export const REFUSAL_TEXTS: Readonly<Record<RefusalStatus, string>> = {
  400: 'this is not a request of HTTP/1.1\n',
  408: 'the request did not come in time\n',
  413: 'a chunk extension is too large\n',
  431: `a head may have 16 KiB and ${MAX_FIELDS} fields\n`,
}

/** A status of {@link refusal}. */
export type RefusalStatus = 400 | 408 | 413 | 431

/** The bytes of a refusal, after which the connection ends. */
export function refusal(status: RefusalStatus, body: string = REFUSAL_TEXTS[status]): string {
  return `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`
}

/** With what a parse error of Node's HTTP server (`clientError`) is answered; `undefined`: with nothing, because nobody is there or no HTTP is spoken. */
export function refusalOf(error: { readonly code?: string | undefined }): RefusalStatus | undefined {
  switch (error.code) {
    case 'HPE_HEADER_OVERFLOW':
      return 431
    case 'HPE_CHUNK_EXTENSIONS_OVERFLOW':
      return 413
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return 408
    default:
      return error.code?.startsWith('HPE_') === true ? 400 : undefined
  }
}

/**
 * What is wrong with a head although Node read it: it takes HTTP/0.9, and leaves out fields above its limit and all but the first `Host`
 * (which RFC 9112, section 3.2, has answered with 400).
 */
export function faultOf(request: Pick<IncomingMessage, 'rawHeaders' | 'httpVersionMajor'>): RefusalStatus | undefined {
  const { rawHeaders, httpVersionMajor } = request
  if (httpVersionMajor !== 1) return 400
  if (rawHeaders.length > 2 * MAX_FIELDS) return 431
  let hosts = 0
  for (let i = 0; i < rawHeaders.length; i += 2) if (rawHeaders[i]?.length === 4 && rawHeaders[i]?.toLowerCase() === 'host') hosts += 1
  return hosts > 1 ? 400 : undefined
}

/** Says the last words on a connection and ends it soon, whether they are taken or not; nothing more is read. */
export function endWith(socket: Socket, bytes: string): void {
  if (socket.destroyed || !socket.writable) return void socket.destroy()
  socket.pause()
  socket.end(bytes)
  setTimeout(() => socket.destroy(), LINGER_MS).unref()
}
