import { once } from 'node:events'
import net, { type AddressInfo } from 'node:net'
import tls from 'node:tls'

/** The first flight of a real TLS client. */
async function clientHello(servername: string): Promise<Buffer> {
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = tls.connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', servername, rejectUnauthorized: false })
  client.on('error', () => undefined)
  const [socket] = (await once(server, 'connection')) as [net.Socket]
  const [bytes] = (await once(socket, 'data')) as [Buffer]
  client.destroy()
  socket.destroy()
  server.close()
  return bytes
}

const HEAD_BYTES = 5

/** The record of a ClientHello in records of so many bytes each (RFC 8446, section 5.1, lets anybody write it so). */
function inRecordsOf(size: number, hello: Buffer): Buffer {
  const parts: Buffer[] = []
  for (let at = HEAD_BYTES; at < hello.length; at += size) {
    const part = hello.subarray(at, at + size)
    parts.push(Buffer.from([0x16, 3, 1, 0, part.length]), part)
  }
  return Buffer.concat(parts)
}

/** What liars say first to a port that speaks TLS, and then nothing more; none of it completes a handshake. */
export async function tlsLies(): Promise<readonly (readonly [name: string, bytes: Buffer])[]> {
  const hello = await clientHello('relay.example')
  const long = await clientHello(`${'a'.repeat(63)}.${'b'.repeat(63)}.example`)
  const nameless = Buffer.from(hello)
  nameless.fill(0, nameless.indexOf('relay.example'), nameless.indexOf('relay.example') + 'relay.example'.length)
  return [
    ['nothing', Buffer.alloc(0)],
    ['one byte', hello.subarray(0, 1)],
    ['half a ClientHello', hello.subarray(0, hello.length >> 1)],
    ['a ClientHello, and nothing behind the answer to it', hello],
    ['a ClientHello for a name that is nobody\'s', long],
    ['a ClientHello for a name of zeros', nameless],
    // Type handshake, a record of 16 KiB; ClientHello, 131,000 bytes of it, of which a few come.
    ['a ClientHello that says it has 128 KiB', Buffer.concat([Buffer.from('160301400001', 'hex'), Buffer.from([0x01, 0xff, 0xb8]), hello.subarray(HEAD_BYTES + 4, HEAD_BYTES + 60)])],
    ['the same, whole records of it', Buffer.concat([Buffer.from('160301400001', 'hex'), Buffer.from([0x01, 0xff, 0xb8]), Buffer.alloc(16_380)])],
    ['a ClientHello in records of one byte', inRecordsOf(1, hello).subarray(0, -6)],
    ['a record of another type', Buffer.from('170301001000000000000000000000000000000000', 'hex')],
    ['no TLS', Buffer.alloc(600, 0x41)],
  ]
}
