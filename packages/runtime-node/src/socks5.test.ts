import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { afterEach, expect, test } from 'vitest'
import { createSocks5Server } from './socks5.ts'

const open: Server[] = []
afterEach(() => {
  for (const server of open.splice(0)) server.close()
})

async function listen(server: Server): Promise<number> {
  open.push(server)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

async function talk(port: number, pieces: readonly Buffer[], expectBytes: number): Promise<Buffer> {
  const socket = connect(port, '127.0.0.1')
  const seen: Buffer[] = []
  socket.on('data', (bytes) => seen.push(bytes))
  for (const piece of pieces) {
    socket.write(piece)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  while (Buffer.concat(seen).length < expectBytes && !socket.destroyed && !socket.readableEnded) await Promise.race([once(socket, 'data'), once(socket, 'close')])
  socket.destroy()
  return Buffer.concat(seen)
}

const name = (text: string): Buffer => Buffer.from([5, 1, 0, 3, text.length, ...Buffer.from(text), 0, 80])

test('a name is dialled and bytes pass both ways, also when requests come byte by byte', async () => {
  const echo = await listen(createServer((socket) => socket.pipe(socket)))
  const asked: string[] = []
  const port = await listen(
    createSocks5Server(async (host, dialled) => {
      asked.push(`${host}:${dialled}`)
      const socket = connect(echo, '127.0.0.1')
      await once(socket, 'connect')
      return socket
    }),
  )
  const request = Buffer.concat([Buffer.of(5, 1, 0), name('db.mesh')])
  const answer = await talk(port, [...[...request].map((byte) => Buffer.of(byte)), Buffer.from('hello')], 2 + 10 + 5)
  expect(answer.subarray(0, 4)).toEqual(Buffer.of(5, 0, 5, 0))
  expect(answer.subarray(12).toString()).toBe('hello')
  await talk(port, [Buffer.of(5, 1, 0), Buffer.of(5, 1, 0, 1, 100, 64, 0, 1, 1, 187)], 12)
  await talk(port, [Buffer.of(5, 1, 0), Buffer.from([5, 1, 0, 4, 0xfd, 0x7a, ...new Array<number>(13).fill(0), 1, 1, 187])], 12)
  expect(asked).toEqual(['db.mesh:80', '100.64.0.1:443', 'fd7a:0:0:0:0:0:0:1:443'])
})

test.each([['ECONNREFUSED', 5], ['ETIMEDOUT', 6], ['EHOSTUNREACH', 4], ['ENOTFOUND', 4], ['EACCES', 2], ['EOTHER', 1]])('a dial that fails with %s is answered with reply %d', async (code, expected) => {
  const port = await listen(createSocks5Server(() => Promise.reject(Object.assign(new Error(code), { code }))))
  expect((await talk(port, [Buffer.of(5, 1, 0), name('x')], 12))[3]).toBe(expected)
})

test('other commands, other versions, missing methods and endless requests are refused', async () => {
  const port = await listen(createSocks5Server(() => Promise.reject(new Error('never asked'))))
  expect((await talk(port, [Buffer.of(5, 1, 0), Buffer.from([5, 2, 0, 1, 1, 2, 3, 4, 0, 80])], 12))[3]).toBe(7)
  expect((await talk(port, [Buffer.of(5, 1, 0), Buffer.from([5, 1, 0, 9, 1, 2])], 12))[3]).toBe(8)
  expect([...(await talk(port, [Buffer.of(5, 1, 2)], 2))]).toEqual([5, 0xff])
  expect((await talk(port, [Buffer.from('GET / HTTP/1.1\r\n\r\n')], 1)).length).toBe(0)
})

test('a client that has said all and reads slowly gets everything, though the far side has ended in order long before', async () => {
  // The far side speaks until the kernel takes no more, so that its last words wait in this process, and ends then.
  const far = new Duplex({ allowHalfOpen: true, read: () => undefined, write: (_bytes, _encoding, done) => done() })
  const server = createSocks5Server(() => Promise.resolve(far))
  const accepted = once(server, 'connection')
  const port = await listen(server)
  const client = connect({ port, host: '127.0.0.1', allowHalfOpen: true }).pause()
  client.end(Buffer.concat([Buffer.of(5, 1, 0), name('db.mesh')]))
  const [near] = (await accepted) as [Socket] // the only connection
  await once(far, 'resume')
  let said = 0
  for (; near.writableLength < 4_096; said += 1_024) {
    far.push(Buffer.alloc(1_024))
    await new Promise(setImmediate)
  }
  far.push(null)
  await once(far, 'close')
  expect(near.writableLength).toBeGreaterThan(0)
  let bytes = 0
  for await (const piece of client) bytes += (piece as Buffer).length
  expect(bytes).toBe(2 + 10 + said)
})

test('a client that goes before it is answered ends the dial', async () => {
  let dialled: (signal: AbortSignal) => void = () => undefined
  const signal = new Promise<AbortSignal>((resolve) => (dialled = resolve))
  const port = await listen(
    createSocks5Server((_host, _port, given) => {
      dialled(given)
      return new Promise((_resolve, reject) => given.addEventListener('abort', () => reject(new Error('nobody waits'))))
    }),
  )
  const client = connect(port, '127.0.0.1')
  client.write(Buffer.concat([Buffer.of(5, 1, 0), name('db.mesh')]))
  const given = await signal
  expect(given.aborted).toBe(false)
  const aborted = once(given, 'abort')
  client.destroy()
  await aborted
})
