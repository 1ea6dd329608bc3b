import { once } from 'node:events'
import net, { type AddressInfo, type Socket } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { Newcomers, type NewcomerLimits } from './newcomers.ts'

const cleanups: (() => void)[] = []

afterEach(() => {
  for (const cleanup of cleanups.splice(0).reverse()) cleanup()
})

interface Door {
  readonly newcomers: Newcomers
  /** The server's ends, in the order in which they came. */
  readonly accepted: Socket[]
  connect(from?: string, way?: { readonly host?: string; readonly localPort?: number }): Promise<Socket>
}

async function door(limits: NewcomerLimits, shared = false, address = '127.0.0.1'): Promise<Door> {
  const newcomers = new Newcomers(() => shared, limits)
  const accepted: Socket[] = []
  const server = net.createServer((socket) => {
    accepted.push(socket)
    socket.on('error', () => undefined)
    newcomers.add(socket)
  })
  await new Promise<void>((resolve) => server.listen(0, address, resolve))
  cleanups.push(() => {
    newcomers.stop()
    for (const socket of accepted) socket.destroy()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  return {
    newcomers,
    accepted,
    async connect(from = '127.0.0.1', way = {}) {
      const before = accepted.length
      const socket = net.connect({ port, host: '127.0.0.1', localAddress: from, ...way })
      socket.on('error', () => undefined)
      await once(socket, 'connect')
      await expect.poll(() => accepted.length, { timeout: 30_000 }).toBe(before + 1)
      return socket
    },
  }
}

test('the oldest of an address gives way to its newest, and those of other addresses stay', async () => {
  const { newcomers, accepted, connect } = await door({ ofSource: 3 })
  const other = await connect('127.0.0.2')
  const mine = [await connect(), await connect(), await connect()]
  expect(newcomers.figures).toMatchObject({ waiting: 4, evicted: 0 })
  mine.push(await connect(), await connect())
  expect(accepted.map((socket) => socket.destroyed)).toEqual([false, true, true, false, false, false])
  expect(newcomers.figures).toMatchObject({ waiting: 4, evicted: 2 })
  expect(other.destroyed).toBe(false)
})

test('all together are bounded too, and a proxy that stands for many has no limit of its own', async () => {
  const { accepted, connect } = await door({ ofSource: 2, ofAll: 4 }, true)
  for (let i = 0; i < 6; i += 1) await connect()
  expect(accepted.map((socket) => socket.destroyed)).toEqual([true, true, false, false, false, false])
})

test('of all together the oldest of the address with the most gives way, and who has one connection stays', async () => {
  const { accepted, connect } = await door({ ofAll: 4 })
  await connect('127.0.0.2')
  for (const from of ['127.0.0.3', '127.0.0.4', '127.0.0.3', '127.0.0.4', '127.0.0.3', '127.0.0.3', '127.0.0.4']) await connect(from)
  expect(accepted.map((socket) => socket.destroyed)).toEqual([false, true, true, true, false, true, false, false])
})

test('who proved itself is out of reach, and who owes something again is not', async () => {
  const { newcomers, accepted, connect } = await door({ ofSource: 1 })
  await connect()
  const [first] = accepted
  if (first === undefined) throw new Error('nobody came')
  newcomers.remove(first)
  await connect()
  expect(first.destroyed).toBe(false)
  newcomers.add(first) // the newest again
  expect(accepted.map((socket) => socket.destroyed)).toEqual([false, true])
})

test('whose time is over is ended; a stranger who shook hands is timed by somebody else', async () => {
  const { newcomers, accepted, connect } = await door({ patienceMs: 5_000 }) // longer than a busy computer takes for what comes before
  await connect()
  const [stranger] = accepted
  if (stranger === undefined) throw new Error('nobody came')
  newcomers.addStranger(stranger)
  await connect()
  const [, silent] = accepted
  if (silent === undefined) throw new Error('nobody came')
  await expect.poll(() => silent.destroyed, { timeout: 30_000 }).toBe(true)
  expect([stranger.destroyed, newcomers.figures]).toEqual([false, { waiting: 1, evicted: 0, overdue: 1 }])
})

test('connections from one port to two addresses of the server are two, also when one of them ends', async () => {
  const { newcomers, accepted, connect } = await door({ ofSource: 2 }, false, '0.0.0.0')
  const first = await connect()
  await connect('127.0.0.1', { host: '127.0.0.2', localPort: first.localPort ?? 0 })
  expect(newcomers.figures.waiting).toBe(2)
  const closed = new Promise((resolve) => accepted[0]?.once('close', resolve))
  first.destroy()
  await closed
  expect(newcomers.figures.waiting).toBe(1)
})

test('connections that end by themselves are forgotten', async () => {
  const { newcomers, connect } = await door({})
  const sockets = await Promise.all([connect()])
  for (const socket of sockets) socket.destroy()
  await expect.poll(() => newcomers.figures.waiting, { timeout: 30_000 }).toBe(0)
})
